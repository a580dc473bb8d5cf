"""Leaks: what grows, what is only never freed, and what is the heap's own doing."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import pyalloc as pa
from pyalloc.cli import main
from pyalloc.lab.leaks import growth, kept_by_site, leaks, live_by_site
from pyalloc.report.leaks import verdict
from pyalloc.trace.live import rows_live_after
from pyalloc.workload.streams import stream

M, F, R = pa.Op.MALLOC, pa.Op.FREE, pa.Op.REALLOC
Calls = list[tuple[int, int, int, int]]


def calls(rows: Calls, *, per_call_ns: int | None = None) -> pa.Trace:
    """A trace of (op, block, size, site) rows; times are evenly spread if asked for."""
    op, block, size, site = zip(*rows, strict=True)
    time = None if per_call_ns is None else np.arange(len(rows)) * per_call_ns
    return pa.Trace.from_arrays(op, block, size, site=site, time=time)


def service(requests: int = 400, *, leak: int = 0, cache: int = 0, tidy: bool = False) -> Calls:
    """Requests with a buffer each (site 1), that leak (site 2) and fill a cache (site 3)."""
    rows: Calls = []
    kept = []
    for i in range(requests):
        rows.append((M, 3 * i, 4000, 1))
        if leak:
            rows.append((M, 3 * i + 1, leak, 2))
            kept.append(3 * i + 1)
        if i < cache:
            rows.append((M, 3 * i + 2, 1000, 3))
        rows.append((F, 3 * i, 0, 1))
    if tidy:
        rows += [(F, block, 0, 2) for block in kept]
    return rows


def fragmenting(rounds: int = 100) -> Calls:
    """Blocks that shrink to a few bytes: the next ones, a little larger, do not fit between."""
    rows: Calls = []
    before: list[int] = []
    for k in range(rounds):
        blocks = [8 * k + i for i in range(8)]
        rows += [(M, block, 60_000 + 16 * k, 1) for block in blocks]
        rows += [(R, block, 20, 2) for block in before]
        before = blocks
    return rows


def test_a_leak_is_named_with_its_rate(tmp_path: Path) -> None:
    """The forgetful function of a real program is named, its rate is its bytes over its time."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    program = tmp_path / "leaky"
    source = str(Path(__file__).parent / "programs" / "leaky.c")
    subprocess.run([compiler, "-O0", "-g", "-o", program, source], check=True)
    real = next(r for r in pa.record([str(program)], tmp_path / "t.parquet") if r.main).trace()
    columns = {name: getattr(real, name) for name in ("op", "block", "size", "site")}
    time = np.arange(len(real), dtype=np.uint64) * 20_000  # a clock that nobody else slows down
    trace = pa.Trace({**columns, "time": time}, real.info)
    found = leaks(trace)
    assert found.kind == "leak"
    assert found.suspect is not None
    assert found.suspect.name.startswith("forget")
    assert found.suspect.blocks == 4000
    seconds = (int(trace.time[-1]) - int(trace.time[0])) / 1e9
    assert found.suspect.rate == pytest.approx(4000 * 120 / seconds, rel=0.1)
    assert {s.course for s in found.sites if s.name.startswith("copy")} <= {"once", "plateau"}
    assert verdict(found).startswith("Live memory grows: leak suspected at forget")


def test_rates_are_bytes_per_second_or_per_thousand_calls() -> None:
    """100 bytes a request of three calls: 33 KB a thousand calls; with times, by the clock."""
    rows = service(leak=100)
    by_calls = leaks(calls(rows))
    assert by_calls.unit == "1,000 calls"
    assert by_calls.suspect.rate == pytest.approx(100 / 3 * 1000, rel=0.1)
    by_time = leaks(calls(rows, per_call_ns=1_000_000))
    assert by_time.unit == "s"
    assert by_time.suspect.rate == pytest.approx(100 / 3 * 1000, rel=0.1)


