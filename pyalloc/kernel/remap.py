"""``mremap``: growing, shrinking and moving mappings.

The three generations test in different orders, and what was unmapped before a test fails stays
unmapped, so the order shows.  2.6 tests nothing before it clears the target; 6.12 tests the area
after that; 6.17 and later test it before, and move several areas in one call.

Sources: ``mm/mremap.c`` of Linux 2.6.11, 2.6.18, 6.12 and 6.18; ``copy_vma`` in ``mm/vma.c``.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from pyalloc.kernel import anon
from pyalloc.kernel.abi import (
    MAP,
    MREMAP,
    VM_ACCOUNT,
    VM_DONTEXPAND,
    VM_LOCKED,
    VM_LOCKONFAULT,
    VM_MAYSHARE,
    VM_PFNMAP,
    VM_SHARED,
    fail,
)
from pyalloc.kernel.area import Vma
from pyalloc.kernel.layout import page_ceil
from pyalloc.kernel.mapping import place
from pyalloc.units import PAGE

if TYPE_CHECKING:
    from pyalloc.kernel.vma import AddressSpace

_MAYMOVE: Final = int(MREMAP.MAYMOVE)
_FIXED: Final = int(MREMAP.FIXED)
_DONTUNMAP: Final = int(MREMAP.DONTUNMAP)
_ANY: Final = _MAYMOVE | _FIXED | _DONTUNMAP


def mremap(space: AddressSpace, addr: int, old: int, new: int, flags: int, target: int) -> int:
    """Resize or move [addr, addr+old) to ``new`` bytes and return where it is.

    Raises
    ------
    OSError
        EINVAL, EFAULT, EAGAIN or ENOMEM; what was unmapped before stays so.
    """
    old, new = page_ceil(old), page_ceil(new)
    if not space.profile.modern:
        return _mremap_old(space, addr, old, new, flags, target)
    if flags & ~_ANY or addr % PAGE or not new:
        fail(errno.EINVAL)
    to_target = flags & (_FIXED | _DONTUNMAP)
    if to_target and (not flags & _MAYMOVE or (flags & _DONTUNMAP and old != new)):
        fail(errno.EINVAL)
    if space.profile.multi_move:
        if new > space.task_size:
            fail(errno.EINVAL)
        if to_target:
            _check_target(space, addr, old, new, target)
        if flags & _FIXED and old == new:
            return _move_all(space, addr, old, flags, target)
    vma = _source(space, addr)
    if to_target:
        if space.profile.multi_move:
            _check_area(space, vma, addr, old, new, flags)
        else:
            _check_target(space, addr, old, new, target)
        return _move_to(space, addr, old, new, flags, target)
    return _resize(space, vma, addr, old, new, flags)


def _resize(space: AddressSpace, vma: Vma, addr: int, old: int, new: int, flags: int) -> int:
    """Change the size without a wish for a place; shrinking always works where it is."""
    if new > old:
        _check_area(space, vma, addr, old, new, flags)
        return _grow(space, vma, addr, old, new, flags)
    if new < old:
        space.munmap(addr + new, old - new)
    return addr


def _source(space: AddressSpace, addr: int) -> Vma:
    """Return the area at ``addr``, which must exist."""
    vma = space.at(addr)
    if vma is None:
        fail(errno.EFAULT)
    return vma


def _check_target(space: AddressSpace, addr: int, old: int, new: int, target: int) -> None:
    """Fail on a target that is no place for ``new`` bytes or overlaps the source."""
    if (
        new > space.task_size
        or target > space.task_size - new
        or target % PAGE
        or (addr + old > target and target + new > addr)
    ):
        fail(errno.EINVAL)
    if len(space) + 2 >= space.profile.max_map_count - 3:
        fail(errno.ENOMEM)


def _check_area(space: AddressSpace, vma: Vma, addr: int, old: int, new: int, flags: int) -> None:
    """Fail if ``vma`` may not grow or be moved like this; a shrink may cross its end."""
    if not old and not vma.flags & (VM_SHARED | VM_MAYSHARE):
        fail(errno.EINVAL)
    if flags & _DONTUNMAP and vma.flags & (VM_DONTEXPAND | VM_PFNMAP):
        fail(errno.EINVAL)
    old = min(old, new)
    if old > vma.end - addr:
        fail(errno.EFAULT)
    if new == old:
        return
    if vma.flags & (VM_DONTEXPAND | VM_PFNMAP):
        fail(errno.EFAULT)
    if not space.may_lock(vma.flags, new - old):
        fail(errno.EAGAIN)
    if not space.may_expand(vma.flags, (new - old) // PAGE):
        fail(errno.ENOMEM)


def _move_all(space: AddressSpace, start: int, length: int, flags: int, target: int) -> int:
    """Move every area of a range to ``target``, keeping the holes between them (from 6.17)."""
    end = start + length
    result, next_target, last_end = -1, target, -1
    at = start
    while at < end:
        vma = space.find(at)
        if vma is None or vma.start >= end:
            break
        if last_end < 0 and vma.start > start:
            fail(errno.EFAULT)
        low, high = max(vma.start, start), min(vma.end, end)
        place = next_target + (vma.start - last_end if last_end >= 0 else 0)
        last_end = at = vma.end
        _check_area(space, vma, low, high - low, high - low, flags)
        moved = _move_to(space, low, high - low, high - low, flags, place)
        result = moved if result < 0 else result
        next_target = moved + high - low
    if last_end < 0:
        fail(errno.EFAULT)
    return result


def _move_to(space: AddressSpace, addr: int, old: int, new: int, flags: int, target: int) -> int:
    """Move to a given place (MREMAP_FIXED) or near a hint (MREMAP_DONTUNMAP alone)."""
    if flags & _FIXED:
        space.munmap(target, new)
    if new < old:
        space.munmap(addr + new, old - new)
        old = new
    vma = _source(space, addr)
    if not space.profile.multi_move:
        _check_area(space, vma, addr, old, new, flags)
    if flags & _DONTUNMAP and not space.may_expand(vma.flags, old // PAGE):
        fail(errno.ENOMEM)
    place = _free_place(space, vma, addr, new, target, fixed=bool(flags & _FIXED))
    return _move(space, vma, addr, old, new, place, keep=bool(flags & _DONTUNMAP))


def _free_place(
    space: AddressSpace, vma: Vma, addr: int, length: int, hint: int, *, fixed: bool = False
) -> int:
    offset = vma.pgoff * PAGE + (addr - vma.start if space.profile.modern else 0)
    flags = MAP.FIXED if fixed else MAP.SHARED if vma.flags & VM_MAYSHARE else 0
    return place(space, hint, length, int(flags), vma.file, offset)


def _grow(space: AddressSpace, vma: Vma, addr: int, old: int, new: int, flags: int) -> int:
    """Grow where it is if there is room behind it, else elsewhere if that is allowed."""
    more = new - old
    if old == vma.end - addr and vma.end + more <= space.task_size:
        above = vma.next
        if above is None or above.start >= vma.end + more:
            _extend(space, vma, more)
            return addr
    if not flags & _MAYMOVE:
        fail(errno.ENOMEM)
    place = _free_place(space, vma, addr, new, 0)
    return _move(space, vma, addr, old, new, place)


def _extend(space: AddressSpace, vma: Vma, more: int) -> None:
    """Let ``vma`` end ``more`` bytes later, joined with what follows if that fits."""
    if vma.flags & VM_ACCOUNT and not space.commit.charge(more // PAGE):
        fail(errno.ENOMEM)
    start, flags, file = vma.end, vma.flags, vma.file
    tail = Vma(start, start + more, flags, vma.pgoff + vma.pages, file, vma.name)
    tail.anon_vma, tail.chain = vma.anon_vma, vma.chain
    if space.areas.merge_new(tail, vma, vma.next) is None:
        if flags & VM_ACCOUNT:
            space.commit.uncharge(more // PAGE)
        fail(errno.ENOMEM)
    space.count(flags, file, more // PAGE)
    if flags & VM_LOCKED:
        space.populate(start, start + more)


def _move(
    space: AddressSpace,
    vma: Vma,
    addr: int,
    old: int,
    new: int,
    place: int,
    *,
    keep: bool = False,
) -> int:
    """Give the source a copy at ``place``, its pages with it, and unmap the source.

    Only the growth is charged, or the whole copy if the source is kept.  While both exist the
    size counts twice, but the peak does not show it.
    """
    if len(space) >= space.profile.max_map_count - 3:
        fail(errno.ENOMEM)
    if vma.kernels_own and (addr, addr + old) != (vma.start, vma.end):
        fail(errno.EINVAL)
    accounted, locked = bool(vma.flags & VM_ACCOUNT), bool(vma.flags & VM_LOCKED)
    if accounted and not space.commit.charge((new if keep else new - old) // PAGE):
        fail(errno.ENOMEM)
    copy = _copy(space, vma, addr, place, new)
    source = _source(space, addr) if old else vma
    space.pages.move(addr, place, old, _head(space, source, copy, addr, place, old))
    peak = space.peak_vm
    space.count(source.flags, source.file, new // PAGE)
    if keep:
        _keep_source(space, source, copy, addr, old)
    elif old:
        space.drop(space.cut_out(addr, addr + old), charged=not accounted)
    space.peak_vm = max(peak, space.total_vm)
    if locked and new > old:
        space.populate(place + old, place + new)
    return place


def _head(space: AddressSpace, source: Vma, copy: Vma, addr: int, place: int, length: int) -> int:
    """Return the bytes before both places that a page table may be moved with (from 6.7)."""
    span = space.profile.table_span
    head = addr % span
    if not space.profile.modern or head != place % span or length < span - head:
        return 0
    for vma, at in ((source, addr), (copy, place)):
        if vma.start != at or space.areas.overlaps(at - head, at):
            return 0
    return head


def _copy(space: AddressSpace, vma: Vma, addr: int, place: int, length: int) -> Vma:
    """Put an area like ``vma`` at ``place``, joined to its neighbours where that fits.

    An anonymous area without pages forgets where it came from, so that it can join there.
    """
    if vma.anonymous and vma.anon_vma is None:
        pgoff = place // PAGE
    else:
        pgoff = vma.pgoff + (addr - vma.start) // PAGE
    copy = Vma(place, place + length, vma.flags, pgoff, vma.file, vma.name)
    copy.anon_vma, copy.chain = vma.anon_vma, vma.chain
    before, after = space.areas.around(place)
    merged = space.areas.merge_new(copy, before, after, forked=len(vma.chain) > 1)
    if merged is not None:
        return merged
    copy.chain = ()
    anon.clone(copy, vma)
    space.areas.insert(copy, before)
    return copy


def _keep_source(space: AddressSpace, source: Vma, copy: Vma, addr: int, length: int) -> None:
    """Leave the source mapped but empty (MREMAP_DONTUNMAP): unlocked, without private pages.

    The kernel goes on counting it as locked, for good.
    """
    if source.flags & VM_LOCKED:
        space.locked_lost += source.pages
    source.flags &= ~(VM_LOCKED | VM_LOCKONFAULT)
    if copy is not source and (source.start, source.end) == (addr, addr + length):
        anon.unlink(source)


# --- 2.6 ---------------------------------------------------------------------------------------


def _mremap_old(space: AddressSpace, addr: int, old: int, new: int, flags: int, target: int) -> int:
    if flags & ~(_MAYMOVE | _FIXED) or addr % PAGE or not new:
        fail(errno.EINVAL)
    if flags & _FIXED:
        _clear_target_old(space, addr, old, new, flags, target)
    if old >= new:
        if old > new:
            space.munmap(addr + new, old - new)
        if not flags & _FIXED or target == addr:
            return addr
        old = new
    vma = _source(space, addr)
    _check_area_old(space, vma, addr, old, new)
    above = vma.next
    room = (above.start if above else space.task_size) - addr
    if old == vma.end - addr and not flags & _FIXED and room >= new:
        return _extend_old(space, vma, addr, new - old)
    if not flags & _MAYMOVE:
        fail(errno.ENOMEM)
    place = target if flags & _FIXED else _free_place(space, vma, addr, new, 0)
    return _move(space, vma, addr, old, new, place)


def _check_area_old(space: AddressSpace, vma: Vma, addr: int, old: int, new: int) -> None:
    more = new - old
    if old > vma.end - addr or (vma.flags & (VM_DONTEXPAND | VM_PFNMAP) and more):
        fail(errno.EFAULT)
    if not space.may_lock(vma.flags, more):
        fail(errno.EAGAIN)
    if not space.may_expand(vma.flags, more // PAGE):
        fail(errno.ENOMEM)


def _clear_target_old(
    space: AddressSpace, addr: int, old: int, new: int, flags: int, target: int
) -> None:
    if (
        target % PAGE
        or not flags & _MAYMOVE
        or target > space.task_size - new
        or (target <= addr < target + new)
        or (addr <= target < addr + old)
    ):
        fail(errno.EINVAL)
    space.munmap(target, new)


def _extend_old(space: AddressSpace, vma: Vma, addr: int, more: int) -> int:
    """Let ``vma`` end later; 2.6 does not join it with what follows."""
    if vma.flags & VM_ACCOUNT and not space.commit.charge(more // PAGE):
        fail(errno.ENOMEM)
    vma.end += more
    space.count(vma.flags, vma.file, more // PAGE)
    if vma.flags & VM_LOCKED:
        space.populate(vma.end - more, vma.end)
    return addr
