"""The report of ``pyalloc compare``: figures and call sites of runs, side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pyalloc.lab.compare import Comparison, Run, SiteChange
from pyalloc.report.listing import figures
from pyalloc.report.metrics import percent
from pyalloc.units import format_size

_WIDEST: Final = 30
_LEAST: Final = 0.0005
_MOST_COLUMNS: Final = 3

_Words = Callable[[float], str]


def _count(value: float) -> str:
    return f"{value:,.0f}"


_ROWS: Final[tuple[tuple[str, str, _Words], ...]] = (
    ("calls", "calls", _count),
    ("got NULL", "failed", _count),
    ("allocated in all", "allocated", format_size),
    ("peak: asked for", "peak_requested", format_size),
    ("peak: held by the heap", "peak_held", format_size),
    ("peak: resident", "peak_rss", format_size),
    ("at the end: asked for", "requested", format_size),
    ("at the end: held", "held", format_size),
    ("at the end: resident", "rss", format_size),
    ("malloc_trim(0) gives back", "trim_gain", format_size),
    ("held beyond asked, peak", "jw3", percent),
    ("  mean of the whole run", "jw1", percent),
    ("resident beyond it", "realized", percent),
    ("pages pinned", "pinned_pages", _count),
    ("minor faults", "minor_faults", _count),
    ("brk calls", "brk_calls", _count),
    ("mmap calls", "mmap_calls", _count),
    ("arenas", "arenas", _count),
)
_LISTED: Final[tuple[tuple[str, str, _Words], ...]] = (
    ("asked for", "peak_requested", format_size),
    ("held", "peak_held", format_size),
    ("resident", "peak_rss", format_size),
    ("at the end", "rss", format_size),
    ("faults", "minor_faults", _count),
)
_WITH_CHANGE: Final = frozenset({"peak_held", "peak_rss", "rss"})
_ALWAYS: Final = frozenset({"calls", "peak_requested", "peak_held", "peak_rss", "held", "rss"})


def render(found: Comparison) -> Group:
    """Return the whole report."""
    return Group(*_parts(found))


def _parts(found: Comparison) -> Iterator[RenderableType]:
    yield _figures(found) if len(found.runs) <= _MOST_COLUMNS else _list(found)
    for run in found.runs:
        for error in run.errors:
            yield Text(f"{run.name}: stopped at call {error.row:,}: {error.message}", style="red")
    yield Text("")
    if found.sites:
        yield _sites(found)
        yield Text("")
    yield Text(verdict(found))


def _figures(found: Comparison) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("", no_wrap=True)
    for i, run in enumerate(found.runs):
        table.add_column(
            run.name, justify="right", no_wrap=True, overflow="ellipsis", max_width=_WIDEST
        )
        if i:
            table.add_column("", justify="right", no_wrap=True)
    for label, name, words in _ROWS:
        values = [run.figure(name) for run in found.runs]
        if name in _ALWAYS or any(values):
            table.add_row(label, *_cells(found, name, values, words))
    measured = [run.measured_peak for run in found.runs]
    if any(measured):
        first = measured[0]
        cells = [_cell(first, format_size)]
        for value in measured[1:]:
            share = value / first - 1 if value is not None and first else None
            cells += [_cell(value, format_size), signed(share)]
        table.add_row("measured peak of the process", *cells)
    return table


def _list(found: Comparison) -> Table:
    """Return a row for each of many runs."""
    rows = []
    for i, run in enumerate(found.runs):
        cells = [run.name]
        for _, name, words in _LISTED:
            cells.append(_cell(run.figure(name), words))
            if name in _WITH_CHANGE:
                cells.append(signed(found.change(name, i)) if i else "")
        rows.append(cells)
    heads = [h for head, name, _ in _LISTED for h in (head, "")[: 1 + (name in _WITH_CHANGE)]]
    return figures(("", *heads), rows)


def _cells(
    found: Comparison, name: str, values: list[float | None], words: _Words
) -> Iterator[str]:
    yield _cell(values[0], words)
    for i, value in enumerate(values[1:], start=1):
        yield _cell(value, words)
        yield signed(None if words is percent else found.change(name, i))


def _cell(value: float | None, words: _Words) -> str:
    return "" if value is None else words(value)


def signed(share: float | None) -> str:
    """Return a change in percent, or as a multiple; nothing for none, or for hardly any."""
    if share is None or abs(share) < _LEAST:
        return "" if share is None else "="
    return f"{100 * share:+.1f} %" if share < 9 else f"x {1 + share:,.0f}"


def _sites(found: Comparison) -> Table:
    table = Table(title="Call sites: live at the peak", title_justify="left", title_style="bold")
    table.box = None
    table.pad_edge = False
    table.add_column("", overflow="ellipsis", no_wrap=True, max_width=44)
    names = list(dict.fromkeys(id(run.trace) for run in found.runs))
    for trace in names:
        run = next(run for run in found.runs if id(run.trace) == trace)
        table.add_column(run.name.split(" ")[0], justify="right", no_wrap=True)
    table.add_column("change", justify="right", no_wrap=True)
    table.add_column("calls", justify="right", no_wrap=True)
    for site in found.sites:
        sizes = [format_size(value) for value in site.at_peak]
        change = site.at_peak[-1] - site.at_peak[0]
        calls = site.calls[-1] - site.calls[0]
        table.add_row(Text(site.site), *sizes, _more(change, format_size), _more(calls, _count))
    return table


def _more(change: int, words: _Words) -> str:
    if not change:
        return "="
    return f"{'+' if change > 0 else '-'}{words(abs(change))}"


def verdict(found: Comparison) -> str:
    """Say in a sentence what is better, and where the runs part."""
    first, others = found.runs[0], found.runs[1:]
    best = min(found.runs, key=lambda run: run.summary.peak_rss)
    words = [_best(first, best, others)]
    grown = _grown(found)
    if grown is not None:
        words.append(
            f"{grown.site} has most more at the peak: {_more(_change(grown), format_size)}."
        )
    same = [run for run in others if run.trace is first.trace]
    for run in same if len(same) == 1 else []:
        if run.parts_at is not None:
            words.append(f"Their addresses part at call {run.parts_at:,}.")
        elif not (run.setting.trim_calls or run.setting.trim_bytes):
            words.append("All their blocks lie at the same addresses.")
    return " ".join(words)


def _best(first: Run, best: Run, others: tuple[Run, ...]) -> str:
    least = best.summary.peak_rss
    now = first.summary.peak_rss
    if best is first:
        second = min(others, key=lambda run: run.summary.peak_rss)
        more = second.summary.peak_rss - now
        if more <= now * _LEAST:
            return "They have the same resident at their peaks."
        return (
            f"{first.name} has least resident at its peak; {second.name} {format_size(more)} more"
            f" ({100 * more / max(now, 1):.1f} %)."
        )
    return (
        f"{best.name} has least resident at its peak: {format_size(now - least)} less"
        f" ({100 * (now - least) / max(now, 1):.1f} %)."
    )


def _change(site: SiteChange) -> int:
    return site.at_peak[-1] - site.at_peak[0]


def _grown(found: Comparison) -> SiteChange | None:
    grown = [site for site in found.sites if _change(site) > 0]
    return max(grown, key=_change, default=None)
