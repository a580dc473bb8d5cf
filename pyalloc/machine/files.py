"""Files in the page cache, as a user of a machine holds them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pyalloc.errors import ArgumentError
from pyalloc.kernel.files import Inode, OpenFile

if TYPE_CHECKING:
    from pyalloc.machine.machine import Machine

_MODES: Final = {"r": (True, False), "w": (False, True), "rw": (True, True)}


class File:
    """A file of a machine; made by :meth:`Machine.file <pyalloc.Machine.file>`."""

    def __init__(self, machine: Machine, inode: Inode) -> None:
        self.machine = machine
        self.inode = inode

    @property
    def name(self) -> str:
        """Its path."""
        return self.inode.name

    @property
    def size(self) -> int:
        """Its size in bytes."""
        return self.inode.bytes_size

    @property
    def cached(self) -> int:
        """How many of its pages are in the page cache."""
        return self.machine.ram.object_resident(self.machine.object_of(self.inode))

    def truncate(self, size: int) -> None:
        """Change its size in bytes; pages past the end are dropped, mapped or not."""
        if size < 0:
            message = f"a file's size must not be negative (got {size})"
            raise ArgumentError(message)
        self.inode.bytes_size = size
        self.machine.ram.resize_object(self.machine.object_of(self.inode), self.inode.pages)

    def __repr__(self) -> str:
        return f"<File {self.name} {self.size} bytes>"


def open_file(file: File, mode: str) -> OpenFile:
    """Return an open file description of ``file``; ``mode`` is ``"r"``, ``"w"`` or ``"rw"``."""
    if mode not in _MODES:
        message = f"mode must be 'r', 'w' or 'rw' (got {mode!r})"
        raise ArgumentError(message)
    readable, writable = _MODES[mode]
    return OpenFile(file.inode, readable=readable, writable=writable)
