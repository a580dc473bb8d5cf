"""What the command line says of words that are wrong, and how its pages of help look."""

from __future__ import annotations

import errno
import fcntl
import itertools
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import pyalloc as pa
from pyalloc.cli import main
from pyalloc.cli.app import VERBS
from pyalloc.cli.verify import PARTS

SCRIPT = Path(sys.executable).with_name("pyalloc")
RAN = "touch ran-all-the-same"
PAGES = (*((verb,) for verb in VERBS), *(("verify", part) for part in PARTS))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a trace, what is none, and nothing else."""
    monkeypatch.chdir(tmp_path)
    pa.workload("random", count=2000, live=100).write("t.parquet")
    Path("junk").write_bytes(bytes(range(128, 256)) * 40)
    Path("empty").touch()
    Path("cut.parquet").write_bytes(Path("t.parquet").read_bytes()[:1000])
    Path("folder").mkdir()
    return tmp_path


def refused(capfd: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return the one line with which bad input is refused."""
    assert main(arguments) == 2
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("pyalloc: ")
    assert captured.err.count("\n") == 1
    return captured.err


@pytest.mark.parametrize(
    "verb",
    [
        "replay",
        "explain",
        "leaks",
        "blame",
        "advise",
        "fit",
        "order",
        "report",
        "compare",
        "convert",
    ],
)
@pytest.mark.parametrize(("file", "words"), [
    ("none.parquet", "none.parquet: No such file"), ("empty", "empty: the file is empty"),
    ("cut.parquet", "cut.parquet: truncated"), ("junk", "junk: not a trace"),
    ("folder", "folder: Is a directory"), ("lfo", "did you mean lifo"), ("", "no file"),
])  # fmt: skip
@pytest.mark.usefixtures("here")
def test_files_that_are_no_traces(
    verb: str, file: str, words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Of every command that takes a trace: what, where, and nothing is written."""
    if verb == "convert" and file in ("lfo", ""):
        pytest.skip("takes files only")
    before = sorted(Path().rglob("*"))
    more = {"explain": ["--at", "0"], "convert": ["new.parquet"], "report": ["-o", "new.html"]}
    assert words in refused(capfd, verb, file, *more.get(verb, []))
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize(("arguments", "words"), [
    ("replay", "replay needs FILE (see pyalloc replay --help)"),
    ("replay t.parquet more", "replay takes no 'more' (see pyalloc replay --help)"),
    ("replay t.parquet --alocator x", "--allocator?"),
    ("replay t.parquet --sites -1", "--sites must be 0 or more (got -1)"),
    ("replay t.parquet --sites nan", "--sites"),
    ("replay t.parquet --format parque", "did you mean parquet"),
    ("replay t.parquet --tunable mmap_treshold=1", "did you mean mmap_threshold"),
    ("replay t.parquet --tunable mmap_threshold=-1", "mmap_threshold"),
    ("replay t.parquet --allocator jemalloc", "there are"),
    ("explain t.parquet", "explain needs --at"),
    ("explain t.parquet --at -1", "--at must be 0 or more"),
    ("explain t.parquet --at 2000", "there is no call 2000"),
    ("blame t.parquet --tries -1", "--tries must be 0 or more"),
    ("advise t.parquet --slower nan", "--slower must be a number, 0 or more"),
    ("advise t.parquet --slower inf", "--slower must be a number"),
    ("advise t.parquet -s mmap_treshold=1", "did you mean mmap_threshold"),
    ("advise t.parquet --plot nowhere/a.svg", "there is no folder nowhere"),
    ("compare t.parquet t.parquet --at-most nan", "--at-most must be a number"),
    ("order t.parquet --seed -1", "--seed must be 0 or more"),
    ("order t.parquet --order junk", "a list of row numbers"),
    ("order t.parquet --order lfo", "did you mean lifo"),
    ("order t.parquet --best t.parquet", "t.parquet is there already"),
    ("fit t.parquet --ram 0", "ram must be more"),
    ("fit t.parquet --ram x", "'256M'"),
    ("fit t.parquet --ram 99999T", "ram must be less than 16.0 TiB"),
    ("fit t.parquet --swap 99999T", "swap must be less than 16.0 TiB"),
    ("fit t.parquet --limit cgrup", "did you mean cgroup"),
    ("fit fork-bom", "did you mean fork-bomb"),
    ("report t.parquet -o folder", "it is a folder"),
    ("convert t.parquet t.parquet", "is there already"),
    ("convert t.parquet new --to mtrac", "did you mean mtrace"),
    ("simulate fork-bomb --seed -1", "--seed must be 0 or more"),
    ("simulate fork-bomb --samples 0", "--samples must be 1 or more"),
    ("simulate fork-bomb --set machine.ram=99999T", "ram must be less than 16.0 TiB"),
    ("simulate junk", "junk: not a text"),
    ("verify malloc --seed -1", "--seed must be 0 or more"),
    ("verify nothing", "verify takes no 'nothing'"),
    ("workload lifo:cuont=3", "did you mean count"),
    ("replay lifo:count=-3", "count of workload lifo must be a whole number"),
    ("replay lifo:count=99999999999999999", "(got 99999999999999999)"),
    ("sweep lifo --by peek_held", "did you mean peak_held"),
])  # fmt: skip
@pytest.mark.usefixtures("here")
def test_words_that_are_wrong_are_told_in_a_line(
    arguments: str, words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert words in refused(capfd, *arguments.split())


@pytest.mark.parametrize("arguments", [
    "run --allocator x", "run -o nowhere/x", "record -o nowhere/x", "advise -s x=1",
    "advise --plot nowhere/a.svg", "fit -l x", "fit -l cgroup --at x", "order --order x",
    "order --tunable x=1", "order --best nowhere/x", "compare --allocator x", "blame --at x",
    "leaks --allocator x", "explain --at 0 --allocator x", "report -o nowhere/x", "run --sites -1",
])  # fmt: skip
def test_a_command_is_not_run_for_an_option_that_is_wrong(
    arguments: str, here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A recording may take an hour: what can be told before it is told before it."""
    refused(capfd, *arguments.split(), "--", "sh", "-c", RAN)
    assert not (here / RAN.split()[1]).exists()


@pytest.mark.usefixtures("here")
def test_points_of_a_sweep_that_cannot_be_run_are_an_answer(
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert main(["sweep", "lifo:count=100", "--allocator", "glibc-2.36,nothing"]) == 1
    assert main(["sweep", "folder"]) == 1
    assert "folder: Is a directory" in capfd.readouterr().out


@pytest.mark.parametrize("page", PAGES, ids=" ".join)
def test_every_page_of_help_flows_and_says_what_the_command_does(
    page: tuple[str, ...], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No text breaks before the panel's edge but at its end, and no default says nothing."""
    monkeypatch.setenv("COLUMNS", "100")
    assert main([*page, "--help"]) == 0
    out = capfd.readouterr().out
    assert out.startswith(f"Usage: pyalloc {' '.join(page)}")
    assert "ARGS" not in out
    assert not re.search(r"\[default: (False|None|\"\"|\(\))", out)
    texts = [line for line in out.splitlines() if line.startswith("│")]
    for line, after in itertools.pairwise(texts):
        if re.match(r"│ {12,}\S", after):  # goes on
            room = len(line) - 1 - len(line[:-1].rstrip())
            assert room <= len(after.split()[1]) + 2, (line, after)


@pytest.mark.usefixtures("here")
def test_nobody_reading_any_more_is_no_answer() -> None:
    """``pyalloc ... | head -1`` ends with 0 and says nothing."""
    command = f"{SCRIPT} replay t.parquet; echo $? >&2"
    done = subprocess.run(
        ["sh", "-c", f"({command}) | head -c 1"], capture_output=True, text=True, check=True
    )
    assert done.stderr == "0\n"


def run_in_shell(command: str) -> tuple[int, str]:
    """Exit code and stderr of a shell's command, with output buffered as it is by default."""
    buffered = {name: text for name, text in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(
        ["sh", "-c", command], capture_output=True, text=True, check=False, env=buffered
    )
    return done.returncode, done.stderr


@pytest.mark.usefixtures("here")
def test_an_output_that_is_full_or_closed_is_told_or_borne() -> None:
    """A full disk is named; a closed descriptor is not given to a file of ours."""
    full = (2, "pyalloc: standard output: No space left on device\n")
    for command in ("replay t.parquet", "replay t.parquet --json", "--help", "allocators"):
        assert run_in_shell(f"{SCRIPT} {command} >/dev/full") == full
    assert run_in_shell(f"{SCRIPT} replay t.parquet >&-") == (0, "")
    assert run_in_shell(f"{SCRIPT} replay none.parquet 2>&-") == (2, "")
    assert run_in_shell(f"{SCRIPT} record -o new.parquet -- true <&- >&- 2>&-") == (0, "")
    assert pa.read_trace("new.parquet").info.command == ("true",)
    assert run_in_shell(f"{SCRIPT} --help | head -c 1 >/dev/null") == (0, "")


@pytest.mark.usefixtures("here")
def test_a_file_that_cannot_be_finished_is_named_and_not_left(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a disk that is full."""

    def full(_: int, __: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("pyalloc.trace.parquet.write", full)
    before = sorted(Path().iterdir())
    assert "new.parquet: No space left" in refused(capfd, "convert", "t.parquet", "new.parquet")
    assert sorted(Path().iterdir()) == before


@pytest.mark.usefixtures("here")
def test_two_sweeps_do_not_work_in_one_folder(capfd: pytest.CaptureFixture[str]) -> None:
    sweep = ["sweep", "lifo:count=100", "--seed", "1..3", "--workers", "1", "-o", "kept"]
    assert main(sweep) == 0
    capfd.readouterr()
    with Path("kept/_sweep.json").open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert "another process is at work" in refused(capfd, *sweep)
    assert main(sweep) == 0


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
@pytest.mark.usefixtures("here")
def test_an_encoding_that_lacks_a_character_stops_nothing(encoding: str) -> None:
    """The plus-minus sign of a study, the bytes of a file's name that are no text."""
    env = os.environ | {"PYTHONIOENCODING": encoding}
    command = [SCRIPT, "order", "t.parquet", "--search", "0", "--repeats", "2"]
    done = subprocess.run(command, env=env, capture_output=True, check=True)
    assert b"lifo" in done.stdout
    odd = subprocess.run(
        [SCRIPT, "replay", b"\xff.parquet"], env=env, capture_output=True, check=False
    )
    assert odd.returncode == 2
    assert b"No such file" in odd.stderr
    assert b"Traceback" not in odd.stderr


@pytest.mark.usefixtures("here")
def test_lines_of_a_pipe_do_not_end_with_blanks(capfd: pytest.CaptureFixture[str]) -> None:
    for command in (["replay", "t.parquet"], ["allocators"], ["workload"], ["order", "--list"]):
        assert main(command) == 0
        assert not re.search(r" \n", capfd.readouterr().out)


@pytest.mark.usefixtures("here")
def test_an_interrupt_ends_quietly_and_leaves_nothing() -> None:
    """Of a command that is under way: exit code 130, no words, no half-written file."""
    before = sorted(Path().iterdir())
    os.mkfifo("pipe")
    # a job in the background ignores the signal, and so would what it starts
    run = "import signal, sys; signal.signal(2, signal.default_int_handler);"
    run += "from pyalloc.cli import main; sys.exit(main(['convert', 'pipe', 'out.parquet']))"
    under_way = subprocess.Popen([sys.executable, "-c", run], stderr=subprocess.PIPE)
    with under_way, Path("pipe").open("wb"):  # opens when the command reads
        under_way.send_signal(signal.SIGINT)
        assert under_way.communicate(timeout=60)[1] == b""
    assert under_way.returncode == 130
    Path("pipe").unlink()
    assert sorted(Path().iterdir()) == before


@pytest.mark.usefixtures("here")
def test_a_format_is_what_the_name_ends_with(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", "t.parquet", "new.mtrace", "--json"]) == 0
    assert json.loads(capfd.readouterr().out) == {"path": "new.mtrace", "calls": 2000}
    assert Path("new.mtrace").read_bytes().startswith(b"= Start")


def test_a_page_of_a_command_and_of_a_workload(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", "lifo:count=100,live=5", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["path"] == "lifo.html"
    assert main(["report", "--", "/bin/true"]) == 0
    assert "wrote true.html" in capfd.readouterr().out
    assert (here / "true.html").read_text(encoding="utf-8").startswith("<!doctype html>")
