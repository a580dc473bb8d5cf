"""Trials: the quick replay of a what-if against the whole machine's."""

from __future__ import annotations

import numpy as np
import pytest

import pyalloc as pa
from pyalloc.errors import ArgumentError
from pyalloc.lab.setting import Setting, is_known, version_of
from pyalloc.lab.trial import Trials, sample_rows
from pyalloc.workload.streams import stream

TRACES = {
    "mixed": lambda: stream("random", "log:1-1M", count=4000, live=200, seed=3),
    "small": lambda: stream("phases", "1-4000", count=20_000, live=2000, seed=4),
    "threads": lambda: pa.workload("larson:threads=6,operations=400,generations=3"),
    "reallocs": lambda: reallocs(),  # noqa: PLW0108 - defined below
}
SETTINGS = (
    "default",
    "mmap_threshold=64K",
    "mmap_threshold=4K trim_threshold=0 top_pad=0",
    "tcache_count=0",
    "arena_max=2 mxfast=0",
    "trim_calls=500",
    "allocator=glibc-2.12",
    "allocator=glibc-2.43pre",
)
ALIKE = {
    "peak_rss": "peak_rss",
    "final_rss": "rss",
    "peak_held": "peak_held",
    "final_held": "held",
    "faults": "minor_faults",
    "brk": "brk_calls",
    "peak_requested": "peak_requested",
    "free": "free",
    "failed": "failed",
    "arenas": "arenas",
}


def reallocs() -> pa.Trace:
    """Blocks that grow and shrink, on the heap and in mappings, and a break that others move."""
    rng = np.random.default_rng(5)
    live: set[int] = set()
    rows = []
    for row in range(3000):
        block, size = int(rng.integers(0, 40)), int(2 ** rng.uniform(4, 22))
        if row % 211 == 100:
            rows.append((pa.Op.SBRK, pa.NULL_BLOCK, 8192, 0))
        elif block in live and rng.random() < 0.4:
            rows.append((pa.Op.FREE, block, 0, 0))
            live.discard(block)
        else:
            op = pa.Op.REALLOC if block in live or row % 3 else pa.Op.MEMALIGN
            rows.append((op, block, size, 8192))
            live.add(block)
    return pa.Trace.from_arrays(*zip(*rows, strict=True))


def on_a_machine(trace: pa.Trace, setting: Setting) -> pa.Replay:
    """Replay with a whole machine around it, as a user asks for it."""
    allocator = setting.allocator or "glibc-2.36"
    if setting.trim_calls:
        rows = np.arange(setting.trim_calls, len(trace) + 1, setting.trim_calls)
        columns = {name: np.insert(a, rows, 0) for name, a in trace.columns.items()}
        columns["op"][rows + np.arange(len(rows))] = pa.Op.MALLOC_TRIM
        trace = pa.Trace(columns)
    return pa.replay(trace, allocator, touch="write", record=(), tunables=dict(setting.tunables))


@pytest.mark.parametrize("text", SETTINGS)
@pytest.mark.parametrize("name", TRACES)
def test_a_trial_gives_what_a_whole_machine_gives(name: str, text: str) -> None:
    """Memory, faults and calls of a trial equal those of a replay on a machine, to the page."""
    trace, setting = TRACES[name](), Setting.parse(text)
    if not is_known(setting, "glibc-2.36", 8):
        pytest.skip("the generation has no such setting")
    outcome = Trials(trace).run(setting)
    summary = on_a_machine(trace, setting).summary
    assert outcome.error is None
    assert {k: getattr(outcome, k) for k in ALIKE} == {
        k: getattr(summary, v) for k, v in ALIKE.items()
    }


