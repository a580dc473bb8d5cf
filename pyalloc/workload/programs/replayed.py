"""A trace as a program: its calls made bit by bit, at the pace at which they were recorded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from pyalloc.errors import ArgumentError
from pyalloc.trace import Op, Trace
from pyalloc.workload.programs.units import Seconds

if TYPE_CHECKING:
    from pyalloc.workload.programs.job import Job

_PER_SECOND = 10_000.0


def replayed(
    job: Job,
    trace: Trace,
    touch: str = "",
    speed: float = 1.0,
    calls_per_second: float = 0.0,
    tick: Seconds = 0.1,
    repeat: int = 1,
    stay: Seconds = 0.0,
) -> Iterator[float]:
    """Make the calls of a trace.

    Parameters
    ----------
    trace
        The calls.
    touch
        What the program does to its memory: none, write (each block when it is allocated) or
        recorded (TOUCH rows); by default recorded if there are such rows, else write.
    speed
        How many times faster than recorded.
    calls_per_second
        The pace in place of the recorded one; 10,000 where no time was recorded.
    tick
        How long it runs at a time; others run between two ticks.
    repeat
        How many times over; each time begins with the heap the last one left.
    stay
        How long the process lives on with what it has.
    """
    if not touch:
        touch = "recorded" if (trace.op == Op.TOUCH).any() else "write"
    if speed <= 0 or tick <= 0 or repeat < 1:
        message = f"speed, tick and repeat must be above 0 (got {speed}, {tick} and {repeat})"
        raise ArgumentError(message)
    ends = _ends(trace, speed, calls_per_second, tick)
    for _ in range(repeat):
        playback = job.process.playback(trace, touch=touch)
        at = 0
        for end, pause in ends:
            yield pause
            failed = playback.failed
            playback.run_to(end)
            if playback.failed > failed:
                job.refuse(int(trace.size[at:end].max(initial=0)), playback.failed - failed)
            at = end
    yield stay


def _ends(trace: Trace, speed: float, per_second: float, tick: float) -> list[tuple[int, float]]:
    """Return the row before which each tick ends, and the seconds to wait before it."""
    count = len(trace)
    if not per_second and trace.has("time"):
        time = (trace.time - trace.time[0]).astype(float) / 1e9 / speed if count else np.zeros(0)
    else:
        time = np.arange(count) / (per_second or _PER_SECOND) / speed
    if not count:
        return []
    number = (time // tick).astype(np.int64)
    last = np.flatnonzero(np.diff(number, append=number[-1] + 1)) + 1
    waits = np.diff(number[last - 1], prepend=0) * tick
    return [(int(end), float(wait)) for end, wait in zip(last, waits, strict=True)]
