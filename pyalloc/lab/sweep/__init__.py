"""Sweeps: experiments over any parameter of program, allocator, settings and machine.

=========================================  ========================================================
:mod:`~pyalloc.lab.sweep.parameters`       what can be varied, and how values are written
:mod:`~pyalloc.lab.sweep.plan`             which points there are: a grid, or a design by draw
:mod:`~pyalloc.lab.sweep.point`            one point, from its parameters to a row
:mod:`~pyalloc.lab.sweep.batch`            rows on their way, as columns
:mod:`~pyalloc.lab.sweep.run`              points go out in jobs, rows come back
:mod:`~pyalloc.lab.sweep.pool`             processes of our own, any executor, a Dask cluster
:mod:`~pyalloc.lab.sweep.store`            the folder of Parquet files
:mod:`~pyalloc.lab.sweep.results`          what came out: the table, failures, effects
=========================================  ========================================================
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import numpy as np
from arro3.core import Table

from pyalloc.errors import ArgumentError
from pyalloc.lab.sweep import pool
from pyalloc.lab.sweep.plan import DESIGNS, MOST_POINTS, Plan, Subject, plan
from pyalloc.lab.sweep.results import Effect, Failure, Sweep
from pyalloc.lab.sweep.run import Tell, run
from pyalloc.lab.sweep.store import Store
from pyalloc.trace import Trace

__all__ = [
    "DESIGNS",
    "MOST_POINTS",
    "Effect",
    "Failure",
    "Plan",
    "Subject",
    "Sweep",
    "plan",
    "sweep",
]


def sweep(
    subjects: Subject | Sequence[Subject],
    parameters: Mapping[str, object] | None = None,
    *,
    design: str = "grid",
    points: int | None = None,
    seed: int = 0,
    most: int = 1_000_000,
    output: str | os.PathLike[str] | None = None,
    retry: bool = False,
    workers: int | None = None,
    executor: Executor | None = None,
    dask: str | None = None,
    tell: Tell | None = None,
) -> Sweep:
    """Run an experiment at every point of a plan.

    Parameters
    ----------
    subjects
        Traces, trace files, workloads (``"fifo:live=5000"``), one or several.
    parameters
        Values by name, as :mod:`~pyalloc.lab.sweep.parameters` has them:
        ``{"allocator": ["glibc-2.36", "first-fit"], "mmap_threshold": "64K,1M", "seed": "1..9"}``.
    design
        ``"grid"`` takes every combination, ``"lhs"`` and ``"random"`` draw ``points`` of them, and
        from intervals (``"16K~1M:log"``).
    seed
        Seed of a design by draw.
    most
        Refuse a plan of more points than this.
    output
        A folder: rows are kept there as they come; a sweep that was stopped goes on where it was.
    retry
        Run points that failed again.
    workers
        Processes to use; by default one a processor.  1 runs everything in this process.
    executor
        Anything of ``concurrent.futures`` to run on instead.
    dask
        The address of a Dask scheduler to run on instead (``"tcp://..."``).
    tell
        Hears of the progress: what, how much of how much.

    Returns
    -------
    Sweep
        One row a point; the same whoever ran it.

    Raises
    ------
    ArgumentError
        No points or too many, an unknown parameter or value, or a folder that holds something else.
    """
    made = plan(
        [subjects] if isinstance(subjects, Trace | str | Path) else list(subjects),
        parameters or {},
        design=design,
        points=points,
        seed=seed,
        most=most,
    )
    if workers is not None and workers < 1:
        message = f"workers must be 1 or more (got {workers!r})"
        raise ArgumentError(message)
    if executor is not None and dask is not None:
        message = "give an executor or the address of a Dask cluster, not both"
        raise ArgumentError(message)
    gathered: list[Table] = []
    kept = Store(Path(output), made) if output is not None else contextlib.nullcontext()
    with kept as store:
        before = store.done(failed=not retry) if store else np.zeros(len(made), bool)
        todo = np.flatnonzero(~before)
        with _hands(len(todo), workers, executor, dask) as (make, width):
            run(
                made,
                todo,
                store.append if store else gathered.extend,
                make=make,
                width=width,
                tell=tell,
            )
        return Sweep.of(made, store.tables() if store else gathered)


@contextlib.contextmanager
def _hands(
    count: int, workers: int | None, executor: Executor | None, dask: str | None
) -> Iterator[tuple[Callable[[], Any] | None, int]]:
    """Yield what makes an executor, and how many jobs it does at a time."""
    if dask is not None:
        with pool.dask_executor(dask) as (found, width):
            yield lambda: contextlib.nullcontext(found), width
    elif executor is not None:
        yield lambda: contextlib.nullcontext(executor), pool.width_of(executor)
    else:
        width = min(workers or pool.processors(), max(count, 1))
        yield (None if width == 1 else lambda: pool.processes(width)), width
