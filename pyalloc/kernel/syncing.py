"""``msync``: which parts of which files a range of memory shows.

Source: ``mm/msync.c`` of Linux 6.12.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from pyalloc.kernel.abi import VM_LOCKED, VM_SHARED, fail
from pyalloc.kernel.files import OpenFile
from pyalloc.kernel.layout import page_ceil
from pyalloc.units import PAGE

if TYPE_CHECKING:
    from pyalloc.kernel.vma import AddressSpace

MS_ASYNC: Final = 1
MS_INVALIDATE: Final = 2
MS_SYNC: Final = 4


def msync(
    space: AddressSpace, addr: int, length: int, flags: int
) -> tuple[list[tuple[OpenFile, int, int]], int]:
    """Return the files to write back, each with its first page and how many, and an errno.

    The errno is to be returned when they have been written: ENOMEM for a hole, EBUSY where locked
    memory is to be invalidated, else 0.

    Raises
    ------
    OSError
        EINVAL for bad flags or an address inside a page.
    """
    if flags & ~(MS_ASYNC | MS_INVALIDATE | MS_SYNC) or addr % PAGE:
        fail(errno.EINVAL)
    if flags & MS_ASYNC and flags & MS_SYNC:
        fail(errno.EINVAL)
    space_end = 1 << (8 * space.profile.word)
    end = addr + page_ceil(length) % space_end
    if end >= space_end:
        fail(errno.ENOMEM)
    found: list[tuple[OpenFile, int, int]] = []
    at, error = addr, 0
    while at < end:
        vma = space.find(at)
        if vma is None or vma.start >= end or (vma.start > at and flags == MS_ASYNC):
            return found, errno.ENOMEM
        if vma.start > at:
            at, error = vma.start, errno.ENOMEM
        if flags & MS_INVALIDATE and vma.flags & VM_LOCKED:
            return found, errno.EBUSY
        stop = min(vma.end, end)
        if flags & MS_SYNC and vma.file is not None and vma.flags & VM_SHARED:
            found.append((vma.file, vma.pgoff + (at - vma.start) // PAGE, (stop - at) // PAGE))
        at = stop
    return found, error
