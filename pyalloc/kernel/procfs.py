"""The memory texts of ``/proc/PID``, as each kernel prints them.

The address space knows sizes; what is resident is told by whoever runs the page layer, in plain
numbers.

Sources: ``fs/proc/task_mmu.c`` and ``fs/proc/array.c`` of Linux 2.6.11, 2.6.18 and 6.12, and the
files of a running 6.18.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from pyalloc.kernel.abi import (
    VM_EXEC,
    VM_HUGEPAGE,
    VM_LOCKED,
    VM_NOHUGEPAGE,
    VM_SHARED,
    VM_SPECIAL,
    fail,
)
from pyalloc.kernel.area import Vma
from pyalloc.kernel.placement import fits_huge
from pyalloc.kernel.proctext import STATM, ProcText, number
from pyalloc.kernel.vma import AddressSpace
from pyalloc.units import PAGE

_KB: Final = PAGE // 1024


@dataclass(frozen=True, slots=True)
class Resident:
    """What of a process is in memory: pages, unless the name says bytes.

    ``peak`` is the most that was resident at once.  ``tables`` counts pages of page-table entries
    only (2.6); ``table_bytes`` all levels that 6.x counts.
    """

    anon: int = 0
    file: int = 0
    shmem: int = 0
    swap: int = 0
    peak: int = 0
    tables: int = 0
    table_bytes: int = 0

    @property
    def total(self) -> int:
        """VmRSS in pages."""
        return self.anon + self.file + self.shmem


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a process is, for the lines of its status that are not about memory."""

    name: str = "prog"
    pid: int = 1
    ppid: int = 0
    uid: int = 0
    gid: int = 0
    threads: int = 1
    state: str = "S (sleeping)"
    cpus: int = 1


@dataclass(frozen=True, slots=True)
class AreaPages:
    """What of one area is in memory: pages, and proportional shares in bytes."""

    shared_clean: int = 0
    shared_dirty: int = 0
    private_clean: int = 0
    private_dirty: int = 0
    referenced: int = 0
    anonymous: int = 0
    lazyfree: int = 0
    huge: int = 0
    huge_shmem: int = 0
    huge_file: int = 0
    swap: int = 0
    pss_bytes: int = 0
    pss_dirty_bytes: int = 0
    pss_anon_bytes: int = 0
    pss_shmem_bytes: int = 0
    swap_pss_bytes: int = 0

    @property
    def rss(self) -> int:
        """Its resident pages."""
        return self.shared_clean + self.shared_dirty + self.private_clean + self.private_dirty


# --- maps --------------------------------------------------------------------------------------


def maps_line(space: AddressSpace, vma: Vma) -> str:
    """Return the line of ``vma`` in ``/proc/PID/maps``, without its newline."""
    file = vma.file
    offset = vma.pgoff * PAGE if file is not None or space.profile.anon_offset_shown else 0
    if not space.profile.modern:
        offset &= (1 << 8 * space.profile.word) - 1  # an unsigned long
    inode = file.inode if file is not None else None
    major, minor, number = (inode.major, inode.minor, inode.number) if inode else (0, 0, 0)
    line = (
        f"{vma.start:08x}-{vma.end:08x} {vma.permissions} {offset:08x}"
        f" {major:02x}:{minor:02x} {number} "
    )
    label = space.label(vma)
    return line.ljust(25 + 6 * space.profile.word) + label if label else line


def maps_text(space: AddressSpace) -> str:
    """Return the whole of ``/proc/PID/maps``."""
    lines = [maps_line(space, vma) for vma in space]
    if space.gate:
        lines.append(space.gate)
    return "".join(line + "\n" for line in lines)


def maps(space: AddressSpace) -> ProcText[str]:
    """Return ``/proc/PID/maps``; its fields are the address ranges."""
    text = maps_text(space)
    return ProcText(text, dict(line.split(" ", 1) for line in text.splitlines()))


# --- smaps -------------------------------------------------------------------------------------

