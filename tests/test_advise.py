"""Advise: what settings would come to, and whether reality agrees."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

import pyalloc as pa
from pyalloc.cli import main
from pyalloc.host import proc
from pyalloc.host.measure import CommandError, measure
from pyalloc.lab.advise import Advice, advise
from pyalloc.lab.advise.search import is_inert, single_settings
from pyalloc.lab.advise.verify import verify
from pyalloc.lab.prices import Prices
from pyalloc.lab.setting import Setting
from pyalloc.lab.trial import Trials
from pyalloc.report.advice import plot, render, shown
from pyalloc.workload.streams import stream

PROGRAMS = Path(__file__).parent / "programs"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """The test programs, as commands."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("programs")
    commands = {"words": [sys.executable, str(PROGRAMS / "words.py")]}
    for name in ("threads", "server"):
        target = folder / name
        source = str(PROGRAMS / f"{name}.c")
        subprocess.run([compiler, "-O0", "-g", "-o", target, source, "-lpthread"], check=True)
        commands[name] = [str(target)]
    return commands


def recorded(command: list[str], folder: Path) -> pa.Trace:
    found = pa.record(command, folder / "trace.parquet", force=True)
    return next(r for r in found if r.main).trace()


# --- reality


@pytest.mark.parametrize(
    ("name", "settings", "memory", "slower"),
    [
        ("words", ["mmap_threshold=128K"], "peak", 1.0),
        ("threads", ["mmap_threshold=64K"], "peak", 10.0),
        ("server", ["tcache_count=0", "mmap_threshold=64K"], "end", 10.0),
    ],
)
def test_the_predicted_peak_is_within_five_percent(
    name: str,
    settings: list[str],
    memory: str,
    slower: float,
    built: dict[str, list[str]],
    tmp_path: Path,
) -> None:
    """Three real programs, one of them threaded, have the peak that was foretold of them."""
    command = built[name]
    found = advise(recorded(command, tmp_path), settings, memory=memory, slower=slower)
    checked = verify(found, command, runs=1 if name == "server" else 2)
    assert checked.holds, checked.to_dict()
    assert len(checked.checks) == 2
    for check in checked.checks:
        assert check.predicted_end == pytest.approx(check.measured_end, rel=0.25, abs=1 << 20)


def test_threads_really_save_half_their_memory(built: dict[str, list[str]], tmp_path: Path) -> None:
    """The search finds a setting under which the threaded program's real peak is halved."""
    found = advise(recorded(built["threads"], tmp_path), slower=10)
    checked = verify(found, built["threads"], runs=1)
    default, best = checked.checks
    assert best.measured_peak < 0.6 * default.measured_peak


