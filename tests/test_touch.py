"""Accesses in any order: one array of page numbers does what single touches do."""

from __future__ import annotations

import numpy as np
import pytest

from pyalloc.errors import ArgumentError, MemoryFault, ProcessKilled
from pyalloc.kernel.abi import MADV, MAP, PROT
from pyalloc.machine import Machine, Process

PAGE = 4096
RW = PROT.READ | PROT.WRITE
PRIVATE = MAP.PRIVATE | MAP.ANONYMOUS
SHARED = MAP.SHARED | MAP.ANONYMOUS


def cramped() -> tuple[Machine, Process]:
    machine = Machine(ram="64M", swap="64M", kernel="6.18", arch="x86_64")
    return machine, machine.spawn(cgroup=machine.cgroup("small", memory_max="4M"))


@pytest.mark.parametrize("flags", [PRIVATE, SHARED])
@pytest.mark.parametrize("advice", [None, MADV.HUGEPAGE])
def test_a_list_of_pages_is_as_many_single_touches(flags: int, advice: int | None) -> None:
    """Faults, resident pages and swap are the same, down to the last page."""
    pages = np.random.default_rng(1).integers(0, 2048, 6000)
    seen = []
    for whole in (True, False):
        machine, process = cramped()
        at = process.mmap(0, 2048 * PAGE, RW, flags)
        if advice is not None:
            process.madvise(at, 2048 * PAGE, advice)
        for write in (True, False):
            if whole:
                process.touch_pages(at, pages, write=write)
            else:
                for page in pages.tolist():
                    process.touch(at + page * PAGE, 1, write=write)
        machine.check()
        seen.append((process.pages.table.counters(), dict(machine.vmstat())))
    assert seen[0] == seen[1]


def test_pages_on_both_sides_of_an_area_s_border_are_served() -> None:
    """A list may reach over several areas, and below its own address."""
    _, process = cramped()
    at = process.mmap(0, 16 * PAGE, RW, PRIVATE)
    process.mprotect(at + 8 * PAGE, 8 * PAGE, PROT.READ)
    process.touch_pages(at + 8 * PAGE, [-8, -1, 0, 7], write=False)
    process.touch_pages(at, [0, 7])
    assert process.pages.table.counters()["anon"] == 2
    with pytest.raises(MemoryFault) as fault:
        process.touch_pages(at, [1, 8, 2])
    assert fault.value.address == at + 8 * PAGE
    assert process.pages.table.counters()["anon"] == 3


def test_a_page_past_a_file_s_end_is_a_bus_error_at_that_page() -> None:
    """What comes before it in the list has been touched."""
    machine, process = cramped()
    fd = process.open(machine.file("data", 3 * PAGE), "r")
    at = process.mmap(0, 8 * PAGE, PROT.READ, MAP.SHARED, fd)
    with pytest.raises(MemoryFault) as fault:
        process.touch_pages(at, [0, 5, 1], write=False)
    assert (fault.value.signal, fault.value.address) == (7, at + 5 * PAGE)


def test_a_list_can_be_the_end_of_its_process() -> None:
    """The OOM killer comes in the middle of it."""
    machine = Machine(ram="64M", swap=0, kernel="6.18", arch="x86_64")
    process = machine.spawn(cgroup=machine.cgroup("small", memory_max="1M"))
    at = process.mmap(0, 1024 * PAGE, RW, PRIVATE)
    with pytest.raises(ProcessKilled):
        process.touch_pages(at, np.arange(1024))
    assert process.killed_by == "oom"


@pytest.mark.parametrize("pages", [[0.5], [[1]], ["a"]])
def test_page_numbers_are_whole(pages: list[object]) -> None:
    """Anything else gets one clear line."""
    _, process = cramped()
    with pytest.raises(ArgumentError, match="whole numbers"):
        process.touch_pages(0, pages)


def test_no_pages_are_no_accesses() -> None:
    """An empty list is fine, wherever it points."""
    _, process = cramped()
    process.touch_pages(0, [])


def test_root_may_lock_without_limit() -> None:
    """Root holds CAP_IPC_LOCK; others stop at RLIMIT_MEMLOCK."""
    machine = Machine(ram="64M", swap=0, kernel="6.18", arch="x86_64")
    for uid, fails in ((0, False), (1000, True)):
        process = machine.spawn(uid=uid)
        at = process.mmap(0, 16 << 20, RW, PRIVATE)
        if fails:
            with pytest.raises(OSError, match="Cannot allocate"):
                process.mlock(at, 16 << 20)
        else:
            assert process.mlock(at, 16 << 20) == 0
