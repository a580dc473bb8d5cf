"""The questions with which the engine stops."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Final

from pyalloc.engine.border import CData, lib

PENDING: Final[int] = lib.PA_PENDING
"""In place of a pointer: the call is stopped, policy must answer (``Heap.stop``)."""

STOP_BRK: Final[int] = lib.PA_STOP_BRK
STOP_MMAP: Final[int] = lib.PA_STOP_MMAP
STOP_MREMAP: Final[int] = lib.PA_STOP_MREMAP
STOP_MUNMAP: Final[int] = lib.PA_STOP_MUNMAP
STOP_MPROTECT: Final[int] = lib.PA_STOP_MPROTECT
STOP_FRAMES: Final[int] = lib.PA_STOP_FRAMES
STOP_ABORT: Final[int] = lib.PA_STOP_ABORT
STOP_TOUCH: Final[int] = lib.PA_STOP_TOUCH


@dataclass(frozen=True, slots=True)
class Stop:
    """A question of the engine to policy; addresses and lengths in bytes."""

    reason: int
    address: int
    length: int
    old_length: int
    prot: int
    answer: int


_READ_STOP: Final = operator.attrgetter(*Stop.__slots__)


def stop_of(struct: CData) -> Stop:
    """Return the question that a ``pa_stop`` holds."""
    return Stop(*_READ_STOP(struct))
