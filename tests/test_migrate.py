"""Who waits for swap on a machine with several processors is moved now and then."""

from __future__ import annotations

import numpy as np
import pytest

import pyalloc as pa
from pyalloc.kernel.abi import MAP, PROT

PAGE = 4096
PAGES = 12288
"""One and a half times the limit."""


def scanned(*, cpus: int) -> tuple[pa.Machine, pa.Process]:
    """Return a process that has gone over its memory in order three times, under 32 MB."""
    machine = pa.Machine(ram="1G", swap="1G", kernel="6.18", cpus=cpus, page_cluster=0)
    process = machine.spawn("one", cgroup=machine.cgroup("limit", memory_max="32M"))
    at = process.mmap(0, PAGES * PAGE, PROT.READ | PROT.WRITE, MAP.PRIVATE | MAP.ANONYMOUS)
    process.touch(at, PAGES * PAGE)
    for _ in range(3):
        process.touch_pages(at, np.arange(PAGES))
    return machine, process


def kept(machine: pa.Machine, process: pa.Process) -> int:
    """Slots in use whose page is in memory, and mapped."""
    ram = machine.ram.counters()
    return ram["slots"] - ram["slots_free"] - process.resident().swap


def test_one_processor_keeps_no_slot() -> None:
    """A write frees the slot of the page that was just read: nobody else has it."""
    machine, process = scanned(cpus=1)
    assert kept(machine, process) == 0
    machine.check()


def test_pages_left_in_a_batch_keep_theirs() -> None:
    """Of one in 12 ticks two pages, one on the way and one on the way back: 70 us are a page."""
    machine, process = scanned(cpus=2)
    in_memory = PAGES - process.resident().swap
    per_page = machine.clock / (3 * PAGES)
    expected = 2 * in_memory * per_page / (12 * 0.004)
    assert expected / 2 < kept(machine, process) < expected * 2
    machine.check()


def test_2_6_does_not() -> None:
    """It takes a page out of the swap cache whoever seems to use it."""
    machine = pa.Machine(ram="64M", swap="256M", kernel="2.6.18", cpus=2)
    assert "migrates" not in machine.ram.settings.rules


@pytest.mark.parametrize("cpus", [1, 2])
def test_the_same_every_time(cpus: int) -> None:
    """Without a pattern, but no chance either."""
    first, second = (scanned(cpus=cpus)[0].ram.counters() for _ in range(2))
    assert first == second
