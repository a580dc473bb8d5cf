"""What can be read of a heap, as plain values."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Final

import numpy as np

from pyalloc.engine.border import CData, lib


@dataclass(frozen=True, slots=True)
class HeapStatistics:
    """Where the bytes of a heap are; free chunks by the kind of list that holds them."""

    bytes_system: int
    bytes_system_peak: int
    bytes_mapped: int
    count_mapped: int
    bytes_mapped_peak: int
    count_mapped_peak: int
    bytes_tcache: int
    count_tcache: int
    bytes_fast: int
    count_fast: int
    bytes_unsorted: int
    count_unsorted: int
    bytes_small: int
    count_small: int
    bytes_large: int
    count_large: int
    bytes_top: int
    bytes_largest_hole: int
    bytes_own: int
    bytes_header: int
    bytes_header_mapped: int
    count_arenas: int
    count_brk_calls: int
    count_mmap_calls: int
    count_madvise_calls: int
    count_arena_calls: int
    count_steps: int
    bytes_largest_asked: int
    bytes_top_kept: int
    bytes_top_trimmed: int
    count_threshold_moves: int


_READ_STATISTICS: Final = operator.attrgetter(*HeapStatistics.__slots__)


def statistics_of(struct: CData) -> HeapStatistics:
    """Return what a ``pa_heap_statistics`` holds."""
    return HeapStatistics(*_READ_STATISTICS(struct))


@dataclass(frozen=True, slots=True)
class Layout:
    """A heap as a whole; what a cache (tcache, fastbin) holds is free.

    ``pages_by_tenth[0]`` counts the pages of which nothing is in use, ``[i]`` those of which more
    than (i - 1) / 10 and up to i / 10 is.  ``bytes_trimmed`` (of the break, negative if it would
    move up) and ``pages_trimmed`` (resident ones) are what ``malloc_trim(0)`` would give back.
    """

    bytes_used: int
    count_used: int
    bytes_free: int
    count_free: int
    bytes_largest_free: int
    squares_free: float
    pages_held: int
    pages_backed: int
    pages_by_tenth: tuple[int, ...]
    bytes_trimmed: int
    pages_trimmed: int


CHUNK: Final = np.dtype(
    [
        ("address", np.uint64),
        ("size", np.uint64),
        ("arena", np.uint32),
        ("thread", np.uint32),
        ("state", np.uint16),
        ("bin", np.uint16),
        ("flags", np.uint16),
        ("spare", np.uint16),
    ]
)
"""A chunk, as ``pa_chunk``: address of the user's memory, bytes with header, where it is kept."""


NO_THREAD: Final[int] = lib.PA_NO_THREAD


CHUNK_STATES: Final = (
    "used",
    "tcache",
    "fast",
    "unsorted",
    "small",
    "large",
    "top",
    "mapped",
    "fence",
    "own",
)
"""What a chunk is: in use, free in one of the kinds of lists, the top, a mapping of its own, the
end of a stretch of memory, the library's own."""


@dataclass(frozen=True, slots=True)
class ArenaView:
    """An arena and the heaps it lives in; bytes.  ``index`` is the chunks' ``arena``."""

    index: int
    count_threads: int
    count_heaps: int
    is_contiguous: int
    bytes_system: int
    bytes_system_peak: int
    top: int
    bytes_top: int
    bytes_heaps: int
    bytes_writable: int
    bytes_newest: int
    bytes_newest_writable: int


@dataclass(frozen=True, slots=True)
class Settings:
    """How a ptmalloc is set at the moment; bytes unless the name says otherwise.

    ``version`` is 236 for glibc 2.36, 203 for 2.3.3; ``fast_limit`` and ``tcache_limit`` are chunk
    sizes, the one included and the other not; ``is_dynamic`` (0 or 1) says that the mmap and trim
    thresholds follow the blocks that are freed.
    """

    version: int
    word: int
    align: int
    count_tcache: int
    tcache_limit: int
    fast_limit: int
    mmap_threshold: int
    trim_threshold: int
    top_pad: int
    count_mmaps_max: int
    is_dynamic: int
    huge_page: int


@dataclass(frozen=True, slots=True)
class MallInfo:
    """What mallinfo2 of the simulated library says, under its names; bytes and chunks.

    ``uordblks`` counts chunks in a tcache as in use; ``usmblks`` is always 0.
    """

    arena: int
    ordblks: int
    smblks: int
    hblks: int
    hblkhd: int
    usmblks: int
    fsmblks: int
    uordblks: int
    fordblks: int
    keepcost: int
