"""Sweeps: the points of a plan, the same rows whoever runs them, nothing lost on the way."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from arro3.core import Table

import pyalloc as pa
from pyalloc.cli import main
from pyalloc.errors import ArgumentError, TraceError
from pyalloc.lab.sweep import plan
from pyalloc.lab.sweep.parameters import axis
from pyalloc.lab.sweep.point import run_job
from pyalloc.lab.sweep.run import jobs, run
from pyalloc.workload.catalogue import WORKLOADS
from pyalloc.workload.streams import stream

SMALL = "bursts:count=600,live=60"
GRID = {"allocator": "glibc-2.36,glibc-2.12", "top_pad": "0,64K", "seed": "1..3"}


def rows(found: pa.Sweep) -> list[dict[str, Any]]:
    """Return every row but the time it took."""
    return [{k: v for k, v in row.items() if k != "seconds"} for row in found.rows()]


# --- values


@pytest.mark.parametrize(
    ("name", "text", "values"),
    [
        ("mmap_threshold", "64K,1M", (65536, 1 << 20)),
        ("seed", "1..5", (1, 2, 3, 4, 5)),
        ("seed", "1..10..4", (1, 5, 9)),
        ("seed", "7,1..3,2", (7, 1, 2, 3)),
        ("top_pad", "64K..1M*4", (65536, 262144, 1 << 20)),
        ("multiplier", "0.1,0.5", (0.1, 0.5)),
        ("multiplier", "0..0.3..0.1", (0.0, 0.1, 0.2, 0.3)),
        ("sizes", "1-64,pow:16-64K", ("1-64", "pow:16-64K")),
        ("kernel", "2.6.18,6.18", ("2.6.18", "6.18")),
        ("ram", "1G", (1 << 30,)),
        ("huge_pages", "true,no", (True, False)),
        ("allocator", ["glibc-2.36"], ("glibc-2.36",)),
        ("seed", range(3), (0, 1, 2)),
        ("seed", np.array([4, 4, 5]), (4, 5)),
        ("seed", 9, (9,)),
    ],
)
def test_values_are_written_as_text_or_given(name: str, text: object, values: tuple[Any]) -> None:
    found = axis(name, text, [WORKLOADS["litter"], WORKLOADS["random"]]).values
    assert list(found) == pytest.approx(values)  # type: ignore[arg-type]
    assert [type(v) for v in found] == [type(v) for v in values]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("sed", "1", "'sed'; did you mean seed"),
        ("seed", "", "'' is no value of parameter seed"),
        ("seed", [], "seed has no values"),
        ("seed", "x", "'x' is no value"),
        ("seed", 1.5, "1.5 is no value"),
        ("seed", None, "None is no value"),
        ("seed", "5..1", "no range"),
        ("seed", "1..9..0", "no range"),
        ("top_pad", "0..9*2", "FACTOR"),
        ("top_pad", "0~9:log", "no interval"),
        ("top_pad", "9~1", "no interval"),
        ("huge_pages", "perhaps", "'perhaps' is no value"),
    ],
)
def test_values_that_are_none_are_refused(name: str, text: object, words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        axis(name, text, [WORKLOADS["random"]])


# --- plans


def test_a_grid_has_every_combination_once() -> None:
    assert plan([SMALL], {"seed": "1..3"}).to_json() == plan([SMALL], {"seed": [1, 2, 3]}).to_json()
    made = plan([SMALL, "larson:seed=3"], {**GRID, "threads": "1,2"})
    points = [made.point(i) for i in range(len(made))]
    assert len(made) == 12 + 8  # a stream has no threads; the larson's seed is written
    first = {tuple(p.parameters.values()) for p in points if p.subject == 0}
    axes = ((1, 2, 3), ("glibc-2.36", "glibc-2.12"), (0, 65536))
    assert first == set(product(*axes))
    assert all("threads" not in p.parameters for p in points if p.subject == 0)
    assert all("seed" not in p.parameters for p in points if p.subject == 1)
    assert [p.number for p in points] == list(range(20))


def test_the_program_changes_least_often() -> None:
    """Points that share a trace come one after the other."""
    made = plan([SMALL], GRID)
    seeds = [made.point(i).parameters["seed"] for i in range(len(made))]
    assert seeds == sorted(seeds)


def test_a_latin_hypercube_meets_every_stratum_of_every_axis() -> None:
    made = plan([SMALL], {"top_pad": "0~1000000", "seed": "1..4"}, design="lhs", points=40)
    points = [made.point(i).parameters for i in range(40)]
    strata = np.sort([int(p["top_pad"]) * 40 // 1_000_001 for p in points])
    assert strata.tolist() == list(range(40))
    assert np.bincount([int(p["seed"]) for p in points]).tolist() == [0, 10, 10, 10, 10]


def test_a_design_by_draw_is_its_seed_s() -> None:
    def drawn(seed: int) -> list[Any]:
        live = {"live": "10~1000:log"}
        made = plan(["bursts:count=600"], live, design="random", points=9, seed=seed)
        return [made.point(i).parameters["live"] for i in range(9)]

    assert drawn(1) == drawn(1) != drawn(2)
    assert all(10 <= live <= 1000 for live in drawn(1))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: plan([], {}), "needs a program"),
        (lambda: plan([SMALL], {}, design="star"), "design must be"),
        (lambda: plan([SMALL], {}, design="lhs"), "needs a number of points"),
        (lambda: plan([SMALL], {}, design="lhs", points=0), "no points"),
        (lambda: plan([SMALL], {}, points=5), "has the points it has"),
        (lambda: plan([SMALL], {"top_pad": "1~2"}), "interval of top_pad needs a design"),
        (lambda: plan([SMALL], {"seed": "1..2000"}, most=1000), "2,000 points; at most 1,000"),
        (lambda: pa.sweep(SMALL, workers=0), "workers"),
        (lambda: pa.sweep(SMALL, dask="tcp://127.0.0.1:1", executor=object()), "not both"),
        (lambda: pa.sweep("larsen"), "did you mean larson"),
        (lambda: pa.sweep("larson:treads=2"), "no parameter 'treads'"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused_in_a_line(
    make: Callable[[], object], words: str
) -> None:
    with pytest.raises(ArgumentError, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)


# --- points


def test_a_row_is_the_summary_of_its_point() -> None:
    found = pa.sweep(SMALL, GRID, workers=1)
    assert len(found) == 12
    for row in found.rows():
        trace = pa.workload(SMALL, seed=row["seed"])
        expected = pa.replay(
            trace, row["allocator"], tunables={"top_pad": row["top_pad"]}, touch="write"
        ).summary.flat()
        assert {name: row[name] for name in expected} == expected
        assert row["error"] is row["ended"] is None


def test_machines_can_be_varied_and_may_run_dry() -> None:
    """A process that is killed is a result, with what it came to; the kernel decides when."""
    found = pa.sweep(
        "loop_malloc:count=40",
        {"ram": "16M,128M", "overcommit_memory": "0,1", "kernel": "2.6.18", "touch": "write"},
        workers=1,
    )
    table = {(r["ram"], r["overcommit_memory"]): r for r in found.rows()}
    killed = table[16 << 20, 1]
    assert killed["ended"].startswith("killed: ")
    assert killed["ended_at"] == killed["calls"] < 16
    assert killed["occupancy" if "occupancy" in killed else "pages_to_100"] is None
    assert table[16 << 20, 0]["failed"] > 20
    assert table[128 << 20, 1]["ended"] is None
    assert not found.failures


def test_failures_are_rows_and_kept_apart() -> None:
    found = pa.sweep(
        SMALL, {"allocator": "glibc-2.36,glibc-9,first-fit", "mxfast": "64"}, workers=1
    )
    assert len(found) == 3
    assert [f.parameters["allocator"] for f in found.failures] == ["glibc-9", "first-fit"]
    assert "did you mean" in found.failures[0].error
    assert found.column("peak_held")[1] is None
    assert np.isnan(found.figures("peak_held")).tolist() == [False, True, True]
    best = found.best("peak_held")
    assert best is not None
    assert best["allocator"] == "glibc-2.36"


def test_traces_and_files_are_programs_too(tmp_path: Path) -> None:
    trace = stream("lifo", count=500, live=50)
    file = tmp_path / "lifo.parquet"
    trace.write(file)
    found = pa.sweep(
        [trace, file, str(file), "lifo:count=500,live=50"], {"arch": "i386"}, workers=1
    )
    assert len(set(found.column("peak_held"))) == 1
    assert found.column("program")[1:3] == [f"{file} #2", f"{file} #3"]


def test_effects_are_means_at_each_value() -> None:
    found = pa.sweep(SMALL, {"seed": "1..6", "top_pad": "0,1M"}, workers=1)
    by_pad = {e.level: e for e in found.effects("peak_held") if e.parameter == "top_pad"}
    values = found.figures("peak_held")
    pads = np.array(found.column("top_pad"))
    assert by_pad["0"].mean.mean == pytest.approx(values[pads == 0].mean())
    assert by_pad["1048576"].points == 6
    assert by_pad["1048576"].least > by_pad["0"].most
    many = pa.sweep(SMALL, {"top_pad": "0..390..10"}, workers=1).effects("peak_held")
    assert [e.points for e in many] == [10, 10, 10, 10]


# --- who runs them


def test_whoever_runs_a_sweep_the_rows_are_the_same() -> None:
    """Here, in two processes, in threads."""
    alone = rows(pa.sweep(SMALL, GRID, workers=1))
    assert rows(pa.sweep(SMALL, GRID, workers=2)) == alone
    with ThreadPoolExecutor(3) as threads:
        assert rows(pa.sweep(SMALL, GRID, executor=threads)) == alone


@pytest.mark.filterwarnings("ignore")
def test_a_dask_cluster_runs_a_sweep() -> None:
    """A real scheduler with worker processes, by its address."""
    distributed = pytest.importorskip("distributed")
    cluster = distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        processes=True,
        host="127.0.0.1",
        dashboard_address=None,
        silence_logs=50,
    )
    try:
        trace = stream("fifo", count=400, live=40)
        found = pa.sweep([SMALL, trace], GRID, dask=cluster.scheduler_address)
    finally:
        cluster.close()
    assert rows(found) == rows(pa.sweep([SMALL, trace], GRID, workers=1))


def test_a_cluster_that_is_not_there_is_one_line() -> None:
    pytest.importorskip("distributed")
    with pytest.raises(ArgumentError, match="no Dask scheduler answers at nonsense"):
        pa.sweep(SMALL, dask="nonsense")


class Deadly(Executor):
    """An executor whose workers die of one point, each time."""

    def __init__(self, point: int) -> None:
        self.point = point
        self.broken = False

    def submit(self, fn: Any, /, job: Any) -> Future[Any]:  # type: ignore[override]
        if self.broken:
            raise BrokenProcessPool
        future: Future[Any] = Future()
        if self.point in [number for number, _ in job.points]:
            self.broken = True
            future.set_exception(BrokenProcessPool())
        else:
            future.set_result(fn(job))
        return future


def test_a_point_that_kills_its_worker_is_one_failure() -> None:
    made = plan([SMALL], {"seed": "1..40"})
    kept: list[Table] = []
    run(
        made,
        np.arange(40),
        kept.extend,
        make=lambda: Deadly(17),
        width=2,
        tell=None,
    )
    found = pa.Sweep.of(made, kept)
    assert found.column("point") == list(range(40))
    assert [failure.point for failure in found.failures] == [17]


def test_workers_that_do_not_start_are_one_line() -> None:
    made = plan([SMALL], {"seed": "1..4"})
    with pytest.raises(pa.WorkerError, match="__main__"):
        run(made, np.arange(4), print, make=lambda: Deadly(0), width=2, tell=None)


def test_jobs_are_of_one_program_and_of_the_size_asked_for() -> None:
    made = plan([SMALL, "lifo:count=9"], {"seed": "1..5"})
    sizes = iter([1, 3, 9, 2, 9])
    found = list(jobs(made, np.arange(10), lambda: next(sizes)))
    assert [[n for n, _ in job.points] for job in found] == [[0], [1, 2, 3], [4], [5, 6], [7, 8, 9]]
    assert [job.name for job in found] == [SMALL] * 3 + ["lifo:count=9"] * 2
    assert len(run_job(found[1])) == 3


# --- kept and gone on with


def test_a_sweep_goes_on_where_it_was(tmp_path: Path) -> None:
    made = plan([SMALL], GRID)
    told: list[int] = []

    class Stopped(Exception):
        pass

    def tell(_: str, done: int, __: int) -> None:
        told.append(done)
        if done >= 5:
            raise Stopped

    with pytest.raises(Stopped):
        pa.sweep(SMALL, GRID, output=tmp_path, workers=1, tell=tell)
    parts = sorted(tmp_path.glob("part-*.parquet"))
    assert parts
    told.clear()
    whole = pa.sweep(SMALL, GRID, output=tmp_path, workers=1, tell=lambda *a: told.append(a[1]))
    assert told[0] > 5
    assert rows(whole) == rows(pa.sweep(SMALL, GRID, workers=1))
    assert len(whole) == len(made)
    again = pa.sweep(SMALL, GRID, output=tmp_path, tell=lambda *_: pytest.fail("nothing to do"))
    assert rows(again) == rows(whole)


def test_failed_points_are_run_again_when_asked(tmp_path: Path) -> None:
    file = tmp_path / "late.parquet"
    file.write_text("not yet")
    arguments: tuple[Any, ...] = (str(file), {"allocator": "glibc-2.36"})
    out = tmp_path / "out"
    assert pa.sweep(*arguments, output=out, workers=1).failures
    stream("lifo", count=300, live=30).write(file)
    assert pa.sweep(*arguments, output=out, workers=1).failures
    found = pa.sweep(*arguments, output=out, workers=1, retry=True)
    assert not found.failures
    assert len(found) == 1


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    pa.sweep(SMALL, {"seed": "1,2"}, output=tmp_path / "a", workers=1)
    with pytest.raises(ArgumentError, match="holds another sweep"):
        pa.sweep(SMALL, {"seed": "1,3"}, output=tmp_path / "a", workers=1)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.tex").write_text("x")
    with pytest.raises(ArgumentError, match="no sweep, and not empty"):
        pa.sweep(SMALL, {"seed": "1,2"}, output=tmp_path / "b", workers=1)
    part = next((tmp_path / "a").glob("part-*"))
    part.write_bytes(part.read_bytes()[:-20])
    with pytest.raises(TraceError, match=r"part-000000.parquet: truncated"):
        pa.sweep(SMALL, {"seed": "1,2"}, output=tmp_path / "a", workers=1)


def children_of(pid: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            stat = (entry / "stat").read_text() if entry.name.isdecimal() else ""
        except OSError:
            continue
        if stat and int(stat.rsplit(")", 1)[1].split()[1]) == pid:
            found += [int(entry.name), *children_of(int(entry.name))]
    return found


def test_a_sweep_killed_half_way_loses_nothing(tmp_path: Path) -> None:
    """SIGKILL to the command; its workers end with it; the same command then ends the sweep."""
    program = "phases:count=100000,live=6000"
    values = ["--seed", "1..30", "--allocator", "glibc-2.36,glibc-2.31", "--workers", "2"]
    command = [sys.executable, "-P", "-c", "from pyalloc.cli import main; raise SystemExit(main())"]
    command += ["sweep", program, *values, "-o", str(tmp_path), "--json"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as under_way:
        try:
            wait_until(lambda: any(tmp_path.glob("part-*.parquet")))
            workers = children_of(under_way.pid)
        finally:
            under_way.kill()
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
    before = len(list(tmp_path.glob("part-*.parquet")))
    assert before
    done = subprocess.run(command, capture_output=True, check=True)
    found = json.loads(done.stdout)
    assert (found["done"], found["failed"]) == (60, 0)
    assert len(list(tmp_path.glob("part-*.parquet"))) > before
    kept = pa.sweep(
        program,
        {"seed": range(1, 31), "allocator": ["glibc-2.36", "glibc-2.31"]},
        output=tmp_path,
        tell=lambda *_: pytest.fail("nothing is left to do"),
    )
    last = pa.workload(program, seed=30)
    assert (
        kept.column("peak_held")[-1]
        == pa.replay(last, "glibc-2.31", touch="write").summary.peak_held
    )


def wait_until(true: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


# --- the command


def test_the_command_takes_a_plan_file_and_options(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    stream("lifo", count=300, live=30).write(tmp_path / "own.parquet")
    file = tmp_path / "plan.toml"
    file.write_text(
        'programs = ["own.parquet", "bursts:count=500,live=50"]\n'
        "[parameters]\n"
        'seed = "1..2"\n'
        'allocator = ["glibc-2.36", "glibc-2.12"]\n'
    )
    common = ["sweep", "--plan", str(file), "--top-pad", "0,64K", "--workers", "1"]
    assert main([*common, "--json", "--by", "jw1"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert found["done"] == 4 + 8
    assert found["axes"]["top_pad"] == [0, 65536]
    assert {e["parameter"] for e in found["effects"]} == {"program", "seed", "allocator", "top_pad"}
    assert main(common) == 0
    out = capfd.readouterr().out
    assert "peak_held by parameter" in out
    assert max(map(len, out.splitlines())) <= 100


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("programs = 3", "programs is a list"),
        ("program = []", "did you mean programs"),
        ("parameters = 1", "table of names"),
        ("programs = [", "plan.toml"),
    ],
)
def test_a_plan_file_that_is_none_is_refused_in_a_line(
    text: str, words: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "plan.toml"
    file.write_text(text)
    assert main(["sweep", "--plan", str(file)]) == 2
    err = capfd.readouterr().err
    assert words in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "needs a program"),
        (["larson", "--sed", "1"], "did you mean seed"),
        (["larson", "--by", "peek_held"], "did you mean peak_held"),
        (["larson", "--", "ls"], "record the command first"),
        (["larson", "--seed", "1..9000000"], "at most 1,000,000"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    arguments: Sequence[str], words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep", *arguments]) == 2
    err = capfd.readouterr().err
    assert words in err
    assert err.count("\n") == 1
