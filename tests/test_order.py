"""Other orders of the same calls: legal, as they are called, and what they save."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pyalloc as pa
from pyalloc.cli import main
from pyalloc.errors import ArgumentError
from pyalloc.host import glibc
from pyalloc.host.compile import CompilerMissing
from pyalloc.lab.order import DEFAULT, MOVES, Calls
from pyalloc.lab.order.calls import ALLOCATION, FREE
from pyalloc.lab.order.jitter import jittered
from pyalloc.lab.order.moves import Arrangement, apply_moves
from pyalloc.lab.order.search import search
from pyalloc.lab.order.windows import windows
from pyalloc.lab.paired import mean_of, student_t
from pyalloc.trace import NULL_BLOCK
from pyalloc.trace import Row as Called
from pyalloc.workload.streams import stream

Row = tuple[int, int, int, int]  # op, block, size, thread


# --- legality, slowly


def lives(trace: list[Called]) -> Iterator[list[int]]:
    """Yield the rows of each block, one number used twice being two blocks."""
    at: dict[int, list[int]] = {}
    for i, row in enumerate(trace):
        if row.block == NULL_BLOCK:
            continue
        rows = at.get(row.block)
        fresh = row.op not in (pa.Op.FREE, pa.Op.REALLOC, pa.Op.TOUCH)
        reborn = row.op == pa.Op.REALLOC and rows and trace[rows[-1]].op == pa.Op.FREE
        if rows and (fresh or reborn):
            yield rows
            rows = None
        if rows is None:
            at[row.block] = [i]
        else:
            rows.append(i)
    yield from at.values()


def is_legal(trace: pa.Trace, order: list[int]) -> bool:
    """Check the rule row by row."""
    if sorted(order) != list(range(len(trace))):
        return False
    place = {row: i for i, row in enumerate(order)}
    rows = list(trace)
    groups = list(lives(rows))
    groups.append([i for i, row in enumerate(rows) if row.block == NULL_BLOCK])
    for group in groups:
        if [place[r] for r in group] != sorted(place[r] for r in group):
            return False
    for end, row in enumerate(rows):
        if row.op != pa.Op.THREAD_EXIT:
            continue
        for other in range(len(rows)):
            own = other != end and rows[other].thread == row.thread
            if own and (other < end) != (place[other] < place[end]):
                return False
    return True


@st.composite
def traces(draw: st.DrawFn) -> pa.Trace:
    """Draw legal programs: threads that end, reallocs, touches, reused numbers, free(NULL)."""
    rows: list[Row] = []
    live: list[int] = []
    for _ in range(draw(st.integers(0, 60))):
        thread = draw(st.integers(0, 2))
        kind = draw(st.integers(0, 9))
        if kind == 0:
            rows.append((pa.Op.FREE, NULL_BLOCK, 0, thread))
        elif kind == 1 and thread:
            rows.append((pa.Op.THREAD_EXIT, NULL_BLOCK, 0, thread))
        elif kind <= 5 or not live:
            free = [b for b in range(70) if b not in live]
            block = draw(st.sampled_from(free[:3]))  # numbers come again soon
            live.append(block)
            rows.append((pa.Op.MALLOC, block, draw(st.integers(0, 5000)), thread))
        elif kind <= 7:
            block = live.pop(draw(st.integers(0, len(live) - 1)))
            rows.append((pa.Op.FREE, block, 0, thread))
        else:
            op = pa.Op.REALLOC if kind == 8 else pa.Op.TOUCH
            rows.append((op, draw(st.sampled_from(live)), draw(st.integers(1, 5000)), thread))
    op, block, size, thread = zip(*rows, strict=True) if rows else ((), (), (), ())
    return pa.Trace.from_arrays(list(op), list(block), list(size), thread=list(thread))


@settings(max_examples=40, deadline=None)
@given(traces(), st.integers(2, 40), st.integers(0, 5))
def test_every_order_is_legal(trace: pa.Trace, window: int, seed: int) -> None:
    """By the slow check, and by the quick one that users' orders go through."""
    calls = Calls(trace)
    starts = windows(calls, window)
    for name in DEFAULT:
        order = apply_moves(Arrangement(calls, starts), name, seed)
        assert is_legal(trace, order.tolist()), name
        calls.check(order)
        near = jittered(Arrangement(calls, starts, order), seed)
        assert is_legal(trace, near.tolist()), name


