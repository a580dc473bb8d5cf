"""The malloc lab's ``.rep``: four numbers, then ``a ID BYTES``, ``r ID BYTES`` and ``f ID``.

The numbers are a suggested heap size (unused), the number of ids, the number of operations and a
weight.  The simplest exact format there is: blocks have numbers, nothing has an address.
"""

from __future__ import annotations

import re
from typing import IO, TYPE_CHECKING, Final, NamedTuple

import numpy as np

from pyalloc.errors import TraceError
from pyalloc.trace.formats.text import Piece, read_pieces, separators
from pyalloc.trace.info import TraceInfo
from pyalloc.trace.ops import NULL_BLOCK, Op
from pyalloc.trace.table import Trace

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

NAME: Final = "rep"

_HEAD: Final = re.compile(rb"\s*\d+\s+\d+\s+\d+\s+\d+\s+[arf]\s+\d+")
_OPS: Final = {ord("a"): Op.MALLOC, ord("r"): Op.REALLOC, ord("f"): Op.FREE}
_HEAD_LINES: Final = 4


class _Part(NamedTuple):
    op: npt.NDArray[np.uint64]
    block: npt.NDArray[np.uint64]
    size: npt.NDArray[np.uint64]
    expected: int


def looks_like(head: bytes) -> bool:
    """Return whether a file that begins with ``head`` is of this format."""
    return bool(_HEAD.match(head))


def _read_piece(piece: Piece) -> _Part:
    expected, skip = (_operations(piece), _HEAD_LINES) if piece.line == 0 else (0, 0)
    rows = np.flatnonzero(piece.count > 0)[skip:]
    first, count = piece.first[rows], piece.count[rows]
    mark = np.where(piece.end[first] - piece.start[first] == 1, piece.char(first), 0)
    op = np.full(len(rows), 255, np.uint64)
    for letter, meaning in _OPS.items():
        op[mark == letter] = meaning
    sized = op != Op.FREE
    piece.check((op == 255) | (count != 2 + sized), rows, "not an operation (a, r or f)")
    block = piece.decimal(first + 1)
    piece.check(block.bad | (block.value >= NULL_BLOCK), rows, "not an id")
    size = np.zeros(len(rows), np.uint64)
    given = piece.decimal(first[sized] + 2)
    piece.check(given.bad, rows[sized], "not a size")
    size[sized] = given.value
    return _Part(op, block.value, size, expected)


def read(path: Path) -> Trace:
    """Return the trace in ``path``."""
    parts = list(read_pieces(path, separators(b""), _read_piece))
    expected = parts[0].expected
    op, block, size = (np.concatenate([part[i] for part in parts]) for i in range(3))
    if len(op) < expected:
        message = f"{path}: truncated: {len(op)} of {expected} operations"
        raise TraceError(message)
    return Trace(
        {"op": op.astype("u1"), "block": block.astype("u4"), "size": size}, TraceInfo(source=NAME)
    )


def _operations(piece: Piece) -> int:
    rows = np.flatnonzero(piece.count > 0)[:_HEAD_LINES]
    if len(rows) < _HEAD_LINES:
        piece.fail(0, "a .rep file begins with four numbers")
    head = piece.decimal(piece.first[rows])
    piece.check(head.bad | (piece.count[rows] != 1), rows, "not one of the four numbers in front")
    return int(head.value[2])


def write(trace: Trace, file: IO[bytes]) -> None:
    """Write ``trace``; alignments, threads, sites and times are lost."""
    letters = {Op.MALLOC: "a", Op.CALLOC: "a", Op.REALLOC: "r", Op.FREE: "f"}
    odd = ~np.isin(trace.op, list(letters))
    if odd.any():
        row = int(np.argmax(odd))
        message = f"row {row}: .rep cannot hold {Op(trace.op[row]).name}"
        raise TraceError(message)
    kept = trace.block != NULL_BLOCK
    rows = zip(
        trace.op[kept].tolist(), trace.block[kept].tolist(), trace.size[kept].tolist(), strict=True
    )
    lines = [
        f"f {block}\n" if op == Op.FREE else f"{letters[Op(op)]} {block} {size}\n"
        for op, block, size in rows
    ]
    file.write(f"0\n{trace.block_count}\n{len(lines)}\n1\n".encode())
    file.write("".join(lines).encode())
