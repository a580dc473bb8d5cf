"""Blame: who keeps free memory, and whether moving it saves what was promised."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import pyalloc as pa
from pyalloc.cli import main
from pyalloc.host.measure import measure
from pyalloc.lab.blame import blame
from pyalloc.lab.blame.elsewhere import Lives, alone, silenced
from pyalloc.lab.blame.holders import LIBRARY, TCACHE
from pyalloc.lab.setting import Setting
from pyalloc.lab.trial import Trials
from pyalloc.report.blame import render, verdict
from pyalloc.units import PAGE
from pyalloc.workload.streams import stream

M, F, R = pa.Op.MALLOC, pa.Op.FREE, pa.Op.REALLOC


def calls(*rows: tuple[int, int, int, int]) -> pa.Trace:
    """A trace of (op, block, size, site) rows."""
    op, block, size, site = zip(*rows, strict=True)
    return pa.Trace.from_arrays(op, block, size, site=site)


def pinned(big: int = 50, pins: int = 5) -> pa.Trace:
    """Big blocks of site 1 that are freed, small ones of site 2 that stay, one after each ten."""
    rows = []
    for i in range(big):
        rows.append((M, i, 20_000, 1))
        if i % (big // pins) == big // pins - 1:
            rows.append((M, big + i, 2000, 2))
    rows += [(F, i, 0, 1) for i in range(big)]
    return calls(*rows)


# --- reality


@pytest.fixture(scope="module")
def notes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program with the planted culprit; a recording of it lies beside it."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    program = tmp_path_factory.mktemp("notes") / "notes"
    source = str(Path(__file__).parent / "programs" / "notes.c")
    subprocess.run([compiler, "-O0", "-g", "-o", program, source], check=True)
    pa.record([str(program)], program.with_suffix(".parquet"))
    return program


@pytest.mark.parametrize(("remedy", "promise"), [("apart", "saved"), ("freed", "saved_gone")])
def test_the_planted_culprit_is_named_and_the_promised_saving_appears(
    remedy: str, promise: str, notes: Path
) -> None:
    """Notes kept between buffers are blamed; allocated apart, or freed at once, they save that."""
    found = blame(pa.read_trace(notes.with_suffix(".parquet")))
    culprit = found.culprits[0]
    assert culprit.name.startswith("write_note")
    assert "write_note" in verdict(found)
    before, after = measure([str(notes)]), measure([str(notes), remedy])
    really = before.final_rss - after.final_rss
    assert really > 20 << 20
    assert getattr(culprit, promise) == pytest.approx(really, rel=0.05)


# --- the look


def test_what_pins_the_top_is_the_highest_block_in_use() -> None:
    """The pin is the last small block; without its site the end comes down over all free."""
    trace = pinned()
    found = blame(trace, "end")
    pin = found.top_pins[0]
    address = pa.replay(trace).address
    assert pin.holder == 2
    assert pin.address == max(address)
    assert pin.row == int(np.argmax(address))
    assert pin.blocks == 5
    assert pin.pinned == 50 * 20_016
    assert found.culprits[0].site == 2
    assert found.culprits[0].saved == pytest.approx(pin.pinned - (128 << 10), abs=2 * PAGE)


def test_the_ladder_says_who_pins_next() -> None:
    """With the highest site gone the next one pins the top; each rung frees more."""
    rows = [(M, 8, 100, 1), (M, 9, 100, 1)]
    rows += [(M, 0, 5000, 1), (M, 1, 2000, 7), (M, 2, 5000, 1), (M, 3, 2000, 8)]
    rows += [(F, 0, 0, 1), (F, 2, 0, 1)]
    pin = blame(calls(*rows), "end").top_pins[0]
    assert [holder for holder, _ in pin.ladder[:2]] == [8, 7]
    assert pin.ladder[0][1] == 5008
    assert pin.ladder[1][1] == 2 * 5008


def test_a_block_in_a_tcache_pins_the_top_as_well() -> None:
    """A small block that was freed into the tcache last keeps the heap, and the cache is blamed."""
    rows = [(M, i, 20_000, 1) for i in range(40)]
    rows += [(M, 50, 100, 2), (F, 50, 0, 2)]
    rows += [(F, i, 0, 1) for i in range(40)]
    found = blame(calls(*rows), "end")
    assert found.top_pins[0].holder == TCACHE
    assert found.culprits[0].site == TCACHE
    assert found.culprits[0].saved > 650_000  # all but the 128 KiB that a trim leaves
    assert "tcache_count=0" in verdict(found)


def test_pages_are_accounted_for() -> None:
    """Resident memory is what is held plus what is free on whole and on partly held pages."""
    trace = stream("phases", "1-4000", count=20_000, live=1500, seed=3)
    columns = {**trace.columns, "site": (np.arange(len(trace)) % 5 + 1).astype(np.uint32)}
    found = blame(pa.Trace(columns), 15_000, tried=0, listed=100)
    held = sum(c.bytes for c in found.culprits)
    assert held + found.free_whole + found.free_partial == pytest.approx(found.rss, abs=2 * PAGE)
    alone_on = sum(c.alone for c in found.culprits)
    assert alone_on * PAGE <= found.rss
    assert sum(c.pinned_pages + c.shared_pages for c in found.culprits) == pytest.approx(
        found.free_partial, abs=len(found.culprits) * len(found.used_by_page)
    )


def test_the_moment_is_the_one_asked_for() -> None:
    """The peak is where the heap holds most; a number is so many calls; live bytes agree."""
    trace = pinned()
    live = trace.live_bytes()
    peak = blame(trace, "peak", tried=0)
    assert peak.row == pa.replay(trace).summary.peak_held_row + 1
    assert blame(trace, 30, tried=0).requested == live[29]
    assert blame(trace, "end", tried=0).requested == live[-1]


def test_most_memory_lies_free_before_a_program_frees_to_end() -> None:
    """What it leaves behind on its way out is looked at only if nothing lay free before."""
    big = [(M, i, 20_000, 1) for i in range(40)] + [(M, 90, 2000, 2)]
    work = [row for i in range(40) for row in ((F, i, 0, 1), (M, 100 + i, 100, 3))]
    out = [(F, 100 + i, 0, 3) for i in range(40)]
    found = blame(calls(*big, *work, *out), tried=0)
    assert len(big) + len(work) // 2 < found.row <= len(big) + len(work)
    assert blame(pinned(), tried=0).row == len(pinned())


# --- elsewhere


def test_lives_follow_a_block_through_realloc_and_no_further() -> None:
    """A site's rows are the whole life of each block it touched, not the number's next life."""
    trace = calls(
        (M, 0, 10, 1), (R, 0, 20, 2), (F, 0, 0, 3), (M, 0, 10, 1), (M, 1, 9, 2), (F, 0, 0, 3)
    )
    mask = Lives(trace).rows_of([2])
    assert mask.tolist() == [True, True, True, False, True, False]


def test_silenced_and_alone_part_the_trace() -> None:
    """What remains and what was taken out allocate the whole between them."""
    trace = pinned()
    trials = Trials(trace)
    mask = Lives(trace).rows_of([2])
    rest = trials.run(Setting(), silenced(trials.columns, mask))
    own = trials.run(Setting(), alone(trials.columns, mask))
    whole = trials.run(Setting())
    assert rest.requested + own.requested == whole.requested
    assert rest.calls == own.calls == whole.calls
    assert own.requested == 5 * 2000


# --- input and output


def test_bad_input_is_one_line() -> None:
    """A trace too short, a moment outside it, a trace that does not run: each says so."""
    trace = pinned()
    with pytest.raises(pa.ArgumentError, match="3 calls are too few"):
        blame(trace[:3])
    for at in (0, len(trace) + 1, "middle", 1.5, True):
        with pytest.raises(pa.ArgumentError, match="at must be"):
            blame(trace, at)
    broken = calls(*([(M, 0, 2000, 1)] * 9), (F, 0, 0, 1), (F, 0, 0, 1))
    with pytest.raises(pa.ArgumentError, match="does not run that far"):
        blame(broken, "end")


def test_a_trace_without_sites_is_said_to_have_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Everything is of one site then, and the report says why."""
    columns = {name: c for name, c in pinned().columns.items() if name != "site"}
    file = tmp_path / "t.parquet"
    pa.Trace(columns).write(file)
    assert main(["blame", str(file), "--at", "end"]) == 0
    assert "no call sites" in capsys.readouterr().out
    assert main(["blame", str(file), "--at", "noon"]) == 2
    assert "waste, peak, end or a number" in capsys.readouterr().err


def test_json_and_the_report_say_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The JSON has the culprits in order; the report fits 100 columns."""
    from rich.console import Console  # noqa: PLC0415

    file = tmp_path / "t.parquet"
    pinned().write(file)
    assert main(["blame", str(file), "--at", "end", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    found = blame(pinned(), "end")
    assert [c["site"] for c in data["culprits"]] == [c.site for c in found.culprits]
    assert {c["site"] for c in data["culprits"]} == {2, LIBRARY}
    console = Console(width=100)
    with console.capture() as captured:
        console.print(render(found))
    assert max(map(len, captured.get().splitlines())) <= 100
