"""The calls of a trace as things that can change places, and which orders of them are legal.

A program could make the same calls in many orders.  An order of the rows of a trace is *legal* if

1. every row is in it, once;
2. the rows of one block keep their order: it is allocated before it is touched or resized, and
   freed last (what must happen between two blocks, nobody knows: a trace does not say why a program
   calls);
3. a thread makes no call after its end, nor before the end of an earlier thread of its number;
4. calls about no block (settings, trims, ends of threads, the program's own break and mappings)
   keep their order among themselves.

A row takes everything with it: size, alignment, thread, call site.  A block number that is used
again after a free is another block.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pyalloc.errors import ArgumentError
from pyalloc.trace import NULL_BLOCK, Op, Trace
from pyalloc.trace.ops import ALLOCATES

Rows = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

_FRESH: Final = sorted(ALLOCATES - {Op.REALLOC})
_FEWEST_CALLS: Final = 100
_FEWEST_FREES: Final = 10

ALLOCATION, FREE, OTHER = 0, 1, 2


@dataclass(frozen=True, eq=False)
class Lives:
    """What each block goes through; row numbers, ``count`` rows stands for never.

    ``birth`` is the row that allocates it, ``second`` the row after that, ``last`` the row before
    ``death``, which frees it.
    """

    birth: Rows
    second: Rows
    last: Rows
    death: Rows


class Calls:
    """The rows of a trace, and what holds them in place."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.count = len(trace)
        self.block = _blocks(trace)
        named = np.flatnonzero(self.block >= 0)
        by_block = named[np.argsort(self.block[named], kind="stable")]
        self._grouped, self._start = by_block, _starts(self.block[by_block])
        self.lives = self._find_lives()

    def _find_lives(self) -> Lives:
        grouped, start = self._grouped, self._start
        length = np.diff(start, append=len(grouped))
        end = start + length - 1
        op = self.trace.op
        birth, final = grouped[start], grouped[end]
        never = np.full(len(start), self.count)
        freed = (op[final] == Op.FREE) & (length > 1)
        return Lives(
            birth=np.where(op[birth] == Op.FREE, never, birth),
            second=np.where(length > 1, grouped[np.minimum(start + 1, end)], never),
            last=np.where(freed, grouped[np.maximum(end - 1, start)], final),
            death=np.where(freed, final, never),
        )

    @cached_property
    def kind(self) -> npt.NDArray[np.int8]:
        """Whether each row allocates a block, frees one, or does something else."""
        found = np.full(self.count, OTHER, np.int8)
        birth, death = self.lives.birth, self.lives.death
        found[birth[birth < self.count]] = ALLOCATION
        found[death[death < self.count]] = FREE
        return found

    @cached_property
    def life_of(self) -> Rows:
        """The index into :attr:`lives` of each row's block; -1 for none."""
        found = np.full(self.count, -1)
        length = np.diff(self._start, append=len(self._grouped))
        found[self._grouped] = np.repeat(np.arange(len(self._start)), length)
        return found

    @cached_property
    def freed_size(self) -> npt.NDArray[np.uint64]:
        """Bytes of each life's block when it is freed, as last asked for."""
        size, op = self.trace.size, self.trace.op
        sets = self._grouped[np.isin(op[self._grouped], sorted(ALLOCATES))]
        found = np.zeros(len(self._start), np.uint64)
        found[self.life_of[sets]] = size[sets]  # of several, the last one stays
        return found

    @cached_property
    def owner(self) -> Rows:
        """Which thread makes each row; one that takes an ended one's number is another."""
        thread = self.trace.thread.astype(np.int64)
        ends = np.flatnonzero(self.trace.op == Op.THREAD_EXIT)
        generation = np.zeros(self.count, np.int64)
        for row in ends.tolist():
            generation[row + 1 :][thread[row + 1 :] == thread[row]] += 1
        _, dense = np.unique(thread << 20 | generation, return_inverse=True)
        found: Rows = dense.astype(np.int64)
        return found

    def require_enough(self) -> None:
        """Raise ArgumentError unless there is enough to judge an order by."""
        if self.count < _FEWEST_CALLS:
            message = (
                f"a trace of {self.count} calls is too short to judge an order by: "
                f"{_FEWEST_CALLS} are needed"
            )
            raise ArgumentError(message)
        frees = int((self.lives.death < self.count).sum())
        if frees < _FEWEST_FREES:
            message = (
                f"the trace frees {frees} blocks: too few to judge an order by, "
                f"{_FEWEST_FREES} are needed"
            )
            raise ArgumentError(message)

    # --- legality

    def check(self, order: npt.ArrayLike) -> Rows:
        """Return ``order`` if it is legal.

        Raises
        ------
        ArgumentError
            It is not; the text names the first two rows that are in the wrong order.
        """
        rows = np.asarray(order)
        if rows.ndim != 1 or rows.dtype.kind not in "iu" or len(rows) != self.count:
            message = f"an order of this trace is {self.count} row numbers (got {_shape(rows)})"
            raise ArgumentError(message)
        rows = rows.astype(np.int64)
        seen = np.bincount(rows.clip(0, self.count - 1), minlength=self.count)
        wrong = (rows < 0) | (rows >= self.count)
        if wrong.any() or (seen != 1).any():
            row = int(rows[wrong][0]) if wrong.any() else int(np.flatnonzero(seen != 1)[0])
            message = f"the order is not legal: it has row {row} not exactly once"
            raise ArgumentError(message)
        place = np.empty(self.count, np.int64)
        place[rows] = np.arange(self.count)
        for group in (self._grouped, np.flatnonzero(self.block < 0)):
            self._check_group(place, group)
        self._check_ends(place)
        return rows

    def _check_group(self, place: Rows, group: Rows) -> None:
        """Raise unless neighbours in ``group`` of one block, or of none, keep their order."""
        first, then = group[:-1], group[1:]
        bad = (self.block[first] == self.block[then]) & (place[first] > place[then])
        if bad.any():
            i = int(np.argmax(bad))
            self._refuse(int(first[i]), int(then[i]))

    def _check_ends(self, place: Rows) -> None:
        """Raise if a thread makes a call after its end, or before that of another of its number."""
        for end in np.flatnonzero(self.trace.op == Op.THREAD_EXIT).tolist():
            own = np.flatnonzero(self.trace.thread == self.trace.thread[end])
            bad = own[(place[own] > place[end]) != (own > end)]
            bad = bad[bad != end]
            if len(bad):
                row = int(bad[0])
                self._refuse(min(row, end), max(row, end))

    def _refuse(self, first: int, then: int) -> None:
        message = (
            f"the order is not legal: row {then} ({self.words(then)}) comes before "
            f"row {first} ({self.words(first)})"
        )
        raise ArgumentError(message)

    def words(self, row: int) -> str:
        """Say what a row does."""
        op = Op(self.trace.op[row])
        block = int(self.trace.block[row])
        name = op.name.lower()
        if op == Op.THREAD_EXIT:
            return f"the end of thread {int(self.trace.thread[row])}"
        return name if block == NULL_BLOCK else f"{name} of block {block}"

    # --- the calls in another order

    def columns(self, order: Rows | None = None) -> dict[str, npt.NDArray[Any]]:
        """Return the columns a replay needs, in ``order``; no block number is used twice."""
        found = self.trace.columns
        block = np.where(self.block >= 0, self.block, NULL_BLOCK).astype(np.uint32)
        wanted = {"op": found["op"], "block": block, "size": found["size"]}
        for name in ("arg", "thread"):
            if name in found and found[name].any():
                wanted[name] = found[name]
        if order is None:
            return wanted
        return {name: column[order] for name, column in wanted.items()}


def _shape(rows: npt.NDArray[Any]) -> str:
    return f"{len(rows)}" if rows.ndim == 1 else f"shape {rows.shape}"


def _starts(sorted_values: npt.NDArray[np.int64]) -> Rows:
    """Return where each run of equal values begins."""
    return np.flatnonzero(np.diff(sorted_values, prepend=-1))


def _blocks(trace: Trace) -> Rows:
    """Return which block each row is about: a number for each allocation, -1 for none."""
    named = np.flatnonzero(trace.block != NULL_BLOCK)
    by_number = named[np.argsort(trace.block[named], kind="stable")]
    op, number = trace.op[by_number], trace.block[by_number].astype(np.int64)
    first = np.diff(number, prepend=-1) != 0
    after_free = np.zeros(len(op), bool)
    after_free[1:] = (op[:-1] == Op.FREE) & ~first[1:]
    born = first | np.isin(op, _FRESH) | (after_free & (op == Op.REALLOC))
    found = np.full(len(trace), -1)
    found[by_number] = np.cumsum(born) - 1
    return found