def test_a_program_of_several_threads_is_recorded_thrice(
    built: dict[str, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is verified and kept is the recording with the median peak."""
    kept = tmp_path / "kept.parquet"
    words = ["advise", "--verify", "--runs", "1", "-o", str(kept), "-s", "arena_max=1", "--"]
    assert main([*words, *built["threads"]]) in (0, 1)
    assert "the median of 3 recordings" in capsys.readouterr().out
    trace = pa.read_trace(kept)
    assert trace.info.measured is not None


def test_a_look_that_comes_late_does_not_hide_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who looks meanwhile may be held up between reading and noting."""
    status = proc.status

    def slowly(pid: int) -> proc.Fields:
        fields = status(pid)
        if threading.current_thread() is not threading.main_thread():
            time.sleep(0.5)
        return fields

    monkeypatch.setattr(proc, "status", slowly)
    code = "import time; b = bytearray(40 << 20); time.sleep(0.2); del b"
    run = measure([sys.executable, "-c", code])
    assert run.exact
    assert run.peak_rss > run.final_rss + (30 << 20)


def test_a_run_is_measured_to_its_very_end() -> None:
    """VmHWM includes a block that is touched and freed just before the end."""
    code = "b = bytearray(40 << 20); del b"
    run = measure([sys.executable, "-c", code])
    plain = measure([sys.executable, "-c", ""])
    assert run.exact
    assert run.exit_code == 0
    assert run.peak_rss - plain.peak_rss == pytest.approx(40 << 20, rel=0.02)
    assert run.final_rss == pytest.approx(plain.final_rss, abs=4 << 20)


def test_a_run_says_how_it_ended() -> None:
    """Exit codes, signals, lateness and absence are told apart."""
    assert measure(["sh", "-c", "exit 3"]).exit_code == 3
    assert measure(["sh", "-c", "kill -TERM $$"]).signal == 15
    with pytest.raises(CommandError, match=r"not done after 0\.2 seconds"):
        measure(["sleep", "20"], timeout=0.2)
    with pytest.raises(CommandError, match="No such file"):
        measure(["/nonexistent/program"])


# --- judging


@pytest.fixture(scope="module")
def mixed() -> pa.Trace:
    return stream("random", "log:1-1M", count=5000, live=300, seed=2)


@pytest.fixture(scope="module")
def advice(mixed: pa.Trace) -> Advice:
    return advise(mixed, slower=1.0)


def test_the_front_is_what_nothing_beats(advice: Advice) -> None:
    """A trial is on the front exactly if no other has less of the one and no more of the other."""
    front = {id(t) for t in advice.front}
    for trial in advice.trials:
        beaten = any(
            (o.peak <= trial.peak and o.work < trial.work)
            or (o.peak < trial.peak and o.work <= trial.work)
            for o in advice.trials
        )
        assert not (beaten and id(trial) in front)
        alike = any((f.peak, f.work) == (trial.peak, trial.work) for f in advice.front)
        assert beaten or alike


def test_the_best_setting_is_no_dearer_than_allowed(mixed: pa.Trace) -> None:
    """What may be spent decides; with nothing to spend, work does not rise."""
    free = advise(mixed, slower=0.0)
    assert free.best.work <= free.default.work
    rich = advise(mixed, slower=100.0)
    assert rich.best.peak < free.best.peak
    assert rich.best.line.startswith("GLIBC_TUNABLES=glibc.malloc.")
    assert rich.saved == rich.default.peak - rich.best.peak


def test_what_is_called_inert_changes_nothing(mixed: pa.Trace) -> None:
    """Every setting that is taken to run as the default does, really does."""
    small = stream("bursts", "1-3000", count=20_000, live=4000, seed=5)
    found = 0
    for trace in (mixed, small, pa.workload("larson:threads=3,operations=500,generations=2")):
        trials = Trials(trace)
        default = trials.run(Setting())
        more = [
            Setting.parse(s)
            for s in ("mmap_threshold=9M", "trim_threshold=200K", "top_pad=128K", "arena_max=64")
        ]
        for setting in [*single_settings(trials, default), *more]:
            if is_inert(setting, trials, default):
                found += 1
                real = trials.run(setting)
                for name in ("peak_rss", "final_rss", "peak_held", "faults", "steps", "brk"):
                    assert getattr(real, name) == getattr(default, name), setting
                assert np.array_equal(real.timeline["rss"], default.timeline["rss"])
    assert found > 8


def test_the_default_is_what_the_environment_says(mixed: pa.Trace) -> None:
    """A recording made under settings of its own is compared with those."""
    info = pa.TraceInfo(tunables={"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=65536"})
    pinned = pa.Trace(mixed.columns, info)
    found = advise(pinned, ["mmap_threshold=64K", "tcache_count=0"])
    plain = advise(mixed, ["mmap_threshold=64K"])
    by_name = {t.setting.name: t for t in found.trials}
    assert by_name["default"].peak == by_name["mmap_threshold=64K"].peak
    assert by_name["default"].peak == plain.trials[0].peak != plain.default.peak
    assert by_name["tcache_count=0"].line == (
        "GLIBC_TUNABLES=glibc.malloc.mmap_threshold=65536:glibc.malloc.tcache_count=0"
    )


def test_old_libraries_get_old_variables(mixed: pa.Trace) -> None:
    """Before 2.26 there are no tunables, only variables, and no tcache to tune."""
    found = advise(mixed, allocator="glibc-2.12", slower=100.0)
    assert found.best.line.startswith("MALLOC_")
    assert not any("tcache" in t.setting.name for t in found.trials)


def test_prices_decide_what_work_is(mixed: pa.Trace) -> None:
    """Work is the stated price of what was counted, and nothing else."""
    only_faults = Prices(0, 0, 0, 1, 0, 0, 0, 0, 0, 0)
    found = advise(mixed, ["tcache_count=0"], prices=only_faults)
    assert found.default.work == found.default.outcome.faults


def test_bad_input_is_one_line(mixed: pa.Trace) -> None:
    """Too short, not a glibc, no such setting, nothing measured: each says so."""
    with pytest.raises(pa.ArgumentError, match="10 calls are too few"):
        advise(mixed[:10])
    with pytest.raises(pa.ArgumentError, match="settings of best-fit are not known"):
        advise(mixed, allocator="best-fit")
    with pytest.raises(pa.ArgumentError, match="no setting 'speed'"):
        advise(mixed, ["speed=3"])
    with pytest.raises(pa.ArgumentError, match="memory must be"):
        advise(mixed, memory="middle")
    with pytest.raises(pa.ArgumentError, match="no measured memory"):
        verify(advise(mixed, ["mxfast=0"]), ["true"])
    broken = pa.Trace.from_arrays([0] * 40 + [3, 3], [0] * 42, [2000] * 42)
    with pytest.raises(pa.ArgumentError, match="does not run to its end: double free"):
        advise(broken)


# --- what people see


def test_the_report_fits_a_terminal(advice: Advice) -> None:
    """Each line of the table is at most 100 columns, and the best setting is among its rows."""
    from rich.console import Console  # noqa: PLC0415 - only here

    console = Console(width=100, record=True, file=None, quiet=False)
    with console.capture() as captured:
        console.print(render(advice))
    lines = captured.get().splitlines()
    assert max(map(len, lines)) <= 100
    assert advice.best in shown(advice)
    assert sum(" ms " in line or " us " in line for line in lines) <= 24


def test_the_plot_is_svg_with_every_trial(advice: Advice) -> None:
    """Each trial that is not a copy of the default is a circle inside the picture."""
    root = ET.fromstring(plot(advice))  # noqa: S314 - our own text
    circles = [e for e in root.iter() if e.tag.endswith("circle")]
    assert len(circles) == sum(not t.same or t is advice.default for t in advice.trials)
    for circle in circles:
        assert 0 < float(circle.get("cx", "")) < 860
        assert 0 < float(circle.get("cy", "")) < 520


def test_the_command_line_gives_json_and_a_plot(
    mixed: pa.Trace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """advise FILE --json has every trial; --plot writes the picture; wrong words give one line."""
    file, picture = tmp_path / "t.parquet", tmp_path / "p.svg"
    mixed.write(file)
    assert main(["advise", str(file), "-s", "top_pad=1M", "--json", "--plot", str(picture)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {t["setting"] for t in found["trials"]} == {"default", "top_pad=1M"}
    assert picture.read_text().startswith("<svg")
    for words, text in (
        (["advise"], "give a trace FILE"),
        (["advise", str(file), "again"], "give one FILE"),
        (["advise", str(file), "--plot", "p.png"], "ends with .svg"),
        (["advise", str(file), "--verify"], "which command"),
        (["advise", str(tmp_path / "none.parquet")], "No such file"),
        (["advise", str(file), "-s", "nonsense"], "NAME=VALUE"),
    ):
        assert main(words) == 2
        assert text in capsys.readouterr().err
