"""The model as the benchmarks run it: the one place that knows which interface that is."""

from __future__ import annotations

import gc
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pyalloc import engine
from pyalloc.host import address_space
from pyalloc.kernel.abi import MAP, PROT
from pyalloc.machine import Machine

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyalloc as pa
    from pyalloc.host.glibc import HostRun
    from pyalloc.machine import Process, Replay

COLUMNS = ("op", "block", "size", "arg")


def allocator_for(version: str) -> str:
    """Return the model of glibc ``version``; of 2.36 if there is none."""
    name = f"glibc-{version}"
    return name if name in engine.allocator_names() else "glibc-2.36"


def machine() -> Machine:
    """Return a machine with room for every benchmark."""
    return Machine(ram="4G", swap=0, kernel="6.18", arch="x86_64", cpus=os.cpu_count() or 1)


def process_like(real: HostRun | None = None, allocator: str = "glibc-2.36") -> Process:
    """Return a process where the real run began, or any."""
    if real is None:
        return machine().spawn(allocator=allocator)
    return machine().spawn(allocator=allocator, maps=real.maps, brk=real.brk0)


@dataclass
class Calls:
    """A trace made ready on a process; ``run()`` is what is timed against the real loop."""

    process: Process
    under_way: engine.ReplayRun

    def run(self) -> None:
        """Make the calls, answering the engine's questions."""
        under_way, heap = self.under_way, self.process.heap
        while not under_way.run():
            heap.serve(under_way.stop, under_way.answer)

    def bytes_held(self) -> int:
        """Return the most the heap had from its kernel."""
        return self.under_way.totals()["held_peak"]


def prepare(
    trace: pa.Trace,
    real: HostRun | None = None,
    allocator: str = "glibc-2.36",
    touch: str = "none",
) -> Calls:
    """Do everything before call 0, as the real program's driver has it done."""
    gc.collect()  # machines of earlier rounds are cycles; a real run's memory is given back at once
    process = process_like(real, allocator)
    columns = {name: getattr(trace, name) for name in COLUMNS if name != "arg" or trace.has(name)}
    no_samples = np.zeros((len(engine.SAMPLE_FIELDS), 0), np.uint64)
    under_way = engine.ReplayRun(process.heap.heap, columns, {}, no_samples, 0, touch)
    process.heap.lease()
    return Calls(process, under_way)


def replay(
    trace: pa.Trace,
    real: HostRun | None = None,
    allocator: str = "glibc-2.36",
    touch: str = "none",
) -> Replay:
    """Return the replay of ``trace`` as a user asks for it: tables, samples and summary with it."""
    return process_like(real, allocator).replay(trace, touch=touch)


def calls() -> tuple[Callable[[int], int], Callable[[int], object]]:
    """Return malloc and free of a process that is under way."""
    process = process_like()
    process.malloc(1)
    return process.malloc, process.free


def first_touches(pages: int) -> Callable[[], object]:
    """Return what touches ``pages`` fresh pages of a simulated process."""
    process = process_like()
    start = process.mmap(0, pages << 12, PROT.READ | PROT.WRITE, MAP.PRIVATE | MAP.ANONYMOUS)
    return lambda: process.touch(start, pages << 12)


def mapping_calls(areas: int) -> tuple[Process, dict[str, Callable[[int], None]]]:
    """Return a process of so many areas, and what makes pairs of calls in it, by their names."""
    page, rw = 4096, int(PROT.READ | PROT.WRITE)
    anonymous, fixed = int(MAP.PRIVATE | MAP.ANONYMOUS), int(MAP.FIXED)
    p = process_like()
    p.malloc(1)
    base = p.mmap(0, 2 * areas * page, PROT.NONE, anonymous)
    for i in range(areas // 2):
        p.mmap(base + 4 * i * page, 2 * page, rw, anonymous | fixed)
    middle, brk = base + 4 * (areas // 4) * page, p.brk(0)

    def map_and_unmap(pairs: int) -> None:
        for _ in range(pairs):
            p.munmap(p.mmap(0, 2 * page, rw, anonymous), 2 * page)

    def replace_and_back(pairs: int) -> None:
        for _ in range(pairs):
            p.mmap(middle, page, PROT.READ, anonymous | fixed)
            p.mmap(middle, page, rw, anonymous | fixed)

    def protect_and_back(pairs: int) -> None:
        for _ in range(pairs):
            p.mprotect(middle, page, PROT.READ)
            p.mprotect(middle, page, rw)

    def grow_and_shrink(pairs: int) -> None:
        for _ in range(pairs):
            p.brk(brk + page)
            p.brk(brk)

    calls = (map_and_unmap, replace_and_back, protect_and_back, grow_and_shrink)
    return p, dict(zip(address_space.PAIRS, calls, strict=True))


def written(pages: int) -> Process:
    """Return a process that has written so many pages."""
    process = process_like()
    start = process.mmap(0, pages << 12, PROT.READ | PROT.WRITE, MAP.PRIVATE | MAP.ANONYMOUS)
    process.touch(start, pages << 12)
    return process
