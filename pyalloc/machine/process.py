"""Process: one program on a simulated machine.

Calls of the C library return what they return in C; a failed system call is :class:`OSError` with
the kernel's errno.  Whatever is called after the process has ended raises
:class:`~pyalloc.errors.ProcessKilled`.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NoReturn

import numpy as np
import numpy.typing as npt

from pyalloc import engine
from pyalloc.arguments import instance, registers, words
from pyalloc.errors import ArgumentError, ProcessKilled, PyallocError
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
from pyalloc.machine.libc import LibraryCalls
from pyalloc.machine.memory import Account, ProcessPages
from pyalloc.machine.oom import run_oom_killer, task_of
from pyalloc.machine.replay import Playback, Replay, TraceColumns, run_replay
from pyalloc.units import PAGE, nanoseconds

if TYPE_CHECKING:
    from pyalloc.machine.machine import Machine

_COPIED: Final = VM_PFNMAP | VM_MAYBE_GUARD
"""Areas whose page tables a child gets even if they hold nothing private."""


class Process(LibraryCalls):
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
        self.sequences = None
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
        child.inherit_sequences(self)
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
