"""A process of this host and its model, told to do the same.

The model starts from the real process's first maps, with the same pages in memory.
"""

from __future__ import annotations

import re
import resource
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Self

from pyalloc.errors import MemoryFault
from pyalloc.host import proc
from pyalloc.host.kernel import HostKernel, may_map_low
from pyalloc.host.mapped import Files
from pyalloc.host.puppet import FIRST_FILE, Outcome, Puppet, Start, error_name
from pyalloc.kernel.abi import MADV
from pyalloc.kernel.proctext import parse_fields
from pyalloc.kernel.vma import AddressSpace
from pyalloc.lab.verify.mirror import mirror
from pyalloc.machine import Machine, Process
from pyalloc.units import PAGE
from pyalloc.workload.syscalls import RLIMITS, SystemCall

STATUS: Final = (
    "VmPeak", "VmSize", "VmLck", "VmRSS", "RssAnon", "RssFile", "RssShmem", "VmData", "VmStk",
    "VmExe", "VmLib", "VmPTE", "VmSwap",
)  # fmt: skip
"""The lines of status that are compared."""

SMAPS: Final = (
    "Rss", "Pss", "Shared_Clean", "Shared_Dirty", "Private_Clean", "Private_Dirty", "Anonymous",
    "LazyFree", "AnonHugePages", "ShmemPmdMapped", "FilePmdMapped", "Swap", "SwapPss", "Locked",
    "THPeligible", "VmFlags",
)  # fmt: skip
"""The fields of smaps that are compared."""

_ON_LISTS: Final = {MADV.FREE, MADV.COLD, MADV.PAGEOUT}
_CHANGING: Final = {"write", "ftruncate"}
_DROPPING: Final = {MADV.PAGEOUT, MADV.REMOVE}
_KERNELS_OWN: Final = {"[vvar]", "[vvar_vclock]", "[vdso]", "[vsyscall]"}
_RLIMITS: Final = {
    "address_space": resource.RLIMIT_AS, "data": resource.RLIMIT_DATA,
    "stack": resource.RLIMIT_STACK, "memlock": resource.RLIMIT_MEMLOCK,
}  # fmt: skip
_DESCRIPTORS: Final = {"mmap": 4, "read": 0, "write": 0, "ftruncate": 0}
"""Which argument of a call is a descriptor."""
_OTHERS: Final = re.compile(r"\b(sd|um|uw)\b ?")
"""Flags of areas that say nothing of memory: soft-dirty and userfaultfd."""


@dataclass(frozen=True, slots=True)
class Difference:
    """The first thing in which the two differ: after which call, what it is, both values."""

    row: int
    call: str
    what: str
    real: str
    model: str


