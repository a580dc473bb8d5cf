"""Who waits for the disk has had a major fault, unless the kernel populates: mmap, mlock.

Measured on Linux 6.18: mlock() of 16 pages of swapped private memory counts 16 minor faults, of
swapped shared memory or of pages of zeros 16 major ones (vm.page-cluster 0); a touch of any of them
is a major one.
"""

from __future__ import annotations

import pytest
from test_verify_kernel import WORDS, can_verify

from pyalloc.host.kernel import host_kernel
from pyalloc.host.mapped import mapped_files
from pyalloc.host.puppet import Start
from pyalloc.kernel.abi import MADV, MAP, PROT
from pyalloc.kernel.limits import Limits
from pyalloc.lab.verify.kernel import Case, run_calls
from pyalloc.machine import Machine, Process
from pyalloc.workload.syscalls import SystemCall

PAGE = 4096
PAGES = 16
RW = PROT.READ | PROT.WRITE
FILE, AT = 0x10000000, 0x20000000
LOCKED, POPULATE = int(MAP.FIXED | MAP.LOCKED), int(MAP.FIXED | MAP.POPULATE)


def swapped(kind: MAP, *, zeros: bool = False, kernel: str = "6.18") -> tuple[Process, int]:
    """Return a process with pages in swap that are nowhere else, and where."""
    machine = Machine(ram="64M", swap="64M", kernel=kernel, arch="x86_64")
    machine.sysctl["vm.page-cluster"] = 0
    cgroup = machine.cgroup("small", memory_max="1M")
    process = machine.spawn(cgroup=cgroup, rlimits=Limits(ipc_lock=True))
    at = process.mmap(0, PAGES * PAGE, RW, kind | MAP.ANONYMOUS)
    process.touch(at, PAGES * PAGE, zeros=zeros)
    other = process.mmap(0, 4 << 20, RW, MAP.PRIVATE | MAP.ANONYMOUS)
    process.touch(other, 4 << 20)
    process.munmap(other, 4 << 20)
    machine.advance(1)
    return process, at


def faults(process: Process) -> tuple[int, int]:
    counters = process.pages.table.counters()
    return counters["minor_faults"], counters["major_faults"]


@pytest.mark.parametrize(
    ("kind", "zeros", "locking"),
    [
        (MAP.PRIVATE, False, (PAGES, 0)),
        (MAP.PRIVATE, True, (0, PAGES)),
        (MAP.SHARED, False, (0, PAGES)),
    ],
)
def test_what_mlock_reads_from_swap(kind: MAP, zeros: bool, locking: tuple[int, int]) -> None:
    """Only who lets go of the areas to wait comes again, as if for the first time."""
    for call, expected in (("mlock", locking), ("touch", (0, PAGES)), ("madvise", (0, PAGES))):
        process, at = swapped(kind, zeros=zeros)
        before = faults(process)
        read = process.machine.vmstat()["pgmajfault"]
        args = (MADV.POPULATE_READ,) if call == "madvise" else ()
        getattr(process, call)(at, PAGES * PAGE, *args)
        after = faults(process)
        assert (after[0] - before[0], after[1] - before[1]) == expected, call
        assert process.machine.vmstat()["pgmajfault"] == read + PAGES


def test_2_6_counts_what_mlock_reads() -> None:
    process, at = swapped(MAP.PRIVATE, kernel="2.6.18")
    before = faults(process)
    process.mlock(at, PAGES * PAGE)
    assert faults(process)[1] - before[1] == PAGES


def mapped(prot: int, flags: int) -> tuple[str, int, int, int, int, int, int]:
    return ("mmap", AT, 30 * PAGE, prot, flags, 3, 0)


@pytest.mark.skipif(not can_verify(), reason="no profile of this host's kernel")
@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize(
    "calls",
    [
        [mapped(prot, kind | how)]
        for prot in (1, 3)
        for kind in (int(MAP.SHARED), int(MAP.PRIVATE))
        for how in (LOCKED, POPULATE)
    ]
    + [
        [mapped(1, int(MAP.PRIVATE | MAP.FIXED)), call]
        for call in (
            ("mlock", AT, 30 * PAGE),
            ("mlock2", AT, 30 * PAGE, 1),
            ("mlockall", 1),
            ("madvise", AT, 30 * PAGE, int(MADV.POPULATE_READ)),
            ("touch", AT, 30, 0),
        )
    ]
    + [
        [mapped(1, int(MAP.PRIVATE | MAP.FIXED)), ("mlock2", AT, 30 * PAGE, 1), call]
        for call in (("mprotect", AT, 30 * PAGE, 3), ("mlock", AT, 30 * PAGE))
    ],
    ids=str,
)
def test_what_populating_reads_of_a_file(calls: list[tuple[str, int]], word: int) -> None:
    """The kernel of this host counts each fault that reads a hole of a file as the model does."""
    holes = [
        ("mmap", FILE, 64 * PAGE, 3, int(MAP.SHARED | MAP.FIXED), 3, 0),
        *(
            ("madvise", FILE + first * PAGE, count * PAGE, int(MADV.REMOVE))
            for first, count in ((1, 1), (3, 2), (10, 30))
        ),
    ]
    made = tuple(SystemCall(name, tuple(args)) for name, *args in [*holes, *calls])
    start = Start("x86_64" if word == 64 else "i386")
    with mapped_files() as files:
        assert run_calls(Case(start, made), host_kernel(), files) == (list(made), None)
