"""Fragmentation in figures: where memory sits, and every measure that the field knows.

P is what the program holds (requested and not given back), A what the allocator has from the kernel
(heaps and mapped chunks); time is bytes allocated.  ``docs/metrics.md`` defines each measure and
says where it comes from.  The engine counts while it runs the calls; nothing here looks at a call.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from pyalloc.units import PAGE

if TYPE_CHECKING:
    from pyalloc.engine import HeapStatistics, Layout, ReplayRun

TENTHS: Final = ("0", "10", "20", "30", "40", "50", "60", "70", "80", "90", "100")
"""Upper ends of the classes of :attr:`ReplaySummary.occupancy`, in percent of a page."""


@dataclass(frozen=True, slots=True)
class Breakdown:
    """Where the memory is at one moment; bytes.

    ``held`` is what the allocator has from the kernel.  It is the sum of what the program
    ``requested``, ``header`` (the size fields of its blocks), ``alignment`` (what rounding adds to
    them, and what else is neither free nor anybody's: fences, memory the program took from the
    break itself), ``own`` (the library's: caches, arenas, heads of thread heaps), the free chunks
    by where they are kept, and ``top``, the free ends of heaps.  ``untouched`` of it is neither in
    memory nor in swap.  ``calls`` is how many had been made.
    """

    calls: int
    requested: int
    held: int
    header: int
    alignment: int
    own: int
    tcache: int
    fast: int
    unsorted: int
    small: int
    large: int
    top: int
    untouched: int

    @property
    def free(self) -> int:
        """Bytes in free chunks, top included."""
        return self.tcache + self.fast + self.unsorted + self.small + self.large + self.top

    @property
    def overhead(self) -> int:
        """Bytes that are in use and that nobody asked for."""
        return self.header + self.alignment + self.own

    @property
    def resident(self) -> int:
        """Bytes of ``held`` that are in memory or in swap."""
        return self.held - self.untouched

    def to_dict(self) -> dict[str, int]:
        """Return every figure by its name."""
        return {f.name: getattr(self, f.name) for f in fields(self)} | {"overhead": self.overhead}


def breakdown(
    heap: HeapStatistics, *, calls: int, requested: int, blocks: int, pages: int
) -> Breakdown:
    """Return where the bytes of ``heap`` are.

    ``blocks`` are allocated, ``pages`` of the heap are in memory or in swap.
    """
    held = heap.bytes_system + heap.bytes_mapped
    mapped = min(heap.count_mapped, blocks)
    header = (blocks - mapped) * heap.bytes_header + mapped * heap.bytes_header_mapped
    free = {
        "tcache": heap.bytes_tcache,
        "fast": heap.bytes_fast,
        "unsorted": heap.bytes_unsorted,
        "small": heap.bytes_small,
        "large": heap.bytes_large,
        "top": heap.bytes_top,
    }
    rest = held - requested - header - heap.bytes_own - sum(free.values())
    return Breakdown(
        calls=calls,
        requested=requested,
        held=held,
        header=header,
        alignment=rest,
        own=heap.bytes_own,
        untouched=max(held - pages * PAGE, 0),
        **free,
    )


@dataclass(frozen=True, slots=True)
class ReplaySummary:
    """A replay in numbers; bytes unless the name says otherwise.

    Measures of fragmentation, each defined in ``docs/metrics.md``; those in percent say how much
    more than needed is held, 0 is perfect:

    ``jw1`` to ``jw4``
        Percent: Johnstone and Wilson (ISMM 1998).  The mean of A/P over bytes allocated; A/P when
        P is highest; A/P when A is highest; highest A over highest P.
    ``jw3_net``
        Percent: ``jw3`` without headers, alignment and what the library has for itself.
    ``bohra``
        Percent: 100 (A/P - 1) at the end (Bohra and Gabber, Freenix 2001).
    ``realized``
        Percent: 100 (R/P - 1) when P is highest, R the part of A in memory or swap (after Maas et
        al., ISMM 2021).
    ``utilization``
        Highest P over highest A (Bryant and O'Hallaron, CS:APP).
    ``blowup``
        Highest A over what an ideal serial allocator needs, the highest P (Berger et al., ASPLOS
        2000).
    ``hole_index``
        Part of the free bytes at the end that is not in the largest hole.
    ``sawicki``
        1 - sum(free^2) / (sum free)^2 over the free chunks at the end (Sawicki 2022).
    ``occupancy``
        Pages held at the end, by how much of each is in use: nothing, up to 10 %, ... up to 100 %.
    ``pinned_pages``
        Pages that a tenth of their bytes, or less, keeps in the heap.
    ``trim_gain``, ``trim_held``
        What ``malloc_trim(0)`` at the end would give back: resident bytes, and bytes of A.

    ``at_peak`` and ``at_end`` say where the bytes are when A is highest, and at the end.  A measure
    that is not defined for a run is None, and ``undefined`` has the reason under its name.
    """

    calls: int
    failed: int
    blocks: int
    peak_blocks: int
    allocated: int
    requested: int
    peak_requested: int
    peak_requested_row: int
    held: int
    peak_held: int
    peak_held_row: int
    heap: int
    mapped: int
    free_tcache: int
    free_fast: int
    free_unsorted: int
    free_small: int
    free_large: int
    top: int
    free: int
    largest_hole: int
    brk_calls: int
    mmap_calls: int
    arenas: int
    rss: int
    peak_rss: int
    swap: int
    minor_faults: int
    major_faults: int
    page_tables: int
    jw1: float | None
    jw2: float | None
    jw3: float | None
    jw3_net: float | None
    jw4: float | None
    bohra: float | None
    realized: float | None
    utilization: float | None
    blowup: float | None
    hole_index: float | None
    sawicki: float | None
    occupancy: tuple[int, ...] | None
    pinned_pages: int | None
    trim_gain: int | None
    trim_held: int | None
    at_peak: Breakdown
    at_end: Breakdown
    undefined: Mapping[str, str] = field(hash=False)

    def __reduce__(self) -> tuple[Callable[..., ReplaySummary], tuple[Any, ...]]:
        """Travel to another process: a mapping proxy does not."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return _summary_from, (values | {"undefined": dict(self.undefined)},)

    def to_dict(self) -> dict[str, Any]:
        """Return every figure by its name, as JSON values."""
        found: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        found["occupancy"] = None if self.occupancy is None else list(self.occupancy)
        found["undefined"] = dict(self.undefined)
        return found | {name: found[name].to_dict() for name in ("at_peak", "at_end")}

    def flat(self) -> dict[str, int | float | None]:
        """Return every single figure under a name of its own, for a row of a table."""
        found: dict[str, Any] = dict(zip(_SINGLE, _read_single(self), strict=True))
        found.update(zip(_PAGES, self.occupancy or _NO_PAGES, strict=True))
        found.update(zip(_AT_PEAK, _read_part(self.at_peak), strict=True))
        found.update(zip(_AT_END, _read_part(self.at_end), strict=True))
        return found


def _summary_from(values: dict[str, Any]) -> ReplaySummary:
    return ReplaySummary(**values | {"undefined": MappingProxyType(values["undefined"])})


_PART: Final = (*(f.name for f in fields(Breakdown)), "overhead")
_SINGLE: Final = tuple(
    f.name
    for f in fields(ReplaySummary)
    if f.name not in {"occupancy", "at_peak", "at_end", "undefined"}
)
_PAGES: Final = tuple(f"pages_to_{end}" for end in TENTHS)
_NO_PAGES: Final = (None,) * len(TENTHS)
_AT_PEAK: Final = tuple(f"at_peak_{name}" for name in _PART)
_AT_END: Final = tuple(f"at_end_{name}" for name in _PART)
_read_single = operator.attrgetter(*_SINGLE)
_read_part = operator.attrgetter(*_PART)

FIGURES: Final[dict[str, type]] = {
    **{
        f.name: float if "float" in str(f.type) else int
        for f in fields(ReplaySummary)
        if f.name in _SINGLE
    },
    **dict.fromkeys((*_PAGES, *_AT_PEAK, *_AT_END), int),
}
"""The names of :meth:`ReplaySummary.flat` and the types of the figures."""

IN_BYTES: Final = frozenset(
    name
    for name, kind in FIGURES.items()
    if kind is int
    and not name.endswith(("calls", "blocks", "_row", "_faults", "_pages"))
    and not name.startswith("pages_")
    and name not in {"failed", "arenas"}
)
"""Those that are bytes; the others are counts, or measures."""


class Measures:
    """Measures under way: values by name, and why the others have none."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.undefined: dict[str, str] = {}

    def ratio(self, name: str, above: float, below: float, reason: str) -> None:
        """Set a measure to a ratio, or say why it is none."""
        self.set(name, above / below if below else None, reason)

    def percent(self, name: str, above: float, below: float, reason: str) -> None:
        """Set a measure to percent above 100, or say why it is none."""
        self.set(name, 100.0 * (above / below - 1) if below else None, reason)

    def set(self, name: str, value: Any, reason: str) -> None:  # noqa: ANN401
        """Set a measure; a value of None has a reason."""
        self.values[name] = value
        if value is None:
            self.undefined[name] = reason

    def frozen(self) -> dict[str, Any]:
        """Return the fields of the summary."""
        return {**self.values, "undefined": MappingProxyType(self.undefined)}


_NOTHING: Final = "nothing was requested"


def run_measures(
    m: Measures, t: Mapping[str, int], ratio_sum: float, peak: Breakdown, held_now: int
) -> None:
    """Add what the running totals of a replay say."""
    m.percent("jw1", ratio_sum, t["allocated"], _NOTHING)
    m.percent("jw2", t["held_at_requested_peak"], t["requested_peak"], _NOTHING)
    none_then = "nothing was allocated when most was held"
    m.percent("jw3", t["held_peak"], t["requested_at_held_peak"], none_then)
    m.percent("jw3_net", t["held_peak"] - peak.overhead, t["requested_at_held_peak"], none_then)
    m.percent("jw4", t["held_peak"], t["requested_peak"], _NOTHING)
    m.percent("bohra", held_now, t["requested"], "nothing is allocated at the end")
    m.ratio("utilization", t["requested_peak"], t["held_peak"], "nothing was held")
    m.ratio("blowup", t["held_peak"], t["requested_peak"], _NOTHING)


def realized_measure(m: Measures, t: Mapping[str, int], other_pages: int, touch: str) -> None:
    """Add realized fragmentation, which needs to know what the program wrote."""
    if touch == "none":
        m.set("realized", None, 'what the program writes is not modelled (touch="none")')
        return
    backed = max(t["pages_at_requested_peak"] - other_pages, 0) * PAGE
    m.percent("realized", backed, t["requested_peak"], _NOTHING)


def layout_measures(m: Measures, layout: Layout | None, reason: str) -> None:
    """Add what a look at the whole heap says; without one, ``reason`` is why."""
    if layout is None:
        for name in _OF_LAYOUT:
            m.set(name, None, reason)
        return
    full, largest = layout.bytes_free, layout.bytes_largest_free
    m.set("hole_index", 1 - largest / full if full else None, "no memory is free")
    m.set("sawicki", 1 - layout.squares_free / full**2 if full else None, "no memory is free")
    m.set("occupancy", layout.pages_by_tenth, "")
    m.set("pinned_pages", layout.pages_by_tenth[1], "")
    m.set("trim_gain", layout.pages_trimmed * PAGE, "")
    m.set("trim_held", layout.bytes_trimmed, "")


_OF_LAYOUT: Final = (
    "hole_index",
    "sawicki",
    "occupancy",
    "pinned_pages",
    "trim_gain",
    "trim_held",
)


def summarise(
    run: ReplayRun,
    pages: Mapping[str, int],
    before: Mapping[str, int],
    *,
    touch: str,
    ended: str = "",
) -> ReplaySummary:
    """Return the summary of a replay that has come to its end.

    ``pages`` and ``before`` are the process's page counters, last and before the first call;
    ``ended`` says why the process is no more, if it is no more.
    """
    t, heap = run.totals(), run.heap
    now = heap.statistics()
    layout = None if ended else heap.layout()
    backed = layout.pages_backed if layout else 0
    anonymous = before if ended else pages
    other = anonymous["anon"] + anonymous["swap"] - backed
    left: Mapping[str, int] = Counter() if ended else pages
    at_end = breakdown(
        now, calls=t["calls"], requested=t["requested"], blocks=t["blocks"], pages=backed
    )
    most, blocks, peak_pages = run.peak()
    at_peak = breakdown(
        most,
        calls=min(t["held_peak_row"] + 1, t["calls"]),
        requested=t["requested_at_held_peak"],
        blocks=blocks,
        pages=max(peak_pages - other, 0),
    )
    measures = Measures()
    run_measures(measures, t, run.ratio_sum, at_peak, at_end.held)
    realized_measure(measures, t, other, touch)
    layout_measures(measures, layout, ended)
    return ReplaySummary(
        calls=t["calls"],
        failed=t["failed"],
        blocks=t["blocks"],
        peak_blocks=t["blocks_peak"],
        allocated=t["allocated"],
        requested=t["requested"],
        peak_requested=t["requested_peak"],
        peak_requested_row=t["requested_peak_row"],
        held=at_end.held,
        peak_held=t["held_peak"],
        peak_held_row=t["held_peak_row"],
        heap=now.bytes_system,
        mapped=now.bytes_mapped,
        free_tcache=now.bytes_tcache,
        free_fast=now.bytes_fast,
        free_unsorted=now.bytes_unsorted,
        free_small=now.bytes_small,
        free_large=now.bytes_large,
        top=now.bytes_top,
        free=at_end.free,
        largest_hole=layout.bytes_largest_free if layout else now.bytes_largest_hole,
        brk_calls=now.count_brk_calls,
        mmap_calls=now.count_mmap_calls,
        arenas=now.count_arenas,
        rss=(left["anon"] + left["file"] + left["shmem"]) * PAGE,
        peak_rss=pages["resident_peak"] * PAGE,
        swap=left["swap"] * PAGE,
        minor_faults=pages["minor_faults"] - before["minor_faults"],
        major_faults=pages["major_faults"] - before["major_faults"],
        page_tables=left["tables"] * PAGE,
        at_peak=at_peak,
        at_end=at_end,
        **measures.frozen(),
    )
