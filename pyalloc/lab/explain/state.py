"""A heap between two calls: everything that a call can change, to be compared with itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pyalloc import engine
from pyalloc.lab.setting import version_of
from pyalloc.lab.trial import Trials, UnderWay
from pyalloc.machine.chunks import Chunk, Chunks, ChunkState, KnownBlocks

SYSTEM_CALLS: Final = ("brk", "mmap", "munmap", "mremap", "mprotect", "madvise")


@dataclass(frozen=True)
class HeapState:
    """A heap between two calls."""

    chunks: Chunks
    start: npt.NDArray[np.int64]
    settings: engine.Settings | None
    statistics: engine.HeapStatistics
    brk: int
    calls: dict[str, int]
    pages: dict[str, int]
    blocks: tuple[Any, Any]
    word: int

    def holding(self, address: int) -> Chunk | None:
        """Return the chunk that ``address``, a block's memory, lies in."""
        header = address - 2 * self.word
        index = int(np.searchsorted(self.start, header, "right")) - 1
        if index < 0 or header >= int(self.start[index]) + int(self.chunks.size[index]):
            return None
        return self.chunks.row(index)

    def neighbour(self, chunk: Chunk, step: int) -> Chunk | None:
        """Return the chunk that touches ``chunk`` below (-1) or above (1)."""
        index = int(np.searchsorted(self.chunks.address, np.uint64(chunk.address)))
        other = index + step
        if chunk.state == ChunkState.MAPPED or not 0 <= other < len(self.chunks):
            return None
        low = min(index, other)
        touches = int(self.chunks.address[low]) + int(self.chunks.size[low])
        touching = touches == int(self.chunks.address[low + 1])
        return self.chunks.row(other) if touching else None

    def count(self, *states: ChunkState) -> int:
        """Return how many chunks are in one of these states."""
        return int(np.isin(self.chunks.state, states).sum())

    def addresses(self, *states: ChunkState) -> set[int]:
        """Return the addresses of the chunks in one of these states."""
        return set(self.chunks.address[np.isin(self.chunks.state, states)].tolist())

    def in_bin_of(self, chunk: Chunk) -> int:
        """Return how many chunks are on the list that ``chunk`` is on."""
        c = self.chunks
        same = (c.state == chunk.state) & (c.bin == chunk.bin) & (c.thread == chunk.thread)
        return int((same & ((c.arena == chunk.arena) | (chunk.thread >= 0))).sum())

    def end_of(self, arena: int) -> int:
        """Return where the top of an arena ends; 0 if it has none."""
        c = self.chunks
        top = np.flatnonzero((c.state == ChunkState.TOP) & (c.arena == arena))
        return int((c.address[top] + c.size[top]).max(initial=0))


def look(under_way: UnderWay, trials: Trials) -> HeapState:
    """Return the state of a replay that stands still."""
    heap = under_way.heap
    blocks = under_way.run.blocks()
    chunks = Chunks.of(heap.chunks(), KnownBlocks.of(*blocks))
    is_glibc = bool(version_of(trials.allocator))
    statistics, space = heap.statistics(), under_way.space.counters()
    calls = {name: space.get(f"count_{name}", 0) for name in SYSTEM_CALLS}
    calls["brk"] = statistics.count_brk_calls
    calls["madvise"] = statistics.count_madvise_calls
    return HeapState(
        chunks=chunks,
        start=chunks.address.astype(np.int64) - 2 * trials.word,
        settings=heap.settings() if is_glibc else None,
        statistics=statistics,
        brk=heap.brk,
        calls=calls,
        pages=under_way.pages.counters(),
        blocks=blocks,
        word=trials.word,
    )
