"""What a machine shows of its memory: meminfo, vmstat, swaps, buddyinfo, zoneinfo, free memory.

Sources: ``fs/proc/meminfo.c``, ``mm/vmstat.c`` and ``mm/swapfile.c`` of Linux 2.6.11, 2.6.18 and
6.12, and the files of a running 6.18.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from pyalloc.kernel import zones as zoned
from pyalloc.kernel.meminfo import MemoryPages, free_virtual_memory
from pyalloc.kernel.proctext import ProcText
from pyalloc.units import PAGE

if TYPE_CHECKING:
    from pyalloc.machine.machine import Machine

_KB: Final = PAGE // 1024


def memory_pages(machine: Machine) -> MemoryPages:
    """Return what memory holds, in pages."""
    c = machine.ram.counters()
    mapped = machine.ram.mapped()
    stacks = _kernel_stacks(machine, c["kernel"])
    return MemoryPages(
        total=machine.total_ram,
        free=c["free"],
        cached=c["file"] + c["shmem"],
        swap_cached=c["swap_cached"],
        active_anon=c["active_anon"],
        inactive_anon=c["inactive_anon"],
        active_file=c["active_file"],
        inactive_file=c["inactive_file"],
        unevictable=c["unevictable"],
        mlocked=c["unevictable"],
        swap_total=c["slots"],
        swap_free=c["slots_free"],
        dirty=c["dirty"],
        writeback=c["writing"],
        anon=c["anon_mapped"],
        mapped=mapped + c["anon_mapped"] * (machine.profile.name == "2.6.11"),
        shmem=c["shmem"],
        slab_unreclaimable=c["kernel"] - stacks,
        kernel_stack_kb=stacks * _KB,
        page_tables=c["tables"],
        commit_limit=machine.commit_limit(),
        committed=machine.committed,
        low_watermarks=sum(zone.low for zone in machine.zones),
        total_reserve=zoned.total_reserve(machine.zones),
        **_high(machine, c["free"]),
    )


def _kernel_stacks(machine: Machine, kernel: int) -> int:
    alive = sum(process.alive for process in machine.processes.values())
    return min(alive * machine.paging.kernel_stack, kernel)


def _high(machine: Machine, free: int) -> dict[str, int]:
    """Return how much high memory there is, and how much of it is free, if a kernel has any."""
    if machine.profile.word == 8:
        return {}
    blocks = free_blocks(machine)
    total = high_free = 0
    for zone, counts in zip(machine.zones, blocks, strict=True):
        if zone.name == "HighMem":
            total, high_free = zone.managed, _pages(counts)
    return {"high_total": total, "high_free": min(high_free, free)}


def _pages(blocks: list[int]) -> int:
    return sum(count << order for order, count in enumerate(blocks))


def free_blocks(machine: Machine) -> list[list[int]]:
    """Return the free blocks of each order, zone by zone.

    The engine hands out frames from the highest zone on.  What the kernel keeps for itself has no
    frames of its own there: it comes out of the highest zone that is not high memory, and what
    does not fit, out of those below.
    """
    c = machine.ram.counters()
    skip = c["reserved"] + c["tables"] + c["kernel"]
    found = []
    for zone in reversed(machine.zones):
        leave = 0 if zone.name == "HighMem" else skip
        blocks, left_out = machine.ram.free_blocks(zone.first, zone.pages, leave)
        skip -= left_out
        found.append(blocks)
    return found[::-1]


def buddyinfo(machine: Machine) -> ProcText[list[int]]:
    """Return ``/proc/buddyinfo``."""
    return zoned.buddyinfo(machine.zones, free_blocks(machine))


def zoneinfo(machine: Machine) -> ProcText[dict[str, int]]:
    """Return ``/proc/zoneinfo``."""
    free = [_pages(blocks) for blocks in free_blocks(machine)]
    stats = _zone_stats(machine, free) if machine.profile.modern else None
    return zoned.zoneinfo(machine.zones, free, stats)


def zone_shares(machine: Machine, free: Sequence[int]) -> list[float]:
    """Return each zone's part of the pages in use, which stands for its part of each list."""
    used = [max(zone.managed - pages, 0) for zone, pages in zip(machine.zones, free, strict=True)]
    total = sum(used) or 1
    return [pages / total for pages in used]


