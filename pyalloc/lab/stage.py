"""Stages: a machine made ready once, for replays that refuse nothing and ask nobody.

A replay of a thousand calls takes a twentieth of a millisecond; making a machine and a process for
it takes ten times that.  Where a process has a machine to itself and memory for everything, nothing
of it is policy: the engine places mappings by itself (:class:`~pyalloc.engine.Space`), and a stage
keeps what is the same for every run.  What comes out is what :func:`pyalloc.replay` gives.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pyalloc import engine
from pyalloc.kernel.layout import Layout, default_layout, layout_from_maps, page_ceil
from pyalloc.kernel.profiles import KernelProfile
from pyalloc.lab.replay import big_machine
from pyalloc.lab.setting import apply_environment
from pyalloc.machine import Machine, ReplayError, ReplaySummary
from pyalloc.machine.metrics import summarise
from pyalloc.machine.replay import columns_of
from pyalloc.machine.tunables import tune
from pyalloc.trace import Trace

Columns = Mapping[str, npt.NDArray[Any]]

_ALL_STAGES: Final = 32
_FRESH: Final = {"anon": 0, "swap": 0, "minor_faults": 0, "major_faults": 0}
_NO_SAMPLES: Final = np.zeros((len(engine.SAMPLE_FIELDS), 0), np.uint64)


class Stage:
    """An address space before the first call, and memory for everything.

    Each thread that uses it has its own memory; results do not depend on what ran before.
    """

    def __init__(
        self, machine: Machine, layout: Layout, environment: Mapping[str, str] | None = None
    ) -> None:
        profile = machine.profile
        self._environment = environment or {}
        self.word = 8 if profile.arch == "x86_64" else 4
        self.cpus = machine.cpus
        self._brk = layout.brk
        self._base, self._aligns_huge = layout.mmap_base, profile.thp_align
        self._holes = _holes(layout, profile)
        self._settings = machine.ram.settings
        self._local = threading.local()

    @property
    def _ram(self) -> engine.Ram:
        if not hasattr(self._local, "ram"):
            self._local.ram = engine.Ram(self._settings)
        ram: engine.Ram = self._local.ram
        return ram

    @contextmanager
    def begun(self, allocator: str) -> Iterator[tuple[engine.Heap, engine.Space, engine.Pages]]:
        """Yield the heap of a process that has not made a call, its address space and its pages."""
        pages = self._ram.new_pages()
        spent = getattr(self._local, "spent", None)
        self._local.spent = None
        try:
            heap = engine.Heap(allocator, self.word, self._brk, self.cpus, spent)
            heap.attach(pages)
            yield heap, engine.Space(self._holes, self._base, aligns_huge=self._aligns_huge), pages
            heap.attach(None)
            if heap.is_small:
                self._local.spent = heap
        finally:
            pages.drop()

    def replay(
        self,
        trace: Trace | Columns,
        allocator: str = "glibc-2.36",
        *,
        tunables: Mapping[str, int | str] | None = None,
        touch: str = "none",
    ) -> tuple[ReplaySummary, ReplayError | None]:
        """Make every call; return the summary, and what ended the program early if anything did.

        Parameters are as in :func:`pyalloc.replay`; columns will do in place of a trace.
        """
        columns = columns_of(trace) if isinstance(trace, Trace) else trace
        with self.begun(allocator) as (heap, space, pages):
            apply_environment(heap, self._environment)
            tune(heap, tunables or {})
            run = engine.ReplayRun(heap, columns, {}, _NO_SAMPLES, 0, touch)
            if space.run(run):
                return summarise(run, pages.counters(), _FRESH, touch=touch), None
            error = _error(run)
            ended = f"the process was ended: {error.message}"
            return summarise(run, pages.counters(), _FRESH, touch=touch, ended=ended), error


def _error(run: engine.ReplayRun) -> ReplayError:
    text = run.heap.abort_text
    kind, message = ("abort", text) if text else ("fault", "SIGSEGV in the allocator")
    return ReplayError(run.totals()["calls"], kind, message)


def stage_for(trace: Trace, arch: str | None = None, cpus: int | None = None) -> Stage:
    """Return the stage on which ``trace`` begins as :func:`pyalloc.replay` lets it begin.

    What steered the recording's malloc steers that of a replay there.  Without the recording's
    address space and environment it is one of a few, which are kept.
    """
    info = trace.info
    cpus = cpus or info.cpus or 1
    here = arch or info.arch or "x86_64"
    has_maps = info.maps is not None and here == info.arch
    if not (has_maps or info.tunables):
        return _stage(here, cpus)
    machine = big_machine(here, cpus)
    if not has_maps or info.maps is None:
        return Stage(machine, default_layout(machine.profile), info.tunables)
    layout = layout_from_maps(info.maps, machine.profile, brk=info.brk_start)
    return Stage(machine, layout, info.tunables)


@lru_cache(_ALL_STAGES)
def _stage(arch: str, cpus: int) -> Stage:
    machine = big_machine(arch, cpus)
    return Stage(machine, default_layout(machine.profile))


def _holes(layout: Layout, profile: KernelProfile) -> list[tuple[int, int]]:
    """Return where nothing is, from the lowest address that can be mapped to the stack."""
    heap = page_ceil(layout.start_brk)
    stack = next((a for a in layout.areas if a.start <= layout.start_stack < a.end), None)
    top = stack.start - profile.stack_guard_gap if stack else layout.task_size
    at, holes = profile.mmap_min_addr, []
    for area in sorted(layout.areas, key=lambda area: area.start):
        if area.start >= min(heap, layout.brk) and area.end <= page_ceil(layout.brk):
            continue  # the heap is part of its hole
        if area.start > at and at < top:
            holes.append((max(at, heap) if at < heap < area.start else at, min(area.start, top)))
        at = max(at, area.end)
    return holes
