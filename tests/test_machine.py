"""Machine and Process: the contract's calls, copies, and the end."""

from __future__ import annotations

import errno

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pyalloc.errors import ArgumentError, HeapAbort, MemoryFault, ProcessKilled
from pyalloc.kernel.abi import MADV, MAP, MREMAP, PROT
from pyalloc.machine import Machine

PAGE = 4096
RW = PROT.READ | PROT.WRITE
ANON = MAP.PRIVATE | MAP.ANONYMOUS


def modern(**settings: object) -> Machine:
    return Machine(**{"ram": "64M", "swap": "32M", "kernel": "6.18", "arch": "x86_64"} | settings)


def test_a_block_is_a_chunk_in_the_heap_and_shows_in_maps() -> None:
    process = modern().spawn()
    assert process.malloc(100) % 16 == 0
    assert "[heap]" in str(process.maps())
    assert process.usable_size(process.malloc(100)) == 104
    assert process.malloc(1 << 62) == 0


def test_sizes_out_of_range_are_null_or_an_error_and_lose_nothing() -> None:
    process = modern().spawn()
    assert process.malloc(0)
    assert process.malloc(1 << 63) == 0
    assert process.calloc(1 << 40, 1 << 40) == 0
    assert process.malloc(-1) == 0  # SIZE_MAX
    assert process.malloc(10)


def test_freeing_twice_aborts_with_the_library_s_words_and_the_process_is_dead() -> None:
    process = modern().spawn()
    block = process.malloc(24)
    process.free(block)
    with pytest.raises(HeapAbort, match="double free detected in tcache 2"):
        process.free(block)
    assert not process.alive
    assert process.killed_by == "SIGABRT"
    with pytest.raises(ProcessKilled, match="SIGABRT"):
        process.malloc(1)


def test_untouched_memory_is_not_resident() -> None:
    machine = modern()
    process = machine.spawn()
    at = process.mmap(0, 16 * PAGE, RW, ANON)
    before = process.pages.table.counters()["anon"]
    process.touch(at, 16 * PAGE, write=False)
    assert process.pages.table.counters()["anon"] == before
    process.touch(at + PAGE, PAGE + 1)
    assert process.pages.table.counters()["anon"] == before + 2


def test_an_access_the_hardware_refuses_is_a_signal() -> None:
    process = modern().spawn()
    at = process.mmap(0, PAGE, PROT.READ, ANON)
    with pytest.raises(MemoryFault) as fault:
        process.touch(at, 1)
    assert (fault.value.signal, fault.value.address) == (11, at)


def test_past_the_end_of_a_file_is_a_bus_error() -> None:
    machine = modern()
    process = machine.spawn()
    file = machine.file("data", size=PAGE + 1)
    fd = process.open(file, "r")
    at = process.mmap(0, 4 * PAGE, PROT.READ, MAP.PRIVATE, fd)
    process.touch(at, 2 * PAGE, write=False)
    with pytest.raises(MemoryFault) as fault:
        process.touch(at + 2 * PAGE, 1, write=False)
    assert fault.value.signal == 7
    assert file.cached == 2


def test_an_unknown_descriptor_is_ebadf() -> None:
    process = modern().spawn()
    with pytest.raises(OSError, match="Bad file descriptor") as error:
        process.mmap(0, PAGE, RW, MAP.SHARED, 77)
    assert error.value.errno == errno.EBADF


def test_memory_that_is_gone_is_given_by_killing_somebody() -> None:
    machine = modern(ram="16M", swap=0)
    small, big = machine.spawn("small"), machine.spawn("big")
    at = small.mmap(0, 1 << 20, RW, ANON)
    small.touch(at, 1 << 20)
    with pytest.raises(OSError, match="Cannot allocate memory"):
        big.mmap(0, 17 << 20, RW, ANON)
    at = big.mmap(0, 16 << 20, RW, ANON)
    with pytest.raises(ProcessKilled, match="oom"):
        big.touch(at, 16 << 20)
    assert (big.alive, big.killed_by, small.alive) == (False, "oom", True)
    event = machine.oom_events[0]
    assert event.victim == big.pid
    assert "Out of memory: Killed process" in machine.dmesg()
    machine.check()


def test_a_cgroup_is_a_machine_within_the_machine() -> None:
    machine = modern()
    group = machine.cgroup("web", memory_max="4M", swap_max=0)
    inside, outside = machine.spawn("in", cgroup=group), machine.spawn("out")
    at = outside.mmap(0, 8 << 20, RW, ANON)
    outside.touch(at, 8 << 20)
    at = inside.mmap(0, 8 << 20, RW, ANON)
    with pytest.raises(ProcessKilled):
        inside.touch(at, 8 << 20)
    assert "Memory cgroup out of memory" in machine.dmesg()
    assert machine.oom_events[0].cgroup == "/web"
    assert group.memory_peak == 4 << 20
    assert group.memory_current == 0


