"""One process's pages and promises: what the address space talks to.

:class:`ProcessPages` turns what system calls did to areas into work of the engine's page layer;
:class:`Account` asks the machine's overcommit policy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from pyalloc import engine
from pyalloc.errors import MemoryFault
from pyalloc.kernel.abi import (
    VM_DONTEXPAND,
    VM_EXEC,
    VM_HUGEPAGE,
    VM_LOCKED,
    VM_PFNMAP,
    VM_RAND_READ,
    VM_SEQ_READ,
    VM_SHARED,
    VM_WRITE,
)
from pyalloc.kernel.area import Vma
from pyalloc.kernel.faulting import SIGBUS, SIGSEGV
from pyalloc.units import PAGE

if TYPE_CHECKING:
    from pyalloc.kernel.files import Inode, OpenFile
    from pyalloc.machine.machine import Machine
    from pyalloc.machine.process import Process

_READ_ONLY: Final = engine.PROTECTIONS["read_only"]
_PRIVATE: Final = engine.PROTECTIONS["private"]
_COUNTED: Final = engine.PROTECTIONS["counted"]
_MEMORY: Final = engine.PROTECTIONS["shared"]
_NOT_ITS_OWN: Final = VM_PFNMAP | VM_LOCKED | VM_HUGEPAGE | VM_DONTEXPAND
"""Flags of areas without a file whose pages need more than a page table."""


class Account:
    """The promises of one process, on the machine's account (``vm_committed_as``)."""

    __slots__ = ("machine", "process")

    def __init__(self, machine: Machine, process: Process) -> None:
        self.machine = machine
        self.process = process

    @property
    def strict(self) -> bool:
        """Whether ``vm.overcommit_memory`` is 2."""
        return self.machine.overcommit.overcommit_memory == 2

    def charge(self, pages: int) -> bool:
        """Promise ``pages`` more if the policy allows."""
        promises = self.machine.promises
        if promises.allows(self.process, pages):
            promises.areas += pages
            return True
        promises.refuse(self.process, pages)
        return False

    def uncharge(self, pages: int) -> None:
        """Take a promise back."""
        self.machine.promises.areas -= pages


