"""``pyalloc workload``: the programs there are by name, what they take, and their traces."""

from __future__ import annotations

from typing import Any

from pyalloc.cli.options import Flag, Output, OutputFormat, check_free
from pyalloc.cli.output import console, print_json, working
from pyalloc.errors import ArgumentError
from pyalloc.report.listing import table_of
from pyalloc.units import format_size
from pyalloc.workload.catalogue import WORKLOADS, Workload, parse_workload


def workload(
    name: str | None = None,
    /,
    *,
    output: Output | None = None,
    to: OutputFormat | None = None,
    force: Flag = False,
    json: Flag = False,
) -> int:
    """List the workloads, explain one, or write its trace.

    Parameters
    ----------
    name
        NAME or NAME:KEY=VALUE,...; without it, all are listed.
    output
        The file for the trace; without it, the workload is only explained.
    to
        The format of the file; by default the one its name ends with, or else Parquet.
    force
        Overwrite the file if it exists.
    json
        Print JSON.
    """
    if name is None:
        if output is not None:
            message = "which workload is to be written? pyalloc workload NAME -o FILE"
            raise ArgumentError(message)
        return _list(json=json)
    found, written = parse_workload(name)
    parameters = found.settings(written)
    if output is None:
        return _explain(found, json=json)
    check_free(output, force=force, how="--force")
    with working("making the calls ..."):
        trace = found.make(**parameters)
        trace.write(output, to, overwrite=force)
    peak = int(trace.live_bytes().max(initial=0))
    if json:
        print_json({"path": str(output), "calls": len(trace), "peak_requested": peak})
    else:
        console().print(
            f"{output}: {len(trace):,} calls, peak {format_size(peak)} requested",
            markup=False,
            soft_wrap=True,
        )
    return 0


def _list(*, json: bool) -> int:
    if json:
        print_json([_as_json(each) for each in WORKLOADS.values()])
        return 0
    out = console()
    out.print(table_of(("name", ""), ((w.name, w.description) for w in WORKLOADS.values())))
    out.print('\n"pyalloc workload NAME" explains one.')
    return 0


def _explain(found: Workload, *, json: bool) -> int:
    if json:
        print_json(_as_json(found))
        return 0
    out = console()
    out.print(f"{found.name}: {found.description}\n")
    rows = ((n, str(d), found.meanings[n]) for n, d in found.parameters.items())
    table = table_of(("parameter", "default", ""), rows)
    out.print(table)
    return 0


def _as_json(found: Workload) -> dict[str, Any]:
    return {
        "name": found.name,
        "description": found.description,
        "parameters": {
            n: {"default": default, "meaning": found.meanings[n]}
            for n, default in found.parameters.items()
        },
    }
