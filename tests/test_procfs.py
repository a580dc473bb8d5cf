"""The texts of /proc are the kernel's, to the byte."""

from __future__ import annotations

import errno
import platform
import re
from pathlib import Path

import pytest

import pyalloc as pa
from pyalloc.host.kernel import host_kernel
from pyalloc.kernel.abi import MADV, MAP
from pyalloc.kernel.layout import default_layout, layout_from_maps
from pyalloc.kernel.limits import Limits
from pyalloc.kernel.meminfo import MemoryPages, meminfo
from pyalloc.kernel.procfs import AreaPages, Identity, Resident, maps, smaps, statm, status
from pyalloc.kernel.profiles import KernelProfile, kernel_profile
from pyalloc.kernel.vma import AddressSpace

PAGE = 4096
ANON = int(MAP.PRIVATE | MAP.ANONYMOUS)
modern_host = pytest.mark.skipif(
    platform.machine() != "x86_64" or not Path("/proc/self/smaps").exists(),
    reason="compares with the files of an x86-64 Linux",
)


def space_of(kernel: str, arch: str = "x86_64") -> AddressSpace:
    profile = kernel_profile(kernel, arch)
    return AddressSpace(profile, default_layout(profile))


def host_profile() -> KernelProfile:
    release = tuple(int(part) for part in re.findall(r"\d+", platform.release())[:2])
    return kernel_profile("6.18" if release >= (6, 17) else "6.12")


def test_a_2_6_18_status_has_the_article_s_lines_in_its_order() -> None:
    """VmPeak to VmPTE as the article prints them; nothing newer."""
    text = str(status(space_of("2.6.18", "i386"), Identity("a"), Resident(anon=3, file=5)))
    names = [line.split(":")[0] for line in text.splitlines() if line.startswith("Vm")]
    assert names == (
        [
            "VmPeak",
            "VmSize",
            "VmLck",
            "VmHWM",
            "VmRSS",
            "VmData",
            "VmStk",
            "VmExe",
            "VmLib",
            "VmPTE",
        ]
    )
    assert "VmRSS:\t      32 kB\n" in text


def test_2_6_11_knows_no_peaks() -> None:
    """Neither VmPeak nor VmHWM existed, nor AnonPages, nor smaps."""
    space = space_of("2.6.11", "i386")
    fields = status(space, Identity(), Resident())
    assert "VmPeak" not in fields
    assert "VmHWM" not in fields
    assert "AnonPages" not in meminfo(space.profile, MemoryPages())
    with pytest.raises(OSError, match="No such file") as caught:
        smaps(space, lambda _: AreaPages())
    assert caught.value.errno == errno.ENOENT


def test_status_is_a_mapping_of_numbers() -> None:
    """Fields in kB are ints, masks stay text."""
    fields = status(space_of("6.12"), Identity("b", pid=7, uid=1), Resident(anon=10, swap=2))
    assert (fields["VmRSS"], fields["VmSwap"], fields["Pid"]) == (40, 8, 7)
    assert fields["CapEff"] == "0000000000000000"
    assert fields["Uid"] == "1\t1\t1\t1"


def test_statm_of_both_eras() -> None:
    """2.6 counts everything anonymous as data, 6.x what is private and writable."""
    old, new = space_of("2.6.18", "i386"), space_of("6.12")
    assert str(statm(old, Resident(anon=2, file=1))) == "25 3 1 1 0 23 0\n"
    assert str(statm(new, Resident(anon=2, file=1))) == "42 3 1 1 0 35 0\n"


def test_sizes_add_up_as_in_the_article() -> None:
    """VmSize = VmData + VmStk + what stands on files."""
    fields = status(space_of("2.6.18", "i386"), Identity(), Resident())
    values = {name: value for name, value in fields.items() if isinstance(value, int)}
    assert values["VmSize"] == values["VmData"] + values["VmStk"] + 8


def test_maps_fields_are_the_ranges() -> None:
    """Each line is found by its range."""
    lines = maps(space_of("2.6.11", "i386"))
    assert lines["ffffe000-fffff000"] == "---p 00000000 00:00 0 "


