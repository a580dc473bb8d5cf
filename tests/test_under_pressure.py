"""What a machine shows of its memory, and what its administrator may set."""

from __future__ import annotations

import errno

import pytest

import pyalloc as pa
from pyalloc.kernel.boot import boot_lines
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
