"""Streams spread over threads."""

from __future__ import annotations

import numpy as np
import pytest

from pyalloc.errors import ArgumentError
from pyalloc.trace import Op
from pyalloc.workload.spread import SpreadSpec
from pyalloc.workload.storm import StormSpec
from pyalloc.workload.streams import StreamSpec


@pytest.mark.parametrize(
    "stream", [StreamSpec(kind="random", count=3000, seed=2), StormSpec(count=3000, seed=2)]
)
def test_the_calls_stay_as_they_are_but_for_who_makes_them(stream: StreamSpec | StormSpec) -> None:
    plain, spread = stream.make(), SpreadSpec(stream=stream, threads=6, seed=4).make()
    rest = spread.op != Op.THREAD_EXIT
    for name in ("op", "block", "size", "arg"):
        assert np.array_equal(getattr(spread, name)[rest], getattr(plain, name))
    assert set(spread.thread.tolist()) == set(range(6))


def test_a_thread_ends_after_its_own_call_and_before_that_of_another() -> None:
    """Never the main one; the next with its number is another thread."""
    ends = 0
    for seed in range(30):
        trace = SpreadSpec(stream=StreamSpec(kind="random", count=500), threads=5, seed=seed).make()
        rows = np.flatnonzero(trace.op == Op.THREAD_EXIT)
        ends += len(rows)
        assert (trace.thread[rows] == trace.thread[rows - 1]).all()
        assert (trace.thread[rows] != 0).all()
        assert (trace.op[rows - 1] != Op.THREAD_EXIT).all()
    assert ends > 100


def test_equal_specs_give_equal_traces() -> None:
    first, again = (
        SpreadSpec(stream=StreamSpec(kind="random", count=200), seed=1).make() for _ in range(2)
    )
    assert first.thread.tolist() == again.thread.tolist()
    assert len(SpreadSpec(stream=StreamSpec(kind="random", count=0)).make()) == 0
    assert not SpreadSpec(stream=StreamSpec(kind="random", count=50), threads=1).make().thread.any()


def test_no_threads_are_bad_input() -> None:
    with pytest.raises(ArgumentError, match="threads must be 1 or more"):
        SpreadSpec(stream=StreamSpec(kind="random"), threads=0)
