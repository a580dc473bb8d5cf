"""valgrind --trace-malloc=yes: ``--PID-- malloc(100) = 0x4A41040``, between other output.

The pointers are those of valgrind's own allocator, so they say which block is meant and nothing of
placement; alignments are kept, which makes this the best portable source of calls.
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Final

import numpy as np

from pyalloc.trace.formats.calls import Call, Reader
from pyalloc.trace.formats.events import NO_ROWS, Column, Events
from pyalloc.trace.formats.text import Piece, read_pieces, separators
from pyalloc.trace.info import TraceInfo
from pyalloc.trace.ops import Op

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from pyalloc.trace.table import Trace

NAME: Final = "valgrind"

_HEAD: Final = re.compile(
    rb"^--\d+-- (?:malloc|calloc|realloc|free|memalign|posix_memalign|aligned_alloc"
    rb"|_Zn[wa]|_Zd[la])[^\n(]*\(",
    re.MULTILINE,
)
_DASH: Final = ord("-")


def _grammar() -> dict[bytes, tuple[Call, ...]]:
    one = Call(Op.MALLOC, 3, size=(1,), result=2)
    release = (Call(Op.FREE, 2, old=1), Call(Op.FREE, 4, old=1), Call(Op.FREE, 5, old=1))
    aligned = Call(Op.MEMALIGN, 6, size=(4,), arg=2, result=5)
    sized_first = Call(Op.ALIGNED_ALLOC, 6, size=(2,), arg=4, result=5)
    grammar: dict[bytes, tuple[Call, ...]] = {
        b"malloc": (one,),
        b"calloc": (Call(Op.CALLOC, 4, size=(1, 2), result=3),),
        b"realloc": (
            Call(Op.REALLOC, 4, size=(2,), old=1, result=3),
            # realloc(0x0,N)malloc(N) = P, and realloc(P,0)free(P) = 0x0 or without a result
            Call(Op.REALLOC, 6, size=(2,), old=1, result=5),
            Call(Op.REALLOC, 5, size=(2,), old=1),
        ),
        b"memalign": (aligned,),
        b"posix_memalign": (Call(Op.POSIX_MEMALIGN, 6, size=(4,), arg=2, result=5),),
        b"aligned_alloc": (aligned, Call(Op.ALIGNED_ALLOC, 4, size=(2,), arg=1, result=3)),
        b"free": release,
    }
    for name in (b"_Znwm", b"_Znam", b"_ZnwmRKSt9nothrow_t", b"_ZnamRKSt9nothrow_t"):
        grammar[name] = (one,)
    for name in (b"_ZnwmSt11align_val_t", b"_ZnamSt11align_val_t"):
        grammar[name] = (sized_first,)
    for name in (b"_ZdlPv", b"_ZdaPv", b"_ZdlPvm", b"_ZdaPvm", b"_ZdlPvSt11align_val_t"):
        grammar[name] = release
    for name in (b"_ZdaPvSt11align_val_t", b"_ZdlPvRKSt9nothrow_t", b"_ZdaPvRKSt9nothrow_t"):
        grammar[name] = release
    return grammar


def looks_like(head: bytes) -> bool:
    """Return whether a file that begins with ``head`` is of this format."""
    return bool(_HEAD.search(head))


def _read_piece(piece: Piece, reader: Reader) -> dict[str, Column]:
    if not len(piece.start):
        return NO_ROWS
    first = np.minimum(piece.first, len(piece.start) - 1)
    ours = (piece.count >= 3) & (piece.char(first) == _DASH) & (piece.char(first, 1) == _DASH)
    rows = np.flatnonzero(ours)
    name = piece.first[rows] + 1
    # a name stands before "(", which tells a call from a message that begins with its name
    calls = reader.is_known(piece.key(name)) & (piece.text[piece.end[name]] == ord("("))
    rows, name = rows[calls], name[calls]
    pid = _pids(piece, first[rows])
    return reader.read(piece, rows, name, pid)


def _pids(piece: Piece, token: npt.NDArray[np.int64]) -> npt.NDArray[np.uint32]:
    """Return a number for each ``--PID--``: the same for the same process."""
    return (piece.key(token) & np.uint64(0xFFFFFFFF)).astype(np.uint32)


def _first_process(parts: list[dict[str, Column]]) -> Events:
    """Return the calls of the process that comes first; its children have heaps of their own."""
    first = next((part["thread"][0] for part in parts if len(part["thread"])), 0)
    events = Events()
    for part in parts:
        mine = part["thread"] == first
        events.add(**{name: column[mine] for name, column in part.items() if name != "thread"})
    return events


def read(path: Path) -> Trace:
    """Return the trace in ``path``."""
    read_piece = functools.partial(_read_piece, reader=Reader(_grammar()))
    parts = list(read_pieces(path, separators(b"(),="), read_piece))
    events = _first_process(parts)
    return events.to_trace(TraceInfo(source=NAME), addresses=False)
