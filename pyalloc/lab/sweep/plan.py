"""A plan: which points a sweep has, found by their number."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate
from math import prod
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pyalloc.errors import ArgumentError
from pyalloc.lab.sweep.parameters import Axis, Between, Value, axis, belongs_to
from pyalloc.trace import Trace
from pyalloc.workload.catalogue import (
    Workload,
    find_workload,
    names_workload,
    parse_workload,
    trace_of,
)

DESIGNS: Final = ("grid", "lhs", "random")
"""Every combination; a Latin hypercube; independent draws."""

MOST_POINTS: Final = 10_000_000

Subject = Trace | str | Path


@dataclass(frozen=True, slots=True)
class Point:
    """One experiment: its number, which subject it is about, and its parameters."""

    number: int
    subject: int
    parameters: Mapping[str, Value]


@dataclass(frozen=True, eq=False)
class Plan:
    """The points of a sweep.

    A parameter that a subject does not have (another workload's, or any workload's for a trace)
    is left out of its points.
    """

    subjects: tuple[Subject, ...]
    axes: tuple[Axis, ...]
    design: str
    count: int
    seed: int

    def __len__(self) -> int:
        """Return the number of points."""
        return self.count

    @cached_property
    def names(self) -> tuple[str, ...]:
        """How the subjects are called, each by another name."""
        plain = [_name(subject) for subject in self.subjects]
        return tuple(
            f"{name} #{i + 1}" if plain.count(name) > 1 else name for i, name in enumerate(plain)
        )

    @cached_property
    def _axes_of(self) -> tuple[tuple[Axis, ...], ...]:
        """The axes of each subject: those of the workload first, so that it stays the longest."""
        return tuple(_axes_for(subject, self.axes) for subject in self.subjects)

    @cached_property
    def _ends(self) -> list[int]:
        """Where the points of each subject end, in a grid."""
        return list(accumulate(prod(map(len, axes)) for axes in self._axes_of))

    @cached_property
    def _draws(self) -> npt.NDArray[np.float64]:
        """Where each point of a drawn design lies: a column an axis, and one for the subject."""
        rng = np.random.default_rng(self.seed)
        shape = (self.count, len(self.axes) + 1)
        if self.design == "random":
            return rng.random(shape)
        strata = np.array([rng.permutation(self.count) for _ in range(shape[1])]).T
        found: npt.NDArray[np.float64] = (strata + rng.random(shape)) / self.count
        return found

    def point(self, number: int) -> Point:
        """Return the point of a number, 0 to ``len(plan) - 1``."""
        if self.design != "grid":
            return self._drawn(number)
        subject = bisect_right(self._ends, number)
        rest = number - (self._ends[subject - 1] if subject else 0)
        found = {}
        for each in reversed(self._axes_of[subject]):
            rest, at = divmod(rest, len(each))
            found[each.name] = each.values[at]  # type: ignore[index]  # a grid has no intervals
        return Point(number, subject, dict(reversed(found.items())))

    def _drawn(self, number: int) -> Point:
        *parts, which = self._draws[number].tolist()
        subject = min(int(which * len(self.subjects)), len(self.subjects) - 1)
        own = {each.name for each in self._axes_of[subject]}
        found = {a.name: a.at(p) for a, p in zip(self.axes, parts, strict=True) if a.name in own}
        return Point(number, subject, found)

    def to_json(self) -> dict[str, Any]:
        """Return what makes the plan what it is."""
        return {
            "subjects": list(self.names),
            "axes": {each.name: each.to_json() for each in self.axes},
            "design": self.design,
            "points": self.count,
            "seed": self.seed,
        }


def plan(
    subjects: Sequence[Subject],
    parameters: Mapping[str, object],
    *,
    design: str = "grid",
    points: int | None = None,
    seed: int = 0,
    most: int = MOST_POINTS,
) -> Plan:
    """Return the plan of a sweep.

    Raises
    ------
    ArgumentError
        It has no points or more than ``most``, or a parameter or value is none.
    """
    if not subjects:
        message = "a sweep needs a program: a trace or a workload"
        raise ArgumentError(message)
    if design not in DESIGNS:
        message = f"design must be one of {', '.join(DESIGNS)} (got {design!r})"
        raise ArgumentError(message)
    for subject in subjects:
        _require(subject)
    workloads = [w for w in map(workload_of, subjects) if w is not None]
    axes = tuple(axis(name, given, workloads) for name, given in parameters.items())
    count = _count(subjects, axes, design, points)
    if count < 1:
        message = "the sweep has no points"
        raise ArgumentError(message)
    if count > most:
        message = f"the sweep has {count:,} points; at most {most:,} are possible"
        raise ArgumentError(message)
    return Plan(tuple(subjects), axes, design, count, seed)


def _count(
    subjects: Sequence[Subject], axes: Sequence[Axis], design: str, points: int | None
) -> int:
    if design == "grid":
        for each in axes:
            if isinstance(each.values, Between):
                message = f"an interval of {each.name} needs a design by draw: lhs or random"
                raise ArgumentError(message)
        if points is not None:
            message = (
                "a grid has the points it has; a number of points needs the design lhs or random"
            )
            raise ArgumentError(message)
        return sum(prod(map(len, _axes_for(subject, axes))) for subject in subjects)
    if points is None:
        message = f"the design {design} needs a number of points"
        raise ArgumentError(message)
    return points


def _require(subject: Subject) -> None:
    """Raise unless a subject is there: before the first point, not at each."""
    if isinstance(subject, Trace) or Path(subject).exists():
        return
    if workload_of(subject) is None:
        trace_of(subject)  # which says what it is not
    else:
        found, written = parse_workload(str(subject))
        found.settings(written)


def workload_of(subject: Subject) -> Workload | None:
    """Return the workload that a subject names; a file of that name wins."""
    return _workload_of(subject) if isinstance(subject, str) else None


@lru_cache(1024)
def _workload_of(subject: str) -> Workload | None:
    if not names_workload(subject) or Path(subject).exists():
        return None
    return find_workload(subject.partition(":")[0])


def _axes_for(subject: Subject, axes: Sequence[Axis]) -> tuple[Axis, ...]:
    found = workload_of(subject)
    own = set(found.parameters) if found else set()
    written = set(parse_workload(subject)[1]) if found and isinstance(subject, str) else set()
    known = [found] if found else []
    mine, others = [], []
    for each in axes:
        if each.name in own - written:
            mine.append(each)
        elif each.name not in own and _is_general(each.name, known):
            others.append(each)
    return (*mine, *others)


def _is_general(name: str, workloads: Sequence[Workload]) -> bool:
    try:
        return belongs_to(name, workloads) != "workload"
    except ArgumentError:
        return False  # another subject's


def _name(subject: Subject) -> str:
    if isinstance(subject, Trace):
        return subject.info.command[0] if subject.info.command else subject.info.source
    return str(subject)
