"""The article's figures: printed, simulated, and measured where this machine allows it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import pyalloc as pa
from pyalloc.cli import main
from pyalloc.host import article as host
from pyalloc.host.box import box
from pyalloc.host.compile import HostError
from pyalloc.host.system import system
from pyalloc.lab.article import MAP, Figure, figures, final_map


@pytest.fixture(scope="module")
def simulated() -> dict[str, Figure]:
    return {figure.name: figure for figure in figures(on_host=False)}


def test_every_figure_is_equal_or_explained(simulated: dict[str, Figure]) -> None:
    """What can be derived is as printed; what differs, and what cannot be derived, says why."""
    for figure in simulated.values():
        assert figure.equal or figure.why
    different = {f.name for f in simulated.values() if f.verdict == "different"}
    assert different == {
        "A: VmRSS at 3055 blocks, kB",
        "B: killed by",
        "malloc(4097): bytes of the chunk",
        "dmesg: kB not available",
        "fragmented1: bytes wasted",
        "fragmented2: bytes wasted",
        "fragmented1 wastes more, times",
    }


def test_the_final_map_is_the_article_s_line_by_line() -> None:
    """Program A's map at NULL has the article's lines and no others."""
    lines = final_map()
    assert len(lines) == len(MAP)
    for ours, printed in zip(lines, MAP, strict=True):
        assert ours.startswith(printed)


def test_b_ends_where_the_article_s_did(simulated: dict[str, Figure]) -> None:
    """Program B fills 1081 MB, and is killed by SIGKILL."""
    assert simulated["B: MB filled when it is killed"].simulated == 1081
    assert simulated["B: killed by"].simulated == "SIGKILL"


def test_the_fragmented_pair_comes_near_its_figures(simulated: dict[str, Figure]) -> None:
    """Both programs waste what the article's did, within a tenth of a percent."""
    for name in ("fragmented1", "fragmented2"):
        figure = simulated[f"{name}: bytes wasted"]
        assert int(figure.simulated) == pytest.approx(int(figure.printed), rel=0.001)


# --- this machine ----------------------------------------------------------------------------


@contextlib.contextmanager
def kernel_to_oneself() -> Iterator[None]:
    """Keep others that change the machine away meanwhile."""
    path = Path(tempfile.gettempdir(), "kernel.lock")  # another user's, maybe
    with path.open("r" if path.exists() else "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def run_here(what: str, **arguments: int) -> host.ProgramRun:
    try:
        return host.run_program(what, **arguments)
    except HostError as error:
        pytest.skip(str(error))


@pytest.mark.skipif(
    not (6, 17) <= system().version[:2] < (6, 19), reason="no profile of this host's kernel"
)
@pytest.mark.parametrize("gib", [3, 4])
@pytest.mark.parametrize("what", ["a", "c"])
def test_program_a_ends_here_as_in_the_model(what: str, gib: int) -> None:
    """A megabyte at a time, used or zeroed: the same count, map and sizes at NULL, not a kill."""
    run = run_here(what, gib=gib)
    assert (run.signal, run.error) == (None, 12)
    twin = pa.Machine(ram="64G", kernel="6.18", arch="i386").spawn("article", maps=run.maps(0))
    count = 0
    while twin.calloc(1, 1 << 20) if what == "c" else twin.malloc(1 << 20):
        count += 1
        if count == 1:
            assert twin.malloc(4096)  # where printf writes to
    assert count == run.count
    assert str(twin.maps()) == run.maps()
    sizes = ("VmPeak", "VmSize", "VmLck", "VmData", "VmStk", "VmExe", "VmLib", "VmPTE")
    ours, real = twin.status(), run.status(-1)
    assert {name: ours[name] for name in sizes} == {name: real[name] for name in sizes}


def test_program_b_never_runs_free() -> None:
    """Without a cgroup around it program B would take the machine down, so it is refused."""
    with pytest.raises(HostError, match="in a cgroup only"):
        host.run_program("b")


def test_b_in_a_cgroup_here_dies_where_the_model_s_does() -> None:
    """With 32 MB and 96 MB of swap it is killed within 3 MB of the model, by SIGKILL."""
    with kernel_to_oneself():
        try:
            with box(32 << 20, 96 << 20) as procs:
                live = host.run_program("b", procs=str(procs))
        except HostError as error:
            pytest.skip(str(error))
        assert not procs.parent.exists()
        mine = f"pyalloc-swap-{os.getpid()}"
        assert not any(mine in area.name for area in system().swaps)
    assert live.signal == "SIGKILL"
    found = pa.simulate(
        {
            "machine": {"ram": "1G", "swap": "1G", "arch": "i386"},
            "cgroup": [{"name": "box", "memory_max": "32M", "swap_max": "96M"}],
            "process": [{"name": "b", "program": "program_b", "cgroup": "box"}],
        }
    )
    note = next(event for event in found.happened if event.kind == "note")
    assert abs(note.size // (1 << 20) - live.count) <= 3


UNDO = """
import os, signal, sys
from pathlib import Path
from pyalloc.host.undo import Undertaker

signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
folder = Path(sys.argv[1])
with Undertaker() as undertaker:
    undertaker.rmdir(str(folder))
    folder.mkdir()
    undertaker.unlink(str(folder / "file"))
    (folder / "file").touch()
    os.kill(os.getpid(), int(sys.argv[2]))
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, 0])
def test_what_was_done_is_undone_however_the_process_ends(number: int, tmp_path: Path) -> None:
    """Killed, interrupted or done: the steps are taken back, last one first."""
    folder = tmp_path / "made"
    command = [sys.executable, "-P", "-c", UNDO, str(folder), str(int(number))]
    done = subprocess.run(command, check=False, stderr=subprocess.DEVNULL)
    assert done.returncode == -number
    for _ in range(100):
        if not folder.exists():
            return
        time.sleep(0.05)
    pytest.fail("it is still there")


# --- the command -----------------------------------------------------------------------------


def test_the_command_prints_every_figure(capsys: pytest.CaptureFixture[str]) -> None:
    """In 100 columns, with a note for whatever differs."""
    assert main(["article", "--no-host"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 100
    assert "not explained" not in out
    assert "the kernel sends SIGKILL, always" in out


def test_the_map_is_shown_beside_the_article_s(capsys: pytest.CaptureFixture[str]) -> None:
    """Line by line, labels included."""
    assert main(["article", "--map"]) == 0
    out = capsys.readouterr().out
    assert "[vdso]" in out
    assert "[stack]" in out
    assert "\u2260" not in out
    assert main(["article", "--map", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["simulated"]) == 17


def test_what_cannot_be_measured_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a compiler nothing is measured, and every row of the host's column has the reason."""
    monkeypatch.setenv("CC", "no-such-compiler")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    found = {figure.name: figure for figure in figures()}
    a = found["A: blocks of 1 MB until NULL"]
    assert a.measured is None
    assert "no C compiler found" in a.why_measured
    assert "only root" in found["B: MB filled when it is killed"].why_measured
    assert "no C compiler" in found["fragmented1: bytes wasted"].why_measured
