"""``pyalloc sweep``: an experiment at every point of a plan."""

from __future__ import annotations

import time
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from cyclopts import Parameter

from pyalloc.cli.dashes import count_behind
from pyalloc.cli.options import Count, Flag, Seed
from pyalloc.cli.output import console, print_json, progressing
from pyalloc.errors import ArgumentError
from pyalloc.lab.sweep import sweep as run_sweep
from pyalloc.machine.metrics import FIGURES
from pyalloc.nearest import nearest
from pyalloc.report.sweep import render

_KEYS: Final = ("programs", "design", "points", "draw_seed", "parameters")


def sweep(
    *programs: Annotated[str, Parameter(help="Trace files, or workloads by name.", negative="")],
    plan: Path | None = None,
    design: Literal["grid", "lhs", "random"] | None = None,
    points: Count | None = None,
    draw_seed: Seed | None = None,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    retry: Flag = False,
    workers: Count | None = None,
    dask: str | None = None,
    most: Count = 1_000_000,
    by: str = "peak_held",
    json: Flag = False,
    **parameters: Annotated[
        str,
        Parameter(
            help="A parameter and its values: 64K,128K or 1..10 or 64K..1M*2.", metavar="VALUES"
        ),
    ],
) -> int:
    """Replay at every point of a grid, or of a design by draw, over any parameter.

    pyalloc sweep larson --allocator glibc-2.36,glibc-2.12 --mmap-threshold 64K..1M*2 --seed 1..10

    Exits with 1 if a point cannot be run; a program that dies at a point is a result.

    Parameters
    ----------
    plan
        A TOML file: programs, design, points, draw_seed, a table of parameters; options here win.
    design
        grid: every combination; lhs: a Latin hypercube; random: independent draws.
    points
        Points of a design by draw; its parameters may be intervals, 16K~1M or 16K~1M:log.
    draw_seed
        Seed of a design by draw.
    output
        Keep rows in this folder as they come; a sweep that was stopped goes on there.
    retry
        Run points again that failed.
    workers
        Processes to use; by default one a processor.
    dask
        Run on the Dask cluster whose scheduler has this address (tcp://...).
    most
        Refuse a plan of more points than this.
    by
        The figure to show by parameter: any of the summary, less is better.
    json
        Print JSON.
    """
    if count_behind():
        message = "record the command first (pyalloc record -o FILE -- CMD) and sweep over FILE"
        raise ArgumentError(message)
    if by not in FIGURES:
        message = f"no figure {by!r}{nearest(by, FIGURES)}"
        raise ArgumentError(message)
    written = _read(plan) if plan else {}
    values = dict(written.get("parameters", {}))
    values |= {name.replace("-", "_"): value for name, value in parameters.items()}
    began = time.monotonic()
    with progressing() as tell:
        found = run_sweep(
            list(programs) or _programs(written, plan),
            values,
            design=design or written.get("design", "grid"),
            points=points if points is not None else written.get("points"),
            seed=draw_seed if draw_seed is not None else written.get("draw_seed", 0),
            output=output,
            retry=retry,
            workers=workers,
            dask=dask,
            most=most,
            tell=tell,
        )
    if json:
        print_json(found.to_dict(by))
    else:
        console().print(render(found, by, time.monotonic() - began))
    return 1 if found.failures else 0


def _read(plan: Path) -> Mapping[str, Any]:
    """Return what a plan file says."""
    try:
        found = tomllib.loads(plan.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        message = f"{plan}: {error}"
        raise ArgumentError(message) from None
    for key in found:
        if key not in _KEYS:
            message = f"{plan}: no key {key!r}{nearest(key, _KEYS)}"
            raise ArgumentError(message)
    if not isinstance(found.get("parameters", {}), dict):
        message = f"{plan}: parameters is a table of names and values"
        raise ArgumentError(message)
    return found


def _programs(written: Mapping[str, Any], plan: Path | None) -> Sequence[str]:
    """Return the programs of a plan file; its traces are named as seen from it."""
    given = written.get("programs", [])
    names = [given] if isinstance(given, str) else given
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        message = f"{plan}: programs is a list of trace files and workloads"
        raise ArgumentError(message)
    beside = plan.parent if plan else Path()
    return [str(beside / name) if (beside / name).exists() else name for name in names]
