"""Address spaces change as the kernel changes them."""

import errno
from dataclasses import replace
from typing import Any

import pytest
import vmareplay

import pyalloc as pa
from pyalloc.kernel.abi import MAP, PROT
from pyalloc.kernel.layout import default_layout, layout_from_maps
from pyalloc.kernel.prelink import prelinked_layout
from pyalloc.kernel.procfs import Resident, maps_text, memory_rows
from pyalloc.kernel.profiles import PROFILES, KernelProfile, kernel_profile
from pyalloc.kernel.vma import AddressSpace

RW = int(PROT.READ | PROT.WRITE)
ANON = int(MAP.PRIVATE | MAP.ANONYMOUS)
PAGE = 4096
HUGE = 2 << 20


RECORDED = [
    pytest.param(sequence, meta, id=sequence["id"])
    for name in ("vma_x86_64.jsonl.gz", "vma_i386.jsonl.gz")
    for meta, sequences in [vmareplay.load(name)]
    for sequence in sequences
]


@pytest.mark.parametrize(("sequence", "meta"), RECORDED)
def test_a_recorded_process_comes_out_the_same(
    sequence: dict[str, Any], meta: dict[str, Any]
) -> None:
    """Results, areas, sizes, resident pages and page tables are the kernel's, call by call."""
    assert vmareplay.first_difference(sequence, meta) is None


@pytest.fixture(params=sorted(PROFILES), ids="-".join)
def profile(request: pytest.FixtureRequest) -> KernelProfile:
    found: KernelProfile = PROFILES[request.param]
    return found


def test_every_profile_has_a_default_program_that_can_map(profile: KernelProfile) -> None:
    """Two adjacent mappings become one area, which unmapping its middle cuts in two."""
    space = AddressSpace(profile, default_layout(profile))
    before = maps_text(space)
    first = space.mmap(0, 2 * PAGE, RW, ANON)
    second = space.mmap(0, PAGE, RW, ANON)
    low = min(first, second)
    assert abs(first - second) in (PAGE, 2 * PAGE)
    assert space.at(low).pages == 3  # type: ignore[union-attr]
    space.munmap(low + PAGE, PAGE)
    assert space.at(low + PAGE) is None
    space.check()
    space.munmap(low, 3 * PAGE)
    assert maps_text(space) == before


def test_a_maps_text_survives_the_round_trip(profile: KernelProfile) -> None:
    """The areas a text describes print as that text."""
    text = maps_text(AddressSpace(profile, default_layout(profile)))
    layout = layout_from_maps(text, profile)
    assert maps_text(AddressSpace(profile, layout)) == text


def test_the_break_moves_by_bytes_and_maps_by_pages() -> None:
    """The heap appears behind bss and goes again."""
    profile = kernel_profile("6.12")
    space = AddressSpace(profile, default_layout(profile))
    start = space.brk(0)
    assert space.brk(start + 5) == start + 5
    assert "[heap]" in maps_text(space)
    assert space.brk(start) == start
    assert "[heap]" not in maps_text(space)


def test_a_bad_range_is_einval() -> None:
    """An unaligned address names no page."""
    profile = kernel_profile("6.12")
    space = AddressSpace(profile, default_layout(profile))
    with pytest.raises(OSError, match="Invalid argument") as caught:
        space.munmap(1, PAGE)
    assert caught.value.errno == errno.EINVAL


ARTICLE_A = """\
0009a000-0039d000 rwxp 0009a000 00:00 0
0039d000-003b2000 r-xp 00000000 fd:00 1
003b2000-003b3000 r-xp 00014000 fd:00 1
003b3000-003b4000 rwxp 00015000 fd:00 1
003b6000-004cb000 r-xp 00000000 fd:00 2
004cb000-004cd000 r-xp 00115000 fd:00 2
004cd000-004cf000 rwxp 00117000 fd:00 2
004cf000-004d1000 rwxp 004cf000 00:00 0
005ce000-08048000 rwxp 005ce000 00:00 0
08048000-08049000 r-xp 00000000 fd:00 3
08049000-0804a000 rwxp 00000000 fd:00 3
0806d000-b7f62000 rwxp 0806d000 00:00 0
b7f73000-b7f75000 rwxp b7f73000 00:00 0
b7f75000-b7f76000 r-xp b7f75000 00:00 0
b7f76000-bf7ee000 rwxp b7f76000 00:00 0
bf80d000-bf822000 rw-p bf80d000 00:00 0
bf822000-bff29000 rwxp bf822000 00:00 0
"""


def article_blocks(space: AddressSpace, count: int) -> int:
    """Make the calls behind ``count`` mallocs of 1 MB and one printf; return how many worked."""
    for done in range(count):
        try:
            space.mmap(0, 0x101000, 7, ANON)
        except OSError:
            return done
        if not done:
            space.mmap(0, PAGE, 7, ANON)
    return count


