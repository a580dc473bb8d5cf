"""The words of a call: as it is written in C, and small helpers of sentences."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np

from pyalloc.trace import Op
from pyalloc.trace.table import Row


def plural(count: int, one: str) -> str:
    """Return a number of things.

    >>> plural(2, "page fault")
    '2 page faults'
    """
    return f"{count:,} {one}{'s' * (count != 1)}"


def signed(value: int) -> int:
    """Return a column's value as the C int that it is."""
    return int(np.int64(np.uint64(value)))


def pointer_text(address: int) -> str:
    """Return an address, or NULL."""
    return f"{address:#x}" if address else "NULL"


def call_text(call: Row, pointer: int) -> str:
    """Return a call as in C; ``pointer`` is what it passes."""
    return _TEXTS.get(call.op, _plain)(call, pointer_text(pointer))


def _plain(call: Row, pointer: str) -> str:  # noqa: ARG001 - as all of them are called
    return f"{call.op.name.lower()}({call.size:,})"


_TEXTS: Final[Mapping[Op, Callable[[Row, str], str]]] = {
    Op.FREE: lambda _, p: f"free({p})",
    Op.REALLOC: lambda c, p: f"realloc({p}, {c.size:,})",
    Op.CALLOC: lambda c, _: f"calloc(1, {c.size:,})",
    Op.MEMALIGN: lambda c, _: f"memalign({c.arg:,}, {c.size:,})",
    Op.ALIGNED_ALLOC: lambda c, _: f"aligned_alloc({c.arg:,}, {c.size:,})",
    Op.POSIX_MEMALIGN: lambda c, _: f"posix_memalign(&p, {c.arg:,}, {c.size:,})",
    Op.MALLOPT: lambda c, _: f"mallopt({signed(c.arg)}, {signed(c.size):,})",
    Op.SBRK: lambda c, _: f"sbrk({signed(c.size):,})",
    Op.THREAD_EXIT: lambda *_: "the end of a thread",
    Op.TOUCH: lambda *_: "an access to memory",
}
