"""What the kernel's log says when memory is exhausted.

The stack of whoever asked for memory is left out, and of the modern lines those fields that nothing
here can make other than zero are zero.  Lists are not kept by zone here: a zone's part of them is
its part of the pages in use.

Sources: ``mm/oom_kill.c``, ``mm/page_alloc.c`` (show_free_areas), ``mm/swap_state.c`` and
``arch/i386/mm/pgtable.c`` (show_mem) of Linux 2.6.11 and 2.6.18; ``mm/oom_kill.c``,
``mm/show_mem.c`` and ``mm/memcontrol.c`` of 6.12, and the log of a running 6.18.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyalloc.kernel.oom import Task, Verdict
from pyalloc.kernel.zones import Zone
from pyalloc.machine.reading import free_blocks, zone_shares
from pyalloc.units import PAGE

if TYPE_CHECKING:
    from pyalloc.machine.cgroup import Cgroup
    from pyalloc.machine.machine import Machine
    from pyalloc.machine.process import Process

_KB = PAGE // 1024
_FAULT_MASK = "0x140dca(GFP_HIGHUSER_MOVABLE|__GFP_COMP|__GFP_ZERO)"
_LISTS = ("active_anon", "inactive_anon", "active_file", "inactive_file", "unevictable")


@dataclass(frozen=True, slots=True)
class Incident:
    """One run of the OOM killer, before anybody is dead: who asked, where, and the verdict."""

    machine: Machine
    invoker: Process
    cgroup: Cgroup | None
    tasks: Sequence[Task]
    verdict: Verdict

    def lines(self) -> Iterator[str]:
        """Yield the lines of the kernel's log."""
        name = self.machine.profile.name
        if name == "2.6.11":
            yield from _lines_2_6_11(self)
        elif name == "2.6.18":
            yield from _lines_2_6_18(self)
        else:
            yield from _lines_modern(self)


# --- 6.x -------------------------------------------------------------------------------------


def _lines_modern(of: Incident) -> Iterator[str]:
    machine, verdict = of.machine, of.verdict
    # a charge to a cgroup asks as the kernel does for itself, whatever the page is for
    mask = "0xcc0(GFP_KERNEL)" if of.cgroup else _FAULT_MASK
    yield (
        f"{of.invoker.name} invoked oom-killer: gfp_mask={mask}, order=0,"
        f" oom_score_adj={of.invoker.oom_score_adj}"
    )
    yield from _cgroup_lines(of.cgroup) if of.cgroup else _mem_info(machine)
    if machine.sysctl.flag("vm.oom_dump_tasks"):
        yield from _task_table(machine, of.tasks)
    if verdict.panics:
        yield f"Kernel panic - not syncing: Out of memory: {verdict.why}"
    elif verdict.victim is None:
        yield "Out of memory and no killable processes..."
        if of.cgroup is None:
            yield "Kernel panic - not syncing: System is deadlocked on memory"
    else:
        yield _constraint(machine, of.cgroup, verdict.victim)
        yield killed_line(machine, of.cgroup, verdict.victim)


def _cgroup_lines(cgroup: Cgroup) -> Iterator[str]:
    usage = cgroup.counters()
    yield (
        f"memory: usage {usage['usage'] * _KB}kB, limit {_limit(usage['limit'])}kB,"
        f" failcnt {usage['limit_hits']}"
    )
    limit = _limit(usage["swap_limit"])
    yield f"swap: usage {usage['usage_swap'] * _KB}kB, limit {limit}kB, failcnt 0"
    yield f"Memory cgroup stats for {cgroup.path}:"
    yield from str(cgroup.stat()).splitlines()


