"""One point: from its parameters to a row of the result.

This is what workers do, wherever they are; a process keeps the traces and stages that it used last,
because the points of a grid come in an order in which the program changes least often.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pyalloc.errors import PyallocError
from pyalloc.lab.examine import allocator_of
from pyalloc.lab.replay import replay
from pyalloc.lab.stage import Stage, stage_for
from pyalloc.lab.sweep.batch import Batch, Row, Schema
from pyalloc.lab.sweep.parameters import Value, machine_parameters
from pyalloc.lab.sweep.plan import Subject, workload_of
from pyalloc.lab.trial import touch_of
from pyalloc.machine import Machine, ReplayError, ReplaySummary
from pyalloc.trace import Trace
from pyalloc.workload.catalogue import trace_of, workload

_MOST_ROWS: Final = 20_000_000
_MOST_TRACES: Final = 64
_REPLAY: Final = frozenset({"allocator", "arch", "touch", "cpus"})


@dataclass(frozen=True, slots=True)
class Job:
    """Some points of one subject; plain data, so that it goes anywhere."""

    subject: Subject
    name: str
    points: Sequence[tuple[int, Mapping[str, Value]]]
    schema: Schema


def run_job(job: Job) -> Batch:
    """Return the row of each point; a point that cannot be run is a row with its error."""
    rows: list[Row] = []
    for number, parameters in job.points:
        began = time.perf_counter()
        row: Row = {"point": number, "program": job.name, **parameters}
        try:
            row |= _run(job.subject, parameters)
        except PyallocError as error:
            row["error"] = str(error)
        except OSError as error:
            row["error"] = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        except (MemoryError, ArithmeticError, LookupError, TypeError, ValueError) as error:
            row["error"] = f"{type(error).__name__}: {error}"
        row["seconds"] = time.perf_counter() - began
        rows.append(row)
    return Batch.of(rows, job.schema)


def _run(subject: Subject, parameters: Mapping[str, Value]) -> Row:
    found = workload_of(subject)
    own = {n: v for n, v in parameters.items() if found is not None and n in found.parameters}
    trace = _traces.get(subject, own)
    rest = {n: v for n, v in parameters.items() if n not in own}
    machine = {n: rest.pop(n) for n in [*rest] if n in machine_parameters()}
    how = {n: rest.pop(n) for n in [*rest] if n in _REPLAY}
    allocator = str(how.get("allocator") or allocator_of(trace))
    touch = str(how.get("touch") or touch_of(trace))
    if machine:
        summary, ended = _on_machine(trace, allocator, touch, rest, how, machine)
    else:
        stage = _stages.get(trace, how)
        summary, ended = stage.replay(trace, allocator, tunables=_settings(rest), touch=touch)
    row: Row = summary.flat()
    if ended is not None:
        row |= {"ended": f"{ended.kind}: {ended.message}", "ended_at": ended.row}
    return row


def _settings(rest: Mapping[str, Value]) -> dict[str, int | str]:
    return {n: v if isinstance(v, int | str) else int(v) for n, v in rest.items()}


def _on_machine(
    trace: Trace,
    allocator: str,
    touch: str,
    settings: Mapping[str, Value],
    how: Mapping[str, Value],
    machine: Mapping[str, Value],
) -> tuple[ReplaySummary, ReplayError | None]:
    given: dict[str, Any] = {
        "ram": "256G",
        "swap": 0,
        "kernel": "6.18",
        "arch": how.get("arch") or trace.info.arch or "x86_64",
        "cpus": how.get("cpus") or trace.info.cpus or 1,
        **machine,
    }
    with Machine(**given) as box:
        result = replay(
            trace,
            allocator,
            machine=box,
            tunables=_settings(settings),
            touch=touch,
            record=(),
            samples=0,
        )
    return result.summary, result.errors[0] if result.errors else None


# --- what a process keeps


class _Traces:
    """The traces used last."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Any, Trace] = OrderedDict()
        self._rows = 0

    def get(self, subject: Subject, own: Mapping[str, Value]) -> Trace:
        """Return the trace of a subject with parameters."""
        if isinstance(subject, Trace):
            return subject
        key = (str(subject), tuple(own.items()))
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        found = workload_of(subject)
        trace = workload(str(subject), **own) if found is not None else trace_of(subject)
        self._kept[key] = trace
        self._rows += len(trace)
        while len(self._kept) > 1 and (self._rows > _MOST_ROWS or len(self._kept) > _MOST_TRACES):
            self._rows -= len(self._kept.popitem(last=False)[1])
        return trace


class _Stages:
    """The stage used last, which is nearly always the one wanted."""

    def __init__(self) -> None:
        self._last: tuple[Trace | None, tuple[Value, ...], Stage | None] = (None, (), None)

    def get(self, trace: Trace, how: Mapping[str, Value]) -> Stage:
        """Return the stage on which ``trace`` begins."""
        arch, cpus = how.get("arch"), how.get("cpus")
        last, key, stage = self._last
        if last is trace and key == (arch, cpus) and stage is not None:
            return stage
        stage = stage_for(trace, str(arch) if arch else None, int(cpus) if cpus else None)
        self._last = (trace, (arch, cpus), stage)  # type: ignore[assignment]
        return stage


_traces, _stages = _Traces(), _Stages()
