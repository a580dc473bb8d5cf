"""What does a large machine cost before anything runs on it, and a page once it is used?

Time is that of making the machine, in this process; memory is what a fresh process has more of
resident at its peak.  There is no real thing to compare with: nobody boots a terabyte in 0.1 s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import _memory
import pytest
from _figures import Figure, Figures

import pyalloc as pa

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_benchmark.fixture import BenchmarkFixture

SECONDS = 0.1
BYTES = 24.0
PAGES = 1 << 20


def test_boot_of_a_terabyte(
    benchmark: BenchmarkFixture, measure: Callable[..., float | None], figures: Figures
) -> None:
    seconds = measure(lambda: pa.Machine(ram="1T", swap="64G", kernel="6.18", arch="x86_64"))
    if seconds is not None:
        figures.add(
            benchmark,
            Figure(
                "boot of 1 TB",
                seconds * 1e3,
                "ms",
                SECONDS * 1e3,
                at_most=True,
                model=f"{seconds * 1e3:.1f} ms",
            ),
        )


@pytest.mark.parametrize("what", ["machine", "pages"])
def test_memory_of_a_terabyte(
    what: str, benchmark: BenchmarkFixture, measure: Callable[..., float | None], figures: Figures
) -> None:
    pages = PAGES if benchmark.enabled else PAGES // 256
    found: list[_memory.Terabyte] = []
    timed = measure(lambda: found.append(_memory.terabyte(pages)), rounds=1)
    memory = found[0]
    assert memory.pages == pages
    if timed is None:
        return
    if what == "machine":
        figure = Figure(
            "memory of 1 TB, booted",
            memory.booted / 2**20,
            "MiB",
            1,
            at_most=True,
            model=f"{memory.booted / 2**20:.1f} MiB",
        )
    else:
        figure = Figure(
            "memory of 1 TB, a page in use",
            memory.touched / pages,
            "B a page",
            BYTES,
            at_most=True,
            model=f"{memory.touched / 2**20:.1f} MiB",
        )
    figures.add(benchmark, figure)