class Twins:
    """A real process and its model, before they are told to do anything."""

    def __init__(self, start: Start, host: HostKernel, files: Files) -> None:
        self.files = files
        self.host = host
        files.settle()
        self.real = Puppet(start, files.descriptors)
        self.model = self._twin(start)
        self.children: list[Process] = []
        self._faults = self.real.faults(), self._model_faults()

    def _twin(self, start: Start) -> Process:
        real, host = self.real, self.host
        maps = real.read("maps")
        machine = Machine(
            ram=host.ram,
            swap=host.swap,
            kernel=host.model,
            arch=start.arch,
            huge_pages=host.huge_pages,
            read_ahead=self.files.read_ahead,
        )
        limits = replace(start.limits, raw_io=may_map_low())
        process = machine.spawn(
            "puppet", uid=0, maps=maps, brk=real.call("brk", 0).value, rlimits=limits
        )
        self._own = self._own_ranges(process.space)
        mirror(real, process)
        named = {}
        for name, size in zip(self.files.names, self.files.sizes, strict=True):
            if name not in named:
                named[name] = machine.file(name, size, tmpfs=name.startswith("/memfd"))
        self.descriptors = [
            process.open(named[name], mode)
            for name, mode in zip(self.files.names, self.files.modes, strict=True)
        ]
        return process

    def _own_ranges(self, space: AddressSpace) -> list[tuple[int, int]]:
        """Return what the real process lives on: its program, and the pages its stack uses."""
        first = min(vma.start for vma in space)
        stack = space.at(space.start_stack)
        used = min(self.real.stack_pages)
        return [(first, space.start_brk), (used, stack.end if stack else used + PAGE)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.real.close()

    @property
    def space(self) -> AddressSpace:
        """The model's address space."""
        self.model.catch_up()
        return self.model.space

    def is_own(self, start: int, end: int) -> bool:
        """Whether a range holds memory the real process lives on."""
        return any(low < end and start < high for low, high in self._own)

    # --- calls ----------------------------------------------------------------------------

    def difference(self, row: int, call: SystemCall) -> Difference | None:
        """Make one call on both; return the first thing that differs afterwards."""
        model = self._model_call(call)
        if call.name == "madvise":
            self._prepare_advice(call.args[2])
        self.files.spoiled |= call.name in _CHANGING
        real = self.real.call(*self._real_call(call))
        if call.name in ("fork", "branch"):
            self._settle()
        if model != real:
            return Difference(row, str(call), "result", str(real), str(model))
        for what, theirs, ours in self._differences():
            return Difference(row, str(call), what, theirs, ours)
        return None

    def _prepare_advice(self, advice: int) -> None:
        """Have pages where advice finds them, and remember if it may drop pages of files."""
        if advice in _ON_LISTS:
            self.files.drain()
        self.files.spoiled |= advice in _DROPPING

    def _real_call(self, call: SystemCall) -> tuple[Any, ...]:
        name, args = call
        at = _DESCRIPTORS.get(name)
        if at is not None and args[at] in self.descriptors:
            place = self.descriptors.index(args[at])
            args = (*args[:at], FIRST_FILE + place, *args[at + 1 :])
        if name == "setrlimit":
            return (name, _RLIMITS[RLIMITS[args[0]]], args[1])
        return (name, *args)

    def _model_call(self, call: SystemCall) -> Outcome:
        try:
            return self._act(call.name, call.args)
        except OSError as error:
            return Outcome(-1, error_name(error.errno or 0))

    def _act(self, name: str, args: tuple[int, ...]) -> Outcome:
        own = _OWN_CALLS.get(name)
        return own(self, *args) if own else Outcome(getattr(self.model, name)(*args))

    def _fork(self) -> Outcome:
        self.model, self.children = self.model.fork(), []
        return Outcome(0)

    def _branch(self) -> Outcome:
        self.children.append(self.model.fork())
        return Outcome(0)

    def _reap(self) -> Outcome:
        count = len(self.children)
        while self.children:
            self.children.pop().exit()
        return Outcome(count)

    def _mlock2(self, addr: int, length: int, flags: int) -> Outcome:
        return Outcome(self.model.mlock(addr, length, flags))

    def _setrlimit(self, which: int, value: int) -> Outcome:
        name = RLIMITS[which]
        hard = resource.getrlimit(_RLIMITS[name])[1]
        if name != "stack" and resource.RLIM_INFINITY != hard < value:  # a puppet's stack has none
            return Outcome(-1, "EINVAL")  # the model has no hard limits
        limits = {name: value}
        self.model.rlimits = replace(self.model.rlimits, **limits)  # type: ignore[arg-type]
        return Outcome(0)

    def _touch(self, addr: int, count: int, write: int) -> Outcome:
        first = (addr & self.model.mask) // PAGE
        try:
            self.model.touch(first * PAGE, count * PAGE, write=bool(write))
        except MemoryFault as fault:
            return Outcome(fault.address // PAGE - first, signal=fault.signal)
        return Outcome(count)

    def _settle(self) -> None:
        """Touch what the real process touches after a fork."""
        for low, high in self._own[:1]:
            for vma in self.space.areas.covering(low, high):
                start, end = max(vma.start, low), min(vma.end, high)
                self.model.touch(start, end - start, write=vma.file is None)
        for page in self.real.stack_pages:
            self.model.touch(page, 1)
        self._faults = self.real.faults(), self._model_faults()

    # --- comparing ------------------------------------------------------------------------

    def _differences(self) -> Iterator[tuple[str, str, str]]:
        theirs, ours = _areas(self.real.read("maps")), _areas(str(self.model.maps()))
        if theirs != ours:
            only = [line for line in theirs if line not in ours]
            yield "maps", "; ".join(only), "; ".join(line for line in ours if line not in theirs)
        real, model = parse_fields(self.real.read("status")), self.model.status()
        for name in STATUS:
            if real[name] != model[name] and (self.host.exact_rss or "Rss" not in name[:5]):
                yield f"{name}, kB", str(real[name]), str(model[name])
        old, self._faults = self._faults, (self.real.faults(), self._model_faults())
        for i, kind in enumerate(("minor faults", "major faults")):
            grown = [now[i] - then[i] for now, then in zip(self._faults, old, strict=True)]
            if grown[0] != grown[1]:
                yield kind, str(grown[0]), str(grown[1])

    def _model_faults(self) -> tuple[int, int]:
        counters = self.model.pages.table.counters()
        return counters["minor_faults"], counters["major_faults"]

    def last_difference(self, row: int) -> Difference | None:
        """Compare what is too dear to compare after each call: smaps."""
        self.files.drain()
        real = proc.parse_smaps(self.real.read("smaps"))
        model = proc.parse_smaps(str(self.model.smaps()))
        for (area, theirs), (_, ours) in zip(real, model, strict=True):
            if self.is_own(area.start, area.end) or area.name in _KERNELS_OWN:
                continue  # others have the same pages
            for name in SMAPS:
                values = [_OTHERS.sub("", str(fields.get(name))) for fields in (theirs, ours)]
                if values[0].strip() != values[1].strip():
                    place = f"smaps of {area.start:x}-{area.end:x}: {name}"
                    return Difference(row, "at the end", place, *values)
        return None


def _areas(text: str) -> list[str]:
    """Return the lines of maps without what the model cannot know: devices and inode numbers."""
    rows, objects = [], dict[str, int]()
    for line in text.splitlines():
        bounds, permissions, offset, _, inode, *name = line.split(None, 5)
        label = name[0].strip() if name else ""
        if label.startswith("/dev/zero"):
            label = f"shared memory {objects.setdefault(inode, len(objects)) + 1}"
        rows.append(f"{bounds} {permissions} {offset} {label}".strip())
    return rows


_OWN_CALLS: Final[Mapping[str, Callable[..., Outcome]]] = {
    "touch": Twins._touch,  # noqa: SLF001
    "fork": Twins._fork,  # noqa: SLF001
    "branch": Twins._branch,  # noqa: SLF001
    "reap": Twins._reap,  # noqa: SLF001
    "mlock2": Twins._mlock2,  # noqa: SLF001
    "setrlimit": Twins._setrlimit,  # noqa: SLF001
}
"""What is no call of the model of the same name."""
