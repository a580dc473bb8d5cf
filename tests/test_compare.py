"""Compare: runs side by side tell what changed, by how much, and where."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import pyalloc as pa
from pyalloc.cli import main
from pyalloc.lab.compare import FIGURES, compare
from pyalloc.lab.setting import Setting
from pyalloc.lab.trial import Trials
from pyalloc.report.compare import signed, verdict
from pyalloc.trace.sites import SiteTable

M, F = pa.Op.MALLOC, pa.Op.FREE


def trace(big: int, small: int = 100) -> pa.Trace:
    """Blocks of 20,000 bytes of site 1, freed in the end, and small ones of site 2 that stay."""
    rows = []
    for i in range(big):
        rows += [(M, 2 * i, 20_000, 1), (M, 2 * i + 1, small, 2)]
    rows += [(F, 2 * i, 0, 1) for i in range(big)]
    op, block, size, site = zip(*rows, strict=True)
    table = SiteTable(
        modules=("", "prog"),
        module=np.array([0, 1, 1], np.uint32),
        offset=np.array([0, 0x10, 0x20], np.uint64),
    )
    made = pa.Trace.from_arrays(op, block, size, site=site)
    return pa.Trace(made.columns, pa.TraceInfo(sites=table))


def test_figures_are_those_of_a_replay() -> None:
    """Each run has what a replay of its own says, and the change is relative to the first."""
    found = compare({"before": trace(50), "after": trace(60)})
    for run, count in zip(found.runs, (50, 60), strict=True):
        summary = pa.replay(trace(count), touch="write").summary
        assert {name: run.figure(name) for name in FIGURES} == {
            name: getattr(summary, name) for name in FIGURES
        }
    assert [run.name for run in found.runs] == ["before", "after"]
    assert found.change("calls") == pytest.approx(0.2)
    assert found.change("failed") is None


def test_call_sites_that_differ_are_listed_by_how_much() -> None:
    """Ten more big blocks and none more of the small: sites by the bytes they have more."""
    found = compare([trace(50), trace(60)])
    first, second = found.sites
    assert first.site == "prog+0x10"
    assert first.at_peak == (1_000_000, 1_200_000)
    assert first.at_end == (0, 0)
    assert second.calls == (50, 60)
    assert "prog+0x10 has most more at the peak: +195.3 KiB" in verdict(found)
    assert compare([trace(50), trace(50)]).sites == ()


def test_settings_of_one_trace_are_what_trials_say() -> None:
    """A setting's run comes to the memory that advise's trial of it does."""
    calls = pa.workload("random:count=3000,live=300,sizes=1-40000")
    settings = ["default", "mmap_threshold=32K", "trim_calls=100", "allocator=glibc-2.12"]
    found = compare(calls, settings)
    for run in found.runs:
        outcome = Trials(calls).run(run.setting)
        assert (run.summary.peak_rss, run.summary.rss, run.summary.peak_held) == (
            outcome.peak_rss,
            outcome.final_rss,
            outcome.peak_held,
        )
    assert [run.name for run in found.runs[:2]] == ["default", "mmap_threshold=32K"]
    assert found.runs[3].allocator == "glibc-2.12"


def test_where_two_runs_of_a_trace_part() -> None:
    """It is the first block that the heap's end has no room for; under an idle setting none is."""
    calls = trace(30)
    differ = compare(calls, ["default", "mmap_threshold=16K"])
    assert differ.runs[0].parts_at is None
    assert differ.runs[1].parts_at == 12
    assert "Their addresses part at call 12." in verdict(differ)
    same = compare(calls, ["default", "mmap_threshold=1M"])
    assert same.runs[1].parts_at is None
    assert "All their blocks lie at the same addresses." in verdict(same)


def test_a_recording_runs_under_its_own_environment() -> None:
    """What steered malloc when it was recorded steers it here."""
    plain = pa.workload("random:count=3000,live=300,sizes=1-40000")
    steered = pa.Trace(
        plain.columns,
        pa.TraceInfo(tunables={"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=32768"}),
    )
    found = compare({"plain": plain, "steered": steered})
    alone = Trials(plain).run(Setting((("mmap_threshold", 32768),)))
    assert found.runs[1].summary.peak_held == alone.peak_held != found.runs[0].summary.peak_held


def test_changes_in_words() -> None:
    """Percent, multiples where those are many, = for none, nothing for what is not defined."""
    assert [signed(share) for share in (0.5, -0.25, 11.0, 0.0001, None)] == [
        "+50.0 %",
        "-25.0 %",
        "x 12",
        "=",
        "",
    ]


def test_nothing_to_compare_is_told() -> None:
    """One run, and a setting that the library does not take."""
    with pytest.raises(pa.ArgumentError, match="one run has nothing beside it"):
        compare(trace(5))
    with pytest.raises(pa.ArgumentError, match="no setting 'foo'"):
        compare(trace(5), ["default", "foo=3"])


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two files, many runs, JSON, and the exit code of --at-most."""
    before, after = str(tmp_path / "before.parquet"), str(tmp_path / "after.parquet")
    trace(50).write(before)
    trace(60).write(after)
    assert main(["compare", before, after]) == 0
    out = capsys.readouterr().out
    assert "before" in out
    assert "peak: resident" in out
    assert "+20.0 %" in out
    many = ["compare", before, after, "-s", "mmap_threshold=16K", "--allocator", "glibc-2.12"]
    assert main(many) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith(("before ", "after ")) for line in lines) == 6
    assert main(["compare", before, after, "--json", "--at-most", "10"]) == 1
    assert len(json.loads(capsys.readouterr().out)["runs"]) == 2
    assert main(["compare", before, after, "--at-most", "30", "--by", "held"]) == 0
    assert main(["compare", before]) == 2
    assert main(["compare"]) == 2
