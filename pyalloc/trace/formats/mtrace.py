"""glibc's mtrace(3).

One line an event, the location first and optional::

    @ ./s:[0x11c0] + 0x55fcdbc084a0 0x64      an allocation
    @ ./s:[0x11e8] < 0x55fcdbc084a0           a realloc: the old block ...
    @ ./s:[0x11e8] > 0x55fcdbc08590 0x1388    ... and the new one, on the next line
    @ ./s:[0x125d] - 0x55fcdbc08510           a free
    @ ./s:[0x125d] ! 0x55fcdbc08510 0x64      a realloc that failed

mtrace does not say which function was called, nor the alignment, thread or time.
"""

from __future__ import annotations

from typing import IO, TYPE_CHECKING, Any, Final

import numpy as np

from pyalloc.errors import TraceError
from pyalloc.trace.formats.events import NO_ROWS, Column, Events
from pyalloc.trace.formats.events import rows as rows_of
from pyalloc.trace.formats.text import Piece, read_pieces, separators
from pyalloc.trace.info import TraceInfo
from pyalloc.trace.live import failed
from pyalloc.trace.ops import ALIGNS, Op

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from pyalloc.trace.table import Trace

NAME: Final = "mtrace"

_PLUS, _MINUS, _OLD, _NEW, _FAILED, _EQUALS = (ord(c) for c in "+-<>!=")
_WITH_SIZE: Final = (_PLUS, _NEW, _FAILED)
_CHUNK: Final = 1 << 16


def looks_like(head: bytes) -> bool:
    """Return whether a file that begins with ``head`` is of this format."""
    for line in head.split(b"\n", 20)[:20]:
        words = line.split()
        if line.startswith(b"= Start"):
            return True
        if words and words[0] == b"@" and len(words) >= 4:
            return bool({b"+", b"-", b"<", b">", b"!"} & set(words[-3:]))
    return False


def _marks(piece: Piece, at: int) -> npt.NDArray[Any]:
    """Return the one-character token ``at`` from the end of each line, or 0."""
    token = piece.first + piece.count - at
    exists = piece.count >= at
    token = np.where(exists, token, 0)
    alone = exists & (piece.end[token] - piece.start[token] == 1)
    return np.where(alone, piece.char(token), 0)


def _read_piece(piece: Piece) -> dict[str, Column]:
    if not len(piece.start):
        return NO_ROWS
    sized, bare = _marks(piece, 3), _marks(piece, 2)
    has_size = np.isin(sized, _WITH_SIZE)
    mark = np.where(has_size, sized, np.where(np.isin(bare, _WITH_SIZE), 0, bare))
    last = piece.first + piece.count - 1
    comment = (piece.count == 0) | (
        piece.char(np.minimum(piece.first, len(piece.start) - 1)) == _EQUALS
    )
    rows = np.flatnonzero(~comment)
    known = np.isin(mark[rows], (*_WITH_SIZE, _MINUS, _OLD))
    piece.check(~known, rows, "not an mtrace event")
    mark, sizes = mark[rows], has_size[rows]
    pointer = piece.number(last[rows] - sizes)
    piece.check(pointer.bad, rows, "not a pointer")
    size = np.zeros(len(rows), np.uint64)
    given = piece.number(last[rows][sizes])
    piece.check(given.bad, rows[sizes], "not a size")
    size[sizes] = given.value
    return rows_of(op=mark, ret=pointer.value, size=size)


def _pair_reallocs(events: Events) -> Events:
    """Turn marks into calls: ``<`` and the ``>`` behind it are one realloc."""
    mark, pointer, size = (events.column(name) for name in ("op", "ret", "size"))
    new = mark == _NEW
    before = np.zeros(len(mark), bool)
    before[1:] = mark[:-1] == _OLD
    orphans = new & ~before
    old = np.zeros(len(mark), np.uint64)
    old[1:] = pointer[:-1]
    op = np.full(len(mark), int(Op.MALLOC), np.uint8)
    op[new | (mark == _FAILED)] = Op.REALLOC
    op[mark == _MINUS] = Op.FREE
    gone_in = np.where(new & ~orphans, old, np.uint64(0))
    gone_in = np.where((mark == _MINUS) | (mark == _FAILED), pointer, gone_in)
    came_out = np.where((mark == _PLUS) | new, pointer, np.uint64(0))
    # an old block without a new one behind it is a process that ended there
    keep = mark != _OLD
    result = Events()
    result.add(op=op[keep], size=size[keep], old=gone_in[keep], ret=came_out[keep])
    return result


def read(path: Path) -> Trace:
    """Return the trace in ``path``."""
    events = Events(list(read_pieces(path, separators(b"()"), _read_piece)))
    return _pair_reallocs(events).to_trace(TraceInfo(source=NAME, arch=None))


def _refuse(trace: Trace) -> None:
    odd = ~np.isin(
        trace.op, [Op.MALLOC, Op.CALLOC, Op.REALLOC, Op.FREE, *ALIGNS, Op.VALLOC, Op.PVALLOC]
    )
    if odd.any():
        row = int(np.argmax(odd))
        message = f"row {row}: mtrace cannot hold {Op(trace.op[row]).name}"
        raise TraceError(message)


def write(trace: Trace, file: IO[bytes]) -> None:
    """Write ``trace``; alignments, threads and times are lost, as mtrace has no place for them."""
    _refuse(trace)
    address = trace.address
    # without addresses any numbers do that tell blocks apart
    names = trace.block.astype(np.uint64) * np.uint64(16) + np.uint64(16)
    pointer = (address if address is not None else names).tolist()
    lost = failed(trace).tolist()
    current: dict[int, int] = {}
    lines = ["= Start"]
    rows = zip(trace.op.tolist(), trace.block.tolist(), trace.size.tolist(), strict=True)
    for i, (op, block, size) in enumerate(rows):
        lines += _lines(op, block, size, pointer[i], lost[i], current)
        if len(lines) > _CHUNK:
            file.write("\n".join([*lines, ""]).encode())
            lines = []
    file.write("\n".join([*lines, "= End", ""]).encode())


def _lines(
    op: int, block: int, size: int, pointer: int, lost: bool, current: dict[int, int]
) -> list[str]:
    old = current.get(block)
    if op == Op.FREE or (op == Op.REALLOC and size == 0 and old is not None):
        current.pop(block, None)
        return [f"@ [0x0] - {old:#x}"] if old is not None else []
    if lost:
        return [f"@ [0x0] ! {old:#x} {size:#x}"] if op == Op.REALLOC and old is not None else []
    current[block] = pointer
    if op == Op.REALLOC and old is not None:
        return [f"@ [0x0] < {old:#x}", f"@ [0x0] > {pointer:#x} {size:#x}"]
    return [f"@ [0x0] + {pointer:#x} {size:#x}"]
