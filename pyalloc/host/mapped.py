"""The files that processes of this host map, when they are told what to map.

Where a mapped file's pages are, and in which pieces, depends on how it was written: these are
written page by page, on a disk's file system, and brought back to that state when asked.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pyalloc.host.disk import disk_folder, read_ahead_setting
from pyalloc.units import PAGE

_BIG, _SMALL, _SHARED = 64 * PAGE, 12388, 32 * PAGE


class Files:
    """The files that sequences map: 64 pages, 4 pages less a bit, and 32 pages of shared memory.

    The first is opened a second time for reading only, the second for writing only.

    Attributes
    ----------
    read_ahead
        Bytes that are read ahead of them at most.
    spoiled
        Whether somebody has dropped pages of them from the page cache since they were written.
    """

    def __init__(self, folder: Path) -> None:
        big, small = folder / "big", folder / "small"
        self._anchor = _anchor(folder / "anchor")
        self.read_ahead = int(read_ahead_setting(folder).read_text(encoding="ascii")) << 10
        self.spoiled = True
        memory = os.memfd_create("shared")
        os.write(memory, bytes(_SHARED))
        self.names = [str(big), str(big), str(small), "/memfd:shared (deleted)", str(small)]
        self.modes = ["rw", "r", "rw", "rw", "w"]
        self.sizes = [_BIG, _BIG, _SMALL, _SHARED, _SMALL]
        self._flags = [os.O_RDWR, os.O_RDONLY, os.O_RDWR, None, os.O_WRONLY]
        self.descriptors = [
            memory if mode is None else os.open(name, mode | os.O_CREAT)
            for name, mode in zip(self.names, self._flags, strict=True)
        ]
        self.settle()

    def settle(self) -> None:
        """Bring the files back to how they are: whole, in the page cache and clean.

        They are opened anew, or read-ahead would remember what was read of them before.
        """
        os.ftruncate(self.descriptors[3], _SHARED)
        if self.spoiled:
            for place in (0, 2):
                _write_pages(self.descriptors[place], self.sizes[place])
            self.spoiled = False
        for descriptor, size in zip(self.descriptors[:4], self.sizes, strict=False):
            if descriptor == self.descriptors[3]:
                os.pwrite(descriptor, bytes(size), 0)
            else:
                os.pread(descriptor, size, 0)
                os.fsync(descriptor)
        for descriptor, name, flags in zip(self.descriptors, self.names, self._flags, strict=True):
            if flags is not None:
                opened = os.open(name, flags)
                os.dup2(opened, descriptor, inheritable=False)
                os.close(opened)

    def drain(self) -> None:
        """Bring every page of this host to the list it belongs to.

        Each processor keeps some pages in a batch first; until then MADV_FREE, MADV_COLD and
        MADV_PAGEOUT pass them over, or show nothing.  To forget a page that is mapped is what
        makes the kernel empty all batches (``lru_add_drain_all``).
        """
        os.posix_fadvise(self._anchor[0], 0, 0, os.POSIX_FADV_DONTNEED)

    def close(self) -> None:
        """Close them."""
        self._anchor[1].close()
        os.close(self._anchor[0])
        for descriptor in self.descriptors:
            os.close(descriptor)


def _write_pages(descriptor: int, size: int) -> None:
    """Write a file anew, page by page: it is cached in single pages then."""
    os.ftruncate(descriptor, 0)
    for at in range(0, size, PAGE):
        os.pwrite(descriptor, bytes(min(PAGE, size - at)), at)


def _anchor(path: Path) -> tuple[int, mmap.mmap]:
    """Return a file of one page, opened, and its mapping, which has the page."""
    path.write_bytes(bytes(PAGE))
    descriptor = os.open(path, os.O_RDWR)
    os.fsync(descriptor)
    mapping = mmap.mmap(descriptor, PAGE)
    mapping.read_byte()
    return descriptor, mapping


@contextlib.contextmanager
def mapped_files() -> Iterator[Files]:
    """Make the files that sequences map, in a folder of their own."""
    with tempfile.TemporaryDirectory(prefix="pyalloc-verify-", dir=disk_folder()) as folder:
        files = Files(Path(folder))
        try:
            yield files
        finally:
            files.close()
