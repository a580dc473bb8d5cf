"""Does the model fragment as the real library does, and is it faster?

The fragmentation workloads, LIFO beside the rest, on this machine's own C library and on the model
of it: what each holds at its peak, what of it is resident then and at the end, and how long it
takes, every block written whole.  Bytes must be equal, not near; where the library is no generation
that is modelled, they are only shown.

``pytest benchmarks/bench_fragmentation.py`` ends with the table in Markdown.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import _model
import numpy as np
import pytest
from _figures import Figure, Figures

import pyalloc as pa
from pyalloc.host import glibc
from pyalloc.units import format_size

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_benchmark.fixture import BenchmarkFixture

STREAM = "sizes=1-4000,count=300000,live=10000,seed=1"
WORKLOADS = {
    "lifo": f"lifo:{STREAM}",
    "fifo": f"fifo:{STREAM}",
    "random": f"random:{STREAM}",
    "largest first": f"largest:{STREAM}",
    "smallest first": f"smallest:{STREAM}",
    "generational": f"generational:{STREAM}",
    "bursts": f"bursts:{STREAM}",
    "phases": f"phases:{STREAM}",
    "phases, sorted": f"sorted:{STREAM}",
    "heavy tail": "bursts:sizes=pareto:1.2:16-1M,count=300000,live=10000,seed=1",
    "size classes": "phases:sizes=classes:0.9:16-128/1K-4K/64K-96K,count=100000,live=2000,seed=1",
    "pins": "pins:sizes=4000,count=100000,live=10000",
    "comb": "comb:sizes=64,count=100000,live=10000",
    "fragmented1": "fragmented1:total=64M",
    "fragmented2": "fragmented2:total=64M",
    "sh6bench": "sh6bench",
    "Mesh's fragmenter": "mesh_fragmenter:total=64M",
    "Robson's game": "robson:live=4M,largest=64K,allocator=glibc-2.36",
}
TARGET = 1.0
ROUNDS = 5
COLUMNS = (
    "workload",
    "calls",
    "asked for",
    "held, real",
    "model",
    "resident, real",
    "model",
    "at the end, real",
    "model",
    "ms, real",
    "model",
    "faster",
)
HEAD = (f"| {' | '.join(COLUMNS)} |", f"|---|{'--:|' * (len(COLUMNS) - 1)}")

pytestmark = pytest.mark.usefixtures("real_library")


@cache
def trace_of(name: str) -> pa.Trace:
    return pa.workload(WORKLOADS[name])


@dataclass(frozen=True)
class Seen:
    """Bytes when the heap holds most, and what is resident after the last call."""

    held: int
    row: int
    resident: int
    resident_at_end: int


def held_by(trace: pa.Trace, run: glibc.HostRun) -> np.ndarray:
    """Return what the real library has from the kernel after each call: heap and mapped chunks."""
    assert run.address is not None
    assert run.brk is not None
    assert run.usable is not None
    heap = run.brk.astype(np.int64) - run.brk0
    mapped = np.zeros(trace.block_count, np.int64)
    change = np.zeros(len(trace), np.int64)
    made = np.flatnonzero(trace.op == pa.Op.MALLOC)
    outside = (run.address[made] != 0) & ((run.address[made] < run.brk0) | above(run, made))
    rows = made[outside]
    mapped[trace.block[rows]] = change[rows] = run.usable[rows] + np.uint64(16)
    freed = np.flatnonzero(trace.op == pa.Op.FREE)
    change[freed] = -mapped[trace.block[freed]]
    return heap + np.cumsum(change)


def above(run: glibc.HostRun, rows: np.ndarray) -> np.ndarray:
    assert run.address is not None
    assert run.brk is not None
    return run.address[rows] >= np.maximum(run.brk[rows], run.brk.max())


def seen_really(trace: pa.Trace) -> tuple[Seen, glibc.HostRun]:
    run = glibc.run(trace, touch="write", record=["address", "brk", "usable"])
    held = held_by(trace, run)
    row = int(held.argmax())
    cut = glibc.run(trace[: row + 1], touch="write")
    return Seen(int(held[row]), row, cut.rss - cut.rss0, run.rss - run.rss0), run


def seen_in_the_model(trace: pa.Trace, real: glibc.HostRun, allocator: str) -> Seen:
    s = _model.process_like(real, allocator).replay(trace, touch="write", samples=0).summary
    return Seen(s.peak_held, s.peak_held_row, s.at_peak.resident, s.at_end.resident)


@pytest.mark.parametrize("name", WORKLOADS)
def test_fragmentation(
    name: str,
    benchmark: BenchmarkFixture,
    measure: Callable[..., float | None],
    figures: Figures,
) -> None:
    trace = trace_of(name)
    real, run = seen_really(trace)
    allocator = _model.allocator_for(run.glibc)
    model = seen_in_the_model(trace, run, allocator)
    if allocator == f"glibc-{run.glibc}":
        assert model == real
    times: list[int] = []

    def real_round() -> tuple[tuple[_model.Calls], dict[str, Any]]:
        times.extend(glibc.run(trace, touch="write").times)
        return (_model.prepare(trace, run, allocator, touch="write"),), {}

    seconds = measure(lambda calls: calls.run(), real_round, ROUNDS)
    if seconds is None:
        return
    really = min(times) / 1e9
    figures.add(
        benchmark,
        Figure(
            f"fragmentation, {name}",
            really / seconds,
            "x",
            TARGET,
            real=f"{really * 1e3:.1f} ms",
            model=f"{seconds * 1e3:.1f} ms",
        ),
    )
    sizes = (int(trace.live_bytes().max()), *pairs(real, model))
    figures.markdown.setdefault(HEAD, []).append(
        row(name, f"{len(trace):,}", *map(format_size, sizes), *milliseconds(really, seconds))
    )


def pairs(real: Seen, model: Seen) -> tuple[int, ...]:
    """Return what is shown of both, the model's beside the real one's."""
    seen = [(s.held, s.resident, s.resident_at_end) for s in (real, model)]
    return tuple(value for pair in zip(*seen, strict=True) for value in pair)


def milliseconds(real: float, model: float) -> tuple[str, ...]:
    return (f"{real * 1e3:.1f}", f"{model * 1e3:.1f}", f"{real / model:.1f} x")


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
