"""Files in the page cache, as a user of a machine holds them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pyalloc.arguments import words
from pyalloc.errors import ArgumentError, WrongType
from pyalloc.kernel.files import Inode, OpenFile
from pyalloc.units import PAGE

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
        resize(self.machine, self.inode, size)

    def sync(self) -> None:
        """Write its dirty pages back, as ``fsync``."""
        self.machine.ram.clean_object(self.machine.object_of(self.inode), 0, self.inode.pages)

    def drop_cache(self) -> None:
        """Forget its clean pages that nobody maps, as ``POSIX_FADV_DONTNEED``."""
        self.machine.ram.forget_object(self.machine.object_of(self.inode), 0, self.inode.pages)

    def __repr__(self) -> str:
        return f"<File {self.name} {self.size} bytes>"


def resize(machine: Machine, inode: Inode, size: int, *, zeroes: bool = True) -> None:
    """Set the size of a file; nobody keeps pages past its end, not even copies of his own.

    Where a file is cut inside a page, or grows (6.x) from there, its file system makes the rest of
    that page zeros (``ext4_block_truncate_page``), unless a write that begins before it ``zeroes``
    nothing.
    """
    number, edge = machine.object_of(inode), min(inode.bytes_size, size)
    grows = size > inode.bytes_size
    inode.bytes_size = size
    machine.ram.resize_object(number, size)
    if zeroes and edge % PAGE and not inode.shmem and (machine.profile.modern or not grows):
        machine.ram.zero_edge(number, edge)
    if inode.areas:
        for process in machine.processes.values():
            if process.alive:
                process.pages.cut_off(inode)


def folio_order(size: int) -> int:
    """Return the order of a folio of ``size`` bytes.

    >>> folio_order(65536)
    4
    """
    pages = size // PAGE
    if size % PAGE or not 1 <= pages <= 512 or pages & (pages - 1):
        message = f"folio must be a power of two from 4096 to 2 MiB (got {size})"
        raise ArgumentError(message)
    return pages.bit_length() - 1


def open_file(file: File, mode: str) -> OpenFile:
    """Return an open file description of ``file``; ``mode`` is ``"r"``, ``"w"`` or ``"rw"``."""
    given: object = file
    if not isinstance(given, File):
        message = f"file must be a File of the machine (got {given!r})"
        raise WrongType(message)
    if words(mode, "mode") not in _MODES:
        message = f"mode must be 'r', 'w' or 'rw' (got {mode!r})"
        raise ArgumentError(message)
    readable, writable = _MODES[mode]
    machine = file.machine
    stream = 0 if file.inode.shmem else machine.ram.add_stream(machine.read_ahead)
    return OpenFile(file.inode, readable=readable, writable=writable, stream=stream)
