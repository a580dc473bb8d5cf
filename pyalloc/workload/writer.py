"""Calls written one at a time, for tests whose threads answer to each other."""

from __future__ import annotations

import numpy as np

from pyalloc.errors import ArgumentError
from pyalloc.trace import NULL_BLOCK, Op
from pyalloc.workload.rows import Rows, rows


def check(**values: int) -> None:
    """Raise unless each value is a count from 1 to what an int of C holds."""
    for name, value in values.items():
        if not 1 <= value < 1 << 31:
            message = f"{name} must be 1 to 2147483647 (got {value!r})"
            raise ArgumentError(message)


class Writer:
    """Rows written one at a time; blocks are numbered as they are made."""

    __slots__ = ("block", "count", "op", "size", "thread")

    def __init__(self) -> None:
        self.op: list[int] = []
        self.block: list[int] = []
        self.size: list[int] = []
        self.thread: list[int] = []
        self.count = 0

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.op)

    def malloc(self, size: int, thread: int, op: Op = Op.MALLOC) -> int:
        """Write a call that allocates; return its block."""
        block = self.count
        self.count += 1
        self._add(op, block, size, thread)
        return block

    def realloc(self, block: int, size: int, thread: int) -> None:
        """Write a call that resizes a block."""
        self._add(Op.REALLOC, block, size, thread)

    def free(self, block: int, thread: int) -> None:
        """Write a call that frees a block."""
        self._add(Op.FREE, block, 0, thread)

    def end(self, thread: int) -> None:
        """Write the end of a thread."""
        self._add(Op.THREAD_EXIT, NULL_BLOCK, 0, thread)

    def _add(self, op: int, block: int, size: int, thread: int) -> None:
        self.op.append(op)
        self.block.append(block)
        self.size.append(size)
        self.thread.append(thread)

    def rows(self) -> Rows:
        """Return what was written."""
        return rows(
            np.array(self.op, np.uint8),
            np.array(self.block, np.int64),
            np.array(self.size, np.uint64),
            np.array(self.thread, np.uint32),
        )
