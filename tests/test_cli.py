"""The command line: exit codes, one line of error, JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pyalloc.cli import main


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("cli") / "ls.parquet"
    assert main(["record", "-o", str(file), "--", "ls", "-l", "/"]) == 0
    return file


def test_a_recorded_program_replays_at_its_own_addresses(
    trace: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["replay", str(trace), "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert found["agreement"]["first"] is None
    assert found["agreement"]["equal"] > 20
    peak = found["peak"]
    kinds = ("requested", "overhead", "tcache", "fast", "unsorted", "small", "large", "top")
    assert peak["overhead"] == peak["header"] + peak["alignment"] + peak["own"]
    assert set(found["heap_at_peak"]) == set(found["heap_at_end"])
    assert sum(peak[kind] for kind in kinds) == peak["held"]


def test_run_reports_on_the_command_and_leaves_its_output_alone(
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert main(["run", "--", "sh", "-c", "echo its own words"]) == 0
    out = capfd.readouterr().out
    assert out.startswith("its own words\n")
    assert "simulated addresses equal the recorded ones" in out
    assert "malloc_trim(0) would give back" in out


def test_json_is_alone_on_standard_output(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--json", "--", "sh", "-c", "echo noise"]) == 0
    captured = capfd.readouterr()
    assert json.loads(captured.out)["errors"] == []
    assert "noise" in captured.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run"], "no command"),
        (["run", "--", "no-such-command-here"], "not found"),
        (["replay", "/nonexistent"], "No such file"),
        (["replay", "/etc/passwd"], "not a trace"),
        (["replay", "larsen"], "did you mean larson"),
        (["workload", "larsen"], "did you mean larson"),
        (["workload", "larson:treads=1"], "threads"),
        (["workload", "-o", "x"], "which workload"),
        (["nonsense"], "nonsense"),
        (["run", "--allocator", "glibc-9", "--", "true"], "glibc-2.36"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: list[str], words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert words in captured.err


def test_a_workload_is_listed_explained_and_written(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["workload", "--json"]) == 0
    names = [each["name"] for each in json.loads(capfd.readouterr().out)]
    assert "larson" in names
    assert main(["workload", "larson"]) == 0
    assert "Threads at a time" in capfd.readouterr().out
    file = tmp_path / "w.parquet"
    assert main(["workload", "fifo:count=50,live=5", "-o", str(file), "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["calls"] == 50
    assert main(["workload", "fifo:count=50,live=5", "-o", str(file)]) == 2
    assert "is there already" in capfd.readouterr().err
    assert main(["replay", str(file), "--json"]) == main(["replay", "fifo:count=50,live=5"]) == 0


def test_a_tunable_that_is_none_is_refused(trace: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(trace), "--tunable", "mmap_treshold=1"]) == 2
    assert "no tunable" in capfd.readouterr().err


def test_the_installed_command_works() -> None:
    script = Path(sys.executable).with_name("pyalloc")
    done = subprocess.run([script, "allocators"], capture_output=True, text=True, check=True)
    assert "glibc-2.36" in done.stdout
