"""The table at the end: each figure beside its target, real machine and model side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from _figures import Figures

from pyalloc.host import compile as host_compile
from pyalloc.host.compile import CompilerMissing

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_benchmark.fixture import BenchmarkFixture

    Setup = Callable[[], tuple[tuple[object, ...], dict[str, object]]]


HEADS = ("benchmark", "real", "model", "result", "target", "met")


KEY = pytest.StashKey[Figures]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[KEY] = Figures()


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Figures:
    return request.config.stash[KEY]


@pytest.fixture(scope="session")
def real_library() -> None:
    """Skip where the real C library cannot be run for want of a compiler."""
    try:
        host_compile.program("calls")
    except CompilerMissing as error:
        pytest.skip(str(error))


@pytest.fixture
def measure(benchmark: BenchmarkFixture) -> Callable[..., float | None]:
    """Return a function that times calls; None as their best time when timing is off."""

    def best(
        target: Callable[..., object], setup: Setup | None = None, rounds: int = 5
    ) -> float | None:
        benchmark.pedantic(target, setup=setup, rounds=rounds)
        return benchmark.stats.stats.min if benchmark.stats else None

    return best


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    lines = config.stash[KEY].lines
    if not lines:
        return
    rows = [HEADS, *(figure.cells() for figure in lines)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    terminalreporter.section("real machine and model")
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        terminalreporter.line("  ".join(cells).rstrip())
    for head, lines_ in config.stash[KEY].markdown.items():
        terminalreporter.section("as Markdown")
        for line in (*head, *lines_):
            terminalreporter.line(line)
