"""How much of a file is read ahead: page by page what Linux 6.18 read of the same accesses."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from pyalloc.machine import Machine, Process

PAGE = 4096
FILE_PAGES = 20480

MEASURED = [
    # read_ahead_kb, pages, pattern, seed; pages in the cache after two passes (ext4, 6.18)
    (128, 9011, "rand", 7, 8922),
    (1024, 9011, "rand", 5, 9272),
    (8192, 9011, "rand", 6, 12512),
    (8192, 9011, "hotcold", 5, 7291),
    (8192, 6000, "zipf", 8, 3238),
]


def order_of(pattern: str, pages: int, chance: np.random.Generator) -> npt.NDArray[np.int64]:
    """Return the pages that one pass reads."""
    if pattern == "rand":
        return chance.integers(0, pages, pages)
    if pattern == "hotcold":
        hot = pages // 5
        is_hot = chance.random(pages) < 0.9
        spots = chance.integers(0, hot, pages), chance.integers(hot, pages, pages)
        return np.where(is_hot, *spots)
    weight = 1 / np.arange(1, pages + 1)
    places = np.random.default_rng(7).permutation(pages)
    return np.asarray(places[chance.choice(pages, pages, p=weight / weight.sum())])


def reader(read_ahead: str, memory_max: str | None = None) -> tuple[Process, int]:
    """Return a process with a file of 80 MB open, none of which is cached."""
    machine = Machine(ram="1G", swap=0, kernel="6.18", arch="x86_64", cpus=2, read_ahead=read_ahead)
    group = machine.cgroup("reader", memory_max=memory_max) if memory_max else None
    process = machine.spawn("reader", cgroup=group)
    return process, process.open(machine.file("data", FILE_PAGES * PAGE, cached=False))


def cached(process: Process) -> int:
    return process.machine.ram.counters()["file_read"]


@pytest.mark.parametrize(("window", "pages", "pattern", "seed", "read"), MEASURED)
def test_random_reads_read_what_the_kernel_reads(
    window: int, pages: int, pattern: str, seed: int, read: int
) -> None:
    """To the page: windows grow where the kernel, counting cached neighbours, sees a stream."""
    process, fd = reader(f"{window}K")
    chance = np.random.default_rng(seed)
    for _ in range(2):
        for page in order_of(pattern, pages, chance).tolist():
            process.read(fd, PAGE, page * PAGE)
    assert cached(process) == read
    process.machine.check()


def test_a_stream_is_read_in_windows_that_end_at_folios() -> None:
    """4, 16, 28 and 16 pages, then whole folios: as traced on Linux 6.18 (1 MB at most)."""
    process, fd = reader("1M")
    ends = {cached(process)}
    for page in range(1024):
        process.read(fd, PAGE, page * PAGE)
        ends.add(cached(process))
    assert sorted(ends) == [0, 4, 20, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1280]


def test_a_folio_is_reclaimed_whole() -> None:
    """30.4 MB read again and again in 32 MB: the last folio does not fit, and all goes with it."""
    process, fd = reader("1M", "32M")
    for _ in range(2):
        before = cached(process)
        for page in range(7782):
            process.read(fd, PAGE, page * PAGE)
    assert cached(process) - before == 8192


def test_reading_one_folio_twice_in_a_row_is_one_look_at_it() -> None:
    """Reads of a folio activate it when they come back from elsewhere, not one after the other."""
    process, fd = reader("1M")
    for page in range(600):
        process.read(fd, PAGE, page * PAGE)
    assert process.machine.ram.counters()["active_file"] == 0
    process.read(fd, PAGE, 300 * PAGE)
    assert process.machine.ram.counters()["active_file"] == 128
    process.machine.check()


def test_reclaim_knows_lists_as_of_two_seconds_ago() -> None:
    """An active list nobody has counted yet is not too long: nothing is made inactive."""
    process, fd = reader("1M", "32M")
    machine = process.machine
    for page in [*range(7424), *range(7424)]:
        process.read(fd, PAGE, page * PAGE)
    active = machine.ram.counters()["active_file"]
    for page in range(10000, 10400, 2):
        process.read(fd, PAGE, page * PAGE)
    assert machine.ram.counters()["deactivated"] == 0
    assert machine.ram.counters()["active_file"] == active > 7000
    machine.cgroups["/reader"].stat()
    for page in range(11000, 11400, 2):
        process.read(fd, PAGE, page * PAGE)
    assert machine.ram.counters()["deactivated"] > 0
