"""Is a simulated page fault cheaper than the kernel's own?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import _model
import pytest
from _figures import Figure, Figures

from pyalloc.host import faults

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_benchmark.fixture import BenchmarkFixture

PAGES = 65536
TARGET = 50.0


@pytest.mark.usefixtures("real_library")
def test_first_touch(
    benchmark: BenchmarkFixture, measure: Callable[..., float | None], figures: Figures
) -> None:
    times: list[float] = []

    def real_round() -> tuple[tuple[Callable[[], None]], dict[str, Any]]:
        touch = _model.first_touches(PAGES)
        times.append(faults.first_touch(PAGES, repeat=1).nanoseconds_per_page)
        return (touch,), {}

    seconds = measure(lambda touch: touch(), real_round)
    if seconds is None:
        return
    model = seconds / PAGES * 1e9
    figure = Figure(
        "first touch of a page",
        min(times) / model,
        "x",
        TARGET,
        real=f"{min(times):.0f} ns",
        model=f"{model:.1f} ns",
    )
    figures.add(benchmark, figure)
