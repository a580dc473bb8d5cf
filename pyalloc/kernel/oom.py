"""The OOM killer's choice, as each kernel generation makes it.

A policy is an object with one method, ``choose(tasks, totalpages) -> Verdict``.  The kernel's own
are ``"2.6.11"``, ``"2.6.18"`` and ``"6.12"``, and ``"earlyoom"`` and ``"systemd-oomd"`` are
:mod:`pyalloc.kernel.oomdaemons`'s; other packages add theirs under the entry point group
``pyalloc.oom_policies`` and are then found by name.

Sources: ``mm/oom_kill.c`` of Linux 2.6.11, 2.6.18 and 6.12.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import entry_points
from typing import Final, Protocol

from pyalloc.arguments import words
from pyalloc.errors import ArgumentError
from pyalloc.nearest import nearest
from pyalloc.units import PAGE

OOM_SCORE_ADJ_MIN: Final = -1000
OOM_DISABLE: Final = -17
"""The ``oom_adj`` of a 2.6 process that must never be chosen."""

_HZ: Final = 1000  # i386, 2.6
_SHIFT_HZ: Final = 10
_ULONG32: Final = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Task:
    """What the OOM killer sees of one process.

    ``total_vm``, ``rss`` and ``swapents`` are pages, ``pgtables_bytes`` bytes, ``cpu_time`` and
    ``run_time`` seconds.  ``children`` are the direct children, oldest first, as tasks or as pids
    of other tasks in the same list; only 2.6 asks for them.  ``oom_adj`` is 2.6's,
    ``oom_score_adj`` today's.  ``capable`` says whether the task holds CAP_SYS_ADMIN and
    CAP_SYS_RAWIO; None means that root does and others do not.  ``dying`` marks an earlier victim
    of the OOM killer that has not given its memory back yet: nobody else is killed meanwhile.
    ``cgroup`` is the path of its memory cgroup.
    """

    pid: int
    name: str
    uid: int = 0
    total_vm: int = 0
    rss: int = 0
    swapents: int = 0
    pgtables_bytes: int = 0
    oom_score_adj: int = 0
    nice: int = 0
    cpu_time: float = 0.0
    run_time: float = 0.0
    children: tuple[Task | int, ...] = ()
    oom_adj: int = 0
    capable: tuple[bool, bool] | None = None
    kernel_thread: bool = False
    vfork: bool = False
    dying: bool = False
    cgroup: str = ""

    @property
    def sys_admin(self) -> bool:
        """Whether badness counts the task as the superuser's."""
        return self.uid == 0 or (self.capable is not None and self.capable[0])

    @property
    def sys_rawio(self) -> bool:
        """Whether the task may touch hardware directly."""
        return self.uid == 0 if self.capable is None else self.capable[1]


@dataclass(frozen=True, slots=True)
class Term:
    """One step of a badness: what it is, and the points after it."""

    what: str
    points: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """Who dies, and why.

    ``victim`` is the task that is killed, None if nobody can or need be; ``selected`` the one with
    the highest score (2.6 kills a child of it first).  ``scores`` maps each pid to its badness,
    None for a task that must not be chosen; ``terms`` maps each pid to the steps of that sum.
    ``also`` die with the victim, if a policy kills more than one.
    """

    victim: Task | None
    selected: Task | None
    scores: Mapping[int, int | None]
    terms: Mapping[int, tuple[Term, ...]] = field(default_factory=dict)
    why: str = ""
    also: tuple[Task, ...] = ()

    @property
    def panics(self) -> bool:
        """Whether a sysctl has the kernel panic instead of killing anybody."""
        return self.victim is None and "panic_on_oom" in self.why


