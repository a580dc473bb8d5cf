"""``mlock``, ``munlock`` and ``mlockall``.

2.6 faults each area in as it locks it; 6.x locks them all first.

Source: ``mm/mlock.c`` of Linux 2.6.11, 2.6.18 and 6.12.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from pyalloc.kernel.abi import VM_LOCKED, VM_LOCKONFAULT, VM_SPECIAL, fail
from pyalloc.kernel.area import Vma
from pyalloc.kernel.layout import page_ceil
from pyalloc.units import PAGE

if TYPE_CHECKING:
    from pyalloc.kernel.vma import AddressSpace

MLOCK_ONFAULT = 1
MCL_CURRENT = 1
MCL_FUTURE = 2
MCL_ONFAULT = 4


def mlock(space: AddressSpace, addr: int, length: int, flags: int) -> int:
    """Lock every page of a range and fault them in.

    Raises
    ------
    OSError
        EPERM without any right to lock; ENOMEM over RLIMIT_MEMLOCK, for a hole (what lies before
        it is locked all the same) or for pages that cannot be had; EINVAL for unknown flags.
    """
    if flags & ~MLOCK_ONFAULT:
        fail(errno.EINVAL)
    limits = space.limits
    if not limits.memlock and not limits.ipc_lock:
        fail(errno.EPERM)
    start, end = _range(space, addr, length)
    if start == end:
        return 0
    if not limits.ipc_lock:
        locked = space.locked_vm + (end - start) // PAGE
        if locked > limits.memlock // PAGE and space.profile.modern:
            locked -= _locked_already(space, start, end)
        if locked > limits.memlock // PAGE:
            fail(errno.ENOMEM)
    _apply(space, start, end, VM_LOCKED | (VM_LOCKONFAULT if flags else 0))
    if space.profile.modern and not space.populate(start, end, stop=True):
        fail(errno.ENOMEM)
    return 0


def munlock(space: AddressSpace, addr: int, length: int) -> int:
    """Unlock every page of a range; ENOMEM for a hole, after unlocking what lies before it."""
    start, end = _range(space, addr, length)
    _apply(space, start, end, 0)
    return 0


def mlockall(space: AddressSpace, flags: int) -> int:
    """Lock what is mapped (MCL_CURRENT), what will be mapped (MCL_FUTURE), or both.

    Pages that cannot be had are no error here.

    Raises
    ------
    OSError
        EINVAL for no or unknown flags; EPERM without any right to lock; ENOMEM over
        RLIMIT_MEMLOCK.
    """
    if not flags or flags & ~(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) or flags == MCL_ONFAULT:
        fail(errno.EINVAL)
    limits = space.limits
    if not limits.memlock and not limits.ipc_lock:
        fail(errno.EPERM)
    if flags & MCL_CURRENT and not limits.ipc_lock and space.total_vm > limits.memlock // PAGE:
        fail(errno.ENOMEM)
    lock = VM_LOCKED | (VM_LOCKONFAULT if flags & MCL_ONFAULT else 0)
    space.lock_future = lock if flags & MCL_FUTURE else 0
    if flags & MCL_CURRENT:
        _lock_everything(space, lock)
        space.populate(0, space.task_size)
    return 0


def munlockall(space: AddressSpace) -> int:
    """Unlock everything, now and for what will be mapped."""
    space.lock_future = 0
    _lock_everything(space, 0)
    return 0


def _lock_everything(space: AddressSpace, lock: int) -> None:
    for vma in list(space.areas):
        vma_now = space.at(vma.start)
        if vma_now is vma:
            flags = vma.flags & ~(VM_LOCKED | VM_LOCKONFAULT) | lock
            _lock(space, vma, vma.start, vma.end, flags)


def _range(space: AddressSpace, addr: int, length: int) -> tuple[int, int]:
    """Return the whole pages of a range; a length that wraps is short."""
    start = addr // PAGE * PAGE
    return start, start + page_ceil(length + addr % PAGE) % (1 << (8 * space.profile.word))


def _locked_already(space: AddressSpace, start: int, end: int) -> int:
    return sum(
        (min(vma.end, end) - max(vma.start, start)) // PAGE
        for vma in space.areas.covering(start, end)
        if vma.flags & VM_LOCKED
    )


def _apply(space: AddressSpace, start: int, end: int, lock: int) -> None:
    if end >= 1 << (8 * space.profile.word):
        fail(errno.EINVAL)
    at = start
    while at < end:
        vma = space.at(at)
        if vma is None:
            fail(errno.ENOMEM)
        stop = min(vma.end, end)
        _lock(space, vma, at, stop, vma.flags & ~(VM_LOCKED | VM_LOCKONFAULT) | lock)
        at = stop


def _lock(space: AddressSpace, vma: Vma, start: int, end: int, flags: int) -> None:
    old = vma.flags
    if flags == old or (old & VM_SPECIAL and space.profile.modern):
        return
    try:
        space.modify(vma, start, end, flags, join=space.profile.flags_merge)
    except OSError as error:
        old_enomem = error.errno == errno.ENOMEM and not space.profile.modern
        fail(errno.EAGAIN if old_enomem else error.errno or 0)
    if (flags ^ old) & VM_LOCKED:
        locked = bool(flags & VM_LOCKED)
        space.locked_vm += (end - start) // PAGE * (1 if locked else -1)
        space.pages.lock(start, end, locked)
    if flags & VM_LOCKED and not space.profile.modern and not space.populate(start, end):
        fail(errno.EFAULT)
