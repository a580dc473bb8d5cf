"""How much is allocated after each row, without running anything.

One stable sort brings the rows of each block together; the change that a row makes is the size of
its block after it minus the size before it; the running total of the changes is the answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from pyalloc.trace.ops import ALLOCATES, NULL_BLOCK, Op

if TYPE_CHECKING:
    import numpy.typing as npt

    from pyalloc.trace.table import Trace

    I64 = npt.NDArray[np.int64]

PTRDIFF_MAX: Final = (1 << 63) - 1
"""No library grants more than this, so such a request leaves nothing allocated."""

_FRESH: Final = sorted(ALLOCATES - {Op.REALLOC})


def failed(trace: Trace) -> npt.NDArray[np.bool_]:
    """Return which rows asked for memory and got NULL, as far as the trace knows."""
    allocates = np.isin(trace.op, sorted(ALLOCATES))
    impossible: npt.NDArray[np.bool_] = allocates & (trace.size > PTRDIFF_MAX)
    if trace.address is not None:
        gives_back = (trace.op == Op.REALLOC) & (trace.size == 0)
        impossible |= allocates & (trace.address == 0) & ~gives_back
        if trace.info.unfinished:
            impossible[list(trace.info.unfinished)] |= allocates[list(trace.info.unfinished)]
    return impossible


@dataclass(frozen=True, slots=True)
class Changes:
    """The rows that set the size of a block, grouped by block and in time order inside it.

    ``row`` is the row number, ``after`` the block's size after it (-1: not allocated), ``before``
    the size before it (-1 again).
    """

    row: I64
    after: I64
    before: I64


def changes(trace: Trace) -> Changes:
    """Return every change of a block's size."""
    op, size = trace.op, trace.size
    is_realloc = op == Op.REALLOC
    nameless = trace.block == NULL_BLOCK
    fresh = np.isin(op, _FRESH) | (is_realloc & nameless)
    # a realloc(p, 0) of a block that is not allocated is malloc(0); settled below, in order
    frees = ((op == Op.FREE) | (is_realloc & (size == 0))) & ~nameless
    acts = (fresh | is_realloc | frees) & ~failed(trace)
    row = np.flatnonzero(acts)
    row = row[np.argsort(trace.block[row], kind="stable")]
    block = trace.block[row]
    after = np.where(frees[row], -1, size[row].astype(np.int64))
    before = np.empty_like(after)
    before[1:] = after[:-1]
    new = np.ones(len(row), bool)
    new[1:] = block[1:] != block[:-1]
    before[new | fresh[row]] = -1
    return _settle_empty_reallocs(Changes(row, after, before), is_realloc[row], new)


def _settle_empty_reallocs(
    c: Changes, is_realloc: npt.NDArray[np.bool_], new: npt.NDArray[np.bool_]
) -> Changes:
    allocates_nothing = is_realloc & (c.after == -1) & (c.before == -1)
    for i in np.flatnonzero(allocates_nothing):
        if c.before[i] == -1:  # an earlier one of the same run may have changed it
            c.after[i] = 0
            if i + 1 < len(new) and not new[i + 1] and c.before[i + 1] == -1:
                c.before[i + 1] = 0 if is_realloc[i + 1] or c.after[i + 1] == -1 else -1
    return c


def _running(trace: Trace, delta: I64, row: I64) -> I64:
    change = np.zeros(len(trace), np.int64)
    change[row] = delta
    return np.cumsum(change, out=change)


def live_bytes(trace: Trace) -> I64:
    """Return the bytes that are requested and not given back, after each row."""
    c = changes(trace)
    return _running(trace, np.maximum(c.after, 0) - np.maximum(c.before, 0), c.row)


def live_blocks(trace: Trace) -> I64:
    """Return the number of blocks that are allocated, after each row."""
    c = changes(trace)
    return _running(trace, (c.after >= 0).astype(np.int64) - (c.before >= 0), c.row)


def rows_live_after(trace: Trace, row: int) -> I64:
    """Return, for each block allocated after ``row``, the row that gave it its size.

    A block that was allocated again while it was allocated counts once for each.
    """
    c = changes(trace)
    until = c.row <= row
    rows, after = c.row[until], c.after[until]
    block = trace.block[rows]
    last = np.ones(len(rows), bool)
    last[:-1] = block[:-1] != block[1:]
    # also not the end of its block's rows: the next row takes a new block under the old number
    last[:-1] |= c.before[until][1:] < 0
    return rows[last & (after >= 0)]
