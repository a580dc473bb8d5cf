"""Workloads: legal calls, the same on every run, doing what their originals are known for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pyalloc as pa
from pyalloc.errors import ArgumentError
from pyalloc.trace import NULL_BLOCK
from pyalloc.workload import adversary, loops, stress
from pyalloc.workload.catalogue import WORKLOADS, parse_workload, trace_of
from pyalloc.workload.rows import repaired
from pyalloc.workload.streams import KINDS, stream

SMALL = {
    **dict.fromkeys(KINDS, "count=4000,live=100"),
    "loop_malloc": "count=20",
    "loop_calloc": "count=20",
    "loop_memset": "count=20",
    "fragmented1": "total=1M",
    "fragmented2": "total=1M",
    "cache_scratch": "repetitions=200",
    "cache_thrash": "repetitions=200",
    "larson": "blocks=50,operations=200,generations=3",
    "mstress": "scale=1",
    "rptest": "loops=20,blocks=100",
    "sh6bench": "ring=100,passes=1",
    "sh8bench": "ring=2000,iterations=40,foreign=800",
    "threadtest": "objects=400,iterations=5",
    "xmalloc": "batch=100,batches=5",
    "robson": "live=64K,largest=4K",
    "mesh_fragmenter": "total=1M",
    "litter": "of=fifo:count=2000;live=100",
}


def small(name: str, **parameters: object) -> pa.Trace:
    return pa.workload(f"{name}:{SMALL[name]}", **parameters)


def left_after(trace: pa.Trace) -> set[int]:
    """Play the calls; fail at the first illegal one, and return the blocks left."""
    live: set[int] = set()
    seen: set[int] = set()
    for row in trace:
        if row.op in (pa.Op.MALLOC, pa.Op.CALLOC):
            assert row.block not in seen
            seen.add(row.block)
            live.add(row.block)
        elif row.op == pa.Op.FREE:
            live.remove(row.block)
        elif row.op == pa.Op.TOUCH:
            assert row.block in live
        else:
            assert row.op == pa.Op.THREAD_EXIT
            assert row.block == NULL_BLOCK
    return live


def test_every_workload_is_tried() -> None:
    assert set(SMALL) == set(WORKLOADS)


@pytest.mark.parametrize("name", WORKLOADS)
def test_calls_are_legal_and_run_on_the_real_model(name: str) -> None:
    trace = small(name)
    left_after(trace)
    assert len(trace)
    replay = pa.replay(trace)
    assert not replay.errors
    assert not replay.summary.failed


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_seed_decides_all(name: str) -> None:
    assert small(name) == small(name)


@pytest.mark.parametrize("name", ["larson", "litter", "mstress", "rptest", "xmalloc"])
def test_another_seed_is_another_trace(name: str) -> None:
    more = {"sizes": "1-4000"} if name == "xmalloc" else {}
    assert small(name, seed=1, **more) != small(name, seed=2, **more)


@pytest.mark.parametrize("name", ["mstress", "rptest", "sh6bench", "threadtest", "xmalloc"])
def test_what_frees_all_leaves_nothing(name: str) -> None:
    assert not left_after(small(name))


def test_threads_that_end_make_no_more_calls() -> None:
    ended: set[int] = set()
    for row in small("larson"):
        assert row.thread not in ended
        if row.op == pa.Op.THREAD_EXIT:
            ended.add(row.thread)
    assert len(ended) == 4 * 3


def test_larson_keeps_its_number_of_blocks() -> None:
    """The main thread makes them and replaces four for each, before the threads begin."""
    trace = small("larson")
    live = trace.live_blocks()
    assert live[200:].min() >= 200 - 4
    assert live.max() == 200
    assert (trace.thread == 0).sum() == 200 + 2 * 4 * 200


def foreign_frees(trace: pa.Trace) -> float:
    """Return the share of blocks freed by another thread than the one that made them."""
    made = np.isin(trace.op, (pa.Op.MALLOC, pa.Op.CALLOC))
    freed = trace.op == pa.Op.FREE
    maker = np.zeros(trace.block_count, np.uint32)
    maker[trace.block[made]] = trace.thread[made]
    return float(np.mean(maker[trace.block[freed]] != trace.thread[freed]))


def test_larson_hands_blocks_from_thread_to_thread() -> None:
    trace = small("larson")
    assert 0.1 < foreign_frees(trace) < 0.9


def calls_of(trace: pa.Trace, thread: int = 0) -> list[tuple[pa.Op, int, int]]:
    """Return the calls of a thread: op, block and size."""
    return [(row.op, row.block, row.size) for row in trace if row.thread == thread]


def sh6bench_sizes(passes: int) -> list[int]:
    """Return the sizes from 1 to 1000 as they come: each base, and down from it by halves."""
    found, base = [], 1
    while base < 1000:
        size = base
        while size:
            found += [size] * (250 if size < 100 else 50)
            size //= 2
        base = base * 3 // 2 + 1
    return found * passes


@pytest.mark.parametrize("leaks", [False, True])
def test_sh6bench_walks_its_ring_as_the_program_does(*, leaks: bool) -> None:
    """A pointer goes over the ring, skips what is kept, and at the end the rest is freed."""
    made: list[tuple[pa.Op, int, int]] = [(pa.Op.MALLOC, 0, 800)]
    ring: list[int] = [0] * 100
    at, start, end = 0, 100, 100
    for block, size in enumerate(sh6bench_sizes(2), 1):
        made.append((pa.Op.MALLOC, block, size))
        ring[at] = block
        at += 1
        if at == start:
            at = end
        if at >= 100:
            start = 0 if end >= 100 else end
            end = min(start + 20, 100)
            made += [(pa.Op.FREE, ring[i], 0) for i in range(start)]
            made += [(pa.Op.FREE, ring[i], 0) for i in range(99, end - 1, -1)]
            at = end if start == 0 and not leaks else 0
    found = calls_of(pa.workload("sh6bench:ring=100,passes=2", leaks=leaks))
    assert found[: len(made)] == made
    left = [ring[i] for i in range(at)]
    rest = [block for op, block, _ in found[len(made) : -1] if op == pa.Op.FREE]
    kept = [] if leaks or at > start else [ring[i] for i in range(start, end)]
    assert rest == left + kept
    assert found[-1] == (pa.Op.FREE, 0, 0)


def test_sh6bench_that_leaks_loses_a_fifth_of_the_ring_every_fifth_round() -> None:
    lost = len(left_after(small("sh6bench", leaks=True, passes=4)))
    rounds = 4 * len(sh6bench_sizes(1)) / 90
    assert lost == pytest.approx(rounds / 5 * 20, rel=0.1)


def test_sh8bench_threads_free_some_of_each_part_of_the_main_thread_s_blocks() -> None:
    """Of sixteen parts of 50 each thread frees every fourth; nothing else is freed by others."""
    trace = small("sh8bench")
    made = {row.block for row in trace if row.op == pa.Op.MALLOC and row.thread == 0}
    order = sorted(made)
    assert len(order) == 800
    for thread in (1, 2, 3, 4):
        own = [row.block for row in trace if row.op == pa.Op.FREE and row.thread == thread]
        foreign = [order.index(block) for block in own if block in made]
        assert {place // 50 % 4 for place in foreign} == {thread - 1}
        assert foreign == sorted(foreign)
        assert len(foreign) == 200
        first = [
            size for op, _, size in calls_of(trace, thread) if op == pa.Op.MALLOC and size != 8
        ]
        assert set(first[1:400]) == {16}
    assert 0 < foreign_frees(trace) < 0.1


def test_xmalloc_consumers_take_the_newest_batch() -> None:
    """Producers 1 and 3 make two batches each; from then on what was made last is freed next."""
    trace = small("xmalloc")
    made = [r for r in trace if r.op == pa.Op.MALLOC]
    freed = [r for r in trace if r.op == pa.Op.FREE]
    assert {r.thread for r in made} == {1, 3}
    assert {r.thread for r in freed} == {0, 2, 4}
    tables = [r for r in made if r.size == 8 * 101]
    assert len(tables) == 10
    number = {r.block: i for i, r in enumerate(sorted(tables, key=lambda r: r.block))}
    assert [number[r.block] for r in freed if r.block in number] == [3, 2, 5, 4, 7, 6, 9, 8, 1, 0]


def test_mstress_sizes_are_powers_of_two_words_of_which_a_few_are_huge() -> None:
    trace = pa.workload("mstress:scale=50,iterations=1")
    own = (trace.op == pa.Op.MALLOC) & (trace.size < 400_000)
    words = trace.size[own] // 8
    tables = np.isin(words, [50 * 100 * n // 2 for n in (1, 2, 3, 4)])
    words = words[~tables]
    times = {f: [f << k for k in range(7)] for f in (1, 100, 1_000, 10_000)}
    assert set(words.tolist()) <= {size for sizes in times.values() for size in sizes}
    assert np.isin(words, times[1]).mean() == pytest.approx(0.98, abs=0.004)
    assert np.isin(words, times[100]).sum() > 5 * np.isin(words, times[1_000]).sum() > 0


def test_rptest_fills_places_and_frees_what_it_finds_there() -> None:
    """A place that is filled again is freed right before; sets of blocks go to the others."""
    trace = small("rptest", sizes="100")
    assert trace.size[trace.op == pa.Op.MALLOC].tolist().count(32) == 4 * 2 * 10  # heads of sets
    live = trace.live_blocks()
    assert live.max() < 4 * (1 + 100 + 3 * (2 + 99))
    assert 0.1 < foreign_frees(trace) < 0.5


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: stress.larson(threads=0), "threads"),
        (lambda: stress.sh8bench(foreign=-2), "foreign"),
        (lambda: stress.rptest(dropoff="none"), "dropoff"),
        (lambda: loops.loop_malloc(-1), "count"),
        (lambda: loops.fragmented1(0), "size"),
        (lambda: adversary.robson(unit=24), "unit"),
        (lambda: adversary.robson(largest="2M"), "largest"),
        (lambda: adversary.mesh_fragmenter(0), "size"),
        (lambda: adversary.litter(stream("lifo", count=10), 2), "occupancy"),
        (lambda: pa.workload("larsen"), "larson"),
        (lambda: pa.workload("larson:treads=2"), "threads"),
        (lambda: pa.workload("larson:threads"), "KEY=VALUE"),
        (lambda: pa.workload("larson:threads=many"), "threads"),
        (lambda: pa.workload("mesh_fragmenter:end=perhaps"), "end"),
    ],
)
def test_what_makes_no_sense_is_refused(call: object, text: str) -> None:
    with pytest.raises(ArgumentError, match=text):
        call()  # type: ignore[operator]


def test_a_workload_is_written_with_its_parameters() -> None:
    found, parameters = parse_workload("lifo:sizes=1-128,live=5")
    assert found.name == "lifo"
    assert parameters == {"sizes": "1-128", "live": "5"}
    assert pa.workload("loop_malloc:count=3", size="64K").size.tolist() == [65536] * 3


@pytest.mark.parametrize("name", WORKLOADS)
def test_every_parameter_says_what_it_is_and_a_seed_is_taken(name: str) -> None:
    """A seed is listed where it changes something, and taken anywhere."""
    found = WORKLOADS[name]
    assert all(found.meanings.values()), found.meanings
    assert found.description
    assert ("seed" in found.settings({"seed": 1})) == ("seed" in found.parameters)


def test_a_trace_file_or_a_workload_is_a_program(tmp_path: Path) -> None:
    made = pa.workload("fifo:count=50,live=5")
    file = tmp_path / "larson"  # a file wins over the workload of its name
    made.write(file)
    assert trace_of(str(file)) == made
    assert trace_of(file) == made
    assert trace_of("fifo:count=50,live=5") == made
    with pytest.raises(
        ArgumentError, match="no file and no workload 'larsen'; did you mean larson"
    ):
        trace_of("larsen")
    with pytest.raises(FileNotFoundError):
        trace_of("larsen.parquet")


# --- the article's pair


def article(name: str, **parameters: object) -> pa.ReplaySummary:
    machine = pa.Machine(ram="4G", swap=0, kernel="2.6.11", arch="i386")
    trace = pa.workload(name, **parameters)
    return pa.replay(trace, "glibc-2.3.3", machine=machine).summary


def test_the_fragmented_programs_come_near_the_article() -> None:
    """319858832 and 2089200 wasted bytes, on glibc 2.3.3, i386."""
    one, two = article("fragmented1"), article("fragmented2")
    assert one.peak_requested == two.peak_requested
    assert one.requested == two.requested
    wasted = one.held - one.requested, two.held - two.requested
    assert wasted[0] == pytest.approx(319_858_832, rel=0.0005)
    assert wasted[1] == pytest.approx(2_089_200, rel=0.0005)
    assert wasted[0] / wasted[1] == pytest.approx(153.1, rel=0.001)


@pytest.mark.parametrize("name", ["fragmented1", "fragmented2"])
def test_blocks_past_the_mmap_threshold_waste_little_in_either_order(name: str) -> None:
    """Only those that happen to fit into the top of the heap stay in it."""
    assert article(name, size=128 << 10).held < 2 << 20


# --- adversaries


@pytest.mark.parametrize("opponent", ["first-fit", "best-fit", "glibc-2.36", "glibc-2.3.3"])
def test_robson_reaches_his_bound(opponent: str) -> None:
    """M (1 + log2(n) / 2), within the last page; M = 256 KiB of live chunks, n = 64 units."""
    trace = adversary.robson("256K", "2K", 32, opponent)
    live = 8 * np.cumsum(np.where(trace.op == pa.Op.MALLOC, 1, -1)) + trace.live_bytes()
    assert live.max() <= 256 << 10
    held = pa.replay(trace, opponent).summary.peak_held
    assert held >= (256 << 10) * (1 + 6 / 2)


def test_mesh_fragmenter_doubles_the_heap() -> None:
    summary = pa.replay(adversary.mesh_fragmenter(512, "8M")).summary
    assert summary.peak_requested <= 8 << 20
    assert summary.jw4 is not None
    assert summary.jw4 > 80


def test_litter_lies_before_the_program_and_stays() -> None:
    program = stream("lifo", "64", count=1000, live=100, drain=True)
    littered = adversary.litter(program, occupancy=0.5, multiplier=3)
    peak = int(program.live_blocks().max())
    before = len(littered) - len(program)
    assert before == 3 * peak + 3 * peak // 2
    assert np.array_equal(littered.op[before:], program.op)
    assert len(left_after(littered)) == 3 * peak - 3 * peak // 2


# --- legal orders


@given(st.lists(st.integers(0, 5), max_size=30), st.randoms(use_true_random=False))
def test_repaired_orders_keep_each_blocks_rows(blocks: list[int], random: object) -> None:
    block = np.array([NULL_BLOCK if b == 5 else b for b in blocks], np.uint32)
    order = np.arange(len(block))
    random.shuffle(order)  # type: ignore[attr-defined]
    fixed = repaired(block, order)
    assert sorted(fixed.tolist()) == list(range(len(block)))
    assert np.array_equal(block[fixed], block[order])
    for number in range(5):
        rows = fixed[block[fixed] == number]
        assert np.all(np.diff(rows) > 0)


def test_what_thread_heaps_hold_is_held() -> None:
    """A run whose threads never use the main heap holds memory all the same."""
    summary = pa.replay(small("threadtest")).summary
    assert summary.peak_held >= summary.held > summary.peak_requested
