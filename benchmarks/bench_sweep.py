"""How many experiments does a processor do a minute, and what does a second processor add?

A small experiment is a thousand calls, as high-volume studies run them: a stream is replayed under
a hundred settings, and the next.  What a point costs is counted in processor time, so that it says
the same on a busy machine; how much faster all processors are than one is a matter of real time,
the best of paired runs, and needs a machine that has nothing else to do.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import pytest
from _figures import Figure, Figures

import pyalloc as pa
from pyalloc.lab.sweep.pool import processors

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_benchmark.fixture import BenchmarkFixture

STREAM = "random:count=1000,live=100,sizes=1-4000"
SETTINGS = {"top_pad": "0..99K..1K"}
HUNDRED_THOUSAND = 100_000
MINUTE = 60.0
PER_PROCESSOR = 0.95  # of twice as fast on two: 1.9


def processor_time() -> float:
    """Return the seconds that this process and the children it has waited for have computed."""
    return sum(os.times()[:4])


def streams(count: int, benchmark: BenchmarkFixture) -> dict[str, str]:
    """Return the settings under which so many streams are replayed; few where nothing is timed."""
    return SETTINGS | {"seed": f"1..{2 if getattr(benchmark, 'disabled', False) else count}"}


def test_a_hundred_thousand_small_experiments(
    measure: Callable[..., float | None], benchmark: BenchmarkFixture, figures: Figures
) -> None:
    """On one processor they take less than a minute."""
    costs: list[float] = []

    def some() -> None:
        began = processor_time()
        found = pa.sweep(STREAM, streams(100, benchmark), workers=1)
        costs.append((processor_time() - began) / len(found))
        assert not found.failures

    if measure(some, rounds=3) is not None:
        seconds = min(costs) * HUNDRED_THOUSAND
        what = "sweep, 100,000 small experiments on one processor"
        figures.add(benchmark, Figure(what, seconds, "s", MINUTE, at_most=True))


def test_all_processors(
    measure: Callable[..., float | None], benchmark: BenchmarkFixture, figures: Figures
) -> None:
    """The same sweep by one process and by one on each processor."""
    width = processors()
    if width == 1:
        pytest.skip("there is one processor only")
    grid = streams(200 * width, benchmark)
    alone: list[float] = []

    def by_one() -> tuple[tuple[()], dict[str, Any]]:
        began = time.perf_counter()
        pa.sweep(STREAM, grid, workers=1)
        alone.append(time.perf_counter() - began)
        return (), {}

    seconds = measure(lambda: pa.sweep(STREAM, grid, workers=width), by_one, rounds=3)
    if seconds is not None:
        what = f"sweep, {width} processors ({seconds:.1f} s) beside one ({min(alone):.1f} s)"
        figures.add(benchmark, Figure(what, min(alone) / seconds, "x", PER_PROCESSOR * width))