@settings(max_examples=60, deadline=None)
@given(traces(), st.randoms(use_true_random=False), st.integers(0, 12))
def test_the_quick_check_is_the_slow_one(trace: pa.Trace, random: object, swaps: int) -> None:
    order = list(range(len(trace)))
    for _ in range(swaps if order else 0):
        i, j = (random.randrange(len(order)) for _ in range(2))  # type: ignore[attr-defined]
        order[i], order[j] = order[j], order[i]
    calls = Calls(trace)
    if is_legal(trace, order):
        calls.check(np.array(order, np.int64))
    else:
        with pytest.raises(ArgumentError, match="not legal"):
            calls.check(np.array(order, np.int64))


@settings(max_examples=30, deadline=None)
@given(traces(), st.integers(2, 40))
def test_exchanged_frees_and_allocations_keep_the_shape(trace: pa.Trace, window: int) -> None:
    """At each place the same thread makes the same kind of call, in each window the same calls."""
    calls = Calls(trace)
    starts = windows(calls, window)
    for name in ("lifo", "largest", "reversed", "size", "lifetime+lifo"):
        order = apply_moves(Arrangement(calls, starts), name, 0)
        assert np.array_equal(calls.kind[order], calls.kind)
        assert np.array_equal(trace.thread[order], trace.thread)
        for low, high in zip(starts, [*starts[1:], len(trace)], strict=True):
            assert sorted(order[low:high]) == list(range(low, high))


@settings(max_examples=30, deadline=None)
@given(traces(), st.integers(2, 40))
def test_windows_cut_no_run(trace: pa.Trace, window: int) -> None:
    calls = Calls(trace)
    starts = windows(calls, window)
    assert starts[0] == 0
    assert (np.diff(starts) >= window).all()
    for cut in starts[1:]:
        assert calls.kind[cut] != calls.kind[cut - 1] or calls.kind[cut] not in (ALLOCATION, FREE)


# --- orders do what they are called


@pytest.mark.parametrize("kind", ["lifo", "fifo", "largest", "smallest"])
@pytest.mark.parametrize("of", ["lifo", "fifo", "random"])
def test_an_order_of_frees_is_the_stream_of_that_kind(of: str, kind: str) -> None:
    """In one window over the whole trace, what was FIFO and becomes LIFO is the LIFO stream."""
    made = {k: stream(k, count=3000, live=80, seed=4, drain=True) for k in (of, kind)}
    expected = made[kind]
    calls = Calls(made[of])
    order = apply_moves(Arrangement(calls, windows(calls, 10_000)), kind, 0)
    count = 3000
    assert np.array_equal(calls.columns(order)["block"][:count], expected.block[:count])


def test_lifo_takes_the_youngest_of_its_thread_and_window() -> None:
    """Checked by hand, free by free."""
    trace = pa.workload("mstress:scale=2,threads=3")
    calls = Calls(trace)
    starts = windows(calls, 500)
    order = apply_moves(Arrangement(calls, starts), "lifo", 0).tolist()
    for low, high in zip(starts, [*starts[1:], len(trace)], strict=True):
        own = [r for r in range(low, high) if trace.op[r] == pa.Op.FREE]
        birth = {int(trace.block[r]): i for i, r in enumerate(order) if trace.op[r] == pa.Op.MALLOC}
        for thread in range(7):
            left = {int(trace.block[r]) for r in own if trace.thread[r] == thread}
            for i in range(low, high):
                row = order[i]
                if trace.op[row] != pa.Op.FREE or trace.thread[row] != thread:
                    continue
                free_now = max((b for b in left if birth[b] < i), key=birth.__getitem__)
                assert trace.block[row] == free_now
                left.remove(free_now)


