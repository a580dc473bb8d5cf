"""Zones of physical memory: their sizes, watermarks and reserves, and their free blocks as text.

Frame numbers of the simulation say in which order frames are handed out, and the kernel hands out
the highest zone first: so the highest zone holds the first frames.

Sources: ``mm/page_alloc.c`` and ``include/linux/mmzone.h`` of Linux 2.6.11, 2.6.18 and 6.12,
``mm/vmstat.c`` (buddyinfo, zoneinfo), and the files of a running 6.18.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pyalloc.kernel.paging import PagingRules, min_free_kbytes
from pyalloc.kernel.proctext import ProcText
from pyalloc.kernel.profiles import KernelProfile
from pyalloc.units import PAGE

ORDERS: Final = 11
"""Blocks of 4 kB to 4 MB."""
_DMA: Final = 16 << 8
_DMA32: Final = 4096 << 8
_END: Final = 1 << 52
_RATIOS: Final = {"DMA": 256, "DMA32": 256, "Normal": 32}
"""lowmem_reserve_ratio: what a zone keeps is a share of the zones above it."""


@dataclass(frozen=True, slots=True)
class Zone:
    """One zone; everything in pages.

    ``first`` is its first frame of the simulation, ``managed`` what the kernel itself does not
    hold of it, ``reserve`` what an allocation for each higher zone must leave here.
    """

    name: str
    pages: int
    managed: int
    first: int
    least: int
    low: int
    high: int
    reserve: tuple[int, ...]

    @property
    def kept(self) -> int:
        """What of it allocations for users never get (its part of totalreserve_pages)."""
        return min(self.managed, max(self.reserve, default=0) + self.high)


def _borders(profile: KernelProfile) -> list[tuple[str, int]]:
    """Return the names of the zones and where they end, in pages."""
    dma = ("DMA", _DMA)
    if profile.word == 8:
        low = [dma, *([("DMA32", _DMA32)] if profile.name != "2.6.11" else [])]
        rest = [("Normal", _END)]
    else:
        low = [dma, *([("DMA32", _DMA)] if profile.name == "2.6.18" else [])]
        rest = [("Normal", profile.low_memory // PAGE), ("HighMem", _END)]
    return [*low, *rest, *([("Movable", _END), ("Device", _END)] if profile.modern else [])]


def _sizes(profile: KernelProfile, frames: int) -> list[int]:
    borders = _borders(profile)
    starts = [0, *(end for _, end in borders)]
    return [
        max(min(frames, end) - start, 0) for start, (_, end) in zip(starts, borders, strict=False)
    ]


def low_pages(profile: KernelProfile, frames: int) -> int:
    """Return how many of ``frames`` pages are not high memory."""
    sizes = zip(_sizes(profile, frames), _borders(profile), strict=True)
    return sum(pages for pages, (name, _) in sizes if name != "HighMem")


def zones(
    profile: KernelProfile,
    rules: PagingRules,
    frames: int,
    reserved: int = 0,
    min_free: int | None = None,
    scale: int = 10,
) -> tuple[Zone, ...]:
    """Return the zones of a machine of ``frames`` pages, lowest first; some may be empty.

    ``reserved`` pages belong to the kernel, and lie in the largest zone.  ``min_free`` is
    ``vm.min_free_kbytes``, by default that of the boot, and ``scale``
    ``vm.watermark_scale_factor``.

    >>> from pyalloc.kernel.paging import PAGING
    >>> from pyalloc.kernel.profiles import kernel_profile
    >>> box = zones(kernel_profile("2.6.18", "i386"), PAGING["2.6.18"], 65520)
    >>> [(zone.name, zone.least, zone.low, zone.high) for zone in box if zone.pages]
    [('DMA', 31, 38, 46), ('Normal', 479, 598, 718)]
    >>> total_reserve(box)
    1003
    """
    sizes = _sizes(profile, frames)
    managed = list(sizes)
    managed[sizes.index(max(sizes))] -= reserved
    return zones_of(profile, rules, sizes, managed, min_free, scale)


def zones_of(
    profile: KernelProfile,
    rules: PagingRules,
    sizes: Sequence[int],
    managed: Sequence[int],
    min_free: int | None = None,
    scale: int = 10,
) -> tuple[Zone, ...]:
    """Return the zones of these sizes, lowest first; see :func:`zones`."""
    names = [name for name, _ in _borders(profile)]
    counted = managed if profile.modern else sizes
    lowmem = sum(n for n, name in zip(counted, names, strict=True) if name != "HighMem")
    if min_free is None:
        min_free = min_free_kbytes(lowmem, rules)
    made = []
    for i, name in enumerate(names):
        share = least = min_free // 4 * counted[i] // max(lowmem, 1)
        if name in ("HighMem", "Movable"):
            least = min(max(counted[i] // 1024, 32), 128)
        share = least if profile.name == "2.6.11" else share
        near, far = _steps(share, counted[i], rules, scale)
        reserve = tuple(_reserve(counted, i, asked, profile) for asked in range(len(names)))
        marks = (least, least + near, least + far)
        made.append(Zone(name, sizes[i], managed[i], sum(sizes[i + 1 :]), *marks, reserve))
    return tuple(made)


def _steps(least: int, pages: int, rules: PagingRules, scale: int) -> tuple[int, int]:
    """Return what the low and the high watermark add to the minimum."""
    if rules.scaled:
        step = max(least // 4, pages * scale // 10000)
        return step, 2 * step
    return least * rules.low_share[0] // 4, least * rules.low_share[1] // 4


def _reserve(pages: Sequence[int], zone: int, asked: int, profile: KernelProfile) -> int:
    """Return what zone ``zone`` keeps from allocations that may use zone ``asked``."""
    name = _borders(profile)[zone][0]
    ratio = _RATIOS.get(name, 0)
    above = sum(pages[zone + 1 : asked + 1])
    return above // ratio if ratio and pages[zone] and asked > zone else 0


def total_reserve(of: Sequence[Zone]) -> int:
    """Return ``totalreserve_pages``: what no allocation for users ever gets."""
    return sum(zone.kept for zone in of)


def buddyinfo(of: Sequence[Zone], blocks: Sequence[Sequence[int]]) -> ProcText[list[int]]:
    """Return ``/proc/buddyinfo``: of each zone the free blocks of each order."""
    rows = {zone.name: list(counts) for zone, counts in zip(of, blocks, strict=True) if zone.pages}
    text = "".join(
        f"Node 0, zone {name:>8} " + "".join(f"{count:6d} " for count in counts) + "\n"
        for name, counts in rows.items()
    )
    return ProcText(text, rows)


@dataclass(frozen=True, slots=True)
class ZoneStats:
    """What zoneinfo of 6.x tells beside free pages: of the node, and of each zone, in pages."""

    node: Mapping[str, int]
    zones: Sequence[Mapping[str, int]]


def zoneinfo(
    of: Sequence[Zone], free: Sequence[int], stats: ZoneStats | None = None
) -> ProcText[dict[str, int]]:
    """Return the lines of ``/proc/zoneinfo`` about pages and watermarks; ``stats`` if it is 6.x's.

    What each processor keeps for itself (``pagesets``) is left out.
    """
    rows: dict[str, dict[str, int]] = {}
    lines: list[str] = []
    for number, (zone, pages) in enumerate(zip(of, free, strict=True)):
        rows[zone.name] = fields = _zone_fields(zone, pages, modern=stats is not None)
        lines.append(f"Node 0, zone {zone.name:>8}")
        if stats and zone.managed and not any(z.managed for z in of[:number]):
            lines += ["  per-node stats", *_stat_lines(stats.node)]
        (name, first), *rest = fields.items()
        lines.append(f"  pages {name} {first:>{9 - len(name) + len(str(first)) - 1}}")
        lines += [f"        {name:<8} {value}" for name, value in rest]
        protected = ", ".join(map(str, zone.reserve))
        lines.append(f"        protection: ({protected})")
        if stats and zone.managed:
            lines += _stat_lines(stats.zones[number])
            fields |= stats.zones[number]
            first_frame = max(sum(z.pages for z in of[:number]), 1)
            lines += ["  node_unreclaimable:  0", f"  start_pfn:           {first_frame}"]
    return ProcText("".join(line + "\n" for line in lines), rows)


def _zone_fields(zone: Zone, pages: int, *, modern: bool) -> dict[str, int]:
    marks = {"min": zone.least, "low": zone.low, "high": zone.high}
    size = {"spanned": zone.pages, "present": zone.pages}
    if not modern:
        return {"free": pages, **marks, **size}
    marks["promo"] = zone.high + (zone.high - zone.low)
    return {"free": pages, "boost": 0, **marks, **size, "managed": zone.managed, "cma": 0}


def _stat_lines(stats: Mapping[str, int]) -> list[str]:
    return [f"      {name:<12} {value}" for name, value in stats.items()]
