"""A heap as a map: how full each page is, and what lies in it.

The map answers what a figure cannot: is the free memory one hole or dust, and which pages are
held by a few bytes.  Pages are brought together into cells where the heap has more pages than a
picture has room for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pyalloc.engine import CHUNK_STATES
from pyalloc.machine import Process
from pyalloc.units import PAGE

I64 = npt.NDArray[np.int64]

KINDS = ("used", "tcache", "fast", "unsorted", "small", "large", "top")
"""What a byte of a heap belongs to; bytes of no chunk (arena headers, fences) are of none."""


@dataclass(frozen=True, slots=True, eq=False)
class Region:
    """One contiguous heap.

    ``start`` is the address of the first cell, ``pages`` the pages of a cell.  ``bytes`` has a row
    for each of :data:`KINDS` and a column for each cell; ``resident`` the pages of each cell that
    are in memory.
    """

    start: int
    pages: int
    arena: int
    bytes: I64
    resident: I64

    @property
    def cells(self) -> int:
        """The number of cells."""
        return int(self.bytes.shape[1])


def heap_map(process: Process, most_cells: int = 4096) -> tuple[Region, ...]:
    """Return the heaps of ``process`` in address order, in at most about ``most_cells`` cells."""
    chunks = process.heap.heap.chunks()
    chunks = chunks[chunks["state"] != CHUNK_STATES.index("mapped")]
    if not len(chunks):
        return ()
    chunks["address"] -= np.uint64(2 * process.heap.word)  # from its header on
    spans = list(_spans(chunks))
    pages = sum(-(-(end - start) // PAGE) for start, end, _ in spans)
    per_cell = max(-(-pages // most_cells), 1)
    return tuple(_region(process, start, end, found, per_cell) for start, end, found in spans)


def _spans(chunks: npt.NDArray[np.void]) -> Iterator[tuple[int, int, npt.NDArray[np.void]]]:
    """Yield start, end (whole pages) and chunks of each run without a gap of a page or more."""
    header = chunks["address"].astype(np.int64)
    end = header + chunks["size"].astype(np.int64)
    cuts = np.flatnonzero(header[1:] - end[:-1] >= PAGE) + 1
    for part in np.split(np.arange(len(chunks)), cuts):
        low = int(header[part[0]]) // PAGE * PAGE
        yield low, -(-int(end[part].max()) // PAGE) * PAGE, chunks[part]


def _region(
    process: Process, start: int, end: int, chunks: npt.NDArray[np.void], pages: int
) -> Region:
    cells = -(-(end - start) // (pages * PAGE))
    borders = start + np.arange(cells + 1, dtype=np.int64) * pages * PAGE
    table = process.pages.table
    resident = [
        table.range_counters(int(low) // PAGE, min(pages, (end - int(low)) // PAGE))["anon"]
        for low in borders[:-1]
    ]
    rows = [
        _bytes_between(chunks[chunks["state"] == CHUNK_STATES.index(kind)], borders)
        for kind in KINDS
    ]
    arena = int(chunks["arena"][0])
    return Region(start, pages, arena, np.array(rows), np.array(resident, np.int64))


def _bytes_between(chunks: npt.NDArray[np.void], borders: I64) -> I64:
    """Return how many bytes of ``chunks``, which do not overlap, lie between each two borders."""
    if not len(chunks):
        return np.zeros(len(borders) - 1, np.int64)
    start = chunks["address"].astype(np.int64)
    size = chunks["size"].astype(np.int64)
    below = np.concatenate(([0], np.cumsum(size)))
    count = np.searchsorted(start, borders)  # chunks that begin below a border
    last = np.maximum(count - 1, 0)
    beyond = np.where(count > 0, np.maximum(start[last] + size[last] - borders, 0), 0)
    found: I64 = np.diff(below[count] - beyond)
    return found
