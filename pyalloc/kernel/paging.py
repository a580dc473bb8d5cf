"""How a kernel generation handles pages: watermarks, page tables, faults, reclaim.

Sources: ``mm/page_alloc.c``, ``mm/memory.c`` and ``mm/vmscan.c`` of Linux 2.6.11, 2.6.18 and 6.12;
page tables freed by MADV_DONTNEED since 6.14.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class PagingRules:
    """The rules of one generation.

    ``rules`` names how reclaim behaves (see :data:`pyalloc.engine.RULES`); ``fault_around`` is the
    window of a read fault on a file, in pages; ``most_min_free`` bounds min_free_kbytes.
    """

    rules: frozenset[str]
    fault_around: int
    most_min_free: int
    low_share: tuple[int, int]
    """What the low and the high watermark add to the minimum, in quarters of it."""
    scaled: bool = False
    """The steps are at least 0.1 % of memory (watermark_scale_factor)."""
    counts_by_cpu: bool = False
    """Each processor counts a process's pages for itself, a batch at a time (since 6.2)."""
    huge_pages: bool = False
    """Transparent huge pages exist, where madvise(2) asks for them (the default of 6.x)."""
    kernel_stack: int = 4
    """Pages of a thread's stack in the kernel."""
    program_pages: int = 5
    """Pages the kernel keeps for a program beside stack and page tables: the top of its page
    tables, descriptors of itself and its areas (measured in memory cgroups: kmem less tables)."""
    read_ahead: int = 1 << 20
    """Bytes read ahead of a file at most."""
    read_ahead_still: int | None = None
    """The same for a disk that does not rotate, if that makes a difference."""
    disk: str = "hdd"
    """What swap and files are on, unless one says so (see :mod:`pyalloc.kernel.costs`)."""

    def window(self, *, rotates: bool) -> int:
        """Return the bytes that are read ahead of a file at most."""
        still = None if rotates else self.read_ahead_still
        return self.read_ahead if still is None else still


@dataclass(frozen=True, slots=True)
class Watermarks:
    """Free pages at which reclaim must run, is woken, and stops."""

    least: int
    low: int
    high: int


_MODERN: Final = frozenset(
    {
        "second_look",
        "exclusive",
        "moves_tables",
        "workingset",
        "zero_map",
        "flusher",
        "recency",
        "swap_ahead",
        "accounts_nodes",
    }
)

PAGING: Final[Mapping[str, PagingRules]] = {
    "2.6.11": PagingRules(
        frozenset({"new_anon_active", "reclaim_mapped", "moves_used"}),
        1,
        65536,
        (1, 2),
        kernel_stack=2,
        program_pages=2,
        read_ahead=128 << 10,
    ),
    "2.6.18": PagingRules(
        frozenset({"new_anon_active", "reclaim_mapped", "zero_is_file"}),
        1,
        65536,
        (1, 2),
        kernel_stack=2,
        program_pages=2,
        read_ahead=128 << 10,
    ),
    "6.12": PagingRules(
        _MODERN, 16, 262144, (1, 2), scaled=True, huge_pages=True, counts_by_cpu=True, disk="ssd"
    ),
    "6.18": PagingRules(
        _MODERN | {"frees_discarded", "large_folios", "fills_holes"},
        16,
        262144,
        (1, 2),
        scaled=True,
        huge_pages=True,
        counts_by_cpu=True,
        read_ahead=8 << 20,
        read_ahead_still=128 << 10,
        disk="virtio",
    ),
}


def min_free_kbytes(pages: int, rules: PagingRules) -> int:
    """Return ``vm.min_free_kbytes`` after the boot, for ``pages`` that are not high memory.

    >>> min_free_kbytes(65520, PAGING["2.6.18"])
    2047
    """
    return min(max(math.isqrt(pages * 4 * 16), 128), rules.most_min_free)


def watermarks(
    pages: int, rules: PagingRules, min_free: int | None = None, scale: int = 10
) -> Watermarks:
    """Return the watermarks of a machine whose ``pages`` are one zone.

    ``min_free`` is ``vm.min_free_kbytes``, by default that of the boot, and ``scale``
    ``vm.watermark_scale_factor``.

    >>> watermarks(63986, PAGING["6.12"])
    Watermarks(least=505, low=631, high=757)
    """
    if min_free is None:
        min_free = min_free_kbytes(pages, rules)
    least = min(min_free // 4, pages // 4)
    steps = [least * share // 4 for share in rules.low_share]
    if rules.scaled:
        step = max(least // 4, pages * scale // 10000)
        steps = [step, 2 * step]
    return Watermarks(least, least + steps[0], least + steps[1])
