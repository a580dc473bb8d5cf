"""Where a mapping goes that did not say where.

Linux 6.x keeps no state: it looks for the highest hole below ``mmap_base``, then for the lowest one
above the bottom-up base.  2.6 remembers where it last looked (``free_area_cache``), 2.6.18 also the
largest hole it stepped over (``cached_hole_size``); those two make its choices depend on history.

Sources: ``mm/mmap.c`` of 2.6.11, 2.6.18 and 6.12, ``arch/i386/mm/mmap.c``,
``arch/x86/kernel/sys_x86_64.c``, ``mm/huge_memory.c``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pyalloc.errors import EngineBug
from pyalloc.kernel.abi import MAP, VM_GROWSDOWN
from pyalloc.kernel.area import Vma
from pyalloc.kernel.areas import Areas
from pyalloc.kernel.files import OpenFile
from pyalloc.kernel.profiles import KernelProfile
from pyalloc.units import PAGE

HUGE: Final = 2 << 20
"""What one entry of the second level maps on x86."""

_FORGOTTEN: Final = 1 << 64
_MAP_SHARED: Final = int(MAP.SHARED)
_MAP_32BIT: Final = int(MAP.MAP_32BIT)
_LOW_START: Final = 0x40000000
_LOW_END: Final = 0x80000000


def guarded_start(vma: Vma, guard: int) -> int:
    """Return the first address an area keeps others from: below a stack lies its guard gap."""
    if vma.flags & VM_GROWSDOWN:
        return max(vma.start - guard, 0)
    return vma.start


def fits_huge(vma: Vma) -> bool:
    """Return whether 2 MB lie whole in an area, as the kernel reckons.

    It looks for the last of them only, and for an area that ends below 2 MB its sum wraps twice
    and comes out right (``thp_vma_suitable_order``).
    """
    last = (vma.end - HUGE) % _FORGOTTEN // HUGE * HUGE
    return last >= vma.start and (last + HUGE) % _FORGOTTEN <= vma.end


class Placement:
    """The search of one address space; for 2.6, also what it remembers.

    ``base`` is mmap_base, ``bottom`` where bottom-up searches begin, ``cache`` and ``hole`` are
    2.6's free_area_cache and cached_hole_size in bytes.  ``full[k]`` only saves time: above it and
    below ``base`` no hole has 2**k pages or more; so it never rises with k.
    """

    __slots__ = ("base", "bottom", "cache", "full", "hole", "profile", "task_size", "top_down")

    def __init__(
        self, profile: KernelProfile, task_size: int, base: int, bottom: int, top_down: bool
    ) -> None:
        self.profile = profile
        self.task_size = task_size
        self.base = base
        self.bottom = bottom
        self.top_down = top_down
        self.cache = base if top_down else bottom
        self.hole = 0
        self.full = [base] * (task_size // PAGE).bit_length()

    def forked(self) -> Placement:
        """Return the child's search: 2.6 forgets where it looked.

        The child may have more holes than its parent (MADV_DONTFORK), so it learns anew.
        """
        child = Placement(self.profile, self.task_size, self.base, self.bottom, self.top_down)
        child.hole = _FORGOTTEN
        return child

    def place(
        self,
        areas: Areas,
        hint: int,
        length: int,
        flags: int,
        file: OpenFile | None,
        offset: int,
    ) -> int | None:
        """Return the address for ``length`` bytes, None if there is no hole."""
        if not self.profile.modern:
            return self._place_old(areas, hint, length, flags)
        profile = self.profile
        if hint:
            hint = self.rounded(hint)
        if (
            profile.thp_align
            and (file is not None or not length % HUGE)
            and self._wants_huge(hint, length, flags, file, offset)
        ):
            if hint and self._fits(areas, hint, length + HUGE, flags):
                return hint
            found = self._search(areas, length + HUGE, flags)
            if found is not None:
                shift = ((offset if file is not None else 0) - found) % HUGE
                return found + (shift or (HUGE if self.top_down else 0))
        if hint and self._fits(areas, hint, length, flags):
            return hint
        return self._search(areas, length, flags)

    def rounded(self, hint: int) -> int:
        """Return a hint as 6.x takes it: its page, or the lowest that may be mapped."""
        hint = hint // PAGE * PAGE
        return max(hint, PAGE, self.profile.mmap_min_addr) if hint else 0

    def _fits(self, areas: Areas, at: int, length: int, flags: int) -> bool:
        """Return whether ``length`` bytes at ``at`` are free and clear of a guard gap."""
        end = at + length
        above = areas.find(at)
        return end <= (_LOW_END if self._low(flags) else self.task_size) and (
            above is None or end <= guarded_start(above, self.profile.stack_guard_gap)
        )

    def _wants_huge(
        self, hint: int, length: int, flags: int, file: OpenFile | None, offset: int
    ) -> bool:
        """Return whether a mapping is to be aligned so that huge pages fit into it."""
        if file is None:
            return not flags & _MAP_SHARED and not hint and length % HUGE == 0
        first = -(-offset // HUGE) * HUGE
        return not file.inode.shmem and offset + length - first >= HUGE

    def _search(self, areas: Areas, length: int, flags: int) -> int | None:
        if self.top_down and not (flags & _MAP_32BIT and self._low(flags)):
            found = self.highest_hole(areas, length)
            if found is not None:
                return found
        return self.lowest_hole(areas, length, flags)

    def _low(self, flags: int) -> bool:
        """Return whether the mapping must lie below 2 GiB; 32-bit programs need not ask."""
        return bool(flags & _MAP_32BIT) and self.profile.arch == "x86_64"

    def highest_hole(self, areas: Areas, length: int) -> int | None:
        """Return the highest address with ``length`` free bytes below mmap_base, or None.

        A hole that reaches into a guard gap is searched again from the gap's start on, which is
        how the kernel passes over holes that lie in between.
        """
        bottom = max(PAGE, self.profile.mmap_min_addr)
        if length > self.base:
            return None
        size_class = (length // PAGE).bit_length() - 1
        small = PAGE << size_class
        limit = self.full[size_class]
        above = areas.find(limit)
        learn = True
        while limit > bottom:
            if above is None:
                below = areas.last_before(limit)
            else:
                limit = min(limit, above.start)
                below = above.prev
            hole = limit - (below.end if below is not None and below.end > bottom else bottom)
            if learn and hole >= small:
                learn = False
                self._learn(size_class, limit)
            if hole < length:
                if below is None:
                    break
                above = below
                continue
            if above is None or not above.flags & VM_GROWSDOWN:
                return limit - length
            fence = guarded_start(above, self.profile.stack_guard_gap)
            if fence >= limit:
                return limit - length
            limit = fence
            above = areas.find(limit)
        if learn:
            self._learn(size_class, bottom)
        return None

    def _learn(self, size_class: int, limit: int) -> None:
        """Note that no hole of the class lies above ``limit``, hence no larger one either."""
        full = self.full
        for k in range(size_class, len(full)):
            if full[k] <= limit:
                break
            full[k] = limit

    def lowest_hole(self, areas: Areas, length: int, flags: int = 0) -> int | None:
        """Return the lowest address with ``length`` free bytes above the base, or None."""
        at, top = self.bottom, self.task_size
        if self._low(flags):
            at, top = _LOW_START, _LOW_END
        above = areas.find(at)
        while at + length <= top:
            if above is None:
                return at
            if above.start - at >= length:
                fence = guarded_start(above, self.profile.stack_guard_gap)
                if at + length <= fence:
                    return at
            at = max(at, above.end)
            above = above.next
        return None

    def hole_grew(self, floor: int, ceiling: int) -> None:
        """Let the search of 6.x know that all from ``floor`` to ``ceiling`` is a hole now."""
        base = self.base
        if floor < base:
            upper, full = min(ceiling, base), self.full
            largest = ((ceiling - floor) // PAGE).bit_length() - 1
            while largest >= 0 and full[largest] < upper:
                full[largest] = upper
                largest -= 1

    # --- 2.6 ----------------------------------------------------------------------------

    def _place_old(self, areas: Areas, hint: int, length: int, flags: int) -> int | None:
        top = _LOW_END if self._low(flags) else self.task_size
        if length > top:
            return None
        hint = -(-hint // PAGE) * PAGE
        if hint:
            above = areas.find(hint)
            if hint + length <= top and (above is None or hint + length <= above.start):
                return hint
        keep_hole = self.profile.placement == "cache+hole"
        if not self.top_down:
            return self._upward(areas, length, flags)
        found = self._downward_hole(areas, length) if keep_hole else self._downward(areas, length)
        if found is not None:
            return found
        self.cache, self.hole = self.bottom, _FORGOTTEN
        found = self._upward(areas, length, flags)
        self.cache, self.hole = self.base, _FORGOTTEN
        return found

    def _upward(self, areas: Areas, length: int, flags: int) -> int | None:
        """Search upward from the cache, once more from the bottom if that fails.

        2.6.18 begins at the bottom if it remembers a hole; for a 64-bit program it does not care.
        """
        bottom, top = self.bottom, self.task_size
        if self._low(flags):
            bottom, top = _LOW_START, _LOW_END
        minds_holes = self.profile.placement == "cache+hole"
        minds_holes &= self.profile.arch != "x86_64" or self._low(flags)
        if minds_holes and length <= self.hole:
            self.cache, self.hole = bottom, 0
        start = at = max(self.cache, bottom)
        above = areas.find(at)
        while True:
            if at > top - length:
                if start == bottom:
                    return None
                start = at = bottom
                self.hole = 0
                above = areas.find(at)
                continue
            if above is None or at + length <= above.start:
                self.cache = at + length
                return at
            self.hole = max(self.hole, above.start - at)
            at = above.end
            above = above.next

    def _downward(self, areas: Areas, length: int) -> int | None:
        """Search downward as 2.6.11: from the cache, then once more from mmap_base."""
        for attempt in range(2):
            self.cache = min(self.cache, self.base) if not attempt else self.base
            at = self.cache - length
            while at >= 0:
                above = areas.find(at)
                if above is None:
                    return at
                below = above.prev.end if above.prev is not None else 0
                if at + length <= above.start and below <= at:
                    self.cache = at
                    return at
                if self.cache == above.end:
                    self.cache = above.start
                at = above.start - length
        return None

    def _downward_hole(self, areas: Areas, length: int) -> int | None:
        """Search downward as 2.6.18, noting the largest hole stepped over."""
        if length <= self.hole:
            self.hole, self.cache = 0, self.base
        if self.cache > length:
            above = areas.find(self.cache - length)
            if above is None or self.cache <= above.start:
                self.cache -= length
                return self.cache
        if self.base < length:
            return None
        at = self.base - length
        while True:
            above = areas.find(at)
            if above is None or at + length <= above.start:
                self.cache = at
                return at
            self.hole = max(self.hole, above.start - at)
            at = above.start - length
            if length >= above.start:
                return None

    def freed(self, old: Sequence[Vma], floor: int, ceiling: int, *, top: bool) -> None:
        """Let the search of 2.6 know that neighbouring areas are gone.

        All from ``floor`` to ``ceiling`` is a hole now; ``top`` tells that no area lies above.
        """
        if self.profile.placement == "cache":
            for vma in old:
                if self.top_down:
                    self.cache = max(self.cache, vma.end)
                elif self.bottom <= vma.start < self.cache:
                    self.cache = vma.start
        elif self.top_down:
            self.cache = min(max(self.cache, self.base if top else ceiling), self.base)
        elif self.bottom <= floor < self.cache:
            self.cache, self.hole = floor, _FORGOTTEN

    # --- checking -----------------------------------------------------------------------

    def check(self, areas: Areas) -> None:
        """Raise :class:`EngineBug` if a hole lies where ``full`` says there is none."""
        if sorted(self.full, reverse=True) != self.full:
            message = f"larger holes higher up: {self.full}"
            raise EngineBug(message)
        low = max(PAGE, self.profile.mmap_min_addr)
        ends, starts = [vma.end for vma in areas], [vma.start for vma in areas]
        for vma_end, start in zip([low, *ends], [*starts, self.base], strict=True):
            top = min(start, self.base)
            size_class = ((top - max(vma_end, low)) // PAGE).bit_length() - 1
            for k in range(size_class + 1 if top > vma_end else 0):
                if self.full[k] < top:
                    message = f"hole {vma_end:#x}-{top:#x} above {self.full[k]:#x}, class {k}"
                    raise EngineBug(message)
