"""A scan of memory on the model, as the program of :mod:`pyalloc.host.scan` makes it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pyalloc.errors import EndlessFault, ProcessKilled
from pyalloc.host.scan import Bed, Passes, Rates
from pyalloc.kernel.abi import MADV, MAP, PROT
from pyalloc.machine import Cgroup, Machine, Process
from pyalloc.units import PAGE

_BOTH: Final = PROT.READ | PROT.WRITE
_KERNEL_BYTES: Final = PAGE


class ModelScan:
    """A process under a limit, with its working set."""

    def __init__(self, bed: Bed, machine: Machine, limit: Cgroup) -> None:
        self.bed = bed
        self.machine = machine
        self.process: Process = machine.spawn("scan", cgroup=limit)
        self.start(limit)
        self.at = self._map(bed.pages * PAGE)

    def start(self, limit: Cgroup) -> None:
        """Let the cgroup have room for what it does not pay for on the host.

        The program there joins with all it needs, the page tables around what it maps next among
        them: all it makes the cgroup pay for before the first pass is a page of the kernel.
        """
        mine = self.process.mmap(0, PAGE, PROT.READ, MAP.PRIVATE | MAP.ANONYMOUS)
        self.process.touch(mine, PAGE, write=False)
        more = limit.memory_current - _KERNEL_BYTES
        limit.set_limits(memory_max=self.bed.limit + more)

    def _map(self, length: int) -> int:
        mode = self.bed.mode
        if mode == "shm":
            return self.process.mmap(0, length, _BOTH, MAP.SHARED | MAP.ANONYMOUS)
        if not self.bed.on_file:
            return self.process.mmap(0, length, _BOTH, MAP.PRIVATE | MAP.ANONYMOUS)
        file = self.machine.file("data", self.bed.bytes_file, cached=False)
        self.fd = self.process.open(file)
        if mode == "fread":
            return 0
        at = self.process.mmap(0, length, _BOTH, MAP.SHARED, self.fd)
        if mode == "fmapr":
            self.process.madvise(at, length, MADV.RANDOM)
        return at

    def access(self, pages: npt.NDArray[Any], *, write: bool) -> None:
        """Make one access to each page."""
        if self.bed.mode == "fread":
            for page in pages.tolist():
                self.process.read(self.fd, PAGE, page * PAGE)
        else:
            zeros = self.bed.mode == "anon0"
            self.process.touch_pages(self.at, pages, write=write, zeros=zeros)

    def scan(self, passes: Iterable[tuple[npt.NDArray[Any], bool]]) -> Passes:
        """Make the passes, as far as the OOM killer lets it."""
        rates: list[Rates] = []
        for order, write in passes:
            before = self._counters()
            try:
                self.access(order, write=write)
            except (ProcessKilled, EndlessFault):
                return Passes(tuple(rates), killed=True)
            rates.append(Rates(*((self._counters() - before) / len(order)).tolist()))
        return Passes(tuple(rates))

    def _counters(self) -> npt.NDArray[np.float64]:
        """Return what :class:`~pyalloc.host.scan.Rates` are made of."""
        self.machine.ram.flush_stats()  # as reading memory.stat does
        table, events = self.process.pages.table.counters(), self.machine.ram.counters()
        values = (
            table["minor_faults"],
            table["major_faults"],
            events["swapped_in"],
            events["file_read"],
        )
        return np.array(values, dtype=np.float64)
