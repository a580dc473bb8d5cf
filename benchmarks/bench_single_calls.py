"""What does one call cost from Python?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import _model
import pytest
from _figures import Figure, Figures

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_benchmark.fixture import BenchmarkFixture

COUNT = 10_000
TARGET = 0.25  # microseconds


@pytest.mark.parametrize("size", [24, 2000])
def test_single_calls(
    size: int, benchmark: BenchmarkFixture, measure: Callable[..., float | None], figures: Figures
) -> None:
    malloc, free = _model.calls()

    def pairs() -> None:
        for _ in range(COUNT):
            free(malloc(size))

    seconds = measure(pairs, rounds=20)
    if seconds is None:
        return
    each = seconds / (2 * COUNT) * 1e6
    figure = Figure(
        f"one call from Python, {size} bytes",
        each,
        "us",
        TARGET,
        at_most=True,
        model=f"{each * 1e3:.0f} ns",
    )
    figures.add(benchmark, figure)