def _zone_stats(machine: Machine, free: Sequence[int]) -> zoned.ZoneStats:
    c = machine.ram.counters()
    node = {name: value for name, value in _modern(machine, c).items() if name in _OF_NODES}
    zones = []
    for pages, part in zip(free, zone_shares(machine, free), strict=True):
        fields = {"nr_free_pages": pages}
        fields |= {f"nr_zone_{name}": int(c[name] * part) for name in _LISTS}
        fields["nr_zone_write_pending"] = int((c["dirty"] + c["writing"]) * part)
        fields["nr_mlock"] = int(c["unevictable"] * part)
        zones.append(fields)
    return zoned.ZoneStats(node, zones)


def free_memory(machine: Machine) -> ProcText[int]:
    """Return the answers to "how much memory is free?", side by side, in kB."""
    info = machine.meminfo()
    rows = {"free virtual memory": free_virtual_memory(info)}
    if "MemAvailable" in info:
        rows["MemAvailable"] = info["MemAvailable"]
    rows["AVPHYS"] = info["MemFree"]
    rows["before the commit limit"] = max(info["CommitLimit"] - info["Committed_AS"], 0)
    width = max(map(len, rows)) + 1
    text = "".join(f"{name + ':':{width}} {value:>12} kB\n" for name, value in rows.items())
    return ProcText(text, rows)


# --- vmstat ----------------------------------------------------------------------------------


def vmstat(machine: Machine) -> ProcText[int]:
    """Return the lines of ``/proc/vmstat`` that the machine knows, in the kernel's order."""
    c = machine.ram.counters()
    fields = _modern(machine, c) if machine.profile.modern else _old(machine, c)
    return ProcText("".join(f"{k} {v}\n" for k, v in fields.items()), fields)


def _traffic(c: Mapping[str, int]) -> dict[str, int]:
    return {
        "pgpgin": (c["file_read"] + c["swapped_in"]) * _KB,
        "pgpgout": (c["file_written"] + c["swapped_out"]) * _KB,
        "pswpin": c["swapped_in"],
        "pswpout": c["swapped_out"],
    }


def _events(c: Mapping[str, int]) -> dict[str, int]:
    return {
        "pgactivate": c["activated"],
        "pgdeactivate": c["deactivated"],
        "pgfault": c["faults"],
        "pgmajfault": c["major_faults"],
    }


def _by_whom(c: Mapping[str, int]) -> dict[str, int]:
    return {
        "pgsteal_kswapd": c["stolen_background"],
        "pgsteal_direct": c["stolen"] - c["stolen_background"],
        "pgscan_kswapd": c["scanned_background"],
        "pgscan_direct": c["scanned"] - c["scanned_background"],
    }


_LISTS: Final = ("inactive_anon", "active_anon", "inactive_file", "active_file", "unevictable")
_OF_NODES: Final = frozenset(
    (
        *(f"nr_{name}" for name in _LISTS),
        "nr_slab_unreclaimable", "workingset_refault_anon", "workingset_refault_file",
        "workingset_activate_anon", "workingset_activate_file", "workingset_restore_anon",
        "workingset_restore_file", "nr_anon_pages", "nr_mapped", "nr_file_pages", "nr_dirty",
        "nr_writeback", "nr_shmem", "nr_vmscan_write", "nr_kernel_stack", "nr_page_table_pages",
        "nr_swapcached",
    )
)  # fmt: skip
"""The counters of vmstat that are kept by node, not by zone."""


