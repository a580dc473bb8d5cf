"""The log of an OOM kill has the lines of each kernel's log, in their order."""

from __future__ import annotations

import contextlib
import re

import pytest

import pyalloc as pa

REAL = [  # of Linux 6.18, a 32-bit program in a memory cgroup
    (
        "[  pid  ]   uid  tgid total_vm      rss rss_anon rss_file rss_shmem pgtables_bytes"
        " swapents oom_score_adj name"
    ),
    (
        "[  20542]     0 20542   293169    65223    64928      295         0  2371584   227264"
        "             0 exe"
    ),
    (
        "oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,oom_memcg=/web,"
        "task_memcg=/web,task=exe,pid=20542,uid=0"
    ),
    (
        "Memory cgroup out of memory: Killed process 20542 (exe) total-vm:1172676kB,"
        " anon-rss:259712kB, file-rss:1180kB, shmem-rss:0kB, UID:0 pgtables:2316kB oom_score_adj:0"
    ),
]

MEM_INFO = [  # of 6.12's mm/show_mem.c
    "Mem-Info:",
    r"active_anon:\d+ inactive_anon:\d+ isolated_anon:0",
    r" active_file:\d+ inactive_file:\d+ isolated_file:0",
    r" unevictable:\d+ dirty:\d+ writeback:\d+",
    r" slab_reclaimable:\d+ slab_unreclaimable:\d+",
    r" mapped:\d+ shmem:\d+ pagetables:\d+",
    r" sec_pagetables:0 bounce:0",
    r" kernel_misc_reclaimable:0",
    r" free:\d+ free_pcp:0 free_cma:0",
    (
        r"Node 0 active_anon:\d+kB inactive_anon:\d+kB active_file:\d+kB inactive_file:\d+kB "
        r"unevictable:\d+kB isolated\(anon\):0kB isolated\(file\):0kB mapped:\d+kB dirty:\d+kB .*"
    ),
    r"Node 0 DMA free:\d+kB boost:0kB min:\d+kB low:\d+kB high:\d+kB reserved_highatomic:0KB .*",
    r"lowmem_reserve\[\]: 0( \d+)+",
    r"Node 0 DMA32 free:\d+kB .* present:\d+kB managed:\d+kB mlocked:0kB bounce:0kB .*",
    r"lowmem_reserve\[\]:( \d+)+",
    r"Node 0 DMA: \d+\*4kB .*= \d+kB",
    r"Node 0 DMA32: \d+\*4kB .*= \d+kB",
    r"Node 0 hugepages_total=0 hugepages_free=0 hugepages_surp=0 hugepages_size=2048kB",
    r"\d+ total pagecache pages",
    r"\d+ pages in swap cache",
    r"Free swap  = 0kB",
    r"Total swap = 16384kB",
    r"16384 pages RAM",
    r"0 pages HighMem/MovableOnly",
    r"\d+ pages reserved",
    r"0 pages hwpoisoned",
    r"Tasks state \(memory values in pages\):",
]

ZONES_26 = {  # the zones' lines; an empty one has none
    "2.6.11": [
        r"oom-killer: gfp_mask=0xd2",
        r"DMA per-cpu:",
        r"cpu 0 hot: low 2, high 6, batch 1",
        r"cpu 0 cold: low 0, high 2, batch 1",
        r"Normal per-cpu:",
        r"cpu 0 hot: low 6, high 18, batch 3",
        r"cpu 0 cold: low 0, high 6, batch 3",
        r"HighMem per-cpu: empty",
        r"",
    ],
    "2.6.18": [
        r"oom-killer: gfp_mask=0x280d2, order=0",
        r"Mem-info:",
        r"DMA per-cpu:",
        r"cpu 0 hot: high 0, batch 1 used:0",
        r"cpu 0 cold: high 0, batch 1 used:0",
        r"DMA32 per-cpu: empty",
        r"Normal per-cpu:",
        r"cpu 0 hot: high 18, batch 3 used:0",
        r"cpu 0 cold: high 6, batch 1 used:0",
        r"HighMem per-cpu: empty",
    ],
}


