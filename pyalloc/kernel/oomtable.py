"""The reasons of an OOM kill as a table: a line for each candidate, a column for each term."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pyalloc.kernel.oom import Task, Term, Verdict

_CHILD = re.compile(r"child \d+")
_FACTOR = re.compile(r"(?P<head>.+) (?P<how>[/*] \d+)")
_VALUE = re.compile(r"(?P<head>oom_(?:score_)?adj) (?P<value>[+-]?\d+)")


def reasons(tasks: Sequence[Task], verdict: Verdict) -> str:
    """Return the terms of each task's score, and the score, in columns; ``>`` marks the victim.

    What is added stands with its sign, what multiplies or divides as it is written; ``-`` stands
    for a task that must not be chosen.

    Examples
    --------
    >>> from pyalloc.kernel.oom import oom_policy
    >>> tasks = [Task(2, "sh", 1, total_vm=9, rss=5), Task(3, "db", 1, 900, 700, 100, 8192, 10)]
    >>> print(reasons(tasks, oom_policy("6.12").choose(tasks, 4000)))
      pid  name   rss  swap  page tables  oom_score_adj  score
        2  sh      +5                                        5
    >   3  db    +700  +100           +2       +40 (10)    842
    highest badness: 3 (db)
    """
    cells = [_cells(verdict.terms.get(task.pid, ())) for task in tasks]
    heads = list(dict.fromkeys(head for row in cells for head in row))
    dead = {verdict.victim.pid} if verdict.victim else set()
    dead |= {task.pid for task in verdict.also}
    rows = [("pid", "name", *heads, "score")]
    for task, row in zip(tasks, cells, strict=True):
        score = verdict.scores.get(task.pid)
        points = "-" if score is None else f"{score:,}"
        rows.append((str(task.pid), task.name, *(row.get(head, "") for head in heads), points))
    marks = [" ", *(">" if task.pid in dead else " " for task in tasks)]
    lines = (f"{mark} {line}" for mark, line in zip(marks, _aligned(rows), strict=True))
    return "\n".join((*lines, _last_line(verdict)))


def _last_line(verdict: Verdict) -> str:
    if verdict.victim is None:
        return f"nobody is killed: {verdict.why}"
    return f"{verdict.why}: {verdict.victim.pid} ({verdict.victim.name})"


def _cells(terms: Sequence[Term]) -> dict[str, str]:
    """Return what each kind of term does to the score, by its head."""
    found: dict[str, str] = {}
    points = children = 0
    for term in terms:
        change = term.points - points
        points = term.points
        if _CHILD.fullmatch(term.what):
            children += change
            found["children"] = f"{children:+,}"
        elif factor := _FACTOR.fullmatch(term.what):
            found[factor["head"]] = factor["how"]
        elif value := _VALUE.fullmatch(term.what):
            if change:
                found[value["head"]] = f"{change:+,} ({value['value']})"
        elif change or term.what not in found:
            found[term.what] = f"{change:+,}" if change else ""
    return found


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Align words to the left, figures to the right; columns with nothing in them go."""
    columns = [c for c in zip(*rows, strict=True) if any(cell.strip() for cell in c[1:])]
    widths = [max(map(len, column)) for column in columns]
    lines = []
    for cells in zip(*columns, strict=True):
        padded = [cell.rjust(width) for cell, width in zip(cells, widths, strict=True)]
        padded[1] = cells[1].ljust(widths[1])
        lines.append("  ".join(padded))
    return lines
