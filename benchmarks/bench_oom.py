"""How long does the OOM killer take to choose?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from _figures import Figure, Figures

import pyalloc as pa

if TYPE_CHECKING:
    from collections.abc import Callable

_MOST_MS = 10.0


@pytest.mark.parametrize("kernel", ["2.6.11", "2.6.18", "6.12"])
def test_a_choice_among_ten_thousand(
    kernel: str, measure: Callable[..., float | None], benchmark: object, figures: Figures
) -> None:
    """A choice among 10,000 processes takes less than 10 ms; trails are made when looked at."""
    tasks = [
        pa.Task(pid, "worker", uid=pid % 3, total_vm=1000 + pid * 7 % 999, rss=pid * 31 % 977)
        for pid in range(2, 10_002)
    ]
    policy = pa.oom_policy(kernel)
    seconds = measure(lambda: policy.choose(tasks, 1_000_000))
    assert len(policy.choose(tasks, 1_000_000).scores) == 10_000
    if seconds is not None:
        what = f"a victim among 10,000, {kernel}"
        figure = Figure(what, seconds * 1000, "ms", _MOST_MS, at_most=True)
        figures.add(benchmark, figure)  # type: ignore[arg-type]  # the fixture's own type
