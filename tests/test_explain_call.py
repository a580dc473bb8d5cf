"""Explain: one call in words, in every generation, by what the heap was and is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import pyalloc as pa
from pyalloc.cli import main
from pyalloc.engine import allocator_names
from pyalloc.lab.explain import explain, explain_calls
from pyalloc.machine.chunks import ChunkState
from pyalloc.workload.streams import stream

M, F, R, C = pa.Op.MALLOC, pa.Op.FREE, pa.Op.REALLOC, pa.Op.CALLOC
FROM = {
    "tcache": {ChunkState.TCACHE},
    "fastbin": {ChunkState.FAST},
    "exact fit": {ChunkState.UNSORTED, ChunkState.SMALL, ChunkState.LARGE},
    "split": {ChunkState.UNSORTED, ChunkState.SMALL, ChunkState.LARGE},
    "top": {ChunkState.TOP},
}


def calls(*rows: tuple[int, int, int]) -> pa.Trace:
    return pa.Trace.from_arrays(*zip(*rows, strict=True))


def paths(trace: pa.Trace, allocator: str) -> list[str]:
    return [e.path for e in explain_calls(trace, 0, len(trace), allocator=allocator)]


@pytest.mark.parametrize("allocator", allocator_names())
def test_costs_of_all_calls_add_up_to_those_of_the_run(allocator: str) -> None:
    """Faults, break, resident bytes and system calls, call by call, are the whole run's."""
    trace = stream("random", "log:16-300K", count=300, live=40, seed=6)
    told = explain_calls(trace, 0, len(trace), allocator=allocator)
    summary = pa.replay(trace, allocator, touch="write").summary
    assert len(told) == len(trace)
    assert sum(e.cost.faults for e in told) == summary.minor_faults
    assert sum(e.cost.resident_bytes for e in told) == summary.rss
    assert sum(e.cost.brk for e in told) == summary.brk_calls
    assert sum(e.cost.mmap for e in told) == summary.mmap_calls


@pytest.mark.parametrize("allocator", allocator_names())
def test_addresses_and_sources_are_the_replays(allocator: str) -> None:
    """Each call's address is the replay's, and its source is a chunk that had room for it."""
    trace = stream("random", "1-2000", count=400, live=60, seed=8)
    told = explain_calls(trace, 0, len(trace), allocator=allocator)
    assert [e.address for e in told] == pa.replay(trace, allocator).address.tolist()
    for one in told:
        if one.path in FROM:
            assert one.source is not None
            assert one.source.state in FROM[one.path]
            assert one.source.size >= one.size
            assert one.source.address <= one.address < one.source.address + one.source.size
        assert str(one).startswith(f"Call {one.row:,}: {one.call}")


def test_the_tcache_is_told_from_the_fastbin() -> None:
    """A small block that comes back comes from the tcache since 2.26, from a fastbin before."""
    trace = calls((M, 0, 24), (M, 1, 24), (F, 0, 0), (M, 2, 24))
    assert paths(trace, "glibc-2.36")[2:] == ["to tcache", "tcache"]
    assert paths(trace, "glibc-2.23")[2:] == ["to fastbin", "fastbin"]
    told = explain(trace, 3, allocator="glibc-2.36")
    assert told.address == explain(trace, 0, allocator="glibc-2.36").address
    assert "the tcache of thread 0" in str(told)


def test_calloc_goes_past_the_tcache_until_it_does_not() -> None:
    """calloc takes from the tcache since 2.41 only."""
    trace = calls((M, 0, 24), (M, 1, 24), (F, 0, 0), (C, 2, 24))
    assert paths(trace, "glibc-2.36")[3] == "top"
    assert paths(trace, "glibc-2.41")[3] == "tcache"


def test_best_fit_splits_and_merges_are_told() -> None:
    """A large block is split for a smaller one; freed again, it merges with the rest."""
    trace = calls(
        (M, 0, 5000),
        (M, 1, 100),
        (M, 2, 3000),
        (M, 3, 100),
        (F, 0, 0),
        (F, 2, 0),
        (M, 4, 2000),
        (F, 4, 0),
    )
    told = explain_calls(trace, 0, len(trace), allocator="glibc-2.36")
    assert [e.path for e in told[4:]] == ["to bin", "to bin", "split", "to bin"]
    assert told[6].source.size == 3008
    assert "the smallest that is large enough" in str(told[6])
    assert "1 chunk moved from the unsorted list" in str(told[6])
    assert "merges with the free memory behind it into 3,008" in str(told[7])


