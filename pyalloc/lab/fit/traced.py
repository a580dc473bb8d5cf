"""A recorded program under a limit: tries on copies of a machine.

What the trace does not have is taken from the recording's measurements: address space beside the
heap (thread stacks, libraries loaded later, mappings of the program's own), and anonymous memory
beside the heap.  Both are given to the process before its first call, so that a limit is rather too
large than too small.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

from pyalloc.errors import ArgumentError, ProcessKilled
from pyalloc.kernel.abi import MAP, PROT
from pyalloc.kernel.layout import page_ceil
from pyalloc.kernel.limits import Limits
from pyalloc.lab.fit.search import SURVIVED, Verdict, failed
from pyalloc.lab.replay import big_machine
from pyalloc.lab.rest import Rest, rest_of
from pyalloc.lab.setting import Setting, apply_environment
from pyalloc.lab.trial import Outcome, Trials, sample_rows
from pyalloc.machine import Machine, Process, Replay
from pyalloc.machine.cgroup import Cgroup
from pyalloc.trace import Op, Trace, symbols
from pyalloc.trace.record import LIBRARY
from pyalloc.units import PAGE, format_size

_PRIVATE: Final = MAP.PRIVATE | MAP.ANONYMOUS
_SPOOL_AT: Final = 0x3F00  # where the recorder's own memory begins, in 4 GiB
_AREA: Final = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (....) \S+ \S+ \d+ *(.*)")
_KERNEL_BASE: Final = 48 << 10
_KERNEL_THREAD: Final = 24 << 10
_SAMPLES: Final = 256


@dataclass(frozen=True, slots=True)
class Program:
    """What a limit has to hold of a recorded program; bytes.

    ``own_space`` is its address space before the first call, ``more_space`` what it maps beside
    the heap afterwards; ``anonymous`` its private memory beside the heap, ``kernel`` what the
    kernel needs for it.  ``recorder_space`` is in the recording's address space and not in the
    program's.
    """

    own_space: int
    more_space: int
    recorder_space: int
    anonymous: int
    kernel: int
    measured: bool


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
    def _unlimited(self) -> Replay:
        process = self._spawn(self._big.copy(), Limits())
        return process.replay(self.trace, touch="none", samples=0)

    @cached_property
    def _always_refused(self) -> npt.NDArray[np.bool_]:
        return self._refused(self._unlimited)

    @property
    def peak_space(self) -> int:
        """The most address space it ever has without a limit: nothing is refused from there on."""
        space = self._unlimited.process.space
        simulated = max(space.peak_vm, space.total_vm) * PAGE
        return simulated - self.program.recorder_space + self.program.more_space

    @cached_property
    def program(self) -> Program:
        """What is known of the program beside its trace."""
        info, measured = self.trace.info, self.trace.info.measured
        own = self._spawn(self._big.copy(), Limits()).space.total_vm * PAGE
        recorder = recorder_space(info.maps or "")
        space = self._unlimited.process.space
        simulated = max(space.peak_vm, space.total_vm) * PAGE
        more = 0
        if measured is not None and measured.vm_peak:
            more = max(measured.vm_peak - simulated, 0)
        threads = int(np.unique(self.trace.thread).size)
        return Program(
            own_space=own - recorder,
            more_space=more,
            recorder_space=recorder,
            anonymous=self._anonymous(),
            kernel=_KERNEL_BASE + _KERNEL_THREAD * threads,
            measured=self.rest is not None,
        )

    def _anonymous(self) -> int:
        """Return the private memory beside the heap when both together are most."""
        rest, measured = self.rest, self.trace.info.measured
        if rest is None or measured is None:
            return 0
        of_files = sum(_kb(measured.status or "", name) for name in ("RssFile", "RssShmem"))
        of_files -= measured.recorder_rss or 0
        return max(rest.process_peak(self.outcome) - self.outcome.peak_rss - max(of_files, 0), 0)

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
        apply_environment(process.heap.heap, self.trials.base)
        return process

    def under_address_space(self, limit: int) -> Verdict:
        """Try ``ulimit -v``, RLIMIT_AS, of ``limit`` bytes."""
        own = self.program
        if limit < own.own_space:
            return failed(f"exec itself needs {format_size(own.own_space)}")
        room = limit - own.more_space + own.recorder_space
        process = self._spawn(self._big.copy(), Limits(address_space=max(room, 0)))
        return self._judged(process.replay(self.trace, touch="none", samples=0))

    def under_cgroup(self, limit: int, swap: int) -> Verdict:
        """Try a memory cgroup of ``limit`` bytes, and ``swap`` bytes of swap."""
        machine = self._machine(1 << 38, swap)
        group = machine.cgroup("limit", memory_max=limit, swap_max=swap)
        return self._under(machine, group)

    def on_machine(self, ram: int, swap: int, reserved: int, ratio: int | None) -> Verdict:
        """Try a machine of so much RAM and swap, overcommit mode 2 if there is a ratio."""
        try:
            machine = self._machine(ram + reserved, swap, reserved, ratio)
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
        if not machine.ram.charge_kernel(group.number if group else 0, kernel):
            return failed("not even the kernel's part fits")
        try:
            self._give_rest(process, own.anonymous)
            return self._judged(process.replay(self.trace, touch=self.trials.touch, samples=0))
        except ProcessKilled:
            return failed(f"the OOM killer ends it before its first call: {_dmesg(machine)}")
        except OSError as error:
            return failed(f"a mapping of the program's own is refused: {error.strerror}")

    def _give_rest(self, process: Process, size: int) -> None:
        length = page_ceil(size)
        if length:
            at = process.mmap(0, length, PROT.READ | PROT.WRITE, _PRIVATE)
            process.touch(at, length)

    def _judged(self, result: Replay) -> Verdict:
        if result.errors:
            error = result.errors[0]
            killed = error.kind == "killed"
            what = "the OOM killer ends it" if killed else error.message
            return failed(f"{what} in call {error.row:,}{self._site(error.row)}", error.row)
        refused = result.summary.failed - self.outcome.failed
        if refused > 0:
            row = self._first_refused(result)
            size = int(self.trace.size[row])
            site = self._site(row)
            what = f"call {row:,} asks for {size:,} bytes and gets NULL{site}"
            return failed(what, row)
        return SURVIVED

    def _refused(self, result: Replay) -> npt.NDArray[np.bool_]:
        """Return which calls asked for memory and got NULL."""
        op, size = self.trace.op, self.trace.size
        asks = (op <= Op.PVALLOC) & (op != Op.FREE) & ((op != Op.REALLOC) | (size > 0))
        found: npt.NDArray[np.bool_] = asks & (result.address == 0)
        return found

    def _first_refused(self, result: Replay) -> int:
        """Return the first call that is refused now and was not without the limit."""
        new = self._refused(result) & ~self._always_refused
        return int(np.argmax(new))

    def _site(self, row: int) -> str:
        if not self.trace.has("site") or row >= len(self.trace):
            return ""
        number = int(self.trace.site[row])
        return f", from {self.trace.info.sites.resolve([number])[number]}"


def _kb(status: str, name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", status, re.MULTILINE)
    return int(found[1]) << 10 if found else 0


def recorder_space(maps: str) -> int:
    """Return the bytes of address space that are the recorder's own in a recording's maps."""
    total, library, image = 0, "", 0
    for line in maps.splitlines():
        match = _AREA.match(line)
        if match is None:
            continue
        start, stop, name = int(match[1], 16), int(match[2], 16), match[4]
        if name.endswith(f"/{LIBRARY}"):
            library, image = name, image + stop - start
        elif ".spool/" in name or start >> 32 == _SPOOL_AT:
            total += stop - start
    return total + max(_image_size(library), image) if library else total


def _image_size(library: str) -> int:
    """Return the bytes that a library takes up, its zeroed data included; 0 if it is not here."""
    try:
        return page_ceil(symbols.image_size(library))
    except OSError:
        return 0
