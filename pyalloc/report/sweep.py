"""The report of ``pyalloc sweep``: what each parameter does, the best point, what failed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pyalloc.lab.sweep import Sweep
from pyalloc.machine.metrics import IN_BYTES
from pyalloc.units import format_size

_MOST_FAILURES: Final = 10


def figure(metric: str, value: float) -> str:
    """Return a figure as people read it."""
    if metric in IN_BYTES:
        return format_size(value)
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.4g}"


def render(found: Sweep, metric: str, seconds: float | None = None) -> Group:
    """Return the whole report."""
    return Group(*_parts(found, metric, seconds))


def _parts(found: Sweep, metric: str, seconds: float | None) -> Iterator[RenderableType]:
    failed = len(found.failures)
    words = f"{len(found):,} of {len(found.plan):,} points"
    took = f" in {seconds:,.1f} s" if seconds is not None else ""
    lost = f", {failed:,} of them failed" if failed else ""
    yield Text(f"{words}{took}{lost}", style="bold")
    effects = found.effects(metric)
    if effects:
        yield Text("")
        yield _effects(found, metric)
    best = found.best(metric)
    if best is not None:
        yield Text("")
        yield Text(f"Least {metric}: {figure(metric, best[metric])}, {_words(found, best)}")
    if failed:
        yield Text("")
        yield from _failures(found)


def _effects(found: Sweep, metric: str) -> Table:
    table = Table(
        title=f"{metric} by parameter",
        title_justify="left",
        title_style="bold",
        box=None,
        pad_edge=False,
    )
    table.add_column("parameter", no_wrap=True)
    table.add_column("value", overflow="ellipsis", no_wrap=True, max_width=36)
    for name in ("points", "mean", "±", "least", "most"):
        table.add_column(name, justify="right", no_wrap=True)
    last = ""
    for e in found.effects(metric):
        name = e.parameter if e.parameter != last else ""
        last = e.parameter
        half = "" if e.mean.half is None else figure(metric, e.mean.half)
        cells = (figure(metric, v) for v in (e.least, e.most))
        table.add_row(name, e.level, f"{e.points:,}", figure(metric, e.mean.mean), half, *cells)
    return table


def _words(found: Sweep, row: dict[str, Any]) -> str:
    names = ["program", *(each.name for each in found.plan.axes)]
    parts = [f"{name}={row[name]}" for name in names if row[name] is not None]
    return f"point {row['point']:,}: {', '.join(parts)}"


def _failures(found: Sweep) -> Iterator[Text]:
    yield Text("Points that failed", style="bold")
    reasons = Counter(failure.error for failure in found.failures)
    for error, count in reasons.most_common(_MOST_FAILURES):
        first = next(f for f in found.failures if f.error == error)
        yield Text(f"{count:>7,}  {error} (point {first.point:,})", overflow="ellipsis")
    if len(reasons) > _MOST_FAILURES:
        yield Text(f"         ... and {len(reasons) - _MOST_FAILURES} more reasons")
