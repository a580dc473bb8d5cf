"""``brk``.  Sources: ``mm/mmap.c`` of Linux 2.6.11, 2.6.18, 6.12 and 6.18."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyalloc.kernel.abi import VM_ACCOUNT, VM_DATA, VM_EXEC, VM_LOCKED
from pyalloc.kernel.area import Vma
from pyalloc.kernel.placement import guarded_start
from pyalloc.units import PAGE

if TYPE_CHECKING:
    from pyalloc.kernel.vma import AddressSpace


def brk(space: AddressSpace, addr: int) -> int:
    """Move the break and return it, as the raw system call: the old break is a refusal."""
    old, profile = space.brk_value, space.profile
    lowest = space.start_brk if profile.modern else space.end_code
    if addr < lowest or (profile.data_limit_first and not _fits(space, addr)):
        return old
    new_end, old_end = -(-addr // PAGE) * PAGE, -(-old // PAGE) * PAGE
    if new_end == old_end:
        space.brk_value = addr
    elif addr <= old:
        _shrink(space, addr, new_end, old_end)
    elif (profile.data_limit_first or _fits(space, addr)) and _grow(space, old_end, new_end):
        space.brk_value = addr
    return space.brk_value


def _fits(space: AddressSpace, addr: int) -> bool:
    """Return whether RLIMIT_DATA allows the break at ``addr``."""
    if space.profile.modern:
        size = addr - space.start_brk + space.end_data - space.start_data
        return size <= space.limits.data
    return addr - space.start_data <= space.limits.data


def _shrink(space: AddressSpace, addr: int, new_end: int, old_end: int) -> None:
    """Give the pages up to ``old_end`` back, unless that needs an area more than there may be."""
    try:
        dropped = space.unmap(new_end, old_end)
    except OSError:
        return
    if dropped or not space.profile.modern:
        space.brk_value = addr


def _grow(space: AddressSpace, old_end: int, new_end: int) -> bool:
    """Extend the heap area, or start one; False if the kernel refuses."""
    pages = (new_end - old_end) // PAGE
    flags = VM_DATA | VM_ACCOUNT | space.lock_future
    flags |= VM_EXEC if space.read_implies_exec else 0
    if new_end > space.task_size or not space.may_lock(flags, new_end - old_end):
        return False
    above = space.find(old_end)
    if above and new_end + PAGE > guarded_start(above, space.profile.stack_guard_gap):
        return False
    if (
        not space.may_expand(flags, pages)
        or len(space.areas) > space.profile.max_map_count
        or not space.commit.charge(pages)
    ):
        return False
    new = Vma(old_end, new_end, flags, old_end // PAGE)
    below = above.prev if above is not None else space.areas.last
    if _extend(space, new, below, above) is None:
        space.areas.insert(new, below)
    space.count(flags, None, pages)
    if flags & VM_LOCKED:
        space.populate(old_end, new_end)
    return True


def _extend(space: AddressSpace, new: Vma, below: Vma | None, above: Vma | None) -> Vma | None:
    """Join ``new`` to what is before it; 2.6 joins it to what follows, too."""
    if not space.profile.modern:
        return space.areas.merge_new(new, below, above)
    if below is None or below.end != new.start or below.end <= space.start_brk:
        return None
    return space.areas.merge_new(new, below, None)
