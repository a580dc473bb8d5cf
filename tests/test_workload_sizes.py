"""Distributions of sizes: what each promises, and what a trace teaches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import pyalloc as pa
from pyalloc.errors import ArgumentError
from pyalloc.workload.sizes import Empirical, Markov, SizeLaw, parse_sizes
from pyalloc.workload.streams import stream

RNG = np.random.default_rng


def allocations(sizes: list[int]) -> pa.Trace:
    return pa.Trace.from_arrays([pa.Op.MALLOC] * len(sizes), range(len(sizes)), sizes)


@pytest.mark.parametrize(
    "text", ["pareto:1.2:16-1M", "pareto:1:10-1000", "pareto:3:10-100", "heavy"]
)
def test_pareto_keeps_bounds_mean_and_shape(text: str) -> None:
    law = parse_sizes(text)
    drawn = law.draw(RNG(1), 400_000)
    assert drawn.mean() == pytest.approx(law.mean, rel=0.05)
    assert np.median(drawn) < law.mean  # the tail carries the mean


def test_the_exponent_of_pareto_is_the_slope_of_its_tail() -> None:
    drawn = parse_sizes("pareto:2:1000-1G").draw(RNG(1), 400_000)
    assert (drawn > 10_000).mean() == pytest.approx(0.01, rel=0.05)


def test_markov_repeats_a_size_as_often_as_asked() -> None:
    drawn = parse_sizes("markov:0.9:1-1000000").draw(RNG(1), 100_000)
    assert (drawn[1:] == drawn[:-1]).mean() == pytest.approx(0.9, abs=0.01)
    assert drawn.mean() == pytest.approx(500_000, rel=0.05)


def test_classes_are_stayed_in_as_often_as_asked() -> None:
    law = parse_sizes("classes:0.9:8-64/1K-4K/1M")
    drawn = law.draw(RNG(1), 100_000)
    which = np.digitize(drawn, [65, 1024, 5000, 1 << 20])
    assert set(which.tolist()) == {0, 2, 4}  # nothing between the classes
    assert (which[1:] == which[:-1]).mean() == pytest.approx(0.9, abs=0.01)
    assert np.bincount(which)[[0, 2, 4]] / len(drawn) == pytest.approx([1 / 3] * 3, abs=0.03)
    assert drawn.mean() == pytest.approx(law.mean, rel=0.1)
    inside = drawn[which == 2]
    assert inside.mean() == pytest.approx(2560, rel=0.02)


def test_an_empirical_law_gives_each_size_its_share() -> None:
    law = Empirical.of(allocations([8, 8, 8, 1000]))
    drawn = law.draw(RNG(1), 40_000)
    assert set(drawn.tolist()) == {8, 1000}
    assert (drawn == 8).mean() == pytest.approx(0.75, abs=0.01)
    assert law.mean == 256


def test_a_chain_follows_the_trace() -> None:
    law = Markov.of(allocations([8, 16, 24] * 10))
    drawn = law.draw(RNG(1), 1000)
    after = dict(zip(drawn[:-1].tolist(), drawn[1:].tolist(), strict=True))
    assert after == {8: 16, 16: 24, 24: 8}
    assert law.mean == 16


def test_a_chain_visits_sizes_as_often_as_the_trace() -> None:
    recorded = stream("random", "markov:0.5:1-50", count=20_000, live=100)
    drawn = Markov.of(recorded).draw(RNG(2), 50_000)
    real = recorded.size[recorded.op == pa.Op.MALLOC]
    assert np.allclose(
        np.bincount(drawn.astype(int), minlength=51) / len(drawn),
        np.bincount(real.astype(int), minlength=51) / len(real),
        atol=0.01,
    )


@pytest.mark.parametrize("form", ["trace", "chain"])
def test_a_file_is_a_distribution(form: str, tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    allocations([100, 200]).write(path)
    made = stream("lifo", f"{form}:{path}", count=100, live=10)
    assert set(made.size[made.op == pa.Op.MALLOC].tolist()) == {100, 200}


def test_a_law_of_ones_own_will_do() -> None:
    class Primes:
        mean = 3.0

        def draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
            return rng.choice(np.array([2, 3, 5], np.uint64), count)

    law: SizeLaw = Primes()
    assert set(stream("fifo", law, count=100, live=10).size.tolist()) == {0, 2, 3, 5}


@pytest.mark.parametrize(
    "text",
    [
        "pareto:1-10",
        "pareto:0:1-10",
        "pareto:x:1-10",
        "pareto:1:0-10",
        "markov:2:1-10",
        "log:1:1-9",
        "classes:0.5",
        "classes:2:1-10/20",
        "classes:0.5:1-10/x",
        "classes:0.5:1-10/log:1-9",
        "classes:0.5:10-1",
    ],
)
def test_what_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(ArgumentError, match="sizes"):
        parse_sizes(text)


def test_nothing_is_learnt_from_nothing() -> None:
    with pytest.raises(ArgumentError, match="no request"):
        Empirical.of(allocations([]))
