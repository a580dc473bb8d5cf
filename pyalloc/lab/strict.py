"""What a program does wrong with its blocks and no C library notices.

A block that was freed and is used, freed or resized again, a write past what was asked for, a block
that is never freed: the library of each generation notices some of these by chance, and then it
stops the replay; here are the others.  One stable sort brings the rows of each block together; a
*life* goes from the call that got the block, or resized it, to the next that does.

    a row is dead  <=>  its life has a free before it
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pyalloc.machine import ReplayError
from pyalloc.trace import NULL_BLOCK, Op, Trace
from pyalloc.trace.ops import ALLOCATES

I64 = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
U64 = npt.NDArray[np.uint64]

KINDS: Final = ("use-after-free", "double-free", "out-of-bounds", "leak")
"""The kinds of error that only strictness finds."""

_NONE: Final = -1


def missed(trace: Trace, address: U64, calls: int, *, ended: bool) -> tuple[ReplayError, ...]:
    """Return what was wrong in the first ``calls`` rows and went unnoticed, in the order of rows.

    ``address`` is what the calls returned; where the replay ``ended`` early nothing is a leak.
    A leak's row is that of the call which got the block, or resized it last.
    """
    lives = _Lives.of(trace, address, calls)
    found = [*lives.after_free(), *lives.out_of_bounds(), *(() if ended else lives.leaks())]
    return tuple(sorted(found, key=lambda error: error.row))


@dataclass(frozen=True, slots=True)
class _Lives:
    """The rows that get, use and free blocks, block by block, in time order inside each.

    ``origin`` and ``freed`` are positions here: where the life of a row began (-1: none
    that got a block), and the last free before the row in that life (-1: none).
    """

    row: I64
    op: npt.NDArray[np.uint8]
    block: npt.NDArray[np.uint32]
    size: U64
    arg: U64
    address: U64
    starts: Bools
    frees: Bools
    new: Bools
    origin: I64
    freed: I64

    @classmethod
    def of(cls, trace: Trace, address: U64, calls: int) -> _Lives:
        row = _rows(trace, calls)
        op, size, got = trace.op[row], trace.size[row], address[row] != 0
        resizes = op == Op.REALLOC
        fresh = np.isin(op, sorted(ALLOCATES - {Op.REALLOC}))
        starts = fresh | (resizes & got)
        frees = (op == Op.FREE) | (resizes & ~got & (size == 0))
        block = trace.block[row]
        new = np.ones(len(row), np.bool_)
        new[1:] = block[1:] != block[:-1]
        origin = _last_before(starts, new)
        origin[~got[origin]] = _NONE
        freed = _last_before(frees, new)
        freed[freed < origin] = _NONE
        freed[origin < 0] = _NONE
        arg, at = trace.arg[row], address[row]
        return cls(row, op, block, size, arg, at, starts, frees, new, origin, freed)

    def after_free(self) -> Iterator[ReplayError]:
        """Yield what was done to blocks that were free."""
        does = np.isin(self.op, [Op.FREE, Op.REALLOC, Op.TOUCH])
        for i in np.flatnonzero(does & (self.freed >= 0)).tolist():
            op = Op(int(self.op[i]))
            kind = "double-free" if op == Op.FREE else "use-after-free"
            since = int(self.row[self.freed[i]])
            yield self._error(
                i, kind, f"{op.name.lower()} of {self._name(i)}, free since call {since}"
            )

    def out_of_bounds(self) -> Iterator[ReplayError]:
        """Yield accesses past the bytes that were asked for, though the chunk may have them."""
        end = self.arg + self.size
        asked = self.size[self.origin]
        beyond = (self.op == Op.TOUCH) & (self.size > 0) & ((end > asked) | (end < self.arg))
        for i in np.flatnonzero(beyond & (self.origin >= 0) & (self.freed < 0)).tolist():
            first, past = int(self.arg[i]), int(end[i])
            what = f"bytes {first} to {past - 1} of {self._name(i)}, which has {int(asked[i])}"
            yield self._error(i, "out-of-bounds", what)

    def leaks(self) -> Iterator[ReplayError]:
        """Yield blocks that were not freed: until the end, or before their number got another."""
        begin = np.flatnonzero(self.starts)
        is_last = np.ones(len(begin), np.bool_)
        is_last[:-1] = self.block[begin[1:]] != self.block[begin[:-1]]
        next_op = np.full(len(begin), Op.MALLOC, np.uint8)
        next_op[:-1] = self.op[begin[1:]]
        goes_on = ~is_last & (next_op == Op.REALLOC)
        freed = np.add.reduceat(self._frees_in_lives(), begin) > 0 if len(begin) else begin > 0
        for i in begin[~goes_on & ~freed & (self.address[begin] != 0)].tolist():
            what = f"{int(self.size[i])} bytes never freed: block {self.block[i]}"
            yield self._error(i, "leak", f"{what} at {int(self.address[i]):#x}")

    def _frees_in_lives(self) -> I64:
        """Return 1 where a row frees the block of the life it falls into."""
        return (self.frees & (self.origin >= 0)).astype(np.int64)

    def _name(self, i: int) -> str:
        return f"block {self.block[i]} at {int(self.address[self.origin[i]]):#x}"

    def _error(self, i: int, kind: str, message: str) -> ReplayError:
        return ReplayError(int(self.row[i]), kind, message)


def _rows(trace: Trace, calls: int) -> I64:
    """Return the rows about blocks of the heap, block by block."""
    op, block = trace.op[:calls], trace.block[:calls]
    about = np.isin(op, [*sorted(ALLOCATES), Op.FREE, Op.TOUCH]) & (block != NULL_BLOCK)
    about &= ~np.isin(block, block[op == Op.MMAP])
    row: Any = np.flatnonzero(about)
    return row[np.argsort(block[row], kind="stable")]  # type: ignore[no-any-return]


def _last_before(marked: Bools, new: Bools) -> I64:
    """Return for each position the last marked one before it in its group, or -1."""
    at = np.arange(len(marked))
    last = np.maximum.accumulate(np.where(marked, at, _NONE)) if len(at) else at
    before = np.full(len(at), _NONE, np.int64)
    before[1:] = last[:-1]
    group = np.maximum.accumulate(np.where(new, at, 0)) if len(at) else at
    before[before < group] = _NONE
    return before
