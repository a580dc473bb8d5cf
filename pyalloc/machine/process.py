"""Process: one program on a simulated machine.

Calls of the C library return what they return in C; a failed system call is :class:`OSError` with
the kernel's errno.  Whatever is called after the process has ended raises
:class:`~pyalloc.errors.ProcessKilled`.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NoReturn

import numpy as np
import numpy.typing as npt

from pyalloc import engine
from pyalloc.arguments import instance, registers, truth, whole, words
from pyalloc.errors import ArgumentError, MemoryFault, ProcessKilled, PyallocError, WrongType
from pyalloc.kernel import procfs
from pyalloc.kernel.abi import (
    VM_GROWSDOWN,
    VM_MAYBE_GUARD,
    VM_PFNMAP,
    VM_WIPEONFORK,
    VM_WRITE,
)
from pyalloc.kernel.area import Vma
from pyalloc.kernel.layout import Layout
from pyalloc.kernel.limits import Limits
from pyalloc.kernel.oom import oom_score
from pyalloc.kernel.proctext import ProcText
from pyalloc.kernel.vma import AddressSpace
from pyalloc.machine.cgroup import Cgroup
from pyalloc.machine.heap import ProcessHeap
from pyalloc.machine.memory import Account, ProcessPages
from pyalloc.machine.oom import run_oom_killer, task_of
from pyalloc.machine.replay import Playback, Replay, TraceColumns, run_replay
from pyalloc.machine.syscalls import SystemCalls
from pyalloc.units import PAGE, nanoseconds

if TYPE_CHECKING:
    from pyalloc.machine.machine import Machine

_PENDING: Final = engine.PENDING
_LONGEST: Final = (1 << 64) - 1
_MOST_THREADS: Final = 1 << 22
_FLAGS: Final = (bool, bool)
_COPIED: Final = VM_PFNMAP | VM_MAYBE_GUARD
"""Areas whose page tables a child gets even if they hold nothing private."""
_OP: Final = {
    "calloc": 1,
    "memalign": 4,
    "posix_memalign": 5,
    "aligned_alloc": 6,
    "valloc": 7,
    "pvalloc": 8,
    "malloc_trim": 9,
    "mallopt": 10,
    "thread_exit": 15,
}


_MISFITS: Final = (TypeError, OverflowError)
"""What a number gives that is not one the engine takes: it is looked at again, more slowly."""


def _page_numbers(pages: npt.ArrayLike) -> npt.NDArray[np.int64]:
    array = np.asarray(pages)
    if array.ndim == 1 and (not array.size or array.dtype.kind in "iu"):
        return array.astype(np.int64)
    if not array.ndim:
        message = f"pages must be a list of whole numbers (got {pages!r})"
        raise WrongType(message)
    message = f"pages must be a list of whole numbers (got {array.dtype} of {array.ndim} axes)"
    raise ArgumentError(message)


class Process(SystemCalls):
    """One process; made by :meth:`Machine.spawn <pyalloc.Machine.spawn>` or :meth:`fork`.

    Attributes
    ----------
    pid, name, uid, nice, oom_score_adj, oom_adj
        As in Linux; ``oom_adj`` is 2.6's.
    alive
        False once it has exited or was killed.
    exit_code, killed_by
        How it ended: a code, or ``"oom"`` or the name of a signal.
    last
        What of it was in memory just before its end; None while it is alive.
    started
        When, by the machine's clock.
    """

    def __init__(
        self,
        machine: Machine,
        pid: int,
        name: str,
        *,
        layout: Layout,
        limits: Limits,
        allocator: str,
        cgroup: Cgroup | None = None,
        tunables: Mapping[str, int | str] | None = None,
        uid: int = 0,
    ) -> None:
        self._init_identity(machine, pid, name, uid, cgroup)
        self.pages = ProcessPages(self, machine.ram.new_pages(cgroup.number if cgroup else 0))
        self.space = AddressSpace(
            machine.profile, layout, limits, self.pages, Account(machine, self)
        )
        word = 8 if machine.profile.arch == "x86_64" else 4
        try:
            self.heap = ProcessHeap(self, allocator, word, machine.cpus, tunables)
        except PyallocError:
            self.space.exit()
            self.pages.table.drop()
            raise
        self.heap.heap.set_program(name)
        self.allocator = allocator
        self.bind()

    def begin(self, written: Sequence[Vma]) -> None:
        """Have pages of each area written to, as they are in a program that has just started.

        The last one of the stack, all that a loader has relocated, of others the first.  exec has
        written the stack's string by string, each time looking the page up (FOLL_TOUCH), so that
        it is active: it stays when all else is swapped out.
        """
        with contextlib.suppress(ProcessKilled):
            for vma in written:
                at = vma.end - PAGE if vma.flags & VM_GROWSDOWN else vma.start
                pages = 1 if vma.flags & VM_WRITE else vma.pages
                self.pages.access(vma, at // PAGE, pages, write=True)
                if vma.flags & VM_GROWSDOWN:
                    self.pages.table.activate(at // PAGE)

    def _init_identity(
        self, machine: Machine, pid: int, name: str, uid: int, cgroup: Cgroup | None
    ) -> None:
        self.machine = machine
        self.mask = (1 << (64 if machine.profile.arch == "x86_64" else 32)) - 1
        self.pid = pid
        self.name = name
        self.uid = uid
        self.cgroup = cgroup
        self.nice = self.oom_score_adj = self.oom_adj = 0
        self._computed = 0.0
        self._kernel_pages = 0
        self.started = machine.clock
        self.alive = True
        self.exit_code: int | None = None
        self.killed_by: str | None = None
        self.last: procfs.Resident | None = None
        self.last_pages: dict[str, int] = {}
        self.huge_advice = False
        self.parent: Process | None = None
        self.children: list[Process] = []
        self.files = {}

    @property
    def rlimits(self) -> Limits:
        """Its resource limits; others may be assigned at any time, as ``setrlimit(2)`` does."""
        return self.space.limits

    @rlimits.setter
    def rlimits(self, limits: Limits) -> None:
        self.space.limits = instance(limits, "rlimits", Limits).of(self.uid)
        self.catch_up()
        self.heap.lease()

    def bind(self) -> None:
        """Tie the three hottest calls to the engine."""
        if self.alive:
            self._malloc, self._free, self._realloc = self.heap.heap.entries()
        else:
            self._malloc = self._free = self._realloc = self._refuse

    def close_entries(self) -> None:
        """Let no other thread call the engine directly until :meth:`bind` is called again."""
        if self.alive:
            entries = self.heap.heap.entries()
            self._malloc, self._free, self._realloc = map(self._guarded, entries)

    def _guarded(self, entry: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: int) -> Any:  # noqa: ANN401 - as the entry
            self.machine.require_mine()
            return entry(*arguments)

        return call

    @property
    def cpu_time(self) -> float:
        """Seconds that a processor worked for it: its faults, and what :meth:`compute` added."""
        pages = self.pages.table.counters() if self.alive else self.last_pages
        return self._computed + pages["work"] / 1e9

    def compute(self, seconds: float) -> None:
        """Let it compute for so long, without touching memory."""
        self.require_alive()
        ns = nanoseconds(seconds)
        self.machine.ram.pass_time(ns, ns)
        self._computed += ns / 1e9

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if k not in {"_malloc", "_free", "_realloc"}}

    def __repr__(self) -> str:
        state = "alive" if self.alive else f"ended ({self.killed_by or self.exit_code})"
        return f"<Process {self.pid} {self.name} {state}>"

    # --- the C library ------------------------------------------------------------------
    # Sizes and addresses are taken as registers take them; where every call counts, only those
    # that the engine does not take at once.

    def malloc(self, size: int) -> int:
        """Return the address of ``size`` new bytes; 0 is NULL."""
        try:
            pointer = self._malloc(size)
        except _MISFITS:
            pointer = self._malloc(*registers(self.mask, size=size))
        return pointer if pointer != _PENDING else self.heap.settle(pointer)

    def free(self, address: int) -> None:
        """Free a block; 0 does nothing.

        Raises
        ------
        HeapAbort
            The library noticed an error and aborted; the process is dead.
        """
        try:
            pointer = self._free(address)
        except _MISFITS:
            pointer = self._free(*registers(self.mask, address=address))
        if pointer == _PENDING:
            self.heap.settle(_PENDING)

    def realloc(self, address: int, size: int) -> int:
        """Resize a block and return its new address; 0 is NULL."""
        try:
            pointer = self._realloc(address, size)
        except _MISFITS:
            pointer = self._realloc(*registers(self.mask, address=address, size=size))
        return pointer if pointer != _PENDING else self.heap.settle(pointer)

    def calloc(self, count: int, size: int) -> int:
        """Return the address of ``count * size`` zeroed bytes; 0 is NULL."""
        if type(count) is not int or type(size) is not int or count < 0 or size < 0:
            count, size = registers(self.mask, count=count, size=size)
        total = count * size
        if total > self.mask:
            self.require_alive()
            return 0
        return self._call("calloc", total)

    def fill(self, size: int) -> int:
        """Return the address of ``size`` new bytes, all of them written; 0 is NULL.

        The same as :meth:`malloc` and :meth:`touch`, in a fraction of the time.

        Raises
        ------
        ProcessKilled
            The OOM killer chose this process on the way.
        """
        block = self.malloc(size)
        if block and size:
            (size,) = registers(self.mask, size=size)
            if self.space.locked_vm or self.huge_advice:
                self.touch(block, size)
            else:
                first = block // PAGE
                self.pages.write(first, (block + size - 1) // PAGE - first + 1)
        return block

    def memalign(self, alignment: int, size: int) -> int:
        """Return the address of ``size`` bytes at a multiple of ``alignment``; 0 is NULL."""
        return self._call("memalign", size, alignment)

    def posix_memalign(self, alignment: int, size: int) -> int:
        """Return the address, 0 where the C call returns an error number."""
        return self._call("posix_memalign", size, alignment)

    def aligned_alloc(self, alignment: int, size: int) -> int:
        """Return the address of ``size`` bytes at a multiple of ``alignment``; 0 is NULL."""
        return self._call("aligned_alloc", size, alignment)

    def valloc(self, size: int) -> int:
        """Return the address of ``size`` bytes on a page of their own; 0 is NULL."""
        return self._call("valloc", size)

    def pvalloc(self, size: int) -> int:
        """Return the address of whole pages that hold ``size`` bytes; 0 is NULL."""
        return self._call("pvalloc", size)

    def malloc_trim(self, pad: int = 0) -> int:
        """Give free memory back; 1 if any was."""
        (pad,) = registers(self.mask, pad=pad)
        return self._call("malloc_trim", pad)

    def mallopt(self, parameter: int, value: int) -> int:
        """Set an allocator parameter by its number; 1 if it was taken."""
        parameter, value = registers(_LONGEST, parameter=parameter, value=value)
        return self._call("mallopt", value, parameter)

    def usable_size(self, address: int) -> int:
        """Return ``malloc_usable_size`` in bytes; 0 for NULL."""
        self.require_alive()
        try:
            return self.heap.heap.usable_size(address)
        except _MISFITS:
            (address,) = registers(self.mask, address=address)
            return self.heap.heap.usable_size(address)

    def _call(self, name: str, size: int, alignment: int = 0) -> int:
        self.require_alive()
        heap = self.heap.heap
        try:
            result = heap.other(_OP[name], size, alignment)
        except _MISFITS:
            size, alignment = registers(self.mask, size=size, alignment=alignment)
            result = heap.other(_OP[name], size, alignment)
        return self.heap.settle(result) if result == _PENDING and heap.is_stopped else result

    def set_thread(self, thread: int) -> None:
        """Let the next calls be made by thread number ``thread``; the first one is 0.

        Raises
        ------
        ArgumentError
            No thread has such a number.
        """
        self.require_alive()
        self.heap.heap.set_thread(whole(thread, "thread", 0, _MOST_THREADS - 1))

    def thread_exit(self) -> None:
        """End the current thread: its cache goes back to the heap."""
        self._call("thread_exit", 0)

    def replay(
        self,
        trace: TraceColumns,
        *,
        touch: str = "none",
        record: Sequence[str] = ("address",),
        samples: int = 1000,
    ) -> Replay:
        """Make every call of ``trace``; see :func:`pyalloc.replay`."""
        self.require_alive()
        return run_replay(self, trace, touch=touch, record=record, samples=samples)

    def playback(
        self,
        trace: TraceColumns,
        *,
        touch: str = "none",
        outputs: Mapping[str, npt.NDArray[np.uint64]] | None = None,
    ) -> Playback:
        """Return ``trace`` ready to be run on this process bit by bit; see :class:`Playback`."""
        self.require_alive()
        return Playback(self, trace, touch=touch, outputs=outputs)

    # --- pages --------------------------------------------------------------------------

    def fork(self) -> Process:
        """Return a child that shares every page until one of the two writes to it."""
        self._space()
        child = Process.__new__(Process)
        machine = self.machine
        child._init_identity(machine, machine.take_pid(), self.name, self.uid, self.cgroup)  # noqa: SLF001
        for name in ("nice", "oom_score_adj", "oom_adj", "allocator", "huge_advice"):
            setattr(child, name, getattr(self, name))
        child.parent = self
        child.files = self.inherited()
        table = machine.ram.new_pages(self.cgroup.number if self.cgroup else 0)
        child.pages = ProcessPages(child, table)
        child.space = self.space  # for the account, until its own is made
        try:
            child.space = self.space.fork(child.pages, Account(machine, child))
        except OSError:
            table.drop()
            raise
        self._share_pages(child)
        child.heap = self.heap.forked(child)
        child.bind()
        self.children.append(child)
        machine.processes[child.pid] = child
        child.take_kernel_memory(machine.paging.kernel_stack + machine.paging.program_pages, self)
        self.heap.lease()
        return child

    def take_kernel_memory(self, pages: int, asker: Process) -> None:
        """Let the kernel have ``pages`` for this process; the OOM killer makes room if need be."""
        group = self.cgroup.number if self.cgroup else 0
        while not self.machine.ram.charge_kernel(group, pages):
            if not self.machine.grace.free():
                run_oom_killer(self.machine, asker)
            if not self.alive:
                return
            asker.require_alive()
        self._kernel_pages = pages

    def _share_pages(self, child: Process) -> None:
        everything = not self.machine.profile.modern and self.machine.profile.name == "2.6.11"
        for vma in child.space:
            if vma.flags & VM_WIPEONFORK:
                continue
            if everything or vma.anon_vma is not None or vma.flags & _COPIED:
                child.pages.share(vma, self.pages)

    def touch(self, addr: int, length: int, write: bool = True, *, zeros: bool = False) -> None:
        """Access each page of a range once.

        Parameters
        ----------
        addr, length
            The range, in bytes.
        write
            Write to each page; False: read it.
        zeros
            What is written is zeros: a page that holds nothing else needs no place on the disk
            to be swapped out (6.12 and later).  Private memory only.

        Raises
        ------
        MemoryFault
            The hardware would refuse: SIGSEGV or SIGBUS, at ``.address``.
        ProcessKilled
            The OOM killer chose this process on the way.
        """
        if type(addr) is not int or type(length) is not int:
            addr, length = registers(-1, addr=addr, length=length)
        if length < 0:
            message = f"length must not be negative (got {length})"
            raise ArgumentError(message)
        addr &= self.mask
        if (type(write), type(zeros)) != _FLAGS:
            write, zeros = truth(write, "write"), truth(zeros, "zeros")
        if not zeros:
            if not self.alive or self.machine.occupant is not None:
                self.require_alive()
            if length and self.heap.has_mapped(addr, length):
                first = addr // PAGE
                self.pages.access_own(first, -(-(addr + length) // PAGE) - first, write=write)
            else:
                self._touch(addr, length, write=write)
            return
        with self._writing(zeros=True):
            self._touch(addr, length, write=write)

    @contextlib.contextmanager
    def _writing(self, *, zeros: bool) -> Iterator[None]:
        """Let what is written in this block be zeros."""
        table = self.pages.table
        if zeros:
            self.require_alive()
            table.write_zeros(zeros=True)
        try:
            yield
        finally:
            if zeros and self.alive:
                table.write_zeros(zeros=False)

    def _touch(self, addr: int, length: int, *, write: bool) -> None:
        space = self._space()
        size = space.total_vm
        at, end = addr // PAGE * PAGE, addr + length
        first = addr
        while at < end:
            try:
                vma = space.fault(first, write)
            except MemoryFault as fault:
                self.pages.fail_past_end(fault, write=write)
                raise
            stop = min(vma.end, -(-end // PAGE) * PAGE)
            self.pages.access(vma, at // PAGE, (stop - at) // PAGE, write=write)
            at = first = stop
        if space.total_vm != size:  # the stack has grown
            self.heap.lease()

    def touch_pages(
        self, addr: int, pages: npt.ArrayLike, write: bool = True, *, zeros: bool = False
    ) -> None:
        """Access single pages, in the order given: page ``i`` is the one at ``addr + i * 4096``.

        The way to make random, skewed or repeated accesses quickly: one call for a whole array.

        Parameters
        ----------
        addr
            An address in the page that number 0 stands for.
        pages
            Whole numbers, as a numpy array or anything that becomes one.
        write, zeros
            As :meth:`touch`.

        Raises
        ------
        ArgumentError
            ``pages`` does not hold whole numbers.
        WrongType
            It is no list.
        MemoryFault, ProcessKilled
            As :meth:`touch`; the accesses before it have been made.
        """
        index = _page_numbers(pages)
        (addr,) = registers(self.mask, addr=addr)
        write, zeros = truth(write, "write"), truth(zeros, "zeros")
        if len(index):
            with self._writing(zeros=zeros):
                self._touch_pages(addr, index, write=write)

    def _touch_pages(self, addr: int, index: npt.NDArray[np.int64], *, write: bool) -> None:
        base = addr // PAGE
        low, high = base + int(index.min()), base + int(index.max())
        vma = self._space().find(low * PAGE)
        if vma is None or not vma.start <= low * PAGE <= high * PAGE < vma.end:
            vma = None
        if vma is None or not self.pages.takes_lists(vma):
            for number in index.tolist():
                self.touch((base + number) * PAGE, 1, write)
            return
        self.space.fault(low * PAGE, write)
        self.pages.access_list(vma, low, (index - (low - base)).astype(np.uint64), write=write)
        self.heap.lease()

    # --- the end ------------------------------------------------------------------------

    def exit(self, code: int = 0) -> None:
        """End the process; its memory goes back to the machine."""
        self.require_alive()
        (code,) = registers(-1, code=code)
        self._end()
        self.exit_code = code

    def kill(self, by: str = "SIGKILL") -> None:
        """End the process from outside; ``by`` is kept as ``killed_by``."""
        self.require_alive()
        by = words(by, "by")
        self._end()
        self.killed_by = by

    def die(self, number: int) -> None:
        """End the process by the signal ``number``.

        Raises
        ------
        ArgumentError
            There is no such signal.
        """
        (number,) = registers(-1, number=number)
        try:
            self.kill(signal.Signals(number).name)
        except ValueError:
            message = f"number must be that of a signal (got {number})"
            raise ArgumentError(message) from None

    def _end(self) -> None:
        self.heap.sync()
        self.last = self.resident()
        self.last_pages = self.pages.table.counters()
        self.space.peak_vm = max(self.space.peak_vm, self.space.total_vm)
        self.heap.heap.attach(None)
        self.space.exit()
        self.pages.table.drop()
        group = self.cgroup.number if self.cgroup else 0
        self.machine.ram.charge_kernel(group, -self._kernel_pages)
        self.close_all()
        self.alive = False
        self.bind()
        self.machine.drop_dead_objects()
        self.machine.ended.append(self)

    def forget(self) -> None:
        """End with the machine, whose memory goes at once."""
        self.heap.sync()
        self.last = self.resident()
        self.last_pages = self.pages.table.counters()
        self.heap.heap.release()
        self.pages.table.forget()
        self.alive = False
        self.killed_by = "its machine is closed"
        self.bind()

    def out_of_memory(self) -> None:
        """Let the OOM killer make room for this process.

        Raises
        ------
        ProcessKilled
            It chose this process.
        """
        if not self.machine.grace.free():
            run_oom_killer(self.machine, self)
        self.require_alive()

    def require_alive(self) -> None:
        """Raise ProcessKilled if the process has ended, EngineBusy if it is another thread's."""
        if not self.alive:
            self._refuse()
        if self.machine.occupant is not None:
            self.machine.require_mine()

    def _refuse(self, *_: int) -> NoReturn:
        how = f"was killed ({self.killed_by})" if self.killed_by else f"exited ({self.exit_code})"
        message = f"process {self.pid} ({self.name}) {how}"
        raise ProcessKilled(message)

    # --- looking ------------------------------------------------------------------------

    def catch_up(self) -> None:
        """Let the address space show what the heap has done."""
        if self.alive:
            self.heap.sync()

    def maps(self) -> ProcText[str]:
        """Return ``/proc/PID/maps``: its text, and a mapping of ranges to the rest of each line."""
        return procfs.maps(self._space())

    def status(self) -> ProcText[int | str]:
        """Return ``/proc/PID/status``: its text, and a mapping of fields (sizes in kB)."""
        return procfs.status(self._space(), self._identity(), self.resident())

    def statm(self) -> ProcText[int]:
        """Return ``/proc/PID/statm``: its text, and a mapping of fields to pages."""
        return procfs.statm(self._space(), self.resident())

    def smaps(self) -> ProcText[Mapping[str, int | str]]:
        """Return ``/proc/PID/smaps``: its text, and for each range its fields in kB."""
        return procfs.smaps(self._space(), self._area_pages)

    def smaps_rollup(self) -> ProcText[int]:
        """Return ``/proc/PID/smaps_rollup`` (6.x): the sums over all areas, in kB."""
        return procfs.smaps_rollup(self._space(), self._area_pages)

    def resident(self) -> procfs.Resident:
        """Return what of the process is in memory, in pages."""
        c = self.pages.table.counters()
        return procfs.Resident(
            anon=c["anon"],
            file=c["file"],
            shmem=c["shmem"],
            swap=c["swap"],
            peak=c["resident_peak"],
            tables=c["leaf_tables"],
            table_bytes=c["tables"] * PAGE,
        )

    def _identity(self) -> procfs.Identity:
        parent = self.parent.pid if self.parent else 1
        return procfs.Identity(
            self.name, self.pid, parent, self.uid, self.uid, cpus=self.machine.cpus
        )

    def _area_pages(self, vma: Vma) -> procfs.AreaPages:
        c = self.pages.table.range_counters(vma.start // PAGE, vma.pages)
        rss = c["anon"] + c["file"] + c["shmem"]
        private_dirty = c["dirty"] - c["shared_dirty"]
        return procfs.AreaPages(
            shared_clean=c["shared"] - c["shared_dirty"],
            shared_dirty=c["shared_dirty"],
            private_clean=rss - c["shared"] - private_dirty,
            private_dirty=private_dirty,
            referenced=c["referenced"],
            anonymous=c["anon"],
            lazyfree=c["lazy"],
            huge=c["huge_anon"],
            huge_shmem=c["huge_shmem"],
            huge_file=c["huge_file"],
            swap=c["swap"] + self.pages.object_swap(vma),
            pss_bytes=c["share"] >> 12,
            pss_dirty_bytes=c["share_dirty"] >> 12,
            pss_anon_bytes=c["share_anon"] >> 12,
            pss_shmem_bytes=c["share_shmem"] >> 12,
            swap_pss_bytes=c["share_swap"] >> 12,
        )

    def oom_score(self) -> int:
        """Return what ``/proc/PID/oom_score`` shows."""
        self._space()
        machine = self.machine
        return oom_score(task_of(self), machine.total_ram + machine.total_swap)

    def heap_statistics(self) -> engine.HeapStatistics:
        """Return where the bytes of the heap are."""
        self.require_alive()
        return self.heap.heap.statistics()

    def check(self) -> None:
        """Raise EngineBug unless every invariant of heap and areas holds."""
        self._space().check()
        self.heap.heap.check()
