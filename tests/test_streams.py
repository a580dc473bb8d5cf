"""Generated streams: what each promises about its blocks, its order and its sizes."""

from __future__ import annotations

import itertools
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pyalloc as pa
from pyalloc.errors import ArgumentError
from pyalloc.trace.ops import ALLOCATES
from pyalloc.workload.streams import KINDS, SIZES, StreamSpec, parse_sizes, stream

ORDERS = ("random", "lifo", "fifo")

specs = st.builds(
    StreamSpec,
    kind=st.sampled_from(KINDS),
    sizes=st.sampled_from([*SIZES, "64", 4096, "1-1", "100-200", "log:1-1", "pow:1-1M"]),
    count=st.integers(0, 3000),
    live=st.integers(1, 400),
    seed=st.integers(0, 5),
    calls=st.sampled_from(["plain", "all"]),
    drain=st.booleans(),
)


def walk(trace: pa.Trace) -> list[int]:
    """Play the trace call by call; return the blocks left, and fail at the first wrong row."""
    seen: set[int] = set()
    live: set[int] = set()
    for row in trace:
        if row.op == pa.Op.FREE:
            assert row.block in live
            live.remove(row.block)
        elif row.op == pa.Op.REALLOC:
            assert row.block in live
        else:
            assert row.op in ALLOCATES
            assert row.block not in seen
            assert row.block == len(seen)
            seen.add(row.block)
            live.add(row.block)
    return sorted(live)


# --- what holds for all


@given(specs)
@settings(deadline=None)
def test_blocks_are_numbered_in_order_and_freed_at_most_once(spec: StreamSpec) -> None:
    trace = spec.make()
    left = walk(trace)
    if spec.drain:
        assert not left
    else:
        assert len(trace) == spec.count


@given(specs)
@settings(max_examples=20, deadline=None)
def test_a_spec_is_all_that_decides(spec: StreamSpec) -> None:
    assert spec.make() == spec.make()


def test_rows_do_not_change_from_version_to_version() -> None:
    trace = stream("random", "1-4000", count=8, live=3, seed=7)
    assert trace.op.tolist() == [0, 0, 0, 3, 0, 3, 0, 0]
    assert trace.block.tolist() == [0, 1, 2, 1, 3, 2, 4, 5]
    assert trace.size.tolist() == [2726, 1923, 1597, 0, 239, 0, 1769, 891]


def test_seeds_differ() -> None:
    assert stream("random", count=100, live=10, seed=1) != stream("random", count=100, live=10)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_cost_next_to_no_python(kind: str) -> None:
    """A call or two a row and a queue's own where sizes decide the order, elsewhere none."""
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    sys.setprofile(count)
    try:
        trace = stream(kind, "mixed", count=100_000, live=10_000)
    finally:
        sys.setprofile(None)
    assert len(trace) == 100_000
    assert calls < (500_000 if kind in {"largest", "smallest"} else 10_000)


@pytest.mark.parametrize(
    ("kind", "low", "high"),
    [
        ("random", 900, 1100),
        ("lifo", 900, 1100),
        ("fifo", 900, 1100),
        ("exponential", 850, 1150),
        ("generational", 700, 1300),
        ("bursts", 700, 1300),
        ("phases", 400, 700),
        ("comb", 700, 1100),
        ("pins", 500, 900),
    ],
)
def test_the_live_set_is_of_the_size_asked_for(kind: str, low: int, high: int) -> None:
    live = stream(kind, count=100_000, live=1000).live_blocks()
    assert low < live[50_000:].mean() < high


# --- orders


@pytest.mark.parametrize("kind", ORDERS)
def test_orders_differ_only_in_which_block_is_freed(kind: str) -> None:
    base, other = (stream(k, "mixed", count=5000, live=100, seed=3) for k in ("random", kind))
    assert np.array_equal(base.op, other.op)
    assert np.array_equal(base.size, other.size)
    made = base.op == pa.Op.MALLOC
    assert np.array_equal(base.block[made], other.block[made])


def test_lifo_frees_the_youngest() -> None:
    live: list[int] = []
    for row in stream("lifo", count=5000, live=50, drain=True):
        if row.op == pa.Op.FREE:
            assert live.pop() == row.block
        else:
            live.append(row.block)
    assert not live


def test_fifo_frees_the_oldest() -> None:
    trace = stream("fifo", count=5000, live=50, drain=True)
    freed = trace.block[trace.op == pa.Op.FREE]
    assert np.array_equal(freed, np.arange(len(freed)))


