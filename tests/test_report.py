"""The page and the counter tracks of a run."""

from __future__ import annotations

import dataclasses
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

import pyalloc as pa
from pyalloc.cli import main
from pyalloc.lab.heapmap import KINDS, heap_map
from pyalloc.report.listing import one_line, table_of
from pyalloc.report.page import SAMPLES, page_data, render_page
from pyalloc.report.perfetto import perfetto_json
from pyalloc.units import format_size


@pytest.fixture(scope="module")
def trace() -> pa.Trace:
    return pa.workload("random", count=20_000, live=500, sizes="1-4000", seed=3)


@pytest.fixture(scope="module")
def found(trace: pa.Trace) -> pa.Examination:
    return pa.examine(trace)


def data_in(page: str) -> object:
    text = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert text is not None
    return json.loads(text[1])


def test_the_page_carries_its_data_and_needs_nothing_else(found: pa.Examination) -> None:
    """The HTML holds the very data it shows and refers to no other file or host."""
    page = render_page(found)
    assert data_in(page) == json.loads(json.dumps(page_data(found)))
    assert not re.search(r"@[A-Z]+@", page)
    links = set(re.findall(r"(?:https?:)?//[\w.]+/\S*", page))
    assert all("www.w3.org" in link for link in links)
    assert not re.search(r"\b(src|href)=", page)


def test_a_command_cannot_break_out_of_the_data(trace: pa.Trace) -> None:
    """Markup in a command line stays text."""
    info = dataclasses.replace(trace.info, command=("echo", "</script><script>alert(1)</script>"))
    named = pa.Trace(trace.columns, info)
    page = render_page(pa.examine(named))
    assert page.count("</script>") == 2
    assert "alert(1)" in json.dumps(data_in(page))


def test_figures_are_shown_in_their_units(found: pa.Examination) -> None:
    """Bytes by their size, percentages as such, counts whole; each figure of the summary once."""
    figures = dict(page_data(found)["figures"])
    summary = found.replay.summary
    assert len(figures) == len(summary.flat())
    assert figures["peak held"] == format_size(summary.peak_held)
    assert figures["calls"] == "20,000"
    assert figures["jw2"].endswith(" %")
    assert figures["pages up to 10 % in use"] == str(summary.pinned_pages)


def test_the_title_is_the_command_and_no_markup(trace: pa.Trace) -> None:
    named = pa.Trace(trace.columns, dataclasses.replace(trace.info, command=("cat", "<b>&")))
    assert "<title>cat &#x27;&lt;b&gt;&amp;&#x27; - pyalloc</title>" in render_page(
        pa.examine(named)
    )


def test_the_timeline_accounts_for_every_byte_held(found: pa.Examination) -> None:
    """The stacked kinds add up to what the heap holds, at each point shown."""
    line = page_data(found)["timeline"]
    shown = sum(np.array(values) for values in line["values"].values())
    held = found.replay.sampled("heap") + found.replay.sampled("mapped")
    by_calls = dict(zip(found.replay.sampled("calls").tolist(), held.tolist(), strict=True))
    summary = found.replay.summary
    by_calls[summary.peak_held_row + 1] = summary.peak_held
    assert shown.tolist() == [by_calls[calls] for calls in line["calls"]]


@pytest.mark.parametrize("calls", [1, 10, 5000, 40_000])
def test_the_timeline_shows_the_peak_however_short_it_is(calls: int) -> None:
    """One block in the middle, a hundred times all the rest, that lives for one call."""
    few = calls // 2
    op = [pa.Op.MALLOC] * few + [pa.Op.MALLOC, pa.Op.FREE] + [pa.Op.MALLOC] * few
    block = [*range(few), few, few, *range(few + 1, 2 * few + 1)]
    size = [16] * few + [1 << 30, 0] + [16] * few
    seen = pa.examine(pa.Trace.from_arrays(op, block, size), samples=SAMPLES)
    line = page_data(seen)["timeline"]
    shown = sum(np.array(values) for values in line["values"].values())
    assert shown.max() == seen.replay.summary.peak_held > 1 << 30
    assert len(shown) <= 602
    assert line["calls"] == sorted(set(line["calls"]))
    assert line["calls"][-1] == len(seen.trace)


def test_a_page_of_no_calls_is_a_page() -> None:
    empty = pa.examine(pa.workload("fifo", count=0))
    assert page_data(empty)["timeline"]["x"] in ([], [0.0])
    assert "Nothing is held" in render_page(empty)


@pytest.mark.parametrize("most_cells", [7, 100, 4096])
def test_the_map_holds_what_the_statistics_say(found: pa.Examination, most_cells: int) -> None:
    """However coarse, the cells of a kind add up to the bytes of its chunks."""
    process = found.replay.process
    regions = heap_map(process, most_cells)
    total = {kind: sum(int(r.bytes[i].sum()) for r in regions) for i, kind in enumerate(KINDS)}
    statistics = process.heap_statistics()
    for kind in KINDS[1:]:
        assert total[kind] == getattr(statistics, f"bytes_{kind}")
    assert sum(int(r.resident.sum()) for r in regions) * 4096 <= found.replay.summary.rss
    assert all((r.bytes.sum(axis=0) <= r.pages * 4096).all() for r in regions)
    assert all((r.resident <= r.pages).all() for r in regions)


def test_a_map_of_nothing_is_empty() -> None:
    """A process that never allocated has no heap to draw."""
    assert heap_map(pa.Machine(ram="64M").spawn()) == ()


def test_perfetto_gets_counters_in_order(found: pa.Examination) -> None:
    """Each track rises in time and ends where the replay ended."""
    events = json.loads(perfetto_json(found))["traceEvents"]
    heap = [e for e in events if e["ph"] == "C" and e["name"] == "heap (bytes)"]
    assert [e["ts"] for e in heap] == sorted(e["ts"] for e in heap)
    assert heap[-1]["args"]["requested"] == found.replay.summary.requested


def test_the_command_writes_once(
    tmp_path: Path, trace: pa.Trace, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file that is there is kept unless --force says otherwise."""
    source, page = tmp_path / "t.parquet", tmp_path / "t.html"
    trace.write(source)
    assert main(["report", str(source)]) == 0
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    page.write_text("mine", encoding="utf-8")
    assert main(["report", str(source)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert page.read_text(encoding="utf-8") == "mine"
    assert main(["report", str(source), "--force", "--to", "perfetto", "-o", str(page)]) == 0
    assert json.loads(page.read_text(encoding="utf-8"))["traceEvents"]


def test_a_trace_that_is_none_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A missing trace is one line and leaves no page behind."""
    assert main(["report", str(tmp_path / "missing.parquet")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_brackets_and_line_breaks_of_a_command_stay() -> None:
    """What a program was called with is shown as it is, on one line."""
    table = table_of(("pid", "command"), [("1", one_line("python -c 'd = [x]\n d[0]'"))])
    console = Console(width=60, file=io.StringIO())
    console.print(table)
    assert "python -c 'd = [x] d[0]'" in console.file.getvalue()
