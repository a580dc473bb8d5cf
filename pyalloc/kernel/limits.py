"""Resource limits of one process, soft values, as ``setrlimit`` sets them."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final

from pyalloc.arguments import truth, whole

INFINITY: Final = (1 << 64) - 1
"""RLIM_INFINITY of a 64-bit process; large enough to be no limit for any other."""

_LINE: Final = re.compile(r"^Max ([a-z ]+?) +(\d+|unlimited) +(\d+|unlimited) ", re.MULTILINE)


def _bytes(text: str) -> int:
    return INFINITY if text == "unlimited" else int(text)


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits that memory calls look at, in bytes.

    ``address_space`` is RLIMIT_AS, ``data`` RLIMIT_DATA, ``stack`` RLIMIT_STACK and ``memlock``
    RLIMIT_MEMLOCK; ``data_hard`` is the hard limit that a soft RLIMIT_DATA of 0 falls back to.
    ``ipc_lock`` is the capability that lifts ``memlock``, ``raw_io`` the one that lets page 0 be
    mapped; None leaves it to who the process is: root has them.
    """

    address_space: int = INFINITY
    data: int = INFINITY
    stack: int = 8 << 20
    memlock: int = 8 << 20
    data_hard: int = INFINITY
    ipc_lock: bool | None = None
    raw_io: bool | None = None

    def __post_init__(self) -> None:
        for name in ("address_space", "data", "stack", "memlock", "data_hard"):
            whole(getattr(self, name), name)
        for name in ("ipc_lock", "raw_io"):
            if getattr(self, name) is not None:
                truth(getattr(self, name), name)

    @classmethod
    def parse(cls, text: str) -> Limits:
        """Return those of a ``/proc/PID/limits`` that decide whether memory is to be had.

        >>> Limits.parse("Max address space     1048576     unlimited   bytes").address_space
        1048576
        """
        found = {name: (soft, hard) for name, soft, hard in _LINE.findall(text)}
        none = ("unlimited", "unlimited")
        space, data = found.get("address space", none), found.get("data size", none)
        return cls(address_space=_bytes(space[0]), data=_bytes(data[0]), data_hard=_bytes(data[1]))

    def of(self, uid: int) -> Limits:
        """Return the limits of a process of user ``uid``: with root's capabilities for root."""
        root = uid == 0
        return replace(
            self,
            ipc_lock=root if self.ipc_lock is None else self.ipc_lock,
            raw_io=root if self.raw_io is None else self.raw_io,
        )
