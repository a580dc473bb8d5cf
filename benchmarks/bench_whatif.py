"""How long does a what-if take, and is it true?

Twenty settings tried on a trace of a million calls, on one core; who is to blame in it, beyond its
replay; and real programs run under the default and under the setting that was advised, their
measured peak beside the predicted one.

Times are the processor's, not the clock's: the trials are meant for one core.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from _figures import Figure, Figures

import pyalloc as pa
from pyalloc.host.compile import CompilerMissing, compiler
from pyalloc.lab.advise.verify import verify

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_benchmark.fixture import BenchmarkFixture

CALLS = 1_000_000
TRACES = {
    "larson": "larson:operations=600000",
    "random": "random:count=500000,live=10000,sizes=1-4000",
    "fifo": "fifo:count=500000,live=10000,sizes=1-4000",
    "heavy tail": "bursts:sizes=pareto:1.2:16-1M,count=500000,live=10000",
}
SETTINGS = (
    *(f"mmap_threshold={value}" for value in ("64K", "256K", "1M", "32M")),
    *(f"trim_threshold={value}" for value in ("64K", "1M", "16M")),
    *(f"top_pad={value}" for value in ("0", "1M", "16M")),
    *(f"tcache_count={value}" for value in (0, 2, 32)),
    *(f"arena_max={value}" for value in (1, 2)),
    "mxfast=0",
    "mmap_threshold=64K arena_max=1",
    "mmap_threshold=64K tcache_count=0",
    "trim_threshold=64K tcache_count=0",
)  # and the default
SECONDS_OF_20 = 2.0
SECONDS_OF_BLAME = 1.0
PERCENT = 5.0
SITES = 40
ROUNDS = 3
PROGRAMS = Path(__file__).parent.parent / "tests" / "programs"


@cache
def trace_of(name: str) -> pa.Trace:
    """Return a million calls, from forty call sites."""
    trace = pa.workload(TRACES[name])[:CALLS]
    site = (np.arange(len(trace)) % SITES + 1).astype(np.uint32)
    return pa.Trace({**trace.columns, "site": site})


def least(task: Callable[[], object]) -> float:
    """Return the least processor seconds of a few runs."""
    found = []
    for _ in range(ROUNDS):
        began = time.process_time()
        task()
        found.append(time.process_time() - began)
    return min(found)


@pytest.mark.parametrize("name", TRACES)
def test_twenty_settings(name: str, benchmark: BenchmarkFixture, figures: Figures) -> None:
    trace = trace_of(name)
    found = benchmark.pedantic(lambda: pa.advise(trace, SETTINGS, workers=1), rounds=1)
    assert len(found.trials) == len(SETTINGS) + 1
    if benchmark.disabled:
        return
    seconds = least(lambda: pa.advise(trace, SETTINGS, workers=1)) * CALLS / len(trace)
    what = f"20 settings, a million calls, {name}"
    figures.add(benchmark, Figure(what, seconds, "s", SECONDS_OF_20, at_most=True))


@pytest.mark.parametrize("name", TRACES)
def test_blame(name: str, benchmark: BenchmarkFixture, figures: Figures) -> None:
    trace = trace_of(name)
    assert benchmark.pedantic(lambda: pa.blame(trace), rounds=1).culprits
    if benchmark.disabled:
        return
    replay = least(lambda: pa.replay(trace, touch="write", samples=0))
    more = (least(lambda: pa.blame(trace)) - replay) * CALLS / len(trace)
    what = f"blame beyond its replay, a million calls, {name}"
    figures.add(benchmark, Figure(what, more, "s", SECONDS_OF_BLAME, at_most=True))


def compiled(name: str, folder: Path) -> list[str]:
    try:
        command = compiler()
    except CompilerMissing as error:
        pytest.skip(str(error))
    program = str(folder / name)
    source = str(PROGRAMS / f"{name}.c")
    subprocess.run([command, "-O1", "-o", program, source, "-pthread"], check=True)
    return [program]


def sorting(folder: Path) -> list[str]:
    text = folder / "lines.txt"
    drawn = np.random.default_rng(1).integers(1 << 60, size=400_000)
    text.write_text("\n".join(map(str, drawn)), encoding="ascii")
    return [found("sort"), "--parallel=2", "-S", "20M", "-o", str(folder / "sorted"), str(text)]


def database(_: Path) -> list[str]:
    words = (
        "create table t(a, b); with recursive c(x) as (select 1 union all select x + 1 from c where"
        " x < 100000) insert into t select x, hex(randomblob(20)) from c; create index i on t(b);"
        " select count(*) from t a join t b on a.b = b.b;"
    )
    return [found("sqlite3"), ":memory:", words]


def script(_: Path) -> list[str]:
    words = (
        "import json; d = [{str(i): [i] * 10} for i in range(60000)]; s = json.dumps(d); del d;"
        " json.loads(s)"
    )
    return [found("python3"), "-c", words]


def found(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"no {name} here")
    return path


REAL = {
    "threads": lambda folder: compiled("threads", folder),
    "server": lambda folder: compiled("server", folder),
    "sort, two threads": sorting,
    "sqlite3": database,
    "python3": script,
}


@pytest.mark.parametrize("name", REAL)
def test_a_predicted_peak_is_the_measured_one(
    name: str, tmp_path: Path, benchmark: BenchmarkFixture, figures: Figures
) -> None:
    command = REAL[name](tmp_path)
    recorded = next(r for r in pa.record(command, tmp_path / "t.parquet") if r.main)
    advice = benchmark.pedantic(pa.advise, (recorded.trace(),), rounds=1)
    checked = verify(advice, command, runs=1 if benchmark.disabled else ROUNDS)
    assert all(run.exit_code == 0 for check in checked.checks for run in check.runs)
    if benchmark.disabled:
        return
    for check in checked.checks:
        off = 100 * abs(check.error)
        what = f"peak of {name}, {check.trial.setting.name}"
        real, model = (
            f"{size / 2**20:.1f} MiB" for size in (check.measured_peak, check.predicted_peak)
        )
        figures.add(
            benchmark, Figure(what, off, "% off", PERCENT, at_most=True, real=real, model=model)
        )