_FLAG_NAMES: Final = (
    *(["rd", "wr", "ex", "sh", "mr", "mw", "me", "ms", "gd"]),
    *(None, "pf", "gu", None, "lo", "io", "sr", "rr", "dc", "de", "lf", "ac", "nr", "ht", "sf"),
    *(None, "wf", "dd", None, "mm", "hg", "nh", "mg"),
    *[None] * 8,
    "dp",
)
"""The two letters of each VM flag, from bit 0 on."""


def flag_names(flags: int) -> str:
    """Return VM flags as the ``VmFlags`` line of smaps has them, space after each."""
    return "".join(
        f"{name} " for bit, name in enumerate(_FLAG_NAMES) if name is not None and flags >> bit & 1
    )


def smaps(
    space: AddressSpace, pages: Callable[[Vma], AreaPages], *, thp: str = "madvise"
) -> ProcText[Mapping[str, int | str]]:
    """Return ``/proc/PID/smaps``: for each range, its fields in kB.

    ``pages`` tells what of an area is resident, ``thp`` is the setting of transparent huge pages.

    Raises
    ------
    OSError
        ENOENT under 2.6.11, which has no such file.
    """
    if not space.profile.smaps:
        fail(errno.ENOENT)
    text: list[str] = []
    fields: dict[str, Mapping[str, int | str]] = {}
    shown = [(maps_line(space, vma), vma, pages(vma)) for vma in space]
    if space.gate:
        shown.append((space.gate, _gate_area(space.gate), AreaPages()))
    for line, vma, count in shown:
        rows = _smaps_rows(vma, count) if space.profile.modern else _smaps_rows_old(vma, count)
        text.append(line + "\n")
        text += _smaps_lines(rows, 16 if space.profile.modern else 15)
        area: dict[str, int | str] = dict(rows)
        if space.profile.modern:
            eligible = int(_may_be_huge(space, vma, thp))
            text.append(f"THPeligible:    {eligible:8}\nVmFlags: {flag_names(vma.flags)}\n")
            area |= {"THPeligible": eligible, "VmFlags": flag_names(vma.flags).strip()}
        fields[line.partition(" ")[0]] = area
    return ProcText("".join(text), fields)


