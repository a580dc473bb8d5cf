"""A machine that is closed gives its memory back at once, and says so from then on."""

from __future__ import annotations

import gc
import resource

import pytest

import pyalloc as pa

MB = 1 << 20


def filled() -> tuple[pa.Machine, pa.Process]:
    """A machine with swap in use, one process that has ended and one that has not."""
    machine = pa.Machine(ram="64M", swap="64M", kernel="6.18", arch="x86_64", reserved="8M")
    first, process = machine.spawn("first"), machine.spawn("second")
    first.malloc(MB)
    first.exit(0)
    for _ in range(70):
        process.touch(process.malloc(MB), MB)
    return machine, process


def test_what_was_read_stays_and_calls_are_errors() -> None:
    """Nothing on a closed machine works but looking at what it had said."""
    machine, process = filled()
    maps, before = process.maps(), process.pages.table.counters()
    machine.close()
    machine.close()
    assert "rw-p" in str(maps)
    assert process.last_pages == before
    assert not process.alive
    for call in (machine.meminfo, machine.vmstat, machine.copy, lambda: machine.spawn("third")):
        with pytest.raises(pa.ArgumentError, match="this machine is closed"):
            call()
    for use in (
        lambda: process.malloc(10),
        lambda: process.free(16),
        lambda: process.touch(4096, 1),
        lambda: process.mmap(0, 4096, 3, 0x22),
        process.maps,
        process.fork,
    ):
        with pytest.raises((pa.ProcessKilled, pa.ArgumentError), match="closed"):
            use()
    assert repr(machine)
    assert repr(process)


def test_the_next_machine_is_as_new() -> None:
    """What a closed machine did cannot be seen in the one that has its memory."""
    gc.collect()
    texts = []
    for _ in range(3):
        with filled()[0] as machine:
            process = next(p for p in machine.processes.values() if p.alive)
            texts.append((str(machine.meminfo()), str(machine.vmstat()), str(process.smaps())))
    assert texts[0] == texts[1] == texts[2]


def test_an_error_inside_closes_it_too() -> None:
    """The ``with`` statement closes the machine however it is left."""
    with pytest.raises(ZeroDivisionError), filled()[0] as machine:
        raise ZeroDivisionError
    assert machine.closed


def test_closed_machines_do_not_pile_up() -> None:
    """Without Python's collector, too, a hundred of them need the memory of one."""
    with filled()[0]:
        pass
    gc.disable()
    try:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for _ in range(100):
            filled()[0].close()
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    finally:
        gc.enable()
    assert grown < 40_000  # kB; a hundred times the pages in use would be more than 100,000