class _Trail(Mapping[int, tuple[Term, ...]]):
    """The steps of each task's badness by pid, worked out when somebody looks."""

    __slots__ = ("_steps", "_tasks")

    def __init__(self, tasks: Mapping[int, Task], steps: Callable[[Task], Iterable[Term]]) -> None:
        self._tasks = tasks
        self._steps = steps

    def __getitem__(self, pid: int) -> tuple[Term, ...]:
        return tuple(self._steps(self._tasks[pid]))

    def __iter__(self) -> Iterator[int]:
        return iter(self._tasks)

    def __len__(self) -> int:
        return len(self._tasks)


class OomPolicy(Protocol):
    """Chooses which process dies when memory is exhausted."""

    def choose(self, tasks: Sequence[Task], totalpages: int) -> Verdict:
        """Return the verdict over ``tasks``, in order of creation; ``totalpages`` is RAM + swap."""


# --- 2.6 -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Badness26:
    """Badness by virtual size, with bonuses for age, CPU time and privilege (2.6).

    ``child_share`` turns a child's total_vm into its parent's points; ``disable`` is the
    ``oom_adj`` that exempts a task, None where there is no such value (2.6.11).
    """

    child_share: Callable[[int], int]
    disable: int | None

    def choose(self, tasks: Sequence[Task], totalpages: int) -> Verdict:  # noqa: ARG002
        """Return the highest score's oldest usable child, or the highest score itself."""
        by_pid = {task.pid: task for task in tasks}
        best: Task | None = None
        best_points = 0
        scores: dict[int, int | None] = {}
        judged: dict[int, Task] = {}
        terms = _Trail(judged, partial(self._terms, by_pid=by_pid))
        for task in tasks:
            if task.pid <= 1 or (self.disable is not None and task.oom_adj == self.disable):
                scores[task.pid] = None
                continue
            if task.dying:
                return Verdict(None, None, scores, terms, f"{task.pid} is still exiting")
            judged[task.pid] = task
            scores[task.pid] = points = self._points(task, by_pid)
            if best is None or points > best_points:
                best, best_points = task, points
        if best is None:
            return Verdict(None, None, scores, terms, "no killable process")
        child = next((c for c in _children(best, by_pid) if c.total_vm), None)
        if child is not None:
            return Verdict(child, best, scores, terms, f"first child of {best.pid}, the highest")
        return Verdict(best, best, scores, terms, "highest badness")

    def _points(self, task: Task, by_pid: Mapping[int, Task]) -> int:
        """Return the last of :meth:`_terms`."""
        if task.kernel_thread or not task.total_vm:
            return 0
        if task.children or task.cpu_time or task.run_time or task.oom_adj:
            return [term.points for term in self._terms(task, by_pid)][-1]
        points = task.total_vm * 2 if task.nice > 0 else task.total_vm
        if task.sys_admin:
            points //= 4
        return points // 4 if task.sys_rawio else points

    def _terms(self, task: Task, by_pid: Mapping[int, Task]) -> Iterable[Term]:
        if task.kernel_thread or not task.total_vm:
            yield Term("no address space", 0)
            return
        points = task.total_vm
        yield Term("total_vm", points)
        for child in _children(task, by_pid):
            if child.total_vm:
                points += self.child_share(child.total_vm)
                yield Term(f"child {child.pid}", points)
        cpu = int(task.cpu_time * _HZ) >> (_SHIFT_HZ + 3)
        if root := math.isqrt(cpu):
            points //= root
            yield Term(f"cpu time / {root}", points)
        if root := math.isqrt(math.isqrt(int(task.run_time) >> 10)):
            points //= root
            yield Term(f"run time / {root}", points)
        if task.nice > 0:
            points *= 2
            yield Term("nice * 2", points)
        if task.sys_admin:
            points //= 4
            yield Term("superuser / 4", points)
        if task.sys_rawio:
            points //= 4
            yield Term("raw I/O / 4", points)
        if task.oom_adj:
            shifted = points << task.oom_adj if task.oom_adj > 0 else points >> -task.oom_adj
            points = shifted & _ULONG32
            yield Term(f"oom_adj {task.oom_adj:+d}", points)


