"""How much real memory does a simulated byte take?

Each replay runs in a fresh process, and what it adds to the peak of that process's resident memory
is the model's: its image of the heap, its page tables and frames.  The trace's own table, eight
bytes for each block, is told apart: the real program has one too, of its pointers.  Against it
stands the most that the simulated heap had from its kernel.

Promised are half a byte for each byte of the heap, 24 for each of its pages, and one page of 2 MB:
the step in which the image of a large heap grows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import _memory
import pytest
from _figures import Figure, Figures

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_benchmark.fixture import BenchmarkFixture

PROMISED = 0.5 + 24 / 4096
STEP = 2 << 20
SHAPES = {
    "smallest blocks": ("random", "24", 8_000_000, 7_000_000),
    "small blocks": ("random", "1-128", 5_000_000, 4_000_000),
    "blocks to 4000 bytes": ("random", "1-4000", 500_000, 200_000),
    "blocks to 1 MB": ("random", "log:1-1M", 100_000, 4000),
    "holes between pins": ("pins", "4000", 2_000_000, 200_000),
}
SMALL = ("random", "1-128", 20_000, 10_000)  # for a run without timing


@pytest.mark.parametrize("touch", ["none", "write"])
@pytest.mark.parametrize("shape", SHAPES)
def test_bytes_per_heap_byte(
    shape: str,
    touch: str,
    benchmark: BenchmarkFixture,
    measure: Callable[..., float | None],
    figures: Figures,
) -> None:
    seen: list[_memory.Memory] = []
    case = SHAPES[shape] if benchmark.enabled else SMALL
    timed = measure(lambda: seen.append(_memory.measure(*case, touch)), rounds=1)
    memory = seen[0]
    assert memory.held > memory.table > 0
    assert memory.model > memory.table // 2
    if timed is None:
        return
    own = memory.model - memory.table
    figure = Figure(
        f"memory of the model, {shape}, {'untouched' if touch == 'none' else 'written'}",
        own / memory.held,
        "B per heap byte",
        PROMISED + STEP / memory.held,
        at_most=True,
        real=f"{memory.held / 2**20:.0f} MiB",
        model=f"{own / 2**20:.1f} + {memory.table / 2**20:.1f} MiB",
    )
    figures.add(benchmark, figure)
