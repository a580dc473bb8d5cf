"""The report of ``pyalloc blame``: who keeps the memory, and what moving it would save."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pyalloc.lab.blame import Blame, Culprit
from pyalloc.lab.blame.holders import FAST, TCACHE, TopPin
from pyalloc.report.examination import short_site
from pyalloc.report.listing import figures, title_of
from pyalloc.units import format_size

_WHEN: Final[Mapping[object, str]] = {
    "waste": "When most lies free",
    "peak": "At the peak of what the heap holds",
    "end": "At the end",
}
_SPARSE: Final = 1024
_MOST_PINS: Final = 4


def render(found: Blame) -> Group:
    """Return the whole report."""
    return Group(*_parts(found))


def _parts(found: Blame) -> Iterator[RenderableType]:
    title = title_of(found.trace.info)
    words = f"{title}  ({len(found.trace):,} calls, {found.allocator})"
    yield Text(words, style="bold", overflow="ellipsis", no_wrap=True)
    if not found.has_sites:
        yield Text("The trace has no call sites: all blocks are of one, unknown.", style="yellow")
    yield Text("")
    yield Text(_moment(found))
    yield Text("")
    pins = [pin for pin in found.top_pins if pin.pinned > 0][:_MOST_PINS]
    for pin in pins:
        yield Text(_pin(found, pin))
    if pins:
        yield Text("")
    yield _table(found)
    yield Text("")
    yield Text(verdict(found))


def _moment(found: Blame) -> str:
    sparse = int((found.used_by_page < _SPARSE).sum())
    pages = "1 page is held" if sparse == 1 else f"{sparse:,} pages are held"
    return (
        f"{_WHEN.get(found.at, 'Then')} (after call {found.row:,}) {format_size(found.rss)} are"
        " resident,"
        f" {format_size(found.requested)} of them asked for."
        f" {format_size(found.free_whole)} lie on pages without any block,"
        f" {format_size(found.free_partial)} free on pages with some;"
        f" {pages} by less than 1 KiB each."
    )


def _pin(found: Blame, pin: TopPin) -> str:
    where = "The main arena" if pin.arena == 0 else f"Arena {pin.arena}"
    blocks = f"{pin.blocks:,} blocks" if pin.blocks > 1 else "a block"
    made = f", made by call {pin.row:,}" if pin.row >= 0 else ""
    words = (
        f"{where} cannot shrink: {blocks} of {_name(found, pin.holder)}, the highest at"
        f" {pin.address:#x} ({pin.size:,} bytes{made}), keep {format_size(pin.pinned)} of free"
        f" memory below."
    )
    if len(pin.ladder) > 1 and pin.ladder[1][1] > pin.pinned:
        words += (
            f" Next would be {_name(found, pin.ladder[1][0])}: without both"
            f" {format_size(pin.ladder[1][1])} could go."
        )
    return words


def _name(found: Blame, site: int) -> str:
    for culprit in found.culprits:
        if culprit.site == site:
            return short_site(culprit.name)
    return f"site {site}"


def _table(found: Blame) -> Table:
    rows = [
        (
            short_site(culprit.name),
            f"{culprit.blocks:,}",
            format_size(culprit.bytes),
            _some(culprit.pinned_top),
            _some(culprit.pinned_pages),
            _saved(culprit.saved),
            _saved(culprit.saved_at_end),
        )
        for culprit in found.culprits
    ]
    names = ("call site", "blocks", "bytes", "pins top", "pins pages", "saved apart", "at end")
    table = figures(names, rows)
    for row, culprit in zip(table.rows, found.culprits, strict=True):
        row.style = "bold" if (culprit.saved or 0) > 0 else ""
    return table


def _some(size: int) -> str:
    return format_size(size) if size else ""


def _saved(size: int | None) -> str:
    return "" if size is None else format_size(size)


def verdict(found: Blame) -> str:
    """Say in a sentence or two who is to blame and what to do."""
    free = found.free_whole + found.free_partial
    if free < found.rss * 0.05:
        return "Nearly all resident memory is in use: there is nobody to blame for the rest."
    if found.free_top + found.free_thread_tops > 0.5 * free:
        return _top_words(found)
    best = next((c for c in found.culprits if c.saved is not None), None)
    if best is None or (best.saved or 0) <= found.rss * 0.02:
        words = "No call site alone keeps much back"
        together = found.together
        if together and together.saved > found.rss * 0.02:
            names = ", ".join(_name(found, site) for site in together.sites)
            return (
                f"{words}; {names} together do: apart they would save {_of(found, together.saved)}."
            )
        return f"{words}: the free memory is spread between the blocks of many."
    return _advice(found, best)


def _top_words(found: Blame) -> str:
    ends = found.free_top + found.free_thread_tops
    words = (
        f"Nothing pins it: {format_size(ends)} lie at the free ends of the arenas,"
        " where glibc keeps them for the next request"
    )
    if found.trim_threshold:
        words += f" up to its trim threshold, now {format_size(found.trim_threshold)}"
    trims = format_size(found.free_top + found.free_whole - ends)
    return (
        f"{words}. GLIBC_TUNABLES=glibc.malloc.trim_threshold=131072 lets it go when it is freed;"
        f" malloc_trim(0) now would give back about {trims} (the threads' arenas keep their ends)."
    )


def _of(found: Blame, saved: int) -> str:
    return f"{format_size(saved)} ({100 * saved / max(found.rss, 1):.0f} %)"


def _advice(found: Blame, best: Culprit) -> str:
    saved = _of(found, best.saved or 0)
    if best.site in (TCACHE, FAST):
        knob = "tcache_count=0" if best.site == TCACHE else "mxfast=0"
        return (
            f"Freed blocks that are kept for reuse hold the rest back: with"
            f" GLIBC_TUNABLES=glibc.malloc.{knob} {saved} would be saved."
        )
    words = (
        f"{short_site(best.name)} is to blame: its {format_size(best.bytes)}, allocated apart"
        f" (an arena, a pool or a mapping of their own), would save {saved}."
    )
    together = found.together
    if together and together.saved > (best.saved or 0) * 1.1:
        words += (
            f" All {len(together.sites)} that were tried, together: {_of(found, together.saved)}."
        )
    return words