def _children(task: Task, by_pid: Mapping[int, Task]) -> Iterable[Task]:
    for child in task.children:
        if isinstance(child, Task):
            yield child
        elif child in by_pid:
            yield by_pid[child]


# --- today -----------------------------------------------------------------------------------


def badness(task: Task, totalpages: int) -> int | None:
    """Return ``oom_badness()`` of Linux 6.12 in pages, None for a task that cannot be chosen."""
    memory = task.rss + task.swapents + task.pgtables_bytes // PAGE
    if (
        task.pid == 1
        or task.kernel_thread
        or task.vfork
        or task.oom_score_adj == OOM_SCORE_ADJ_MIN
        or not (memory or task.total_vm)
    ):
        return None
    return memory + task.oom_score_adj * (totalpages // 1000)


def _terms_modern(task: Task, totalpages: int) -> Iterable[Term]:
    """Yield how :func:`badness` comes about."""
    if badness(task, totalpages) is None:
        return
    points = 0
    for what, pages in (
        ("rss", task.rss),
        ("swap", task.swapents),
        ("page tables", task.pgtables_bytes // PAGE),
        (f"oom_score_adj {task.oom_score_adj}", task.oom_score_adj * (totalpages // 1000)),
    ):
        points += pages
        yield Term(what, points)


def oom_score(task: Task, totalpages: int) -> int:
    """Return what ``/proc/PID/oom_score`` shows under Linux 6.12 (``fs/proc/base.c``)."""
    points = badness(task, totalpages)
    if points is None:
        return 0
    share = abs(points) * 1000 // max(totalpages, 1)
    return (1000 + (share if points >= 0 else -share)) * 2 // 3


@dataclass(frozen=True, slots=True)
class BadnessModern:
    """Badness by resident pages, swap and page tables, shifted by ``oom_score_adj`` (6.x)."""

    def choose(self, tasks: Sequence[Task], totalpages: int) -> Verdict:
        """Return the highest score; of equals, the youngest."""
        scores: dict[int, int | None] = {}
        judged: dict[int, Task] = {}
        terms = _Trail(judged, partial(_terms_modern, totalpages=totalpages))
        best: Task | None = None
        best_points = 0
        for task in tasks:
            if task.dying:
                return Verdict(None, None, scores, terms, f"{task.pid} is still exiting")
            judged[task.pid] = task
            scores[task.pid] = points = badness(task, totalpages)
            if points is not None and (best is None or points >= best_points):
                best, best_points = task, points
        why = "highest badness" if best else "no killable process"
        return Verdict(best, best, scores, terms, why)


# --- by name ---------------------------------------------------------------------------------

_POLICIES: Final[Mapping[str, OomPolicy]] = {
    "2.6.11": Badness26(child_share=lambda pages: pages, disable=None),
    "2.6.18": Badness26(child_share=lambda pages: pages // 2 + 1, disable=OOM_DISABLE),
    "6.12": BadnessModern(),
    "6.18": BadnessModern(),
}

ENTRY_POINTS: Final = "pyalloc.oom_policies"


def oom_policy(name: str) -> OomPolicy:
    """Return the policy of kernel ``name``, or the plug-in registered under that name.

    Raises
    ------
    ArgumentError
        No such policy; the text lists the nearest names.

    Examples
    --------
    >>> tasks = [Task(2, "a", uid=1, rss=10, total_vm=10), Task(3, "b", uid=1, rss=9, total_vm=99)]
    >>> oom_policy("6.12").choose(tasks, 1000).victim.name
    'a'
    """
    if words(name, "name") in _POLICIES:
        return _POLICIES[name]
    plugins = {entry.name: entry for entry in entry_points(group=ENTRY_POINTS)}
    if name in plugins:
        policy: OomPolicy = plugins[name].load()()
        return policy
    message = f"no OOM policy {name!r}{nearest(name, [*_POLICIES, *plugins])}"
    raise ArgumentError(message)
