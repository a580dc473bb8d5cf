"""Stages give what a machine made for the occasion gives, run after run."""

from __future__ import annotations

import pytest

import pyalloc as pa
from pyalloc.lab.stage import stage_for
from pyalloc.workload.streams import stream

CASES = {
    "mixed": (stream("random", "log:1-300K", count=2000, live=80, calls="all"), "glibc-2.36"),
    "small": (stream("bursts", "1-400", count=4000, live=300), "glibc-2.31"),
    "old": (stream("fifo", "1-4000", count=2000, live=300), "glibc-2.3.3"),
    "threads": (
        pa.workload("larson:threads=3,blocks=40,operations=150,generations=2"),
        "glibc-2.41",
    ),
    "best-fit": (stream("random", "1-9000", count=1200, live=80), "best-fit"),
    "own mappings": (
        pa.Trace.from_arrays(
            [pa.Op.MALLOC, pa.Op.MMAP, pa.Op.SBRK, pa.Op.MALLOC, pa.Op.MUNMAP, pa.Op.MALLOC],
            [0, 1, 0xFFFFFFFF, 2, 1, 3],
            [100, 65536, 4096, 200_000, 65536, 300_000],
        ),
        "glibc-2.36",
    ),
}


@pytest.mark.parametrize("touch", ["none", "write"])
@pytest.mark.parametrize("arch", ["x86_64", "i386"])
@pytest.mark.parametrize("name", CASES)
def test_a_stage_gives_the_summary_of_a_replay(name: str, arch: str, touch: str) -> None:
    """Every figure, on a stage that others have used before."""
    trace, allocator = CASES[name]
    stage = stage_for(trace, arch)
    first, error = stage.replay(trace, allocator, touch=touch)
    again, _ = stage.replay(trace, allocator, touch=touch)
    assert error is None
    assert first == again == pa.replay(trace, allocator, arch, touch=touch).summary


def test_a_recorded_address_space_is_the_trace_s_own() -> None:
    trace = stream("lifo", "1-400K", count=500, live=20)
    maps = "555555554000-555555556000 r-xp 00000000 08:01 9 /bin/x\n"
    maps += "7ffff7fc0000-7ffff7fc1000 rw-p 00000000 00:00 0\n"
    maps += "7ffffffde000-7ffffffff000 rw-p 00000000 00:00 0 [stack]\n"
    info = pa.TraceInfo(arch="x86_64", maps=maps, brk_start=0x555555600000)
    recorded = pa.Trace(trace.columns, info)
    found, _ = stage_for(recorded).replay(recorded, touch="write")
    assert found == pa.replay(recorded, touch="write").summary


def test_settings_are_taken_and_refused_as_replay_does() -> None:
    trace = stream("random", "100K-400K", count=400, live=20)
    stage = stage_for(trace)
    settings = {"mmap_threshold": "64K", "glibc.malloc.top_pad": 0x20000}
    found, _ = stage.replay(trace, tunables=settings)
    assert found == pa.replay(trace, tunables=settings).summary
    assert found != stage.replay(trace)[0]
    for wrong in ({"mmap_treshold": 1}, {"mmap_threshold": "many"}, {"mmap_threshold": -1}):
        with pytest.raises(pa.ArgumentError, match="tunable"):
            stage.replay(trace, tunables=wrong)


def test_an_abort_is_an_outcome() -> None:
    twice = pa.Trace.from_arrays([pa.Op.MALLOC, pa.Op.FREE, pa.Op.FREE], [0, 0, 0], [5000, 0, 0])
    summary, error = stage_for(twice).replay(twice)
    expected = pa.replay(twice)
    assert error == expected.errors[0]
    assert summary == expected.summary
