"""Out of memory on one machine: who is asked, who dies, what the log says.

The choice is :mod:`pyalloc.kernel.oom`'s.  Report texts: ``mm/oom_kill.c`` of Linux 2.6.18 and
6.12.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyalloc.errors import EndlessFault, KernelPanic
from pyalloc.kernel.oom import OOM_SCORE_ADJ_MIN, Task, Verdict, badness
from pyalloc.kernel.oomtable import reasons
from pyalloc.units import PAGE

if TYPE_CHECKING:
    from pyalloc.machine.cgroup import Cgroup
    from pyalloc.machine.machine import Machine
    from pyalloc.machine.process import Process

_KB = PAGE // 1024


@dataclass(frozen=True, slots=True)
class OomEvent:
    """One run of the OOM killer.

    ``invoker`` and ``victim`` are pids (no victim: None); ``cgroup`` is the path of the cgroup
    whose limit was hit, None for the whole machine; ``totalpages`` is what the score is measured
    against; ``tasks`` and ``verdict`` hold every candidate with its score and the steps to it.
    ``killed`` are the pids of all that died: of a cgroup with ``memory.oom.group`` everybody.
    """

    invoker: int
    victim: int | None
    cgroup: str | None
    totalpages: int
    tasks: tuple[Task, ...]
    verdict: Verdict
    report: str
    killed: tuple[int, ...] = ()

    def table(self) -> str:
        """Return all candidates and the terms of their scores, as a table; ``>`` marks the dead."""
        return reasons(self.tasks, self.verdict)


def task_of(process: Process) -> Task:
    """Return what the OOM killer sees of ``process``."""
    counters = process.pages.table.counters()
    return Task(
        pid=process.pid,
        name=process.name,
        uid=process.uid,
        total_vm=process.space.total_vm,
        rss=counters["anon"] + counters["file"] + counters["shmem"],
        swapents=counters["swap"],
        pgtables_bytes=counters["tables"] * PAGE,
        oom_score_adj=process.oom_score_adj,
        nice=process.nice,
        cpu_time=process.cpu_time,
        run_time=process.machine.clock - process.started,
        children=tuple(child.pid for child in process.children if child.alive),
        oom_adj=process.oom_adj,
        cgroup=process.cgroup.path if process.cgroup else "/",
    )


def run_oom_killer(machine: Machine, invoker: Process) -> OomEvent:
    """Choose and kill a process because ``invoker`` got no page.

    Raises
    ------
    KernelPanic
        The machine is full and nobody can be killed, or a sysctl wants it so.
    EndlessFault
        A cgroup is full and nobody in it can be killed.
    """
    cgroup = _full_cgroup(invoker)
    candidates = [p for p in machine.processes.values() if p.alive and _is_in(p, cgroup)]
    for process in candidates:
        process.catch_up()
    tasks = tuple(task_of(process) for process in candidates)
    total = _totalpages(machine, cgroup)
    verdict = _verdict(machine, invoker, cgroup, tasks, total)
    group = _dies_as_one(machine, cgroup, verdict)
    killed = tuple(_killed_with(candidates, group, verdict))
    report = "\n".join(_report(machine, invoker, cgroup, tasks, verdict))
    if group is not None:
        report += "\n" + "\n".join(_group_report(machine, cgroup, group, tasks, killed))
    victim = verdict.victim.pid if verdict.victim else None
    path = cgroup.path if cgroup else None
    event = OomEvent(invoker.pid, victim, path, total, tasks, verdict, report, killed)
    machine.oom_events.append(event)
    machine.log(report)
    if victim is None and path is not None and not _panics(verdict):
        machine.log("Huh VM_FAULT_OOM leaked out to the #PF handler. Retrying PF")
        message = (
            f"{path} is full and nobody in it can be killed ({verdict.why}); process"
            f" {invoker.pid} ({invoker.name}) tries again for ever: raise its memory_max"
        )
        raise EndlessFault(message)
    if victim is None:
        message = f"out of memory and no killable processes ({verdict.why})"
        raise KernelPanic(message)
    for pid in killed:
        machine.processes[pid].kill("oom")
    return event


def _verdict(
    machine: Machine,
    invoker: Process,
    cgroup: Cgroup | None,
    tasks: Sequence[Task],
    total: int,
) -> Verdict:
    """Choose, unless a sysctl says that the kernel panics or that whoever asked dies.

    Only ``vm.panic_on_oom = 2`` looks at the limits of cgroups, too.
    """
    panic = machine.sysctl.flag("vm.panic_on_oom")
    if panic > (cgroup is not None):
        kind = "compulsory" if panic > 1 else "system-wide"
        return Verdict(None, None, {}, {}, f"{kind} panic_on_oom is enabled")
    if cgroup is None and machine.sysctl.flag("vm.oom_kill_allocating_task"):
        task = next(task for task in tasks if task.pid == invoker.pid)
        points = badness(task, total)
        if points is not None:
            return Verdict(task, task, {task.pid: points}, {}, "oom_kill_allocating_task")
    return machine.oom_policy.choose(tasks, total)


def _panics(verdict: Verdict) -> bool:
    return "panic_on_oom" in verdict.why


def _dies_as_one(machine: Machine, full: Cgroup | None, verdict: Verdict) -> Cgroup | None:
    """Return the outermost cgroup around the victim, up to ``full``, that dies as one."""
    if verdict.victim is None:
        return None
    found, group = None, machine.processes[verdict.victim.pid].cgroup
    while group is not None:
        found = group if group.oom_group else found
        group = None if group is full else group.parent
    return found


def _killed_with(
    candidates: Sequence[Process], group: Cgroup | None, verdict: Verdict
) -> Iterator[int]:
    if verdict.victim is None:
        return
    yield verdict.victim.pid
    yield from (task.pid for task in verdict.also if group is None)
    for process in candidates if group is not None else ():
        exempt = process.oom_score_adj == OOM_SCORE_ADJ_MIN
        if _is_in(process, group) and process.pid != verdict.victim.pid and not exempt:
            yield process.pid


def _group_report(
    machine: Machine,
    cgroup: Cgroup | None,
    group: Cgroup,
    tasks: Sequence[Task],
    killed: Sequence[int],
) -> Iterator[str]:
    yield f"Tasks in {group.path} are going to be killed due to memory.oom.group set"
    for task in tasks:
        if task.pid in killed[1:]:
            yield _killed(machine, cgroup, task)


def _full_cgroup(process: Process) -> Cgroup | None:
    """Return the cgroup whose limit stands in the way, None if the machine itself is full."""
    group = process.cgroup
    while group is not None:
        usage = group.counters()
        if usage["usage"] >= usage["limit"]:
            return group
        group = group.parent
    return None


def _is_in(process: Process, cgroup: Cgroup | None) -> bool:
    group = process.cgroup
    while cgroup is not None and group is not cgroup:
        if group is None:
            return False
        group = group.parent
    return True


def _totalpages(machine: Machine, cgroup: Cgroup | None) -> int:
    if cgroup is None:
        return machine.total_ram + machine.total_swap
    usage = cgroup.counters()
    swap = min(usage["swap_limit"], machine.total_swap) if machine.swappiness else 0
    return max(usage["limit"] + swap, 1)


# --- the report ------------------------------------------------------------------------------


def _report(
    machine: Machine,
    invoker: Process,
    cgroup: Cgroup | None,
    tasks: Sequence[Task],
    verdict: Verdict,
) -> Iterator[str]:
    if not machine.profile.modern:
        yield from _report_26(machine, verdict)
        return
    yield (
        f"{invoker.name} invoked oom-killer: gfp_mask=0x140dca(GFP_HIGHUSER_MOVABLE|__GFP_ZERO"
        f"|__GFP_COMP), order=0, oom_score_adj={invoker.oom_score_adj}"
    )
    if cgroup is not None:
        usage = cgroup.counters()
        yield (
            f"memory: usage {usage['usage'] * _KB}kB, limit {usage['limit'] * _KB}kB,"
            f" failcnt {usage['limit_hits']}"
        )
        limit = min(usage["swap_limit"], machine.total_swap)
        yield f"swap: usage {usage['usage_swap'] * _KB}kB, limit {limit * _KB}kB, failcnt 0"
    else:
        yield from _mem_info(machine)
    if machine.sysctl.flag("vm.oom_dump_tasks"):
        yield from _task_table(machine, tasks)
    if verdict.victim is None and _panics(verdict):
        yield f"Kernel panic - not syncing: Out of memory: {verdict.why}"
        return
    if verdict.victim is None:
        yield "Out of memory and no killable processes..."
        if cgroup is None:
            yield "Kernel panic - not syncing: System is deadlocked on memory"
        return
    yield _constraint(machine, cgroup, verdict.victim)
    yield _killed(machine, cgroup, verdict.victim)


def _mem_info(machine: Machine) -> Iterator[str]:
    c = machine.ram.counters()
    yield "Mem-Info:"
    yield (
        f"active_anon:{c['active_anon']} inactive_anon:{c['inactive_anon']} isolated_anon:0\n"
        f" active_file:{c['active_file']} inactive_file:{c['inactive_file']} isolated_file:0\n"
        f" unevictable:{c['unevictable']} dirty:{c['dirty']} writeback:0\n"
        f" mapped:{machine.ram.mapped()} shmem:{c['shmem']} pagetables:{c['tables']}\n"
        f" free:{c['free']}"
    )
    yield f"{c['file'] + c['shmem']} total pagecache pages"
    yield f"{c['swap_cached']} pages in swap cache"
    yield f"Free swap  = {c['slots_free'] * _KB}kB"
    yield f"Total swap = {c['slots'] * _KB}kB"
    yield f"{machine.ram.settings.count_frames} pages RAM"
    yield "0 pages HighMem/MovableOnly"
    yield f"{c['reserved']} pages reserved"


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
            f" {c['anon']:8d} {c['file']:8d} {c['shmem']:9d} {task.pgtables_bytes:8d}"
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


def _killed(machine: Machine, cgroup: Cgroup | None, victim: Task) -> str:
    c = machine.processes[victim.pid].pages.table.counters()
    prefix = "Memory cgroup out of memory" if cgroup else "Out of memory"
    if machine.sysctl.flag("vm.oom_kill_allocating_task") and cgroup is None:
        prefix += " (oom_kill_allocating_task)"
    return (
        f"{prefix}: Killed process {victim.pid} ({victim.name}) total-vm:{victim.total_vm * _KB}kB,"
        f" anon-rss:{c['anon'] * _KB}kB, file-rss:{c['file'] * _KB}kB,"
        f" shmem-rss:{c['shmem'] * _KB}kB, UID:{victim.uid}"
        f" pgtables:{victim.pgtables_bytes // 1024}kB oom_score_adj:{victim.oom_score_adj}"
    )


def _report_26(machine: Machine, verdict: Verdict) -> Iterator[str]:
    c = machine.ram.counters()
    mask = 0x280D2 if machine.profile.name == "2.6.18" else 0xD2
    yield f"oom-killer: gfp_mask=0x{mask:x}, order=0"
    yield (
        f"Active:{c['active_anon'] + c['active_file']}"
        f" inactive:{c['inactive_anon'] + c['inactive_file']} dirty:{c['dirty']} writeback:0"
        f" unstable:0 free:{c['free']} slab:0 mapped:{c['anon_mapped'] + machine.ram.mapped()}"
        f" pagetables:{c['tables']}"
    )
    yield f"Free swap:       {c['slots_free'] * _KB:6d}kB"
    if verdict.victim is None and _panics(verdict):
        yield "Kernel panic - not syncing: out of memory. panic_on_oom is selected"
        return
    if verdict.victim is None:
        yield "Kernel panic - not syncing: Out of memory and no killable processes..."
        return
    victim = verdict.victim
    yield f"Out of Memory: Killed process {victim.pid} ({victim.name})."
