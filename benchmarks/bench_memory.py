"""How much real memory does a simulated byte take?

Resident bytes of this process before a replay and after it, with the table of the trace's own
blocks left out; against the most the simulated heap had from its kernel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import _model
import pytest
from _figures import Figure, Figures

from pyalloc.workload.streams import stream

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_benchmark.fixture import BenchmarkFixture

TARGET = 0.5 + 24 / 4096  # bytes: half of one for the heap, and 24 for each of its pages
SHAPES = {
    "smallest blocks": ("random", "24", 2_000_000, 1_500_000),
    "small blocks": ("random", "small", 1_500_000, 1_000_000),
    "blocks to 4000 bytes": ("random", "medium", 400_000, 100_000),
    "holes between pins": ("pins", "4000", 400_000, 40_000),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_bytes_per_heap_byte(
    shape: str, benchmark: BenchmarkFixture, measure: Callable[..., float | None], figures: Figures
) -> None:
    kind, sizes, count, live = SHAPES[shape]
    trace = stream(kind, sizes, count=count, live=live)
    _model.prepare(trace[:1000]).run()
    _model.resident_bytes()  # what a first time takes is not the heap's
    replay = _model.prepare(trace)
    before = _model.resident_bytes()
    seconds = measure(replay.run, rounds=1)
    used, held = _model.resident_bytes() - before, replay.bytes_held()
    assert held > 1 << 23
    if seconds is None:
        return
    figure = Figure(
        f"memory of the model, {shape}",
        used / held,
        "B per heap byte",
        TARGET,
        at_most=True,
        real=f"{held / 2**20:.0f} MiB",
        model=f"{used / 2**20:.1f} MiB",
    )
    figures.add(benchmark, figure)