def smaps_rollup(space: AddressSpace, pages: Callable[[Vma], AreaPages]) -> ProcText[int]:
    """Return ``/proc/PID/smaps_rollup``: the sums over all areas, in kB.

    Raises
    ------
    OSError
        ENOENT under 2.6, which has no such file.
    """
    if not space.profile.modern:
        fail(errno.ENOENT)
    areas = [(vma, pages(vma)) for vma in space]
    total = AreaPages(
        **{name: sum(getattr(count, name) for _, count in areas) for name in AreaPages.__slots__}
    )
    locked = sum(count.pss_bytes for vma, count in areas if vma.flags & VM_LOCKED)
    anon, shmem = total.pss_anon_bytes, total.pss_shmem_bytes
    kinds = {"Anon": anon, "File": total.pss_bytes - anon - shmem, "Shmem": shmem}
    rows = _smaps_rows(areas[0][0], total)[3:]
    rows[3:3] = [(f"Pss_{kind}", value // 1024) for kind, value in kinds.items()]
    rows[-1] = ("Locked", locked // 1024)
    span = f"{areas[0][0].start:08x}-{areas[-1][0].end:08x}"
    head = f"{span} ---p 00000000 00:00 0 ".ljust(25 + 6 * space.profile.word) + "[rollup]\n"
    return ProcText(head + "".join(_smaps_lines(rows, 16)), dict(rows))


def _gate_area(line: str) -> Vma:
    """Return the page that is not an area as if it were one."""
    start, end = (int(bound, 16) for bound in line.partition(" ")[0].split("-"))
    return Vma(start, end, VM_EXEC if " --xp" in line else 0, 0)


def _smaps_lines(rows: Iterable[tuple[str, int]], column: int) -> list[str]:
    """Return the lines of fields in kB, numbers of eight places from ``column`` on."""
    return [f"{name + ':':{column}}{value:8} kB\n" for name, value in rows]


def _smaps_rows_old(vma: Vma, count: AreaPages) -> list[tuple[str, int]]:
    return [
        ("Size", vma.pages * _KB),
        ("Rss", count.rss * _KB),
        ("Shared_Clean", count.shared_clean * _KB),
        ("Shared_Dirty", count.shared_dirty * _KB),
        ("Private_Clean", count.private_clean * _KB),
        ("Private_Dirty", count.private_dirty * _KB),
    ]


def _smaps_rows(vma: Vma, count: AreaPages) -> list[tuple[str, int]]:
    pss = count.pss_bytes // 1024
    return [
        ("Size", vma.pages * _KB),
        ("KernelPageSize", _KB),
        ("MMUPageSize", _KB),
        ("Rss", count.rss * _KB),
        ("Pss", pss),
        ("Pss_Dirty", count.pss_dirty_bytes // 1024),
        *_smaps_rows_old(vma, count)[2:],
        ("Referenced", count.referenced * _KB),
        ("Anonymous", count.anonymous * _KB),
        ("KSM", 0),
        ("LazyFree", count.lazyfree * _KB),
        ("AnonHugePages", count.huge * _KB),
        ("ShmemPmdMapped", count.huge_shmem * _KB),
        ("FilePmdMapped", count.huge_file * _KB),
        ("Shared_Hugetlb", 0),
        ("Private_Hugetlb", 0),
        ("Swap", count.swap * _KB),
        ("SwapPss", count.swap_pss_bytes // 1024),
        ("Locked", pss if vma.flags & VM_LOCKED else 0),
    ]


def _may_be_huge(space: AddressSpace, vma: Vma, thp: str) -> bool:
    """Return whether a huge page fits into ``vma`` and may be used there."""
    if thp == "never" or not vma.anonymous or vma.flags & (VM_NOHUGEPAGE | VM_SPECIAL | VM_SHARED):
        return False
    if thp == "madvise" and not vma.flags & VM_HUGEPAGE:
        return False
    return space.profile.word == 8 and fits_huge(vma)


# --- status ------------------------------------------------------------------------------------


def status(space: AddressSpace, who: Identity, resident: Resident) -> ProcText[int | str]:
    """Return ``/proc/PID/status``; fields in kB are ints, ids and counts too."""
    profile = space.profile
    before = _identity_rows(who) if profile.modern else _identity_rows_old(who)
    after = _signal_rows(who) if profile.modern else _signal_rows_old(who, profile.name)
    memory = memory_rows(space, resident)
    lines = [f"{name}:\t{value}\n" for name, value in before]
    lines += [f"{name}:\t{value:8} kB\n" for name, value in memory]
    fields: dict[str, int | str] = {name: number(value) for name, value in before}
    fields |= dict(memory)
    if profile.modern:
        lines.append(f"HugetlbPages:\t{0:8} kB\n")
        fields["HugetlbPages"] = 0
    lines += [f"{name}:\t{value}\n" for name, value in after]
    fields |= {name: number(value) for name, value in after}
    return ProcText("".join(lines), fields)


def memory_rows(space: AddressSpace, resident: Resident) -> list[tuple[str, int]]:
    """Return the lines of status about memory, in the kernel's order, in kB."""
    profile = space.profile
    text, lib = text_and_libraries(space)
    size = space.total_vm - space.reserved_vm
    peak = ("VmPeak", max(space.peak_vm, space.total_vm) * _KB)
    high = ("VmHWM", max(resident.peak, resident.total) * _KB)
    rss = ("VmRSS", resident.total * _KB)
    locked = ("VmLck", space.locked_vm * _KB)
    code = [("VmExe", text), ("VmLib", lib)]
    if profile.modern:
        parts = [
            ("RssAnon", resident.anon * _KB),
            ("RssFile", resident.file * _KB),
            ("RssShmem", resident.shmem * _KB),
        ]
        sizes = [("VmData", space.data_vm * _KB), ("VmStk", space.stack_vm * _KB)]
        tables = [("VmPTE", resident.table_bytes // 1024), ("VmSwap", resident.swap * _KB)]
        head = [peak, ("VmSize", size * _KB), locked, ("VmPin", 0), high, rss]
        return [*head, *parts, *sizes, *code, *tables]
    data = space.total_vm - space.shared_vm - space.stack_vm
    sizes = [("VmData", data * _KB), ("VmStk", space.stack_vm * _KB)]
    tail = [*sizes, *code, ("VmPTE", resident.tables * _KB)]
    if profile.peaks_shown:
        return [peak, ("VmSize", size * _KB), locked, high, rss, *tail]
    return [("VmSize", size * _KB), locked, rss, *tail]


def text_and_libraries(space: AddressSpace) -> tuple[int, int]:
    """Return VmExe and VmLib in kB."""
    code = -(-space.end_code // PAGE) - space.start_code // PAGE
    if space.profile.modern:
        code = min(code, space.exec_vm)
    return code * _KB, (space.exec_vm - code) * _KB


def _four(value: int) -> str:
    return "\t".join([str(value)] * 4)


def _identity_rows(who: Identity) -> list[tuple[str, str]]:
    pid = str(who.pid)
    return [
        ("Name", who.name),
        ("Umask", "0022"),
        ("State", who.state),
        ("Tgid", pid),
        ("Ngid", "0"),
        ("Pid", pid),
        ("PPid", str(who.ppid)),
        ("TracerPid", "0"),
        ("Uid", _four(who.uid)),
        ("Gid", _four(who.gid)),
        ("FDSize", "64"),
        ("Groups", " "),
        *((name, pid) for name in ("NStgid", "NSpid", "NSpgid", "NSsid")),
        ("Kthread", "0"),
    ]


def _signal_rows(who: Identity) -> list[tuple[str, str]]:
    none = "0" * 16
    every = "000001ffffffffff"
    capable = every if who.uid == 0 else none
    return [
        ("CoreDumping", "0"),
        ("THP_enabled", "1"),
        ("untag_mask", "0xffffffffffffffff"),
        ("Threads", str(who.threads)),
        ("SigQ", "0/0"),
        *((name, none) for name in ("SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt", "CapInh")),
        ("CapPrm", capable),
        ("CapEff", capable),
        ("CapBnd", every),
        ("CapAmb", none),
        ("NoNewPrivs", "0"),
        ("Seccomp", "0"),
        ("Seccomp_filters", "0"),
        ("Cpus_allowed", f"{(1 << who.cpus) - 1:x}"),
        ("Cpus_allowed_list", "0" if who.cpus == 1 else f"0-{who.cpus - 1}"),
        ("Mems_allowed", "00000001"),
        ("Mems_allowed_list", "0"),
        ("voluntary_ctxt_switches", "0"),
        ("nonvoluntary_ctxt_switches", "0"),
    ]


def _identity_rows_old(who: Identity) -> list[tuple[str, str]]:
    return [
        ("Name", who.name),
        ("State", who.state),
        ("SleepAVG", "0%"),
        ("Tgid", str(who.pid)),
        ("Pid", str(who.pid)),
        ("PPid", str(who.ppid)),
        ("TracerPid", "0"),
        ("Uid", _four(who.uid)),
        ("Gid", _four(who.gid)),
        ("FDSize", "256"),
        ("Groups", f"{who.gid} "),
    ]


def _signal_rows_old(who: Identity, kernel: str) -> list[tuple[str, str]]:
    none = "0" * 16
    capable = "00000000fffffeff" if who.uid == 0 else none
    queue = [] if kernel == "2.6.11" else [("SigQ", "0/0")]
    return [
        ("Threads", str(who.threads)),
        *queue,
        *((name, none) for name in ("SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt", "CapInh")),
        ("CapPrm", capable),
        ("CapEff", capable),
    ]


# --- statm -------------------------------------------------------------------------------------


def statm(space: AddressSpace, resident: Resident) -> ProcText[int]:
    """Return ``/proc/PID/statm``, in pages."""
    text, _ = text_and_libraries(space)
    if space.profile.modern:
        data = space.data_vm + space.stack_vm
    else:
        data = space.total_vm - space.shared_vm
    shared = resident.file + resident.shmem
    numbers = (space.total_vm, resident.total, shared, text // _KB, 0, data, 0)
    fields = dict(zip(STATM, numbers, strict=True))
    return ProcText(" ".join(map(str, fields.values())) + "\n", fields)
