"""What a machine shows of its memory, and what its administrator may set."""

from __future__ import annotations

import errno
import platform
import re
from pathlib import Path

import pytest

import pyalloc as pa
from pyalloc.kernel.boot import boot_lines
from pyalloc.kernel.oomdaemons import EarlyOom, SystemdOomd
from pyalloc.kernel.profiles import kernel_profile

PAGE = 4096
RW = pa.PROT.READ | pa.PROT.WRITE
SHARED = pa.MAP.SHARED


def free_pages(blocks: list[int]) -> int:
    return sum(count << order for order, count in enumerate(blocks))


@pytest.mark.parametrize("kernel", ["2.6.11", "2.6.18", "6.12"])
def test_buddyinfo_and_meminfo_count_the_same_free_pages(kernel: str) -> None:
    """The blocks of all zones add up to MemFree, also when memory is taken and freed."""
    m = pa.Machine(ram="64M", swap="64M", kernel=kernel, arch="i386")
    p = m.spawn("a")
    for n in (1, 37, 5000):
        a = p.mmap(0, n * PAGE, RW, pa.MAP.PRIVATE | pa.MAP.ANONYMOUS)
        p.touch(a, n * PAGE)
        found = sum(free_pages(blocks) for blocks in m.buddyinfo().values())
        assert found * 4 == m.meminfo()["MemFree"]


def test_swaps_counts_what_meminfo_counts() -> None:
    """The one area's size and use are SwapTotal, and SwapTotal less SwapFree."""
    m = pa.Machine(ram="32M", swap="64M", kernel="6.12", arch="x86_64")
    p = m.spawn("a")
    p.touch(p.mmap(0, 48 << 20, RW, pa.MAP.PRIVATE | pa.MAP.ANONYMOUS), 48 << 20)
    info, (area,) = m.meminfo(), m.swaps().values()
    assert area == (info["SwapTotal"], info["SwapTotal"] - info["SwapFree"])
    assert area[1] > 16 << 10


def test_free_virtual_memory_is_the_article_s_sum() -> None:
    """It is MemFree + Buffers + Cached + SwapFree of the same moment."""
    m = pa.Machine(ram="64M", swap="64M", kernel="2.6.18", arch="i386")
    info = m.meminfo()
    wanted = info["MemFree"] + info["Buffers"] + info["Cached"] + info["SwapFree"]
    assert m.free_virtual_memory() == wanted == m.free_memory()["free virtual memory"]
    assert m.free_memory()["AVPHYS"] == info["MemFree"]


def test_the_boot_line_is_the_article_s() -> None:
    """256 MB without 2123 pages are 255716k of 262080k."""
    first = next(boot_lines(kernel_profile("2.6.11", "i386"), 63986))
    assert first == (
        "Memory: 255716k/262080k available (2083k kernel code, 5772k reserved, 637k data,"
        " 172k init, 0k highmem)"
    )


@pytest.mark.parametrize("kernel", ["2.6.11", "2.6.18", "6.12"])
def test_the_log_begins_with_the_memory_there_is(kernel: str) -> None:
    """The first line of dmesg() is the boot's, and what it calls available is near MemTotal."""
    m = pa.Machine(ram="256M", kernel=kernel, arch="i386")
    first = m.dmesg().splitlines()[0]
    assert first.startswith("Memory: ")
    available = int(first.split()[1].split("/")[0].rstrip("kK"))
    assert 0 < m.meminfo()["MemTotal"] - available < 4096


def test_pages_of_a_memfd_are_promised_as_they_come() -> None:
    """Committed_AS grows by each page touched, and strict overcommit ends it with SIGBUS."""
    m = pa.Machine(ram="64M", swap=0, kernel="6.12", arch="x86_64")
    p = m.spawn("a", uid=1000)
    fd = p.memfd_create("x")
    p.ftruncate(fd, 128 << 20)
    a = p.mmap(0, 128 << 20, RW, SHARED, fd)
    before = m.meminfo()["Committed_AS"]
    p.touch(a, 10 * PAGE)
    assert m.meminfo()["Committed_AS"] - before == 40
    m.sysctl["vm.overcommit_memory"] = 2
    with pytest.raises(pa.MemoryFault) as fault:
        p.touch(a, 128 << 20)
    assert fault.value.signal == 7
    with pytest.raises(OSError, match="space") as refused:
        p.write(fd, PAGE, 100 << 20)
    assert refused.value.errno == errno.ENOSPC


def test_ratio_and_kbytes_exclude_each_other() -> None:
    """Writing vm.overcommit_kbytes sets the ratio to 0, and the limit follows."""
    m = pa.Machine(ram="64M", swap=0, kernel="6.12", arch="x86_64")
    m.sysctl["vm.overcommit_kbytes"] = 1000
    assert m.sysctl["vm.overcommit_ratio"] == 0
    assert m.meminfo()["CommitLimit"] == 1000
    m.sysctl["vm.overcommit_ratio"] = 25
    assert m.sysctl["vm.overcommit_kbytes"] == 0
    assert m.meminfo()["CommitLimit"] == 16 << 10


