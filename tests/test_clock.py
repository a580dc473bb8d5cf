"""Simulated time: what things cost adds up, the same way every time."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pyalloc.errors import ArgumentError
from pyalloc.kernel.abi import MAP, PROT
from pyalloc.kernel.costs import HDD, SSD, VIRTIO, Costs
from pyalloc.machine import Machine, Process

PAGE = 4096
RW = PROT.READ | PROT.WRITE
PRIVATE = MAP.PRIVATE | MAP.ANONYMOUS


def scan(disk: str | Costs, *, pages: int = 4096, passes: int = 3) -> tuple[Machine, Process]:
    """Write 16 MB in 8 MB of memory, again and again."""
    machine = Machine(ram="256M", swap="64M", kernel="6.18", arch="x86_64", disk=disk)
    process = machine.spawn(cgroup=machine.cgroup("small", memory_max="8M"))
    at = process.mmap(0, pages * PAGE, RW, PRIVATE)
    for _ in range(passes):
        process.touch(at, pages * PAGE)
    return machine, process


def test_a_first_touch_costs_a_fault_and_a_clear_page() -> None:
    """Time is what the cost model says, to the nanosecond."""
    costs = Costs(access=7, fault=1000, clear=300, system_call=50)
    machine = Machine(ram="64M", swap=0, kernel="6.18", arch="x86_64", disk=costs)
    process = machine.spawn()
    before = machine.ram.time
    at = process.mmap(0, 100 * PAGE, RW, PRIVATE)
    assert machine.ram.time - before == 50
    process.touch(at, 100 * PAGE)
    assert machine.ram.time - before == 50 + 100 * (7 + 1000 + 300)
    process.touch(at, 100 * PAGE)
    assert machine.ram.time - before == 50 + 100 * (7 + 1000 + 300) + 100 * 7


def test_swapping_is_orders_of_magnitude_slower_and_a_disk_with_a_head_slower_still() -> None:
    """The predicted slow-down: nothing, then enough memory, then an SSD, then a hard disk."""
    times = [scan("none")[0].clock]
    times += [scan("ssd", pages=1024)[0].clock, scan("ssd")[0].clock, scan("hdd")[0].clock]
    assert times[0] == 0
    assert times[1] * 20 < times[2]
    assert times[2] * 4 < times[3]  # a sequential scan spares the head most of its way


def test_waiting_for_the_disk_is_no_work() -> None:
    """CPU time is part of the time that passed; with a slow disk, a small part."""
    machine, process = scan("hdd")
    assert 0 < process.cpu_time < machine.clock / 10
    assert process.cpu_time == pytest.approx(machine.ram.work / 1e9, rel=0.05)


def test_time_is_the_same_on_every_run_and_goes_on_in_a_copy() -> None:
    """No clock of the host is read."""
    (machine, _), (again, _) = scan("ssd"), scan("ssd")
    assert machine.ram.time == again.ram.time
    twin = machine.copy()
    assert twin.ram.time == machine.ram.time
    twin.advance(1.5)
    assert twin.ram.time == machine.ram.time + 1_500_000_000


def test_computing_takes_time_and_work_advancing_only_time() -> None:
    """Both make a process older; only the first uses a processor."""
    machine = Machine()
    process = machine.spawn()
    machine.advance(10)
    process.compute(2.5)
    assert machine.clock == pytest.approx(12.5, abs=0.01)
    assert process.cpu_time == pytest.approx(2.5, abs=0.01)
    process.exit()
    assert process.cpu_time == pytest.approx(2.5, abs=0.01)


def test_badness_of_2_6_takes_its_ages_from_the_clock() -> None:
    """An old and busy process scores less than a young one of the same size."""
    machine = Machine(ram="64M", swap=0, kernel="2.6.18", arch="i386", overcommit_memory=1)
    old = machine.spawn("old")
    old.compute(100)
    machine.advance(100_000)
    machine.spawn("young")
    hog = machine.spawn("hog")
    at = hog.mmap(0, 128 << 20, RW, PRIVATE)
    with pytest.raises(Exception, match="killed"):
        hog.touch(at, 128 << 20)
    scores = machine.oom_events[-1].verdict.scores
    assert scores[old.pid] * 3 <= scores[old.pid + 1]


def test_times_and_costs_out_of_range_are_refused() -> None:
    """One line that says which value, and why."""
    machine = Machine()
    for seconds in (-1, float("nan"), float("inf")):
        with pytest.raises(ArgumentError, match="seconds must not"):
            machine.advance(seconds)
    with pytest.raises(ArgumentError, match="fault must be whole nanoseconds"):
        Costs(fault=-1)
    with pytest.raises(ArgumentError, match="did you mean ssd"):
        Machine(disk="sdd")


def test_only_a_disk_with_a_head_seeks() -> None:
    """That decides how swap is read: by place, or by its neighbours in memory."""
    assert HDD.rotates
    assert not SSD.rotates
    assert VIRTIO.rotates
    assert VIRTIO.times() == SSD.times() | {"batches": 1}
    assert replace(SSD, seek=1).rotates
