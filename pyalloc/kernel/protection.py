"""``mprotect``.  Sources: ``mm/mprotect.c`` of Linux 2.6.11, 2.6.18, 6.12 and 6.18."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from pyalloc.kernel.abi import (
    PROT,
    VM_ACCESS,
    VM_ACCOUNT,
    VM_EXEC,
    VM_GROWSDOWN,
    VM_LOCKED,
    VM_NORESERVE,
    VM_READ,
    VM_SHARED,
    VM_WRITE,
    fail,
)
from pyalloc.kernel.area import Vma
from pyalloc.units import PAGE

if TYPE_CHECKING:
    from pyalloc.kernel.vma import AddressSpace

_GROWSDOWN: Final = int(PROT.GROWSDOWN)
_GROWS: Final = int(PROT.GROWSDOWN | PROT.GROWSUP)
_KNOWN: Final = int(PROT.READ | PROT.WRITE | PROT.EXEC | PROT.SEM) | _GROWS


def mprotect(space: AddressSpace, addr: int, length: int, prot: int) -> int:
    """Change the protection of a range and return 0; see :meth:`AddressSpace.mprotect`."""
    prot |= VM_EXEC if space.read_implies_exec and prot & VM_READ else 0
    grows = prot & _GROWS
    if grows == _GROWS or addr % PAGE:
        fail(errno.EINVAL)
    if not length:
        return 0
    end = addr - (-length // PAGE) * PAGE
    if end >= 1 << (8 * space.profile.word):
        fail(errno.ENOMEM)
    if prot & ~_KNOWN:
        fail(errno.EINVAL)
    vma = space.areas.find(addr)
    if vma is None or vma.start >= end or (grows != _GROWSDOWN and vma.start > addr):
        fail(errno.ENOMEM)
    start = _grown_start(vma, grows) if grows else addr
    while start < end:
        vma = vma or space.at(start)
        if vma is None:
            fail(errno.ENOMEM)
        stop = min(vma.end, end)
        flags = vma.flags & ~VM_ACCESS | prot & VM_ACCESS
        if flags & ~(flags >> 4) & VM_ACCESS:
            fail(errno.EACCES)
        if flags != vma.flags:
            _protect(space, vma, start, stop, flags)
        start, vma = stop, None
    return 0


def _grown_start(vma: Vma, grows: int) -> int:
    """Return where a change begins: PROT_GROWSDOWN takes in all of an area that grows."""
    if grows != _GROWSDOWN or not vma.flags & VM_GROWSDOWN:
        fail(errno.EINVAL)
    return vma.start


def _protect(space: AddressSpace, vma: Vma, start: int, end: int, flags: int) -> None:
    """Give one area, or a part of it, new access rights (``mprotect_fixup``)."""
    old, file = vma.flags, vma.file
    pages = (end - start) // PAGE
    promised = flags & VM_WRITE and _promise(space, old, flags, pages)
    if promised:
        flags |= VM_ACCOUNT
    elif not flags & VM_WRITE and _gives_back(space, vma):
        flags &= ~VM_ACCOUNT
    try:
        vma = space.modify(vma, start, end, flags)
    except OSError:
        if promised:
            space.commit.uncharge(pages)
        raise
    if old & VM_ACCOUNT and not flags & VM_ACCOUNT:
        space.commit.uncharge(pages)
    space.count(old, file, -pages)
    space.count(flags, file, pages)
    space.pages.protect(vma, start, end)
    if old & (VM_WRITE | VM_SHARED | VM_LOCKED) == VM_LOCKED and flags & VM_WRITE:
        space.populate(start, end)


def _promise(space: AddressSpace, old: int, flags: int, pages: int) -> bool:
    """Promise pages that become writable; False if they were promised, or need not be."""
    modern = space.profile.modern
    if modern and not (space.may_expand(flags, pages) or not space.may_expand(old, pages)):
        fail(errno.ENOMEM)
    exempt = VM_ACCOUNT | VM_WRITE | VM_SHARED | (VM_NORESERVE if modern else 0)
    if old & exempt:
        return False
    if not space.commit.charge(pages):
        fail(errno.ENOMEM)
    return True


def _gives_back(space: AddressSpace, vma: Vma) -> bool:
    """Whether an area that may no longer be written to needs no promise, having no page."""
    return bool(
        space.profile.modern and vma.flags & VM_ACCOUNT and vma.anonymous and vma.anon_vma is None
    )
