"""``mmap``: one check after another, in the kernel's order, then a new area in place of old ones.

Sources: ``mm/mmap.c`` and ``mm/vma.c`` of Linux 6.12 and 6.18, ``mm/mmap.c`` of 2.6.11 and 2.6.18.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from pyalloc.kernel.abi import (
    MAP,
    PROT,
    VM_ACCESS,
    VM_ACCOUNT,
    VM_DONTDUMP,
    VM_DONTEXPAND,
    VM_DROPPABLE,
    VM_EXEC,
    VM_GROWSDOWN,
    VM_LOCKED,
    VM_MAY,
    VM_MAYSHARE,
    VM_MAYWRITE,
    VM_NOHUGEPAGE,
    VM_NORESERVE,
    VM_READ,
    VM_SHARED,
    VM_SYNC,
    VM_WIPEONFORK,
    VM_WRITE,
    fail,
)
from pyalloc.kernel.area import Vma
from pyalloc.kernel.files import OpenFile, shared_anonymous
from pyalloc.kernel.layout import page_ceil
from pyalloc.units import PAGE

if TYPE_CHECKING:
    from pyalloc.kernel.profiles import KernelProfile
    from pyalloc.kernel.vma import AddressSpace

# as plain ints: arithmetic on IntFlags is slow, and these are in the way of every call
_TYPE: Final = int(MAP.TYPE)
_SHARED: Final = int(MAP.SHARED)
_PRIVATE: Final = int(MAP.PRIVATE)
_VALIDATE: Final = int(MAP.SHARED_VALIDATE)
_DROPPABLE: Final = int(MAP.DROPPABLE)
_FIXED: Final = int(MAP.FIXED)
_GROWSDOWN: Final = int(MAP.GROWSDOWN)
_LOCKED: Final = int(MAP.LOCKED)
_NORESERVE: Final = int(MAP.NORESERVE)
_POPULATE: Final = int(MAP.POPULATE)
_STACK: Final = int(MAP.STACK)
_SYNC: Final = int(MAP.SYNC)
_HUGETLB: Final = int(MAP.HUGETLB)
_NOREPLACE: Final = int(MAP.FIXED_NOREPLACE)
_NONBLOCK: Final = int(MAP.NONBLOCK)
_TO_VM: Final = _GROWSDOWN | _LOCKED | _STACK | _SYNC | _NORESERVE
_SHARES: Final = _TYPE | _HUGETLB
_PROT_WRITE: Final = int(PROT.WRITE)
_ACCOUNTABLE: Final = VM_NORESERVE | VM_SHARED | VM_WRITE
_MAKES_OBJECT: Final = VM_SYNC | VM_SHARED
_KNOWN: Final = int(
    MAP.SHARED_VALIDATE
    | MAP.FIXED
    | MAP.ANONYMOUS
    | MAP.MAP_32BIT
    | MAP.ABOVE4G
    | MAP.GROWSDOWN
    | MAP.DENYWRITE
    | MAP.EXECUTABLE
    | MAP.LOCKED
    | MAP.NORESERVE
    | MAP.POPULATE
    | MAP.NONBLOCK
    | MAP.STACK
    | MAP.HUGETLB
    | 31 << 26  # all bits that MAP_HUGE_2MB and MAP_HUGE_1GB have
)
"""The flags MAP_SHARED_VALIDATE takes for a file; any other is an error."""
_HUGE_SIZES: Final = (0, 21, 30)
"""Logarithms of the sizes that MAP_HUGETLB takes; 0 is the default, 2 MB."""
_ERRNOS: Final = 4096
_LONGEST: Final = (1 << 64) - 1


def mmap(
    space: AddressSpace,
    addr: int,
    length: int,
    prot: int,
    flags: int,
    file: OpenFile | None,
    offset: int,
    name: str | None = None,
) -> int:
    """Map ``length`` bytes and return the address; see :meth:`AddressSpace.mmap`."""
    profile = space.profile
    if space.read_implies_exec and prot & VM_READ:
        prot |= VM_EXEC
    length = _asked(space, length, flags, file, offset)
    if not length:
        return addr
    if flags & _NOREPLACE and profile.modern:
        addr = _unoccupied(space, addr, length)
    elif flags & _FIXED:
        addr = _fixed(space, addr, length)
    else:
        addr = place(space, addr, length, flags, file, offset)
    vm = prot & VM_ACCESS | VM_MAY | space.lock_future
    if flags & _TO_VM:
        vm |= _vm_flags(space, flags)
    if vm & VM_LOCKED:
        _may_lock(space, vm, length, flags)
    pgoff = addr // PAGE
    if file is not None or flags & _SHARES != _PRIVATE:
        vm |= _sharing(profile, prot, flags, vm, file, offset // PAGE, length)
        vm, pgoff = _of_object(profile, vm, file, offset // PAGE, pgoff)
    new = Vma(addr, addr + length, vm, pgoff, file, name)
    if flags & _FIXED:
        _replace(space, new)
    else:
        _map(space, new, [])
    if vm & VM_LOCKED or (flags & _POPULATE and not flags & _NONBLOCK):
        space.populate(addr, addr + length)
    return addr


def _of_object(
    profile: KernelProfile, vm: int, file: OpenFile | None, offset: int, place: int
) -> tuple[int, int]:
    """Return the flags and the page offset of a mapping that may show an object."""
    if file is None:
        return vm, place if not vm & VM_SHARED else 0 if profile.modern else offset
    if not file.writable and vm & VM_SHARED:
        vm &= ~(VM_MAYWRITE | VM_SHARED)
    return vm, offset


def _asked(space: AddressSpace, length: int, flags: int, file: OpenFile | None, offset: int) -> int:
    """Return the length in whole pages, 0 where 2.6.11 takes it; or fail for what is asked."""
    profile = space.profile
    if offset % PAGE:
        fail(errno.EINVAL)
    if flags & _HUGETLB and profile.modern:
        length = _whole_huge(length, flags, file)
    if not length:
        if profile.empty_mmap_succeeds:
            return 0
        fail(errno.EINVAL)
    length = -(-length // PAGE) * PAGE if length <= space.task_size else _whole(space, length)
    if offset and (offset + length) // PAGE >= 1 << (8 * profile.word):
        fail(errno.EINVAL if profile.empty_mmap_succeeds else errno.EOVERFLOW)
    if space.areas.count > profile.max_map_count:
        fail(errno.ENOMEM)
    return length


def _whole_huge(length: int, flags: int, file: OpenFile | None) -> int:
    """Return ``length`` in whole pages of the size that MAP_HUGETLB names."""
    if file is not None or flags >> 26 & 63 not in _HUGE_SIZES:
        fail(errno.EINVAL)
    size = 1 << (flags >> 26 & 63 or _HUGE_SIZES[1])
    return -(-length // size) * size & _LONGEST


def _whole(space: AddressSpace, length: int) -> int:
    """Return ``length`` in whole pages, or fail as the kernel does on one that wraps."""
    profile, whole = space.profile, page_ceil(length)
    if profile.modern:
        if whole >= 1 << (8 * profile.word):
            fail(errno.ENOMEM)
    elif whole > space.task_size or not whole:
        fail(errno.EINVAL if profile.empty_mmap_succeeds else errno.ENOMEM)
    return whole


def _vm_flags(space: AddressSpace, flags: int) -> int:
    vm = VM_GROWSDOWN if flags & _GROWSDOWN else 0
    vm |= VM_LOCKED if flags & _LOCKED else 0
    vm |= VM_NORESERVE if flags & _NORESERVE and not space.commit.strict else 0
    if space.profile.modern:
        vm |= VM_NOHUGEPAGE if flags & _STACK else 0
        vm |= VM_SYNC if flags & _SYNC else 0
    return vm


def _may_lock(space: AddressSpace, vm: int, length: int, flags: int) -> None:
    limits = space.limits
    if flags & _LOCKED and not (limits.memlock or limits.ipc_lock):
        fail(errno.EPERM)
    if not space.may_lock(vm, length):
        fail(errno.EAGAIN)


def _sharing(
    profile: KernelProfile,
    prot: int,
    flags: int,
    vm: int,
    file: OpenFile | None,
    pgoff: int,
    length: int,
) -> int:
    """Return the sharing flags of a mapping, or fail as its type or its file demands."""
    kind = flags & _TYPE
    huge = bool(flags & _HUGETLB) and profile.modern
    if file is not None and profile.modern and not file.inode.holds(pgoff, length):
        fail(errno.EOVERFLOW)
    if kind == _DROPPABLE and profile.modern and file is None:
        if flags & (_LOCKED | _HUGETLB) or vm & VM_GROWSDOWN:
            fail(errno.EINVAL)
        return VM_DROPPABLE | VM_NORESERVE | VM_WIPEONFORK | VM_DONTDUMP
    shared = 0
    if kind != _PRIVATE:
        _may_share(prot, flags, vm, file, backed=huge or file is not None)
        shared = VM_SHARED | VM_MAYSHARE
    if file is not None and not file.readable:
        fail(errno.EACCES)
    if (huge or file is not None) and vm & VM_GROWSDOWN:
        fail(errno.EINVAL)
    if huge:
        fail(errno.ENOMEM)  # vm.nr_hugepages is 0
    return shared


def _may_share(prot: int, flags: int, vm: int, file: OpenFile | None, *, backed: bool) -> None:
    kind = flags & _TYPE
    if kind != _SHARED and not (kind == _VALIDATE and backed):
        fail(errno.EINVAL)
    if not backed and vm & VM_GROWSDOWN:
        fail(errno.EINVAL)
    syncs = file is not None and not file.inode.shmem  # its file system has an opinion of that
    if kind != _SHARED and flags & ~(_KNOWN | (_SYNC if syncs else 0)):
        fail(errno.EOPNOTSUPP)
    if file is not None and prot & _PROT_WRITE and not file.writable:
        fail(errno.EACCES)


# --- where -------------------------------------------------------------------------------------


def place(
    space: AddressSpace, addr: int, length: int, flags: int, file: OpenFile | None, offset: int
) -> int:
    """Return where a mapping goes (``get_unmapped_area``).

    Raises
    ------
    OSError
        ENOMEM, EINVAL or EPERM.
    """
    if length > space.task_size:
        fail(errno.ENOMEM)
    if flags & _FIXED:
        return _fixed(space, addr, length)
    found = space.placement.place(space.areas, addr, length, flags, file, offset)
    if found is None:
        fail(errno.ENOMEM)
    return found


def _fixed(space: AddressSpace, addr: int, length: int) -> int:
    profile = space.profile
    if addr > space.task_size - length:
        if length > space.task_size:
            fail(errno.ENOMEM)
        last = 1 << (8 * profile.word)
        if addr > last - _ERRNOS and profile.modern:
            fail(last - addr)  # it is taken for an error on its way
        fail(errno.ENOMEM)
    if addr % PAGE:
        fail(errno.EINVAL)
    if addr < profile.fixed_min_addr and not space.limits.raw_io:
        fail(errno.EPERM)
    return addr


def _unoccupied(space: AddressSpace, addr: int, length: int) -> int:
    """Return the place MAP_FIXED_NOREPLACE names."""
    addr = _fixed(space, addr, length)
    if space.areas.overlaps(addr, addr + length):
        fail(errno.EEXIST)
    return addr


# --- putting it there --------------------------------------------------------------------------


def _replace(space: AddressSpace, new: Vma) -> None:
    """Put ``new`` in place of what is there, be that nothing."""
    start, end = new.start, new.end
    first = space.areas.find(start)
    if first is None or first.start >= end:
        _map(space, new, [])
    elif (
        (first.end == end if first.start < start else first.start == start and end <= first.end)
        and not new.flags & _MAKES_OBJECT
        and not first.flags & VM_DONTEXPAND
        and space.profile.modern
    ):
        _map_within(space, new, first)
    else:
        _map(space, new, space.cut_out(start, end, first))


def _map(space: AddressSpace, new: Vma, old: list[Vma]) -> None:
    """Put ``new`` in place of ``old``, merged where it can be (``mmap_region``)."""
    areas, modern, pages = space.areas, space.profile.modern, new.pages
    if old and not modern:
        space.drop(old)
        old = []
    gone = promised = 0
    for vma in old:
        gone += vma.pages
        promised += vma.pages if vma.flags & VM_ACCOUNT else 0
    _may_have(space, new, pages, gone, promised)
    before, after = (old[0].prev, old[-1].next) if old else areas.around(new.start)
    if old:
        space.drop(old, charged=not new.flags & VM_ACCOUNT)
    if new.flags & _MAKES_OBJECT:
        _make_object(space, new)
    if not modern:
        new.flags &= ~VM_NORESERVE  # 2.6 forgets that it was asked for
    if areas.merge_new(new, before, after) is None:
        areas.insert(new, before)
    space.count(new.flags, new.file, pages)


def _map_within(space: AddressSpace, new: Vma, vma: Vma) -> None:
    """Do the same where ``new`` takes the place of one area or of one end of it (6.x).

    Nothing is cut off, and no hole opened, only to be filled at once.
    """
    start, end, old = new.start, new.end, vma.flags
    pages = (end - start) // PAGE
    try:
        _may_have(space, new, pages, pages, pages if old & VM_ACCOUNT else 0)
    except OSError:
        space.cut_out(start, end, vma)  # it stays cut
        raise
    if old & VM_ACCOUNT and not new.flags & VM_ACCOUNT:
        space.commit.uncharge(pages)
    areas, before, after = space.areas, vma.prev, vma.next
    if vma.start < start:
        before, vma.end = vma, start
    elif end < vma.end:
        after = vma
        areas.move_start(vma, end)
    else:
        areas.remove(vma)
    floor = before.end if before is not None else 0
    ceiling = after.start if after is not None else space.task_size
    if areas.merge_new(new, before, after) is None:
        areas.insert(new, before)
    space.recount(old, new.flags, new.file, pages)
    space.pages.unmap(start, end, floor, ceiling)


def _may_have(space: AddressSpace, new: Vma, pages: int, gone: int, promised: int) -> None:
    """Let ``new`` have its pages, for which others of which some are promised go, or fail."""
    flags = new.flags
    if not space.may_expand(flags, pages - gone):
        fail(errno.ENOMEM)
    if flags & _ACCOUNTABLE == VM_WRITE:
        if pages != promised:
            _promise(space, pages, promised)
        new.flags = flags | VM_ACCOUNT


def _promise(space: AddressSpace, pages: int, accounted: int) -> None:
    """Promise ``pages``, of which so many are promised already."""
    if pages <= accounted:
        space.commit.uncharge(accounted - pages)
    elif not space.commit.charge(pages - accounted):
        fail(errno.ENOMEM)


def _make_object(space: AddressSpace, new: Vma) -> None:
    """Make the object of shared anonymous memory, or fail; what was there is gone by then."""
    if new.flags & VM_SYNC:
        _may_sync(space, new)
    if new.file is None and new.flags & VM_SHARED:
        new.file = _shared_object(space, new, charged=not new.flags & VM_NORESERVE)


def _may_sync(space: AddressSpace, new: Vma) -> None:
    """Fail for MAP_SYNC on a file system on a disk."""
    if new.file is not None and not new.file.inode.shmem:
        if new.flags & VM_ACCOUNT:
            space.commit.uncharge(new.pages)
        fail(errno.EOPNOTSUPP)


def _shared_object(space: AddressSpace, new: Vma, *, charged: bool) -> OpenFile:
    if charged and not space.commit.charge(new.pages):
        fail(errno.ENOMEM)
    space.next_object += 1
    length = new.end - new.start
    return shared_anonymous(length, space.commit, space.next_object, charged=charged)
