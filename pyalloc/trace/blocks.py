"""From pointers to blocks.

A recording knows pointers; a trace knows blocks.  Which block a pointer means is found for all
rows at once: events are brought together by address with one stable sort, each use of an address
then belongs to the last allocation before it, and chains of realloc are followed by pointer
doubling.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from pyalloc.errors import TraceError
from pyalloc.trace.ops import ALLOCATES, NULL_BLOCK, Op

if TYPE_CHECKING:
    import numpy.typing as npt

    I64 = npt.NDArray[np.int64]
    U64 = npt.NDArray[np.uint64]

_ALLOCATES: Final = np.isin(np.arange(256), sorted(ALLOCATES))


@dataclass(frozen=True, slots=True)
class Blocks:
    """Which block each row is about, and the rows that free or resize an unknown one."""

    block: npt.NDArray[np.uint32]
    unknown: I64


def _owners(old: U64, ret: U64, moved: npt.NDArray[np.bool_]) -> I64:
    """Return for each row the row whose allocation its ``old`` pointer names, or -1.

    Every row uses ``old`` first and yields ``ret`` after that; ``moved`` says that it took the
    block away from ``old``, so that the address means nothing until it is allocated again.
    """
    n = len(old)
    address = np.empty(2 * n, np.uint64)
    address[0::2], address[1::2] = old, ret
    events = np.flatnonzero(address)
    events = events[np.argsort(address[events], kind="stable")]
    row, gives = events >> 1, (events & 1).astype(bool)
    # what the address names after each event: a row, nothing (-1), or as before (-2)
    named = np.where(gives, row, np.where(moved[row], -1, -2))
    start = np.ones(len(events), bool)
    start[1:] = address[events[1:]] != address[events[:-1]]
    before = np.empty_like(named)
    before[1:] = named[:-1]
    before[start] = -1
    # carry the last answer forward over "as before"
    position = np.where(before == -2, 0, np.arange(len(events)))
    before = before[np.maximum.accumulate(position)] if len(events) else before
    owner = np.full(n, -1, np.int64)
    owner[row[~gives]] = before[~gives]
    return owner


def _roots(parent: I64) -> I64:
    """Return the row at the beginning of each row's chain of reallocs."""
    root = np.where(parent >= 0, parent, np.arange(len(parent)))
    while True:
        further = root[root]
        if np.array_equal(further, root):
            return root
        root = further


def assign_blocks(op: npt.NDArray[np.uint8], old: U64, ret: U64) -> Blocks:
    """Return the block of each row from the pointers that went in and came out.

    A block keeps its number through realloc.  A pointer that was freed still names its block (a
    double free); one that realloc moved away from, or that was never returned, names a block of
    its own that is never allocated.
    """
    allocates = _ALLOCATES[op]
    is_realloc = op == Op.REALLOC
    takes = (is_realloc | (op == Op.FREE)) & (old != 0)
    old = np.where(takes, old, 0)
    ret = np.where(allocates, ret, 0)
    moved = is_realloc & (ret != 0) & (ret != old)
    owner = _owners(old, ret, moved)
    unknown = takes & (owner < 0)
    # a realloc that got a block goes on with its old one; every other allocation starts a chain
    root = _roots(np.where(is_realloc & (owner >= 0), owner, -1))
    root = np.where((op == Op.FREE) & (owner >= 0), root[owner], root)
    named = allocates | takes
    number = np.cumsum(named & (root == np.arange(len(op))))
    if len(op) and number[-1] >= NULL_BLOCK:
        message = f"a trace holds at most {NULL_BLOCK - 1} blocks (got {number[-1]})"
        raise TraceError(message)
    block = np.where(named, number[root] - 1, NULL_BLOCK).astype(np.uint32)
    return Blocks(block, np.flatnonzero(unknown))
