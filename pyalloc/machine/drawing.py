"""A region of a heap as text: one cell a few bytes, one line a row of cells.

At the closest, a cell is the smallest step between chunks (two words), and ``[`` marks where each
begins; farther away a cell shows what most of its bytes are, and ``+`` where bytes in use and free
ones share it half and half.  Rows that are all alike are drawn once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from pyalloc.errors import ArgumentError
from pyalloc.machine.chunks import Chunks, ChunkState
from pyalloc.units import PAGE, format_size

if TYPE_CHECKING:
    from pyalloc.machine.heapview import HeapView

I64 = npt.NDArray[np.int64]

LETTERS: Final = {
    ChunkState.USED: "#",
    ChunkState.OWN: "o",
    ChunkState.TCACHE: "t",
    ChunkState.FAST: "f",
    ChunkState.UNSORTED: "u",
    ChunkState.SMALL: "s",
    ChunkState.LARGE: "L",
    ChunkState.TOP: ".",
    ChunkState.FENCE: "|",
}
"""What a cell of each kind of chunk looks like."""

_NAMES: Final = {
    ChunkState.USED: "in use",
    ChunkState.OWN: "the library's own",
    ChunkState.TCACHE: "tcache",
    ChunkState.FAST: "fastbin",
    ChunkState.UNSORTED: "unsorted",
    ChunkState.SMALL: "small bin",
    ChunkState.LARGE: "large bin",
    ChunkState.TOP: "top",
    ChunkState.FENCE: "fence",
}
_SHARED: Final = "+"
_HEAD: Final = "["
_NARROWEST: Final = 48
_MARGIN: Final = 36  # address, shares and what separates them


@dataclass(frozen=True, slots=True)
class _Part:
    """A run of chunks without a gap: its first and last byte, and its chunks."""

    start: int
    end: int
    chunks: Chunks


def draw(view: HeapView, start: int | None, end: int | None, *, width: int, rows: int) -> str:
    """Return the drawing; see :meth:`HeapView.draw`."""
    if width < _NARROWEST or rows < 1:
        message = f"a drawing needs {_NARROWEST} columns and a row (got {width} and {rows})"
        raise ArgumentError(message)
    if start is not None and end is not None and end <= start:
        message = f"the region's end must lie behind its start (got {start:#x} to {end:#x})"
        raise ArgumentError(message)
    header = 2 * view.word
    parts = [part for part in (_cut(part, start, end) for part in _parts(view, header)) if part]
    if not parts:
        return "no chunk of the heap lies there\n"
    cells = 1 << (width - _MARGIN).bit_length() - 1
    cell = _cell(parts, cells, rows, header)
    lines: list[str] = []
    seen: set[str] = set()
    for part in parts:
        lines += _draw_part(view, part, cells, cell, header, seen)
    return "\n".join([*lines, *_legend(seen, cell, width)]) + "\n"


def _parts(view: HeapView, header: int) -> Iterator[_Part]:
    """Yield the runs of chunks in address order; mappings are no part of the heap."""
    chunks = view.chunks()
    chunks = chunks[chunks.state != ChunkState.MAPPED]
    if not len(chunks):
        return
    first = chunks.address.astype(np.int64) - header
    last = first + np.maximum(chunks.size.astype(np.int64), header)
    cuts = np.flatnonzero(first[1:] - last[:-1] > 0) + 1
    for run in np.split(np.arange(len(chunks)), cuts):
        yield _Part(int(first[run[0]]), int(last[run[-1]]), chunks[run])


def _cut(part: _Part, start: int | None, end: int | None) -> _Part | None:
    low = part.start if start is None else max(part.start, start)
    high = part.end if end is None else min(part.end, end)
    return _Part(low, high, part.chunks) if low < high else None


def _cell(parts: list[_Part], cells: int, rows: int, least: int) -> int:
    """Return the bytes of a cell: the fewest, in powers of two, for which the rows are enough."""
    cell = least
    while sum(-(-(part.end - part.start) // (cells * cell)) for part in parts) > max(
        rows, len(parts)
    ):
        cell *= 2
    return cell


def _draw_part(
    view: HeapView, part: _Part, cells: int, cell: int, header: int, seen: set[str]
) -> Iterator[str]:
    row_bytes = cells * cell
    start = part.start if cell == header else part.start // row_bytes * row_bytes
    count = -(-(part.end - start) // cell)
    borders = start + np.arange(count + 1, dtype=np.int64) * cell
    letters, used = _letters(part, borders, header, close=cell == header)
    arena = int(part.chunks.arena[0])
    name = f"arena {arena}" if arena else "main arena"
    size = format_size(part.end - part.start)
    yield f"{name}  {part.start:#x}-{part.end:#x}  {size}"
    yield f"{'':<16}{'':<{cells}}  in use  resident"
    repeated, before = 0, ""
    for row in range(0, count, cells):
        cut = "".join(letters[row : row + cells])
        shares = _shares(view, part, int(borders[row]), row_bytes, used[row : row + cells])
        line = f"{cut:<{cells}}{shares}"
        if line == before and row + cells < count:
            repeated += 1
            continue
        if repeated:
            yield f"{'':<16}{repeated:,} more like this"
        repeated, before = 0, line
        seen.update(cut)
        yield f"{int(borders[row]):>#14x}  {line}"


def _letters(part: _Part, borders: I64, header: int, *, close: bool) -> tuple[list[str], I64]:
    """Return the letter of each cell, and how many bytes of it are in use."""
    kinds = list(LETTERS)
    low, high = max(int(borders[0]), part.start), part.end
    start = np.clip(part.chunks.address.astype(np.int64) - header, low, high)
    stop = np.clip(
        part.chunks.address.astype(np.int64)
        - header
        + np.maximum(part.chunks.size.astype(np.int64), header),
        low,
        high,
    )
    amounts = np.stack(
        [
            _bytes_between(start[m], stop[m], borders)
            for m in (part.chunks.state == k for k in kinds)
        ]
    )
    used = amounts[0] + amounts[1]
    total = amounts.sum(axis=0)
    letters = np.array(list(LETTERS.values()))[amounts.argmax(axis=0)]
    letters[total == 0] = " "
    if close:
        heads = (start - borders[0]) // (borders[1] - borders[0])
        letters[heads[(start < stop) & (start > borders[0] - 1)]] = _HEAD
    else:
        letters[(used * 4 >= total) & (used * 4 <= total * 3) & (used > 0)] = _SHARED
    found: list[str] = letters.tolist()
    return found, used


def _bytes_between(start: I64, stop: I64, borders: I64) -> I64:
    """Return how many bytes of ranges in order, which do not overlap, lie between two borders."""
    if not len(start):
        return np.zeros(len(borders) - 1, np.int64)
    below = np.concatenate(([0], np.cumsum(stop - start)))
    count = np.searchsorted(start, borders)
    last = np.maximum(count - 1, 0)
    beyond = np.where(count > 0, np.maximum(stop[last] - borders, 0), 0)
    found: I64 = np.diff(below[count] - beyond)
    return found


def _shares(view: HeapView, part: _Part, low: int, row_bytes: int, used: I64) -> str:
    """Return how much of a row is in use, and how much of it is in memory."""
    first, last = max(low, part.start), min(low + row_bytes, part.end)
    in_use = f"{int(used.sum()) / (last - first):>7.0%}"
    if not view.process.alive:
        return f"{in_use}"
    page, end = first // PAGE, -(-last // PAGE)
    counters = view.process.pages.table.range_counters(page, end - page)
    return f"{in_use}  {counters['anon'] / (end - page):>8.0%}"


def _legend(seen: set[str], cell: int, width: int) -> Iterator[str]:
    """Yield what the letters that were drawn mean, and the scale."""
    words = [f"{LETTERS[state]} {name}" for state, name in _NAMES.items() if LETTERS[state] in seen]
    if _SHARED in seen:
        words.append(f"{_SHARED} in use and free")
    if _HEAD in seen:
        words.append(f"{_HEAD} a chunk begins")
    line = f"a cell is {cell:,} bytes:"
    for word in words:
        if len(line) + 2 + len(word) > width:
            yield line
            line = " "
        line += f"  {word}"
    yield line
