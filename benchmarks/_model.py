"""The model as the benchmarks run it: the one place that knows which interface that is.

For now this is the engine's replay over the flat address space that the tests use; pages are not
modelled yet.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest
from flatkernel import FlatKernel

import pyalloc as pa
from pyalloc import engine
from pyalloc.host import proc

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyalloc.host.glibc import HostRun

MODELS_PAGES = False
"""Whether a replay with ``touch="write"`` computes faults and resident pages."""

COLUMNS = ("op", "block", "size", "arg")
START = 0x555555556000  # a break like any other
MAPS = """\
555555554000-555555556000 r-xp 00000000 00:00 0
7ffff7dd4000-7ffff7fff000 r-xp 00000000 00:00 0
7ffffffde000-7ffffffff000 rw-p 00000000 00:00 0 [stack]
"""


def allocator_for(version: str) -> str:
    """Return the model of glibc ``version``; of 2.36 if there is none."""
    name = f"glibc-{version}"
    return name if name in engine.allocator_names() else "glibc-2.36"


@dataclass
class Replay:
    """A trace made ready on a heap; ``run()`` is what is timed."""

    heap: engine.Heap
    kernel: FlatKernel
    under_way: engine.ReplayRun
    outputs: dict[str, np.ndarray]

    def run(self) -> None:
        """Run the trace to its end, answering the engine's questions."""
        under_way, kernel, heap = self.under_way, self.kernel, self.heap
        while not under_way.run():
            kernel.serve(heap)
            under_way.answer(heap.stop.answer)
            kernel.lease(heap)

    def bytes_held(self) -> int:
        """Return the most the heap had from the kernel."""
        return self.under_way.totals()["held_peak"]


def prepare(
    trace: pa.Trace,
    real: HostRun | None = None,
    allocator: str = "glibc-2.36",
    record: tuple[str, ...] = (),
    touch: str = "none",
) -> Replay:
    """Return the replay of ``trace``, begun where the real run began."""
    maps, brk, word = (real.maps, real.brk0, real.word) if real else (MAPS, START, 8)
    kernel = FlatKernel(maps, brk, 8 * word)
    heap = engine.Heap(allocator, word, brk, os.cpu_count() or 1)
    kernel.lease(heap)
    outputs = {name: np.zeros(len(trace), np.uint64) for name in record}
    columns = {name: getattr(trace, name) for name in COLUMNS if name != "arg" or trace.has(name)}
    no_samples = np.zeros((len(engine.SAMPLE_FIELDS), 0), np.uint64)
    touch = touch if MODELS_PAGES else "none"
    under_way = engine.ReplayRun(heap, columns, outputs, no_samples, 0, touch)
    return Replay(heap, kernel, under_way, outputs)


def calls() -> tuple[Callable[[int], int], Callable[[int], object]]:
    """Return malloc and free of a process that is under way."""
    if hasattr(pa, "Machine"):
        process = pa.Machine(ram="1G").spawn("bench")
        process.malloc(1)
        return process.malloc, process.free
    heap = engine.Heap("glibc-2.36", 8, START, 1)
    FlatKernel(MAPS, START, 64).lease(heap)
    heap.malloc(1)
    return heap.malloc, heap.free


def first_touches(pages: int) -> Callable[[], None]:
    """Return what touches ``pages`` fresh pages of a simulated process."""
    if not hasattr(pa, "Machine"):
        pytest.skip("the machine's pages are not in this version")
    process = pa.Machine(ram=f"{pages // 128}M").spawn("bench")  # twice what is touched
    protection = pa.PROT.READ | pa.PROT.WRITE
    start = process.mmap(0, pages << 12, protection, pa.MAP.PRIVATE | pa.MAP.ANONYMOUS)
    return lambda: process.touch(start, pages << 12)


def resident_bytes() -> int:
    """Return what this process has resident now, counted page by page."""
    return sum(int(fields.get("Rss", 0)) for _, fields in proc.smaps()) << 10
