"""What an access does to areas: it is refused, gives one private pages, or lets a stack grow.

Sources: ``mm/memory.c``, ``mm/mmap.c``, ``arch/x86/mm/fault.c`` of Linux 2.6.11, 2.6.18 and 6.12.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pyalloc.errors import MemoryFault
from pyalloc.kernel.abi import (
    VM_ACCESS,
    VM_EXEC,
    VM_GROWSDOWN,
    VM_MAYBE_GUARD,
    VM_READ,
    VM_WRITE,
)
from pyalloc.kernel.area import Vma
from pyalloc.units import PAGE

if TYPE_CHECKING:
    from pyalloc.kernel.vma import AddressSpace

SIGBUS: Final = 7
SIGSEGV: Final = 11


def fault(space: AddressSpace, addr: int, write: bool) -> Vma:
    """Return the area an access falls into; see :meth:`AddressSpace.fault`."""
    vma = space.areas.find(addr)
    if vma is None or (vma.start > addr and not _grow_stack(space, vma, addr // PAGE * PAGE)):
        raise MemoryFault(SIGSEGV, addr)
    readable = VM_ACCESS if space.profile.modern else VM_READ | VM_EXEC
    if not vma.flags & (VM_WRITE if write else readable):
        raise MemoryFault(SIGSEGV, addr)
    beyond = vma.file is not None and addr >= vma.object_end
    if beyond and vma.flags & VM_MAYBE_GUARD and space.pages.is_guarded(addr):
        raise MemoryFault(SIGSEGV, addr)
    if write and vma.anon_vma is None and vma.private and (space.profile.modern or not beyond):
        space.areas.prepare_anon(vma)  # 6.x does so before it looks for the page
    if beyond:
        raise MemoryFault(SIGBUS, addr)
    return vma


def _grow_stack(space: AddressSpace, vma: Vma, start: int) -> bool:
    """Let a stack reach down to ``start``; False if something stands in its way."""
    if not vma.flags & VM_GROWSDOWN or start < space.profile.mmap_min_addr:
        return False
    if space.profile.modern and not _keeps_gap(space, vma, start):
        return False
    space.areas.prepare_anon(vma)
    grow = (vma.start - start) // PAGE
    if (
        grow > vma.pgoff
        or not space.may_expand(vma.flags, grow)
        or vma.end - start > space.limits.stack
        or not space.may_lock(vma.flags, grow * PAGE)
        or not space.commit.charge(grow)
    ):
        return False
    space.areas.move_start(vma, start)
    space.count(vma.flags, vma.file, grow)
    return True


def _keeps_gap(space: AddressSpace, vma: Vma, start: int) -> bool:
    """Return whether the stack stays far enough away from what lies below it."""
    below = vma.prev
    return (
        below is None
        or bool(below.flags & VM_GROWSDOWN)
        or not below.flags & VM_ACCESS
        or start - below.end >= space.profile.stack_guard_gap
    )
