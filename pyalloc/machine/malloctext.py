"""What malloc_stats() prints and what malloc_info() writes, in the words of each generation.

The figures are those of ``int_mallinfo``, ``__malloc_stats`` and ``__malloc_info`` of glibc's
malloc.c; what changed in the text over the years is said where it is formed.  Both say more, or
less, than is true in places, and so does this.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pyalloc.engine import ArenaView, HeapStatistics, MallInfo
from pyalloc.machine.chunks import ChunkState

_FAST, _UNSORTED = ChunkState.FAST, ChunkState.UNSORTED


@dataclass(frozen=True, slots=True)
class Readings:
    """What both texts are made of.

    ``version`` is the generation's as one number (236 for 2.36, 203 for 2.3.3), ``word`` the bytes
    of a pointer, ``align`` those of MALLOC_ALIGNMENT.  ``arenas`` and ``infos`` are in the order in
    which the library goes through its arenas; ``lists`` are the free chunks, list by list.
    """

    version: int
    word: int
    align: int
    arenas: Sequence[ArenaView]
    infos: Sequence[MallInfo]
    statistics: HeapStatistics
    lists: npt.NDArray[np.void]


# --- malloc_stats


def malloc_stats(r: Readings) -> str:
    """Return what ``malloc_stats()`` prints on stderr; sums are unsigned ints and wrap around."""
    mapped = r.infos[0].hblkhd
    lines: list[str] = []
    system = in_use = mapped
    for number, info in enumerate(r.infos):
        lines += [f"Arena {number}:", *_in_use(info.arena, info.uordblks)]
        system += info.arena
        in_use += info.uordblks
    s = r.statistics
    most = s.bytes_mapped_peak & (1 << 8 * r.word) - 1
    lines += ["Total (incl. mmap):", *_in_use(system, in_use)]
    lines += [f"max mmap regions = {s.count_mapped_peak:>10}", f"max mmap bytes   = {most:>10}"]
    return "\n".join(lines) + "\n"


def _in_use(system: int, in_use: int) -> tuple[str, str]:
    unsigned = 0xFFFFFFFF
    return (
        f"system bytes     = {system & unsigned:>10}",
        f"in use bytes     = {in_use & unsigned:>10}",
    )


# --- malloc_info


@dataclass(slots=True)
class _Sizes:
    """One line of sizes: chunks of one list."""

    start: int = 0
    end: int = 0
    total: int = 0
    count: int = 0

    def line(self, tag: str) -> str:
        return (
            f'{tag} from="{self.start}" to="{self.end}" total="{self.total}" count="{self.count}"/>'
        )


@dataclass(slots=True)
class _Totals:
    fast: int = 0
    fast_bytes: int = 0
    rest: int = 0
    rest_bytes: int = 0
    system: int = 0
    system_peak: int = 0
    space: int = 0
    writable: int = 0
    left_over: _Sizes = field(default_factory=_Sizes)


def malloc_info(r: Readings) -> str:
    """Return the XML that ``malloc_info(0, stream)`` writes (2.10 and later)."""
    totals = _Totals()
    lines = ['<malloc version="1">']
    for number, arena in enumerate(r.arenas):
        lines += _heap(r, number, arena, totals)
    lines += _counts(r, totals.fast, totals.fast_bytes, totals.rest, totals.rest_bytes)
    if r.version >= 220:
        lines.append(
            f'<total type="mmap" count="{r.statistics.count_mapped}" size="{r.infos[0].hblkhd}"/>'
        )
    lines += _system(totals.system, totals.system_peak)
    lines += _space(totals.space, totals.writable)
    return "\n".join([*lines, "</malloc>"]) + "\n"


def _counts(r: Readings, fast: int, fast_bytes: int, rest: int, rest_bytes: int) -> Iterator[str]:
    if r.version < 243:
        yield f'<total type="fast" count="{fast}" size="{fast_bytes}"/>'
    yield f'<total type="rest" count="{rest}" size="{rest_bytes}"/>'


def _system(current: int, most: int) -> tuple[str, str]:
    return f'<system type="current" size="{current}"/>', f'<system type="max" size="{most}"/>'


def _space(total: int, writable: int) -> tuple[str, str]:
    return (
        f'<aspace type="total" size="{total}"/>',
        f'<aspace type="mprotect" size="{writable}"/>',
    )


def _heap(r: Readings, number: int, arena: ArenaView, totals: _Totals) -> Iterator[str]:
    fast, unsorted, bins = _lists(r, arena, totals)
    fast_count, fast_bytes = sum(s.count for s in fast), sum(s.total for s in fast)
    rest = [unsorted, *bins]
    count, size = sum(s.count for s in rest), sum(s.total for s in rest)
    if r.version >= 231:  # the top is a free chunk, too, and always there
        count, size = count + 1, size + arena.bytes_top
    yield from (f'<heap nr="{number}">', "<sizes>")
    for sizes in (*fast, *bins):
        yield sizes.line(_size_tag(r.version))
    if unsorted.count:
        yield unsorted.line("  <unsorted" if r.version >= 220 else "<unsorted")
    yield "</sizes>"
    yield from _counts(r, fast_count, fast_bytes, count, size)
    yield from _system(arena.bytes_system, arena.bytes_system_peak)
    space, writable = _spaces(r.version, arena)
    yield from _space(space, writable)
    if arena.count_heaps and r.version >= 227:
        yield f'<aspace type="subheaps" size="{arena.count_heaps}"/>'
    yield "</heap>"
    totals.fast += fast_count
    totals.fast_bytes += fast_bytes
    totals.rest += count
    totals.rest_bytes += size
    totals.system += arena.bytes_system
    totals.system_peak += arena.bytes_system_peak
    totals.space += space
    totals.writable += writable


def _size_tag(version: int) -> str:
    """Return how a line of sizes begins; up to 2.30 the source's own indentation got into it."""
    if version >= 231:
        return "  <size"
    if version < 219:
        return "<size"
    return "\t\t\t\t\t\t\t      " + ("  <size" if version >= 220 else "<size")


