"""``pyalloc simulate``: the report, its files, its exit codes; the scenarios of the package."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest
from arro3.io import read_parquet

import pyalloc as pa
from pyalloc.cli import main

QUICK = [name for name in pa.scenarios() if name != "container-at-its-limit"]

SMALL = """\
duration = "2min"
[machine]
ram = "64M"
[[process]]
name = "leak"
program = "leak:size=1M"
[expect]
killed = ["leak"]
"""


simulated = cache(pa.simulate)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    file = tmp_path / "small.toml"
    file.write_text(SMALL)
    return file


@pytest.mark.parametrize("name", QUICK)
def test_the_scenarios_of_the_package_come_out_as_they_say(name: str) -> None:
    """Every scenario that comes with pyalloc expects something, and it happens."""
    one = pa.load_scenario(name)
    assert one.title
    assert one.description
    assert one.expect != pa.ExpectSpec()
    assert simulated(name).unmet == ()


def test_the_article_s_scenarios_give_the_article_s_figures() -> None:
    """Program A gets 3056 blocks and B 1081; A, which uses nothing, dies for B's memory."""
    notes = {
        name: [e.text for e in simulated(name).happened if e.kind == "note"]
        for name in ("article-a", "article-b")
    }
    assert notes["article-a"] == ["3,056 blocks of 1.0 MiB, then NULL"]
    assert notes["article-b"] == ["it had 1,081 blocks of 1.0 MiB"]
    assert simulated("article-a-and-b").killed == ("a", "b")


def test_the_report_says_who_died_when_and_why(
    small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The report fits 100 columns and names victim, score and time."""
    assert main(["simulate", str(small)]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 100
    assert "leak     killed: the machine is out of memory; badness" in out
    assert "Why the first of them" in out
    assert "All is as the scenario expects." in out


def test_what_is_not_as_expected_is_exit_code_1(
    small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With memory enough nobody is killed, and the answer is no."""
    assert main(["simulate", str(small), "--set", "machine.ram=1G"]) == 1
    assert "not as expected: leak should be killed" in capsys.readouterr().out


def test_events_and_timeline_are_parquet_files(small: Path, tmp_path: Path) -> None:
    """Both tables can be read back, and tell the same story."""
    events, timeline = tmp_path / "e.parquet", tmp_path / "t.parquet"
    arguments = ["simulate", str(small), "--events", str(events), "--timeline", str(timeline)]
    assert main([*arguments, "--json"]) == 0
    table = read_parquet(events).read_all()
    assert table["kind"].to_pylist() == ["start", "oom"]
    rows = read_parquet(timeline).read_all()
    memory = rows["memory"].to_pylist()
    leak = [m for m, k in zip(memory, rows["kind"].to_pylist(), strict=True) if k == "process"]
    assert leak == sorted(leak)
    assert max(leak) > 55 << 20


def test_json_has_everything_but_the_timeline(
    small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Processes, events and the machine's own words, as one value."""
    assert main(["simulate", str(small), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["killed"] == ["leak"]
    assert found["processes"][0]["how"] == "oom"
    assert found["meminfo"]["MemTotal"] == 65536


def test_list_show_check_and_schema_run_nothing(
    small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A shipped scenario can be printed and used as a file; a file can be checked alone."""
    assert main(["simulate", "--list"]) == 0
    assert "fork-bomb" in capsys.readouterr().out
    assert main(["simulate", "fork-bomb", "--show"]) == 0
    text = capsys.readouterr().out
    small.write_text(text)
    assert pa.load_scenario(small) == pa.load_scenario("fork-bomb")
    assert main(["simulate", str(small), "--check"]) == 0
    assert "nothing wrong" in capsys.readouterr().out
    assert main(["simulate", "--schema"]) == 0
    assert json.loads(capsys.readouterr().out)["$schema"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["simulate"], "which scenario?"),
        (["simulate", "forkbomb"], "did you mean fork-bomb?"),
        (["simulate", "fork-bomb", "--set", "machine.ram"], "KEY=VALUE"),
        (["simulate", "fork-bomb", "--set", "machine.rma=1G"], "did you mean ram?"),
        (["simulate", "fork-bomb", "--until", "soon"], "must be a number of seconds"),
        (["simulate", "fork-bomb", "--events", "/nowhere/e.parquet"], "no folder /nowhere"),
        (["simulate", "fork-bomb", "--timeline", "/etc/hostname"], "is there already"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever is wrong is told in a line on standard error, before anything runs."""
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert words in captured.err
