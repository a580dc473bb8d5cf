"""ltrace: ``[PID] [TIME] [CALLER->]malloc(100) = 0x55d0c1`` (also the dialect villoc reads).

What libc calls itself is missing, and posix_memalign does not show its block.  A call that another
process interrupts is printed in two halves (``<unfinished ...>``, ``<... malloc resumed>``), which
are joined first; a call that never came back (``<no return ...>``) is left out.
"""

from __future__ import annotations

import functools
import re
from typing import IO, TYPE_CHECKING, Final

import numpy as np

from pyalloc.errors import TraceError
from pyalloc.trace.formats.calls import Call, Reader
from pyalloc.trace.formats.events import NO_ROWS, Column, Events
from pyalloc.trace.formats.text import Piece, read_pieces, separators
from pyalloc.trace.info import TraceInfo
from pyalloc.trace.live import failed
from pyalloc.trace.ops import Op

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from pyalloc.trace.table import Trace

NAME: Final = "ltrace"

_NAMES: Final = (
    rb"(?:malloc|calloc|realloc|free|memalign|aligned_alloc|valloc|pvalloc|reallocarray)"
)
_LINE: Final = re.compile(
    rb"^(?:[^\s(]+ +){0,3}(?:\[pid \d+\] +)?(?:[^\s(]+->)?" + _NAMES + rb"\([^\n]*\) += ",
    re.MULTILINE,
)
_HALF: Final = re.compile(rb"^(.*?)\b(\w+)\((.*?) *<unfinished \.\.\.>\s*$")
_OTHER_HALF: Final = re.compile(rb"^(.*?)<\.\.\. (\w+) resumed> *(.*)$")
_SEPARATORS: Final = separators(b"(),=<>-[]")
_DOT: Final = ord(".")

_GRAMMAR: Final = {
    b"malloc": (Call(Op.MALLOC, 3, size=(1,), result=2),),
    b"calloc": (Call(Op.CALLOC, 4, size=(1, 2), result=3),),
    b"realloc": (Call(Op.REALLOC, 4, size=(2,), old=1, result=3),),
    b"reallocarray": (Call(Op.REALLOC, 5, size=(2, 3), old=1, result=4),),
    b"free": (Call(Op.FREE, 3, old=1),),
    b"memalign": (Call(Op.MEMALIGN, 4, size=(2,), arg=1, result=3),),
    b"aligned_alloc": (Call(Op.ALIGNED_ALLOC, 4, size=(2,), arg=1, result=3),),
    b"valloc": (Call(Op.VALLOC, 3, size=(1,), result=2),),
    b"pvalloc": (Call(Op.PVALLOC, 3, size=(1,), result=2),),
}


def looks_like(head: bytes) -> bool:
    """Return whether a file that begins with ``head`` is of this format."""
    return bool(_LINE.search(head))


def _join_halves(data: bytes) -> bytes:
    """Put the halves of interrupted calls together, where the second one stands."""
    waiting: dict[tuple[bytes, bytes], bytes] = {}
    lines = []
    for line in data.splitlines():
        if half := _HALF.match(line):
            waiting[_who(half[1]), half[2]] = half[3]
            lines.append(b"")
        elif other := _OTHER_HALF.match(line):
            arguments = waiting.pop((_who(other[1]), other[2]), b"")
            lines.append(other[1] + other[2] + b"(" + arguments + other[3])
        else:
            lines.append(line)
    return b"\n".join(lines) + b"\n"


def _who(prefix: bytes) -> bytes:
    found = re.search(rb"\d+", prefix)
    return found[0] if found else b""


def _parts(path: Path, reader: Reader) -> list[dict[str, Column]]:
    data = path.read_bytes()
    if b"<unfinished ...>" not in data:
        read_piece = functools.partial(_read_piece, reader=reader)
        return list(read_pieces(path, _SEPARATORS, read_piece))
    whole = Piece(path, 0, np.frombuffer(_join_halves(data), np.uint8), _SEPARATORS)
    return [_read_piece(whole, reader)]


