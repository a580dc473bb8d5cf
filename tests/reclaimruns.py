"""The recorded scans under a memory limit, run again on a machine: one row of rates a pass."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pyalloc.host.scan import Bed
from pyalloc.kernel.abi import MAP, PROT
from pyalloc.lab.verify.scans import ModelScan
from pyalloc.machine import Cgroup, Machine, Process
from pyalloc.workload import scans

PAGE = 4096
DATA = Path(__file__).parent / "data" / "kernel" / "reclaim.json.gz"
COLUMNS = ("accesses", "minor", "major", "swapped_in", "swapped_out", "read")


@dataclass(frozen=True, slots=True)
class Pass:
    """What one pass over the working set did, per access."""

    minor: float
    major: float
    swapped_in: float
    swapped_out: float
    read: float


def recorded_runs() -> list[dict[str, Any]]:
    """Return the runs of the recording, rows as :class:`Pass`."""
    runs = json.loads(gzip.decompress(DATA.read_bytes()))["runs"]
    for run in runs:
        run["rows"] = [Pass(*(value / row[0] for value in row[1:])) for row in run["rows"]]
    return list(runs)


def order_of(run: dict[str, Any], number: int, chance: np.random.Generator) -> npt.NDArray[Any]:
    """Return the pages that pass ``number`` accesses, in order; what fills is sequential."""
    return scans.order_of(run["mode"], run["pattern"], run["ws_pages"], number, chance)


def small_machine(run: dict[str, Any], name: str) -> tuple[Machine, Cgroup]:
    """Return a machine set up as the recording's, and a cgroup with the run's limit."""
    machine = Machine(
        ram="1G",
        swap="1G",
        kernel="6.18",
        arch="x86_64",
        cpus=2,
        swappiness=run["swappiness"],
        page_cluster=run["page_cluster"],
    )
    return machine, machine.cgroup(name, memory_max=f"{run['limit_mb']}M")


class Scan(ModelScan):
    """One process under a limit, with its working set."""

    def __init__(self, run: dict[str, Any], more: int = 0) -> None:
        self.run = run
        self.more = more
        bed = Bed(run["mode"], run["ws_pages"], run["limit_mb"] << 20)
        super().__init__(bed, *small_machine(run, "scan"))

    KERNEL_PAGES = 22
    """Of a scan that reads a file and never comes to its limit the most charged is recorded:
    4389 pages, 4352 of them cached and 15 the recorder's own."""

    def start(self, limit: Cgroup) -> None:
        """Touch what the recorder had touched before its first pass: 15 pages.

        Three of them matter.  The first is its stack, which is active.  One holds zeros: it is not
        written to swap, so the first sweep's first request is short.  And one the kernel uses
        whenever it lets the recorder go on (rseq), so that the next sweep's first request is, too.
        Two more it uses when it reads its counters after a pass: so many were swapped in then.
        With some more pages before the others, another run of the kernel is made.
        """
        both, private = PROT.READ | PROT.WRITE, MAP.PRIVATE | MAP.ANONYMOUS
        self.process.touch(self.process.mmap(0, 8 * PAGE, both, private), self.more * PAGE)
        at = self.own = self.process.mmap(0, 15 * PAGE, both, private)
        self.process.touch(at, 11 * PAGE)
        self.process.pages.table.activate(at // PAGE)
        self.process.touch(at + 11 * PAGE, PAGE, zeros=True)
        self.process.touch(at + 12 * PAGE, 3 * PAGE)
        self.process.rseq(at + 5 * PAGE)
        more = self.KERNEL_PAGES - limit.stat()["kernel"] // PAGE
        self.machine.ram.charge_kernel(limit.number, more)

    def end_pass(self) -> None:
        """Use what the recorder needs to read its counters: as it is, and then changed."""
        for page in 7, 9:
            for write in False, True:
                self.process.touch(self.own + page * PAGE, 1, write)

    def passes(self) -> list[Pass]:
        """Make all passes."""
        chance = np.random.default_rng(1)
        rows = []
        for number in range(len(self.run["rows"])):
            before = counts(self.machine, self.process)
            fills = not number and not self.run["mode"].startswith("f")
            order = order_of(self.run, number, chance)
            self.access(order, write=bool(self.run["write"]) or fills)
            self.end_pass()
            after = counts(self.machine, self.process)
            rows.append(Pass(*((after - before) / len(order)).tolist()))
        return rows


class LeanScan(Scan):
    """One by a program that joins the cgroup with all it needs, as those measured again were."""

    def start(self, limit: Cgroup) -> None:
        """Let the cgroup have room for what it does not pay for."""
        ModelScan.start(self, limit)

    def end_pass(self) -> None:
        """All that is needed for it lies elsewhere."""


class Mix:
    """Two processes under one limit: one uses its memory all the time, the other reads a file."""

    FILE = 96 << 20
    READ = 90 * 256  # pages
    PERIOD = 130e-6  # seconds from one walk to the next: as many as were recorded in that time

    def __init__(self, run: dict[str, Any]) -> None:
        self.machine, limit = small_machine(run, "mix")
        self.walker = self.machine.spawn("walker", cgroup=limit)
        self.reader = self.machine.spawn("reader", cgroup=limit)
        both, private = PROT.READ | PROT.WRITE, MAP.PRIVATE | MAP.ANONYMOUS
        for process in self.walker, self.reader:  # what a program has, as Scan._start()
            process.touch(process.mmap(0, 15 * PAGE, both, private), 15 * PAGE)
        self.length = run["anon_pages"] * PAGE
        self.at = self.walker.mmap(0, self.length, both, private)
        self._walk()
        self.due = 0.0
        self.fd = self.reader.open(self.machine.file("data", self.FILE, cached=False))

    def _walk(self) -> None:
        """Walk once, which waits for what is gone, and go on beside the reader."""
        pages = self.walker.pages.table
        pages.keep_busy(0, 0, 0)
        self.walker.touch(self.at, self.length)
        pages.keep_busy(self.at // PAGE, self.length // PAGE, round(self.PERIOD * 1e9))

    def passes(self, count: int) -> list[Pass]:
        """Read the file so often; faults are those of both, all of it per page that was read."""
        rows = []
        for _ in range(count):
            before = self._counts()
            for page in range(self.READ):
                self._watch()
                self.reader.read(self.fd, PAGE, page * PAGE)
            rows.append(Pass(*((self._counts() - before) / self.READ).tolist()))
        return rows

    def _watch(self) -> None:
        """The recorder's walker read memory.stat after each walk."""
        if self.machine.clock >= self.due:
            self.machine.ram.flush_stats()
            self.due = self.machine.clock + self.PERIOD
        if self.walker.pages.table.stopped:
            self._walk()

    def _counts(self) -> npt.NDArray[np.float64]:
        both = counts(self.machine, self.walker)
        both[:2] += counts(self.machine, self.reader)[:2]  # the others are the machine's
        return both


def counts(machine: Machine, process: Process) -> npt.NDArray[np.float64]:
    """Return the counters that a :class:`Pass` is made of."""
    table, events = process.pages.table.counters(), machine.ram.counters()
    machine.ram.flush_stats()  # the recorder read memory.stat
    return np.array(
        [
            table["minor_faults"],
            table["major_faults"],
            events["swapped_in"],
            events["swapped_out"],
            events["file_read"],
        ],
        dtype=float,
    )
