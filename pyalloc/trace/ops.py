"""The calls a trace row can hold, numbered as the engine numbers them (enum pa_op in heap.h)."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

NULL_BLOCK: Final = 0xFFFFFFFF
"""The block number that stands for the NULL pointer."""


class Op(IntEnum):
    """One call of the malloc interface, or one thing that moves memory beside it."""

    MALLOC = 0
    CALLOC = 1
    REALLOC = 2
    FREE = 3
    MEMALIGN = 4
    POSIX_MEMALIGN = 5
    ALIGNED_ALLOC = 6
    VALLOC = 7
    PVALLOC = 8
    MALLOC_TRIM = 9
    MALLOPT = 10
    SBRK = 11
    MMAP = 12
    MUNMAP = 13
    TOUCH = 14
    THREAD_EXIT = 15


ALLOCATES: Final = frozenset(
    {
        Op.MALLOC,
        Op.CALLOC,
        Op.REALLOC,
        Op.MEMALIGN,
        Op.POSIX_MEMALIGN,
        Op.ALIGNED_ALLOC,
        Op.VALLOC,
        Op.PVALLOC,
    }
)
"""Operations that return a block of the heap."""

ALIGNS: Final = frozenset({Op.MEMALIGN, Op.POSIX_MEMALIGN, Op.ALIGNED_ALLOC})
"""Operations whose ``arg`` is an alignment in bytes."""