def test_the_threshold_is_named_where_it_decides() -> None:
    """A block at the threshold is mapped; its free moves the threshold; the next is not mapped."""
    trace = calls((M, 0, 200_000), (F, 0, 0), (M, 1, 200_000), (F, 1, 0))
    told = explain_calls(trace, 0, 4, allocator="glibc-2.36")
    assert [e.path for e in told] == ["mapping", "unmapped", "top extended", "to top"]
    assert "the mmap threshold of 131,072 bytes" in str(told[0])
    assert "from 131,072 to 200,704 bytes" in str(told[1])
    assert told[0].cost.mmap == told[1].cost.munmap == 1
    old = explain_calls(trace, 0, 3, allocator="glibc-2.3.3")
    assert [e.path for e in old] == ["mapping", "unmapped", "mapping"]


def test_realloc_in_place_moved_and_remapped() -> None:
    """What realloc does is told: into the top, away, mremap, nothing."""
    trace = calls(
        (M, 0, 1000),
        (R, 0, 999),
        (R, 0, 3000),
        (M, 1, 100),
        (R, 0, 9000),
        (M, 2, 200_000),
        (R, 2, 400_000),
        (R, 1, 0),
    )
    told = explain_calls(trace, 0, len(trace), allocator="glibc-2.36")
    assert [e.path for e in told] == [
        "top extended",
        "in place",
        "in place",
        "top",
        "moved",
        "mapping",
        "remapped",
        "to tcache",
    ]
    assert "nothing changes" in str(told[1])
    assert "into what follows: the top" in str(told[2])
    assert "nothing is copied" in str(told[6])


def test_a_trim_says_what_goes_back() -> None:
    """The free that makes the top long enough gives it back, and the sentence has the bytes."""
    trace = calls(
        (M, 0, 100_000), (M, 1, 100_000), (M, 2, 100_000), (F, 0, 0), (F, 1, 0), (F, 2, 0)
    )
    told = explain(trace, 5, allocator="glibc-2.36")
    assert told.path == "to top"
    assert told.cost.brk_bytes < -100_000
    assert f"{-told.cost.brk_bytes:,} bytes go back to the kernel" in str(told)


def test_threads_settings_and_ends() -> None:
    """A thread's first call makes an arena; mallopt says what it sets; an abort is told."""
    trace = pa.Trace.from_arrays(
        [M, M, pa.Op.MALLOPT, F, F],
        [0, 1, 0xFFFFFFFF, 0, 0],
        [100, 100, 65536, 0, 0],
        arg=[0, 0, 2**64 - 3, 0, 0],
        thread=[0, 1, 0, 0, 0],
    )
    told = explain_calls(trace, 0, 5, allocator="glibc-2.36")
    assert [e.path for e in told] == ["top extended", "new arena", "other", "to tcache", "abort"]
    assert "mmap_threshold from 131,072 to 65,536" in str(told[2])
    assert "double free detected in tcache 2" in str(told[4])


def test_a_block_has_a_past_and_a_future() -> None:
    """The calls that began and ended its life are named, not those of the number's next life."""
    trace = calls((M, 0, 100), (R, 0, 200), (F, 0, 0), (M, 0, 300), (M, 1, 5))
    told = explain_calls(trace, 0, 5)
    assert [(e.allocated_by, e.freed_by) for e in told] == [
        (0, 2),
        (0, 2),
        (0, 2),
        (3, None),
        (4, None),
    ]
    assert "never freed" in str(told[4])


def test_bad_input_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A call that is not there, and one after the program's death, are refused."""
    trace = calls((M, 0, 100), (F, 0, 0), (F, 0, 0), (M, 1, 5))
    for at in (-1, 4, 1.0, True):
        with pytest.raises(pa.ArgumentError, match="the trace has calls 0 to 3"):
            explain(trace, at)
    with pytest.raises(pa.ArgumentError, match="died before call 3"):
        explain(trace, 3)
    file = tmp_path / "t.parquet"
    trace.write(file)
    assert main(["explain", str(file), "--at", "99"]) == 2
    assert "calls 0 to 3" in capsys.readouterr().err
    assert main(["explain", str(file), "--at", "0", "--count", "2", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert [d["row"] for d in data] == [0, 1]
    assert data[1]["source"]["state"] == "used"


def test_the_words_fit_the_numbers() -> None:
    """What is said of the neighbours is what lies there."""
    trace = stream("random", "1-500", count=200, live=30, seed=1)
    for one in explain_calls(trace, 100, 60, allocator="glibc-2.36"):
        if one.chunk is not None and one.before is not None:
            assert one.before.address + one.before.size == one.chunk.address
            assert f"before it {one.before.size:,} bytes" in str(one)
        if one.chunk is not None and one.after is not None:
            assert one.chunk.address + one.chunk.size == one.after.address
    assert np.unique([e.path for e in explain_calls(trace, 0, 200)]).size > 3
