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
_UNKNOWN: Final = ~_KNOWN
_NO_ACCESS: Final = ~VM_ACCESS
_LOCKED_READ_ONLY: Final = VM_WRITE | VM_SHARED | VM_LOCKED
_EXEMPT: Final = VM_ACCOUNT | VM_WRITE | VM_SHARED | VM_NORESERVE
_EXEMPT_2_6: Final = VM_ACCOUNT | VM_WRITE | VM_SHARED
"""Flags of areas that need no promise to become writable: they have it, or never will."""


def mprotect(space: AddressSpace, addr: int, length: int, prot: int) -> int:
    """Change the protection of a range and return 0; see :meth:`AddressSpace.mprotect`."""
    if space.read_implies_exec and prot & VM_READ:
        prot |= VM_EXEC
    grows = prot & _GROWS
    if grows == _GROWS or addr % PAGE:
        fail(errno.EINVAL)
    if not length:
        return 0
    end = addr - (-length // PAGE) * PAGE
    if end >= 1 << (8 * space.profile.word):
        fail(errno.ENOMEM)
    if prot & _UNKNOWN:
        fail(errno.EINVAL)
    vma = space.areas.find(addr)
    if vma is None or vma.start >= end or (grows != _GROWSDOWN and vma.start > addr):
        fail(errno.ENOMEM)
    _protect_areas(space, vma, _grown_start(vma, grows) if grows else addr, end, prot & VM_ACCESS)
    return 0


def _protect_areas(space: AddressSpace, vma: Vma | None, start: int, end: int, access: int) -> None:
    """Give a range new rights, area by area from ``vma`` on, up to what cannot have them."""
    while start < end:
        if vma is None or vma.start > start:
            fail(errno.ENOMEM)
        stop = vma.end if vma.end < end else end  # noqa: FURB136 - min() takes as long as the rest
        flags = vma.flags & _NO_ACCESS | access
        if access & ~(flags >> 4):
            fail(errno.EACCES)
        if flags != vma.flags:
            vma = _protect(space, vma, start, stop, flags)
        start, vma = stop, vma.next if vma.end == stop else vma


def _grown_start(vma: Vma, grows: int) -> int:
    """Return where a change begins: PROT_GROWSDOWN takes in all of an area that grows."""
    if grows != _GROWSDOWN or not vma.flags & VM_GROWSDOWN:
        fail(errno.EINVAL)
    return vma.start


def _protect(space: AddressSpace, vma: Vma, start: int, end: int, flags: int) -> Vma:
    """Give a part of an area new rights, and return what holds it then (``mprotect_fixup``)."""
    old, file = vma.flags, vma.file
    pages, promised = (end - start) // PAGE, False
    if flags & VM_WRITE:
        promised = _promise(space, old, flags, pages)
        flags |= VM_ACCOUNT if promised else 0
    elif old & VM_ACCOUNT and _gives_back(space, vma):
        flags &= ~VM_ACCOUNT
    try:
        vma = space.modify(vma, start, end, flags)
    except OSError:
        if promised:
            space.commit.uncharge(pages)
        raise
    if old & VM_ACCOUNT and not flags & VM_ACCOUNT:
        space.commit.uncharge(pages)
    space.recount(old, flags, file, pages)
    space.pages.protect(vma, start, end)
    if flags & VM_WRITE and old & _LOCKED_READ_ONLY == VM_LOCKED:
        space.populate(start, end, own=True)  # it keeps the areas' lock while it waits
    return vma


def _promise(space: AddressSpace, old: int, flags: int, pages: int) -> bool:
    """Promise pages that become writable; False if they were promised, or need not be."""
    modern = space.profile.modern
    if modern and not (space.may_expand(flags, pages) or not space.may_expand(old, pages)):
        fail(errno.ENOMEM)
    if old & (_EXEMPT if modern else _EXEMPT_2_6):
        return False
    if not space.commit.charge(pages):
        fail(errno.ENOMEM)
    return True


def _gives_back(space: AddressSpace, vma: Vma) -> bool:
    """Whether an area that may no longer be written to needs no promise, having no page."""
    return space.profile.modern and vma.anon_vma is None and vma.anonymous
