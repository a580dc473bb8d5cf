"""Trials: one trace, replayed again and again under other settings.

A trial is a replay on a process that has a machine to itself, so nothing is refused and nothing
has to be asked of policy: the engine runs it from the first call to the last.  What comes out is
the memory of the heap and the work it made, page for page what :func:`pyalloc.replay` gives.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pyalloc import engine
from pyalloc.lab.examine import allocator_of
from pyalloc.lab.setting import Setting, apply_environment, version_of
from pyalloc.lab.stage import stage_for
from pyalloc.machine.replay import require_touch
from pyalloc.trace import NULL_BLOCK, Op, Trace, require_trace
from pyalloc.units import PAGE

U64 = npt.NDArray[np.uint64]
Columns = Mapping[str, npt.NDArray[Any]]

_FREE: Final = ("tcache", "fast", "unsorted", "small", "large", "top")
_ALLOCATING: Final = (
    Op.MALLOC,
    Op.CALLOC,
    Op.REALLOC,
    Op.MEMALIGN,
    Op.POSIX_MEMALIGN,
    Op.ALIGNED_ALLOC,
    Op.VALLOC,
    Op.PVALLOC,
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one trial came to: the heap's memory in bytes, and what it took to serve the calls.

    ``rows`` are calls done; at each of them ``requested`` bytes were live, ``held`` from the kernel
    and ``rss`` in memory, and ``rss_peak`` is the most in memory since the row before.
    ``arena_calls`` mallocs and frees went past the tcache and looked at ``steps`` chunks there.
    ``largest_asked`` to ``threshold_moves`` say how near the settings came to deciding otherwise:
    the largest chunk that nothing free served, the largest top that was not worth trimming and the
    smallest that was (0: none), and how often the mmap threshold moved.
    """

    setting: Setting
    calls: int
    failed: int
    requested: int
    peak_requested: int
    peak_rss: int
    final_rss: int
    peak_held: int
    peak_held_row: int
    final_held: int
    free: int
    faults: int
    brk: int
    mmap: int
    munmap: int
    mremap: int
    mprotect: int
    madvise: int
    arena_calls: int
    steps: int
    arenas: int
    largest_asked: int
    top_kept: int
    top_trimmed: int
    threshold_moves: int
    rows: U64
    timeline: Mapping[str, U64]
    error: str | None = None

    @property
    def system_calls(self) -> int:
        """System calls of the allocator."""
        return self.brk + self.mmap + self.munmap + self.mremap + self.mprotect + self.madvise


def touch_of(trace: Trace) -> str:
    """Return how the program's own accesses are known: ``"recorded"``, or taken to be writes."""
    return "recorded" if bool((trace.op == Op.TOUCH).any()) else "write"


def sample_rows(count: int, samples: int, also: Iterable[int] = ()) -> U64:
    """Return about ``samples`` row numbers spread over ``count`` rows, and those of ``also``."""
    spread = np.linspace(0, count, min(samples, count) + 1)[1:].astype(np.int64)
    extra = np.fromiter(also, np.int64)
    rows = np.union1d(spread, extra[(extra > 0) & (extra <= count)])
    return rows.astype(np.uint64)


class UnderWay:
    """A replay under way: its heap, address space and pages, to be looked at between two calls."""

    def __init__(
        self,
        setting: Setting,
        heap: engine.Heap,
        run: engine.ReplayRun,
        space: engine.Space,
        pages: engine.Pages,
        rows: U64,
    ) -> None:
        self.setting = setting
        self.heap = heap
        self.run = run
        self.space = space
        self.pages = pages
        self.rows = rows
        self._died: str | None = None

    def died(self) -> str | None:
        """Return what the library said when it ended the program, None as long as it lives."""
        return self._died

    def go_to(self, row: int | None) -> None:
        """Make the calls before ``row``, or all."""
        if not self._died and not self.space.run(self.run, row):
            self._died = self.heap.abort_text or "it died in the allocator"

    def outcome(self) -> Outcome:
        """Return what it came to."""
        totals, counts, calls = self.run.totals(), self.pages.counters(), self.space.counters()
        s = self.heap.statistics()
        taken = totals["samples"]
        values = dict(zip(engine.SAMPLE_FIELDS, self.run.samples[:, :taken], strict=True))
        held = values["heap"] + values["mapped"]
        timeline = {name: values[name] for name in ("requested", "rss", "rss_peak")}
        return Outcome(
            setting=self.setting,
            calls=totals["calls"],
            failed=totals["failed"],
            requested=totals["requested"],
            peak_requested=totals["requested_peak"],
            peak_rss=counts["resident_peak"] * PAGE,
            final_rss=counts["anon"] * PAGE,
            peak_held=totals["held_peak"],
            peak_held_row=totals["held_peak_row"],
            final_held=totals["held"],
            free=sum(getattr(s, f"bytes_{kind}") for kind in _FREE),
            faults=counts["minor_faults"],
            brk=s.count_brk_calls,
            mmap=calls["count_mmap"],
            munmap=calls["count_munmap"],
            mremap=calls["count_mremap"],
            mprotect=calls["count_mprotect"],
            madvise=s.count_madvise_calls,
            arena_calls=s.count_arena_calls,
            steps=s.count_steps,
            arenas=s.count_arenas,
            largest_asked=s.bytes_largest_asked,
            top_kept=s.bytes_top_kept,
            top_trimmed=s.bytes_top_trimmed,
            threshold_moves=s.count_threshold_moves,
            rows=self.rows[:taken],
            timeline=timeline | {"held": held},
            error=self._died,
        )


