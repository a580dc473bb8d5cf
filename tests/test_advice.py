"""Advice about pages, on this host's kernel and on the model: the same calls, the same outcome."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_verify_kernel import WORDS, can_verify

from pyalloc.errors import MemoryFault
from pyalloc.host.puppet import Start
from pyalloc.kernel.abi import MADV, MAP
from pyalloc.kernel.limits import Limits
from pyalloc.lab.verify.kernel import Case, verify_case
from pyalloc.machine import Machine, Process
from pyalloc.workload.syscalls import SystemCall

SWAPS = Path("/proc/swaps")
PAGE = 4096
HUGE = 2 << 20
AT = 0x10000000
BIG, SMALL, SHARED = 3, 5, 6
"""Descriptors: a file of 64 pages, one that ends inside its fourth, 32 pages of shared memory."""
PRIVATE = int(MAP.PRIVATE | MAP.ANONYMOUS | MAP.FIXED)
FORMS = {"private": PRIVATE, "shared": int(MAP.SHARED | MAP.ANONYMOUS | MAP.FIXED)}


def anon(pages: int, at: int = AT, flags: int = PRIVATE) -> SystemCall:
    return SystemCall("mmap", (at, pages * PAGE, 3, flags, -1, 0))


def file(descriptor: int, pages: int, *, shared: bool, first: int = 0) -> SystemCall:
    flags = int(MAP.FIXED | (MAP.SHARED if shared else MAP.PRIVATE))
    return SystemCall("mmap", (AT, pages * PAGE, 3, flags, descriptor, first * PAGE))


def touch(first: int, count: int = 1, write: int = 1) -> SystemCall:
    return SystemCall("touch", (AT + first * PAGE, count, write))


def advise(advice: MADV, first: int, count: int) -> SystemCall:
    return SystemCall("madvise", (AT + first * PAGE, count * PAGE, int(advice)))


FORK, BRANCH, REAP = (SystemCall(name, ()) for name in ("fork", "branch", "reap"))
LOCK = SystemCall("mlock", (AT, 4 * PAGE))
CASES: dict[str, list[SystemCall]] = {
    "a hole in shared memory": [
        file(SHARED, 4, shared=True),
        touch(0, 4, write=0),
        advise(MADV.REMOVE, 0, 2),
        touch(1, write=0),
        touch(0),
    ],
    "a hole in a file": [
        file(BIG, 20, shared=True),
        touch(0, 20),
        advise(MADV.REMOVE, 3, 5),
        touch(0, 3, write=0),
        touch(4, 1, write=0),
        touch(3, 9),
    ],
    "a hole past the last page": [
        file(SMALL, 8, shared=True),
        touch(0, 2),
        advise(MADV.REMOVE, 2, 6),
        touch(0, 4, write=0),
    ],
    "a hole where others have copies": [
        file(SHARED, 4, shared=False),
        touch(0, 2),
        SystemCall("mmap", (AT + HUGE, 4 * PAGE, 3, int(MAP.SHARED | MAP.FIXED), SHARED, 0)),
        SystemCall("madvise", (AT + HUGE, 4 * PAGE, int(MADV.REMOVE))),
        touch(0, 4, write=0),
    ],
    "a hole too far out": [
        file(BIG, 4, shared=True, first=(1 << 31) - 1),
        advise(MADV.REMOVE, 0, 4),
        file(SHARED, 4, shared=True, first=(1 << 40) - 1),
        advise(MADV.REMOVE, 0, 4),
    ],
    "clean pages of a file paged out": [
        file(BIG, 40, shared=True),
        touch(0, 40, write=0),
        advise(MADV.PAGEOUT, 0, 20),
        touch(5, 1, write=0),
        touch(0, 20, write=0),
    ],
    "dirty pages of a file paged out": [
        file(BIG, 20, shared=True),
        touch(0, 8),
        touch(8, 12, write=0),
        advise(MADV.PAGEOUT, 4, 8),
        touch(0, 20, write=0),
    ],
    "copies of a file's pages paged out": [
        file(BIG, 20, shared=False),
        touch(0, 8),
        touch(8, 12, write=0),
        advise(MADV.PAGEOUT, 0, 20),
        touch(0, 20, write=0),
    ],
    "a file's pages that others map": [
        file(BIG, 20, shared=True),
        touch(0, 20),
        SystemCall("mmap", (AT + HUGE, 8 * PAGE, 3, int(MAP.SHARED | MAP.FIXED), BIG, 0)),
        SystemCall("touch", (AT + HUGE, 8, 0)),
        advise(MADV.PAGEOUT, 0, 20),
    ],
    "shared memory paged out": [
        anon(8, flags=FORMS["shared"]),
        touch(0, 4),
        touch(4, 2, write=0),
        advise(MADV.PAGEOUT, 0, 8),
        touch(0, 8, write=0),
    ],
    "given up and paged out": [
        anon(8),
        touch(0, 8),
        advise(MADV.FREE, 0, 6),
        touch(2, 2),
        advise(MADV.PAGEOUT, 0, 8),
        touch(0, 1, write=0),
    ],
    "given up, written, paged out, paged out": [
        anon(4),
        touch(0, 4),
        advise(MADV.FREE, 0, 4),
        touch(0, 4),
        advise(MADV.PAGEOUT, 0, 4),
        advise(MADV.PAGEOUT, 0, 4),
    ],
    "pages of a parent that waits, given up": [
        anon(8),
        touch(0, 8),
        FORK,
        touch(4, 2),
        advise(MADV.FREE, 0, 6),
        touch(5, 1),
    ],
    "locked pages of a parent, given up": [anon(4), LOCK, FORK, advise(MADV.FREE, 0, 4)],
    "pages that a child has, too": [
        anon(8),
        touch(0, 8),
        BRANCH,
        touch(0, 2),
        advise(MADV.FREE, 0, 4),
        advise(MADV.PAGEOUT, 0, 8),
        REAP,
        advise(MADV.PAGEOUT, 0, 8),
    ],
    "2 MB given up whole": [
        anon(1024),
        advise(MADV.HUGEPAGE, 0, 1024),
        touch(0, 600),
        advise(MADV.FREE, 0, 1024),
        touch(700),
        advise(MADV.PAGEOUT, 0, 512),
    ],
    "2 MB given up in part": [
        anon(1024),
        advise(MADV.HUGEPAGE, 0, 1024),
        touch(0, 100),
        touch(512, 1),
        advise(MADV.FREE, 50, 100),
        advise(MADV.COLD, 600, 1),
        touch(60, 1),
        advise(MADV.PAGEOUT, 50, 20),
    ],
    "2 MB paged out": [
        anon(1024),
        advise(MADV.HUGEPAGE, 0, 1024),
        touch(0, 100),
        touch(512, 1),
        advise(MADV.PAGEOUT, 0, 1024),
    ],
    "2 MB whose table was split": [
        anon(512),
        advise(MADV.HUGEPAGE, 0, 512),
        touch(0, 9),
        SystemCall("mprotect", (AT, PAGE, 1)),
        SystemCall("munmap", (AT + 8 * PAGE, 2 * PAGE)),
        advise(MADV.FREE, 3, 2),
        advise(MADV.FREE, 20, 2),
    ],
    "2 MB that a child has, too": [
        anon(512),
        advise(MADV.HUGEPAGE, 0, 512),
        touch(0, 9),
        BRANCH,
        advise(MADV.FREE, 3, 2),
        advise(MADV.FREE, 0, 512),
        touch(0, 2),
        advise(MADV.FREE, 0, 8),
        REAP,
        advise(MADV.FREE, 0, 8),
    ],
    "2 MB of zeros": [
        anon(512),
        advise(MADV.HUGEPAGE, 0, 512),
        touch(0, 9, write=0),
        advise(MADV.COLD, 0, 4),
        advise(MADV.PAGEOUT, 0, 512),
        advise(MADV.FREE, 0, 512),
    ],
    "guards in private memory": [
        anon(8),
        touch(0, 4),
        advise(MADV.GUARD_INSTALL, 2, 4),
        touch(0, 8),
        advise(MADV.DONTNEED, 0, 8),
        touch(2, 1, write=0),
        advise(MADV.POPULATE_READ, 0, 8),
        advise(MADV.POPULATE_WRITE, 0, 2),
        LOCK,
        advise(MADV.GUARD_INSTALL, 0, 1),
        advise(MADV.GUARD_REMOVE, 2, 2),
        touch(0, 8),
    ],
    "guards in a file": [
        file(BIG, 40, shared=False),
        advise(MADV.GUARD_INSTALL, 8, 4),
        touch(0, 40, write=0),
        touch(20, 20, write=0),
        advise(MADV.GUARD_REMOVE, 9, 1),
        touch(9),
        FORK,
        touch(8),
        touch(9),
    ],
    "guards in shared memory, and a child": [
        anon(600, flags=FORMS["shared"]),
        touch(300, 2),
        advise(MADV.GUARD_INSTALL, 0, 300),
        BRANCH,
        FORK,
        touch(0, 1),
        advise(MADV.GUARD_REMOVE, 0, 600),
        touch(0, 302, write=0),
    ],
    "guards keep tables": [
        anon(2048),
        touch(0, 2048),
        advise(MADV.GUARD_INSTALL, 700, 1),
        advise(MADV.DONTNEED, 0, 2048),
        advise(MADV.GUARD_REMOVE, 700, 1),
        advise(MADV.DONTNEED, 0, 2048),
        SystemCall("munmap", (AT, 2048 * PAGE)),
    ],
    "guards move and merge": [
        anon(4),
        anon(4, AT + 16 * PAGE),
        advise(MADV.GUARD_INSTALL, 1, 2),
        anon(4, AT + 4 * PAGE),
        SystemCall("mprotect", (AT + 2 * PAGE, PAGE, 1)),
        SystemCall("mremap", (AT, 2 * PAGE, 2 * PAGE, 3, AT + 20 * PAGE)),
        touch(20, 2),
        SystemCall("mprotect", (AT + 2 * PAGE, PAGE, 3)),
        touch(2, 1),
    ],
    "guards in 2 MB": [
        anon(1024),
        advise(MADV.HUGEPAGE, 0, 1024),
        touch(0, 600),
        advise(MADV.GUARD_INSTALL, 500, 20),
        touch(0, 600),
        advise(MADV.GUARD_INSTALL, 0, 512),
        advise(MADV.GUARD_REMOVE, 0, 1024),
        touch(0, 600),
    ],
    "code is read to the end of its area": [
        SystemCall("mmap", (AT, 12 * PAGE, 7, int(MAP.SHARED | MAP.FIXED), BIG, 0)),
        SystemCall("mprotect", (AT + 10 * PAGE, 2 * PAGE, 3)),
        advise(MADV.REMOVE, 0, 12),
        touch(8),
        touch(9),
        touch(10),
        touch(3, 1, write=0),
    ],
    "2 MB of zeros keep areas apart": [
        anon(1024),
        advise(MADV.HUGEPAGE, 0, 1024),
        touch(0, 9, write=0),
        SystemCall("mprotect", (AT + HUGE, HUGE, 1)),
        touch(1023, 1, write=0),
        SystemCall("mmap", (AT + 1020 * PAGE, 2 * PAGE, 1, PRIVATE, -1, 0)),
        SystemCall("mremap", (AT + 1020 * PAGE, PAGE, PAGE, 3, AT + 1030 * PAGE)),
        SystemCall("mlock", (AT + HUGE, PAGE)),
    ],
    "areas below 2 MB, where a sum wraps": [
        SystemCall("mmap", (0, PAGE, 3, FORMS["shared"], -1, 0)),
        SystemCall("madvise", (0, PAGE, int(MADV.COLLAPSE))),
        SystemCall("mmap", (PAGE, PAGE, 3, PRIVATE, -1, 0)),
        SystemCall("touch", (PAGE, 1, 1)),
        SystemCall("madvise", (PAGE, PAGE, int(MADV.HUGEPAGE))),
        SystemCall("madvise", (0, 2 * PAGE, int(MADV.COLLAPSE))),
    ],
    "flags that name a size of pages": [
        SystemCall("mmap", (AT, PAGE, 3, 0x7C000013, BIG, 0)),
        SystemCall("mmap", (AT, PAGE, 3, 0xFC000013, BIG, 0)),
        SystemCall("mmap", (0, (1 << 64) - 1, 3, 0x40022, -1, 0)),
    ],
    "moved to the bottom of memory": [
        anon(2),
        SystemCall("mmap", (AT + 2 * PAGE, 2 * PAGE, 1, PRIVATE, -1, 0)),
        SystemCall("mremap", (AT, 4 * PAGE, 4 * PAGE, 3, 0)),
    ],
    "a stack that grows up, from a hole on": [
        anon(2),
        SystemCall("mprotect", (AT - PAGE, 2 * PAGE, 0x2000003)),
        SystemCall("mprotect", (AT, 2 * PAGE, 0x2000003)),
    ],
    "collapsed": [
        anon(1536),
        advise(MADV.COLLAPSE, 0, 512),
        touch(0, 3),
        touch(9, 1, write=0),
        advise(MADV.COLLAPSE, 1, 9),
        advise(MADV.COLLAPSE, 0, 9),
        advise(MADV.COLLAPSE, 0, 1536),
        advise(MADV.COLLAPSE, 0, 512),
        advise(MADV.COLD, 3, 1),
        advise(MADV.COLLAPSE, 0, 512),
    ],
    "collapsed between guards, locks and children": [
        anon(1536),
        touch(0, 600),
        BRANCH,
        advise(MADV.GUARD_INSTALL, 700, 2),
        SystemCall("mlock", (AT, 512 * PAGE)),
        advise(MADV.COLLAPSE, 0, 512),
        advise(MADV.COLLAPSE, 512, 1024),
        SystemCall("mprotect", (AT, 1536 * PAGE, 1)),
        advise(MADV.GUARD_REMOVE, 512, 512),
        advise(MADV.COLLAPSE, 512, 1024),
        FORK,
        SystemCall("mprotect", (AT, 1536 * PAGE, 3)),
        touch(0, 600),
    ],
    "guards past the end of an object": [
        file(SMALL, 8, shared=True),
        advise(MADV.GUARD_INSTALL, 2, 4),
        touch(0, 3, write=0),
        touch(5),
        touch(6),
        touch(7, 1, write=0),
    ],
    "a file that must be written at once": [
        anon(8),
        touch(0, 8),
        SystemCall("mmap", (AT + PAGE, 2 * PAGE, 3, 0x80012, BIG, 0)),
        SystemCall("mmap", (AT + 4 * PAGE, 2 * PAGE, 3, 0x80011, BIG, 0)),
        SystemCall("mmap", (AT + 6 * PAGE, PAGE, 3, 0x80013, BIG, 0)),
        SystemCall("mmap", (AT + 7 * PAGE, PAGE, 3, 0x80011, SHARED, 0)),
        SystemCall("mmap", (AT + 8 * PAGE, PAGE, 3, 0x80032, -1, 0)),
    ],
    "longer than the space with what 2 MB need": [
        SystemCall("mmap", (0, (1 << 47) - HUGE, 3, 0x22, -1, 0)),
        SystemCall("mmap", (0, (1 << 47) - PAGE, 3, 0x4022, -1, 0)),
        SystemCall("mmap", (0, (1 << 32) - HUGE, 3, 0x4022, -1, 0)),
    ],
    "read ahead": [
        file(BIG, 40, shared=True),
        advise(MADV.REMOVE, 0, 40),
        advise(MADV.WILLNEED, 8, 16),
        touch(8, 16, write=0),
        touch(0, 1, write=0),
    ],
}  # fmt: skip


def swaps_to_a_file() -> bool:
    return any(line.split()[1] == "file" for line in SWAPS.read_text().splitlines())


@pytest.mark.skipif(not can_verify(), reason="no profile of this host's kernel")
@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("name", CASES)
def test_this_kernel_does_the_same(name: str, word: int) -> None:
    """Results, areas, sizes, faults and smaps are equal after every call."""
    if name == "2 MB paged out" and swaps_to_a_file():
        pytest.skip("a swap file has no room for 2 MB at once (mm/swapfile.c); a device has")
    arch = "x86_64" if word == 64 else "i386"
    case = Case(Start(arch, limits=Limits(ipc_lock=True)), tuple(CASES[name]), name)
    verdict = verify_case(case)
    assert verdict.agrees, verdict.to_dict()
    assert verdict.calls == len(case.calls)


# --- what was measured once, where no such kernel runs


def process(kernel: str = "6.18", swap: int | str = 0) -> Process:
    return Machine(ram="256M", swap=swap, kernel=kernel, arch="x86_64").spawn(uid=0)


def resident(p: Process) -> int:
    return int(p.status()["VmRSS"]) // 4


def test_a_guard_is_a_signal_for_whoever_comes_near_until_it_is_removed() -> None:
    """It outlives MADV_DONTNEED and fork, and no advice to populate passes it."""
    p = process()
    at = p.mmap(0, 8 * PAGE, 3, 0x22)
    p.madvise(at + 2 * PAGE, PAGE, MADV.GUARD_INSTALL)
    p.madvise(at, 8 * PAGE, MADV.DONTNEED)
    for one in (p, p.fork()):
        with pytest.raises(MemoryFault, match="SIGSEGV") as caught:
            one.touch(at, 8 * PAGE)
        assert caught.value.address == at + 2 * PAGE
        with pytest.raises(OSError, match="Bad address"):
            one.madvise(at, 8 * PAGE, MADV.POPULATE_READ)
    p.madvise(at, 8 * PAGE, MADV.GUARD_REMOVE)
    p.touch(at, 8 * PAGE)
    p.machine.check()


def test_a_list_of_accesses_ends_at_a_guard() -> None:
    p = process()
    at = p.mmap(0, 8 * PAGE, 3, 0x22)
    p.madvise(at + 5 * PAGE, PAGE, MADV.GUARD_INSTALL)
    with pytest.raises(MemoryFault) as caught:
        p.touch_pages(at, [7, 1, 5, 3])
    assert (caught.value.signal, caught.value.address) == (11, at + 5 * PAGE)
    assert p.pages.table.resident(at // PAGE, 8).nonzero()[0].tolist() == [1, 7]


@pytest.mark.parametrize(
    ("kernel", "advice", "why"),
    [
        ("6.12", MADV.GUARD_INSTALL, "Invalid argument"),
        ("2.6.18", MADV.GUARD_REMOVE, "Invalid argument"),
        ("2.6.18", MADV.PAGEOUT, "Invalid argument"),
        ("2.6.18", MADV.REMOVE, "Function not implemented"),
    ],
)
def test_each_kernel_takes_the_advice_it_knows(kernel: str, advice: MADV, why: str) -> None:
    """2.6.18 can punch holes into shared memory only; guards came with 6.13."""
    p = process(kernel)
    fd = p.open(p.machine.file("data", 8 * PAGE), "rw")
    at = p.mmap(0, 8 * PAGE, 3, MAP.SHARED, fd)
    with pytest.raises(OSError, match=why):
        p.madvise(at, 8 * PAGE, advice)


def test_a_hole_in_a_file_is_a_hole_for_everybody() -> None:
    p = process()
    data = p.machine.file("data", 8 * PAGE)
    other = p.machine.spawn()
    at, there = (one.mmap(0, 8 * PAGE, 3, MAP.SHARED, one.open(data, "rw")) for one in (p, other))
    for one, place in ((p, at), (other, there)):
        one.touch(place, 8 * PAGE)
    before = resident(other)
    p.madvise(at, 3 * PAGE, MADV.REMOVE)
    assert before - resident(other) == 3
    p.machine.check()


def test_what_is_paged_out_comes_back_from_swap() -> None:
    """With swap, private and shared memory both go; without, private memory stays."""
    for swap, left in (("64M", 0), (0, 4)):
        p = process(swap=swap)
        at = p.mmap(0, 4 * PAGE, 3, 0x22)
        p.touch(at, 4 * PAGE)
        p.madvise(at, 4 * PAGE, MADV.PAGEOUT)
        assert int(p.pages.table.resident(at // PAGE, 4).sum()) == left
        assert int(p.status()["VmSwap"]) == 4 * (4 - left)
        p.touch(at, 4 * PAGE, write=False)
        p.machine.check()


def test_zeros_in_2_mb_are_given_back_when_they_are_taken_apart() -> None:
    """Of 2 MB with 101 pages written, advice about one page leaves 101 (measured on 6.18)."""
    p = process()
    p.machine.huge_pages = True
    at = p.mmap(AT, HUGE, 3, PRIVATE)
    p.madvise(at, HUGE, MADV.HUGEPAGE)
    p.touch(at, 101 * PAGE)
    assert int(p.pages.table.counters()["anon"]) >= 512
    p.madvise(at, PAGE, MADV.COLD)
    assert int(p.pages.table.resident(at // PAGE, 512).sum()) == 101
    p.machine.check()


def test_shared_memory_in_swap_is_told_from_none() -> None:
    """Nobody's VmSwap has it, each area that shows it does (smaps, measured on 6.18)."""
    p = process(swap="64M")
    at = p.mmap(0, 4 * PAGE, 3, 0x21)
    p.touch(at, 4 * PAGE)
    p.madvise(at, 3 * PAGE, MADV.PAGEOUT)
    fields = next(f for area, f in p.smaps().items() if area.startswith(f"{at:x}-"))
    assert (fields["Rss"], fields["Swap"], fields["SwapPss"]) == (4, 12, 0)
    assert p.status()["VmSwap"] == 0


def test_a_page_in_swap_is_shared_out_among_those_who_have_it() -> None:
    p = process(swap="64M")
    at = p.mmap(0, 2 * PAGE, 3, 0x22)
    p.touch(at, 2 * PAGE)
    p.madvise(at, 2 * PAGE, MADV.PAGEOUT)
    p.fork()
    fields = next(f for area, f in p.smaps().items() if area.startswith(f"{at:x}-"))
    assert (fields["Swap"], fields["SwapPss"]) == (8, 4)