def test_the_article_s_program_ends_with_the_article_s_map() -> None:
    """3056 blocks of 1 MB fit, and lie where they lay in 2006."""
    profile = kernel_profile("2.6.18", "i386")
    space = AddressSpace(profile, prelinked_layout(profile, stack_pages=21))
    assert article_blocks(space, 4000) == 3056
    lines = [" ".join(line.split()[:5]) for line in maps_text(space).splitlines()]
    assert lines == ARTICLE_A.splitlines()
    space.check()


@pytest.mark.parametrize(
    ("blocks", "size", "data"), [(3055, 3141876, 3140564), (1042, 1072512, 1071200)]
)
def test_the_article_s_status(blocks: int, size: int, data: int) -> None:
    """Both programs' sizes are the article's, to the kilobyte."""
    profile = kernel_profile("2.6.18", "i386")
    space = AddressSpace(profile, prelinked_layout(profile))
    assert article_blocks(space, blocks) == blocks
    fields = dict(memory_rows(space, Resident()))
    sizes = ("VmSize", "VmData", "VmStk", "VmExe", "VmLib")
    assert [fields[name] for name in sizes] == [size, data, 88, 4, 1204]


def test_one_placement_tells_2_6_11_from_2_6_18() -> None:
    """Without the size of the largest hole the printf buffer goes elsewhere."""
    profile = kernel_profile("2.6.11", "i386")
    space = AddressSpace(profile, prelinked_layout(kernel_profile("2.6.18", "i386")))
    assert article_blocks(space, 4000) == 3056
    assert space.at(0x806C000) is not None


@pytest.mark.parametrize("kernel", ["2.6.18", "6.18"])
def test_one_area_more_than_the_limit_fits(kernel: str) -> None:
    """A mapping may bring the count one past the limit; at the limit no area is cut in two."""
    profile = replace(kernel_profile(kernel, "i386"), max_map_count=40)
    space = AddressSpace(profile, default_layout(profile))
    at = 0x10000000
    while len(space) < 41:
        space.mmap(at, 3 * PAGE, RW, ANON | MAP.FIXED)
        at += 4 * PAGE
    with pytest.raises(OSError, match="memory"):
        space.mmap(at, PAGE, RW, ANON | MAP.FIXED)
    with pytest.raises(OSError, match="memory"):
        space.munmap(0x10000000 + PAGE, PAGE)
    with pytest.raises(OSError, match="memory"):
        space.mprotect(0x10000000, PAGE, PROT.READ)
    space.check()
    modern = profile.modern  # which lets munmap shorten an area even then
    if modern:
        assert space.munmap(0x10000000, PAGE) == 0
    else:
        with pytest.raises(OSError, match="memory"):
            space.munmap(0x10000000, PAGE)


def test_what_may_be_read_may_be_executed_where_the_personality_says_so() -> None:
    """An old program's heap is rwx, and so is what it maps for reading."""
    profile = kernel_profile("2.6.18", "i386")
    space = AddressSpace(profile, prelinked_layout(profile))
    space.brk(space.start_brk + PAGE)
    address = space.mmap(0, PAGE, PROT.READ, ANON)
    heap, area = space.at(space.start_brk), space.at(address)
    assert heap is not None
    assert area is not None
    assert (heap.permissions, area.permissions) == ("rwxp", "r-xp")


@pytest.mark.parametrize(
    ("first", "pages", "wants"),
    [
        (0, 511, False),
        (0, 512, True),
        (1, 1022, False),
        (1, 1023, True),
        (511, 512, False),
        (511, 513, True),
        (512, 512, True),
    ],
)
def test_a_file_is_put_where_its_huge_pages_fit(first: int, pages: int, wants: bool) -> None:
    """If one lies whole in the mapping (__thp_get_unmapped_area); else as close as can be."""
    machine = pa.Machine(ram="64M", kernel="6.12", arch="x86_64")
    file, length, offset = machine.file("/data", "16M"), pages * PAGE, first * PAGE
    for filler in (1, 2):  # at least one of them leaves a place that is no multiple by chance
        process = machine.spawn()
        below = process.mmap(0, filler * PAGE, 3, 0x22)
        at = process.mmap(0, length, 1, 1, process.open(file), offset)
        if wants:
            assert (at - offset) % HUGE == 0
            assert below - length - HUGE <= at <= below - length
        else:
            assert at == below - length


