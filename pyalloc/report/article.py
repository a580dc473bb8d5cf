"""The article's figures as a table."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from pyalloc.lab.article import Figure


def table(figures: Sequence[Figure]) -> Table:
    """Return one row a figure; what differs says why."""
    out = Table(box=None, pad_edge=False)
    out.add_column("figure", no_wrap=True)
    out.add_column("printed", justify="right", no_wrap=True)
    out.add_column("simulated", justify="right", no_wrap=True)
    out.add_column("")
    for figure in figures:
        remark = "equal" if figure.equal else f"differs: {figure.why or 'not explained'}"
        style = "" if figure.equal else "yellow"
        out.add_row(figure.name, str(figure.printed), str(figure.simulated), remark, style=style)
    return out