@pytest.mark.parametrize(
    ("name", "value"),
    [("vm.swapiness", 1), ("vm.swappiness", 201), ("vm.panic_on_oom", True), ("vm.laptop", 1)],
)
def test_a_sysctl_that_is_not_there_or_not_so_is_refused(name: str, value: int) -> None:
    """An unknown name, a value outside the domain and a value of another kind are errors."""
    m = pa.Machine(ram="64M", swap=0, kernel="6.12", arch="x86_64")
    with pytest.raises(pa.PyallocError, match=r"vm\."):
        m.sysctl[name] = value


def eater(m: pa.Machine, name: str, size: int, cgroup: pa.Cgroup | None = None) -> pa.Process:
    p = m.spawn(name, cgroup=cgroup)
    p.touch(p.mmap(0, size, RW, pa.MAP.PRIVATE | pa.MAP.ANONYMOUS), size)
    return p


def test_whoever_asks_dies_if_the_sysctl_says_so() -> None:
    """vm.oom_kill_allocating_task kills the small process that asked, not the big one."""
    m = pa.Machine(ram="64M", swap=0, kernel="6.12", sysctl={"vm.oom_kill_allocating_task": 1})
    big = eater(m, "big", 50 << 20)
    with pytest.raises(pa.ProcessKilled):
        eater(m, "small", 20 << 20)
    assert big.alive
    assert "Out of memory (oom_kill_allocating_task): Killed process" in m.dmesg()


@pytest.mark.parametrize(("value", "limited"), [(1, False), (2, False), (2, True)])
def test_the_kernel_panics_if_it_shall(value: int, limited: bool) -> None:
    """vm.panic_on_oom panics for the machine, and with 2 for a cgroup, too."""
    m = pa.Machine(
        ram="64M", swap=0, kernel="6.12", overcommit_memory=1, sysctl={"vm.panic_on_oom": value}
    )
    group = m.cgroup("g", "16M") if limited else None
    with pytest.raises(pa.KernelPanic, match="panic_on_oom"):
        eater(m, "a", 80 << 20, group)
    assert "Kernel panic - not syncing: Out of memory: " in m.dmesg()


def test_a_cgroup_s_limit_is_no_reason_to_panic() -> None:
    """With vm.panic_on_oom = 1 a full cgroup still only loses its process."""
    m = pa.Machine(
        ram="64M", swap=0, kernel="6.12", overcommit_memory=1, sysctl={"vm.panic_on_oom": 1}
    )
    with pytest.raises(pa.ProcessKilled):
        eater(m, "a", 80 << 20, m.cgroup("g", "16M"))


def test_a_group_dies_as_one() -> None:
    """memory.oom.group takes everybody of the cgroup but those exempt, and nobody else."""
    m = pa.Machine(ram="256M", swap=0, kernel="6.12")
    top = m.cgroup("top", "32M")
    job, other = m.cgroup("job", parent=top, oom_group=True), m.cgroup("other", parent=top)
    small, exempt = eater(m, "small", 1 << 20, job), eater(m, "exempt", 1 << 20, job)
    exempt.oom_score_adj = -1000
    bystander = eater(m, "bystander", 1 << 20, other)
    with pytest.raises(pa.ProcessKilled):
        eater(m, "big", 40 << 20, job)
    assert not small.alive
    assert exempt.alive
    assert bystander.alive
    assert len(m.oom_events[0].killed) == 2
    assert m.vmstat()["oom_kill"] == 3  # the kernel kills the victim once more with its group
    assert "Tasks in /top/job are going to be killed due to memory.oom.group set" in m.dmesg()


def test_memory_high_slows_and_does_not_kill() -> None:
    """Without swap, what is taken beyond memory.high costs time, more the further beyond."""
    took = []
    for high in ("max", "24M", "16M"):
        m = pa.Machine(ram="256M", swap=0, kernel="6.12")
        assert eater(m, "a", 32 << 20, m.cgroup("g", memory_high=high)).alive
        took.append(m.clock)
    assert took[0] * 10 < took[1] < took[2]