def test_random_frees_any_live_block_as_likely() -> None:
    """The rank of the victim by age is uniform: each tenth of the live set gets a tenth."""
    live: list[int] = []
    tenths = np.zeros(10)
    for row in itertools.islice(stream("random", count=60_000, live=100), 60_000):
        if row.op == pa.Op.FREE:
            tenths[live.index(row.block) * 10 // len(live)] += 1
            live.remove(row.block)
        else:
            live.append(row.block)
    assert np.allclose(tenths / tenths.sum(), 0.1, atol=0.01)


def lifetimes(trace: pa.Trace) -> np.ndarray:
    """Return how many allocations each freed block lived through."""
    age = np.cumsum(trace.op == pa.Op.MALLOC)
    frees = trace.op == pa.Op.FREE
    birth = age[~frees]
    return age[frees] - birth[trace.block[frees]]


def test_exponential_lifetimes_have_the_mean_and_the_spread_of_the_law() -> None:
    lived = lifetimes(stream("exponential", count=400_000, live=100))
    assert 95 < lived.mean() < 105
    assert 95 < lived.std() < 105


def test_most_blocks_of_a_generational_stream_die_young() -> None:
    lived = lifetimes(stream("generational", count=400_000, live=1000))
    assert 0.85 < (lived < 100).mean() < 0.95
    assert 900 < lived.mean() < 1100


def test_a_phase_ends_with_few_survivors() -> None:
    live = stream("phases", count=100_000, live=1000).live_blocks()
    assert 1000 <= live.max() <= 1150
    assert live[20_000:].min() < 120


def test_combs_double_their_sizes() -> None:
    trace = stream("comb", "64", count=20_000, live=110)  # rounds of 20 blocks
    size = trace.size[trace.op == pa.Op.MALLOC]
    assert size[:220:20].tolist() == [64 << i for i in range(10)] + [64]


def test_pins_stay_between_what_is_freed() -> None:
    trace = stream("pins", "4000", count=40, live=15)  # rounds of 10 blocks
    size = trace.size[trace.op == pa.Op.MALLOC].tolist()
    assert size == ([24, 4000] * len(size))[: len(size)]
    freed = trace.block[trace.op == pa.Op.FREE].tolist()
    expected = [1, 3, 5, 7, 9, 0, 11, 2, 13, 4, 15, 6, 17, 8, 19]
    assert freed[:15] == expected


def test_all_calls_contain_every_call_that_allocates() -> None:
    trace = stream("random", count=20_000, live=100, calls="all")
    assert set(trace.op.tolist()) == {*ALLOCATES, pa.Op.FREE}
    assert (trace.op == pa.Op.REALLOC).mean() > 0.05
    align = trace.arg[np.isin(trace.op, [pa.Op.MEMALIGN, pa.Op.POSIX_MEMALIGN])]
    assert align.min() >= 8
    assert not (align & (align - np.uint64(1))).any()


# --- sizes


@pytest.mark.parametrize(
    ("text", "low", "high", "mean"),
    [
        ("small", 1, 128, 64.5),
        ("medium", 1, 4000, 2000.5),
        ("mixed", 1, 1 << 20, 75638),
        ("powers", 16, 65536, 10081),
        ("64", 64, 64, 64),
        (64, 64, 64, 64),
        ("log:16-64", 16, 64, 34.6),
        ("0-10", 0, 10, 5),
        ("4K-8K", 4096, 8192, 6144),
    ],
)
def test_sizes_keep_to_their_distribution(
    text: str | int, low: int, high: int, mean: float
) -> None:
    sizes = parse_sizes(text)
    drawn = sizes.draw(np.random.default_rng(1), 200_000)
    assert drawn.dtype == np.uint64
    assert drawn.min() == low
    assert high * 0.99 <= drawn.max() <= high
    assert sizes.mean == pytest.approx(mean, rel=0.01)
    assert drawn.mean() == pytest.approx(mean, rel=0.02)


def test_each_power_is_as_likely() -> None:
    drawn = parse_sizes("pow:16-128").draw(np.random.default_rng(1), 40_000)
    values, counts = np.unique(drawn, return_counts=True)
    assert values.tolist() == [16, 32, 64, 128]
    assert np.allclose(counts, 10_000, rtol=0.05)


@pytest.mark.parametrize(
    "text", ["", "big", "9-1", "log:0-10", "pow:3-9", "1-2-3", "-5", "1-", "log:", "1-2T"]
)
def test_sizes_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(ArgumentError, match="size"):
        parse_sizes(text)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"kind": "lilo"}, "lilo"),
        ({"count": -1}, "count"),
        ({"live": 0}, "live"),
        ({"seed": -1}, "seed"),
        ({"sizes": "x"}, "sizes"),
        ({"calls": "some"}, "calls"),
    ],
)
def test_specs_that_make_no_sense_are_refused(changes: dict[str, object], text: str) -> None:
    with pytest.raises(ArgumentError, match=text):
        StreamSpec(**{"kind": "random", **changes})
