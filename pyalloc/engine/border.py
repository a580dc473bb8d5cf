"""The border itself: the one module that imports cffi's ``ffi`` and ``lib``.

The modules beside it take both from here, and no ``ffi`` object leaves the package.  Status codes
become exceptions in :func:`check` and nowhere else.
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

from pyalloc._engine import ffi, lib
from pyalloc.errors import ArgumentError, EngineBug, EngineBusy, EngineLimit

__all__ = ["UNLIMITED", "CData", "Mortal", "check", "ffi", "lib", "text"]

CData: TypeAlias = Any
"""A pointer or a struct of cffi, which have no type of their own."""

UNLIMITED: Final = 2**64 - 1
"""As a limit: there is none."""

_EXCEPTIONS: Final[dict[int, type[Exception]]] = {
    lib.PA_ERR_HOST_NOMEM: MemoryError,
    lib.PA_ERR_INVALID: ArgumentError,
    lib.PA_ERR_LIMIT: EngineLimit,
    lib.PA_ERR_CORRUPT: EngineBug,
    lib.PA_ERR_BUSY: EngineBusy,
    lib.PA_GUARDED: EngineLimit,  # only a heap's own writes: an allocator does not stop half-way
}


def text(pointer: CData) -> str:
    """Return the text that a ``char *`` points to."""
    return str(ffi.string(pointer).decode())


def check(status: int, doing: str) -> None:
    """Raise for ``status`` unless it is PA_OK; ``doing`` completes 'while ...'."""
    if status:
        message = f"{text(lib.pa_status_text(status))} (while {doing})"
        raise _EXCEPTIONS[status](message)


_BOUND: Final = frozenset(
    ("handle", "lowest", "moved", "pass_time", "protect", "set_brk", "system_call", "unmap")
)
"""What engine objects lose when they end."""


class Mortal:
    """What has a ``handle`` only while it lives: a call on it afterwards is an error, no crash."""

    __slots__ = ()
    _end = ""

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - asked only for what is missing
        if name not in _BOUND:
            raise AttributeError(name)
        raise ArgumentError(self._end)
