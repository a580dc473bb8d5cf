"""A scenario's timeline: what machine, cgroups and processes hold, sampled as time goes by.

How long a scenario takes is not known before; so it is sampled closely at first, and whenever there
are twice as many samples as wanted, two are kept of each period of a longer kind: the one with the
most memory in use, and the last one.  A sample holds until the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from arro3.core import Array, DataType, Table

from pyalloc.machine import Cgroup, Machine, Process
from pyalloc.units import PAGE

COLUMNS: Final = {
    "time": DataType.float64(),
    "kind": DataType.string(),
    "name": DataType.string(),
    "pid": DataType.uint32(),
    "memory": DataType.uint64(),
    "swap": DataType.uint64(),
    "promised": DataType.uint64(),
    "limit": DataType.uint64(),
    "file": DataType.uint64(),
    "available": DataType.uint64(),
    "page_tables": DataType.uint64(),
    "minor_faults": DataType.uint64(),
    "major_faults": DataType.uint64(),
}
"""The columns of a timeline; bytes and counts.

``kind`` is machine, cgroup or process.  ``memory`` is RAM in use, memory.current or VmRSS;
``promised`` Committed_AS or VmSize; ``limit`` CommitLimit, memory.max or RLIMIT_AS (null: none);
``file`` is the part of ``memory`` that is page cache or mapped files; ``available`` MemAvailable.
"""


class Row(NamedTuple):
    """One row of a sample: the columns behind the time."""

    kind: str
    name: str
    pid: int | None
    memory: int
    swap: int
    promised: int | None
    limit: int | None
    file: int
    available: int | None
    page_tables: int
    minor_faults: int | None
    major_faults: int | None


Sample = tuple[float, list[Row]]
_FIRST_PERIOD: Final = 0.001


def _used(sample: Sample) -> int:
    """Return the memory in use on the machine."""
    return sample[1][0].memory


class Timeline:
    """Samples under construction.

    Parameters
    ----------
    wanted
        How many samples there will be in the end, up to twice as many.
    read
        Returns the rows of one sample.
    """

    def __init__(self, wanted: int, read: Callable[[], list[Row]]) -> None:
        self._wanted = max(wanted, 2)
        self._read = read
        self._period = _FIRST_PERIOD
        self._next = 0.0
        self._samples: list[Sample] = []

    def is_due(self, time: float) -> bool:
        """Return whether a sample is to be taken of what holds until ``time``."""
        return time >= self._next

    def take(self, time: float) -> None:
        """Take a sample: what holds from ``time`` on."""
        self._samples.append((time, self._read()))
        if len(self._samples) > 2 * self._wanted:
            self._thin(max(2 * time / self._wanted, _FIRST_PERIOD))
        self._next = time + self._period

    def _thin(self, period: float) -> None:
        self._period = period
        last: dict[int, Sample] = {}
        fullest: dict[int, Sample] = {}
        for sample in self._samples:
            place = int(sample[0] / period)
            last[place] = sample
            if place not in fullest or _used(sample) > _used(fullest[place]):
                fullest[place] = sample
        kept = {id(sample): sample for place in last for sample in (fullest[place], last[place])}
        self._samples = list(kept.values())

    def table(self) -> Table:
        """Return all samples as one Arrow table, one row a sample and subject."""
        rows = [(time, *row) for time, sample in self._samples for row in sample]
        columns = zip(*rows, strict=True) if rows else ((),) * len(COLUMNS)
        arrays = [
            Array(list(column), type=kind)
            for column, kind in zip(columns, COLUMNS.values(), strict=True)
        ]
        return Table.from_arrays(arrays, names=list(COLUMNS))


def machine_row(machine: Machine) -> Row:
    """Return what the machine holds."""
    pages = machine.memory_pages()
    faults = machine.ram.counters()
    return Row(
        "machine",
        "",
        None,
        (pages.total - pages.free) * PAGE,
        (pages.swap_total - pages.swap_free) * PAGE,
        pages.committed * PAGE,
        pages.commit_limit * PAGE,
        pages.cached * PAGE,
        pages.available * PAGE,
        pages.page_tables * PAGE,
        faults["faults"] - faults["major_faults"],
        faults["major_faults"],
    )


def cgroup_row(group: Cgroup) -> Row:
    """Return what a cgroup holds."""
    c = group.counters()
    limit = None if c["limit"] >= 1 << 51 else c["limit"] * PAGE
    left = None if limit is None else max(limit - c["usage"] * PAGE, 0)
    return Row(
        "cgroup",
        group.path,
        None,
        c["usage"] * PAGE,
        c["usage_swap"] * PAGE,
        None,
        limit,
        c["file"] * PAGE,
        left,
        c["tables"] * PAGE,
        None,
        None,
    )


def process_row(process: Process, label: str) -> Row:
    """Return what a process holds; its address space has caught up with its heap."""
    c = process.pages.table.counters()
    limit = process.space.limits.address_space
    return Row(
        "process",
        label,
        process.pid,
        (c["anon"] + c["file"] + c["shmem"]) * PAGE,
        c["swap"] * PAGE,
        process.space.total_vm * PAGE,
        None if limit >= 1 << 63 else limit,
        (c["file"] + c["shmem"]) * PAGE,
        None,
        c["tables"] * PAGE,
        c["minor_faults"],
        c["major_faults"],
    )


def rows_of(
    machine: Machine, groups: Iterator[Cgroup], runs: Iterator[tuple[Process, str]]
) -> list[Row]:
    """Return one sample: the machine, its cgroups, its processes that are alive."""
    alive = [(process, label) for process, label in runs if process.alive]
    for process, _ in alive:
        process.catch_up()
    return [
        machine_row(machine),
        *map(cgroup_row, groups),
        *(process_row(process, label) for process, label in alive),
    ]
