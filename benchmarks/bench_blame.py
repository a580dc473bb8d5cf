"""What does blame cost beyond the replay of the same trace?

A million calls of two hundred call sites, phase by phase: the look at the heap, and the trials of
the worst sites elsewhere.  Counted in processor time, so that it says the same on a busy machine.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
from _figures import Figure, Figures

import pyalloc as pa

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_benchmark.fixture import BenchmarkFixture

SITES = 200
ONE_SECOND = 1.0


def trace_of(calls: int) -> pa.Trace:
    trace = pa.workload("phases", sizes="1-4000", count=calls, live=calls // 33, seed=1)
    site = (1 + np.arange(len(trace)) % SITES).astype(np.uint32)
    return pa.Trace({**trace.columns, "site": site}, trace.info)


def processor_time() -> float:
    return sum(os.times()[:2])


def spent(work: Callable[[], object]) -> float:
    """Return the seconds of processor time that ``work`` takes."""
    began = processor_time()
    work()
    return processor_time() - began


def test_blame_beside_a_replay(
    measure: Callable[..., float | None], benchmark: BenchmarkFixture, figures: Figures
) -> None:
    """Both of the same calls; the difference is what blame adds."""
    trace = trace_of(10_000 if getattr(benchmark, "disabled", False) else 1_000_000)
    blames: list[float] = []
    replays = [spent(lambda: pa.replay(trace, touch="write", samples=0)) for _ in range(3)]
    timed = measure(lambda: blames.append(spent(lambda: pa.blame(trace))), rounds=3)
    if timed is not None:
        what = "blame of a million calls beyond their replay"
        seconds = min(blames) - min(replays)
        figures.add(benchmark, Figure(what, seconds, "s", ONE_SECOND, at_most=True))
