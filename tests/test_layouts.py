"""Each kernel gives a program the address space that its sources, or this host, say it gives."""

from __future__ import annotations

import pytest
from test_host import can_build
from test_verify_kernel import can_verify

import pyalloc as pa
from pyalloc.host.kernel import host_kernel, may_lock
from pyalloc.host.mapped import mapped_files
from pyalloc.host.puppet import Puppet, Start
from pyalloc.kernel.limits import INFINITY
from pyalloc.kernel.maps import parse_maps
from pyalloc.kernel.profiles import PROFILES
from pyalloc.lab.verify.twins import Twins
from pyalloc.workload.syscalls import SystemCall

PAGE = 4096
ANON = int(pa.MAP.PRIVATE | pa.MAP.ANONYMOUS)
COMPAT, THREE = pa.PER.ADDR_COMPAT_LAYOUT, pa.PER.ADDR_LIMIT_3GB

# kernel, architecture, personality, end of the space, end of the first mapping (start if legacy)
SPACES = [
    ("2.6.11", "i386", 0, 0xC0000000, 0xB8000000),
    ("2.6.18", "i386", 0, 0xC0000000, 0xB7FFF000),
    ("2.6.18", "i386", THREE, 0xC0000000, 0xB7FFF000),
    ("2.6.18", "i386-pae", 0, 0xC0000000, 0xB7FFF000),
    ("2.6.11", "i386-4g4g", 0, 0xFF000000, 0xF7000000),
    ("2.6.18", "i386-4g4g", 0, 0xFF000000, 0xF6FFF000),
    ("2.6.18", "i386-compat", 0, 0xFFFFE000, 0xF7FFE000),
    ("2.6.18", "i386-compat", THREE, 0xC0000000, 0xB8000000),
    ("6.12", "i386", 0, 0xFFFFE000, 0xF7FF8000),
    ("6.18", "i386", 0, 0xFFFFE000, 0xF7FF6000),
    ("6.18", "i386", THREE, 0xC0000000, 0xB7FF8000),
    ("6.18", "i386-compat", THREE, 0xC0000000, 0xB7FF8000),
    ("6.12", "i386-pae", 0, 0xC0000000, 0xB7FFA000),
    ("6.18", "x86_64", 0, 0x7FFFFFFFF000, 0x7FFFF7FF7000),
]
LEGACY = [
    ("2.6.11", "i386", COMPAT, 0xC0000000, 0x40000000),
    ("2.6.18", "i386", COMPAT, 0xC0000000, 0x40001000),
    ("2.6.18", "i386-4g4g", COMPAT, 0xFF000000, 0x55001000),
    ("2.6.11", "i386-compat", 0, 0xFFFFE000, 0x55555000),
    ("2.6.18", "i386-compat", COMPAT, 0xFFFFE000, 0x55555000),
    ("2.6.11", "x86_64", 0, 0x800000000000, 0x2AAAAAAAB000),
    ("2.6.18", "x86_64", 0, 0x7FFFFFFFF000, 0x2AAAAAAAB000),
    ("6.18", "i386", COMPAT, 0xFFFFE000, 0x5555D000),
    ("6.18", "i386", COMPAT | THREE, 0xC0000000, 0x40008000),
    ("6.18", "x86_64", COMPAT, 0x7FFFFFFFF000, 0x2AAAAAAB3000),
]


def spawn(kernel: str, arch: str, personality: int = 0, **limits: int) -> pa.Process:
    machine = pa.Machine(ram="8G", kernel=kernel, arch=arch)
    return machine.spawn("prog", personality=personality, rlimits=pa.Limits(**limits))


def stack_end(process: pa.Process) -> int:
    """Return the end of the last area a stack pointer can be in."""
    ends = [int(span.split("-")[1], 16) for span in process.maps()]
    return max(end for end in ends if end <= process.space.task_size)


@pytest.mark.parametrize(("kernel", "arch", "personality", "end", "place"), SPACES)
def test_mappings_grow_down_from_below_the_stack(
    kernel: str, arch: str, personality: int, end: int, place: int
) -> None:
    """The stack ends with the space; what is mapped first ends where mmap_base says."""
    process = spawn(kernel, arch, personality)
    assert stack_end(process) == end
    assert process.mmap(0, PAGE, 3, ANON) == place - PAGE
    assert process.mmap(0, PAGE, 0, ANON) == place - 2 * PAGE


