"""The rules of user-space OOM daemons, as policies: whom they would kill in the kernel's place.

They choose here when the kernel would, not earlier; when they really act is set by thresholds of
their own on free memory, swap and pressure.

Sources: ``kill.c`` of earlyoom 1.8 and its manual page; ``oomd-util.c`` of systemd 257 and
``systemd-oomd.service(8)``.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from pyalloc.kernel.oom import OOM_SCORE_ADJ_MIN, Task, Term, Verdict, oom_score

_REGEX_WEIGHT: Final = 300


@dataclass(frozen=True, slots=True)
class EarlyOom:
    """The highest ``oom_score``, and of equals the most resident.

    ``prefer`` and ``avoid`` are regular expressions on names, worth 300 points either way; init,
    kernel threads, tasks without resident memory and those with an ``oom_score_adj`` of -1000 are
    not chosen.
    """

    prefer: str = ""
    avoid: str = ""

    def choose(self, tasks: Sequence[Task], totalpages: int) -> Verdict:
        """Return the verdict over ``tasks``."""
        terms = {task.pid: tuple(self._terms(task, totalpages)) for task in tasks}
        scores = {pid: of[-1].points if of else None for pid, of in terms.items()}
        best: Task | None = None
        rank = (0, 0)
        for task in tasks:
            mine = (scores[task.pid] or 0, task.rss)
            if terms[task.pid] and mine > rank:
                best, rank = task, mine
        return Verdict(best, best, scores, terms, "highest oom_score" if best else "no victim")

    def _terms(self, task: Task, totalpages: int) -> list[Term]:
        exempt = task.oom_score_adj == OOM_SCORE_ADJ_MIN or task.kernel_thread
        if task.pid <= 2 or not task.rss or exempt:  # init and kthreadd
            return []
        points = oom_score(task, totalpages)
        terms = [Term("oom_score", points)]
        for pattern, weight in ((self.prefer, _REGEX_WEIGHT), (self.avoid, -_REGEX_WEIGHT)):
            if pattern and re.search(pattern, task.name):
                points += weight
                terms.append(Term("preferred" if weight > 0 else "avoided", points))
        return terms


@dataclass(frozen=True, slots=True)
class SystemdOomd:
    """The cgroup that uses most swap, all of it; of equals the one that uses most memory.

    Cgroups in ``omit`` are never chosen, those in ``avoid`` if there is no other, by their paths
    (``ManagedOOMPreference=``).  Processes outside cgroups are not touched.
    """

    omit: Collection[str] = ()
    avoid: Collection[str] = ()

    def choose(self, tasks: Sequence[Task], totalpages: int) -> Verdict:  # noqa: ARG002
        """Return the verdict: its victim is the largest process of the cgroup."""
        groups: dict[str, list[Task]] = {}
        for task in tasks:
            if task.cgroup not in ("", "/") and task.cgroup not in self.omit:
                groups.setdefault(task.cgroup, []).append(task)
        scores: dict[int, int | None] = {task.pid: None for task in tasks}
        terms = {task.pid: () for task in tasks} | self._trail(groups)
        for pid, of in terms.items():
            scores[pid] = of[0].points if of else None
        if not groups:
            return Verdict(None, None, scores, terms, "no cgroup to kill")
        path = max(groups, key=lambda path: (path not in self.avoid, *_use(groups[path])))
        victim = max(groups[path], key=lambda task: (task.rss + task.swapents, task.pid))
        also = tuple(task for task in groups[path] if task is not victim)
        return Verdict(victim, victim, scores, terms, f"{path} uses most swap", also)

    @staticmethod
    def _trail(groups: dict[str, list[Task]]) -> dict[int, tuple[Term, ...]]:
        return {
            task.pid: (
                Term(f"swap of {path}", _use(of)[0]),
                Term(f"memory of {path}", _use(of)[1]),
            )
            for path, of in groups.items()
            for task in of
        }


def _use(tasks: Sequence[Task]) -> tuple[int, int]:
    """Return pages of swap and of memory."""
    return sum(task.swapents for task in tasks), sum(task.rss for task in tasks)
