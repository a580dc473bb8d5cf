"""A process's descriptors, and the system calls on files.

Sources: ``mm/filemap.c``, ``mm/shmem.c`` and ``mm/memfd.c`` of Linux 6.12.
"""

from __future__ import annotations

import errno
import operator
from typing import TYPE_CHECKING, Final

from pyalloc.arguments import registers, words
from pyalloc.errors import EndlessFault
from pyalloc.kernel.abi import fail
from pyalloc.kernel.files import Inode, OpenFile
from pyalloc.machine.files import File, open_file, resize
from pyalloc.units import PAGE

if TYPE_CHECKING:
    from pyalloc.machine.cgroup import Cgroup
    from pyalloc.machine.machine import Machine
    from pyalloc.machine.memory import ProcessPages
    from pyalloc.machine.sequences import Sequences

_MOST_BYTES: Final = 0x7FFFF000
"""What one read or write moves at most (MAX_RW_COUNT)."""


class FileCalls:
    """The part of :class:`~pyalloc.Process` that is about files."""

    machine: Machine
    pid: int
    name: str
    uid: int
    alive: bool
    cgroup: Cgroup | None
    pages: ProcessPages
    files: dict[int, OpenFile]
    sequences: Sequences | None
    mask: int
    """The largest number a register holds."""

    def require_alive(self) -> None:
        """Raise ProcessKilled if the process has ended."""
        raise NotImplementedError

    def out_of_memory(self) -> None:
        """Let the OOM killer make room for this process."""
        raise NotImplementedError

    def go_on(self) -> None:
        """Return from a call to the program; if it has waited, the kernel uses a page of it."""
        if self.sequences is not None and self.alive:
            self.pages.table.returns()

    # --- descriptors --------------------------------------------------------------------

    def open(self, file: File, mode: str = "rw") -> int:
        """Open ``file`` for ``"r"``, ``"w"`` or ``"rw"`` and return the lowest free descriptor."""
        return self._take_descriptor(open_file(file, mode))

    def memfd_create(self, name: str) -> int:
        """Make an empty file of shared memory that nobody else sees, and return its descriptor.

        Its pages are promised one by one when they are first touched; ``m.meminfo()`` counts them
        as ``Shmem``.
        """
        words(name, "name")
        inode = Inode(
            f"/memfd:{name}",
            number=self.machine.take_inode(),
            minor=1,
            shmem=True,
            deleted=True,
            promised=True,
        )
        return self._take_descriptor(OpenFile(inode, writable=True))

    def close(self, fd: int) -> None:
        """Close a descriptor; mappings of it stay."""
        file = self._file(fd)
        file.inode.opened -= 1
        del self.files[operator.index(fd)]
        self.machine.objects_changed = True
        self.machine.drop_dead_objects()

    def close_all(self) -> None:
        """Close every descriptor; the process ends."""
        for file in self.files.values():
            file.inode.opened -= 1
        self.files.clear()
        self.machine.objects_changed = True

    def inherited(self) -> dict[int, OpenFile]:
        """Return the descriptors of a child."""
        for file in self.files.values():
            file.inode.opened += 1
        return dict(self.files)

    def _take_descriptor(self, file: OpenFile) -> int:
        self.require_alive()
        fd = next(n for n in range(3, len(self.files) + 4) if n not in self.files)
        file.inode.opened += 1
        self.files[fd] = file
        return fd

    def _file(self, fd: int) -> OpenFile:
        self.require_alive()
        if type(fd) is not int:
            (fd,) = registers(-1, fd=fd)
        if fd not in self.files:
            fail(errno.EBADF)
        return self.files[fd]

    # --- reading and writing ------------------------------------------------------------

    def read(self, fd: int, length: int, offset: int = 0) -> int:
        """Read bytes through the page cache, as ``pread``; return how many there were.

        Raises
        ------
        OSError
            EBADF: not open for reading; EINVAL: a negative offset.
        """
        file = self._file(fd)
        if not file.readable:
            fail(errno.EBADF)
        length, offset = self._extent(length, offset)
        there = max(min(length, file.inode.bytes_size - offset), 0)
        if there:  # what is asked for past the end widens the window that is read ahead
            self._access_file(file, offset, length, write=False)
        return there

    def write(self, fd: int, length: int, offset: int = 0) -> int:
        """Write bytes into the page cache, as ``pwrite``; the file grows if need be.

        Returns how many were written; of shared memory fewer than ``length`` if the overcommit
        policy does not let it have more.

        Raises
        ------
        OSError
            EBADF: not open for writing; EINVAL: a negative offset; EFBIG: past the largest size;
            ENOSPC: no shared memory may be promised.
        """
        file = self._file(fd)
        if not file.writable:
            fail(errno.EBADF)
        length, offset = self._extent(length, offset)
        if length and offset >= file.inode.most_bytes:
            fail(errno.EFBIG)
        length = min(length, file.inode.most_bytes - offset)
        if length and offset + length > file.inode.bytes_size:
            gap = offset > file.inode.bytes_size
            resize(self.machine, file.inode, offset + length, zeroes=gap)
        written = self._access_file(file, offset, length, write=True)
        if length and not written:
            fail(errno.ENOSPC)
        return written

    def ftruncate(self, fd: int, length: int) -> int:
        """Set the size of a file in bytes; pages past the end are dropped, mapped or not.

        Raises
        ------
        OSError
            EBADF: no such descriptor; EINVAL: not open for writing, or a negative length; EFBIG.
        """
        file = self._file(fd)
        (length,) = registers((1 << 64) - 1, length=length)
        if length >> 63 or not file.writable:
            fail(errno.EINVAL)
        if length > file.inode.most_bytes:
            fail(errno.EFBIG)
        resize(self.machine, file.inode, length)
        return 0

    def _extent(self, length: int, offset: int) -> tuple[int, int]:
        length, offset = registers((1 << 64) - 1, length=length, offset=offset)
        if offset >> 63 or (length & self.mask) >> (self.mask.bit_length() - 1):
            fail(errno.EINVAL)
        return min(length & self.mask, _MOST_BYTES), offset

    def _access_file(self, file: OpenFile, offset: int, length: int, *, write: bool) -> int:
        """Read or write; return how many bytes."""
        if not length:
            return 0
        machine, number = self.machine, self.machine.object_of(file.inode)
        at, end = offset, offset + length
        group = self.cgroup.number if self.cgroup else 0
        while at < end:
            if file.inode.promised:
                machine.promises.watch_shared(self, -(-end // PAGE) - at // PAGE)
            done, dry = machine.ram.access_object(
                group, number, at, end, write=write, stream=file.stream
            )
            at = (at // PAGE + done) * PAGE if done else at
            if not dry:
                break
            try:
                self.out_of_memory()
            except EndlessFault:  # a system call does not try again
                if at > offset:
                    break
                fail(errno.ENOMEM)
        self.go_on()
        return min(at, end) - offset
