"""One process's heap at work: the engine asks, the address space answers.

The heap moves the break by itself inside a *lease*, the range that no policy could refuse; it maps
large blocks by itself right below the area of the last one, where that is the only place they could
go.  The areas are brought up to date (:meth:`ProcessHeap.sync`) before anybody looks at them.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from pyalloc import engine
from pyalloc.errors import EndlessFault, HeapAbort, MemoryFault
from pyalloc.kernel.abi import MAP, MREMAP, VM_GROWSDOWN, VM_WRITE
from pyalloc.kernel.limits import INFINITY, Limits
from pyalloc.kernel.overcommit import NEVER, OvercommitSettings
from pyalloc.kernel.placement import HUGE, guarded_start
from pyalloc.machine.heapview import HeapView
from pyalloc.machine.tunables import tune
from pyalloc.units import PAGE

if TYPE_CHECKING:
    from pyalloc.kernel.area import Vma
    from pyalloc.machine.process import Process

SIGABRT: Final = 6
_PRIVATE: Final = MAP.PRIVATE | MAP.ANONYMOUS
_MOST_LEASED: Final = 1 << 34
_TABLES: Final = 1 << 39  # bytes that share page tables but for the root, at most
FARTHEST: Final = 1 << 64
"""Above every address."""
_Terms = tuple[Limits, OvercommitSettings, int]


class ProcessHeap(HeapView):
    """The allocator of one process: :class:`HeapView` to look at it, and what lets it run."""

    written_at = 0  # the break for which the heap's area is known to be written
    refusals = 0  # how often it was refused more memory
    _area: Vma | None = None  # the one below the break, unless it is in no list any more
    _lease: tuple[int, int, int] | None = None  # as the heap has it
    far = FARTHEST  # what changes from here on does not touch the lease
    ground: Vma | None = None  # mappings go below it without a question
    _terms: _Terms | None = None  # under these the room is steady
    _steady_room = 0
    _ground_low = 0
    _waits = False  # a call is under way whose fault could not be served

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
        twin.give_ground_back()
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
        """Do what one stop asks and renew the lease; a refusal leaves all as it was."""
        self.sync()
        refusals, ground = self.refusals, None
        result = _SERVICES[stop.reason](self, stop)
        answer(result)
        if stop.reason == engine.STOP_MMAP and stop.prot:
            ground = self.process.space.at(result)
        if self.refusals == refusals:
            self.lease(ground)

    def _brk(self, stop: engine.Stop) -> int:
        space = self.process.space
        old = space.brk_value
        brk = space.brk(stop.address)
        if brk > old:
            self._written(old)
        self.refusals += brk < stop.address
        return brk

    def _mmap(self, stop: engine.Stop) -> int:
        flags = _PRIVATE if stop.prot else _PRIVATE | MAP.NORESERVE
        space = self.process.space
        if space.total_vm * PAGE + stop.length > space.limits.address_space:
            self.refusals += 1  # a thread without an arena asks again with each malloc: soon said
            return 0
        try:
            address = space.mmap(stop.address, stop.length, stop.prot, flags)
        except OSError:
            self.refusals += 1
            return 0
        self._written(address)
        return address

    def _mremap(self, stop: engine.Stop) -> int:
        try:
            return self.process.space.mremap(
                stop.address, stop.old_length, stop.length, MREMAP.MAYMOVE
            )
        except OSError:
            self.refusals += 1
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
            self.refusals += 1
            return error.errno or errno.ENOMEM
        self._written(stop.address)
        return 0

    def _frames(self, stop: engine.Stop) -> int:  # noqa: ARG002
        """Make room; a call that found none and is made again tries without, to begin with."""
        if self._waits:
            self._waits = False
            return 0
        try:
            self.process.out_of_memory()
        except EndlessFault:
            self._waits = True
            raise
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
        space, heap = self.process.space, self.heap
        if self.ground is not None and space.mapped_below(self.ground, heap.mapped_to):
            self._lease = None  # the ground may have been its ceiling
        if space.brk_value == self.written_at and not heap.moved[0]:
            return
        for brk in (heap.take_peak(), heap.brk):
            if brk != space.brk_value:
                space.brk(brk)
                self._written(space.start_brk)
        self.written_at = space.brk_value

    def moved_to(self, brk: int) -> None:
        """Take note that somebody else moved the break of the address space."""
        self.heap.set_brk(brk)
        self.written_at = brk

    def lease(self, ground: Vma | None = None) -> None:
        """Let the break move as far as nothing could refuse it, and mappings come below ``ground``.

        Whoever has changed the areas calls it; ``ground`` is the one that the heap's last mapping
        went to.
        """
        if ground is not None:
            self._lease_below(ground)
        elif self.ground is not None:
            self.give_ground_back()
        self._lease_break()

    def _lease_break(self) -> None:
        """Lease the break its pages.

        The end of what promises allow is rounded down, so that it seldom changes with the break.
        """
        space = self.process.space
        top = -(-space.brk_value // PAGE) * PAGE
        below = self._area
        if below is None or below.end != top or below.block is None:
            below = self._area = space.areas.find(top - 1)
            if below is None or below.end != top or not space.start_brk <= below.start < top:
                self._area = self._lease = None
                self.far = FARTHEST
                self.heap.lease(self.heap.brk)  # the first step makes the area: policy does it
                return
        before, above = below.prev, below.next
        floor = before.end if before is not None else 0
        ceiling = limit = space.task_size
        if above is not None:
            ceiling = limit = above.start
            if above is self.ground:
                limit = self._ground_low
            if above.flags & VM_GROWSDOWN:
                limit = guarded_start(above, space.profile.stack_guard_gap)
        terms = (space.limits, self.process.machine.overcommit, space.lock_future)
        steady = terms == self._terms
        highest = top + (self._steady_room if steady else self._room()) * PAGE
        highest -= highest % HUGE if steady else 0
        highest = min(highest, limit - PAGE)  # below top: it could not come back there
        lease = (highest, floor // PAGE, ceiling // PAGE)
        if lease != self._lease or not steady:
            self._sign(lease, limit)

    def _sign(self, lease: tuple[int, int, int], limit: int) -> None:
        """Give the heap its lease; ``limit`` is where the guard gap of what is above begins."""
        space = self.process.space
        self.heap.lease(*lease)
        self._lease = lease
        highest, _, ceiling = lease
        far = (highest // _TABLES + 1) * _TABLES  # no table of the heap reaches farther
        terms = (space.limits, self.process.machine.overcommit, space.lock_future)
        steady = terms == self._terms
        self.far = far if steady and far <= min(limit, ceiling * PAGE) else FARTHEST

    # --- large blocks -------------------------------------------------------------------

    def _lease_below(self, ground: Vma) -> None:
        """Let mappings come right below the area, if the kernel would put them there.

        They go to the end of the highest hole they fit into, and become a part of ``ground`` as
        the one before them did, which was of the same kind.
        """
        space = self.process.space
        placement, below = space.placement, ground.prev
        if not space.profile.modern or not placement.top_down or below is None:
            return self.give_ground_back()
        if (
            ground.start > placement.base
        ):  # that was the lowest hole, as there was none further down
            return self.give_ground_back()
        if space.areas.count > space.profile.max_map_count or not self._has_steady_room():
            return self.give_ground_back()
        classes = (k for k, high in enumerate(placement.full) if high <= ground.end)
        least = PAGE << next(classes, len(placement.full))
        low = max(below.end, ground.start - self._steady_room * PAGE)
        if below.start < space.brk_value <= below.end:  # the break comes up from there
            low = max(low, (below.end + ground.start) // (2 * PAGE) * PAGE)
        self.ground, self._ground_low = ground, low
        self.heap.lease_below(low, ground.start, least, aligns_huge=space.profile.thp_align)
        return None

    def has_mapped(self, address: int, length: int) -> bool:
        """Whether the bytes lie in ``ground`` as it will be: small pages that may be written."""
        ground = self.ground
        return (
            ground is not None and address + length <= ground.end and self.heap.lowest[0] <= address
        )

    def give_ground_back(self) -> None:
        """Let the next mapping be asked for."""
        self.ground = None
        self.heap.lease_below(0, 0, 0, aligns_huge=False)

    # --- room ---------------------------------------------------------------------------

    def _has_steady_room(self) -> bool:
        """Return whether ``_steady_room`` is what there is, until the terms change."""
        terms = (self.process.space.limits, self.process.machine.overcommit, 0)
        if terms != self._terms:
            self._room()
        return terms == self._terms

    def _room(self) -> int:
        """Pages that neither limits nor promises keep from the break."""
        space, machine = self.process.space, self.process.machine
        limits, settings = space.limits, machine.overcommit
        room = min(self._limit_room(), _MOST_LEASED // PAGE)
        room = machine.promise_room(self.process, room)
        if (
            min(limits.address_space, limits.data) == INFINITY
            and settings.overcommit_memory != NEVER
        ):
            self._terms, self._steady_room = (limits, settings, space.lock_future), room
        return room

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
