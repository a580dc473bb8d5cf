"""The report of ``pyalloc leaks``: the verdict first, then who never frees what."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from rich.console import Group, RenderableType
from rich.text import Text

from pyalloc.lab.leaks import Leaks, SiteLeak, courses_in_words
from pyalloc.report.examination import short_site
from pyalloc.report.listing import figures, title_of
from pyalloc.units import format_size

_SHORT_SECONDS: Final = 5.0


def render(found: Leaks) -> Group:
    """Return the whole report."""
    return Group(*_parts(found))


def _parts(found: Leaks) -> Iterator[RenderableType]:
    yield Text(verdict(found), style="bold")
    title = title_of(found.trace.info)
    yield Text(f"{title}  ({len(found.trace):,} calls)", overflow="ellipsis", no_wrap=True)
    yield Text("")
    yield Text(
        f"Never freed: {found.blocks:,} blocks, {format_size(found.never_freed)}."
        f" Live memory {_trend(found.live_rate, found.unit)},"
        f" resident heap {_trend(found.rss_rate, found.unit)}."
    )
    if found.judged_until < 0.99 * len(found.trace):
        yield Text(
            f"Growth is judged up to call {found.judged_until:,};"
            " behind it the program only frees, to end."
        )
    if found.unit == "s" and found.kind in ("leak", "growth") and found.x[-1] < _SHORT_SECONDS:
        yield Text(
            f"That is {_span(float(found.x[-1]))} of work: what grows in so short a run may be a"
            " start-up, and stop. Record a longer one."
        )
    if not found.has_sites:
        yield Text("The trace has no call sites: all blocks are of one, unknown.", style="yellow")
    if found.sites:
        yield Text("")
        names = ("never freed, by call site", "blocks", "bytes", "of all", "course", "rate")
        yield figures(names, [_row(site, found) for site in found.sites])
    yield Text("")
    yield Text(
        "A trace does not know what a program can still reach: what is never freed may be in use.",
        style="dim",
    )


def _span(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{1000 * seconds:,.0f} ms"


def _row(site: SiteLeak, found: Leaks) -> tuple[str, ...]:
    return (
        short_site(site.name),
        f"{site.blocks:,}",
        format_size(site.bytes),
        f"{100 * site.kept:.1f} %",
        courses_in_words()[site.course],
        _rate(site.rate, found.unit) if site.rate else "",
    )


def _rate(rate: float, unit: str) -> str:
    return f"{format_size(rate)}/{unit.replace('1,000 calls', 'kcall')}"


def _trend(rate: float, unit: str) -> str:
    return f"grows by {_rate(rate, unit)}" if rate else "does not keep growing"


def verdict(found: Leaks) -> str:
    """Return the verdict in one line."""
    suspect = found.suspect
    if found.kind == "leak" and suspect is not None:
        return (
            f"Live memory grows: leak suspected at {short_site(suspect.name)},"
            f" {_rate(suspect.rate, found.unit)}, {suspect.blocks:,} blocks never freed."
        )
    if found.kind == "growth":
        rate = _rate(found.live_rate, found.unit)
        return f"Live memory grows by {rate}, but it is freed in the end: a working set, no leak."
    if found.kind == "fragmentation":
        return (
            f"Flat live memory, growing heap ({_rate(found.rss_rate, found.unit)}): fragmentation,"
            " not a leak (see pyalloc blame)."
        )
    free = int(found.rss[-1] - found.live[-1])
    if free > found.rss[-1] // 2 and free > 1 << 20:
        return (
            f"No leak: nothing keeps growing, but {format_size(free)} of"
            f" {format_size(found.rss[-1])} resident are free (see pyalloc blame)."
        )
    return "No leak: neither live memory nor the heap keeps growing."
