"""Who holds what: the chunks of a heap at one moment, and which of them keep free memory there.

Two things keep free memory from going back to the kernel.  An arena shrinks only from its end, so
the highest chunk in use pins everything free below it (the *top pin*).  And memory goes by whole
pages, so one live byte pins its page (``malloc_trim`` cannot take it either).  A chunk in a tcache
or a fastbin counts as in use for both.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Final

import numpy as np
import numpy.typing as npt

from pyalloc import engine
from pyalloc.machine.chunks import Chunks, ChunkState, KnownBlocks
from pyalloc.trace import NULL_BLOCK, Op, Trace
from pyalloc.units import PAGE

I64 = npt.NDArray[np.int64]

TCACHE: Final = -1
FAST: Final = -2
LIBRARY: Final = -3
"""Holders that are no call site: freed chunks in a tcache or fastbin, the library's own memory."""

_GAP: Final = PAGE
_RUNGS: Final = 5


@dataclass(frozen=True, slots=True)
class TopPin:
    """What keeps one arena's end up.

    Attributes
    ----------
    arena
        Its number; 0 is the main arena.
    holder
        The call site of the highest chunk in use, or one of the holders that are none.
    address, size, row
        That chunk: its memory's address, its bytes, and the call that made it (-1: not known).
    blocks
        How many chunks of this holder lie above the next holder's.
    pinned
        Bytes of the free chunks below it that the end could come down over without this holder.
    ladder
        Who would pin it next, and how much could go without all up to there: holder and bytes.
    """

    arena: int
    holder: int
    address: int
    size: int
    row: int
    blocks: int
    pinned: int
    ladder: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True, eq=False)
class Holders:
    """The heap by holder; columns of equal length, one entry a holder.

    ``blocks`` and ``bytes`` (of chunks) are what it has there; ``pages`` it lies on, ``shared``
    of them with other holders; ``alone_free`` is the free memory on the resident pages that nobody
    else holds, ``share_free`` its part, by bytes, of that on the others.  ``free_tops`` are the
    resident bytes at the free ends of the main arena and of the others.
    """

    holder: I64
    blocks: I64
    bytes: I64
    requested: I64
    pages: I64
    alone: I64
    alone_free: I64
    share_free: I64
    top_pins: tuple[TopPin, ...]
    used_by_page: I64
    free_whole: int
    free_partial: int
    free_tops: tuple[int, int]


def sites_of_blocks(trace: Trace, row: int) -> tuple[I64, I64]:
    """Return the site and the row that gave each block the size it has before ``row``."""
    op, block = trace.op[:row], trace.block[:row]
    rows = np.flatnonzero((op <= Op.PVALLOC) & (op != Op.FREE) & (block != NULL_BLOCK))
    count = trace.block_count
    site, made = np.zeros(count, np.int64), np.full(count, -1, np.int64)
    site[block[rows]] = trace.site[rows]
    made[block[rows]] = rows
    return site, made


def find_holders(
    heap: engine.Heap, run: engine.ReplayRun, pages: engine.Pages, trace: Trace, word: int
) -> Holders:
    """Return who holds the heap of a replay that stands still."""
    known = KnownBlocks.of(*run.blocks())
    chunks = Chunks.of(heap.chunks(), known)
    chunks = chunks[chunks.state != ChunkState.MAPPED]
    site, made = sites_of_blocks(trace, run.totals()["calls"])
    return _Survey(chunks, site, made, pages, word).holders()