@pytest.mark.parametrize(("kernel", "arch", "personality", "end", "place"), LEGACY)
def test_mappings_grow_up_from_a_third_of_the_space(
    kernel: str, arch: str, personality: int, end: int, place: int
) -> None:
    """The old layout, by personality or because the kernel knows no other."""
    process = spawn(kernel, arch, personality)
    assert stack_end(process) == end
    assert process.mmap(0, PAGE, 3, ANON) == place
    assert process.mmap(0, PAGE, 0, ANON) == place + PAGE


@pytest.mark.parametrize(("kernel", "place"), [("2.6.11", 0x40000000), ("2.6.18", 0x40001000)])
def test_a_stack_without_a_limit_means_the_old_layout_in_2_6(kernel: str, place: int) -> None:
    """Nothing below the stack would be safe."""
    assert spawn(kernel, "i386", stack=INFINITY).mmap(0, PAGE, 3, ANON) == place


@pytest.mark.skipif(not can_verify(), reason="no profile of this host's kernel")
@pytest.mark.parametrize("stack", [64 << 10, 8 << 20, 200 << 20, 3 << 30, INFINITY])
@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("space", ["x86_64", "4 GiB", "3 GiB"])
def test_this_host_s_kernel_starts_a_program_so(space: str, legacy: bool, stack: int) -> None:
    """The kernel's own areas, the stack's end and the first mapping are where they are here."""
    arch, three = ("x86_64", False) if space == "x86_64" else ("i386", space == "3 GiB")
    if arch == "i386" and not can_build(4):
        pytest.skip("no 32-bit gcc")
    limits = pa.Limits(stack=stack)
    personality = COMPAT * legacy | THREE * three
    process = pa.Machine(kernel=host_kernel().model, arch=arch).spawn(
        "prog", personality=personality, rlimits=limits
    )
    with Puppet(Start(arch, legacy, three, limits)) as puppet:
        real = parse_maps(puppet.read("maps"))
        ours = parse_maps(str(process.maps()))
        names = ("[vvar]", "[vvar_vclock]", "[vdso]")
        assert [area for area in ours if area.name in names] == (
            [area for area in real if area.name in names]
        )
        ends = [[area.end for area in areas if area.name == "[stack]"] for areas in (ours, real)]
        assert ends[0] == ends[1]
        for length in (PAGE, 2 << 20, 64 << 20):
            there = puppet.call("mmap", 0, length, 3, ANON, -1, 0)
            assert process.mmap(0, length, 3, ANON) == there.value


@pytest.mark.parametrize(
    ("kernel", "arch", "last"),
    [
        ("2.6.11", "i386", "ffffe000-fffff000 ---p 00000000 00:00 0 "),
        ("2.6.11", "x86_64", "ffffffffff600000-ffffffffffe00000 ---p 00000000 00:00 0 "),
        (
            "2.6.18",
            "x86_64",
            f"{'ffffffffff600000-ffffffffffe00000 ---p 00000000 00:00 0':73}[vdso]",
        ),
        ("2.6.18", "i386-compat", "ffffe000-fffff000 r-xp ffffe000 00:00 0 "),
        (
            "6.18",
            "x86_64",
            f"{'ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0':73}[vsyscall]",
        ),
    ],
)
def test_the_kernel_s_own_page_ends_the_map(kernel: str, arch: str, last: str) -> None:
    """A gate that is no area; for 32-bit programs of 2.6.18 on 64 bits an area beyond the space."""
    process = spawn(kernel, arch)
    assert str(process.maps()).splitlines()[-1] == last
    assert [name for name in str(process.maps()).split() if name == "[vdso]"] == (
        ["[vdso]"] if (kernel, arch) in {("2.6.18", "x86_64"), ("6.18", "x86_64")} else []
    )


def test_a_4g_4g_kernel_maps_nearly_all_memory_for_itself() -> None:
    """Of 8 GB, 3936 MB are low memory; a megabyte at a time there are 4062 for a program."""
    machine = pa.Machine(ram="8G", kernel="2.6.18", arch="i386-4g4g")
    info = machine.meminfo()
    assert info["LowTotal"] >> 10 == 3936
    program = machine.spawn("a")
    count = 0
    while program.malloc(1 << 20):
        count += 1
    assert count == 4062
    assert program.status()["VmPTE"] == 4 * (0xFF000000 >> 21)  # each for 2 MB