def _limit(pages: int) -> int:
    """Return a limit in kB; none is the most that a counter of pages counts to."""
    return min(pages, (1 << 63) // PAGE - 1) * _KB


def _mem_info(machine: Machine) -> Iterator[str]:
    c = machine.ram.counters()
    mapped = machine.ram.mapped()
    yield "Mem-Info:"
    yield f"active_anon:{c['active_anon']} inactive_anon:{c['inactive_anon']} isolated_anon:0"
    yield f" active_file:{c['active_file']} inactive_file:{c['inactive_file']} isolated_file:0"
    yield f" unevictable:{c['unevictable']} dirty:{c['dirty']} writeback:{c['writing']}"
    yield f" slab_reclaimable:0 slab_unreclaimable:{c['kernel']}"
    yield f" mapped:{mapped} shmem:{c['shmem']} pagetables:{c['tables']}"
    yield " sec_pagetables:0 bounce:0"
    yield " kernel_misc_reclaimable:0"
    yield f" free:{c['free']} free_pcp:0 free_cma:0"
    yield _node_line(c, mapped)
    yield from _zone_lines(machine, c)
    yield f"{c['file'] + c['shmem'] + c['swap_cached']} total pagecache pages"
    yield f"{c['swap_cached']} pages in swap cache"
    yield f"Free swap  = {c['slots_free'] * _KB}kB"
    yield f"Total swap = {c['slots'] * _KB}kB"
    yield f"{machine.ram.settings.count_frames} pages RAM"
    yield f"{_high_pages(machine)} pages HighMem/MovableOnly"
    yield f"{c['reserved']} pages reserved"
    yield "0 pages hwpoisoned"


def _high_pages(machine: Machine) -> int:
    return sum(zone.pages for zone in machine.zones if zone.name == "HighMem")


def _node_line(c: Mapping[str, int], mapped: int) -> str:
    lists = " ".join(f"{name}:{c[name] * _KB}kB" for name in _LISTS)
    return (
        f"Node 0 {lists} isolated(anon):0kB isolated(file):0kB mapped:{mapped * _KB}kB"
        f" dirty:{c['dirty'] * _KB}kB writeback:{c['writing'] * _KB}kB shmem:{c['shmem'] * _KB}kB"
        " shmem_thp:0kB shmem_pmdmapped:0kB anon_thp:0kB writeback_tmp:0kB kernel_stack:0kB"
        f" pagetables:{c['tables'] * _KB}kB sec_pagetables:0kB all_unreclaimable? no"
    )


def _in_kb(blocks: Sequence[int]) -> int:
    return sum(count << order for order, count in enumerate(blocks)) * _KB


def _zone_lines(machine: Machine, c: Mapping[str, int]) -> Iterator[str]:
    blocks = free_blocks(machine)
    free = [_in_kb(counts) // _KB for counts in blocks]
    parts = zone_shares(machine, free)
    shown = [row for row in zip(machine.zones, free, parts, strict=True) if row[0].managed]
    for zone, pages, part in shown:
        lists = " ".join(f"{name}:{int(c[name] * part) * _KB}kB" for name in _LISTS)
        pending = int((c["dirty"] + c["writing"]) * part) * _KB
        yield (
            f"Node 0 {zone.name} free:{pages * _KB}kB boost:0kB min:{zone.least * _KB}kB"
            f" low:{zone.low * _KB}kB high:{zone.high * _KB}kB reserved_highatomic:0KB {lists}"
            f" writepending:{pending}kB present:{zone.pages * _KB}kB managed:{zone.managed * _KB}kB"
            " mlocked:0kB bounce:0kB free_pcp:0kB local_pcp:0kB free_cma:0kB"
        )
        yield f"lowmem_reserve[]: {' '.join(map(str, zone.reserve))}"
    for zone, counts in zip(machine.zones, blocks, strict=True):
        if zone.managed:
            yield f"Node 0 {zone.name}: {_block_words(counts, ' (M)')}= {_in_kb(counts)}kB"
    if machine.profile.word == 8:
        yield ("Node 0 hugepages_total=0 hugepages_free=0 hugepages_surp=0 hugepages_size=2048kB")


def _block_words(counts: Sequence[int], kind: str = "") -> str:
    return "".join(
        f"{count}*{_KB << order}kB{kind if count else ''} " for order, count in enumerate(counts)
    )


def _task_table(machine: Machine, tasks: Sequence[Task]) -> Iterator[str]:
    yield "Tasks state (memory values in pages):"
    yield (
        "[  pid  ]   uid  tgid total_vm      rss rss_anon rss_file rss_shmem pgtables_bytes"
        " swapents oom_score_adj name"
    )
    for task in tasks:
        c = machine.processes[task.pid].pages.table.counters()
        yield (
            f"[{task.pid:7d}] {task.uid:5d} {task.pid:5d} {task.total_vm:8d} {task.rss:8d}"
            f" {c['seen_anon']:8d} {c['seen_file']:8d} {c['seen_shmem']:9d}"
            f" {task.pgtables_bytes:8d}"
            f" {task.swapents:8d}         {task.oom_score_adj:5d} {task.name}"
        )


def _constraint(machine: Machine, cgroup: Cgroup | None, victim: Task) -> str:
    scope = f"oom_memcg={cgroup.path}" if cgroup else "global_oom"
    kind = "MEMCG" if cgroup else "NONE"
    group = machine.processes[victim.pid].cgroup
    return (
        f"oom-kill:constraint=CONSTRAINT_{kind},nodemask=(null),cpuset=/,mems_allowed=0,{scope},"
        f"task_memcg={group.path if group else '/'},task={victim.name},pid={victim.pid},"
        f"uid={victim.uid}"
    )


def killed_line(machine: Machine, cgroup: Cgroup | None, victim: Task) -> str:
    """Return the line that says who was killed, and how large it was (6.x)."""
    c = machine.processes[victim.pid].pages.table.counters()
    prefix = "Memory cgroup out of memory" if cgroup else "Out of memory"
    if machine.sysctl.flag("vm.oom_kill_allocating_task") and cgroup is None:
        prefix += " (oom_kill_allocating_task)"
    return (
        f"{prefix}: Killed process {victim.pid} ({victim.name}) total-vm:{victim.total_vm * _KB}kB,"
        f" anon-rss:{c['seen_anon'] * _KB}kB, file-rss:{c['seen_file'] * _KB}kB,"
        f" shmem-rss:{c['seen_shmem'] * _KB}kB, UID:{victim.uid}"
        f" pgtables:{victim.pgtables_bytes // 1024}kB oom_score_adj:{victim.oom_score_adj}"
    )


# --- 2.6 -------------------------------------------------------------------------------------


def _lines_2_6_11(of: Incident) -> Iterator[str]:
    machine, victim = of.machine, of.verdict.victim
    yield "oom-killer: gfp_mask=0xd2"
    for zone in machine.zones:
        yield f"{zone.name} per-cpu:{'' if zone.pages else ' empty'}"
        batch = max(min(zone.pages // 1024, 64) // 4, 1)
        for cpu in range(machine.cpus if zone.pages else 0):
            yield f"cpu {cpu} hot: low {2 * batch}, high {6 * batch}, batch {batch}"
            yield f"cpu {cpu} cold: low 0, high {2 * batch}, batch {batch}"
    yield ""
    yield from _free_areas(machine)
    if victim is None:
        yield "Kernel panic - not syncing: Out of memory and no killable processes..."
    else:
        yield f"Out of Memory: Killed process {victim.pid} ({victim.name})."


def _lines_2_6_18(of: Incident) -> Iterator[str]:
    machine, verdict = of.machine, of.verdict
    yield "oom-killer: gfp_mask=0x280d2, order=0"
    yield "Mem-info:"
    for zone in machine.zones:
        yield f"{zone.name} per-cpu:{'' if zone.pages else ' empty'}"
        batch = _batch_2_6_18(zone)
        for cpu in range(machine.cpus if zone.pages else 0):
            yield f"cpu {cpu} hot: high {6 * batch}, batch {max(batch, 1)} used:0"
            yield f"cpu {cpu} cold: high {2 * batch}, batch {max(batch // 2, 1)} used:0"
    yield from _free_areas(machine)
    yield from _show_mem(machine)
    if verdict.panics:
        yield "Kernel panic - not syncing: out of memory. panic_on_oom is selected"
    elif verdict.victim is None:
        yield "Kernel panic - not syncing: Out of memory and no killable processes..."
    else:
        chosen, victim = verdict.selected or verdict.victim, verdict.victim
        score = verdict.scores.get(chosen.pid) or 0
        yield (
            f"Out of Memory: Kill process {chosen.pid} ({chosen.name}) score {score} and children."
        )
        yield f"Out of memory: Killed process {victim.pid} ({victim.name})."


def _batch_2_6_18(zone: Zone) -> int:
    batch = max(min(zone.pages // 1024, 128) // 4, 1)
    return (1 << (batch + batch // 2).bit_length() - 1) - 1


def _free_areas(machine: Machine) -> Iterator[str]:
    c = machine.ram.counters()
    blocks = free_blocks(machine)
    free = [_in_kb(counts) for counts in blocks]
    high = sum(kb for zone, kb in zip(machine.zones, free, strict=True) if zone.name == "HighMem")
    active, inactive = c["active_anon"] + c["active_file"], c["inactive_anon"] + c["inactive_file"]
    yield f"Free pages: {sum(free):11d}kB ({high}kB HighMem)"
    yield (
        f"Active:{active} inactive:{inactive} dirty:{c['dirty']} writeback:{c['writing']}"
        f" unstable:0 free:{sum(free) // _KB} slab:{c['kernel']}"
        f" mapped:{c['anon_mapped'] + machine.ram.mapped()} pagetables:{c['tables']}"
    )
    parts = zone_shares(machine, [kb // _KB for kb in free])
    for zone, kb, part in zip(machine.zones, free, parts, strict=True):
        yield (
            f"{zone.name} free:{kb}kB min:{zone.least * _KB}kB low:{zone.low * _KB}kB"
            f" high:{zone.high * _KB}kB active:{int(active * part) * _KB}kB"
            f" inactive:{int(inactive * part) * _KB}kB present:{zone.pages * _KB}kB"
            " pages_scanned:0 all_unreclaimable? no"
        )
        yield f"lowmem_reserve[]: {' '.join(map(str, zone.reserve))}"
    for zone, counts in zip(machine.zones, blocks, strict=True):
        words = f"{_block_words(counts)}= {_in_kb(counts)}kB" if zone.pages else "empty"
        yield f"{zone.name}: {words}"
    yield (
        f"Swap cache: add {c['swapped_out'] + c['swapped_in']},"
        f" delete {c['swapped_out'] + c['swapped_in'] - c['swap_cached']},"
        f" find {c['swap_ahead_hits']}/{c['major_faults']}, race 0+0"
    )
    yield f"Free swap  = {c['slots_free'] * _KB}kB"
    yield f"Total swap = {c['slots'] * _KB}kB"


def _show_mem(machine: Machine) -> Iterator[str]:
    c = machine.ram.counters()
    mapped = machine.ram.mapped()
    yield f"Free swap:       {c['slots_free'] * _KB:6d}kB"
    yield f"{machine.ram.settings.count_frames} pages of RAM"
    yield f"{_high_pages(machine)} pages of HIGHMEM"
    yield f"{c['reserved']} reserved pages"
    yield f"{mapped} pages shared"
    yield f"{c['swap_cached']} pages swap cached"
    yield f"{c['dirty']} pages dirty"
    yield f"{c['writing']} pages writeback"
    yield f"{c['anon_mapped'] + mapped} pages mapped"
    yield f"{c['kernel']} pages slab"
    yield f"{c['tables']} pages pagetables"
