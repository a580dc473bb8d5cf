"""The files that processes of this host map, when they are told what to map.

Where a mapped file's pages are, and in which pieces, depends on how it was written: these are
written page by page, on a disk's file system, and brought back to that state when asked.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pyalloc.host.compile import HostError
from pyalloc.units import PAGE

_BIG, _SMALL, _SHARED = 64 * PAGE, 12388, 32 * PAGE
_ELSEWHERE: Final = ("/var/tmp", ".")  # noqa: S108 - a folder of a random name is made in it


class Files:
    """The files that sequences map: 64 pages, 4 pages less a bit, and 32 pages of shared memory.

    The first is opened a second time for reading only, the second for writing only.
    """

    def __init__(self, folder: Path) -> None:
        if not os.major(folder.stat().st_dev):
            message = (
                f"{folder} is not on a disk's file system, whose way with mapped files the model "
                "knows; set TMPDIR to one that is"
            )
            raise HostError(message)
        big, small = folder / "big", folder / "small"
        _write_pages(big, _BIG)
        _write_pages(small, _SMALL)
        memory = os.memfd_create("shared")
        os.write(memory, bytes(_SHARED))
        self.names = [str(big), str(big), str(small), "/memfd:shared (deleted)", str(small)]
        self.modes = ["rw", "r", "rw", "rw", "w"]
        self.sizes = [_BIG, _BIG, _SMALL, _SHARED, _SMALL]
        opened = [os.O_RDWR, os.O_RDONLY, os.O_RDWR, None, os.O_WRONLY]
        self.descriptors = [
            memory if mode is None else os.open(name, mode)
            for name, mode in zip(self.names, opened, strict=True)
        ]
        self.settle()

    def settle(self) -> None:
        """Bring the files back to how they are: whole, in the page cache and clean."""
        os.ftruncate(self.descriptors[3], _SHARED)
        for descriptor, size in zip(self.descriptors[:4], self.sizes, strict=False):
            if descriptor == self.descriptors[3]:
                os.pwrite(descriptor, bytes(size), 0)
            else:
                os.pread(descriptor, size, 0)
                os.fsync(descriptor)

    def close(self) -> None:
        """Close them."""
        for descriptor in self.descriptors:
            os.close(descriptor)


def _write_pages(path: Path, size: int) -> None:
    """Write a file page by page: it is cached in single pages then."""
    with path.open("wb", buffering=0) as file:
        for at in range(0, size, PAGE):
            file.write(bytes(min(PAGE, size - at)))


@contextlib.contextmanager
def mapped_files() -> Iterator[Files]:
    """Make the files that sequences map, in a folder of their own."""
    with tempfile.TemporaryDirectory(prefix="pyalloc-verify-", dir=_disk()) as folder:
        files = Files(Path(folder))
        try:
            yield files
        finally:
            files.close()


def _disk() -> str | None:
    """Return a folder for temporary files on a disk, None for the usual one."""
    usual = Path(tempfile.gettempdir())
    if os.major(usual.stat().st_dev):
        return None
    return next((at for at in _ELSEWHERE if os.major(Path(at).stat().st_dev)), None)