def test_a_64_bit_program_of_2_6_maps_low_when_it_asks() -> None:
    """MAP_32BIT means the second gigabyte; 2.6.18 then finds holes again, and only then."""
    process = spawn("2.6.18", "x86_64")
    low = ANON | int(pa.MAP.MAP_32BIT)
    first = process.mmap(0, 4 * PAGE, 3, low)
    assert first == 0x40000000
    assert process.mmap(0, PAGE, 3, low) == first + 4 * PAGE
    with pytest.raises(OSError, match="memory"):
        process.mmap(0, 1 << 31, 3, low)
    high = process.mmap(0, PAGE, 3, ANON)
    assert high == 0x2AAAAAAAB000
    assert process.mmap(0, 1 << 31, 3, ANON) == high + PAGE


def test_reading_implies_executing_by_personality() -> None:
    """What is mapped to be read is executable, in either era."""
    for kernel in ("2.6.18", "6.18"):
        process = spawn(kernel, "i386", pa.PER.READ_IMPLIES_EXEC)
        at = process.mmap(0, PAGE, int(pa.PROT.READ), ANON)
        assert process.maps()[f"{at:08x}-{at + PAGE:08x}"].startswith("r-xp")


def test_a_32_bit_program_s_stack_merges_with_nothing() -> None:
    """6.x makes it at the end of a 64-bit space and moves it down: its pages keep their numbers."""
    for arch, lines in (("i386", 2), ("x86_64", 1), ("i386-pae", 1)):
        process = spawn("6.18", arch)
        low = process.space.start_stack // PAGE * PAGE - 32 * PAGE
        flags = ANON | int(pa.MAP.FIXED | pa.MAP.GROWSDOWN)
        assert process.mmap(low, 4 * PAGE, 3, flags) == low
        starts = [int(span.split("-")[0], 16) for span in process.maps()]
        assert sum(low <= start < process.space.task_size for start in starts) == lines


@pytest.mark.skipif(not can_verify(), reason="no profile of this host's kernel")
@pytest.mark.parametrize("arch", ["x86_64", "i386"])
def test_what_stands_at_the_stack_is_as_on_this_host(arch: str) -> None:
    """Mappings over its low end and in its way, growth up to them, and past its limit."""
    if arch == "i386" and not can_build(4):
        pytest.skip("no 32-bit gcc")
    start = Start(arch, limits=pa.Limits(stack=2 << 20, ipc_lock=may_lock()))
    with mapped_files() as files, Twins(start, host_kernel(), files) as twins:
        stack = twins.space.at(twins.space.start_stack)
        assert stack is not None
        low = stack.start
        for row, call in enumerate((
            ("mmap", low, 4 * PAGE, 3, ANON | 0x110, -1, 0),
            ("touch", low - 2 * PAGE, 1, 1),
            ("mmap", low - 300 * PAGE, PAGE, 3, ANON | 0x10, -1, 0),
            ("touch", low - 40 * PAGE, 2, 1),
            ("touch", low - 44 * PAGE, 1, 0),
            ("munmap", low - 300 * PAGE, PAGE),
            ("touch", low - 400 * PAGE, 3, 1),
            ("touch", low - 500 * PAGE, 1, 1),
            ("fork",),
            ("touch", low - 420 * PAGE, 3, 1),
        )):  # fmt: skip
            name, *args = call
            assert twins.difference(row, SystemCall(str(name), tuple(map(int, args)))) is None


@pytest.mark.parametrize("personality", [0, COMPAT, THREE, pa.PER.READ_IMPLIES_EXEC])
@pytest.mark.parametrize(("kernel", "arch"), list(PROFILES))
def test_a_map_is_enough_to_start_from(kernel: str, arch: str, personality: int) -> None:
    """A process started from another's maps and break prints the same map and sizes."""
    first = spawn(kernel, arch, personality)
    first.touch(first.malloc(300000), 300000)
    for flags, prot in ((ANON, 1), (int(pa.MAP.SHARED | pa.MAP.ANONYMOUS), 3)):
        first.mmap(0, 2 * PAGE, prot, flags)
    machine = pa.Machine(ram="8G", kernel=kernel, arch=arch)
    second = machine.spawn("prog", maps=str(first.maps()), brk=first.brk(0))
    assert str(second.maps()) == str(first.maps())
    for name in ("VmSize", "VmData", "VmStk", "VmExe", "VmLib"):
        assert second.status()[name] == first.status()[name]
    assert second.mmap(0, PAGE, 0, ANON) == first.mmap(0, PAGE, 0, ANON)