class ProcessPages:
    """The page layer of one process, in bytes; it runs the OOM killer when frames run out."""

    __slots__ = ("process", "table")

    def __init__(self, process: Process, table: engine.Pages) -> None:
        self.process = process
        self.table = table

    # --- what system calls tell ---------------------------------------------------------

    def unmap(self, start: int, end: int, floor: int, ceiling: int) -> None:
        """Drop pages, and page tables inside (floor, ceiling)."""
        self.table.unmap(start, end, floor, ceiling)
        machine = self.process.machine
        if machine.shares:
            machine.objects_changed = True

    def move(self, old: int, new: int, length: int, head: int) -> None:
        """Move pages to where nothing is."""
        while length:
            done, dry = self.table.move(old // PAGE, new // PAGE, length // PAGE, head // PAGE)
            old, new, length = old + done * PAGE, new + done * PAGE, length - done * PAGE
            head = 0 if done else head
            if dry:
                self.process.out_of_memory()

    def discard(self, start: int, end: int) -> None:
        """MADV_DONTNEED."""
        self.table.discard(start // PAGE, (end - start) // PAGE)

    def lazyfree(self, start: int, end: int) -> None:
        """MADV_FREE."""
        self.table.lazy_free(start // PAGE, (end - start) // PAGE)

    def cool(self, start: int, end: int) -> None:
        """MADV_COLD."""
        self.table.cool(start // PAGE, (end - start) // PAGE)

    def page_out(self, start: int, end: int) -> None:
        """MADV_PAGEOUT."""
        self.table.page_out(start // PAGE, (end - start) // PAGE)

    def read_ahead(self, file: OpenFile, first: int, count: int) -> None:
        """MADV_WILLNEED."""
        machine = self.process.machine
        count = min(count, machine.read_ahead)
        if not file.inode.shmem:
            group = self.process.cgroup.number if self.process.cgroup else 0
            machine.ram.load_object(group, machine.object_of(file.inode), first, count, 0)

    def punch(self, inode: Inode, first: int, count: int) -> None:
        """MADV_REMOVE."""
        machine = self.process.machine
        machine.ram.punch_object(machine.object_of(inode), first, count)

    def cut_off(self, inode: Inode) -> None:
        """Drop the private copies of what lies past the end of a file (``unmap_mapping_range``)."""
        for vma in self.process.space.areas:
            if vma.file is not None and vma.file.inode is inode and vma.private:
                end = max(vma.object_end, vma.start)
                self.table.zap(end // PAGE, (vma.end - end) // PAGE)

    def collapse(self, vma: Vma, start: int) -> str:
        """MADV_COLLAPSE of 2 MB."""
        writable, locked = bool(vma.flags & VM_WRITE), bool(vma.flags & VM_LOCKED)
        return self.table.collapse(start // PAGE, writable=writable, locked=locked)

    def is_guarded(self, address: int) -> bool:
        """Whether there is a guard."""
        return self.table.range_counters(address // PAGE, 1)["guards"] > 0

    def guard(self, start: int, end: int) -> None:
        """MADV_GUARD_INSTALL."""
        vpn, count = start // PAGE, (end - start) // PAGE
        while count:
            done, dry = self.table.guard(vpn, count)
            vpn, count = vpn + done, count - done
            if dry:
                self.process.out_of_memory()

    def unguard(self, start: int, end: int) -> None:
        """MADV_GUARD_REMOVE."""
        self.table.unguard(start // PAGE, (end - start) // PAGE)

    def protect(self, vma: Vma, start: int, end: int) -> None:
        """Mprotect."""
        if vma.flags & VM_SHARED:
            memory = vma.file is not None and vma.file.inode.shmem
            how = _MEMORY if memory else _COUNTED
        elif vma.anon_vma is None:
            return  # it has no page that may be written to, nor gets one by this
        else:
            how = _PRIVATE
        how = how if vma.flags & VM_WRITE else _READ_ONLY
        self.table.protect(start // PAGE, (end - start) // PAGE, how)

    def lock(self, start: int, end: int, locked: bool) -> None:
        """Mlock or munlock."""
        self.table.lock(start // PAGE, (end - start) // PAGE, lock=locked)

    def populate(
        self,
        vma: Vma,
        start: int,
        end: int,
        write: bool,
        *,
        own: bool = False,
        tries: bool = False,
    ) -> bool:
        """Fault a range in, up to the first page that cannot be had."""
        modern = self.process.machine.profile.modern
        self.table.populate(populates=modern and not own, tries=tries)
        try:
            self.access(vma, start // PAGE, (end - start) // PAGE, write=write)
        except MemoryFault:
            return False
        finally:
            if self.process.alive:
                self.table.populate(populates=False)
        return True

    # --- faults -------------------------------------------------------------------------

    def write(self, vpn: int, count: int) -> None:
        """Write to each of ``count`` pages that the heap has given out."""
        self.access_own(vpn, count, write=True)

    def access_own(self, vpn: int, count: int, write: bool) -> None:
        """Access small private pages that show no object."""
        while count:
            try:
                done, dry = self.table.touch_anon(vpn, count, write)
            except engine.GuardedPage as guard:
                raise MemoryFault(SIGSEGV, (vpn + guard.done) * PAGE) from None
            vpn, count = vpn + done, count - done
            if dry:
                self.process.out_of_memory()

    def access(self, vma: Vma, vpn: int, count: int, *, write: bool) -> None:
        """Make one access to each of ``count`` pages of ``vma``.

        Raises
        ------
        MemoryFault
            SIGBUS past the end of an object, and where no more shared memory may be promised.
        ProcessKilled
            The OOM killer chose this process.
        """
        if vma.file is None and not vma.flags & _NOT_ITS_OWN:
            self.access_own(vpn, count, write)
            return
        if vma.flags & VM_PFNMAP:
            return  # the kernel's data are no pages of anybody's
        view = self._view(vma)
        self._watch(vma, count)
        while count:
            try:
                done, dry, past = self._touch(vma, view, vpn, count, write=write)
            except engine.GuardedPage as guard:
                raise MemoryFault(SIGSEGV, (vpn + guard.done) * PAGE) from None
            if vma.flags & VM_LOCKED:
                self.table.lock(vpn, done, lock=True)
            vpn, count = vpn + done, count - done
            if past:
                raise MemoryFault(SIGBUS, vpn * PAGE)
            if dry:
                self.process.out_of_memory()

    def access_list(self, vma: Vma, vpn: int, index: npt.NDArray[np.int64], *, write: bool) -> None:
        """Make one access to each page ``vpn + index[i]`` of ``vma``, in this order.

        Raises
        ------
        MemoryFault, ProcessKilled
            As :meth:`access`.
        """
        view = self._view(vma)
        self._watch(vma, len(index))
        while len(index):
            try:
                done, dry, past = self.table.touch_list(view, vpn, index, write=write)
            except engine.GuardedPage as guard:
                page = vpn + int(index[guard.done])
                raise MemoryFault(SIGSEGV, page * PAGE) from None
            index = index[done:]
            if past:
                raise MemoryFault(SIGBUS, (vpn + int(index[0])) * PAGE)
            if dry:
                self.process.out_of_memory()

    def takes_lists(self, vma: Vma) -> bool:
        """Whether :meth:`access_list` can serve the area: plain small pages of its own."""
        return not vma.flags & (VM_PFNMAP | VM_LOCKED | VM_HUGEPAGE)

    def fail_past_end(self, fault: MemoryFault, *, write: bool) -> None:
        """Leave behind what an access past an object's end does; the fault is the caller's.

        It makes page tables, and a read maps what it finds before the end.
        """
        vma = self.process.space.at(fault.address)
        if fault.signal == SIGBUS and vma is not None:
            page = fault.address // PAGE * PAGE
            self.populate(vma, page, page + PAGE, write, own=True)

    def _touch(
        self, vma: Vma, view: engine.View | None, vpn: int, count: int, *, write: bool
    ) -> tuple[int, bool, bool]:
        """Access pages; return how many, whether memory ran out, whether the object ended."""
        if view is not None:
            return self.table.touch_object(view, vpn, count, write=write)
        if vma.flags & VM_HUGEPAGE and self.process.machine.huge_pages:
            return (*self._touch_huge(vma, vpn, count, write=write), False)
        return (*self.table.touch_anon(vpn, count, write), False)

    def _touch_huge(self, vma: Vma, vpn: int, count: int, *, write: bool) -> tuple[int, bool]:
        """Access pages of an area that may have huge ones; the zero page of 2 MB counts as one."""
        low, high = vma.start // PAGE, vma.end // PAGE
        done = self.table.touch_huge(low, high, vpn, count, write=write)
        if vma.anon_vma is None and self.table.range_counters(vpn, count)["huge_zero"]:
            self.process.space.areas.prepare_anon(vma)
        return done

    def _watch(self, vma: Vma, pages: int) -> None:
        if vma.file is not None and vma.file.inode.promised:
            self.process.machine.promises.watch_shared(self.process, pages)

    def _view(self, vma: Vma) -> engine.View | None:
        """Return what object an area shows; the kernel's code is one, without a name."""
        machine = self.process.machine
        if vma.file is not None:
            number = machine.object_of(vma.file.inode)
        elif vma.kernels_own:
            number = machine.vdso_object()
        else:
            return None
        return engine.View(
            vpn=vma.start // PAGE,
            count=vma.pages,
            index=vma.pgoff if vma.file is not None else 0,  # [vdso] is always whole
            number=number,
            shared=bool(vma.flags & VM_SHARED),
            around=1 if vma.file is None else machine.paging.fault_around,
            writable=bool(vma.flags & VM_WRITE),
            stream=vma.file.stream if vma.file is not None else 0,
            random=bool(vma.flags & VM_RAND_READ),
            sequential=bool(vma.flags & VM_SEQ_READ),
            executable=bool(vma.flags & VM_EXEC),
            huge=bool(vma.flags & VM_HUGEPAGE),
        )

    def object_swap(self, vma: Vma) -> int:
        """Return the pages in swap that smaps counts for an area of shared memory (from 4.8)."""
        machine, file = self.process.machine, vma.file
        if (
            file is None
            or not file.inode.shmem
            or not machine.profile.modern
            or not machine.total_swap
        ):
            return 0
        view = self._view(vma)
        return self.table.object_swap(view) if view is not None else 0

    def share(self, vma: Vma, parent: ProcessPages) -> None:
        """Fork: take over the parent's pages of one area."""
        vpn, count = vma.start // PAGE, vma.pages
        while count:
            done, dry = self.table.share(
                parent.table, vpn, count, shared=bool(vma.flags & VM_SHARED)
            )
            vpn, count = vpn + done, count - done
            if dry:
                parent.process.out_of_memory()