def test_allocations_are_grouped_by_what_is_asked() -> None:
    trace = pa.workload("fragmented1:total=64K")
    calls = Calls(trace)
    allocations = calls.kind == ALLOCATION
    by_size = apply_moves(Arrangement(calls, windows(calls)), "size", 0)
    assert (np.diff(trace.size[by_size][allocations].astype(int)) >= 0).all()
    by_site = apply_moves(Arrangement(calls, windows(calls)), "site", 0)
    assert np.count_nonzero(np.diff(trace.site[by_site][allocations].astype(int))) == 1
    longest = apply_moves(Arrangement(calls, windows(calls)), "lifetime", 0)
    death = calls.lives.death[calls.life_of[longest[allocations]]]
    assert (np.diff(death) <= 0).all()


def test_reversed_turns_each_run_of_frees_around() -> None:
    op = [*[pa.Op.MALLOC] * 4, *[pa.Op.FREE] * 3, pa.Op.MALLOC, *[pa.Op.FREE] * 2]
    trace = pa.Trace.from_arrays(op, [0, 1, 2, 3, 0, 1, 2, 4, 3, 4], [10] * 10)
    calls = Calls(trace)
    order = apply_moves(Arrangement(calls, windows(calls, 100)), "reversed", 0)
    assert trace.block[order].tolist() == [0, 1, 2, 3, 2, 1, 0, 4, 4, 3]


def test_frees_come_early_and_late_as_far_as_they_may() -> None:
    op = [pa.Op.MALLOC, pa.Op.MALLOC, pa.Op.TOUCH, pa.Op.FREE, pa.Op.MALLOC, pa.Op.FREE]
    trace = pa.Trace.from_arrays(op, [0, 1, 0, 1, 2, 0], [10] * 6)
    calls = Calls(trace)
    a = Arrangement(calls, windows(calls, 100))
    assert apply_moves(a, "immediate", 0).tolist() == [0, 1, 3, 2, 5, 4]
    assert apply_moves(a, "delayed", 0).tolist() == [0, 1, 2, 4, 3, 5]


# --- what they save


def test_the_article_s_programs_differ_by_a_factor_of_150() -> None:
    """fragmented1, its calls grouped by lifetime, is fragmented2: on glibc 2.3.3, i386."""
    small = {"allocator": "glibc-2.3.3", "arch": "i386", "search": 0, "repeats": 3}
    wasted = {}
    for program, name in (("fragmented1", "lifetime"), ("fragmented2", "fifo")):
        study = pa.order(f"{program}:total=64M", [name], by="held", **small)  # type: ignore[arg-type]
        for result in (study["recorded"], study[name]):
            s = result.summaries[0]
            wasted[program, result.name] = s.held - s.requested
    assert wasted["fragmented1", "recorded"] > 100 * wasted["fragmented1", "lifetime"]
    assert wasted["fragmented2", "recorded"] == wasted["fragmented1", "lifetime"]
    assert wasted["fragmented2", "fifo"] < 2 * wasted["fragmented2", "recorded"]


def test_what_an_order_saves_is_what_the_real_library_saves() -> None:
    """The calls in each order, also those a search found, hold as much on this machine's glibc."""
    try:
        allocator = f"glibc-{glibc.version()}"
    except CompilerMissing:
        pytest.skip("no C compiler")
    if allocator not in {a.name for a in pa.allocators()}:
        pytest.skip(f"{allocator} is not modelled")
    study = pa.order(
        stream("bursts", "1-4000", count=12_000, live=800, seed=1),
        ["lifo", "lifetime", "size"],
        allocator=allocator,
        touch="write",
        repeats=1,
        search=10,
        by="held",
    )
    held = {}
    for result in study:
        real = glibc.run(study.reordered(result.name), touch="write", record=["brk"])
        assert real.brk is not None
        summary = result.summaries[0]
        held[result.name] = int(real.brk[-1]) - real.brk0
        assert (held[result.name], real.rss - real.rss0) == (summary.held, summary.rss)
        assert int(real.brk.max()) - real.brk0 == summary.peak_held
    assert held["best found"] < held["recorded"] < held["worst found"]


