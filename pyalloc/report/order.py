"""The report of ``pyalloc order``: what each order of the calls saves, and how sure that is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pyalloc.lab.order import OrderResult, OrderStudy
from pyalloc.lab.order.study import BEST, RECORDED, WORST
from pyalloc.lab.paired import Interval
from pyalloc.machine import ReplaySummary
from pyalloc.report.listing import title_of
from pyalloc.units import format_size

_COLUMNS: Final = (("peak_held", "peak"), ("held", "end"), ("peak_rss", "resident"))
_WORDS: Final = {
    "peak_held": "held at the peak",
    "held": "held at the end",
    "peak_rss": "resident at the peak",
    "jw1": "held beyond what is asked for, on average",
}
_TWICE: Final = 2.0
_MANY: Final = 10
_LEAST: Final = 0.05  # percent: what is printed as 0.0 is nothing


def render(study: OrderStudy) -> Group:
    """Return the whole report."""
    return Group(*_parts(study))


def _parts(study: OrderStudy) -> Iterator[RenderableType]:
    info, own = study.trace.info, study[RECORDED].summaries[0]
    title = title_of(info)
    yield Text(
        f"{title}  ({len(study.trace):,} calls, {study.allocator})",
        style="bold",
        overflow="ellipsis",
        no_wrap=True,
    )
    yield Text(
        f"As the program calls: {format_size(own.peak_requested)} asked for at the peak, "
        f"{format_size(own.peak_held)} held, {format_size(own.peak_rss)} resident; "
        f"{format_size(own.requested)} asked for at the end, {format_size(own.held)} held."
    )
    yield Text(
        f"Calls move inside {study.windows:,} windows of up to {study.window:,}. "
        f"Means of {study.varied}; ± is 95 %.",
        style="dim",
    )
    if study.touch != "recorded" and study.guesses:
        yield Text(
            "The trace does not say when a block is used last: it may be freed right after it was"
            " allocated.",
            style="dim",
        )
    yield Text("")
    yield _table(study)
    yield Text("")
    yield Text(verdict(study))


def _table(study: OrderStudy) -> Table:
    table = Table(
        title="What other orders of the same calls save",
        title_justify="left",
        title_style="bold",
        box=None,
        pad_edge=False,
        expand=True,
    )
    table.add_column("order", no_wrap=True)
    table.add_column("asked", justify="right", no_wrap=True)
    for _, name in _COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
        table.add_column("±", justify="left", no_wrap=True, style="dim")
    table.add_column("", overflow="fold", ratio=1)
    others = [r for r in study.results if r.name != RECORDED]
    for result in sorted(others, key=lambda r: _rank(study, r)):
        cells = [cell for metric, _ in _COLUMNS for cell in _saved(result.saved_percent(metric))]
        style = _style(result.saved_percent(study.by))
        table.add_row(result.name, _asked(result), *cells, _what(study, result), style=style)
    return table


def _rank(study: OrderStudy, result: OrderResult) -> tuple[float, ...]:
    """Return what orders are sorted by: what they save of this measure, then of the others."""
    return tuple(-result.saved_percent(metric).mean for metric in (study.by, "held", "peak_held"))


def _what(study: OrderStudy, result: OrderResult) -> str:
    """Return what an order does, as short as the table needs it."""
    if result.name in (BEST, WORST):
        own, other = (
            float(getattr(s, study.by) or 0) for s in (result.base[0], result.summaries[0])
        )
        here = 100 * (own - other) / own if own else 0.0
        return f"by search; this very run: {here:,.1f} %"
    return "one after the other" if "+" in result.name else result.description


def _saved(found: Interval) -> tuple[str, str]:
    mean = round(found.mean, 1) + 0.0  # minus nothing is nothing
    return f"{mean:,.1f} %", "" if found.half is None else f"{found.half:,.1f}"


def _asked(result: OrderResult) -> str:
    """Return by how much the order changes what is asked for at the peak."""
    own, other = result.base[0].peak_requested, result.summaries[0].peak_requested
    change = 100 * (other - own) / own if own else 0.0
    return f"{change:+,.1f} %" if abs(change) >= _LEAST else "same"


def _style(found: Interval) -> str:
    if not found.clear or abs(found.mean) < _LEAST:
        return ""
    return "green" if found.mean > 0 else "red"


def verdict(study: OrderStudy) -> str:
    """Say which order saves most, and what it does to what is wasted."""
    best, what = study.best(), _WORDS[study.by]
    found = best.saved_percent(study.by)
    words = [f"No order saves anything {what}."]
    if best.name != RECORDED and found.mean >= _LEAST:
        sure = "" if found.half is None else f" ± {found.half:,.1f}"
        luck = "" if found.clear or found.half is None else ", which may be luck"
        words = [f"{best.name} saves most {what}: {found.mean:,.1f} %{sure}{luck}."]
    words += _end_words(study)
    return " ".join(words)


def _end_words(study: OrderStudy) -> Iterator[str]:
    """Say how much less is wasted at the end, and how much of it is free memory."""
    best = study.best("held")
    own, other = study[RECORDED].summaries[0], best.summaries[0]
    factor = _wasted(own) / max(_wasted(other), 1)
    if factor < _TWICE:
        return
    yield (
        f"{best.name} leaves {format_size(_wasted(other))} wasted at the end in place of"
        f" {format_size(_wasted(own))}: {_times(factor)} less."
    )
    free = own.free / max(other.free, 1)
    if free > _TWICE * factor:
        yield (
            f"Without what each block costs beyond its size, {format_size(other.free)} in place of"
            f" {format_size(own.free)} free memory: {_times(free)} less."
        )


def _times(factor: float) -> str:
    return f"{factor:,.{int(factor < _MANY)}f} times"


def _wasted(summary: ReplaySummary) -> int:
    """Return what is held at the end beyond what the program still uses."""
    return summary.held - summary.requested
