"""``pyalloc allocators``: what a trace can be replayed on."""

from __future__ import annotations

from pyalloc.cli.options import Flag
from pyalloc.cli.output import console, print_json
from pyalloc.lab.allocators import allocators as all_allocators
from pyalloc.report.listing import table_of


def allocators(*, json: Flag = False) -> int:
    """List the allocators there are, and what each changes.

    Parameters
    ----------
    json
        Print JSON.
    """
    found = all_allocators()
    if json:
        print_json([{"name": a.name, "description": a.description} for a in found])
    else:
        console().print(table_of(("name", ""), ((a.name, a.description) for a in found)))
    return 0
