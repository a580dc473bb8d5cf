"""``/proc/meminfo``, as each kernel prints it.

Sources: ``fs/proc/meminfo.c`` and ``mm/show_mem.c`` of Linux 6.12, ``fs/proc/proc_misc.c`` of
2.6.11 and 2.6.18, and the file of a running 6.18.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pyalloc.kernel.proctext import ProcText
from pyalloc.kernel.profiles import KernelProfile
from pyalloc.units import PAGE

_KB: Final = PAGE // 1024


@dataclass(frozen=True, slots=True)
class MemoryPages:
    """What the machine's memory holds, in pages; kilobytes where the name says so.

    ``cached`` counts neither buffers nor swap cache.  ``low_watermarks`` is the sum of the zones'
    low watermarks and ``total_reserve`` what allocations of user pages never get.
    """

    total: int = 0
    free: int = 0
    buffers: int = 0
    cached: int = 0
    swap_cached: int = 0
    active_anon: int = 0
    inactive_anon: int = 0
    active_file: int = 0
    inactive_file: int = 0
    unevictable: int = 0
    mlocked: int = 0
    high_total: int = 0
    high_free: int = 0
    swap_total: int = 0
    swap_free: int = 0
    dirty: int = 0
    writeback: int = 0
    anon: int = 0
    mapped: int = 0
    shmem: int = 0
    slab_reclaimable: int = 0
    slab_unreclaimable: int = 0
    kernel_stack_kb: int = 0
    page_tables: int = 0
    commit_limit: int = 0
    committed: int = 0
    percpu: int = 0
    anon_huge: int = 0
    vmalloc_used_kb: int = 0
    low_watermarks: int = 0
    total_reserve: int = 0

    @property
    def available(self) -> int:
        """MemAvailable in pages: what could be had without swapping (``si_mem_available``)."""
        file = self.active_file + self.inactive_file
        slab = self.slab_reclaimable
        low = self.low_watermarks
        left = self.free - self.total_reserve
        left += file - min(file // 2, low) + slab - min(slab // 2, low)
        return max(left, 0)


def meminfo(profile: KernelProfile, pages: MemoryPages) -> ProcText[int]:
    """Return ``/proc/meminfo``; fields in kB, huge pages in pieces.

    Examples
    --------
    >>> from pyalloc.kernel.profiles import kernel_profile
    >>> str(meminfo(kernel_profile("2.6.18", "i386"), MemoryPages(total=63986))).splitlines()[0]
    'MemTotal:       255944 kB'
    """
    if profile.modern:
        rows, width = _modern(profile, pages), 16
    else:
        rows, width = _old(profile, pages), 14
    counts = _huge_pages(profile)
    text = "".join(f"{name + ':':{width}}{value:8} kB\n" for name, value in rows)
    text += "".join(
        f"{name + ':':{16}} {value:{7 if profile.modern else 5}}\n" for name, value in counts
    )
    tail = _tail(profile, pages)
    text += "".join(
        f"{name + ':':{16}}{value:{8 if profile.modern else 6}} kB\n" for name, value in tail
    )
    return ProcText(text, dict(rows + counts + tail))


def free_virtual_memory(fields: Mapping[str, int]) -> int:
    """Return free virtual memory in kB as the article defines it, from the fields of a meminfo.

    It is MemFree + Buffers + Cached + SwapFree.  Of that, what is mapped, shared or dirty cannot
    simply be had: ``MemAvailable`` says what can, without swapping.

    >>> free_virtual_memory(
    ...     {"MemFree": 3668, "Buffers": 13640, "Cached": 171788, "SwapFree": 909676}
    ... )
    1098772
    """
    return sum(fields[name] for name in ("MemFree", "Buffers", "Cached", "SwapFree"))


def _in_kb(rows: dict[str, int]) -> list[tuple[str, int]]:
    return [(name, value * _KB) for name, value in rows.items()]


def _swap_and_high(profile: KernelProfile, pages: MemoryPages) -> dict[str, int]:
    swap = {"SwapTotal": pages.swap_total, "SwapFree": pages.swap_free}
    if profile.modern and profile.word == 8:
        return swap
    return {
        "HighTotal": pages.high_total,
        "HighFree": pages.high_free,
        "LowTotal": pages.total - pages.high_total,
        "LowFree": pages.free - pages.high_free,
        **swap,
    }


def _old(profile: KernelProfile, pages: MemoryPages) -> list[tuple[str, int]]:
    active = pages.active_anon + pages.active_file
    inactive = pages.inactive_anon + pages.inactive_file
    head = {
        "MemTotal": pages.total,
        "MemFree": pages.free,
        "Buffers": pages.buffers,
        "Cached": pages.cached,
        "SwapCached": pages.swap_cached,
        "Active": active,
        "Inactive": inactive,
        **_swap_and_high(profile, pages),
        "Dirty": pages.dirty,
        "Writeback": pages.writeback,
    }
    mapped = {"Mapped": pages.mapped}
    slab = {"Slab": pages.slab_reclaimable + pages.slab_unreclaimable}
    promises = {"CommitLimit": pages.commit_limit, "Committed_AS": pages.committed}
    tables = {"PageTables": pages.page_tables}
    if profile.peaks_shown:
        unused = {"NFS_Unstable": 0, "Bounce": 0}
        rest = {"AnonPages": pages.anon, **mapped, **slab, **tables, **unused, **promises}
    else:
        rest = {**mapped, **slab, **promises, **tables}
    return [*_in_kb(head | rest), *_vmalloc(profile, pages)]


def _vmalloc(profile: KernelProfile, pages: MemoryPages) -> list[tuple[str, int]]:
    total = profile.vmalloc_total // 1024
    chunk = 0 if profile.modern else total - pages.vmalloc_used_kb
    return [
        ("VmallocTotal", total),
        ("VmallocUsed", pages.vmalloc_used_kb),
        ("VmallocChunk", chunk),
    ]


def _modern(profile: KernelProfile, pages: MemoryPages) -> list[tuple[str, int]]:
    lists = {
        "Active": pages.active_anon + pages.active_file,
        "Inactive": pages.inactive_anon + pages.inactive_file,
        "Active(anon)": pages.active_anon,
        "Inactive(anon)": pages.inactive_anon,
        "Active(file)": pages.active_file,
        "Inactive(file)": pages.inactive_file,
        "Unevictable": pages.unevictable,
        "Mlocked": pages.mlocked,
    }
    head = {
        "MemTotal": pages.total,
        "MemFree": pages.free,
        "MemAvailable": pages.available,
        "Buffers": pages.buffers,
        "Cached": pages.cached,
        "SwapCached": pages.swap_cached,
        **lists,
        **_swap_and_high(profile, pages),
        "Zswap": 0,
        "Zswapped": 0,
        "Dirty": pages.dirty,
        "Writeback": pages.writeback,
        "AnonPages": pages.anon,
        "Mapped": pages.mapped,
        "Shmem": pages.shmem,
        "KReclaimable": pages.slab_reclaimable,
        "Slab": pages.slab_reclaimable + pages.slab_unreclaimable,
        "SReclaimable": pages.slab_reclaimable,
        "SUnreclaim": pages.slab_unreclaimable,
    }
    tables = {
        "PageTables": pages.page_tables,
        **dict.fromkeys(("SecPageTables", "NFS_Unstable", "Bounce", "WritebackTmp"), 0),
        "CommitLimit": pages.commit_limit,
        "Committed_AS": pages.committed,
    }
    huge = {
        "Percpu": pages.percpu,
        "AnonHugePages": pages.anon_huge,
        **dict.fromkeys(("ShmemHugePages", "ShmemPmdMapped", "FileHugePages", "FilePmdMapped"), 0),
    }
    if profile.balloon_shown:
        huge["Balloon"] = 0
    return [
        *_in_kb(head),
        ("KernelStack", pages.kernel_stack_kb),
        *_in_kb(tables),
        *_vmalloc(profile, pages),
        *_in_kb(huge),
    ]


def _huge_pages(profile: KernelProfile) -> list[tuple[str, int]]:
    names = ["HugePages_Total", "HugePages_Free"]
    if profile.name != "2.6.11":
        names.append("HugePages_Rsvd")
    if profile.modern:
        names.append("HugePages_Surp")
    return [(name, 0) for name in names]


def _tail(profile: KernelProfile, pages: MemoryPages) -> list[tuple[str, int]]:
    size = ("Hugepagesize", profile.table_span // 1024)
    if not profile.modern:
        return [size]
    direct = [("DirectMap4k", pages.total * _KB), ("DirectMap2M", 0)]
    return [size, ("Hugetlb", 0), *direct, *([("DirectMap1G", 0)] if profile.word == 8 else [])]