def report(kernel: str, arch: str, memory_max: str | None = None) -> str:
    """Return what the log says when a process needs 120 MB of 64."""
    machine = pa.Machine(ram="64M", swap="16M", kernel=kernel, arch=arch, overcommit_memory=1)
    group = machine.cgroup("web", memory_max) if memory_max else None
    process = machine.spawn("eater", cgroup=group)
    with pytest.raises(pa.ProcessKilled):
        process.touch(process.mmap(0, 120 << 20, 3, 0x22), 120 << 20)
    assert machine.oom_events[0].report in machine.dmesg()
    return machine.oom_events[0].report


def shape(line: str) -> str:
    """Return a pattern of lines with other numbers, as wide if they are aligned; exe is eater."""

    def pattern(word: str) -> str:
        if not word.strip().isdigit():
            return "eater" if word == "exe" else re.escape(word)
        aligned = word.startswith("  ")
        return rf"[ \d]{{{len(word)}}}" if aligned else r" *\d+"

    return "".join(map(pattern, re.split(r"( *\d+|exe)", line)))


def test_a_cgroup_s_report_ends_like_a_real_one() -> None:
    """Task table, constraint and victim, field by field."""
    lines = report("6.12", "x86_64", "32M").splitlines()
    assert lines[0].startswith("eater invoked oom-killer: gfp_mask=0x")
    assert re.fullmatch(r"memory: usage 32768kB, limit 32768kB, failcnt \d+", lines[1])
    assert "Memory cgroup stats for /web:" in lines
    for line, real in zip(lines[-4:], REAL, strict=True):
        assert re.fullmatch(shape(real), line), (line, real)


def test_what_a_cgroup_holds_adds_up() -> None:
    """memory.stat's lists hold what is anonymous and what is of files; the rest is the kernel's."""
    lines = report("6.12", "x86_64", "32M").splitlines()
    stat = dict(line.split() for line in lines if re.fullmatch(r"\w+ \d+", line))
    found = {name: int(value) for name, value in stat.items()}
    lists = ("inactive_anon", "active_anon", "inactive_file", "active_file", "unevictable")
    assert sum(found[name] for name in lists) == found["anon"] + found["file"]
    assert found["anon"] + found["file"] + found["kernel"] == 32 << 20
    assert found["kernel"] >= found["pagetables"] > 0


def test_the_machine_s_report_has_the_lines_of_show_mem() -> None:
    """All of 6.12's, in order, before the task table."""
    lines = report("6.12", "x86_64").splitlines()[1:]
    for line, pattern in zip(lines, MEM_INFO, strict=False):
        assert re.fullmatch(pattern, line), (line, pattern)


@pytest.mark.parametrize("kernel", ["2.6.11", "2.6.18"])
def test_the_old_kernels_show_their_free_areas(kernel: str) -> None:
    """Per-processor lists, totals, a line and a reserve for each zone, their free blocks, swap."""
    lines = report(kernel, "i386").splitlines()
    head = ZONES_26[kernel]
    assert lines[: len(head)] == [line.replace("\\", "") for line in head]
    rest = lines[len(head) :]
    assert re.fullmatch(r"Free pages: +\d+kB \(0kB HighMem\)", rest[0])
    assert rest[1].startswith("Active:")
    assert rest.index("HighMem: empty") < rest.index("Free swap  = 0kB")
    assert sum(line.startswith("lowmem_reserve[]: ") for line in rest) == (
        4 if kernel == "2.6.18" else 3
    )


def test_2_6_18_names_the_score_and_the_victim() -> None:
    """Two lines: who had the highest score, and who was killed for it."""
    *_, chosen, killed = report("2.6.18", "i386").splitlines()
    assert re.fullmatch(
        r"Out of Memory: Kill process \d+ \(eater\) score \d+ and children\.", chosen
    )
    assert re.fullmatch(r"Out of memory: Killed process \d+ \(eater\)\.", killed)


STAT = [  # of Linux 6.12, cgroup v2: the lines of memory.stat that a program's memory changes
    "anon", "file", "kernel", "kernel_stack", "pagetables", "sec_pagetables", "percpu", "sock",
    "vmalloc", "shmem", "file_mapped", "file_dirty", "file_writeback", "swapcached", "anon_thp",
    "file_thp", "shmem_thp", "inactive_anon", "active_anon", "inactive_file", "active_file",
    "unevictable", "slab_reclaimable", "slab_unreclaimable", "slab", "workingset_refault_anon",
]  # fmt: skip