def test_a_saving_is_the_mean_of_paired_differences() -> None:
    study = pa.order("bursts:count=3000,live=200,sizes=1-4000", ["lifo"], repeats=4, search=0)
    result = study["lifo"]
    for k in range(4):
        own = pa.workload(f"bursts:count=3000,live=200,sizes=1-4000,seed={k}")
        assert result.base[k] == pa.replay(own, touch="write").summary
    differences = [
        b.peak_held - o.peak_held for b, o in zip(result.base, result.summaries, strict=True)
    ]
    assert result.saved("peak_held").mean == pytest.approx(np.mean(differences))
    half = 3.182 * np.std(differences, ddof=1) / 2
    assert result.saved("peak_held").half == pytest.approx(half)
    assert study["recorded"].saved("peak_held").mean == 0


def test_neighbours_of_a_trace_make_the_same_calls_a_little_later() -> None:
    trace = stream("bursts", count=5000, live=300)
    calls = Calls(trace)
    starts = windows(calls)
    one, two = (jittered(Arrangement(calls, starts), seed) for seed in (1, 2))
    assert not np.array_equal(one, two)
    assert np.array_equal(one, jittered(Arrangement(calls, starts), 1))
    assert np.array_equal(calls.kind[one], calls.kind)
    turn = np.cumsum(calls.kind == FREE)
    moved = np.abs(turn[one] - turn)[calls.kind == FREE]
    assert 0 < moved.mean() < 16


def test_students_t_is_that_of_the_tables() -> None:
    assert student_t(1) == 12.706
    assert student_t(40) == pytest.approx(2.021, abs=0.002)
    assert student_t(120) == pytest.approx(1.980, abs=0.001)
    assert student_t(10**6) == pytest.approx(1.960, abs=0.001)


def test_an_interval_holds_the_truth_19_times_in_20() -> None:
    rng = np.random.default_rng(1)
    found = [mean_of(rng.normal(5, 2, 6).tolist()) for _ in range(2000)]
    inside = np.mean([i.low <= 5 <= i.high for i in found])  # type: ignore[operator]
    assert inside == pytest.approx(0.95, abs=0.015)
    assert mean_of([3.0]).half is None


# --- the search


def small_program() -> pa.Trace:
    """Six blocks, freed in some order, then six larger ones."""
    op = [*[pa.Op.MALLOC] * 6, *[pa.Op.FREE] * 5, *[pa.Op.MALLOC] * 3]
    block = [0, 1, 2, 3, 4, 5, 0, 2, 4, 1, 3, 6, 7, 8]
    size = [3000, 500, 3000, 700, 3000, 900, 0, 0, 0, 0, 0, 4000, 6000, 2000]
    return pa.Trace.from_arrays(op, block, size)


def cost(trace: pa.Trace, order: np.ndarray) -> tuple[float, ...]:
    """Return a score with a single best order of the frees: each one's place has a weight."""
    rank = {0: 3, 1: 0, 2: 4, 3: 1, 4: 2}
    freed = [int(b) for b, op in zip(trace.block[order], trace.op[order], strict=True) if op == 3]
    return (float(sum(i * rank[b] for i, b in enumerate(freed))),)


@pytest.mark.parametrize("worst", [False, True])
def test_the_search_finds_what_trying_all_finds(worst: bool) -> None:
    trace = small_program()
    calls = Calls(trace)
    starts = windows(calls, 100)

    def measure(order: np.ndarray) -> tuple[float, ...]:
        return cost(trace, order)

    every = []
    for frees in permutations(range(6, 11)):
        order = np.array([*range(6), *frees, *range(11, 14)])
        every.append(cost(trace, order))
    found = search(calls, starts, np.arange(len(trace)), measure, budget=2000, seed=1, worst=worst)
    assert found.score == (max(every) if worst else min(every))
    assert is_legal(trace, found.order.tolist())


