"""A copy of a machine is the machine: every field of it, and whatever is done to both."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from functools import partial
from types import BuiltinFunctionType, FunctionType, NoneType
from typing import Any

import pytest

from pyalloc import engine
from pyalloc.errors import HeapAbort, MemoryFault, ProcessKilled
from pyalloc.kernel.abi import MADV, MREMAP
from pyalloc.machine import Machine, Process

PAGE = 4096
RW = 3
ANON, SHARED_ANON, SHARED, PRIVATE = 0x22, 0x21, 0x01, 0x02
FILES = (3, 4, 5)
"""Descriptors of every process: two files, and memory that is promised page by page."""
FAILURES = (OSError, MemoryFault, ProcessKilled, HeapAbort)
KERNELS = [
    ("2.6.11", "i386", "hdd"),
    ("2.6.18", "i386-pae", "ssd"),
    ("6.12", "x86_64", "hdd"),
    ("6.18", "x86_64", "ssd"),
]


# --- a load that brings everything of a machine to use


def crowded(kernel: str, arch: str, disk: str) -> Machine:
    """Return a machine whose memory is much too small for what ``calls`` does on it."""
    machine = Machine(
        ram="5M", swap="16M", kernel=kernel, arch=arch, disk=disk, read_ahead="128K", cpus=2
    )
    machine.cgroup("tight", memory_max="2M", swap_max="1M", memory_high="1M")
    files = [machine.file("/data", 1 << 20, cached=False), machine.file("/warm", 1 << 19)]
    for name, allocator in (("old", "glibc-2.3.3"), ("new", "glibc-2.36"), ("fit", "best-fit")):
        group = machine.cgroups["/tight"] if name == "new" else None
        process = machine.spawn(name, allocator=allocator, cgroup=group)
        for file in files:
            process.open(file)
        process.memfd_create("shared")
    return machine


@dataclass
class Call:
    """One call on a process (or on the machine: pid 0) with arguments that are numbers."""

    pid: int
    name: str
    arguments: tuple[Any, ...] = ()


class Load:
    """Draws calls from a seed and from what earlier calls returned."""

    def __init__(self, seed: int, machine: Machine) -> None:
        self.rng = random.Random(seed)  # noqa: S311
        self.blocks: list[tuple[int, int, int]] = []
        self.areas: list[tuple[int, int, int]] = []
        self.pids = list(machine.processes)

    def next(self) -> Call:
        if not self.pids:
            return Call(0, "spawn", ("again",))
        kinds = ("heap", "heap", "touch", "touch", "area", "advice", "file", "life", "time")
        return getattr(self, f"_{self.rng.choice(kinds)}")()

    def _pid(self) -> int:
        return self.rng.choice(self.pids)

    def _heap(self) -> Call:
        rng = self.rng
        if len(self.blocks) > 40 or (self.blocks and rng.random() < 0.3):
            pid, at, _ = self.blocks.pop(rng.randrange(len(self.blocks)))
            return Call(pid, "free", (at,))
        size = int(2 ** rng.uniform(4, 18))
        return Call(self._pid(), rng.choice(["malloc", "fill"]), (size,))

    def _touch(self) -> Call:
        owned = self.areas or self.blocks
        if not owned:
            return self._area()
        pid, at, size = self.rng.choice(owned)
        first = self.rng.randrange(size) // 2
        how = (self.rng.random() < 0.7, self.rng.random() < 0.3)
        return Call(pid, "touch", (at + first, size - first, *how))

    def _area(self) -> Call:
        rng = self.rng
        if len(self.areas) > 30 or (self.areas and rng.random() < 0.3):
            pid, at, size = self.areas.pop(rng.randrange(len(self.areas)))
            if rng.random() < 0.3:
                return Call(pid, "mremap", (at, size, 2 * size, int(MREMAP.MAYMOVE)))
            return Call(pid, "munmap", (at, size))
        if rng.random() < 0.1:
            return Call(self._pid(), "mmap", (0, 4 << 20, RW, ANON, -1, 0))
        fd = rng.choice([-1, -1, *FILES])
        flags = rng.choice([ANON, ANON, SHARED_ANON] if fd < 0 else [SHARED, PRIVATE])
        return Call(self._pid(), "mmap", (0, rng.randint(1, 400) * PAGE, RW, flags, fd, 0))

    def _advice(self) -> Call:
        if not self.areas:
            return self._area()
        rng = self.rng
        pid, at, size = rng.choice(self.areas)
        name = rng.choice(["madvise", "madvise", "madvise", "mlock", "munlock", "mprotect"])
        advice = int(rng.choice([*MADV, MADV.HUGEPAGE, MADV.PAGEOUT]))
        more = {"madvise": (advice,), "mprotect": (rng.choice([1, RW]),)}
        return Call(pid, name, (at, size, *more.get(name, ())))

    def _file(self) -> Call:
        rng = self.rng
        name = rng.choice(["read", "read", "write"])
        return Call(
            self._pid(),
            name,
            (rng.choice(FILES), rng.randint(1, 60) * PAGE, rng.randrange(200) * PAGE),
        )

    def _life(self) -> Call:
        rng = self.rng
        name = "fork" if len(self.pids) < 5 else "exit"
        if rng.random() < 0.3:
            return Call(0, rng.choice(["drop_caches", "vmstat"]))
        if rng.random() < 0.2:
            return Call(0, "overcommit", (rng.choice([0, 1, 1, 2]),))
        return Call(self._pid(), name, ())

    def _time(self) -> Call:
        return Call(0, "advance", (self.rng.choice([0, 0, 1, 3]),))

    def learn(self, call: Call, outcome: object, machine: Machine) -> None:
        """Take note of what a call gave, and of who is dead."""
        if isinstance(outcome, int) and outcome:
            if call.name in ("malloc", "fill"):
                self.blocks.append((call.pid, outcome, *call.arguments))
            elif call.name == "mmap":
                self.areas.append((call.pid, outcome, call.arguments[1]))
            elif call.name == "mremap":
                self.areas.append((call.pid, outcome, call.arguments[2]))
            elif call.name in ("fork", "spawn"):
                self.pids.append(outcome)
        self.pids = [pid for pid in self.pids if machine.processes[pid].alive]
        self.blocks = [block for block in self.blocks if block[0] in self.pids]
        self.areas = [area for area in self.areas if area[0] in self.pids]


def made(machine: Machine, call: Call) -> object:
    """Make ``call`` on a machine; return what it returned or raised, in plain values."""
    target: Any = machine.processes[call.pid] if call.pid else machine
    try:
        if call.name == "overcommit":
            (target.sysctl["vm.overcommit_memory"],) = call.arguments
            return None
        if call.name == "touch":
            *arguments, zeros = call.arguments
            return target.touch(*arguments, zeros=zeros)
        result = getattr(target, call.name)(*call.arguments)
    except FAILURES as error:
        return repr(error)
    if isinstance(result, Process):
        return result.pid
    return result if isinstance(result, int) else str(result)


def run(load: Load, machines: list[Machine], calls: int) -> None:
    """Make as many calls on each machine: they return the same, at the same simulated time."""
    for _ in range(calls):
        call = load.next()
        outcomes = [(made(machine, call), machine.ram.time) for machine in machines]
        assert outcomes == [outcomes[0]] * len(machines), call
        counters = [machine.ram.counters() for machine in machines]
        assert counters == [counters[0]] * len(machines), call
        load.learn(call, outcomes[0][0], machines[0])


# --- everything that can be seen of a machine


def text(of: Machine | Process, name: str) -> str:
    """Return a text of /proc, or that this kernel has none."""
    try:
        return str(getattr(of, name)())
    except FileNotFoundError as error:
        return repr(error)


def picture(machine: Machine) -> Iterator[tuple[str, object]]:
    """Yield all that can be read of a machine, by name; nothing of it changes what is to come."""
    ram = machine.ram
    yield "time", (ram.time, ram.work, ram.promised, ram.mapped(), ram.counters(), ram.settings)
    for name in ("meminfo", "vmstat", "buddyinfo", "zoneinfo", "swaps", "ps", "dmesg"):
        yield name, text(machine, name)
    yield "oom_events", [(event.report, event.table()) for event in machine.oom_events]
    for number in range(1 + len(machine.cgroups)):
        yield f"group {number}", (ram.group(number), ram.group_pages(number))
    for pid, process in machine.processes.items():
        yield f"{pid}", (process.alive, process.exit_code, process.killed_by, process.cpu_time)
        if process.alive:
            for name in ("maps", "smaps", "status", "statm"):
                yield f"{pid} {name}", text(process, name)
            yield f"{pid} pages", process.pages.table.counters()
            heap = process.heap.heap
            yield f"{pid} heap", (heap.brk, heap.statistics(), heap.layout(), heap.arenas())
            yield f"{pid} chunks", (heap.chunks().tobytes(), heap.lists().tobytes())


def same_picture(machines: list[Machine]) -> None:
    for views in zip(*map(picture, machines), strict=True):
        assert all(view == views[0] for view in views), views[0][0]


# --- every field of the objects

HANDLES = (engine.Heap, engine.Pages, engine.Ram)
"""They hold memory of the engine: what is in it is compared by ``picture``."""
PLAIN = (str, bytes, int, float, NoneType, Enum, type, FunctionType, BuiltinFunctionType)


def fields(thing: object) -> dict[object, object]:
    """Return what an object holds, by name or place."""
    if isinstance(thing, dict):
        keys = {("key", place): key for place, key in enumerate(thing)}
        return keys | {("value", place): value for place, value in enumerate(thing.values())}
    if isinstance(thing, (list, tuple)):
        return dict(enumerate(thing))
    if isinstance(thing, partial):
        return {"function": thing.func, "arguments": thing.args}
    slots = [name for cls in type(thing).__mro__ for name in getattr(cls, "__slots__", ())]
    held = {name: getattr(thing, name) for name in slots if hasattr(thing, name)}
    return held | getattr(thing, "__dict__", {})


def is_constant(thing: object) -> bool:
    """Whether nobody can change it: two machines may have the same one."""
    if isinstance(thing, (tuple, frozenset)):
        return all(map(is_constant, thing))
    parameters = getattr(type(thing), "__dataclass_params__", None)
    frozen = parameters is not None and parameters.frozen
    return frozen or isinstance(thing, PLAIN) or not fields(thing)


def faults_of_a_copy(one: object, other: object) -> Iterator[str]:
    """Compare two objects and what they hold, to the end; yield where one is no copy."""
    twins: dict[int, tuple[object, object]] = {}
    todo = [("", one, other)]
    while todo:
        place, a, b = todo.pop()
        if id(a) in twins:
            if twins[id(a)][1] is not b:
                yield f"{place}: the same object in one, another in the other"
        elif fault := fault_of(a, b):
            yield f"{place}: {fault}"
        elif a is not b and not isinstance(a, (*PLAIN, *HANDLES)):
            if not isinstance(a, tuple):
                twins[id(a)] = (a, b)  # kept: an id is used again once its object is gone
            theirs = fields(b)
            todo += [(f"{place}.{name}", held, theirs[name]) for name, held in fields(a).items()]


def fault_of(a: object, b: object) -> str:
    """Compare two objects without what they hold; return what is wrong with the second."""
    if a is b:
        return "" if is_constant(a) else f"both have this {type(a).__name__}"
    if type(a) is not type(b):
        return f"{type(a).__name__} and {type(b).__name__}"
    if isinstance(a, HANDLES):
        return ""
    if isinstance(a, PLAIN):
        return "" if a == b else f"{a!r} and {b!r}"
    names = list(fields(a)), list(fields(b))
    return "" if names[0] == names[1] else f"{names[0]} and {names[1]}"


# --- the tests


@pytest.mark.parametrize(("kernel", "arch", "disk"), KERNELS)
def test_every_field_is_copied_and_none_is_shared(kernel: str, arch: str, disk: str) -> None:
    """The two graphs of objects have one shape, equal values, and no object that can change."""
    machine = crowded(kernel, arch, disk)
    load = Load(1, machine)
    for _ in range(8):
        run(load, [machine], 100)
        assert list(faults_of_a_copy(machine, machine.copy())) == []


def test_a_field_that_is_not_copied_is_found() -> None:
    machine = crowded(*KERNELS[3])
    for spoil in (
        lambda twin: twin.dmesg() and twin._log.pop(),
        lambda twin: setattr(twin, "cgroups", machine.cgroups),
        lambda twin: setattr(twin, "shares", not twin.shares),
        lambda twin: twin.processes.popitem(),
        lambda twin: setattr(twin.processes[1001], "machine", machine),
    ):
        twin = machine.copy()
        spoil(twin)
        assert list(faults_of_a_copy(machine, twin))


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(("kernel", "arch", "disk"), KERNELS)
def test_a_copy_goes_on_as_the_machine_does(kernel: str, arch: str, disk: str, seed: int) -> None:
    """Under pressure, over many simulated seconds, copies of every age do the same to the end."""
    machine, never_copied = crowded(kernel, arch, disk), crowded(kernel, arch, disk)
    load = Load(seed, machine)
    copies = [machine.copy()]
    for _ in range(25):
        copies = [copies[0], machine.copy(), copies[-1].copy()]
        machines = [machine, never_copied, *copies]
        run(load, machines, 12)
    same_picture(machines)
    assert [fault for each in machines[1:] for fault in faults_of_a_copy(machine, each)] == []
    assert machine.clock > 10
    assert machine.vmstat()["pswpin"]
    assert machine.vmstat()["pswpout"]
    for each in machines:
        each.check()
