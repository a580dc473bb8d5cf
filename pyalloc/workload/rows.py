"""Rows under construction: the columns of a trace before they are one.

Workloads write rows in whatever order is convenient, give each a time, and let :meth:`Rows.sorted`
put them in order.  :func:`repaired` makes any order of rows legal: the rows of one block keep the
order they had, so that nothing is freed before it is allocated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pyalloc.trace import NULL_BLOCK, Op, Trace, TraceInfo

Numbers = npt.NDArray[np.int64]
Reals = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Rows:
    """Columns of equal length; sizes in bytes."""

    op: npt.NDArray[np.uint8]
    block: npt.NDArray[np.uint32]
    size: npt.NDArray[np.uint64]
    thread: npt.NDArray[np.uint32]
    site: npt.NDArray[np.uint32]

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.op)

    def __getitem__(self, key: slice | npt.NDArray[np.generic]) -> Rows:
        """Return some of the rows."""
        return Rows(*(getattr(self, name)[key] for name in self.__slots__))

    def sorted(self, time: npt.NDArray[np.generic]) -> Rows:
        """Return the rows by ``time``, equal ones in the order they have."""
        return self[np.argsort(time, kind="stable")]

    def trace(self, source: str) -> Trace:
        """Return the trace of these rows; ``source`` says what made them."""
        return Trace.from_arrays(
            self.op,
            self.block,
            self.size,
            thread=self.thread if self.thread.any() else None,
            site=self.site if self.site.any() else None,
            info=TraceInfo(source=source),
        )


def rows(
    op: npt.ArrayLike,
    block: npt.ArrayLike,
    size: npt.ArrayLike = 0,
    thread: npt.ArrayLike = 0,
    site: npt.ArrayLike = 0,
) -> Rows:
    """Return rows of the given columns; a number stands for a column of it."""
    columns = np.broadcast_arrays(*map(np.atleast_1d, (op, block, size, thread, site)))
    types = (np.uint8, np.uint32, np.uint64, np.uint32, np.uint32)
    return Rows(*(c.astype(t) for c, t in zip(columns, types, strict=True)))


def mallocs(
    block: npt.ArrayLike,
    size: npt.ArrayLike,
    thread: npt.ArrayLike = 0,
    site: npt.ArrayLike = 0,
) -> Rows:
    """Return a malloc for each block."""
    return rows(Op.MALLOC, block, size, thread, site)


def frees(block: npt.ArrayLike, thread: npt.ArrayLike = 0) -> Rows:
    """Return a free for each block."""
    return rows(Op.FREE, block, 0, thread)


def thread_exits(thread: npt.ArrayLike) -> Rows:
    """Return the end of each thread."""
    return rows(Op.THREAD_EXIT, NULL_BLOCK, 0, thread)


def joined(parts: Sequence[Rows]) -> Rows:
    """Return the rows of all parts, one part after the other."""
    if not parts:
        return rows([], [])
    return Rows(*(np.concatenate([getattr(p, name) for p in parts]) for name in Rows.__slots__))


def interleaved(parts: Sequence[Rows]) -> Rows:
    """Return the rows of all parts as threads make them that run at one speed.

    The first row of each part comes first, then the second of each, and so on.
    """
    together = joined(parts)
    turn = np.concatenate([np.arange(len(p)) for p in parts]) if parts else np.empty(0)
    return together.sorted(turn)


def repaired(block: npt.NDArray[np.uint32], order: Numbers) -> Numbers:
    """Return ``order`` with the rows of each block back in ascending order.

    Parameters
    ----------
    block
        The block each row is about, by row number; rows without one (``0xFFFFFFFF``) are free.
    order
        A permutation of the row numbers.

    Returns
    -------
    ndarray
        A permutation in which each place belongs to the same block as in ``order``.
    """
    at = block[order].astype(np.int64)
    own = at == NULL_BLOCK
    at[own] = NULL_BLOCK + 1 + np.arange(int(own.sum()))  # rows without a block bind nobody
    places = np.argsort(at, kind="stable")  # by block, then by place
    rows_ = order[np.lexsort((order, at))]  # by block, then by row
    result = np.empty_like(order)
    result[places] = rows_
    return result
