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
from collections.abc import Iterator, Sequence

from pyalloc.errors import EngineBug
from pyalloc.kernel import advice as advising
from pyalloc.kernel import anon, faulting, locking, mapping, protection, remap
from pyalloc.kernel import brk as breaks
from pyalloc.kernel.abi import (
    VM_ACCESS,
    VM_ACCOUNT,
    VM_DONTCOPY,
    VM_DONTEXPAND,
    VM_EXEC,
    VM_GROWSDOWN,
    VM_IO,
    VM_IS_CODE,
    VM_IS_DATA,
    VM_LOCKED,
    VM_LOCKONFAULT,
    VM_PFNMAP,
    VM_SHARED,
    VM_WIPEONFORK,
    VM_WRITE,
    fail,
)
from pyalloc.kernel.area import Vma
from pyalloc.kernel.areas import Areas
from pyalloc.kernel.files import Commit, FreeCommit, OpenFile
from pyalloc.kernel.layout import Layout
from pyalloc.kernel.limits import Limits
from pyalloc.kernel.pages import NoPages, Pages
from pyalloc.kernel.placement import Placement
from pyalloc.kernel.profiles import KernelProfile
from pyalloc.units import PAGE


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
            return vma.name if self.profile.vdso_shown else ""
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
        self.total_vm = total = self.total_vm + pages
        if total > self.peak_vm:  # noqa: PLR1730 - a call of max() takes as long as all the rest
            self.peak_vm = total
        if flags & VM_LOCKED:
            self.locked_vm += pages
        self._count_kind(flags, file, pages)

    def recount(self, old: int, new: int, file: OpenFile | None, pages: int) -> None:
        """Count ``pages`` under other flags than before."""
        if (old ^ new) & VM_LOCKED:
            self.locked_vm += pages if new & VM_LOCKED else -pages
        self._count_kind(old, file, -pages)
        self._count_kind(new, file, pages)

    def _count_kind(self, flags: int, file: OpenFile | None, pages: int) -> None:
        if not self.profile.modern:
            self._count_old(flags, file, pages)
        elif flags & VM_IS_DATA == VM_WRITE:
            self.data_vm += pages
        elif flags & VM_IS_CODE == VM_EXEC:
            self.exec_vm += pages
        elif flags & VM_GROWSDOWN:
            self.stack_vm += pages

    def _count_old(self, flags: int, file: OpenFile | None, pages: int) -> None:
        if file is not None:
            self.shared_vm += pages
            if flags & (VM_EXEC | VM_WRITE) == VM_EXEC:
                self.exec_vm += pages
        elif flags & VM_GROWSDOWN:
            self.stack_vm += pages
        if flags & VM_IO:
            self.reserved_vm += pages

    def may_expand(self, flags: int, pages: int) -> bool:
        """Return whether RLIMIT_AS and (6.x) RLIMIT_DATA leave room for ``pages`` more."""
        limits = self.limits
        if (self.total_vm + pages) * PAGE > limits.address_space:
            return False
        if flags & VM_IS_DATA != VM_WRITE or not self.profile.modern:
            return True
        want = self.data_vm + pages
        if want * PAGE <= limits.data:
            return True
        return limits.data == 0 and want <= limits.data_hard // PAGE

    def may_lock(self, flags: int, length: int) -> bool:
        """Return whether RLIMIT_MEMLOCK leaves room for ``length`` bytes of such an area."""
        if not flags & VM_LOCKED or self.limits.ipc_lock:
            return True
        return self.locked_vm + length // PAGE <= self.limits.memlock // PAGE

    # --- mapping ------------------------------------------------------------------------

    def mmap(
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
            EINVAL, ENOMEM, EOVERFLOW, EEXIST, EPERM, EAGAIN, EACCES or EOPNOTSUPP, in the
            kernel's order; see :mod:`pyalloc.kernel.mapping`.
        """
        return mapping.mmap(self, addr, length, int(prot), int(flags), file, offset, name)

    def mapped_below(self, vma: Vma, start: int) -> bool:
        """Take note that all from ``start`` to the private area ``vma`` was mapped as a part of it.

        Whoever did so knows that nothing could refuse it.  Returns whether it was anything.
        """
        pages = (vma.start - start) // PAGE
        if pages:
            self.commit.uncharge(-pages)  # a promise that needs no question
            self.areas.move_start(vma, start)
            self.count(vma.flags, None, pages)
        return pages > 0

    def populate(self, start: int, end: int, *, stop: bool = False, own: bool = False) -> bool:
        """Fault in a range, for write where that is private; False if a page cannot be had.

        Areas that refuse every access or lie beyond their object's end are passed over, unless
        ``stop`` ends it there.  ``own`` counts faults as the program's own are.
        """
        whole = True
        for vma in self.areas.covering(start, end):
            if vma.flags & (VM_IO | VM_PFNMAP | VM_LOCKONFAULT):
                continue
            if not self._populate_area(vma, max(start, vma.start), min(end, vma.end), own):
                whole = False
                if stop:
                    break
        return whole

    def _populate_area(self, vma: Vma, low: int, high: int, own: bool) -> bool:
        if not vma.flags & VM_ACCESS:
            return False
        write = vma.flags & (VM_WRITE | VM_SHARED) == VM_WRITE
        if write:
            self.areas.prepare_anon(vma)
        return self.pages.populate(vma, low, high, write, own=own) and high <= vma.object_end

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
        self.unmap(addr, addr - (-length // PAGE) * PAGE)
        return 0

    def unmap(self, start: int, end: int) -> bool:
        """Take out what lies in a range of whole pages; return whether anything did.

        Raises
        ------
        OSError
            As :meth:`cut_out`.
        """
        first = self.areas.find(start)
        if first is None or first.start >= end:
            return False
        if self.loses_one_end(first, start, end) and (
            first.next is None or first.next.start >= end
        ):
            self._shorten(first, start, end)
        else:
            self.drop(self.cut_out(start, end, first))
        return True

    def loses_one_end(self, vma: Vma, start: int, end: int) -> bool:
        """Return whether a range takes one end off ``vma``, and may.

        That part need not become an area first (6.x), of which nobody would hear.
        """
        return (
            (vma.start < start) != (end < vma.end)
            and self.profile.modern
            and not vma.flags & VM_DONTEXPAND
        )

    def _shorten(self, vma: Vma, start: int, end: int) -> None:
        """Do what :meth:`cut_out` and :meth:`drop` come to where an area loses one end."""
        before, after = vma.prev, vma.next
        if vma.start < start:
            end, before = vma.end, vma
            vma.end = start
        else:
            start, after = vma.start, vma
            self.areas.move_start(vma, end)
        pages = (end - start) // PAGE
        self.count(vma.flags, vma.file, -pages)
        if vma.flags & VM_ACCOUNT:
            self.commit.uncharge(pages)
        self._leave_hole(start, end, before, after)

    def cut_out(self, start: int, end: int, first: Vma | None = None) -> list[Vma]:
        """Split at both ends of a range and return the areas that fill it.

        ``first`` is the one it meets first, where that is known.
        """
        if first is None:
            first = self.areas.find(start)
        if first is None or first.start >= end:
            return []
        old, last = [first], first
        while last.end < end and last.next is not None and last.next.start < end:
            last = last.next
            old.append(last)
        if first.start < start:
            self._may_split(first, counted=not self.profile.modern or end < first.end)
            old[0] = self.areas.split(first, start)
            last = old[-1]
        if last.end > end:
            if last.flags & VM_DONTEXPAND or not self.profile.modern:
                self._may_split(last, counted=not self.profile.modern)
            self.areas.split(last, end)
        return old

    def _may_split(self, vma: Vma, *, counted: bool = True) -> None:
        """Fail if ``vma`` is the kernel's own, or if the limit of areas counts and is reached."""
        if counted and self.areas.count >= self.profile.max_map_count:
            fail(errno.ENOMEM)
        if vma.flags & VM_DONTEXPAND and vma.kernels_own:
            fail(errno.EINVAL)

    def drop(self, old: list[Vma], *, charged: bool = True) -> None:
        """Take one or more whole neighbouring areas out; ``charged`` gives their promises back."""
        start, end = old[0].start, old[-1].end
        before, after = old[0].prev, old[-1].next
        for vma in old:
            pages = (vma.end - vma.start) // PAGE
            self.count(vma.flags, vma.file, -pages)
            if charged and vma.flags & VM_ACCOUNT:
                self.commit.uncharge(pages)
            self.areas.remove(vma)
        self._leave_hole(start, end, before, after, old)

    def _leave_hole(
        self, start: int, end: int, before: Vma | None, after: Vma | None, old: Sequence[Vma] = ()
    ) -> None:
        """Let the search for a place and the page layer know what is gone, between which areas.

        Only the search of 2.6 asks which areas it was.
        """
        floor = before.end if before is not None else 0
        ceiling = after.start if after is not None else self.task_size
        if self.profile.modern:
            self.placement.hole_grew(floor, ceiling)
        else:
            self.placement.freed(old, floor, ceiling, top=after is None)
        self.pages.unmap(start, end, floor, ceiling)

    # --- changing -----------------------------------------------------------------------

    def mprotect(self, addr: int, length: int, prot: int) -> int:
        """Change the protection of a range and return 0, as ``mprotect(2)``.

        A hole fails with ENOMEM after everything before it has been changed.

        Raises
        ------
        OSError
            EINVAL, ENOMEM or EACCES; see :mod:`pyalloc.kernel.protection`.
        """
        return protection.mprotect(self, addr, length, int(prot))

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

    def brk(self, addr: int) -> int:
        """Move the break and return it, as the raw system call: the old break is a refusal."""
        return breaks.brk(self, addr)

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
        return faulting.fault(self, addr, write)

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
        for vma in list(self.areas):
            self.areas.remove(vma)
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