def taken(m: pa.Machine, name: str, pages: int, group: pa.Cgroup, adj: int = 0) -> pa.Process:
    process = m.spawn(name, cgroup=group, oom_score_adj=adj)
    with contextlib.suppress(pa.ProcessKilled):
        process.touch(process.mmap(0, pages * 4096, 3, 0x22), pages * 4096)
    return process


def test_a_group_that_dies_as_one_is_reported_as_by_a_real_kernel() -> None:
    """6.12 names the victim, then all that die, the victim again among them; not one of -1000."""
    m = pa.Machine(ram="160M", swap=0, kernel="6.12", arch="x86_64", overcommit_memory=1)
    group = m.cgroup("g", "40M", oom_group=True)
    x, y = taken(m, "x", 1000, group), taken(m, "y", 1000, group, -1000)
    z = taken(m, "z", 20000, group)
    assert [x.alive, y.alive, z.alive] == [False, True, False]
    *_, constraint, first, why, second, third = m.oom_events[0].report.splitlines()
    assert f"oom_memcg=/g,task_memcg=/g,task=z,pid={z.pid},uid=1000" in constraint
    assert why == "Tasks in /g are going to be killed due to memory.oom.group set"
    assert f"Killed process {x.pid} (x) " in second
    assert first == third
    assert f"Killed process {z.pid} (z) " in first
    assert str(group.events()) == ("low 0\nhigh 0\nmax 18\noom 1\noom_kill 3\noom_group_kill 1\n")


def test_events_are_counted_where_they_happen_and_above() -> None:
    """As 6.12 did: a victim below is a kill of both, the limit that was hit of the one above."""
    m = pa.Machine(ram="160M", swap=0, kernel="6.12", arch="x86_64", overcommit_memory=1)
    group = m.cgroup("g", "40M")
    inner = m.cgroup("in", parent=group, oom_group=True)
    out = m.cgroup("out", parent=group)
    p, q = taken(m, "p", 1000, inner, 500), taken(m, "q", 1000, inner)
    r = taken(m, "r", 9000, out)
    assert [p.alive, q.alive, r.alive] == [True, True, False]
    assert dict(inner.events()) == dict.fromkeys(inner.events(), 0)
    assert dict(out.events_local())["oom_kill"] == 1
    assert dict(group.events_local()) == {
        "low": 0, "high": 0, "max": 35, "oom": 1, "oom_kill": 0, "oom_group_kill": 0,
    }  # fmt: skip
    assert group.events()["oom_kill"] == 1


def test_memory_stat_has_the_lines_of_a_real_one() -> None:
    """In their order, and what was counted: faults, pages looked at, pages that came back."""
    m = pa.Machine(ram="160M", swap="160M", kernel="6.12", arch="x86_64")
    above = m.cgroup("g")
    group = m.cgroup("in", "20M", parent=above)
    process = taken(m, "a", 8000, group)
    stat = group.stat()
    assert list(stat)[: len(STAT)] == STAT
    assert stat["pgfault"] == process.pages.table.counters()["minor_faults"]
    assert stat["pgscan"] >= stat["pgsteal"] > 2000
    assert dict(above.stat()) == dict(stat)
    assert stat["slab"] + stat["pagetables"] == stat["kernel"]


def test_the_log_has_ten_reports_in_five_seconds_and_every_kill() -> None:
    """The kernel's own limit (``oom_rs``): what comes after has its last line only."""
    m = pa.Machine(ram="160M", swap=0, kernel="6.18", arch="x86_64", overcommit_memory=1)
    group = m.cgroup("g", "4M")
    for _ in range(12):
        taken(m, "eater", 2000, group)
    log = m.dmesg()
    assert log.count("invoked oom-killer") == 10
    assert log.count("Killed process") == len(m.oom_events) == 12
    m.advance(6)
    taken(m, "eater", 2000, group)
    assert "oom_kill_process: 2 callbacks suppressed" in m.dmesg()
    assert m.dmesg().count("invoked oom-killer") == 11
