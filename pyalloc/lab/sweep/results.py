"""What a sweep came to: its table, what failed, and what each parameter does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from arro3.compute import take
from arro3.core import Array, Table

from pyalloc.errors import ArgumentError
from pyalloc.lab.paired import Interval, mean_of
from pyalloc.lab.sweep.batch import Batch, schema_of, table_of
from pyalloc.lab.sweep.plan import Plan

_MOST_LEVELS: Final = 12
_PARTS: Final = 4  # of a parameter of many values


@dataclass(frozen=True, slots=True)
class Failure:
    """A point that could not be run, and why."""

    point: int
    program: str
    parameters: Mapping[str, Any]
    error: str


@dataclass(frozen=True, slots=True)
class Effect:
    """A metric at one level of a parameter: over how many points, its mean and its bounds."""

    parameter: str
    level: str
    points: int
    mean: Interval
    least: float
    most: float


@dataclass(frozen=True, eq=False)
class Sweep:
    """The outcome of a sweep.

    Attributes
    ----------
    plan
        The points.
    table
        An Arrow table (arro3), one row a point, by number: ``point``, ``program``, the parameters,
        every figure of :class:`~pyalloc.ReplaySummary`, ``ended`` and ``ended_at`` where a program
        did not run to its end, ``error`` where a point could not be run, and ``seconds``.
    """

    plan: Plan
    table: Table

    @classmethod
    def of(cls, plan: Plan, tables: Iterable[Table]) -> Sweep:
        """Return the sweep whose rows these are; of several for one point the last counts."""
        parts = [batch for table in tables for batch in table.to_batches()]
        if not parts:
            return cls(plan, table_of([], schema_of(plan)))
        whole = Table.from_batches(parts).combine_chunks()
        point = np.asarray(whole["point"].combine_chunks().to_numpy())
        last = np.full(len(plan), -1)
        last[point] = np.arange(len(point))
        rows = last[last >= 0]
        index = Array.from_numpy(rows.astype(np.uint64))
        taken = [take(column.combine_chunks(), index) for column in whole.columns]
        return cls(plan, Table.from_arrays(taken, names=whole.column_names))

    def __reduce__(self) -> tuple[Callable[[Plan, Batch], Sweep], tuple[Plan, Batch]]:
        """Travel to another process: an Arrow table does not by itself."""
        return _sweep_from, (self.plan, Batch(self.table, 0.0))

    def __repr__(self) -> str:
        failed = f", {len(self.failures):,} failed" if self.failures else ""
        return f"<Sweep: {len(self):,} of {len(self.plan):,} points{failed}>"

    def __len__(self) -> int:
        """Return the number of rows."""
        return int(self.table.num_rows)

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Give the table to any Arrow library (the PyCapsule interface)."""
        return self.table.__arrow_c_stream__(requested_schema)

    def column(self, name: str) -> list[Any]:
        """Return a column as Python values, None where there is none."""
        if name not in self.table.column_names:
            message = f"the sweep has no column {name!r}"
            raise ArgumentError(message)
        return list(self.table[name].to_pylist())

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield every row."""
        names = self.table.column_names
        for values in zip(*(self.column(name) for name in names), strict=True):
            yield dict(zip(names, values, strict=True))

    @cached_property
    def failures(self) -> tuple[Failure, ...]:
        """The points that could not be run."""
        names = [each.name for each in self.plan.axes]
        columns = {name: self.column(name) for name in ("point", "program", "error", *names)}
        return tuple(
            Failure(
                columns["point"][i],
                columns["program"][i],
                {n: columns[n][i] for n in names if columns[n][i] is not None},
                error,
            )
            for i, error in enumerate(columns["error"])
            if error is not None
        )

    def figures(self, metric: str) -> npt.NDArray[np.float64]:
        """Return a column of figures, NaN where a point has none."""
        values = self.column(metric)
        if any(isinstance(value, str) for value in values):
            message = f"{metric!r} is no figure"
            raise ArgumentError(message)
        return np.array([np.nan if v is None else float(v) for v in values])

    def best(self, metric: str) -> dict[str, Any] | None:
        """Return the row of the least ``metric``; None if no point has one."""
        values = self.figures(metric)
        if np.isnan(values).all():
            return None
        at = int(np.nanargmin(values))
        return {name: self.table[name][at].as_py() for name in self.table.column_names}

    def effects(self, metric: str) -> tuple[Effect, ...]:
        """Return ``metric`` at every level of every parameter that has several.

        A parameter of many numbers is cut into quarters of equally many points.
        """
        values = self.figures(metric)
        found: list[Effect] = []
        for name in ["program", *(each.name for each in self.plan.axes)]:
            good = [
                (level, values[at & ~np.isnan(values)])
                for level, at in _levels(self.column(name))
                if (at & ~np.isnan(values)).any()
            ]
            if len(good) > 1:
                found += [_effect(name, level, chosen) for level, chosen in good]
        return tuple(found)

    def to_dict(self, metric: str) -> dict[str, Any]:
        """Return plan, failures, best point and effects as JSON values."""
        return {
            **self.plan.to_json(),
            "done": len(self),
            "failed": len(self.failures),
            "metric": metric,
            "best": self.best(metric),
            "effects": [
                {
                    "parameter": e.parameter,
                    "level": e.level,
                    "points": e.points,
                    "mean": e.mean.mean,
                    "low": e.mean.low,
                    "high": e.mean.high,
                    "least": e.least,
                    "most": e.most,
                }
                for e in self.effects(metric)
            ],
            "failures": [
                {"point": f.point, "program": f.program, **f.parameters, "error": f.error}
                for f in self.failures
            ],
        }


def _effect(name: str, level: str, values: npt.NDArray[np.float64]) -> Effect:
    return Effect(
        name,
        level,
        len(values),
        mean_of(values.tolist()),
        float(values.min()),
        float(values.max()),
    )


def _levels(column: list[Any]) -> list[tuple[str, npt.NDArray[np.bool_]]]:
    """Return the levels of a parameter, and which points are at each."""
    present = [value for value in column if value is not None]
    distinct = list(dict.fromkeys(present))
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in distinct)
    if numbers:
        distinct.sort()
    if len(distinct) <= _MOST_LEVELS or not numbers:
        array = np.array(column, object)
        return [(_text(value), array == value) for value in distinct]
    scale = np.array([np.nan if v is None else float(v) for v in column])
    edges = np.nanquantile(scale, np.linspace(0, 1, _PARTS + 1))
    found = []
    for i, (low, high) in enumerate(pairwise(edges)):
        inside = (scale >= low) & ((scale < high) | ((i == _PARTS - 1) & (scale <= high)))
        found.append((f"{_text(low)} to {_text(high)}", inside))
    return found


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if value % 1 else f"{value:.0f}"
    return str(value)


def _sweep_from(plan: Plan, batch: Batch) -> Sweep:
    return Sweep(plan, batch.table)
