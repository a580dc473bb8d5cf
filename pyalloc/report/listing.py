"""Lists of things: allocators, recorded processes."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from typing import Final, Literal

from rich.table import Table
from rich.text import Text

from pyalloc.trace import TraceInfo
from pyalloc.trace.record import Recording

_WIDTH: Final = 100
_LEAST: Final = 12


def table_of(columns: Sequence[str], rows: Iterable[Sequence[str]], *, cut: bool = False) -> Table:
    """Return a plain table; the last column takes what room is left.

    Columns of numbers stand at the right; the last one is cut where it is somebody else's words
    (``cut``), and folded where it is ours.
    """
    found = [tuple(row) for row in rows]
    table = Table(box=None, pad_edge=False, expand=True)
    for i, column in enumerate(columns[:-1]):
        width = max(len(text) for text in (column, *(row[i] for row in found)))
        counts = found and all(row[i].replace(",", "").isdecimal() for row in found if row[i])
        side: Literal["left", "right"] = "right" if counts else "left"
        table.add_column(column, no_wrap=True, min_width=width, justify=side)
    table.add_column(columns[-1], overflow="ellipsis", no_wrap=cut, ratio=1)
    for row in found:
        table.add_row(*(Text(text) for text in row))  # as it stands: brackets are no markup
    return table


def figures(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """Return a table of names and figures: the figures are never cut, the names where need be."""
    found = [tuple(row) for row in rows]
    widths = [max(len(text) for text in column) for column in zip(columns, *found, strict=True)]
    room = _WIDTH - sum(width + 2 for width in widths[1:])
    table = Table(box=None, pad_edge=False, padding=(0, 1))
    table.add_column(
        columns[0], overflow="ellipsis", no_wrap=True, width=min(widths[0], max(room, _LEAST))
    )
    for column, width in zip(columns[1:], widths[1:], strict=True):
        table.add_column(column, justify="right", no_wrap=True, width=width)
    for row in found:
        table.add_row(*(Text(text) for text in row))
    return table


def one_line(text: str) -> str:
    """Return ``text`` with its line breaks and runs of blanks as single blanks."""
    return " ".join(text.split())


def title_of(info: TraceInfo) -> str:
    """Return what a trace is of: its command, or what made or wrote it."""
    if info.command:
        return one_line(shlex.join(info.command))
    return "trace" if info.source in ("arrays", "recorder") else info.source


def recordings(found: Sequence[Recording]) -> Table:
    """Return what was recorded, one row a process."""
    return table_of(
        ("pid", "calls", "file", "command"),
        ((str(r.pid), f"{r.calls:,}", str(r.path), one_line(shlex.join(r.command))) for r in found),
        cut=True,
    )
