"""``pyalloc article``: the article's figures, printed and simulated."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from cyclopts import Parameter

from pyalloc.cli.output import console, print_json, working
from pyalloc.lab.article import figures
from pyalloc.report.article import table


def article(*, json: Annotated[bool, Parameter(negative="")] = False) -> int:
    """Run the programs of "When Linux Runs Out of Memory" and compare every figure it prints.

    Parameters
    ----------
    json
        Print JSON.
    """
    with working("running programs A and B ..."):
        found = figures()
    if json:
        print_json([{**asdict(figure), "equal": figure.equal} for figure in found])
    else:
        console().print(table(found))
    return 0 if all(figure.equal or figure.why for figure in found) else 1
