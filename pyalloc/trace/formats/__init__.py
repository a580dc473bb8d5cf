"""Other tools' trace formats, by name."""

from __future__ import annotations

from typing import IO, TYPE_CHECKING, Final, Protocol

from pyalloc.trace.formats import heaptrack, ltrace, mtrace, rep, valgrind

if TYPE_CHECKING:
    from pathlib import Path

    from pyalloc.trace.table import Trace

SNIFF_BYTES: Final = 1 << 16
"""How much of a file :func:`sniff` wants to see."""


class Format(Protocol):
    """One trace format: a module, or anything shaped like one."""

    NAME: str

    def looks_like(self, head: bytes) -> bool:
        """Return whether a file that begins with ``head`` is of this format."""

    def read(self, path: Path) -> Trace:
        """Return the trace in ``path``."""


class WritableFormat(Format, Protocol):
    """A format that can be written, too."""

    def write(self, trace: Trace, file: IO[bytes]) -> None:
        """Write ``trace`` to ``file``."""


READERS: Final[dict[str, Format]] = {
    module.NAME: module for module in (mtrace, valgrind, heaptrack, rep, ltrace)
}
WRITERS: Final[dict[str, WritableFormat]] = {
    module.NAME: module for module in (mtrace, ltrace, rep)
}


def names() -> list[str]:
    """Return the names of the formats that can be read."""
    return list(READERS)


def writable() -> list[str]:
    """Return the names of the formats that can be written."""
    return list(WRITERS)


def sniff(head: bytes) -> str | None:
    """Return the name of the format of a file that begins with ``head``."""
    return next((name for name, reader in READERS.items() if reader.looks_like(head)), None)


def read(path: Path, name: str) -> Trace:
    """Return the trace in ``path``, which is of format ``name``."""
    return READERS[name].read(path)


def write(trace: Trace, file: IO[bytes], name: str) -> None:
    """Write ``trace`` to ``file`` in format ``name``."""
    WRITERS[name].write(trace, file)