def test_rlimit_as_makes_malloc_return_null() -> None:
    process = modern().spawn(rlimit_as="8M")
    blocks = 0
    while process.malloc(1 << 20):
        blocks += 1
    assert 5 <= blocks <= 7


def test_strict_overcommit_refuses_beyond_the_commit_limit() -> None:
    machine = modern(overcommit_memory=2, overcommit_ratio=50)
    process = machine.spawn(uid=0)
    with pytest.raises(OSError, match="Cannot allocate memory"):
        process.mmap(0, 65 << 20, RW, ANON)
    assert machine.committed <= machine.commit_limit()
    while process.malloc(100_000):
        pass
    assert machine.committed <= machine.commit_limit()


def test_unknown_names_are_answered_with_near_ones() -> None:
    with pytest.raises(ArgumentError, match=r"glibc-2\.36"):
        modern().spawn(allocator="glibc-2.366")
    with pytest.raises(ArgumentError, match="kernels are"):
        Machine(kernel="9.9")
    with pytest.raises(ArgumentError, match="tunable 'nonsense'"):
        modern().spawn(tunables={"nonsense": 1})


def test_the_texts_are_mappings_of_their_fields() -> None:
    machine = modern()
    process = machine.spawn()
    at = process.mmap(0, 10 * PAGE, RW, ANON)
    process.touch(at, 10 * PAGE)
    assert process.status()["RssAnon"] == 40
    assert process.statm()["resident"] == 10
    area = next(a for a in process.smaps().values() if a["Size"] == 40)
    assert (area["Rss"], area["Pss"], area["Private_Dirty"]) == (40, 40, 40)
    child = process.fork()
    area = next(a for a in child.smaps().values() if a["Size"] == 40)
    assert (area["Rss"], area["Pss"], area["Shared_Dirty"]) == (40, 20, 40)
    assert machine.meminfo()["MemTotal"] == 64 * 1024
    assert machine.vmstat()["pgfault"] == 10
    assert list(machine.ps()) == [str(process.pid), str(child.pid)]


def test_a_child_shares_until_it_writes() -> None:
    machine = modern()
    parent = machine.spawn()
    at = parent.mmap(0, 64 * PAGE, RW, ANON)
    parent.touch(at, 64 * PAGE)
    used = machine.ram.counters()["anon_mapped"]
    child = parent.fork()
    assert machine.ram.counters()["anon_mapped"] == used
    child.touch(at, 10 * PAGE)
    assert machine.ram.counters()["anon_mapped"] == used + 10
    assert child.malloc(77) == parent.malloc(77)
    machine.check()
    parent.exit()
    machine.check()


