"""A list of calls made at once does what the calls do one by one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

import pyalloc as pa

MODERN: Mapping[str, Any] = {"ram": "64M", "kernel": "6.18", "arch": "x86_64"}
OLD: Mapping[str, Any] = {"ram": "64M", "swap": "64M", "kernel": "2.6.18", "arch": "i386"}
MACHINES = {
    "6.18": (MODERN, {}),
    "2.6.18": (OLD, {}),
    "swapping": ({**MODERN, "ram": "12M", "swap": "64M"}, {}),
    "strict": ({**MODERN, "overcommit_memory": 2, "overcommit_ratio": 40}, {}),
    "little address space": (MODERN, {"rlimit_as": "20M"}),
    "jemalloc-like sizes": (MODERN, {"allocator": "first-fit"}),
}


def sizes_of(seed: int) -> list[int]:
    """Return sizes from nothing to some that are mapped, and some that nobody has."""
    rng = np.random.default_rng(seed)
    exponent = rng.integers(0, 19, 300)
    sizes = (rng.integers(1, 1 << 20, 300) >> exponent).tolist()
    return [*sizes, 0, 1 << 40, 5, 0, (1 << 64) - 1, 7]


def pair(name: str) -> tuple[pa.Process, pa.Process]:
    machine, process = MACHINES[name]
    one, other = (pa.Machine(**machine).spawn(uid=0, **process) for _ in range(2))
    return one, other


def same(one: pa.Process, other: pa.Process) -> None:
    assert one.alive == other.alive
    assert one.machine.clock == other.machine.clock
    assert str(one.machine.vmstat()) == str(other.machine.vmstat())
    if one.alive:
        assert str(one.smaps()) == str(other.smaps())
        assert one.pages.table.counters() == other.pages.table.counters()
        assert one.heap_statistics() == other.heap_statistics()
        one.machine.check()
        one.check()


@pytest.mark.parametrize("name", MACHINES)
@pytest.mark.parametrize("how", ["malloc", "fill"])
def test_a_list_is_as_many_calls(name: str, how: str) -> None:
    """Addresses, pages, heap and time come out the same, also where calls are refused."""
    lists, singles = pair(name)
    live = np.zeros(0, np.uint64)
    for seed in range(3):
        sizes = np.array(sizes_of(seed), np.uint64)
        got = getattr(lists, f"{how}_each")(sizes)
        assert got.tolist() == [getattr(singles, how)(size) for size in sizes.tolist()]
        assert not got.all()
        live = np.concatenate([live, got])
        goes = np.random.default_rng(seed).random(len(live)) < 0.6
        lists.free_each(live[goes])
        for address in live[goes].tolist():
            singles.free(address)
        live = live[~goes]
        same(lists, singles)
        assert lists.malloc(100) == singles.malloc(100)


@pytest.mark.parametrize("first", [1, 2, 3])
def test_locked_memory_is_there_already(first: int) -> None:
    """With mlockall of what is there, of what comes, and of both."""
    lists, singles = pair("6.18")
    for process in (lists, singles):
        process.mlockall(first)
    sizes = [100, 70_000, 1 << 20, 0, 5000]
    assert lists.fill_each(sizes).tolist() == [singles.fill(size) for size in sizes]
    assert lists.malloc_each(sizes).tolist() == [singles.malloc(size) for size in sizes]
    same(lists, singles)


def test_a_list_can_be_the_end_of_its_process() -> None:
    """The OOM killer comes at the same block."""
    machine = {**MODERN, "ram": "16M", "swap": 0, "overcommit_memory": 1}
    lists, singles = (pa.Machine(**machine).spawn() for _ in range(2))
    sizes = [300_000] * 200
    with pytest.raises(pa.ProcessKilled):
        lists.fill_each(sizes)
    with pytest.raises(pa.ProcessKilled):
        all(map(singles.fill, sizes))
    same(lists, singles)
    assert lists.last == singles.last
    for call in (lists.malloc_each, lists.fill_each, lists.free_each):
        with pytest.raises(pa.ProcessKilled):
            call([1])


def test_a_library_that_aborts_does_so_at_its_call() -> None:
    """What was freed before a double free is free."""
    process = pa.Machine(**MODERN).spawn()
    first, second, third = process.malloc_each([100, 100, 100]).tolist()
    with pytest.raises(pa.HeapAbort, match="double free"):
        process.free_each([first, second, second, third])
    assert not process.alive


def test_sizes_are_taken_as_registers_take_them() -> None:
    """Negative ones are huge, and a 32-bit program's are cut to 32 bits."""
    modern, old = pa.Machine(**MODERN).spawn(), pa.Machine(**OLD).spawn()
    assert modern.malloc_each([-1, 8]).tolist() == [0, modern.malloc(8) - 32]
    assert old.malloc_each([(1 << 32) + 8]).tolist() == [old.malloc(8) - 16]
    assert modern.fill_each([]).tolist() == []
    modern.free_each([])
    modern.free_each([0, 0])


def test_a_job_notes_what_comes_back_null() -> None:
    """Of a row of refusals the first is an event; all are counted."""

    def asks(job: pa.Job) -> Any:
        job.free_each(job.malloc_each([10, 20, 1 << 50, 1 << 50, 30]))
        assert job.fill_each([1 << 50]).tolist() == [0]
        yield 1.0

    said = {"machine": {"ram": "64M"}, "process": [{"name": "asks", "program": asks}]}
    found = pa.simulate(said)
    assert [event.kind for event in found.happened].count("refused") == 2
    assert found.outcomes[0].failed == 3