def _modern(machine: Machine, c: Mapping[str, int]) -> dict[str, int]:
    everybody = machine.ram.group(0)
    return {
        "nr_free_pages": c["free"],
        **{f"nr_zone_{name}": c[name] for name in _LISTS},
        "nr_zone_write_pending": c["dirty"] + c["writing"],
        "nr_mlock": c["unevictable"],
        **{f"nr_{name}": c[name] for name in _LISTS},
        "nr_slab_unreclaimable": c["kernel"] - _kernel_stacks(machine, c["kernel"]),
        "workingset_refault_anon": c["refault_anon"],
        "workingset_refault_file": c["refault_file"],
        "workingset_activate_anon": c["restored_anon"],
        "workingset_activate_file": c["restored_file"],
        "workingset_restore_anon": everybody["restored0"],
        "workingset_restore_file": everybody["restored1"],
        "nr_anon_pages": c["anon_mapped"],
        "nr_mapped": machine.ram.mapped(),
        "nr_file_pages": c["file"] + c["shmem"] + c["swap_cached"],
        "nr_dirty": c["dirty"],
        "nr_writeback": c["writing"],
        "nr_shmem": c["shmem"],
        "nr_vmscan_write": c["swapped_out"],
        "nr_kernel_stack": _kernel_stacks(machine, c["kernel"]) * _KB,
        "nr_page_table_pages": c["tables"],
        "nr_swapcached": c["swap_cached"],
        **_traffic(c),
        **_events(c),
        "pgrefill": everybody["refilled"],
        **_by_whom(c),
        "oom_kill": sum(event.report.count("Killed process") for event in machine.oom_events),
        "swap_ra": c["swap_ahead"],
        "swap_ra_hit": c["swap_ahead_hits"],
    }


def _old(machine: Machine, c: Mapping[str, int]) -> dict[str, int]:
    """Events of reclaim are counted for the zone that users get most of their pages from."""
    zone = max(machine.zones, key=lambda zone: zone.pages).name.lower().removesuffix("mem")
    pages = {"nr_dirty": c["dirty"], "nr_writeback": c["writing"], "nr_unstable": 0}
    tables, mapped = {"nr_page_table_pages": c["tables"]}, machine.ram.mapped()
    slab = c["kernel"] - _kernel_stacks(machine, c["kernel"])
    if machine.profile.name == "2.6.11":
        first = {**pages, **tables, "nr_mapped": mapped + c["anon_mapped"], "nr_slab": slab}
    else:
        first = {
            "nr_anon_pages": c["anon_mapped"],
            "nr_mapped": mapped,
            "nr_file_pages": c["file"] + c["shmem"] + c["swap_cached"],
            "nr_slab": slab,
            **tables,
            **pages,
            "nr_bounce": 0,
        }
    direct = c["scanned"] - c["scanned_background"]
    return {
        **first,
        **_traffic(c),
        **_events(c),
        f"pgsteal_{zone}": c["stolen"],
        f"pgscan_kswapd_{zone}": c["scanned_background"],
        f"pgscan_direct_{zone}": direct,
        "kswapd_steal": c["stolen_background"],
    }


# --- swaps -----------------------------------------------------------------------------------


def swaps(machine: Machine) -> ProcText[tuple[int, int]]:
    """Return ``/proc/swaps``: its text, and of each area its size and what is used, in kB.

    The first page of the area holds its header and is not counted.
    """
    c = machine.ram.counters()
    size, used = c["slots"] * _KB, (c["slots"] - c["slots_free"]) * _KB
    if not machine.profile.modern:
        text = "Filename\t\t\t\tType\t\tSize\tUsed\tPriority\n"
        row, priority = f"{_DEVICE:<40}partition\t{size}\t{used}\t", -1
    else:
        text = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
        tabs = ["\t" * (1 + (value < 10000000)) for value in (size, used)]
        row, priority = f"{_DEVICE:<40}partition\t{size}{tabs[0]}{used}{tabs[1]}", -2
    if not size:
        return ProcText(text, {})
    return ProcText(f"{text}{row}{priority}\n", {_DEVICE: (size, used)})


_DEVICE: Final = "/dev/sda2"