def test_smaps_of_2_6_18() -> None:
    """A header line and six sizes, eight places wide."""
    space = space_of("2.6.18", "i386")
    text = str(smaps(space, lambda _: AreaPages(private_dirty=1)))
    assert text.startswith(
        "08048000-08049000 r-xp 00000000 00:00 1          /prog\n"
        "Size:                 4 kB\n"
        "Rss:                  4 kB\n"
        "Shared_Clean:         0 kB\n"
        "Shared_Dirty:         0 kB\n"
        "Private_Clean:        0 kB\n"
        "Private_Dirty:        4 kB\n"
        "08049000-0804a000 "
    )


def test_locked_and_huge_show_in_smaps() -> None:
    """Locked repeats Pss, the flags have their letters."""
    space = space_of("6.12")
    space.limits = Limits(ipc_lock=True)
    address = space.mmap(0, 4 << 20, 3, ANON)
    space.madvise(address, 4 << 20, MADV.HUGEPAGE)
    space.mlock(address, 4 << 20)
    area = smaps(space, lambda _: AreaPages(pss_bytes=8192))[
        f"{address:08x}-{address + (4 << 20):08x}"
    ]
    assert (area["Locked"], area["THPeligible"]) == (8, 1)
    assert area["VmFlags"] == "rd wr mr mw me lo ac hg"


def test_memory_available_leaves_the_watermarks_alone() -> None:
    """Half of cache and slab counts, or all but the low watermark."""
    pages = MemoryPages(
        total=1000,
        free=500,
        active_file=100,
        inactive_file=100,
        slab_reclaimable=10,
        low_watermarks=50,
        total_reserve=20,
    )
    assert pages.available == 500 - 20 + 200 - 50 + 10 - 5


@modern_host
def test_status_lines_are_formatted_as_on_this_host() -> None:
    """Every line this kernel prints before the signals is one of ours, and in our order."""
    real = Path("/proc/self/status").read_text(encoding="utf-8")
    ours = str(
        status(AddressSpace(host_profile(), default_layout(host_profile())), Identity(), Resident())
    )
    names = [line.split(":")[0] for line in real.splitlines()]
    until = names.index("Threads")
    assert [line.split(":")[0] for line in ours.splitlines()][:until] == names[:until]
    assert (
        re.sub(r"\t *\d+ kB", " N kB", real).splitlines()[until - 20 : until - 4]
        == (re.sub(r"\t *\d+ kB", " N kB", ours).splitlines()[until - 20 : until - 4])
    )


@modern_host
def test_this_host_s_own_maps_survive_the_round_trip() -> None:
    """The maps of this very process print as they were read."""
    text = Path("/proc/self/maps").read_text(encoding="utf-8")
    space = AddressSpace(host_profile(), layout_from_maps(text, host_profile()))
    space.check()
    assert str(maps(space)) == text


