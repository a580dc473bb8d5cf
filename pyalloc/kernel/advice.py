"""``madvise``.  Sources: ``mm/madvise.c`` and ``mm/gup.c`` of Linux 6.12, 2.6.11 and 2.6.18."""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from pyalloc.kernel.abi import (
    MADV,
    VM_DONTCOPY,
    VM_DONTDUMP,
    VM_HUGEPAGE,
    VM_IO,
    VM_LOCKED,
    VM_MAYBE_GUARD,
    VM_MAYSHARE,
    VM_MAYWRITE,
    VM_MERGEABLE,
    VM_NOHUGEPAGE,
    VM_PFNMAP,
    VM_RAND_READ,
    VM_READ,
    VM_SEQ_READ,
    VM_SHARED,
    VM_SPECIAL,
    VM_WIPEONFORK,
    VM_WRITE,
    fail,
)
from pyalloc.kernel.area import Vma
from pyalloc.kernel.layout import page_ceil
from pyalloc.kernel.placement import HUGE, fits_huge
from pyalloc.units import PAGE

if TYPE_CHECKING:
    from pyalloc.kernel.vma import AddressSpace

_FLAGS: Final = {
    MADV.NORMAL: (VM_RAND_READ | VM_SEQ_READ, 0),
    MADV.SEQUENTIAL: (VM_RAND_READ, VM_SEQ_READ),
    MADV.RANDOM: (VM_SEQ_READ, VM_RAND_READ),
    MADV.DONTFORK: (0, VM_DONTCOPY),
    MADV.DOFORK: (VM_DONTCOPY, 0),
    MADV.WIPEONFORK: (0, VM_WIPEONFORK),
    MADV.KEEPONFORK: (VM_WIPEONFORK, 0),
    MADV.DONTDUMP: (0, VM_DONTDUMP),
    MADV.DODUMP: (VM_DONTDUMP, 0),
    MADV.HUGEPAGE: (VM_NOHUGEPAGE, VM_HUGEPAGE),
    MADV.NOHUGEPAGE: (VM_HUGEPAGE, VM_NOHUGEPAGE),
    MADV.MERGEABLE: (0, VM_MERGEABLE),
    MADV.UNMERGEABLE: (VM_MERGEABLE, 0),
}
"""Advice that only changes flags: those it clears, those it sets."""

_NEW: Final = frozenset({MADV.GUARD_INSTALL, MADV.GUARD_REMOVE})
"""What 6.18 knows and 6.12 does not."""
_OLD: Final = frozenset({MADV.NORMAL, MADV.RANDOM, MADV.SEQUENTIAL, MADV.WILLNEED, MADV.DONTNEED})
_OLD_18: Final = _OLD | {MADV.REMOVE, MADV.DONTFORK, MADV.DOFORK}


def madvise(space: AddressSpace, addr: int, length: int, advice: int) -> int:
    """Apply ``advice`` to a range; a hole is passed over and reported as ENOMEM at the end.

    Raises
    ------
    OSError
        EINVAL for unknown advice, a bad range or an area it does not fit; ENOMEM, EACCES, EFAULT,
        EBADF (2.6) or EAGAIN.
    """
    known = _known(space, advice)
    end = addr + page_ceil(length)
    if known is None or addr % PAGE or end >= 1 << (8 * space.profile.word):
        fail(errno.EINVAL)
    if known in (MADV.POPULATE_READ, MADV.POPULATE_WRITE):
        return _populate(space, addr, end, write=known == MADV.POPULATE_WRITE)
    at, hole = addr, False
    while at < end:
        vma = space.find(at)
        if vma is None or vma.start >= end:
            fail(errno.ENOMEM)
        hole |= at < vma.start
        at = max(at, vma.start)
        stop = min(vma.end, end)
        _advise(space, vma, at, stop, known)
        at = stop
    if hole:
        fail(errno.ENOMEM)
    return 0


def _known(space: AddressSpace, advice: int) -> MADV | None:
    try:
        known = MADV(advice)
    except ValueError:
        return None
    if space.profile.modern:
        return None if known in _NEW and space.profile.name == "6.12" else known
    return known if known in (_OLD if space.profile.name == "2.6.11" else _OLD_18) else None


def _populate(space: AddressSpace, start: int, end: int, *, write: bool) -> int:
    """Fault in a range up to the first page that cannot be had, and fail there."""
    at = start
    while at < end:
        vma = space.at(at)
        if vma is None:
            fail(errno.ENOMEM)
        allowed = vma.flags & (VM_WRITE if write else VM_READ)
        if not allowed or vma.flags & (VM_IO | VM_PFNMAP):
            fail(errno.EINVAL)
        stop = min(vma.end, end)
        if write and vma.private:
            space.areas.prepare_anon(vma)
        whole = space.pages.populate(vma, at, stop, write, own=True, tries=True)
        if not whole or vma.object_end < stop:
            fail(errno.EFAULT)
        at = stop
    return 0


def _advise(space: AddressSpace, vma: Vma, start: int, end: int, advice: MADV) -> None:
    """Apply advice to a part of one area (``madvise_vma_behavior``)."""
    act = _ACTIONS.get(advice)
    if act is not None:
        act(space, vma, start, end, advice)
    elif advice in _FLAGS:
        _set_flags(space, vma, start, end, advice)


