"""Lists of things: allocators, recorded processes."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence

from rich.table import Table
from rich.text import Text

from pyalloc.trace.record import Recording


def table_of(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """Return a plain table; the last column takes what room is left."""
    found = [tuple(row) for row in rows]
    table = Table(box=None, pad_edge=False, expand=True)
    for i, column in enumerate(columns[:-1]):
        width = max(len(text) for text in (column, *(row[i] for row in found)))
        table.add_column(column, no_wrap=True, min_width=width)
    table.add_column(columns[-1], overflow="ellipsis", no_wrap=True, ratio=1)
    for row in found:
        table.add_row(*(Text(text) for text in row))  # as it stands: brackets are no markup
    return table


def one_line(text: str) -> str:
    """Return ``text`` with its line breaks and runs of blanks as single blanks."""
    return " ".join(text.split())


def recordings(found: Sequence[Recording]) -> Table:
    """Return what was recorded, one row a process."""
    return table_of(
        ("pid", "calls", "file", "command"),
        ((str(r.pid), f"{r.calls:,}", str(r.path), one_line(shlex.join(r.command))) for r in found),
    )