def test_longer_than_the_space_below_mmap_base_is_looked_for_from_the_bottom() -> None:
    """The search from the top gives up at once; that from the bottom may have room above."""
    process = pa.Machine(ram="64M", kernel="6.12", arch="x86_64", overcommit_memory=1).spawn()
    base = process.space.placement.base
    for length in (base, base + PAGE, process.space.task_size, 1 << 62):
        with pytest.raises(OSError, match="Cannot allocate memory"):
            process.mmap(0, length, 0, 0x4022)


def modern(**limits: Any) -> pa.Process:
    machine = pa.Machine(ram="64M", kernel="6.12", arch="x86_64")
    return machine.spawn(rlimits=pa.Limits(**limits))


def resident(process: pa.Process) -> int:
    return process.statm()["resident"]


def test_rlimit_memlock_counts_what_is_locked_and_nothing_else() -> None:
    """Whole pages, the last one included; who may lock without a limit is not asked."""
    process = modern(memlock=4 * PAGE + 1)
    at = process.mmap(0, 9 * PAGE, 3, 0x22)  # no area of the limit's: it is not locked
    assert process.mlock(at, 4 * PAGE) == 0
    with pytest.raises(OSError, match="Cannot allocate memory"):
        process.mlock(at + 4 * PAGE, PAGE)
    with pytest.raises(OSError, match="Resource temporarily unavailable"):
        process.mmap(0, PAGE, 3, 0x2022)  # MAP_LOCKED
    assert process.munlock(at, PAGE) == 0
    assert process.mmap(0, PAGE, 3, 0x2022)
    capable = modern(memlock=0, ipc_lock=True)
    assert capable.mlock(capable.mmap(0, 9 * PAGE, 3, 0x22), 9 * PAGE) == 0


def test_rlimit_data_of_zero_is_the_hard_limit() -> None:
    """As may_expand_vm() has it, for valgrind's sake; to the last page."""
    process = modern()
    room = 5 + process.space.data_vm
    process = modern(data=0, data_hard=room * PAGE)
    with pytest.raises(OSError, match="Cannot allocate memory"):
        process.mmap(0, 6 * PAGE, 3, 0x22)
    assert process.mmap(0, 6 * PAGE, 1, 0x22)  # what is not written is no data
    assert process.mmap(0, 5 * PAGE, 3, 0x22)
    with pytest.raises(OSError, match="Cannot allocate memory"):
        process.mmap(0, PAGE, 3, 0x22)


def test_what_is_locked_on_fault_is_not_filled() -> None:
    process = modern(ipc_lock=True)
    assert process.mlockall(6) == 0  # MCL_FUTURE | MCL_ONFAULT
    before = resident(process)
    at = process.mmap(0, 8 * PAGE, 3, 0x8022)  # MAP_POPULATE
    assert resident(process) == before
    assert process.mlock(at, 2 * PAGE) == 0
    assert resident(process) == before + 2


def test_mlock_ends_at_the_area_that_cannot_be_filled() -> None:
    """The areas before it are in memory, those behind it are locked and are not."""
    process = modern(ipc_lock=True)
    at = process.mmap(0, 9 * PAGE, 3, 0x22)
    process.mprotect(at + 3 * PAGE, 3 * PAGE, 0)
    before = resident(process)
    with pytest.raises(OSError, match="Cannot allocate memory"):
        process.mlock(at, 9 * PAGE)
    assert resident(process) == before + 3
    assert process.status()["VmLck"] == 36


@pytest.mark.parametrize("kernel", ["2.6.18", "6.12"])
@pytest.mark.parametrize("more", [0, 1])
def test_the_heap_is_named_wherever_the_break_is_in_its_last_page(kernel: str, more: int) -> None:
    """2.6.18 names the area that covers all from the start of the heap to the break."""
    process = pa.Machine(ram="64M", kernel=kernel, arch="i386").spawn()
    start = process.brk(0)
    process.brk(-(-start // PAGE) * PAGE + 2 * PAGE + more)
    assert "[heap]" in str(process.maps())


@pytest.mark.parametrize("name", ["2.6.18", "6.12"])
def test_an_area_is_split_up_to_the_limit_of_areas(name: str) -> None:
    """The split that makes the last one passes, the next is refused (split_vma)."""
    profile = replace(kernel_profile(name, "i386"), max_map_count=12)
    space = AddressSpace(profile, default_layout(profile))
    at = 0x10000000
    space.mmap(at, 64 * PAGE, RW, ANON | MAP.FIXED)
    page = 1
    while len(space) + 2 <= 12:
        space.mprotect(at + page * PAGE, PAGE, PROT.READ)
        page += 2
    if len(space) < 12:
        space.mprotect(at + 63 * PAGE, PAGE, PROT.READ)
    assert len(space) == 12
    with pytest.raises(OSError, match="Cannot allocate memory"):
        space.mprotect(at + page * PAGE, PAGE, PROT.READ)
    assert len(space) == 12
    space.check()
