"""What a mapping can stand on: inodes, open files, shared-anonymous objects.

Two mappings are of the same file for the kernel if they stem from the same *open* file; two
descriptors of one inode never merge.  Source: ``mm/shmem.c`` and ``mm/mmap.c`` of Linux 6.12.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

from pyalloc.units import PAGE

MAX_LFS_FILESIZE: Final = (1 << 63) - 1
"""The largest offset into any file of a 64-bit kernel."""


class Commit(Protocol):
    """Commit accounting as one process sees it; see :mod:`pyalloc.kernel.overcommit`."""

    @property
    def strict(self) -> bool:
        """Whether ``vm.overcommit_memory`` is 2, which overrules MAP_NORESERVE."""

    def charge(self, pages: int) -> bool:
        """Promise ``pages`` more, or change nothing and return False."""

    def uncharge(self, pages: int) -> None:
        """Take the promise of ``pages`` back."""


class FreeCommit:
    """A machine that promises everything and keeps count (``vm.overcommit_memory`` 1)."""

    strict = False

    def __init__(self) -> None:
        self.committed = 0

    def charge(self, pages: int) -> bool:
        """Count ``pages``; always true."""
        self.committed += pages
        return True

    def uncharge(self, pages: int) -> None:
        """Count ``pages`` less."""
        self.committed -= pages


@dataclass(eq=False, slots=True)
class Inode:
    """An object with pages of its own; ``bytes_size`` decides where SIGBUS begins.

    ``areas`` counts the areas that map it, over all processes, and ``opened`` the descriptors.
    ``charged`` pages are promised by ``commit`` until the last area goes; only shared-anonymous
    objects are charged so.  ``promised`` says that its pages are promised one by one, as they come
    to be: those of tmpfs and memfd, and shared-anonymous ones of MAP_NORESERVE.
    """

    name: str
    number: int = 0
    major: int = 0
    minor: int = 0
    bytes_size: int = 0
    shmem: bool = False
    deleted: bool = False
    areas: int = 0
    opened: int = 0
    promised: bool = False
    charged: int = 0
    commit: Commit | None = None

    @property
    def most_bytes(self) -> int:
        """The largest size it can have: of ext4 with 4 kB blocks, or of shared memory."""
        return MAX_LFS_FILESIZE if self.shmem else (1 << 44) - PAGE

    @property
    def pages(self) -> int:
        """Pages that hold at least one byte of it."""
        return -(-self.bytes_size // PAGE)

    @staticmethod
    def holds(first: int, length: int) -> bool:
        """Return whether any file can be mapped from page ``first`` on (``file_mmap_ok``)."""
        return length <= MAX_LFS_FILESIZE and first <= (MAX_LFS_FILESIZE - length) // PAGE

    @property
    def unused(self) -> bool:
        """Whether it is shared memory that nobody can reach any more."""
        return self.shmem and self.deleted and not self.areas and not self.opened

    @property
    def path(self) -> str:
        """The name as ``/proc/PID/maps`` prints it."""
        return self.name + " (deleted)" * self.deleted

    def attach(self) -> None:
        """Count one more area."""
        self.areas += 1

    def detach(self) -> None:
        """Count one area less; the last one of a shared-anonymous object gives its charge back."""
        self.areas -= 1
        if not self.areas and self.charged and self.commit is not None:
            self.commit.uncharge(self.charged)
            self.charged = 0


@dataclass(eq=False, slots=True)
class OpenFile:
    """An open file description: an inode and what it may be mapped for.

    ``stream`` is the page layer's number of its readahead state; 0: it has none.
    """

    inode: Inode
    readable: bool = True
    writable: bool = False
    stream: int = 0


def shared_anonymous(length: int, commit: Commit, number: int, *, charged: bool) -> OpenFile:
    """Return the object behind a shared anonymous mapping of ``length`` bytes, already charged.

    Its size is fixed here for good: growing the mapping later does not grow the object.
    """
    pages = length // PAGE
    inode = Inode(
        "/dev/zero",
        number=number,
        minor=1,
        bytes_size=length,
        shmem=True,
        deleted=True,
        charged=pages if charged else 0,
        promised=not charged,
        commit=commit if charged else None,
    )
    return OpenFile(inode, writable=True)
