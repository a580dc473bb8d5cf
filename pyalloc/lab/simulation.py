"""What comes out of a scenario: its events, its timeline, and how each process ended."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from arro3.core import Array, DataType, Table

from pyalloc.lab.timeline import Timeline
from pyalloc.machine import Machine, OomEvent
from pyalloc.trace.checked import write_checked
from pyalloc.trace.files import replacing
from pyalloc.workload.scenario import Scenario

RUNNING: Final = "running"
OOM: Final = "oom"

_EVENT_COLUMNS: Final = {
    "time": DataType.float64(),
    "kind": DataType.string(),
    "process": DataType.string(),
    "pid": DataType.uint32(),
    "size": DataType.uint64(),
    "text": DataType.string(),
}


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened.

    ``time`` is in seconds and ``size`` in bytes.  ``kind`` is one of

    ``start``, ``exit``, ``signal``
        a process began, ended by itself, or was ended by a signal;
    ``oom``
        the OOM killer chose it;
    ``refused``
        a request of it came back NULL, or a system call failed for want of memory;
    ``limit``, ``swapping``, ``swap-full``
        a cgroup reached its limit, the machine began to swap, its swap is full;
    ``change``, ``note``, ``panic``
        a change the scenario makes, a program's remark, the end of the machine;
    ``stuck``
        its cgroup is full and nobody in it may be killed: a fault that is tried again for ever.
    """

    time: float
    kind: str
    process: str
    pid: int | None
    size: int
    text: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one process fared; bytes and seconds.

    ``label`` is its name in the scenario, with a number behind it if there are copies.  ``how`` is
    ``"running"``, ``"exit 0"`` (or another code), ``"oom"`` or a signal's name; ``ended`` is None
    while it runs.  ``failed`` counts requests that came back NULL.
    """

    label: str
    name: str
    pid: int
    program: str
    cgroup: str | None
    started: float
    ended: float | None
    how: str
    failed: int
    peak_rss: int
    peak_swap: int
    peak_size: int
    minor_faults: int
    major_faults: int


class Simulation:
    """A scenario that has been run.

    Attributes
    ----------
    scenario
        What was run.
    machine
        The machine as it was left.
    outcomes
        How each process fared, in order of their starts.
    happened
        The events as records, in order.
    seconds
        The simulated time it took.
    """

    def __init__(
        self,
        scenario: Scenario,
        machine: Machine,
        happened: tuple[Event, ...],
        outcomes: tuple[Outcome, ...],
        timeline: Timeline,
    ) -> None:
        self.scenario = scenario
        self.machine = machine
        self.happened = happened
        self.outcomes = outcomes
        self.seconds = machine.clock
        self._timeline = timeline

    @cached_property
    def events(self) -> Table:
        """The events as an Arrow table; see :class:`Event` for the columns."""
        return Table.from_arrays(
            [
                Array([getattr(event, name) for event in self.happened], type=kind)
                for name, kind in _EVENT_COLUMNS.items()
            ],
            names=list(_EVENT_COLUMNS),
        )

    @cached_property
    def timeline(self) -> Table:
        """Who held what and when, as an Arrow table; see :data:`pyalloc.lab.timeline.COLUMNS`."""
        return self._timeline.table()

    @property
    def oom_events(self) -> list[OomEvent]:
        """The runs of the OOM killer, with each candidate's score and the steps to it."""
        return self.machine.oom_events

    @property
    def killed(self) -> tuple[str, ...]:
        """The labels of the processes that the OOM killer chose, in order."""
        return tuple(event.process for event in self.happened if event.kind == OOM)

    # --- what was expected --------------------------------------------------------------

    @cached_property
    def unmet(self) -> tuple[str, ...]:
        """What the scenario expects and did not happen, a sentence each."""
        return tuple(self._unmet())

    def _unmet(self) -> Iterator[str]:
        expect = self.scenario.expect
        for name in expect.survive:
            for outcome in self._of(name):
                if outcome.how not in {RUNNING, "exit 0"}:
                    yield f"{outcome.label} should survive, and ended: {outcome.how}"
                elif outcome.failed:
                    yield f"{outcome.label} should get its memory, and met NULL"
        for name in expect.killed:
            if not any(outcome.how == OOM for outcome in self._of(name)):
                yield f"{name} should be killed by the OOM killer, and was not"
        for name in expect.refused:
            if not any(outcome.failed for outcome in self._of(name)):
                yield f"{name} should meet NULL, and did not"

    def _of(self, name: str) -> Iterator[Outcome]:
        return (outcome for outcome in self.outcomes if outcome.name == name)

    # --- out of here --------------------------------------------------------------------

    def write_events(self, path: str | Path) -> None:
        """Write the events as a Parquet file."""
        _write(self.events, path)

    def write_timeline(self, path: str | Path) -> None:
        """Write the timeline as a Parquet file."""
        _write(self.timeline, path)

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the timeline as plain data."""
        return {
            "title": self.scenario.title,
            "seconds": self.seconds,
            "killed": list(self.killed),
            "unmet": list(self.unmet),
            "processes": [_fields(outcome) for outcome in self.outcomes],
            "cgroups": [
                {"path": group.path, **group.counters()} for group in self.machine.cgroups.values()
            ],
            "events": [_fields(event) for event in self.happened],
            "meminfo": dict(self.machine.meminfo()),
        }

    def __repr__(self) -> str:
        return (
            f"<Simulation of {self.seconds:g} s: {len(self.outcomes)} processes,"
            f" {len(self.happened)} events, {len(self.killed)} killed>"
        )


def _write(table: Table, path: str | Path) -> None:
    with replacing(Path(path), overwrite=True) as file:
        write_checked(table, file, {})


def _fields(record: Event | Outcome) -> Mapping[str, Any]:
    return {name: getattr(record, name) for name in type(record).__slots__}