@pytest.mark.parametrize("kernel", ["2.6.11", "2.6.18", "6.12"])
def test_the_last_step_of_the_trail_is_the_score(kernel: str) -> None:
    """Each candidate's steps end in the points it was judged by."""
    tasks = [
        pa.Task(
            pid,
            "t",
            uid=pid % 3,
            total_vm=pid * 97 % 1013,
            rss=pid * 31 % 503,
            swapents=pid % 7,
            nice=pid % 5 - 2,
            cpu_time=pid % 4 * 100.0,
            run_time=pid % 6 * 5000.0,
            oom_adj=pid % 9 - 4,
            oom_score_adj=pid % 11 - 5,
            children=(pid + 1,) if pid % 13 == 0 else (),
        )
        for pid in range(2, 300)
    ]
    verdict = pa.oom_policy(kernel).choose(tasks, 100000)
    for pid, score in verdict.scores.items():
        assert score == (verdict.terms[pid][-1].points if verdict.terms[pid] else None)


def test_earlyoom_kills_by_oom_score_and_breaks_ties_by_residence() -> None:
    """The score counts in thousandths, so that of near equals the more resident one dies."""
    swapped = pa.Task(10, "swapped", uid=1, total_vm=9, rss=100, swapents=101)
    resident = pa.Task(11, "resident", uid=1, total_vm=9, rss=200)
    exempt = pa.Task(12, "exempt", uid=1, total_vm=9, rss=900, oom_score_adj=-1000)
    policy, tasks = pa.oom_policy("earlyoom"), [swapped, resident, exempt]
    assert policy.choose(tasks, 1_000_000).victim == resident
    assert policy.choose(tasks, 300).victim == swapped
    assert policy.choose([exempt], 300).victim is None


def test_earlyoom_heeds_names() -> None:
    """A preferred name is worth 300 points, an avoided one costs them."""
    tasks = [pa.Task(10, "chrome", rss=10, total_vm=9), pa.Task(11, "sshd", rss=200, total_vm=9)]
    assert EarlyOom(prefer="^chrome$").choose(tasks, 1000).victim == tasks[0]
    assert EarlyOom(avoid="ssh").choose(tasks, 1000).victim == tasks[0]
    assert EarlyOom().choose(tasks, 1000).victim == tasks[1]


def test_systemd_oomd_kills_the_whole_cgroup_that_swaps_most() -> None:
    """On a machine, all processes of it die and the largest process lives."""
    m = pa.Machine(ram="64M", swap="32M", kernel="6.12", policy="systemd-oomd")
    swapping, resident = m.cgroup("swapping"), m.cgroup("resident")
    one, two = eater(m, "one", 20 << 20, swapping), eater(m, "two", 20 << 20, swapping)
    other = eater(m, "other", 10 << 20, resident)
    p = eater(m, "p", 50 << 20)
    assert not one.alive
    assert not two.alive
    assert other.alive
    assert p.alive


def test_systemd_oomd_omits_and_avoids() -> None:
    """An omitted cgroup is never chosen, an avoided one only if there is no other."""
    tasks = [
        pa.Task(10, "a", rss=1, swapents=9, cgroup="/a"),
        pa.Task(11, "b", rss=1, swapents=5, cgroup="/b"),
    ]
    assert SystemdOomd(avoid=("/a",)).choose(tasks, 1000).victim == tasks[1]
    assert SystemdOomd(avoid=("/a",), omit=("/b",)).choose(tasks, 1000).victim == tasks[0]
    assert SystemdOomd(omit=("/a", "/b")).choose(tasks, 1000).victim is None


def test_a_full_cgroup_of_unkillables_waits_for_ever() -> None:
    """Linux neither panics nor kills others: the fault is tried again, and goes on with room."""
    m = pa.Machine(ram="256M", swap=0, kernel="6.12")
    group = m.cgroup("g", "16M")
    other = eater(m, "other", 1 << 20)
    p = m.spawn("a", cgroup=group, oom_score_adj=-1000)
    at = p.mmap(0, 32 << 20, 3, 0x22)
    with pytest.raises(pa.EndlessFault, match=r"/g is full .* raise its memory_max") as stuck:
        p.touch(at, 32 << 20)
    assert isinstance(stuck.value, MemoryError)
    assert p.alive
    assert other.alive
    assert "Out of memory and no killable processes..." in m.dmesg()
    assert "Huh VM_FAULT_OOM leaked out to the #PF handler. Retrying PF" in m.dmesg()
    assert "panic" not in m.dmesg()
    group.set_limits(memory_max="64M")
    p.touch(at, 32 << 20)
    assert p.status()["VmRSS"] >= 32 << 10


def test_a_calloc_that_waits_for_memory_goes_on_when_it_has_some() -> None:
    """The call is under way until there is room; made again it returns."""
    m = pa.Machine(ram="256M", swap=0, kernel="6.12", arch="x86_64")
    group = m.cgroup("g", "8M")
    p = m.spawn("a", cgroup=group, oom_score_adj=-1000)
    with pytest.raises(pa.EndlessFault):
        p.touch(p.malloc(32 << 20), 32 << 20)
    for _ in range(3):
        with pytest.raises(pa.EndlessFault):
            p.calloc(1, 100000)
    group.set_limits(memory_max="64M")
    block = p.calloc(1, 100000)
    assert p.usable_size(block) >= 100000
    p.free(block)
    m.check()


