"""Is a simulated run cheaper than the real one?

The same stream, in turn on the real C library (one C loop in a fresh process, its memory untouched
or written whole) and on the model.  Each model round follows a real one, and the best of each
counts, so that both see the same machine.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import _model
import numpy as np
import pytest
from _figures import Figure, Figures

import pyalloc as pa
from pyalloc.host import glibc
from pyalloc.workload.streams import stream

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_benchmark.fixture import BenchmarkFixture

ORDERS = ("random", "lifo", "fifo", "bursts")
SHAPES = {  # sizes, calls, blocks alive
    "small": ("1-128", 1_000_000, 10_000),
    "medium": ("1-4000", 1_000_000, 10_000),
    "mixed": ("log:1-1M", 100_000, 1000),
    "wide": ("1-4000", 1_000_000, 200_000),  # far beyond every cache
}
CASES = [(kind, shape) for kind in ORDERS for shape in ("small", "medium", "mixed")]
CASES += [("random", "wide"), ("phases", "wide")]
TARGET = {"none": 1.0, "write": 5.0}
ROUNDS = 5

pytestmark = pytest.mark.usefixtures("real_library")


@cache
def trace_of(kind: str, shape: str) -> pa.Trace:
    sizes, count, live = SHAPES[shape]
    return stream(kind, sizes, count=count, live=live, seed=1)


def nanoseconds(seconds: float, calls: int) -> str:
    return f"{seconds * 1e9 / calls:.1f} ns"


@pytest.mark.parametrize("touch", TARGET)
@pytest.mark.parametrize(("kind", "shape"), CASES)
def test_replay(
    kind: str,
    shape: str,
    touch: str,
    benchmark: BenchmarkFixture,
    measure: Callable[..., float | None],
    figures: Figures,
) -> None:
    trace = trace_of(kind, shape)
    times: list[int] = []
    where = glibc.run(trace, record=["address"])
    allocator = _model.allocator_for(where.glibc)

    def real_round() -> tuple[tuple[_model.Calls], dict[str, Any]]:
        times.extend(glibc.run(trace, touch=touch).times)
        return (_model.prepare(trace, where, allocator, touch=touch),), {}

    model = measure(lambda calls: calls.run(), real_round, ROUNDS)
    if model is None:
        check_addresses(trace, where, allocator, touch)
        return
    real = min(times) / 1e9
    count = len(trace)
    benchmark.extra_info.update(real_ns=real * 1e9 / count, model_ns=model * 1e9 / count)
    figures.add(
        benchmark,
        Figure(
            f"replay {kind} {shape}, {'untouched' if touch == 'none' else 'written'}",
            real / model,
            "x",
            TARGET[touch],
            real=nanoseconds(real, count),
            model=nanoseconds(model, count),
        ),
    )


@pytest.mark.parametrize("kind", ["random", "lifo"])
def test_replay_with_everything(
    kind: str,
    benchmark: BenchmarkFixture,
    measure: Callable[..., float | None],
    figures: Figures,
) -> None:
    """What a user waits for: spawning, tables, a thousand samples and the summary, too."""
    trace = trace_of(kind, "medium")
    real = glibc.run(trace, touch="write", repeat=ROUNDS)
    allocator = _model.allocator_for(real.glibc)
    seconds = measure(lambda: _model.replay(trace, real, allocator, "write"), rounds=ROUNDS)
    if seconds is None:
        return
    figure = Figure(
        f"replay {kind} medium, written, all of it",
        real.nanoseconds / 1e9 / seconds,
        "x",
        TARGET["none"],
        real=nanoseconds(real.nanoseconds / 1e9, len(trace)),
        model=nanoseconds(seconds, len(trace)),
    )
    figures.add(benchmark, figure)


def check_addresses(trace: pa.Trace, where: glibc.HostRun, allocator: str, touch: str) -> None:
    """Fail unless the model, where it is of this very library, does what that did."""
    replay = _model.replay(trace, where, allocator, touch)
    assert not replay.errors
    if allocator == f"glibc-{where.glibc}":
        assert np.array_equal(replay.address, where.address)
