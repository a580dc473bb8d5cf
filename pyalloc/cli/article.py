"""``pyalloc article``: the article's figures, printed, simulated and measured."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from cyclopts import Parameter

from pyalloc.cli.options import Flag
from pyalloc.cli.output import console, print_json, telling
from pyalloc.lab.article import MAP, figures, final_map
from pyalloc.report.article import map_table, render


def article(
    *,
    host: Annotated[bool, Parameter(negative="--no-host")] = True,
    map: Flag = False,  # noqa: A002 - the option's name
    json: Flag = False,
) -> int:
    """Print each figure of "When Linux Runs Out of Memory" beside a simulated and a measured one.

    The article's programs are run on its machine, simulated, and on this one: as 32-bit processes
    of 3 GB, program B in a memory cgroup of 256 MB with 888 MB of swap, for which a swap file is
    made and taken back. That needs root and a compiler for 32 bits; what cannot be run is told.

    Parameters
    ----------
    host
        Run the programs on this machine, too.
    map
        Print program A's final map line by line beside the article's.
    json
        Print JSON.
    """
    if map:
        return _map(json=json)
    with telling() as tell:
        found = figures(tell, on_host=host)
    if json:
        print_json(
            [
                {
                    **asdict(figure),
                    "equal": figure.equal,
                    "verdict": figure.verdict,
                    "measured_equal": figure.measured_equal,
                }
                for figure in found
            ]
        )
    else:
        console().print(render(found, measured=host))
    return 0 if all(figure.equal or figure.why for figure in found) else 1


def _map(*, json: bool) -> int:
    with telling() as tell:
        tell("simulated: program A to NULL")
        lines = final_map()
    if json:
        print_json({"printed": list(MAP), "simulated": lines})
    else:
        console().print(map_table(lines))
    same = [ours.startswith(line) for ours, line in zip(lines, MAP, strict=False)]
    return 0 if len(lines) == len(MAP) and all(same) else 1