@modern_host
def test_meminfo_is_formatted_as_on_this_host() -> None:
    """Given this machine's numbers, the lines are this machine's."""
    real = Path("/proc/meminfo").read_text(encoding="utf-8")
    kb = {line.split(":")[0]: int(line.split()[1]) for line in real.splitlines()}
    ours = str(
        meminfo(host_profile(), MemoryPages(total=kb["MemTotal"] // 4, free=kb["MemFree"] // 4))
    )
    theirs = real.splitlines()
    mine = ours.splitlines()
    assert mine[:2] == theirs[:2]
    optional = {"HardwareCorrupted", "CmaTotal", "CmaFree", "Unaccepted", "DirectMap1G", "Balloon"}
    zswap = {"Zswap", "Zswapped"}
    known = [line for line in theirs if line.split(":")[0] not in optional | zswap]
    assert [line.split(":")[0] for line in known] == (
        [line.split(":")[0] for line in mine if line.split(":")[0] not in optional | zswap]
    )
    assert {len(line) for line in mine} <= {len(line) for line in theirs}


@modern_host
def test_smaps_is_formatted_as_on_this_host() -> None:
    """The fields of an area, their order and their columns are this kernel's."""
    real = Path("/proc/self/smaps").read_text(encoding="utf-8")
    space = AddressSpace(host_profile(), default_layout(host_profile()))
    ours = str(smaps(space, lambda _: AreaPages()))

    def shape(text: str) -> list[str]:
        area = re.split(r"(?m)^[0-9a-f]+-.*\n", text)[1]
        lines = [
            line for line in area.splitlines() if not line.startswith(("VmFlags", "Protection"))
        ]
        return [re.sub(r" +\d+", lambda match: "." * len(match[0]), line) for line in lines]

    assert shape(ours) == shape(real)


# --- one reader for both worlds ----------------------------------------------------------------

FILES = ("maps", "smaps", "smaps_rollup", "status", "statm")


def busy_process(kernel: str, arch: str) -> pa.Process:
    """Return a process with an area of each kind, one of them locked, and a child."""
    machine = pa.Machine(kernel=kernel, arch=arch, ram="64M", swap="64M")
    process = machine.spawn("busy", uid=0)
    descriptor = process.open(machine.file("/data file", size=40000), "rw")
    for flags, fd in ((0x22, -1), (0x21, -1), (0x1, descriptor), (0x2, descriptor)):
        at = process.mmap(0, 8 * PAGE, 3, flags, fd)
        process.touch(at, 5 * PAGE)
    process.mlock(at, PAGE)
    process.touch(process.malloc(100000), 100000)
    process.fork()
    return process


@pytest.mark.parametrize("arch", ["i386", "x86_64"])
@pytest.mark.parametrize("kernel", ["2.6.11", "2.6.18", "6.12", "6.18"])
def test_a_text_is_read_as_what_it_was_printed_from(kernel: str, arch: str) -> None:
    """Of each era and each file, the fields parsed are those the simulation gives."""
    process = busy_process(kernel, arch)
    for name in FILES:
        try:
            ours = getattr(process, name)()
        except FileNotFoundError:
            assert kernel == "2.6.11" or (kernel == "2.6.18" and name == "smaps_rollup")
            continue
        read = pa.parse_proc(name, str(ours))
        assert dict(read) == dict(ours)
        assert str(read) == str(ours)
    for name in ("meminfo", "vmstat"):
        ours = getattr(process.machine, name)()
        assert dict(pa.parse_proc(name, str(ours))) == dict(ours)


@modern_host
def test_this_host_s_files_are_read_into_the_same_objects() -> None:
    """Each field of the model's is one of this kernel's, of the same kind; most are there."""
    process = busy_process(host_profile().name, "x86_64")
    for name in ("status", "statm", "smaps_rollup"):
        real, ours = pa.read_proc(name), getattr(process, name)()
        common = [field for field in real if field in ours]
        assert common == [field for field in ours if field in real]
        assert {field: type(real[field]) for field in common if field.startswith("Vm")} == (
            {field: type(ours[field]) for field in common if field.startswith("Vm")}
        )
        assert len(common) > 0.9 * len(ours)
    assert list(pa.parse_proc("maps", str(process.maps()))) == list(process.smaps())
    assert pa.read_proc("meminfo")["MemTotal"] == host_kernel().ram >> 10
    with pytest.raises(pa.ArgumentError, match="no reader of /proc file 'mounts'"):
        pa.read_proc("mounts")
    with pytest.raises(pa.ArgumentError, match="no text of a /proc statm"):
        pa.parse_proc("statm", "1 2 x")


@modern_host
def test_smaps_rollup_is_formatted_as_on_this_host() -> None:
    """Its head, its fields, their order and their columns; the sums are those of smaps."""
    process = busy_process(host_profile().name, "x86_64")
    real, ours = pa.read_proc("smaps_rollup"), process.smaps_rollup()
    (head, *lines), (real_head, *real_lines) = str(ours).splitlines(), str(real).splitlines()
    span = head.split(" ")[0]
    assert head == f"{span} {real_head.partition(' ')[2].split('  ')[0]} ".ljust(73) + "[rollup]"
    assert [re.sub(" +[0-9]+", "", line) for line in lines] == (
        [re.sub(" +[0-9]+", "", line) for line in real_lines]
    )
    assert {len(line) for line in lines} == {len(line) for line in real_lines}
    areas = process.smaps().values()
    for field in ("Rss", "Anonymous", "Private_Dirty", "Shared_Dirty", "Swap"):
        assert ours[field] == sum(int(area[field]) for area in areas if field in area)
    parts = sum(ours[f"Pss_{kind}"] for kind in ("Anon", "File", "Shmem"))
    assert ours["Pss"] - 2 <= parts <= ours["Pss"]
    assert 0 < ours["Locked"] <= 4