def test_growth_in_a_short_run_is_said_to_say_little(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A leak seen for 12 ms may be a start-up; one seen for minutes is told as it is."""
    short, long = tmp_path / "short.parquet", tmp_path / "long.parquet"
    calls(service(leak=100), per_call_ns=10_000).write(short)
    calls(service(leak=100), per_call_ns=100_000_000).write(long)
    assert main(["leaks", str(short)]) == 0
    assert "That is 12 ms of work" in capsys.readouterr().out
    assert main(["leaks", str(long)]) == 0
    assert "of work" not in capsys.readouterr().out


def test_a_cache_that_fills_is_no_leak() -> None:
    """Memory that is never freed and stops growing is listed, not accused."""
    found = leaks(calls(service(cache=150)))
    assert found.kind == "flat"
    assert found.suspect is None
    assert {(s.site, s.course) for s in found.sites} == {(3, "plateau")}
    assert found.never_freed == 150_000


def test_what_is_freed_at_the_end_is_a_working_set() -> None:
    """Growth that the program gives back before it ends is told as such."""
    found = leaks(calls(service(leak=200, tidy=True)))
    assert found.kind == "growth"
    assert found.judged_until == pytest.approx(1200, abs=60)
    assert found.blocks == 0
    assert "freed in the end" in verdict(found)


def test_a_heap_that_grows_around_flat_live_memory_is_fragmentation() -> None:
    """Holes that never fit are no leak, and the verdict says so."""
    found = leaks(calls(fragmenting()))
    assert found.live_rate == 0
    assert found.rss_rate > 0
    assert found.kind == "fragmentation"
    assert "fragmentation, not a leak" in verdict(found)


def test_a_steady_program_is_left_alone() -> None:
    """A stream with a fixed number of live blocks grows nowhere."""
    found = leaks(stream("random", "1-4000", count=20_000, live=500, seed=4))
    assert found.kind == "flat"
    assert verdict(found).startswith("No leak")


def test_growth_is_judged_by_floors() -> None:
    """Spikes do not grow, steps and slopes do, what saturates does not, however it began."""
    x = np.arange(1000, dtype=np.float64)
    flat = np.full(1000, 10 << 20)
    assert growth(x, flat + (np.arange(1000) % 50 == 0) * (50 << 20)) == 0
    assert growth(x, flat + np.arange(1000) * 5000) == pytest.approx(5000, rel=0.1)
    assert growth(x, (flat * (1 - np.exp(-x / 150))).astype(np.int64)) == 0
    assert growth(x, flat - np.arange(1000) * 5000) == 0


def test_sites_add_up_to_what_is_live() -> None:
    """Live bytes by site sum to the live bytes, also through realloc at another site."""
    trace = calls([(M, 0, 100, 1), (R, 0, 300, 2), (M, 1, 50, 1), (R, 0, 40, 3), (F, 1, 0, 1)] * 20)
    points = np.arange(1, 101)
    live = live_by_site(trace, points)
    assert np.array_equal(live.sum(axis=0), trace.live_bytes())
    assert (live >= 0).all()
    end = rows_live_after(trace, len(trace))
    assert kept_by_site(trace, points, end)[:, -1].sum() == trace.live_bytes()[-1]


def test_input_and_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A trace too short is refused; JSON has the verdict; no sites are said to be none."""
    with pytest.raises(pa.ArgumentError, match="3 calls are too few to judge growth"):
        leaks(calls(service())[:3])
    file = tmp_path / "t.parquet"
    calls(service(leak=100)).write(file)
    assert main(["leaks", str(file), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["kind"] == "leak"
    assert data["verdict"].startswith("Live memory grows")
    stream("random", "1-100", count=500, live=50, seed=1).write(file)
    assert main(["leaks", str(file)]) == 0
    out = capsys.readouterr().out
    assert "no call sites" in out
    assert max(map(len, out.splitlines())) <= 100