def test_32_bits_run_out_where_the_machine_does() -> None:
    """On i386 blocks that fill the address space are refused in the same number."""
    calls = 4500
    trace = pa.Trace.from_arrays(
        np.zeros(calls, np.uint8),
        np.arange(calls, dtype=np.uint32),
        np.full(calls, 1 << 20, np.uint64),
        info=pa.TraceInfo(arch="i386"),
    )
    outcome = Trials(trace, touch="none").run(Setting())
    assert outcome.failed == pytest.approx(pa.replay(trace).summary.failed, abs=2)


def test_samples_are_taken_after_the_calls_asked_for() -> None:
    """A row of the timeline is the state after exactly so many calls."""
    trace = TRACES["small"]()
    rows = sample_rows(len(trace), 7, also=(1, 3, 5000, 5001))
    outcome = Trials(trace, rows=rows).run(Setting())
    assert {1, 3, 5000, 5001, len(trace)} <= set(outcome.rows.tolist())
    live = trace.live_bytes()[outcome.rows.astype(np.int64) - 1]
    assert np.array_equal(outcome.timeline["requested"], live)
    part = Trials(trace[:5000]).run(Setting())
    assert part.final_rss == outcome.timeline["rss"][outcome.rows.tolist().index(5000)]


def test_the_peak_between_two_samples_is_not_lost() -> None:
    """A block that comes and goes between samples shows in rss_peak, and only there."""
    op = np.array([0, 0, 3, 0], np.uint8)
    size = np.array([100, 40 << 20, 0, 100], np.uint64)
    trace = pa.Trace.from_arrays(op, np.array([0, 1, 1, 2], np.uint32), size)
    outcome = Trials(trace, rows=np.array([1, 4], np.uint64)).run(Setting())
    assert outcome.timeline["rss"].max() < 1 << 20
    assert outcome.timeline["rss_peak"].tolist()[1] > 40 << 20
    assert outcome.peak_rss == outcome.timeline["rss_peak"].max()


def test_a_heap_that_aborts_says_so() -> None:
    """A double free ends the trial with the library's words."""
    trace = pa.Trace.from_arrays([0, 3, 3], [0, 0, 0], [24, 0, 0])
    outcome = Trials(trace).run(Setting())
    assert outcome.error == "free(): double free detected in tcache 2"
    assert outcome.calls == 2


def test_settings_are_written_and_read_alike() -> None:
    """A setting's line sets what it names, beside what the environment has already."""
    setting = Setting.parse("mmap_threshold=64K glibc.malloc.arena_max=1")
    assert setting.name == "mmap_threshold=64K arena_max=1"
    base = {"GLIBC_TUNABLES": "glibc.malloc.arena_max=4:glibc.malloc.mxfast=0"}
    assert setting.line(base, (2, 36)) == (
        "GLIBC_TUNABLES=glibc.malloc.arena_max=1:glibc.malloc.mxfast=0"
        ":glibc.malloc.mmap_threshold=65536"
    )
    assert setting.line({}, (2, 23)) == "MALLOC_MMAP_THRESHOLD_=65536 MALLOC_ARENA_MAX=1"
    assert Setting.parse("trim_calls=1000 default").trim_calls == 1000
    with pytest.raises(pa.ArgumentError, match="NAME=VALUE"):
        Setting.parse("arena_max")


def test_a_library_that_ignores_a_setting_is_found_out() -> None:
    """What a generation does not read from its environment is not offered for it."""
    assert is_known(Setting.parse("tcache_count=0"), "glibc-2.36", 8)
    assert not is_known(Setting.parse("tcache_count=0"), "glibc-2.23", 8)
    assert not is_known(Setting.parse("mxfast=0"), "glibc-2.23", 8)
    assert is_known(Setting.parse("arena_max=1"), "glibc-2.23", 8)
    assert not is_known(Setting((("no_such_thing", 1),)), "glibc-2.36", 8)
    with pytest.raises(ArgumentError, match="no setting"):
        Setting.parse("no_such_thing=1")
    assert version_of("glibc-2.3.3") == (2, 3, 3)
    assert version_of("best-fit") == ()