class _Survey:
    """One look at all chunks; a chunk's bytes count from its header on."""

    def __init__(
        self, chunks: Chunks, site: I64, made: I64, pages: engine.Pages, word: int
    ) -> None:
        self.chunks = chunks
        self.start = chunks.address.astype(np.int64) - 2 * word
        self.size = chunks.size.astype(np.int64)
        self.end = self.start + self.size
        block = chunks.block
        self.holder = np.where(block >= 0, site[np.maximum(block, 0)], LIBRARY)
        self.holder[chunks.state == ChunkState.TCACHE] = TCACHE
        self.holder[chunks.state == ChunkState.FAST] = FAST
        self.row = np.where(block >= 0, made[np.maximum(block, 0)], -1)
        held = (ChunkState.USED, ChunkState.TCACHE, ChunkState.FAST, ChunkState.OWN)
        self.is_held = np.isin(chunks.state, held)
        self.pages = pages

    def holders(self) -> Holders:
        names, entry = np.unique(self.holder[self.is_held], return_inverse=True)
        count = len(names)
        requested = np.maximum(self.chunks.requested[self.is_held], 0)
        pages = _Pages(self, entry, count)
        return Holders(
            holder=names.astype(np.int64),
            blocks=np.bincount(entry, minlength=count),
            bytes=_sums(entry, self.size[self.is_held], count),
            requested=_sums(entry, requested, count),
            pages=pages.lying_on,
            alone=pages.alone,
            alone_free=pages.alone_free,
            share_free=pages.share_free,
            top_pins=tuple(self._top_pins()),
            used_by_page=pages.used_by_page,
            free_whole=pages.free_whole,
            free_partial=pages.free_partial,
            free_tops=self._free_tops(),
        )

    def _free_tops(self) -> tuple[int, int]:
        """Return the bytes of resident pages wholly in a top: of the main arena, of the others."""
        total = [0, 0]
        for top in np.flatnonzero(self.chunks.state == ChunkState.TOP):
            low, high = -(-int(self.start[top]) // PAGE), int(self.end[top]) // PAGE
            resident = int(self.pages.resident(low, max(high - low, 0)).sum())
            total[bool(self.chunks.arena[top])] += resident * PAGE
        return total[0], total[1]

    def runs(self) -> list[tuple[int, int]]:
        """Return the first and one past the last chunk of each stretch without a gap."""
        if not len(self.start):
            return []
        cuts = np.flatnonzero(self.start[1:] - self.end[:-1] >= _GAP) + 1
        borders = [0, *cuts.tolist(), len(self.start)]
        return list(pairwise(borders))

    def _top_pins(self) -> list[TopPin]:
        pins = []
        for first, last in self.runs():
            if self.chunks.state[last - 1] == ChunkState.TOP:
                pin = self._pin_of(first, last - 1)
                if pin is not None:
                    pins.append(pin)
        return sorted(pins, key=lambda pin: -pin.pinned)

    def _pin_of(self, first: int, top: int) -> TopPin | None:
        """Return what pins the top of a stretch of chunks."""
        held = first + np.flatnonzero(self.is_held[first:top])
        if not held.size:
            return None
        ladder = list(islice(self._steps(held, first, top), _RUNGS))
        highest = int(held[-1])
        return TopPin(
            arena=int(self.chunks.arena[highest]),
            holder=int(self.holder[highest]),
            address=int(self.chunks.address[highest]),
            size=int(self.size[highest]),
            row=int(self.row[highest]),
            blocks=ladder[0][2],
            pinned=ladder[0][1],
            ladder=tuple((holder, pinned) for holder, pinned, _ in ladder),
        )

    def _steps(self, held: npt.NDArray[np.intp], first: int, top: int) -> Iterator[_Step]:
        """Yield holders from the top down: each, what is free above the next one, its chunks."""
        names: list[int] = []
        left = held
        while left.size:
            names.append(int(self.holder[left[-1]]))
            left = held[~np.isin(self.holder[held], names)]
            floor = int(left[-1]) if left.size else first - 1
            gone = held[held > floor]
            low = int(self.end[floor]) if floor >= first else int(self.start[first])
            pinned = int(self.start[top]) - low - int(self.size[gone].sum())
            yield names[-1], pinned, int((self.holder[gone] == names[-1]).sum())


_Step = tuple[int, int, int]


def _sums(entry: npt.NDArray[np.intp], values: I64, count: int) -> I64:
    return np.bincount(entry, values.astype(np.float64), count).astype(np.int64)


class _Pages:
    """The pages of the heap and the holders on each; only those at a chunk's ends can be shared."""

    def __init__(self, survey: _Survey, entry: npt.NDArray[np.intp], count: int) -> None:
        held = survey.is_held
        first, last = survey.start[held] // PAGE, (survey.end[held] - 1) // PAGE
        more = last > first
        page = np.concatenate((first, last[more]))
        head = np.minimum(survey.end[held], (first + 1) * PAGE) - survey.start[held]
        tail = survey.end[held][more] - last[more] * PAGE
        used = np.concatenate((head, tail))
        who = np.concatenate((entry, entry[more]))
        inner = np.maximum(last - first - 1, 0)
        self._count(survey, page, who, used, count)
        self.lying_on = np.bincount(self._who, minlength=count) + _sums(entry, inner, count)
        self.alone = np.bincount(self._who[self._sole], minlength=count)
        self.alone += _sums(entry, inner, count)
        self._free(survey, int(inner.sum()), first, last)

    def _count(
        self, survey: _Survey, page: I64, who: npt.NDArray[np.intp], used: I64, count: int
    ) -> None:
        key = page * count + who
        pairs, at = np.unique(key, return_inverse=True)
        bytes_ = _sums(at, used, len(pairs))
        self._page, self._who = pairs // max(count, 1), pairs % max(count, 1)
        self.numbers, where = np.unique(self._page, return_inverse=True)
        total = _sums(where, bytes_, len(self.numbers))
        sharers = np.bincount(where, minlength=len(self.numbers))
        resident = _resident(survey, self.numbers)
        free = np.where(resident, np.maximum(PAGE - total, 0), 0)
        self._sole = sharers[where] == 1
        self.alone_free = _sums(self._who[self._sole], free[where][self._sole], count)
        part = free[where] * bytes_ // np.maximum(total[where], 1)
        self.share_free = _sums(self._who[~self._sole], part[~self._sole], count)
        self.used_by_page = total[resident]
        self.free_partial = int(free.sum())

    def _free(self, survey: _Survey, inner: int, first: I64, last: I64) -> None:
        """Count the resident pages on which nothing is held at all."""
        resident = 0
        for low, high in _spans(survey):
            resident += int(survey.pages.resident(low, high - low).sum())
        held = int(_resident(survey, self.numbers).sum())
        full = _resident_inside(survey, first, last) if inner else 0
        self.free_whole = max(resident - held - full, 0) * PAGE


def _spans(survey: _Survey) -> list[tuple[int, int]]:
    return [
        (int(survey.start[a]) // PAGE, -(-int(survey.end[b - 1]) // PAGE)) for a, b in survey.runs()
    ]


def _resident(survey: _Survey, pages: I64) -> npt.NDArray[np.bool_]:
    """Return which of some pages, in order, are in memory."""
    found = np.zeros(len(pages), np.bool_)
    for low, high in _spans(survey):
        there = survey.pages.resident(low, high - low)
        inside = (pages >= low) & (pages < high)
        found[inside] = there[pages[inside] - low]
    return found


def _resident_inside(survey: _Survey, first: I64, last: I64) -> int:
    """Return how many resident pages lie wholly inside held chunks."""
    count = 0
    for low, high in _spans(survey):
        there = np.concatenate(([0], np.cumsum(survey.pages.resident(low, high - low))))
        inside = (first >= low) & (last < high) & (last - first > 1)
        count += int((there[last[inside] - low] - there[first[inside] + 1 - low]).sum())
    return count