def _spaces(version: int, arena: ArenaView) -> tuple[int, int]:
    """Return address space in use and accessible; up to 2.26 of an arena's newest heap only."""
    if not arena.count_heaps:
        return arena.bytes_system, arena.bytes_system
    if version >= 227:
        return arena.bytes_heaps, arena.bytes_writable
    return arena.bytes_newest, arena.bytes_newest_writable


def _lists(
    r: Readings, arena: ArenaView, totals: _Totals
) -> tuple[list[_Sizes], _Sizes, list[_Sizes]]:
    """Return the fastbins, the unsorted list and the other bins that are not empty."""
    rows = r.lists[(r.lists["arena"] == arena.index) & (r.lists["state"] != ChunkState.TCACHE)]
    fast, bins = [], []
    unsorted = totals.left_over if r.version < 219 else _Sizes()
    for members in _runs(rows):
        state = members["state"][0]
        if state == _FAST:
            fast.append(_fast_sizes(r, members))
        elif state == _UNSORTED:
            unsorted = _unsorted_sizes(r, members, totals)
        else:
            bins.append(_bin_sizes(members))
    return fast, unsorted, bins


def _runs(rows: npt.NDArray[np.void]) -> Iterator[npt.NDArray[np.void]]:
    """Yield the members of each list."""
    if len(rows):
        cut = (rows["state"][1:] != rows["state"][:-1]) | (rows["bin"][1:] != rows["bin"][:-1])
        yield from np.split(rows, np.flatnonzero(cut) + 1)


def _fast_sizes(r: Readings, members: npt.NDArray[np.void]) -> _Sizes:
    size = int(members["size"][0])
    return _Sizes(size - (r.align - 1), size, size * len(members), len(members))


def _bin_sizes(members: npt.NDArray[np.void]) -> _Sizes:
    """Sum the size fields as they are, flags included."""
    sizes = members["size"] + members["flags"]
    return _Sizes(int(sizes.min()), int(sizes.max()), int(sizes.sum()), len(members))


def _unsorted_sizes(r: Readings, members: npt.NDArray[np.void], totals: _Totals) -> _Sizes:
    """Sum the unsorted list.

    Up to 2.18 the variables that it is summed in are never cleared: they begin with what is on the
    stack, taken to be zeros here, and go on from arena to arena.
    """
    found = _bin_sizes(members)
    if r.version >= 219:
        return found
    old = totals.left_over
    totals.left_over = _Sizes(
        min(old.start, found.start),
        max(old.end, found.end),
        old.total + found.total,
        old.count + found.count,
    )
    return totals.left_over