def _names(piece: Piece) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the lines that are calls, and the token before their first ``(``."""
    opens = np.flatnonzero(piece.text[piece.end] == ord("("))
    line = np.searchsorted(piece.first, opens, "right") - 1
    rows, which = np.unique(line, return_index=True)
    return rows, opens[which]


def _threads(
    piece: Piece, rows: npt.NDArray[np.int64], name: npt.NDArray[np.int64]
) -> npt.NDArray[np.uint64]:
    """Return the process number in front of each call, or 0."""
    first = piece.first[rows]
    bracket = piece.text[piece.line_start[rows]] == ord("[")
    token = np.where(bracket, first + 1, first)
    number = piece.decimal(np.minimum(token, name))
    return np.where((token < name) & ~number.bad, number.value, np.uint64(0))


def _read_piece(piece: Piece, reader: Reader) -> dict[str, Column]:
    rows, name = _names(piece)
    if not len(rows):
        return NO_ROWS
    last = piece.first[rows] + piece.count[rows] - 1
    calls = reader.is_known(piece.key(name)) & (piece.char(last) != _DOT)
    rows, name = rows[calls], name[calls]
    pid = _threads(piece, rows, name)
    return reader.read(piece, rows, name, pid.astype(np.uint32))


def read(path: Path) -> Trace:
    """Return the trace in ``path``."""
    events = Events(_parts(path, Reader(_GRAMMAR)))
    pid, first, index = np.unique(events.column("thread"), return_index=True, return_inverse=True)
    number = np.empty(len(pid), np.uint32)
    number[np.argsort(first)] = np.arange(len(pid))
    start = 0
    for part in events.parts:
        end = start + len(part["op"])
        part["thread"] = number[index[start:end]]
        start = end
    return events.to_trace(TraceInfo(source=NAME))


# --- writing


def write(trace: Trace, file: IO[bytes]) -> None:
    """Write ``trace`` as ltrace and villoc know it."""
    address = trace.address
    names = trace.block.astype(np.uint64) * np.uint64(16) + np.uint64(16)
    pointer = (address if address is not None else names).tolist()
    lost = failed(trace).tolist()
    current: dict[int, int] = {}
    lines: list[str] = []
    rows = zip(
        trace.op.tolist(),
        trace.block.tolist(),
        trace.size.tolist(),
        trace.arg.tolist(),
        strict=True,
    )
    several = trace.has("thread")
    for i, (op, block, size, arg) in enumerate(rows):
        result = 0 if lost[i] or (op == Op.REALLOC and size == 0) else pointer[i]
        text = _call(i, op, size, arg, current.get(block, 0), result)
        if op == Op.FREE or (op == Op.REALLOC and size == 0):
            pass  # the name stays, so that a second free is one
        elif result:
            current[block] = result
        lines.append(f"{trace.thread[i]} {text}\n" if several else f"{text}\n")
    file.write("".join(lines).encode())


def _pointer(value: int) -> str:
    return f"{value:#x}" if value else "nil"


def _call(row: int, op: int, size: int, arg: int, old: int, result: int) -> str:
    name = Op(op).name.lower()
    match op:
        case Op.FREE:
            return f"free({_pointer(old)}) = <void>"
        case Op.CALLOC:
            return f"calloc(1, {size}) = {_pointer(result)}"
        case Op.REALLOC:
            return f"realloc({_pointer(old)}, {size}) = {_pointer(result)}"
        case Op.MEMALIGN | Op.ALIGNED_ALLOC | Op.POSIX_MEMALIGN:
            name = "memalign" if op == Op.POSIX_MEMALIGN else name
            return f"{name}({arg}, {size}) = {_pointer(result)}"
        case Op.MALLOC | Op.VALLOC | Op.PVALLOC:
            return f"{name}({size}) = {_pointer(result)}"
    message = f"row {row}: ltrace cannot hold {Op(op).name}"
    raise TraceError(message)
