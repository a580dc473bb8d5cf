"""The log of an OOM kill has the lines of each kernel's log, in their order."""

from __future__ import annotations

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