def test_a_system_call_in_such_a_cgroup_fails() -> None:
    """read(2) does not try again: what it has got, or ENOMEM."""
    m = pa.Machine(ram="256M", swap=0, kernel="6.12")
    p = m.spawn("a", cgroup=m.cgroup("g", "16M"), oom_score_adj=-1000)
    fd = p.memfd_create("big")
    p.ftruncate(fd, 32 << 20)
    written = p.write(fd, 32 << 20, 0)
    assert 8 << 20 < written < 16 << 20
    with pytest.raises(OSError, match="Cannot allocate memory"):
        p.write(fd, 4096, written)


def test_the_reasons_of_a_kill_as_a_table() -> None:
    """A line for each candidate, a column for each term; what adds up is the score."""
    m = pa.Machine(ram="64M", swap=0, kernel="6.12")
    eater(m, "small", 2 << 20)
    with pytest.raises(pa.ProcessKilled):
        eater(m, "big", 62 << 20)
    table = m.oom_events[0].table().splitlines()
    assert table[0].split() == ["pid", "name", "rss", "page", "tables", "score"]
    assert [line[0] for line in table] == [" ", " ", ">", "h"]
    mark, pid, name, rss, tables, score = table[2].replace(",", "").split()
    assert (mark, name) == (">", "big")
    assert int(rss) + int(tables) == int(score)
    assert table[3] == f"highest badness: {pid} (big)"


@pytest.mark.parametrize(("kernel", "arch"), [("2.6.11", "i386"), ("6.12", "x86_64")])
def test_a_tiny_machine_boots_with_what_it_has(kernel: str, arch: str) -> None:
    """No line of the boot says less than nothing; what init gives back is there."""
    text = str(pa.Machine(ram="100K", swap=0, kernel=kernel, arch=arch).dmesg())
    free, freed = (int(n) for n in re.findall(r"mory: (\d+)[kK]", text))
    assert free + freed >= 100 > free >= 0


def test_zoneinfo_tells_what_the_lists_hold() -> None:
    """Of the node once, as vmstat; of each zone that has pages its part; as a running 6.18 does."""
    m = pa.Machine(ram="160M", swap="64M", kernel="6.18", arch="x86_64")
    eater(m, "a", 100 << 20)
    text, stat = str(m.zoneinfo()), m.vmstat()
    assert text.count("per-node stats\n      nr_inactive_anon ") == 1
    assert f"      nr_anon_pages {stat['nr_anon_pages']}\n" in text
    assert text.count("        cma      0\n        protection: (") == 5
    parts = [fields.get("nr_zone_inactive_anon", 0) for fields in m.zoneinfo().values()]
    assert stat["nr_inactive_anon"] - 2 <= sum(parts) <= stat["nr_inactive_anon"]
    assert text.count("start_pfn") == 2
    free = [fields.get("nr_free_pages", 0) for fields in m.zoneinfo().values()]
    assert sum(free) == stat["nr_free_pages"]


@pytest.mark.skipif(not platform.release().startswith("6.18"), reason="the names are those of 6.18")
def test_vmstat_has_names_of_this_kernel_in_its_order() -> None:
    """Every line is one of the host's, and none is before another that it follows there."""
    real = [line.split()[0] for line in Path("/proc/vmstat").read_text().splitlines()]
    mine = list(pa.Machine(ram="64M", swap=0, kernel="6.18", arch="x86_64").vmstat())
    assert [name for name in real if name in mine] == mine
    zones = Path("/proc/zoneinfo").read_text().splitlines()
    shown = str(pa.Machine(ram="8G", kernel="6.18", arch="x86_64").zoneinfo()).splitlines()
    shape = [line.rstrip("0123456789 ") for line in zones]
    assert not [
        line for line in shown if line.rstrip("0123456789 ") not in shape and "," not in line
    ]


@pytest.mark.parametrize("kernel", ["2.6.11", "2.6.18"])
@pytest.mark.parametrize("swap", [0, "128M"])
def test_a_file_larger_than_memory_can_be_written_through_a_mapping(
    kernel: str, swap: int | str
) -> None:
    """Dirty pages of files need no swap to go; while they are written nobody spins."""
    with pa.Machine(ram="64M", swap=swap, kernel=kernel, arch="i386") as machine:
        process = machine.spawn("writer")
        fd = process.open(machine.file("data", size=128 << 20), "rw")
        at = process.mmap(0, 128 << 20, pa.PROT.READ | pa.PROT.WRITE, pa.MAP.SHARED, fd)
        process.touch(at, 128 << 20)
        counters = machine.ram.counters()
    assert counters["file_written"] > (128 - 64) << 8
    assert counters["scanned"] < 10 * (128 << 8)