def _discard(space: AddressSpace, vma: Vma, start: int, end: int, advice: MADV) -> None:
    if vma.flags & (VM_PFNMAP | (VM_LOCKED if advice == MADV.DONTNEED else 0)):
        fail(errno.EINVAL)
    space.pages.discard(start, end)


def _free(space: AddressSpace, vma: Vma, start: int, end: int, _advice: MADV) -> None:
    if vma.flags & (VM_LOCKED | VM_PFNMAP) or not vma.anonymous or vma.flags & VM_SHARED:
        fail(errno.EINVAL)
    space.pages.lazyfree(start, end)


def _age(space: AddressSpace, vma: Vma, start: int, end: int, advice: MADV) -> None:
    if vma.flags & (VM_LOCKED | VM_PFNMAP):
        fail(errno.EINVAL)
    if not vma.kernels_own:
        (space.pages.cool if advice == MADV.COLD else space.pages.page_out)(start, end)


def _guard(space: AddressSpace, vma: Vma, start: int, end: int, advice: MADV) -> None:
    """Install guards or remove them; a locked area takes none, but loses those it has."""
    install = advice == MADV.GUARD_INSTALL
    if vma.flags & (VM_SPECIAL | (VM_LOCKED if install else 0)):
        fail(errno.EINVAL)
    if install:
        vma.flags |= VM_MAYBE_GUARD
        if vma.anonymous:
            space.areas.prepare_anon(vma)
        space.pages.guard(start, end)
    else:
        space.pages.unguard(start, end)


def _read_ahead(space: AddressSpace, vma: Vma, start: int, end: int, _advice: MADV) -> None:
    if vma.file is not None:
        space.pages.read_ahead(vma.file, _index(vma, start), (end - start) // PAGE)
    elif not space.profile.modern:
        fail(errno.EBADF)


def _index(vma: Vma, address: int) -> int:
    """Return the page of its file that an area shows at an address."""
    return vma.pgoff + (address - vma.start) // PAGE


def _remove(space: AddressSpace, vma: Vma, start: int, end: int, _advice: MADV) -> None:
    """Punch a hole into the file (``madvise_remove``); 2.6.18 can do so to shared memory only."""
    if vma.flags & VM_LOCKED or vma.file is None:
        fail(errno.EINVAL)
    inode, modern = vma.file.inode, space.profile.modern
    needed = VM_SHARED | (VM_MAYWRITE if modern else VM_WRITE)
    if vma.flags & needed != needed:
        fail(errno.EACCES)
    if not modern and not inode.shmem:
        fail(errno.ENOSYS)
    first, count = _index(vma, start), (end - start) // PAGE
    if modern and (first + count) * PAGE > inode.most_bytes:
        fail(errno.EFBIG)
    space.pages.punch(inode, first, count)


def _collapse(space: AddressSpace, vma: Vma, start: int, end: int, _advice: MADV) -> None:
    """Make 2 MB pages of what lies whole in the range (``madvise_collapse``).

    A range without any is no error, unless it lies inside 2 MB: its bounds cross then.
    """
    low, high = -(-start // HUGE) * HUGE, end // HUGE * HUGE
    if not _may_be_huge(vma) or high < low:
        fail(errno.EINVAL)
    whole = True
    for at in range(low, high, HUGE):
        if vma.file is not None:
            fail(errno.EINVAL)  # huge pages of shared memory are not modelled
        outcome = space.pages.collapse(vma, at)
        if outcome == "room":
            fail(errno.ENOMEM)
        if outcome == "cannot":
            fail(errno.EINVAL)
        whole &= outcome == "done"
    if not whole:
        fail(errno.EINVAL)


def _may_be_huge(vma: Vma) -> bool:
    """Return whether an area has private pages or shows shared memory, and room for 2 MB."""
    if vma.flags & (VM_NOHUGEPAGE | VM_SPECIAL) or not fits_huge(vma):
        return False
    if vma.file is None:
        return vma.anon_vma is not None
    return vma.file.inode.shmem and (vma.start // PAGE - vma.pgoff) % (HUGE // PAGE) == 0


_ACTIONS: Final[Mapping[MADV, Callable[[AddressSpace, Vma, int, int, MADV], None]]] = {
    MADV.DONTNEED: _discard,
    MADV.DONTNEED_LOCKED: _discard,
    MADV.FREE: _free,
    MADV.COLD: _age,
    MADV.PAGEOUT: _age,
    MADV.REMOVE: _remove,
    MADV.WILLNEED: _read_ahead,
    MADV.GUARD_INSTALL: _guard,
    MADV.GUARD_REMOVE: _guard,
    MADV.COLLAPSE: _collapse,
}
"""Advice that does something to pages."""


def _set_flags(space: AddressSpace, vma: Vma, start: int, end: int, advice: MADV) -> None:
    old = vma.flags
    refused = {
        MADV.DOFORK: old & VM_IO,
        MADV.WIPEONFORK: vma.file is not None or old & VM_SHARED,
        MADV.DODUMP: old & VM_SPECIAL,
    }
    if refused.get(advice):
        fail(errno.EINVAL)
    clear, put = _FLAGS[advice]
    if advice == MADV.MERGEABLE and old & (VM_SHARED | VM_MAYSHARE | VM_SPECIAL):
        return
    flags = old & ~clear | put
    if flags == old and space.profile.flags_merge:
        return
    try:
        space.modify(vma, start, end, flags, join=space.profile.flags_merge)
    except OSError as error:
        fail(errno.EAGAIN if error.errno == errno.ENOMEM else error.errno or 0)
