"""Who would be killed now, and how much is left before that: a live machine's outlook.

The kernel's own rules (:mod:`pyalloc.kernel.oom`, :mod:`pyalloc.kernel.overcommit`) on what
``/proc`` shows.  Nothing needs root; what could not be read is listed.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from pyalloc.host import cgroups, proc
from pyalloc.host.cgroups import CgroupLevel
from pyalloc.host.system import System, system
from pyalloc.kernel.oom import Task, Term, Verdict, oom_policy
from pyalloc.kernel.oom import oom_score as score_shown
from pyalloc.units import PAGE

_LIMITS: Final = {
    "Max address space": "RLIMIT_AS",
    "Max data size": "RLIMIT_DATA",
    "Max stack size": "RLIMIT_STACK",
    "Max locked memory": "RLIMIT_MEMLOCK",
}


@dataclass(frozen=True, slots=True)
class Candidate:
    """A process as the OOM killer sees it; pages.

    ``badness`` is None for one that is never chosen; ``terms`` are the steps to it; ``oom_score``
    is what its file in ``/proc`` should show by them.
    """

    pid: int
    name: str
    uid: int
    rss: int
    swap: int
    page_tables: int
    oom_score_adj: int
    badness: int | None
    oom_score: int
    terms: tuple[Term, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """Whom the OOM killer would choose in one place: the machine, or a cgroup at its limit.

    ``candidates`` come by badness, the victim first; equals in the order in which they lose.
    """

    where: str
    totalpages: int
    victim: Candidate | None
    candidates: tuple[Candidate, ...]
    why: str


@dataclass(frozen=True, slots=True)
class Room:
    """A resource limit of one process; bytes, or areas for the last.  None: no limit."""

    name: str
    used: int
    limit: int | None

    @property
    def left(self) -> int | None:
        """What it may still take."""
        return None if self.limit is None else max(self.limit - self.used, 0)


@dataclass(frozen=True, slots=True)
class ProcessView:
    """One process: its memory (kB, as status has it), its limits, its place among the candidates.

    ``rank`` is 1 for the one that would be killed, None for one that never is; ``shown`` is what
    ``/proc/PID/oom_score`` says.
    """

    pid: int
    name: str
    status: dict[str, int]
    limits: tuple[Room, ...]
    candidate: Candidate | None
    rank: int | None
    shown: int


@dataclass(frozen=True, slots=True)
class Outlook:
    """The live machine: what it has, what is left before which limit, who would be killed.

    ``asked`` is the process whose cgroup and promises are looked at, this one or the one asked for;
    ``promise`` the largest request it could make, in bytes, None for any; ``view`` is there if a
    process was asked for.
    """

    system: System
    policy: str
    asked: int
    levels: tuple[CgroupLevel, ...]
    promise: int | None
    machine: Choice
    cgroup: Choice | None
    view: ProcessView | None
    unread: tuple[str, ...]

    def __repr__(self) -> str:
        victim = self.machine.victim
        next_one = f", {victim.name} ({victim.pid}) would be killed now" if victim else ""
        return f"<Outlook: Linux {self.system.kernel}{next_one}>"

    @property
    def nearest(self) -> CgroupLevel | None:
        """The cgroup on the path of the asked process whose limit is nearest."""
        return cgroups.nearest(self.levels)

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        found = asdict(self)
        found["system"]["free_virtual"] = self.system.free_virtual
        near = self.nearest
        found["nearest"] = None if near is None else {"path": near.path, "left": near.left}
        return found


def outlook(pid: int | None = None, *, policy: str | None = None) -> Outlook:
    """Return this machine's outlook, or that of process ``pid`` on it.

    Parameters
    ----------
    pid
        The process whose cgroup, promises and limits are looked at; by default this one, and the
        machine as a whole.
    policy
        A name for :func:`pyalloc.oom_policy`; by default the running kernel's own rules.

    Raises
    ------
    NoSuchProcess
        There is no process ``pid``.
    ArgumentError
        There is no such policy.
    """
    unread: list[str] = []
    now = system()
    rules = policy or now.oom_rules
    asked: int = os.getpid() if pid is None else pid
    levels = cgroups.levels(asked)
    tasks = proc.tasks()
    machine = _choice("the machine", tasks, now.totalpages, rules)
    near = cgroups.nearest(levels)
    task = next((task for task in tasks if task.pid == asked), None)
    if task is None:
        raise proc.NoSuchProcess.of(asked)
    if _hidden():
        unread.append("/proc: other users' processes are hidden (hidepid)")
    return Outlook(
        system=now,
        policy=rules,
        asked=asked,
        levels=levels,
        promise=now.most_promised(task.total_vm, root=task.sys_admin),
        machine=machine,
        cgroup=None if near is None else _cgroup_choice(near, tasks, now, rules),
        view=None if pid is None else _view(task, machine, now, unread),
        unread=(*now.unread, *unread),
    )


def _hidden() -> bool:
    with open("/proc/self/mountinfo", encoding="utf-8") as lines:  # noqa: PTH123
        return any("hidepid=" in line and " - proc " in line for line in lines)


# --- candidates ------------------------------------------------------------------------------


def _choice(where: str, tasks: Sequence[Task], totalpages: int, rules: str) -> Choice:
    verdict = oom_policy(rules).choose(tasks, totalpages)
    found = [_candidate(task, verdict, totalpages) for task in tasks if not task.kernel_thread]
    order = {task.pid: place for place, task in enumerate(tasks)}
    found.sort(key=lambda c: (_points(c), order[c.pid]), reverse=True)
    victim = verdict.victim.pid if verdict.victim else None
    chosen = next((c for c in found if c.pid == victim), None)
    if chosen is not None:
        found.remove(chosen)
        found.insert(0, chosen)
    return Choice(where, totalpages, chosen, tuple(found), verdict.why)


def _points(candidate: Candidate) -> int:
    return -(1 << 62) if candidate.badness is None else candidate.badness


def _candidate(task: Task, verdict: Verdict, totalpages: int) -> Candidate:
    return Candidate(
        pid=task.pid,
        name=task.name,
        uid=task.uid,
        rss=task.rss,
        swap=task.swapents,
        page_tables=task.pgtables_bytes // PAGE,
        oom_score_adj=task.oom_score_adj,
        badness=verdict.scores.get(task.pid),
        oom_score=score_shown(task, totalpages),
        terms=verdict.terms.get(task.pid, ()),
    )


def _cgroup_choice(level: CgroupLevel, tasks: Sequence[Task], now: System, rules: str) -> Choice:
    inside = [task for task in tasks if _is_inside(task.pid, level.path)]
    total = level.totalpages(now.kb("SwapTotal") // PAGE)
    return _choice(f"cgroup {level.path}", inside, total, rules)


def _is_inside(pid: int, path: str) -> bool:
    try:
        own = cgroups.path_of(pid)
    except (proc.NoSuchProcess, OSError):
        return False
    return path in {"/", own} or own.startswith(f"{path}/")


# --- one process -----------------------------------------------------------------------------


def _view(task: Task, machine: Choice, now: System, unread: list[str]) -> ProcessView:
    fields = proc.status(task.pid)
    memory = {
        name: value
        for name, value in fields.items()
        if name.startswith(("Vm", "Rss")) and isinstance(value, int)
    }
    places = [c.pid for c in machine.candidates if c.badness is not None]
    candidate = next((c for c in machine.candidates if c.pid == task.pid), None)
    return ProcessView(
        pid=task.pid,
        name=task.name,
        status=memory,
        limits=tuple(_limits(task.pid, memory, now, unread)),
        candidate=candidate,
        rank=places.index(task.pid) + 1 if task.pid in places else None,
        shown=proc.oom_score(task.pid),
    )


def _limits(pid: int, memory: dict[str, int], now: System, unread: list[str]) -> Sequence[Room]:
    used = {
        "RLIMIT_AS": memory.get("VmSize", 0) << 10,
        "RLIMIT_DATA": memory.get("VmData", 0) << 10,
        "RLIMIT_STACK": memory.get("VmStk", 0) << 10,
        "RLIMIT_MEMLOCK": memory.get("VmLck", 0) << 10,
    }
    found = [
        Room(name, used[name], limit) for name, limit in proc.soft_limits(pid, _LIMITS).items()
    ]
    try:
        count = len(proc.maps(pid))
    except PermissionError as error:
        unread.append(f"/proc/{pid}/maps: {error.strerror}")
    else:
        found.append(Room("max_map_count", count, now.sysctls.get("max_map_count")))
    return found
