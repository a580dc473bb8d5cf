"""Resource limits of one process, soft values, as ``setrlimit`` sets them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final

from pyalloc.errors import ArgumentError

INFINITY: Final = (1 << 64) - 1
"""RLIM_INFINITY of a 64-bit process; large enough to be no limit for any other."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits that memory calls look at, in bytes.

    ``address_space`` is RLIMIT_AS, ``data`` RLIMIT_DATA, ``stack`` RLIMIT_STACK and ``memlock``
    RLIMIT_MEMLOCK; ``data_hard`` is the hard limit that a soft RLIMIT_DATA of 0 falls back to.
    ``ipc_lock`` is the capability that lifts ``memlock``.
    """

    address_space: int = INFINITY
    data: int = INFINITY
    stack: int = 8 << 20
    memlock: int = 8 << 20
    data_hard: int = INFINITY
    ipc_lock: bool = False

    def __post_init__(self) -> None:
        for item in fields(self):
            if getattr(self, item.name) < 0:
                message = f"{item.name} must not be negative (got {getattr(self, item.name)!r})"
                raise ArgumentError(message)
