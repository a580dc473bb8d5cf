"""Measures of fragmentation as a table: at the peak, at the end, and what each is."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rich.table import Table

from pyalloc.lab.examine import Examination, WholeHeap
from pyalloc.units import format_size

_MOST = 9999.5  # percent; more reads better as a multiple


def percent(value: float | None) -> str:
    """Return a percentage in a few digits; nothing for one that is not defined."""
    if value is None:
        return ""
    return f"{value:,.1f} %" if abs(value) < _MOST else f"{value / 100:,.0f} x"


def _bytes(value: float | None) -> str:
    return "" if value is None else format_size(value)


def _count(value: float | None) -> str:
    return "" if value is None else f"{value:,}"


def _share(value: float | None) -> str:
    return percent(None if value is None else 100 * value)


_OF_HEAP: tuple[tuple[str, str, Callable[[float | None], str], str], ...] = (
    ("free, not in the largest hole", "hole_index", _share, "0 %: one hole"),
    ("free memory in pieces", "sawicki", _share, "1 - sum(free²) / (sum free)²"),
    ("pages pinned", "pinned_pages", _count, "a tenth or less of it in use"),
    ("malloc_trim(0) gives back", "trim_gain", _bytes, "resident bytes"),
)


def fragmentation(found: Examination) -> Table:
    """Return the table; a cell is empty where a measure is not defined."""
    table = Table(
        title="Fragmentation", title_justify="left", title_style="bold", box=None, pad_edge=False
    )
    for name, justify in (("", "left"), ("peak", "right"), ("at the end", "right")):
        table.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]  # literals
    table.add_column("", style="dim", no_wrap=True)
    for row in _of_run(found):
        table.add_row(*row)
    peak, end = found.heap_at_peak, found.heap_at_end
    for title, name, text, remark in _OF_HEAP:
        table.add_row(title, _cell(peak, name, text), _cell(end, name, text), remark)
    return table


def _cell(heap: WholeHeap, name: str, text: Callable[[float | None], str]) -> str:
    return text(getattr(heap, name))


def _of_run(found: Examination) -> Iterator[tuple[str, str, str, str]]:
    s = found.replay.summary
    yield "held beyond what is asked for", percent(s.jw3), percent(s.bohra), "100 (A / P - 1)"
    yield "  headers and alignment apart", percent(s.jw3_net), "", "what lies free"
    yield "  when most is asked for", percent(s.jw2), "", "A / P when P is highest"
    yield "  highest over highest", percent(s.jw4), "", f"utilization {_share(s.utilization)}"
    yield "  mean of the whole run", percent(s.jw1), "", "over bytes allocated"
    yield "resident beyond it", percent(s.realized), "", "when most is asked for"