class Trials:
    """A trace made ready to be tried under settings.

    Parameters
    ----------
    trace
        The calls.
    allocator
        What the trace runs on unless a setting says otherwise; by default what it was recorded on.
    touch
        As in :func:`pyalloc.replay`; by default as :func:`touch_of` says.
    rows
        Calls after which to look; by default 256 of them evenly spread.
    environment
        Variables that steer malloc already; by default those of the recording.
    """

    def __init__(
        self,
        trace: Trace,
        *,
        allocator: str | None = None,
        touch: str | None = None,
        rows: U64 | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.trace = require_trace(trace)
        self.allocator = allocator or allocator_of(trace)
        self.touch = touch_of(trace) if touch is None else require_touch(touch)
        self.rows = sample_rows(len(trace), 256) if rows is None else rows
        self.base = dict(trace.info.tunables if environment is None else environment)
        self._stage = stage_for(trace)

    @property
    def word(self) -> int:
        """Bytes of a pointer."""
        return self._stage.word

    @cached_property
    def has_mallopt(self) -> bool:
        """Whether the program sets something itself."""
        return bool((self.trace.op == Op.MALLOPT).any())

    @cached_property
    def _columns(self) -> dict[str, npt.NDArray[Any]]:
        found = self.trace.columns
        wanted = [n for n in ("arg", "thread") if n in found and found[n].any()]
        return {name: found[name] for name in ("op", "block", "size", *wanted)}

    @property
    def columns(self) -> Columns:
        """The calls, as the engine takes them."""
        return self._columns

    @contextmanager
    def begun(
        self, setting: Setting, columns: Columns | None = None, rows: U64 | None = None
    ) -> Iterator[UnderWay]:
        """Yield a replay that is about to begin, of the trace or of other calls."""
        allocator = setting.allocator or self.allocator
        columns = self._columns if columns is None else columns
        rows = self.rows if rows is None else rows
        with self._stage.begun(allocator) as (heap, space, pages):
            apply_environment(heap, setting.environment(self.base, version_of(allocator)))
            buffer = np.zeros((len(engine.SAMPLE_FIELDS), len(rows)), np.uint64)
            run = engine.ReplayRun(heap, columns, {}, buffer, 0, self.touch, rows)
            yield UnderWay(setting, heap, run, space, pages, self.rows)

    def run(self, setting: Setting, columns: Columns | None = None) -> Outcome:
        """Return what ``setting`` comes to; ``columns`` are other calls than the trace's."""
        columns, rows = self._columns if columns is None else columns, self.rows
        if setting.trim_calls or setting.trim_bytes:
            before = trims_before(columns, setting)
            columns = with_trims(columns, before)
            rows = rows + np.searchsorted(before, rows.astype(np.int64), "right").astype(np.uint64)
        with self.begun(setting, columns, rows) as under_way:
            under_way.go_to(None)
            return under_way.outcome()

    def run_all(
        self,
        settings: Sequence[Setting],
        columns: Sequence[Columns | None] | None = None,
        *,
        workers: int | None = None,
        executor: Executor | None = None,
        tell: Callable[[str, int, int], None] | None = None,
    ) -> list[Outcome]:
        """Return the outcome of each of ``settings``, on as many threads as there are processors.

        ``columns`` are the calls for each, if they are others than the trace's.  ``executor`` is
        used in place of threads of our own; ``tell`` hears of the progress.
        """
        workers = workers or min(len(os.sched_getaffinity(0)), len(settings))
        if executor is None and workers > 1:
            with ThreadPoolExecutor(workers) as own:
                return self.run_all(settings, columns, executor=own, tell=tell)
        found = []
        calls = [None] * len(settings) if columns is None else columns
        go = map if executor is None else executor.map
        for outcome in go(self.run, settings, calls):
            found.append(outcome)
            if tell:
                tell("trying settings", len(found), len(settings))
        return found


def trims_before(columns: Columns, setting: Setting) -> npt.NDArray[np.int64]:
    """Return before which rows malloc_trim is called."""
    count = len(columns["op"])
    if setting.trim_calls:
        return np.arange(setting.trim_calls, count + 1, setting.trim_calls)
    allocating = np.isin(columns["op"], _ALLOCATING)
    size = np.where(allocating, columns["size"], np.uint64(0))
    whole = np.cumsum(size) // np.uint64(setting.trim_bytes)
    return np.flatnonzero(np.diff(whole, prepend=np.uint64(0))) + 1


def with_trims(columns: Columns, before: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[Any]]:
    """Return the calls with a malloc_trim(0) of the first thread before each of some rows."""
    filled: dict[str, int] = {"op": Op.MALLOC_TRIM, "block": NULL_BLOCK}
    return {
        name: np.insert(values, before, filled.get(name, 0)) for name, values in columns.items()
    }
