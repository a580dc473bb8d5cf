"""What does a mapping call cost among many areas, from Python, and what the kernel's own?

Areas of two pages, alternately without access and with.  Each pair of calls undoes what it does:
a mapping behind the last one, one in place of a page in the middle, another protection there, and
a page more of the break.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import _model
import pytest
from _figures import Figure, Figures

from pyalloc.host import address_space

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_benchmark.fixture import BenchmarkFixture

PAIRS = 200
TARGET = {1000: 5.0, 60_000: 20.0}  # microseconds


@pytest.mark.usefixtures("real_library")
@pytest.mark.parametrize("areas", TARGET)
@pytest.mark.parametrize("name", address_space.PAIRS)
def test_mapping_calls(
    name: str,
    areas: int,
    benchmark: BenchmarkFixture,
    measure: Callable[..., float | None],
    figures: Figures,
) -> None:
    process, pairs = _model.mapping_calls(areas)
    before = str(process.maps())
    seconds = measure(lambda: pairs[name](PAIRS), rounds=50)
    assert str(process.maps()) == before
    assert len(process.space) >= areas
    if seconds is None:
        return
    real = min(address_space.mapping_calls(areas)[name] for _ in range(3)) / 1e3
    model = seconds / (2 * PAIRS) * 1e6
    figure = Figure(
        f"{name}, {areas} areas",
        model,
        "us",
        TARGET[areas],
        at_most=True,
        real=f"{real:.1f} us",
        model=f"{model:.1f} us",
    )
    figures.add(benchmark, figure)
    benchmark.extra_info["real_over_model"] = real / model
