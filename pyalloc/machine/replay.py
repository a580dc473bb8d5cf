"""A whole trace on one process, and what comes out of it.

The engine runs the calls; here its questions are answered and its numbers are named.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
import numpy.typing as npt
from arro3.core import Table

from pyalloc import engine
from pyalloc.arguments import instance, whole
from pyalloc.errors import ArgumentError, HeapAbort, MemoryFault, ProcessKilled
from pyalloc.kernel.abi import MAP, PROT
from pyalloc.machine.chunks import KnownBlocks
from pyalloc.machine.heapview import HeapView
from pyalloc.machine.metrics import ReplaySummary, summarise
from pyalloc.nearest import near_word, nearest

if TYPE_CHECKING:
    from pyalloc.machine.process import Process

U64 = npt.NDArray[np.uint64]

_OP_SBRK: Final = 11
_OP_MMAP: Final = 12
_PRIVATE: Final = MAP.PRIVATE | MAP.ANONYMOUS


class TraceColumns(Protocol):
    """What a replay needs of a trace."""

    @property
    def columns(self) -> Mapping[str, npt.NDArray[Any]]:
        """The columns by name; ``op``, ``block`` and ``size`` are always there."""

    def __len__(self) -> int: ...


_LEFT_BEHIND: Final = frozenset({"process", "heap", "_blocks"})


@dataclass(frozen=True, slots=True)
class ReplayError:
    """Something that ended a replay before its last row, or that a strict one found wrong.

    ``kind`` is ``"abort"`` (the C library noticed an error), ``"fault"`` (a signal) or
    ``"killed"`` (the OOM killer); ``message`` is the library's own, or the kernel's.  A strict
    replay adds ``"use-after-free"``, ``"double-free"``, ``"out-of-bounds"`` and ``"leak"``.
    """

    row: int
    kind: str
    message: str

    @property
    def ends(self) -> bool:
        """Whether the replay ended there."""
        return self.kind in {"abort", "fault", "killed"}


class Replay:
    """The outcome of a replay.

    It can be pickled; what comes out has all but ``process`` and ``heap``.

    Attributes
    ----------
    address
        uint64, one a call: the pointer an allocating call returned, 0 for NULL and other calls.
    usable, brk
        uint64 of the same length: ``malloc_usable_size`` of it, the break after the call.  Only
        those named in ``record`` are there.
    summary, errors
        The figures, and what went wrong where.
    process
        The process afterwards.
    heap
        Its heap to look at, with the requested size and number of each block.
    """

    def __init__(
        self,
        process: Process,
        outputs: Mapping[str, U64],
        samples: Mapping[str, U64],
        summary: ReplaySummary,
        errors: tuple[ReplayError, ...],
        blocks: Callable[[], tuple[U64, U64]],
    ) -> None:
        self.process = process
        self._blocks = blocks
        self._outputs = dict(outputs)
        self._samples = dict(samples)
        self.summary = summary
        self.errors = errors

    def __getattr__(self, name: str) -> U64:
        outputs = self.__dict__.get("_outputs", {})
        if name in outputs:
            column: U64 = outputs[name]
            return column
        if name in engine.OUTPUTS:
            message = f"{name!r} was not recorded; ask for it with record=({name!r},)"
            raise AttributeError(message)
        if name in _LEFT_BEHIND:
            message = "the process stayed where the replay was made: a copy has the figures alone"
            raise AttributeError(message)
        message = f"a replay has no {name!r}{near_word(name, dir(self))}"
        raise AttributeError(message)

    def __getstate__(self) -> dict[str, Any]:
        """Travel, and be copied, without the process: its machine stays where it is."""
        return {name: vars(self)[name] for name in ("_outputs", "_samples", "summary", "errors")}

    @cached_property
    def timeline(self) -> Table:
        """An Arrow table sampled over the run: one row a sample, columns in bytes and counts."""
        return Table.from_pydict({name: values.copy() for name, values in self._samples.items()})

    @cached_property
    def heap(self) -> HeapView:
        """The heap after the last call, as long as the process makes no others."""
        return HeapView(self.process, self.process.heap.heap, KnownBlocks.of(*self._blocks()))

    def sampled(self, name: str) -> U64:
        """Return one column of the timeline as a numpy array."""
        if name not in self._samples:
            message = f"no column {name!r} in the timeline{nearest(name, self._samples)}"
            raise ArgumentError(message)
        return self._samples[name]

    def __repr__(self) -> str:
        s = self.summary
        return (
            f"<Replay {s.calls} calls, peak {s.peak_requested} bytes requested, {s.peak_held} held>"
        )


def run_replay(
    process: Process,
    trace: TraceColumns,
    *,
    touch: str,
    record: Sequence[str],
    samples: int,
) -> Replay:
    """Make the calls of ``trace`` on ``process``."""
    if isinstance(record, str):
        record = (record,)
    instance(record, "record", Collection)  # type: ignore[type-abstract]  # of names
    _check_arguments(touch, record, samples)
    columns = columns_of(trace)
    count = len(trace)
    samples = min(samples, max(count, 1))
    outputs = {name: np.zeros(count, np.uint64) for name in record}
    every = max(-(-count // samples), 1) if samples else 0
    buffer = np.zeros((len(engine.SAMPLE_FIELDS), samples + 1 if samples else 0), np.uint64)
    run = engine.ReplayRun(process.heap.heap, columns, outputs, buffer, every, touch)
    before = process.pages.table.counters()
    process.heap.lease()
    with process.machine.entered(process):
        errors = _run(process, run)
    taken = run.totals()["samples"]
    sampled = {name: buffer[i, :taken] for i, name in enumerate(engine.SAMPLE_FIELDS)}
    summary = _summary(process, run, touch, before, errors)
    return Replay(process, outputs, sampled, summary, errors, run.blocks)


class Playback:
    """A trace being run on a process bit by bit, while other things happen on the machine.

    Made by :meth:`Process.playback <pyalloc.Process.playback>`.  ``outputs`` are arrays to be
    filled with columns of :class:`Replay`; ``refused`` are the rows of system calls of the
    program's own that were refused.
    """

    def __init__(
        self,
        process: Process,
        trace: TraceColumns,
        *,
        touch: str,
        outputs: Mapping[str, U64] | None = None,
    ) -> None:
        _check_arguments(touch, (), 0)
        self.process = process
        self.refused: list[int] = []
        self._run = _plain_run(process, trace, touch, outputs or {})

    @property
    def row(self) -> int:
        """How many calls have been made."""
        return self._run.totals()["calls"]

    @property
    def failed(self) -> int:
        """How many requests came back NULL so far."""
        return self._run.totals()["failed"]

    @property
    def heap(self) -> HeapView:
        """The heap after the calls made so far."""
        return HeapView(self.process, self.process.heap.heap, KnownBlocks.of(*self._run.blocks()))

    def run_to(self, row: int | None, enough: Callable[[], bool] | None = None) -> None:
        """Make the calls before ``row``, or all; ``enough`` may end it whenever policy was asked.

        Raises
        ------
        HeapAbort, MemoryFault, ProcessKilled
            The process ended on the way.
        """
        self.process.require_alive()
        self.process.heap.lease()
        with self.process.machine.entered(self.process):
            _run_to(self.process, self._run, row, self.refused, enough)


def _plain_run(
    process: Process, trace: TraceColumns, touch: str, outputs: Mapping[str, U64]
) -> engine.ReplayRun:
    """Return a run that takes no samples."""
    empty = np.zeros((len(engine.SAMPLE_FIELDS), 0), np.uint64)
    return engine.ReplayRun(process.heap.heap, columns_of(trace), outputs, empty, 0, touch)


def _run_to(
    process: Process,
    run: engine.ReplayRun,
    row: int | None = None,
    refused: list[int] | None = None,
    enough: Callable[[], bool] | None = None,
) -> None:
    """Run and answer questions until ``row``, or the end, or there is enough."""
    while not run.run(row) and not (enough is not None and enough()):
        stop = run.stop
        if stop.reason == engine.STOP_TOUCH:
            if not _perform(process, run, stop) and refused is not None:
                refused.append(run.totals()["calls"])
        else:
            process.heap.serve(stop, run.answer)
    process.heap.sync()


def columns_of(trace: TraceColumns) -> dict[str, npt.NDArray[Any]]:
    """Return the columns the engine reads; one that is all zeros only costs it time."""
    found = trace.columns
    columns = {name: found[name] for name in ("op", "block", "size")}
    for name in ("arg", "thread"):
        if name in found and found[name].any():
            columns[name] = found[name]
    return columns


def require_touch(touch: str) -> str:
    """Return a way to touch memory; raises ArgumentError if it is none."""
    if touch not in engine.TOUCH_MODES:
        message = f"touch must be one of {', '.join(engine.TOUCH_MODES)} (got {touch!r})"
        raise ArgumentError(message)
    return touch


def _check_arguments(touch: str, record: Sequence[str], samples: int) -> None:
    require_touch(touch)
    for name in record:
        if name not in engine.OUTPUTS:
            message = f"record takes {', '.join(engine.OUTPUTS)} (got {name!r})"
            raise ArgumentError(message)
    whole(samples, "samples")


def _run(process: Process, run: engine.ReplayRun) -> tuple[ReplayError, ...]:
    kind = "killed"
    try:
        _run_to(process, run)
    except HeapAbort as error:
        kind, message = "abort", str(error)
    except MemoryFault as error:
        kind, message = "fault", str(error)
    except ProcessKilled as error:
        message = str(error)
    else:
        return ()
    return (ReplayError(run.totals()["calls"], kind, message),)


def _perform(process: Process, run: engine.ReplayRun, stop: engine.Stop) -> bool:
    """Make an SBRK, MMAP or MUNMAP row of the program's own; return False if it is refused."""
    process.heap.sync()
    done = True
    try:
        if stop.prot == _OP_SBRK:
            step = stop.length - (1 << 64) if stop.length >> 63 else stop.length
            process.sbrk(step)
        elif stop.prot == _OP_MMAP:
            prot = PROT.READ | PROT.WRITE
            run.answer(process.space.mmap(0, stop.length, prot, _PRIVATE))
        else:
            process.space.munmap(stop.address, stop.length)
    except OSError:
        run.answer(0)
        done = False
    process.heap.lease()
    return done


# --- figures ---------------------------------------------------------------------------------


def _summary(
    process: Process,
    run: engine.ReplayRun,
    touch: str,
    before: Mapping[str, int],
    errors: tuple[ReplayError, ...],
) -> ReplaySummary:
    if process.alive:
        return summarise(run, process.pages.table.counters(), before, touch=touch)
    reason = f"the process was ended: {errors[0].message}" if errors else "it has ended"
    return summarise(run, process.last_pages, before, touch=touch, ended=reason)
