"""The address space of one process: its areas, and the system calls that change them.

Every call returns what the system call returns; a failure is :class:`OSError` with the kernel's
errno and has the side effects the kernel leaves behind.  The page layer hears of what happened
through :class:`Pages`, promises go through :class:`~pyalloc.kernel.files.Commit`.

Invariants (:meth:`AddressSpace.check`): areas are sorted, disjoint and merged as far as the rules
allow; ``total_vm`` and its kin are the sums over the areas.

Sources: ``mm/mmap.c``, ``mm/vma.c``, ``mm/mprotect.c`` of Linux 6.12 and 6.18; ``mm/mmap.c`` and
``mm/mprotect.c`` of 2.6.11 and 2.6.18.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Final, Protocol

from pyalloc.errors import EngineBug, MemoryFault
from pyalloc.kernel import advice as advising
from pyalloc.kernel import anon, locking, remap
from pyalloc.kernel.abi import (
    MAP,
    PROT,
    VM_ACCESS,
    VM_ACCOUNT,
    VM_DATA,
    VM_DONTCOPY,
    VM_EXEC,
    VM_GROWSDOWN,
    VM_IO,
    VM_LOCKED,
    VM_LOCKONFAULT,
    VM_MAY,
    VM_MAYSHARE,
    VM_MAYWRITE,
    VM_NOHUGEPAGE,
    VM_NORESERVE,
    VM_PFNMAP,
    VM_READ,
    VM_SHARED,
    VM_WIPEONFORK,
    VM_WRITE,
    fail,
)
from pyalloc.kernel.area import Vma
from pyalloc.kernel.areas import Areas
from pyalloc.kernel.files import Commit, FreeCommit, OpenFile, shared_anonymous
from pyalloc.kernel.layout import Layout, page_ceil
from pyalloc.kernel.limits import Limits
from pyalloc.kernel.placement import Placement, guarded_start
from pyalloc.kernel.profiles import KernelProfile
from pyalloc.units import PAGE

SIGBUS: Final = 7
SIGSEGV: Final = 11

# as plain ints: arithmetic on IntFlags is slow, and these are in the way of every call
_TYPE: Final = int(MAP.TYPE)
_SHARED: Final = int(MAP.SHARED)
_PRIVATE: Final = int(MAP.PRIVATE)
_VALIDATE: Final = int(MAP.SHARED_VALIDATE)
_FIXED: Final = int(MAP.FIXED)
_GROWSDOWN: Final = int(MAP.GROWSDOWN)
_LOCKED: Final = int(MAP.LOCKED)
_NORESERVE: Final = int(MAP.NORESERVE)
_POPULATE: Final = int(MAP.POPULATE)
_STACK: Final = int(MAP.STACK)
_NOREPLACE: Final = int(MAP.FIXED_NOREPLACE)
_POPULATE_WHEN: Final = int(MAP.POPULATE | MAP.NONBLOCK)
_PROT_WRITE: Final = int(PROT.WRITE)
_PROT_GROWSDOWN: Final = int(PROT.GROWSDOWN)
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
)
"""The flags MAP_SHARED_VALIDATE takes for a file; any other is an error."""
_PROT_GROWS: Final = int(PROT.GROWSDOWN | PROT.GROWSUP)


class Pages(Protocol):
    """What the page layer is told; addresses in bytes, ends exclusive.

    Calls come when the areas already are as the system call leaves them.
    """

    def unmap(self, start: int, end: int, floor: int, ceiling: int) -> None:
        """Drop all pages of a range; page tables wholly inside (floor, ceiling) go too."""

    def move(self, old: int, new: int, length: int, head: int) -> None:
        """Let the pages at ``old`` be those at ``new``, which has none.

        For ``head`` bytes before both, there are no areas: whole page tables may move.
        """

    def discard(self, start: int, end: int) -> None:
        """Drop all pages of a range that stays mapped (MADV_DONTNEED)."""

    def lazyfree(self, start: int, end: int) -> None:
        """Let the private pages of a range be dropped before anything else (MADV_FREE)."""

    def protect(self, start: int, end: int, writable: bool) -> None:
        """Allow or refuse writes to a range from now on."""

    def populate(self, vma: Vma, start: int, end: int, write: bool) -> None:
        """Fault in a range inside ``vma``, as far as memory and its object go."""


class NoPages:
    """A page layer for who wants areas only."""

    def unmap(self, start: int, end: int, floor: int, ceiling: int) -> None:
        """Do nothing."""

    def move(self, old: int, new: int, length: int, head: int) -> None:
        """Do nothing."""

    def discard(self, start: int, end: int) -> None:
        """Do nothing."""

    def lazyfree(self, start: int, end: int) -> None:
        """Do nothing."""

    def protect(self, start: int, end: int, writable: bool) -> None:
        """Do nothing."""

    def populate(self, vma: Vma, start: int, end: int, write: bool) -> None:
        """Do nothing."""


class AddressSpace:
    """The areas of one process (``mm_struct``), and the calls on them.

    ``total_vm`` and the other ``*_vm`` count pages; ``brk`` and every address are bytes.
    """

    def __init__(
        self,
        profile: KernelProfile,
        layout: Layout,
        limits: Limits | None = None,
        pages: Pages | None = None,
        commit: Commit | None = None,
    ) -> None:
        self.profile = profile
        self.limits = limits or Limits()
        self.pages: Pages = pages or NoPages()
        self.commit: Commit = commit or FreeCommit()
        self.task_size = layout.task_size
        self.start_brk, self.brk_value = layout.start_brk, layout.brk
        self.start_code, self.end_code = layout.start_code, layout.end_code
        self.start_data, self.end_data = layout.start_data, layout.end_data
        self.start_stack = layout.start_stack
        self.gate = layout.gate
        self.read_implies_exec = layout.read_implies_exec
        self.placement = Placement(
            profile, layout.task_size, layout.mmap_base, layout.legacy_base, layout.top_down
        )
        if layout.search is not None:
            self.placement.cache, self.placement.hole = layout.search
        self.areas = Areas(profile.anon_rule)
        self.total_vm = self.exec_vm = self.stack_vm = self.data_vm = 0
        self.shared_vm = self.reserved_vm = self.locked_vm = 0
        self.locked_lost = 0
        self.peak_vm = 0
        self.lock_future = 0
        self.next_object = 1
        for vma in layout.areas:
            self.areas.insert(vma)
            self.count(vma.flags, vma.file, vma.pages)
            if vma.flags & VM_ACCOUNT:
                self.commit.charge(vma.pages)
        for vma in layout.written:
            self.areas.prepare_anon(vma)

    # --- looking ------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Vma]:
        return iter(self.areas)

    def __len__(self) -> int:
        return len(self.areas)

    def find(self, address: int) -> Vma | None:
        """Return the first area that ends above ``address``; it may begin above it."""
        return self.areas.find(address)

    def at(self, address: int) -> Vma | None:
        """Return the area that holds ``address``, None in a hole."""
        vma = self.areas.find(address)
        return vma if vma is not None and vma.start <= address else None

    def label(self, vma: Vma) -> str:
        """Return the name ``/proc/PID/maps`` gives ``vma``, empty if none."""
        if vma.file is not None:
            return vma.file.inode.path
        if vma.name is not None:
            return vma.name
        rule = self.profile.maps_labels
        if rule == "none":
            return ""
        if rule == "cover":
            heap = vma.start <= self.start_brk and vma.end >= self.brk_value
        else:
            heap = vma.start < self.brk_value and vma.end > self.start_brk
        if heap:
            return "[heap]"
        return "[stack]" if vma.start <= self.start_stack <= vma.end else ""

    def layout(self) -> Layout:
        """Return a copy of the whole space as a layout to start other processes from."""
        areas = [
            Vma(vma.start, vma.end, vma.flags, vma.pgoff, vma.file, vma.name) for vma in self.areas
        ]
        written = [
            copy for copy, vma in zip(areas, self.areas, strict=True) if vma.anon_vma is not None
        ]
        return Layout(
            self.task_size,
            self.placement.base,
            self.placement.bottom,
            self.placement.top_down,
            self.start_brk,
            self.brk_value,
            self.start_stack,
            areas,
            written,
            self.start_code,
            self.end_code,
            self.start_data,
            self.end_data,
            self.gate,
            (self.placement.cache, self.placement.hole),
            self.read_implies_exec,
        )

    # --- counting -----------------------------------------------------------------------

    def count(self, flags: int, file: OpenFile | None, pages: int) -> None:
        """Add ``pages`` of such an area to the totals (``vm_stat_account``)."""
        self.total_vm += pages
        if flags & VM_LOCKED:
            self.locked_vm += pages
        if self.profile.modern:
            if flags & (VM_EXEC | VM_WRITE | VM_GROWSDOWN) == VM_EXEC:
                self.exec_vm += pages
            elif flags & VM_GROWSDOWN:
                self.stack_vm += pages
            elif flags & (VM_WRITE | VM_SHARED) == VM_WRITE:
                self.data_vm += pages
        else:
            if file is not None:
                self.shared_vm += pages
                if flags & (VM_EXEC | VM_WRITE) == VM_EXEC:
                    self.exec_vm += pages
            elif flags & VM_GROWSDOWN:
                self.stack_vm += pages
            if flags & VM_IO:
                self.reserved_vm += pages
        self.peak_vm = max(self.peak_vm, self.total_vm)

    def may_expand(self, flags: int, pages: int) -> bool:
        """Return whether RLIMIT_AS and (6.x) RLIMIT_DATA leave room for ``pages`` more."""
        limits = self.limits
        if self.total_vm + pages > limits.address_space // PAGE:
            return False
        if not self.profile.modern or flags & (VM_WRITE | VM_SHARED | VM_GROWSDOWN) != VM_WRITE:
            return True
        want = self.data_vm + pages
        if want <= limits.data // PAGE:
            return True
        return limits.data == 0 and want <= limits.data_hard // PAGE

    def may_lock(self, flags: int, length: int) -> bool:
        """Return whether RLIMIT_MEMLOCK leaves room for ``length`` bytes of such an area."""
        if not flags & VM_LOCKED or self.limits.ipc_lock:
            return True
        return self.locked_vm + length // PAGE <= self.limits.memlock // PAGE

    # --- mmap ---------------------------------------------------------------------------

    def mmap(  # noqa: C901 - one check after another, in the kernel's order
        self,
        addr: int,
        length: int,
        prot: int,
        flags: int,
        file: OpenFile | None = None,
        offset: int = 0,
        name: str | None = None,
    ) -> int:
        """Map ``length`` bytes and return the address, as ``mmap(2)``; ``offset`` in bytes.

        ``name`` is what ``prctl(PR_SET_VMA_ANON_NAME)`` would set at once.

        Raises
        ------
        OSError
            EINVAL, ENOMEM, EOVERFLOW, EEXIST, EPERM, EAGAIN or EACCES, in the kernel's order.
        """
        prot, flags = self._implied(int(prot)), int(flags)
        if offset % PAGE:
            fail(errno.EINVAL)
        if not length:
            if self.profile.empty_mmap_succeeds:
                return addr
            fail(errno.EINVAL)
        length = self._mmap_length(length)
        if flags & _NOREPLACE and self.profile.modern:
            flags |= _FIXED
        pgoff = offset // PAGE
        if pgoff + length // PAGE >= 1 << (
            8 * self.profile.word - (0 if self.profile.modern else 12)
        ):
            fail(errno.EOVERFLOW)
        if len(self.areas) > self.profile.max_map_count:
            fail(errno.ENOMEM)
        vm = self._vm_flags(prot, flags)
        addr = self.place(addr, length, flags, file, offset)
        if flags & _NOREPLACE and self.profile.modern and self.areas.overlaps(addr, addr + length):
            fail(errno.EEXIST)
        if flags & _LOCKED and not (self.limits.memlock or self.limits.ipc_lock):
            fail(errno.EPERM)
        if not self.may_lock(vm, length):
            fail(errno.EAGAIN)
        vm |= self._mmap_type(prot, flags, vm, file)
        if file is not None and not file.writable and vm & VM_SHARED:
            vm &= ~(VM_MAYWRITE | VM_SHARED)
        if file is None and (self.profile.modern or not vm & VM_SHARED):
            pgoff = 0 if vm & VM_SHARED else addr // PAGE
        if flags & _NORESERVE and not self.commit.strict:
            vm |= VM_NORESERVE
        vma = self._map(Vma(addr, addr + length, vm, pgoff, file, name))
        self._mapped(vma, addr, length, flags)
        return addr

    def _implied(self, prot: int) -> int:
        """Return ``prot`` as the program's personality reads it."""
        return prot | VM_EXEC if self.read_implies_exec and prot & VM_READ else prot

    def _mmap_length(self, length: int) -> int:
        """Return ``length`` in whole pages, or fail as the kernel does on one that wraps."""
        whole = page_ceil(length)
        if self.profile.modern:
            if whole >= 1 << (8 * self.profile.word):
                fail(errno.ENOMEM)
        elif whole > self.task_size or not whole:
            fail(errno.EINVAL if self.profile.empty_mmap_succeeds else errno.ENOMEM)
        return whole

    def _vm_flags(self, prot: int, flags: int) -> int:
        vm = prot & VM_ACCESS | VM_MAY | self.lock_future
        if flags & _GROWSDOWN:
            vm |= VM_GROWSDOWN
        if flags & _LOCKED:
            vm |= VM_LOCKED
        if flags & _STACK and self.profile.modern:
            vm |= VM_NOHUGEPAGE
        return vm

    def _mmap_type(self, prot: int, flags: int, vm: int, file: OpenFile | None) -> int:
        """Return the sharing flags of a mapping, or fail as its type or its file demands."""
        kind = flags & _TYPE
        if kind == _SHARED or (kind == _VALIDATE and file is not None):
            if file is None and vm & VM_GROWSDOWN:
                fail(errno.EINVAL)
            if kind != _SHARED and flags & ~_KNOWN:
                fail(errno.EOPNOTSUPP)
            if file is not None and prot & _PROT_WRITE and not file.writable:
                fail(errno.EACCES)
            shared = VM_SHARED | VM_MAYSHARE
        elif kind == _PRIVATE:
            shared = 0
        else:
            fail(errno.EINVAL)
        if file is not None:
            if not file.readable:
                fail(errno.EACCES)
            if vm & VM_GROWSDOWN:
                fail(errno.EINVAL)
        return shared

    def place(self, addr: int, length: int, flags: int, file: OpenFile | None, offset: int) -> int:
        """Return where a mapping goes (``get_unmapped_area``)."""
        if length > self.task_size:
            fail(errno.ENOMEM)
        if flags & _FIXED:
            if addr > self.task_size - length:
                fail(errno.ENOMEM)
            if addr % PAGE:
                fail(errno.EINVAL)
            if addr < self.profile.mmap_min_addr:
                fail(errno.EPERM)
            return addr
        found = self.placement.place(self.areas, addr, length, flags, file, offset)
        if found is None:
            fail(errno.ENOMEM)
        return found

    def _map(self, new: Vma) -> Vma:
        """Put ``new`` in place of whatever is there, merged where it can (``mmap_region``)."""
        old = self.cut_out(new.start, new.end)
        replaced = sum(vma.pages for vma in old)
        accounted = sum(vma.pages for vma in old if vma.flags & VM_ACCOUNT)
        locked_object = new.file is None and new.flags & VM_SHARED
        if not self.profile.modern:
            self.drop(old)
            replaced = accounted = 0
        if not self.may_expand(new.flags, new.pages - replaced):
            fail(errno.ENOMEM)
        accountable = new.flags & (VM_NORESERVE | VM_SHARED | VM_WRITE) == VM_WRITE
        reserved = not new.flags & VM_NORESERVE
        if not self.profile.modern:
            new.flags &= ~VM_NORESERVE  # 2.6 forgets that it was asked for
        if accountable:
            if new.pages - accounted > 0:
                if not self.commit.charge(new.pages - accounted):
                    fail(errno.ENOMEM)
            else:
                self.commit.uncharge(accounted - new.pages)
            new.flags |= VM_ACCOUNT
            accounted = 0
        if self.profile.modern:
            self.drop(old, charged=not accountable)
        if locked_object:
            new.file = self._shared_object(new, charged=reserved)
        vma = self.areas.merge_new(new)
        if vma is None:
            self.areas.insert(new)
            vma = new
        self.count(new.flags, new.file, new.pages)
        return vma

    def _shared_object(self, new: Vma, *, charged: bool) -> OpenFile:
        if charged and not self.commit.charge(new.pages):
            fail(errno.ENOMEM)
        self.next_object += 1
        length = new.end - new.start
        return shared_anonymous(length, self.commit, self.next_object, charged=charged)

    def _mapped(self, vma: Vma, addr: int, length: int, flags: int) -> None:
        """Fault in what MAP_LOCKED and MAP_POPULATE ask for."""
        if vma.flags & VM_LOCKED or flags & _POPULATE_WHEN == _POPULATE:
            self.populate(addr, addr + length)

    def populate(self, start: int, end: int, *, stop: bool = False) -> bool:
        """Fault in a range, for write where that is private; False if a page cannot be had.

        Areas that refuse every access or lie beyond their object's end are passed over, unless
        ``stop`` ends it there.
        """
        whole = True
        for vma in self.areas.covering(start, end):
            if vma.flags & (VM_IO | VM_PFNMAP | VM_LOCKONFAULT):
                continue
            if not self._populate_area(vma, max(start, vma.start), min(end, vma.end)):
                whole = False
                if stop:
                    break
        return whole

    def _populate_area(self, vma: Vma, low: int, high: int) -> bool:
        if not vma.flags & VM_ACCESS:
            return False
        write = vma.flags & (VM_WRITE | VM_SHARED) == VM_WRITE
        if write:
            self.areas.prepare_anon(vma)
        self.pages.populate(vma, low, high, write)
        return high <= vma.object_end

    # --- munmap -------------------------------------------------------------------------

    def munmap(self, addr: int, length: int) -> int:
        """Unmap a range and return 0, as ``munmap(2)``; holes in it are no error.

        Raises
        ------
        OSError
            EINVAL for a bad range, ENOMEM if a needed split would pass the limit of areas.
        """
        if addr % PAGE or addr > self.task_size or length > self.task_size - addr or not length:
            fail(errno.EINVAL)
        self.drop(self.cut_out(addr, addr + page_ceil(length)))
        return 0

    def cut_out(self, start: int, end: int) -> list[Vma]:
        """Split at both ends of a range and return the areas that fill it."""
        old = self.areas.covering(start, end)
        if not old:
            return old
        first, last = old[0], old[-1]
        if first.start < start:
            self._may_split(first, counted=not self.profile.modern or end < first.end)
            old[0] = self.areas.split(first, start)
            last = old[-1]
        if last.end > end:
            self._may_split(last, counted=not self.profile.modern)
            self.areas.split(last, end)
        return old

    def _may_split(self, vma: Vma, *, counted: bool = True) -> None:
        """Fail if ``vma`` is the kernel's own, or if the limit of areas counts and is reached."""
        if counted and len(self.areas) >= self.profile.max_map_count:
            fail(errno.ENOMEM)
        if vma.kernels_own:
            fail(errno.EINVAL)

    def drop(self, old: list[Vma], *, charged: bool = True) -> None:
        """Take whole neighbouring areas out; ``charged`` gives their promises back."""
        if not old:
            return
        start, end = old[0].start, old[-1].end
        for vma in old:
            self.count(vma.flags, vma.file, -vma.pages)
            if charged and vma.flags & VM_ACCOUNT:
                self.commit.uncharge(vma.pages)
        index = self.areas.index(start)
        self.areas.remove_range(start, end)
        vmas = self.areas.vmas
        floor = vmas[index - 1].end if index else 0
        ceiling = vmas[index].start if index < len(vmas) else self.task_size
        self.placement.freed(old, floor, ceiling, top=index >= len(vmas))
        self.pages.unmap(start, end, floor, ceiling)

    # --- mprotect -----------------------------------------------------------------------

    def mprotect(self, addr: int, length: int, prot: int) -> int:
        """Change the protection of a range and return 0, as ``mprotect(2)``.

        A hole fails with ENOMEM after everything before it has been changed.

        Raises
        ------
        OSError
            EINVAL, ENOMEM or EACCES.
        """
        prot = self._implied(int(prot))
        grows = prot & _PROT_GROWS
        if grows == _PROT_GROWS or addr % PAGE:
            fail(errno.EINVAL)
        if not length:
            return 0
        end = addr + page_ceil(length)
        if end >= 1 << (8 * self.profile.word):
            fail(errno.ENOMEM)
        if prot & ~(_PROT_GROWS | 15):
            fail(errno.EINVAL)
        start = self._protect_from(addr, end, grows)
        while start < end:
            vma = self.at(start)
            if vma is None:
                fail(errno.ENOMEM)
            stop = min(vma.end, end)
            flags = vma.flags & ~VM_ACCESS | prot & VM_ACCESS
            if flags & ~(flags >> 4) & VM_ACCESS:
                fail(errno.EACCES)
            self._protect(vma, start, stop, flags)
            start = stop
        return 0

    def _protect_from(self, addr: int, end: int, grows: int) -> int:
        """Return where a change begins: PROT_GROWSDOWN takes in the whole area below."""
        vma = self.find(addr)
        if vma is None or vma.start >= end or (not grows and vma.start > addr):
            fail(errno.ENOMEM)
        if grows == _PROT_GROWSDOWN:
            if not vma.flags & VM_GROWSDOWN:
                fail(errno.EINVAL)
            return vma.start
        if grows:
            fail(errno.EINVAL)
        return addr

    def _protect(self, vma: Vma, start: int, end: int, flags: int) -> None:
        """Give one area, or a part of it, new access rights (``mprotect_fixup``)."""
        old = vma.flags
        if flags == old:
            return
        pages = (end - start) // PAGE
        charged = 0
        if flags & VM_WRITE:
            if self.profile.modern and not (
                self.may_expand(flags, pages) or not self.may_expand(old, pages)
            ):
                fail(errno.ENOMEM)
            exempt = VM_ACCOUNT | VM_WRITE | VM_SHARED
            exempt |= VM_NORESERVE if self.profile.modern else 0
            if not old & exempt:
                if not self.commit.charge(pages):
                    fail(errno.ENOMEM)
                charged = pages
                flags |= VM_ACCOUNT
        elif self.profile.modern and old & VM_ACCOUNT and vma.anonymous and vma.anon_vma is None:
            flags &= ~VM_ACCOUNT
        file = vma.file
        try:
            self.modify(vma, start, end, flags)
        except OSError:
            self.commit.uncharge(charged)
            raise
        if old & VM_ACCOUNT and not flags & VM_ACCOUNT:
            self.commit.uncharge(pages)
        self.count(old, file, -pages)
        self.count(flags, file, pages)
        self.pages.protect(start, end, bool(flags & VM_WRITE))
        if old & (VM_WRITE | VM_SHARED | VM_LOCKED) == VM_LOCKED and flags & VM_WRITE:
            self.populate(start, end)

    def modify(self, vma: Vma, start: int, end: int, flags: int, *, join: bool = True) -> Vma:
        """Give a part of ``vma`` new flags, joining or splitting areas; counts stay the caller's.

        Raises
        ------
        OSError
            ENOMEM if the split would pass the limit of areas.
        """
        if join:
            merged = self.areas.merge_changed(vma, start, end, flags)
            if merged is not None:
                return merged
        if start > vma.start:
            self._may_split(vma)
            vma = self.areas.split(vma, start)
        if end < vma.end:
            self._may_split(vma)
            self.areas.split(vma, end)
        vma.flags = flags
        return vma

    # --- brk ----------------------------------------------------------------------------

    def brk(self, addr: int) -> int:
        """Move the break and return it, as the raw system call: the old break is a refusal."""
        old = self.brk_value
        lowest = self.start_brk if self.profile.modern else self.end_code
        if addr < lowest or (self.profile.data_limit_first and not self._brk_fits(addr)):
            return old
        new_end, old_end = page_ceil(addr), page_ceil(old)
        if new_end == old_end:
            self.brk_value = addr
        elif addr <= old:
            self._shrink_brk(addr, new_end, old_end)
        elif self._brk_fits(addr) and self._grow_brk(old_end, new_end):
            self.brk_value = addr
        return self.brk_value

    def _brk_fits(self, addr: int) -> bool:
        """Return whether RLIMIT_DATA allows the break at ``addr``."""
        if self.profile.modern:
            size = addr - self.start_brk + self.end_data - self.start_data
            return size <= self.limits.data
        return addr - self.start_data <= self.limits.data

    def _shrink_brk(self, addr: int, new_end: int, old_end: int) -> None:
        if self.profile.modern and not self.areas.overlaps(new_end, old_end):
            return
        old = self.brk_value
        self.brk_value = addr
        try:
            self.munmap(new_end, old_end - new_end)
        except OSError:
            self.brk_value = old

    def _grow_brk(self, old_end: int, new_end: int) -> bool:
        """Extend the heap area, or start one; False if the kernel refuses."""
        pages = (new_end - old_end) // PAGE
        flags = VM_DATA | VM_ACCOUNT | self.lock_future
        flags |= VM_EXEC if self.read_implies_exec else 0
        if new_end > self.task_size or not self.may_lock(flags, new_end - old_end):
            return False
        above = self.find(old_end)
        if above and new_end + PAGE > guarded_start(above, self.profile.stack_guard_gap):
            return False
        if (
            not self.may_expand(flags, pages)
            or len(self.areas) > self.profile.max_map_count
            or not self.commit.charge(pages)
        ):
            return False
        new = Vma(old_end, new_end, flags, old_end // PAGE)
        if self._extend_heap(new) is None:
            self.areas.insert(new)
        self.count(flags, None, pages)
        if flags & VM_LOCKED:
            self.populate(old_end, new_end)
        return True

    def _extend_heap(self, new: Vma) -> Vma | None:
        """Join ``new`` to what is before it; 2.6 joins it to what follows, too."""
        if not self.profile.modern:
            return self.areas.merge_new(new)
        below = self.areas.find(new.start - 1)
        if below is None or below.end != new.start or below.end <= self.start_brk:
            return None
        return self.areas.merge_new(new, left_only=True)

    # --- mremap, madvise, mlock ---------------------------------------------------------

    def mremap(self, addr: int, old: int, new: int, flags: int, new_addr: int = 0) -> int:
        """Resize or move a mapping and return its address, as ``mremap(2)``.

        Raises
        ------
        OSError
            EINVAL, EFAULT, EAGAIN or ENOMEM; see :mod:`pyalloc.kernel.remap`.
        """
        return remap.mremap(self, addr, old, new, int(flags), new_addr)

    def madvise(self, addr: int, length: int, advice: int) -> int:
        """Take advice about a range and return 0, as ``madvise(2)``.

        Raises
        ------
        OSError
            EINVAL, ENOMEM, EFAULT, EACCES or EAGAIN; see :mod:`pyalloc.kernel.advice`.
        """
        return advising.madvise(self, addr, length, int(advice))

    def mlock(self, addr: int, length: int, flags: int = 0) -> int:
        """Lock a range into memory and return 0, as ``mlock2(2)``.

        Raises
        ------
        OSError
            EPERM, EINVAL, ENOMEM or EAGAIN; see :mod:`pyalloc.kernel.locking`.
        """
        return locking.mlock(self, addr, length, flags)

    def munlock(self, addr: int, length: int) -> int:
        """Unlock a range and return 0, as ``munlock(2)``.

        Raises
        ------
        OSError
            EINVAL or ENOMEM.
        """
        return locking.munlock(self, addr, length)

    def mlockall(self, flags: int) -> int:
        """Lock everything and return 0, as ``mlockall(2)``.

        Raises
        ------
        OSError
            EINVAL, EPERM or ENOMEM; see :mod:`pyalloc.kernel.locking`.
        """
        return locking.mlockall(self, flags)

    def munlockall(self) -> int:
        """Unlock everything and return 0, as ``munlockall(2)``."""
        return locking.munlockall(self)

    # --- faults -------------------------------------------------------------------------

    def fault(self, addr: int, write: bool) -> Vma:
        """Return the area an access falls into, grown or given private pages if need be.

        Raises
        ------
        MemoryFault
            SIGSEGV for an access the areas do not allow, SIGBUS beyond the end of an object.
        """
        vma = self.areas.find(addr)
        if vma is None or (vma.start > addr and not self._grow_stack(vma, addr // PAGE * PAGE)):
            raise MemoryFault(SIGSEGV, addr)
        readable = VM_ACCESS if self.profile.modern else VM_READ | VM_EXEC
        if not vma.flags & (VM_WRITE if write else readable):
            raise MemoryFault(SIGSEGV, addr)
        beyond = vma.file is not None and addr >= vma.object_end
        if write and vma.anon_vma is None and vma.private and (self.profile.modern or not beyond):
            self.areas.prepare_anon(vma)  # 6.x does so before it looks for the page
        if beyond:
            raise MemoryFault(SIGBUS, addr)
        return vma

    def _grow_stack(self, vma: Vma, start: int) -> bool:
        """Let a stack reach down to ``start``; False if something stands in its way."""
        if not vma.flags & VM_GROWSDOWN or start < self.profile.mmap_min_addr:
            return False
        if self.profile.modern:
            below = self.areas.before(vma)
            if (
                below is not None
                and not below.flags & VM_GROWSDOWN
                and below.flags & VM_ACCESS
                and start - below.end < self.profile.stack_guard_gap
            ):
                return False
        self.areas.prepare_anon(vma)
        grow = (vma.start - start) // PAGE
        if (
            grow > vma.pgoff
            or not self.may_expand(vma.flags, grow)
            or vma.end - start > self.limits.stack
            or not self.may_lock(vma.flags, grow * PAGE)
            or not self.commit.charge(grow)
        ):
            return False
        self.areas.move_start(vma, start)
        self.count(vma.flags, vma.file, grow)
        return True

    # --- fork and exit ------------------------------------------------------------------

    def fork(self, pages: Pages | None = None, commit: Commit | None = None) -> AddressSpace:
        """Return the child's address space, with a page layer and an account of its own.

        Which pages the child gets is the page layer's business: those of areas whose
        ``anon_vma`` is set, but not of areas marked VM_WIPEONFORK.

        Raises
        ------
        OSError
            ENOMEM if the promises of all areas cannot be made twice.
        """
        child = AddressSpace.__new__(AddressSpace)
        child.__dict__.update(self.__dict__)
        child.pages = pages or NoPages()
        child.commit = commit or self.commit
        child.areas = Areas(self.profile.anon_rule)
        child.placement = self.placement.forked()
        child.total_vm = child.exec_vm = child.stack_vm = child.data_vm = 0
        child.shared_vm = child.reserved_vm = child.locked_vm = 0
        child.lock_future = child.locked_lost = 0
        for vma in self.areas:
            if vma.flags & VM_DONTCOPY:
                continue
            if vma.flags & VM_ACCOUNT and not child.commit.charge(vma.pages):
                child.exit()
                fail(errno.ENOMEM)
            child._take_copy(vma)  # noqa: SLF001 - it is one of us
        child.peak_vm = child.total_vm
        return child

    def _take_copy(self, vma: Vma) -> None:
        flags = vma.flags & ~(VM_LOCKED | VM_LOCKONFAULT)
        copy = Vma(vma.start, vma.end, flags, vma.pgoff, vma.file, vma.name)
        if not flags & VM_WIPEONFORK:
            anon.fork(copy, vma, chains=self.profile.modern)
        self.areas.insert(copy)
        self.count(flags, vma.file, vma.pages)

    def exit(self) -> None:
        """Give everything back: areas, promises, pages."""
        for vma in self.areas:
            self.count(vma.flags, vma.file, -vma.pages)
            if vma.flags & VM_ACCOUNT:
                self.commit.uncharge(vma.pages)
        self.areas.remove_range(0, self.task_size)
        self.pages.unmap(0, self.task_size, 0, self.task_size)

    # --- checking -----------------------------------------------------------------------

    def check(self) -> None:
        """Raise :class:`EngineBug` unless every invariant of the module holds."""
        self.areas.check()
        if self.profile.modern:
            self.placement.check(self.areas)
        names = (
            "total_vm",
            "exec_vm",
            "stack_vm",
            "data_vm",
            "shared_vm",
            "reserved_vm",
            "locked_vm",
        )
        have = [getattr(self, name) for name in names]
        probe = AddressSpace.__new__(AddressSpace)
        probe.profile = self.profile
        probe.peak_vm = 0
        for name in names:
            setattr(probe, name, 0)
        for vma in self.areas:
            probe.count(vma.flags, vma.file, vma.pages)
        probe.locked_vm += self.locked_lost
        want = [getattr(probe, name) for name in names]
        if have != want:
            message = f"counters {dict(zip(names, have, strict=True))} should be {want}"
            raise EngineBug(message)
