"""One process's heap at work: the engine asks, the address space answers.

The heap moves the break by itself inside a *lease*, the range that no policy could refuse; the
areas are brought up to date (:meth:`ProcessHeap.sync`) before anybody looks at them.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from pyalloc import engine
from pyalloc.errors import HeapAbort, MemoryFault
from pyalloc.kernel.abi import MAP, MREMAP, VM_WRITE
from pyalloc.kernel.layout import page_ceil
from pyalloc.kernel.placement import guarded_start
from pyalloc.machine.heapview import HeapView
from pyalloc.machine.tunables import tune
from pyalloc.units import PAGE

if TYPE_CHECKING:
    from pyalloc.machine.process import Process

SIGABRT: Final = 6
_PRIVATE: Final = MAP.PRIVATE | MAP.ANONYMOUS
_MOST_LEASED: Final = 1 << 34


class ProcessHeap(HeapView):
    """The allocator of one process: :class:`HeapView` to look at it, and what lets it run."""

    _written_at = 0  # the break for which the heap's area is known to be written

    def __init__(
        self,
        process: Process,
        allocator: str,
        word: int,
        cpus: int,
        tunables: Mapping[str, int | str] | None,
    ) -> None:
        super().__init__(process, engine.Heap(allocator, word, process.space.brk_value, cpus), None)
        self.heap.attach(process.pages.table)
        tune(self.heap, tunables or {})

    def forked(self, process: Process) -> ProcessHeap:
        """Return the heap of a child: the same blocks at the same addresses."""
        twin = ProcessHeap.__new__(ProcessHeap)
        HeapView.__init__(twin, process, self.heap.copy(process.pages.table), None)
        twin.lease()
        return twin

    # --- running ------------------------------------------------------------------------

    def settle(self, result: int) -> int:
        """Answer questions until the stopped call has its result."""
        while result == engine.PENDING:
            self.heap.raise_error()
            self.serve(self.heap.stop, self.heap.answer)
            result = self.heap.resume()
        return result

    def serve(self, stop: engine.Stop, answer: Callable[[int], None]) -> None:
        """Do what one stop asks and renew the lease."""
        self.sync()
        answer(_SERVICES[stop.reason](self, stop))
        self.lease()

    def _brk(self, stop: engine.Stop) -> int:
        space = self.process.space
        old = space.brk_value
        brk = space.brk(stop.address)
        if brk > old:
            self._written(old)
        return brk

    def _mmap(self, stop: engine.Stop) -> int:
        flags = _PRIVATE if stop.prot else _PRIVATE | MAP.NORESERVE
        try:
            address = self.process.space.mmap(stop.address, stop.length, stop.prot, flags)
        except OSError:
            return 0
        self._written(address)
        return address

    def _mremap(self, stop: engine.Stop) -> int:
        try:
            return self.process.space.mremap(
                stop.address, stop.old_length, stop.length, MREMAP.MAYMOVE
            )
        except OSError:
            return 0

    def _munmap(self, stop: engine.Stop) -> int:
        try:
            return self.process.space.munmap(stop.address, stop.length)
        except OSError as error:
            return error.errno or errno.ENOMEM

    def _mprotect(self, stop: engine.Stop) -> int:
        try:
            self.process.space.mprotect(stop.address, stop.length, stop.prot)
        except OSError as error:
            return error.errno or errno.ENOMEM
        self._written(stop.address)
        return 0

    def _frames(self, stop: engine.Stop) -> int:  # noqa: ARG002
        self.process.out_of_memory()
        return 0

    def _abort(self, stop: engine.Stop) -> int:
        text = self.heap.abort_text
        self.process.die(stop.answer)
        if stop.answer == SIGABRT:
            raise HeapAbort(text)
        raise MemoryFault(stop.answer, stop.address)

    def _written(self, address: int) -> None:
        """Take note that the allocator writes a header into what it has just got."""
        vma = self.process.space.at(address)
        if vma is not None and vma.flags & VM_WRITE:
            self.process.space.areas.prepare_anon(vma)

    # --- the break ----------------------------------------------------------------------

    def sync(self) -> None:
        """Let the address space catch up with the break, which the allocator writes to."""
        space = self.process.space
        peak, last = self.heap.take_peak(), self.heap.brk
        if peak == last == space.brk_value == self._written_at:
            return
        for brk in (peak, last):
            if brk != space.brk_value:
                space.brk(brk)
                self._written(space.start_brk)
        self._written_at = space.brk_value

    def lease(self) -> None:
        """Let the break move as far as nothing could refuse it."""
        space = self.process.space
        top = page_ceil(space.brk_value)
        below = space.find(top - 1)
        if below is None or below.end != top or not space.start_brk <= below.start < top:
            self.heap.lease(self.heap.brk)  # the first step makes the area: policy does it
            return
        above = space.find(top)
        ceiling = space.task_size if above is None else above.start
        limit = space.task_size if above is None else self._guarded(above.start)
        room = max(limit - PAGE - top, 0) // PAGE
        room = min(room, self._limit_room(), _MOST_LEASED // PAGE)
        room = self.process.machine.promise_room(self.process, room)
        before = below.prev
        floor = before.end if before is not None else 0
        highest = min(top + room * PAGE, limit - PAGE)  # below top: it could not come back there
        self.heap.lease(highest, -(-floor // PAGE), ceiling // PAGE)

    def _guarded(self, start: int) -> int:
        space = self.process.space
        above = space.at(start)
        return start if above is None else guarded_start(above, space.profile.stack_guard_gap)

    def _limit_room(self) -> int:
        """Pages that RLIMIT_AS and RLIMIT_DATA still allow the break."""
        space, limits = self.process.space, self.process.space.limits
        if space.lock_future:
            return 0
        room = limits.address_space // PAGE - space.total_vm
        data = limits.data + space.start_brk - (space.end_data - space.start_data)
        room = min(room, (data - space.brk_value) // PAGE - 1)
        if space.profile.modern:
            room = min(room, limits.data // PAGE - space.data_vm)
        return max(room, 0)


_SERVICES: Final[Mapping[int, Callable[[ProcessHeap, engine.Stop], int]]] = {
    engine.STOP_BRK: ProcessHeap._brk,  # noqa: SLF001
    engine.STOP_MMAP: ProcessHeap._mmap,  # noqa: SLF001
    engine.STOP_MREMAP: ProcessHeap._mremap,  # noqa: SLF001
    engine.STOP_MUNMAP: ProcessHeap._munmap,  # noqa: SLF001
    engine.STOP_MPROTECT: ProcessHeap._mprotect,  # noqa: SLF001
    engine.STOP_FRAMES: ProcessHeap._frames,  # noqa: SLF001
    engine.STOP_ABORT: ProcessHeap._abort,  # noqa: SLF001
}