class TwinMachines(RuleBasedStateMachine):
    """Whatever is done to a machine and to its copy has the same result on both."""

    def __init__(self) -> None:
        super().__init__()
        self.one = modern(ram="8M", swap="4M")
        self.one.cgroup("g", memory_max="3M")
        self.one.spawn("first")
        self.one.spawn("second", cgroup=self.one.cgroups["/g"], allocator="first-fit")
        self.two = self.one.copy()
        self.blocks: list[tuple[int, int]] = []
        self.areas: list[tuple[int, int, int]] = []

    def both(self, pid: int, call: str, *args: object) -> object:
        results = []
        for machine in (self.one, self.two):
            try:
                results.append(getattr(machine.processes[pid], call)(*args))
            except (OSError, MemoryFault, ProcessKilled, HeapAbort) as error:
                results.append(repr(error))
        assert results[0] == results[1]
        return results[0]

    pids = st.sampled_from([1001, 1002])

    @rule(pid=pids, size=st.one_of(st.integers(0, 3000), st.integers(0, 1 << 20)))
    def malloc(self, pid: int, size: int) -> None:
        address = self.both(pid, "malloc", size)
        if isinstance(address, int) and address:
            self.blocks.append((pid, address))

    @rule(choice=st.integers(0, 1 << 16))
    def free(self, choice: int) -> None:
        if self.blocks:
            pid, address = self.blocks.pop(choice % len(self.blocks))
            self.both(pid, "free", address)

    @rule(pid=pids, pages=st.integers(1, 400))
    def mmap(self, pid: int, pages: int) -> None:
        address = self.both(pid, "mmap", 0, pages * PAGE, RW, ANON)
        if isinstance(address, int):
            self.areas.append((pid, address, pages))

    @rule(choice=st.integers(0, 1 << 16), part=st.integers(1, 400), write=st.booleans())
    def touch(self, choice: int, part: int, write: bool) -> None:
        if self.areas:
            pid, address, pages = self.areas[choice % len(self.areas)]
            self.both(pid, "touch", address, min(part, pages) * PAGE, write)

    @rule(choice=st.integers(0, 1 << 16), what=st.sampled_from(["munmap", "drop", "lock", "move"]))
    def change(self, choice: int, what: str) -> None:
        if not self.areas:
            return
        pid, address, pages = self.areas.pop(choice % len(self.areas))
        half = -(-pages // 2) * PAGE
        if what == "munmap":
            self.both(pid, "munmap", address, half)
        elif what == "drop":
            self.both(pid, "madvise", address, half, MADV.DONTNEED)
        elif what == "lock":
            self.both(pid, "mlock", address, half)
        else:
            self.both(pid, "mremap", address, half, 2 * half, MREMAP.MAYMOVE)

    @rule()
    def copy_again(self) -> None:
        self.two = self.one.copy()

    @invariant()
    def everything_holds(self) -> None:
        self.one.check()
        self.two.check()
        for pid, process in self.one.processes.items():
            if process.alive:
                assert str(process.maps()) == str(self.two.processes[pid].maps())
                assert str(process.smaps()) == str(self.two.processes[pid].smaps())
                assert str(process.status()) == str(self.two.processes[pid].status())
        assert str(self.one.meminfo()) == str(self.two.meminfo())
        assert self.one.dmesg() == self.two.dmesg()


TwinMachines.TestCase.settings = settings(max_examples=25, stateful_step_count=40, deadline=None)
test_twins = TwinMachines.TestCase


def test_what_is_left_of_a_dead_process_says_so() -> None:
    """Its page table and its heap refuse calls in a line instead of reading freed memory."""
    machine = Machine(ram="32M", swap=0, kernel="6.12", arch="x86_64")
    killed = machine.spawn(allocator="glibc-2.36")
    killed.touch(killed.mmap(0, 20 << 20, 3, 0x22), 20 << 20)
    at = killed.mmap(0, 24 << 20, 3, 0x22)
    with pytest.raises(ProcessKilled):
        killed.touch(at, 24 << 20)
    with pytest.raises(ArgumentError, match="has ended"):
        killed.pages.table.counters()
    killed.heap.heap.release()
    with pytest.raises(ArgumentError, match="heap is gone"):
        killed.heap.heap.statistics()
    twin = machine.copy().ended
    assert all(not process.alive for process in twin)


def test_the_aligned_calls_are_memalign_with_an_alignment_of_their_own() -> None:
    """posix_memalign returns the address here, valloc and pvalloc a page's."""
    calls = [
        ("memalign", (256, 1000), 256),
        ("posix_memalign", (256, 1000), 256),
        ("aligned_alloc", (256, 1000), 256),
        ("valloc", (1000,), PAGE),
        ("pvalloc", (1000,), PAGE),
    ]
    for name, arguments, alignment in calls:
        process, other = modern().spawn(), modern().spawn()
        size = PAGE if name == "pvalloc" else 1000
        address = getattr(process, name)(*arguments)
        assert address == other.memalign(alignment, size)
        assert address % alignment == 0
        assert process.usable_size(address) == other.usable_size(address) >= size
    assert modern().spawn().posix_memalign(24, 1000) == 0  # EINVAL: no power of two


@pytest.mark.parametrize("kernel", ["2.6.18", "6.12"])
def test_a_process_that_exits_gives_all_back(kernel: str) -> None:
    """Promises, pages and page tables; what it shared stays as long as another maps it."""
    machine = Machine(ram="64M", kernel=kernel, arch="x86_64", overcommit_memory=2)
    other = machine.spawn()
    names = ("MemFree", "Committed_AS", "PageTables", "Mapped")
    before = {name: machine.meminfo()[name] for name in names}
    process = machine.spawn()
    for flags in (ANON, ANON, 0x21):
        at = process.mmap(0, 64 * PAGE, RW, flags)
        process.touch(at, 64 * PAGE)
    process.malloc(100_000)
    child = process.fork()
    assert machine.meminfo()["Committed_AS"] > before["Committed_AS"]
    process.exit()
    child.touch(at, 64 * PAGE, write=False)
    child.exit()
    machine.advance(1)
    assert {name: machine.meminfo()[name] for name in names} == before
    assert other.alive
    machine.check()
