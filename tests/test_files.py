"""Files of a machine and its page cache, as an administrator sees them."""

from __future__ import annotations

import pytest

import pyalloc as pa

PAGE = 4096
RW, SHARED = 3, 1


@pytest.fixture
def machine() -> pa.Machine:
    return pa.Machine(ram="64M", kernel="6.12", arch="x86_64")


def test_a_file_shorter_than_its_mapping_ends_in_sigbus(machine: pa.Machine) -> None:
    """Pages past the new end are dropped, mapped or not; a longer file has its pages again."""
    file = machine.file("/data", 8 * PAGE)
    process = machine.spawn()
    at = process.mmap(0, 8 * PAGE, RW, SHARED, process.open(file), 0)
    process.touch(at, 8 * PAGE)
    file.truncate(3 * PAGE + 1)
    assert (file.size, file.cached) == (3 * PAGE + 1, 4)
    process.touch(at, 4 * PAGE)
    with pytest.raises(pa.MemoryFault) as caught:
        process.touch(at, 8 * PAGE)
    assert (caught.value.signal, caught.value.address) == (7, at + 4 * PAGE)
    with pytest.raises(pa.ArgumentError, match="must not be negative"):
        file.truncate(-1)
    assert file.size == 3 * PAGE + 1


def test_only_clean_pages_that_nobody_maps_are_forgotten(machine: pa.Machine) -> None:
    """Dirty ones are once they are written back, mapped ones once they are no longer."""
    file, other = machine.file("/data", 8 * PAGE), machine.file("/other", 4 * PAGE)
    process = machine.spawn()
    at = process.mmap(0, 2 * PAGE, 1, SHARED, process.open(file), 0)
    process.touch(at, 2 * PAGE, write=False)
    process.write(3, 3 * PAGE, offset=5 * PAGE)
    file.drop_cache()
    assert (file.cached, other.cached) == (5, 4)
    file.sync()
    assert machine.meminfo()["Dirty"] == 0
    file.drop_cache()
    assert file.cached == 2
    machine.drop_caches()
    assert (file.cached, other.cached) == (2, 0)
    process.munmap(at, 2 * PAGE)
    machine.drop_caches()
    assert file.cached == 0
    assert process.read(3, 8 * PAGE) == 8 * PAGE
    assert file.cached == 8
    machine.check()


def test_nothing_is_read_from_the_disk_for_a_hole(machine: pa.Machine) -> None:
    """Neither of what a file grew by, nor where it was punched, nor in a copy of the machine."""
    file, writer = machine.file("/data", 8 * PAGE), machine.spawn()
    file.truncate(24 * PAGE)
    fd = writer.open(file)
    writer.write(fd, 2 * PAGE, offset=20 * PAGE)
    at = writer.mmap(0, 24 * PAGE, RW, SHARED, fd, 0)
    writer.madvise(at + 2 * PAGE, 2 * PAGE, 9)
    writer.munmap(at, 24 * PAGE)
    file.sync()
    for one in (machine, machine.copy()):
        one.drop_caches()
        before = one.ram.counters()["file_read"]
        one.processes[writer.pid].read(fd, 24 * PAGE)
        assert one.ram.counters()["file_read"] - before == 6 + 2


def test_what_a_cgroup_has_in_swap_is_told(machine: pa.Machine) -> None:
    group = machine.cgroup("small", memory_max="2M")
    assert group.swap_current == 0
    process = machine.spawn(cgroup=group)
    process.touch(process.mmap(0, 4 << 20, RW, 0x22), 4 << 20)
    assert group.swap_current == process.status()["VmSwap"] * 1024 > 2 << 20


def test_zoneinfo_adds_up_to_the_machine(machine: pa.Machine) -> None:
    zones = machine.zoneinfo()
    assert sum(zone["managed"] for zone in zones.values()) * 4 == machine.meminfo()["MemTotal"]
    for zone in zones.values():
        assert zone["min"] <= zone["low"] <= zone["high"]


def test_a_cgroup_pays_for_the_buffer_heads_of_what_it_writes() -> None:
    """104 bytes for each page that was written to, while it is cached; none for what is read."""
    machine = pa.Machine(ram="64M", swap=0, kernel="6.18", arch="x86_64")
    group = machine.cgroup("writers", memory_max="32M")
    process = machine.spawn("writer", cgroup=group)
    file = machine.file("data", 8 << 20, cached=False)
    fd = process.open(file)
    empty = group.stat()["kernel"]
    process.read(fd, 8 << 20)
    before = group.stat()["kernel"]
    process.write(fd, 4 << 20, 2 << 20)
    assert group.stat()["kernel"] == before + -(-1024 // 39) * 4096
    machine.check()
    copy = machine.copy()
    process.ftruncate(fd, 0)
    assert group.stat()["kernel"] == empty
    machine.check()
    copy.check()


def of_nodes(count: int) -> int:
    """Return the bytes of kernel memory for up to 64 nodes and the one above, by whole pages."""
    return -(-(count + (count > 1)) * 584 // 4096) * 4096


def test_a_cgroup_pays_for_the_tree_of_the_files_it_reads() -> None:
    """584 bytes for 64 pages, as long as one of them, or a trace of one, is there."""
    machine = pa.Machine(ram="64M", swap=0, kernel="6.18", arch="x86_64", read_ahead="4K")
    group = machine.cgroup("readers", memory_max="1M")
    process = machine.spawn("reader", cgroup=group)
    fd = process.open(machine.file("data", 16 << 20, cached=False))
    empty = group.stat()["kernel"]
    for block in range(32):
        process.read(fd, 4096, block * 64 * 4096)
        process.read(fd, 4096, (block * 64 + 63) * 4096)
        assert group.stat()["kernel"] == empty + of_nodes(block + 1)
    for page in range(1024):  # more than there is room for
        process.read(fd, 4096, page * 4096)
    assert group.stat()["file"] < 1 << 20
    assert group.stat()["kernel"] == empty + of_nodes(32)
    machine.check()
    copy = machine.copy()
    process.ftruncate(fd, 1 << 20)
    assert group.stat()["kernel"] == empty + of_nodes(4)
    process.ftruncate(fd, 0)
    assert group.stat()["kernel"] == empty
    copy.check()


def test_a_large_folio_takes_the_place_of_the_nodes_below_it() -> None:
    """One of 64 pages or more is an entry of the level above, whatever was there before."""
    machine = pa.Machine(ram="128M", swap=0, kernel="6.18", arch="x86_64", read_ahead="8M")
    group = machine.cgroup("readers", memory_max="32M")
    process = machine.spawn("reader", cgroup=group)
    fd = process.open(machine.file("data", 48 << 20, cached=False))
    forwards = range(0, 48 << 20, 4096)
    kernel = [group.stat()["kernel"]]
    for order in (forwards, reversed(forwards), forwards):
        for at in order:
            process.read(fd, 4096, at)
        kernel.append(group.stat()["kernel"])
    assert kernel[1] < kernel[0] + of_nodes(16)
    assert kernel[2] > kernel[0] + of_nodes(60)  # backwards it goes by single pages
    assert kernel[3] <= kernel[2] - of_nodes(30)
    machine.check()