def test_a_search_ends_not_behind_the_named_orders_and_is_repeatable() -> None:
    trace = stream("phases", "1-4000", count=4000, live=400)
    one, two = (pa.order(trace, repeats=1, search=15, workers=n) for n in (1, 2))
    assert one.to_dict() == two.to_dict()
    named = [r.summaries[0].peak_held for r in one if "found" not in r.name]
    assert one["best found"].summaries[0].peak_held <= min(named)
    assert one["worst found"].summaries[0].peak_held >= max(named)
    again = pa.replay(one.reordered("best found"), touch="write").summary
    assert again == one["best found"].summaries[0]


# --- bad input


LONG = stream("lifo", count=200, live=20)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: pa.order(stream("lifo", count=20, live=5)), "too short .* 100"),
        (lambda: pa.order(pa.workload("loop_malloc:count=200")), "frees 0 blocks"),
        (lambda: pa.order(LONG, ["lilo"]), "no order 'lilo'; did you mean .*lifo"),
        (lambda: pa.order(LONG, ["lifo+"]), "no order ''"),
        (lambda: pa.order(LONG, by="time"), "by must be one of"),
        (lambda: pa.order(LONG, repeats=0), "repeats"),
        (lambda: pa.order(LONG, window=1), "window"),
        (lambda: pa.order(LONG, {"mine": np.arange(199)}), "'mine': .*200 row numbers .got 199"),
        (lambda: pa.order(LONG, {"mine": np.arange(200)[::-1]}), r"not legal: row \d+ \(free"),
        (lambda: pa.order(LONG, {"mine": np.zeros(200, int)}), "not exactly once"),
        (lambda: pa.order(LONG, {"mine": np.arange(200) * 1.0}), "row numbers"),
        (lambda: pa.order("fifo:count=999,live=50", {"mine": range(9)}), "seeds of a workload"),
        (lambda: pa.order("lilo:count=999"), "no workload"),
        (lambda: pa.order(LONG, allocator="glibc-9", search=0), "glibc-2"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_line(make: object, words: str) -> None:
    with pytest.raises(ArgumentError, match=words) as caught:
        make()  # type: ignore[operator]
    assert "\n" not in str(caught.value)


def test_an_order_of_ones_own_is_replayed() -> None:
    calls = Calls(LONG)
    mine = apply_moves(Arrangement(calls, windows(calls)), "fifo", 0)
    study = pa.order(LONG, {"mine": mine}, repeats=2, search=0)
    assert study["mine"].summaries[0] == pa.replay(study.reordered("mine"), touch="write").summary


# --- the command


def test_the_command_orders_a_recorded_program(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    best = tmp_path / "best.parquet"
    command = [sys.executable, "-c", "x = [str(i) * 99 for i in range(500)]; del x[::2]"]
    arguments = ["--json", "--repeats", "2", "--search", "3", "--best", str(best)]
    assert main(["order", *arguments, "--", *command]) == 0
    found = json.loads(capfd.readouterr().out)
    names = [each["name"] for each in found["orders"]]
    assert names == ["recorded", *DEFAULT, "best found", "worst found"]
    assert found["calls"] == len(pa.read_trace(best))
    assert all(
        set(each["saved"]) == {"peak_held", "held", "peak_rss", "jw1"} for each in found["orders"]
    )


def test_the_command_prints_a_table_and_a_verdict(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rows = tmp_path / "rows.txt"
    program = "fragmented1:total=2M"
    common = ["--allocator", "glibc-2.3.3", "--arch", "i386", "--repeats", "1", "--search", "0"]
    assert main(["order", program, "--order", "lifetime", "--by", "end", *common]) == 0
    out = capfd.readouterr().out
    assert "lifetime saves most held at the end" in out
    assert "times less" in out
    assert max(map(len, out.splitlines())) <= 100
    rows.write_text("0 2 1")
    assert main(["order", program, "--order", str(rows), *common]) == 2
    assert main(["order", program, "--order", str(rows), "--order", "lifo", *common]) == 2
    rows.write_text("0 x 1")
    assert main(["order", program, "--order", str(rows), *common]) == 2
    err = capfd.readouterr().err.splitlines()
    assert len(err) == 3
    assert "word 2 is 'x'" in err[2]
    assert main(["order", "--list"]) == 0
    listed = capfd.readouterr().out
    assert all(name in listed for name in MOVES)
