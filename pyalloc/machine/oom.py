"""Out of memory on one machine: who is asked, who dies, what the log says.

The choice is :mod:`pyalloc.kernel.oom`'s, the text :mod:`pyalloc.machine.oomreport`'s.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pyalloc.errors import EndlessFault, KernelPanic
from pyalloc.kernel.oom import OOM_SCORE_ADJ_MIN, Task, Verdict, badness
from pyalloc.kernel.oomtable import reasons
from pyalloc.machine.oomreport import Incident, killed_line
from pyalloc.units import PAGE

if TYPE_CHECKING:
    from pyalloc.machine.cgroup import Cgroup
    from pyalloc.machine.machine import Machine
    from pyalloc.machine.process import Process


_SHORT: Final = re.compile("Killed process|are going to be killed")


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
    """Return what the OOM killer sees of ``process``: what processors have told of its pages."""
    counters = process.pages.table.counters()
    return Task(
        pid=process.pid,
        name=process.name,
        uid=process.uid,
        total_vm=process.space.total_vm,
        rss=counters["seen_anon"] + counters["seen_file"] + counters["seen_shmem"],
        swapents=counters["seen_swap"],
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
    machine.grace.watched = True
    try:
        event = _choose_and_tell(machine, invoker)
    finally:
        machine.grace.watched = False
    for pid in event.killed:
        _kill(machine.processes[pid])
    return event


def _choose_and_tell(machine: Machine, invoker: Process) -> OomEvent:
    """Return the event, in the log already; nobody is dead yet."""
    cgroup = _full_cgroup(invoker)
    candidates = list(_candidates(machine, cgroup))
    for process in candidates:
        process.catch_up()
    tasks = tuple(task_of(process) for process in candidates)
    total = _totalpages(machine, cgroup)
    verdict = _verdict(machine, invoker, cgroup, tasks, total)
    group = _dies_as_one(machine, cgroup, verdict)
    killed = tuple(_killed_with(candidates, group, verdict))
    report = "\n".join(Incident(machine, invoker, cgroup, tasks, verdict).lines())
    if group is not None:
        report += "\n" + "\n".join(_group_report(machine, cgroup, group, tasks))
    _count(machine, cgroup, group, verdict, killed)
    victim = verdict.victim.pid if verdict.victim else None
    path = cgroup.path if cgroup else None
    event = OomEvent(invoker.pid, victim, path, total, tasks, verdict, report, killed)
    machine.oom_events.append(event)
    _log(machine, event)
    if victim is None and path is not None and not verdict.panics:
        machine.log("Huh VM_FAULT_OOM leaked out to the #PF handler. Retrying PF")
        message = (
            f"{path} is full and nobody in it can be killed ({verdict.why}); process"
            f" {invoker.pid} ({invoker.name}) tries again for ever: raise its memory_max"
        )
        raise EndlessFault(message)
    if victim is None:
        message = f"out of memory and no killable processes ({verdict.why})"
        raise KernelPanic(message)
    if cgroup is not None and killed == (invoker.pid,):
        cgroup.note_dying()
    return event


def _kill(victim: Process) -> None:
    tables = victim.pages.table.counters()["tables"]
    victim.kill("oom")
    victim.machine.grace.hold(victim.cgroup.number if victim.cgroup else 0, tables)


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
    for process in candidates:
        if group is not None and _dies_in(process, group) and process.pid != verdict.victim.pid:
            yield process.pid


def _group_report(
    machine: Machine, cgroup: Cgroup | None, group: Cgroup, tasks: Sequence[Task]
) -> Iterator[str]:
    """Yield a line for each that dies: the victim's once more, as it has not ended yet."""
    yield f"Tasks in {group.path} are going to be killed due to memory.oom.group set"
    for task in tasks:
        if _dies_in(machine.processes[task.pid], group):
            yield killed_line(machine, cgroup, task)


def _dies_in(process: Process, group: Cgroup) -> bool:
    return _is_in(process, group) and process.oom_score_adj != OOM_SCORE_ADJ_MIN


def _count(
    machine: Machine,
    cgroup: Cgroup | None,
    group: Cgroup | None,
    verdict: Verdict,
    killed: Sequence[int],
) -> None:
    """Count what ``memory.events`` shows; the kernel kills the victim of a group twice."""
    if cgroup is not None and not verdict.panics:
        cgroup.note("oom")
    if group is not None:
        group.note("oom_group_kill")
    again = killed[:1] if group is not None else ()
    for pid in (*killed, *again):
        victim = machine.processes[pid].cgroup
        if victim is not None:
            victim.note("oom_kill")


def _log(machine: Machine, event: OomEvent) -> None:
    """Print the report; of one in a row of many only who was killed (``oom_rs``)."""
    if event.victim is None or not machine.profile.modern or machine.oom_reports.passes(machine):
        machine.log(event.report)
    else:
        lines = (line for line in event.report.splitlines() if _SHORT.search(line))
        machine.log("\n".join(lines))


def _full_cgroup(process: Process) -> Cgroup | None:
    """Return the cgroup whose limit stands in the way, None if the machine itself is full."""
    group = process.cgroup
    while group is not None:
        usage = group.counters()
        if usage["usage"] >= usage["limit"]:
            return group
        group = group.parent
    return None


def _candidates(machine: Machine, cgroup: Cgroup | None) -> Iterator[Process]:
    """Yield who may be chosen, in the kernel's order, of which the last of equals is killed.

    Of the whole machine that is the order of creation.  Of a cgroup it is
    ``mem_cgroup_scan_tasks()``'s: each cgroup before those below it, these as they were made.
    """
    alive = (process for process in machine.processes.values() if process.alive)
    if cgroup is None:
        yield from alive
        return
    members: dict[Cgroup, list[Process]] = {}
    for process in alive:
        if process.cgroup is not None:
            members.setdefault(process.cgroup, []).append(process)
    for group in cgroup.tree():
        yield from members.get(group, ())


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
