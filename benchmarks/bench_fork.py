"""Is a simulated fork of a large process cheaper than the kernel's own?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import _model
import pytest
from _figures import Figure, Figures

from pyalloc.host import address_space

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_benchmark.fixture import BenchmarkFixture

PAGES = 262_144  # 1 GiB, written
TARGET = 1.0


@pytest.mark.usefixtures("real_library")
def test_fork(
    benchmark: BenchmarkFixture, measure: Callable[..., float | None], figures: Figures
) -> None:
    pages = PAGES if benchmark.enabled else PAGES // 256
    parent = _model.written(pages)
    real: list[int] = []

    def real_round() -> tuple[tuple[()], dict[str, Any]]:
        for child in parent.children:
            if child.alive:
                child.exit(0)
        real.extend(address_space.forks(pages, count=1))
        return (), {}

    seconds = measure(parent.fork, real_round)
    assert parent.children[-1].statm()["resident"] >= pages
    if seconds is None:
        return
    figure = Figure(
        "fork of 1 GB",
        min(real) / 1e9 / seconds,
        "x",
        TARGET,
        real=f"{min(real) / 1e6:.1f} ms",
        model=f"{seconds * 1e3:.1f} ms",
    )
    figures.add(benchmark, figure)
