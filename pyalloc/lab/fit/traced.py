"""A recorded program under a limit: tries on copies of a machine.

What the trace does not have is taken from the recording's measurements: address space beside the
heap (thread stacks, libraries loaded later, mappings of the program's own), and anonymous memory
beside the heap.  Both are given to the process before its first call, so that a limit is rather too
large than too small.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

from pyalloc.errors import ArgumentError, HeapAbort, MemoryFault, ProcessKilled
from pyalloc.kernel.abi import MAP, PROT
from pyalloc.kernel.elf import read_image
from pyalloc.kernel.layout import page_ceil
from pyalloc.kernel.limits import Limits
from pyalloc.kernel.maps import whole_areas
from pyalloc.lab.fit.search import SURVIVED, Verdict, failed
from pyalloc.lab.replay import big_machine
from pyalloc.lab.rest import Rest, rest_of
from pyalloc.lab.setting import Setting, apply_environment
from pyalloc.lab.trial import Outcome, Trials, sample_rows
from pyalloc.machine import Machine, Process
from pyalloc.machine.cgroup import Cgroup
from pyalloc.trace import Op, Trace
from pyalloc.trace.record import LIBRARIES
from pyalloc.units import PAGE, format_size

_PRIVATE: Final = MAP.PRIVATE | MAP.ANONYMOUS
_SPOOL_AT: Final = {64: 0x3F0000000000, 32: 0x2000000}  # where the recorder's own memory begins
_SPOOL_SIZE: Final = 1 << 20
_KERNEL_THREAD: Final = 24 << 10
_COUNTERS_ARE_OFF: Final = 2 * 32 * PAGE  # by processor: two counters, 32 pages each (mm_counter)
_SAMPLES: Final = 256
_MOST_REFUSALS: Final = 10_000  # it may live on, but asks in vain with each malloc


@dataclass(frozen=True, slots=True)
class Program:
    """What a limit has to hold of a recorded program; bytes.

    ``own_space`` is its address space before the first call, ``more_space`` what it maps beside
    the heap afterwards, ``more_promised`` what of that counts under strict overcommit (private and
    writable); ``anonymous`` its private memory beside the heap, ``kernel`` what the kernel needs
    for its threads.  ``recorder_space`` is in the recording's address space and not in the
    program's.  ``measured`` says whether the kernel was asked while it was recorded, ``unwritten``
    how much less private memory it then had, at its peak, than if all it asked for were written.
    """

    own_space: int
    more_space: int
    more_promised: int
    recorder_space: int
    anonymous: int
    kernel: int
    measured: bool
    unwritten: int


class Traced:
    """A trace made ready to be tried under limits."""

    def __init__(self, trace: Trace, allocator: str | None = None) -> None:
        if not len(trace):
            message = "the trace has no calls: any limit that lets the program start will do"
            raise ArgumentError(message)
        measured = trace.info.measured
        also = measured.samples.row.tolist() if measured and measured.samples is not None else ()
        self.trace = trace
        self.trials = Trials(
            trace, allocator=allocator, rows=sample_rows(len(trace), _SAMPLES, also)
        )
        self._big = big_machine(trace.info.arch or "x86_64", trace.info.cpus or 1)

    @cached_property
    def outcome(self) -> Outcome:
        """The run without a limit."""
        outcome = self.trials.run(Setting())
        if outcome.error:
            message = f"the trace does not run to its end: {outcome.error}"
            raise ArgumentError(message)
        return outcome

    @cached_property
    def rest(self) -> Rest | None:
        """What the process has resident beside its heap, if that was measured."""
        return rest_of(self.trace, self.outcome)

    @cached_property
    def _unlimited(self) -> tuple[Process, npt.NDArray[np.int64]]:
        """The process after a run without a limit, and the rows that are refused even so."""
        process = self._spawn(self._big.copy(), Limits())
        result = process.replay(self.trace, touch="none", samples=0)
        return process, self._refused(result.address, len(self.trace))

    @property
    def peak_space(self) -> int:
        """The most address space it ever has without a limit: nothing is refused from there on."""
        return self._peak_simulated - self.program.recorder_space + self.program.more_space

    @property
    def _peak_simulated(self) -> int:
        space = self._unlimited[0].space
        return max(space.peak_vm, space.total_vm) * PAGE

    @cached_property
    def program(self) -> Program:
        """What is known of the program beside its trace."""
        info, measured = self.trace.info, self.trace.info.measured
        own = self._spawn(self._big.copy(), Limits()).space.total_vm * PAGE
        recorder = recorder_space(info.maps or "")
        more = 0
        if measured is not None and measured.vm_peak:
            more = max(measured.vm_peak - self._peak_simulated, 0)
        threads = int(np.unique(self.trace.thread).size)
        return Program(
            own_space=own - recorder,
            more_space=more,
            more_promised=max(more - self._more_unpromised(), 0),
            recorder_space=recorder,
            anonymous=max(self._anonymous(), 0),
            kernel=_KERNEL_THREAD * (threads - 1),
            measured=self.rest is not None,
            unwritten=max(-self._anonymous(), 0),
        )

    def _anonymous(self) -> int:
        """Return the private memory beside the heap when both together are most.

        Less than nothing: the program has not written all that the model takes to be written.
        """
        rest, measured = self.rest, self.trace.info.measured
        if rest is None or measured is None:
            return 0
        of_files = sum(measured.in_status(name) or 0 for name in ("RssFile", "RssShmem"))
        of_files -= (measured.recorder_rss or 0) - (measured.recorder_anon or 0)
        beside = rest.process_peak(self.outcome) - self.outcome.peak_rss - max(of_files, 0)
        at_end = rest.process_final(self.outcome) - self.outcome.final_rss - max(of_files, 0)
        off = _COUNTERS_ARE_OFF * (self.trace.info.cpus or 1)
        return max(beside, min(at_end, beside + off))

    def _more_unpromised(self) -> int:
        """Return what was mapped after the first call that nobody promised memory for."""
        info, measured = self.trace.info, self.trace.info.measured
        if info.maps is None or measured is None or measured.maps is None:
            return 0
        return max(unpromised(measured.maps) - unpromised(info.maps), 0)

    # --- tries

    def _spawn(self, machine: Machine, limits: Limits, cgroup: Cgroup | None = None) -> Process:
        info = self.trace.info
        known = info.maps is not None and info.arch == machine.profile.arch
        process = machine.spawn(
            "program",
            allocator=self.trials.allocator,
            rlimits=limits,
            cgroup=cgroup,
            maps=info.maps if known else None,
            brk=info.brk_start if known else None,
        )
        if not process.alive:
            message = "exec itself needs more: the OOM killer ends it there"
            raise ProcessKilled(message)
        apply_environment(process.heap.heap, self.trials.base)
        return process

    def under_address_space(self, limit: int) -> Verdict:
        """Try ``ulimit -v``, RLIMIT_AS, of ``limit`` bytes."""
        own = self.program
        if limit < own.own_space:
            return failed(f"exec itself needs {format_size(own.own_space)}")
        room = limit - own.more_space + own.recorder_space
        process = self._spawn(self._big.copy(), Limits(address_space=max(room, 0)))
        return self._played(process, "none")

    def under_cgroup(self, limit: int, swap: int) -> Verdict:
        """Try a memory cgroup of ``limit`` bytes, and ``swap`` bytes of swap."""
        machine = self._machine(1 << 38, swap)
        group = machine.cgroup("limit", memory_max=limit, swap_max=swap)
        return self._under(machine, group)

    def on_machine(self, ram: int, swap: int, reserved: int, ratio: int | None) -> Verdict:
        """Try a machine of so much RAM and swap, overcommit mode 2 if there is a ratio."""
        try:
            machine = self._machine(ram, swap, reserved, ratio)
        except ArgumentError as error:
            return failed(str(error))
        return self._under(machine, None)

    def _machine(self, ram: int, swap: int, reserved: int = 0, ratio: int | None = None) -> Machine:
        profile = self._big.profile
        return Machine(
            ram=ram,
            swap=swap,
            reserved=reserved,
            kernel="6.18",
            arch=profile.arch,
            cpus=self._big.cpus,
            overcommit_memory=0 if ratio is None else 2,
            overcommit_ratio=50 if ratio is None else ratio,
        )

    def _under(self, machine: Machine, group: Cgroup | None) -> Verdict:
        own = self.program
        kernel = -(-own.kernel // PAGE)
        try:
            process = self._spawn(machine, Limits(), group)
        except (OSError, ArgumentError) as error:
            return failed(f"the program cannot even start: {error}")
        except ProcessKilled as error:
            return failed(str(error))
        if not machine.ram.charge_kernel(group.number if group else 0, kernel):
            return failed("not even the kernel's part fits")
        try:
            self._give_rest(process)
        except ProcessKilled:
            return failed("the OOM killer ends it before its first call")
        except OSError as error:
            return failed(f"a mapping of the program's own is refused: {error.strerror}")
        return self._played(process, self.trials.touch)

    def _give_rest(self, process: Process) -> None:
        """Let the process have what the program has beside the heap and its first areas."""
        written = self.program.anonymous - process.pages.table.counters()["anon"] * PAGE
        length = page_ceil(max(written, self.program.more_promised))
        if length:
            at = process.mmap(0, length, PROT.READ | PROT.WRITE, _PRIVATE)
            process.touch(at, max(written, 0))

    def _played(self, process: Process, touch: str) -> Verdict:
        """Make the calls, up to the first that is refused."""
        address = np.zeros(len(self.trace), np.uint64)
        play = process.playback(self.trace, touch=touch, outputs={"address": address})
        always = self._unlimited[1]

        def is_refused() -> bool:
            return bool(play.refused) or play.failed > int(np.searchsorted(always, play.row))

        def is_enough() -> bool:
            refusals = process.heap.refusals
            return (
                bool(play.refused) or (refusals > 0 and is_refused()) or refusals > _MOST_REFUSALS
            )

        try:
            play.run_to(None, is_enough)
        except ProcessKilled:
            return failed(f"the OOM killer ends it in call {play.row:,}", play.row)
        except (HeapAbort, MemoryFault) as error:
            return failed(f"{error} in call {play.row:,}", play.row)
        if is_refused():
            return self._null(address, play.row)
        if process.heap.refusals > _MOST_REFUSALS:
            words = f"the kernel has refused its malloc memory {_MOST_REFUSALS:,} times by call"
            return failed(f"{words} {play.row:,}", play.row)
        return SURVIVED

    def _null(self, address: npt.NDArray[np.uint64], rows: int) -> Verdict:
        """Return the verdict of a run that was refused something: by the first such call."""
        new = np.setdiff1d(self._refused(address, rows), self._unlimited[1])
        if not new.size:
            return failed("a mapping of the program's own is refused")
        row = int(new[0])
        size = int(self.trace.size[row])
        return failed(f"call {row:,} asks for {size:,} bytes and gets NULL", row)

    def _refused(self, address: npt.NDArray[np.uint64], rows: int) -> npt.NDArray[np.int64]:
        """Return which of the first ``rows`` calls asked for memory and got NULL."""
        op, size = self.trace.op[:rows], self.trace.size[:rows]
        asks = (op <= Op.PVALLOC) & (op != Op.FREE) & ((op != Op.REALLOC) | (size > 0))
        return np.flatnonzero(asks & (address[:rows] == 0))

    def site(self, row: int | None) -> str | None:
        """Return where a call came from, if that is known."""
        if row is None or not self.trace.has("site") or row >= len(self.trace):
            return None
        number = int(self.trace.site[row])
        return str(self.trace.info.sites.resolve([number])[number]) if number else None


def unpromised(maps: str) -> int:
    """Return the bytes of a maps text that are not private and writable."""
    return sum(area.length for area in whole_areas(maps) if not area.promised)


def recorder_space(maps: str) -> int:
    """Return the bytes of address space that are the recorder's own in a recording's maps."""
    total, library, image = 0, "", 0
    spool = _SPOOL_AT[32 if LIBRARIES[32] in maps else 64]
    for area in whole_areas(maps):
        if area.name.rpartition("/")[2] in LIBRARIES.values():
            library, image = area.name, image + area.length
        elif ".spool/" in area.name or spool <= area.start < spool + _SPOOL_SIZE:
            total += area.length
    return total + max(_image_size(library), image) if library else total


def _image_size(library: str) -> int:
    """Return the bytes that a library takes up, its zeroed data included; 0 if it is not here."""
    try:
        return page_ceil(read_image(library).span)
    except ArgumentError:
        return 0
