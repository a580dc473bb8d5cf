"""A sweep under way: points go out in jobs, rows come back and are kept.

A job is worth about a quarter of a second, so that handing it over costs nothing to speak of and
little is lost when a run is killed.  Rows are kept at least every half second; later, when a
hundredth of the time so far has passed, so that a long sweep is not a hundred thousand files.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt
from arro3.core import Table

from pyalloc.errors import WorkerError
from pyalloc.lab.sweep.batch import Batch, Row, schema_of
from pyalloc.lab.sweep.plan import Plan, Point
from pyalloc.lab.sweep.point import Job, run_job

Tell = Callable[[str, int, int], None]
Keep = Callable[[Sequence[Table]], None]

_JOB_SECONDS: Final = 0.25
_MOST_POINTS: Final = 1000
_KEEP_SECONDS: Final = 0.5
_KEEP_SHARE: Final = 0.01


@dataclass
class _Pace:
    """How many points a job has, by how long points have taken."""

    points: int = 0
    seconds: float = 0.0

    def note(self, batch: Batch) -> None:
        """Take note of what came back."""
        self.points += len(batch)
        self.seconds += batch.seconds
        if self.points > 10 * _MOST_POINTS:  # the program may have changed: forget by halves
            self.points, self.seconds = self.points // 2, self.seconds / 2

    def size(self) -> int:
        """Return the number of points of the next job."""
        if not self.points:
            return 1
        each = max(self.seconds / self.points, 1e-6)
        return max(1, min(int(_JOB_SECONDS / each), _MOST_POINTS, 4 * self.points))


@dataclass
class _Keeper:
    """Rows that have come back and are not kept yet."""

    keep: Keep
    began: float = field(default_factory=time.monotonic)
    last: float = field(default_factory=time.monotonic)
    tables: list[Table] = field(default_factory=list)

    def add(self, table: Table) -> None:
        """Take rows, and keep all of them if it is time."""
        self.tables.append(table)
        now = time.monotonic()
        if now - self.last >= max(_KEEP_SECONDS, _KEEP_SHARE * (now - self.began)):
            self.flush()

    def flush(self) -> None:
        """Keep everything."""
        self.keep(self.tables)
        self.tables = []
        self.last = time.monotonic()


def jobs(plan: Plan, todo: npt.NDArray[np.int64], size: Callable[[], int]) -> Iterator[Job]:
    """Yield the points of ``todo`` in jobs of one program each."""
    schema = schema_of(plan)
    at = 0
    while at < len(todo):
        points: list[Point] = []
        most = size()
        while at < len(todo) and len(points) < most:
            point = plan.point(int(todo[at]))
            if points and point.subject != points[0].subject:
                break
            points.append(point)
            at += 1
        yield Job(
            plan.subjects[points[0].subject],
            plan.names[points[0].subject],
            [(p.number, p.parameters) for p in points],
            schema,
        )


def run(
    plan: Plan,
    todo: npt.NDArray[np.int64],
    keep: Keep,
    *,
    make: Callable[[], Executor] | None,
    width: int,
    tell: Tell | None,
) -> None:
    """Run the points of ``todo`` and keep their rows.

    Without ``make`` they are run here, one by one.  A worker that dies takes its job with it: that
    is done again point by point, and the point that kills a worker again is a row with its error.
    """
    pace, keeper = _Pace(), _Keeper(keep)
    done = len(plan) - len(todo)

    def take(batch: Batch) -> None:
        nonlocal done
        pace.note(batch)
        keeper.add(batch.table)
        done += len(batch)
        if tell:
            tell("sweeping", done, len(plan))

    try:
        queue = jobs(plan, todo, pace.size)
        if make is None:
            for job in queue:
                take(run_job(job))
        else:
            _run_on(make, width, queue, take)
    finally:
        keeper.flush()


def _run_on(
    make: Callable[[], Executor],
    width: int,
    queue: Iterator[Job],
    take: Callable[[Batch], None],
) -> None:
    lost = _feed(make, width, queue, take, started=False)
    while lost:
        suspects = [Job(j.subject, j.name, [p], j.schema) for j in lost for p in j.points]
        lost = []
        for job in suspects:
            died = _feed(make, 1, iter([job]), take, started=True)
            if died:
                take(Batch.of([_died(job)], job.schema))
        lost = _feed(make, width, queue, take, started=True)


def _died(job: Job) -> Row:
    number, parameters = job.points[0]
    error = "the worker process died of it"
    row: Row = {"point": number, "program": job.name, **parameters}
    return row | {"error": error, "seconds": 0.0}


def _feed(
    make: Callable[[], Executor],
    width: int,
    queue: Iterator[Job],
    take: Callable[[Batch], None],
    *,
    started: bool,
) -> list[Job]:
    """Keep ``2 * width`` jobs under way; return those that were lost when a worker died."""
    under_way: dict[Future[Batch], Job] = {}
    job: Job | None = None
    with make() as executor:
        try:
            while True:
                while len(under_way) < 2 * width and (job := next(queue, None)) is not None:
                    under_way[executor.submit(run_job, job)] = job
                    job = None
                if not under_way:
                    return []
                ready, _ = wait(under_way, return_when=FIRST_COMPLETED)
                for future in ready:
                    take(future.result())
                    del under_way[future]
                    started = True
        except BrokenProcessPool:
            if not started:
                message = (
                    "the workers of the sweep do not start; a script that sweeps needs the guard "
                    "if __name__ == '__main__':, or give an executor"
                )
                raise WorkerError(message) from None
            refused = [job] if job is not None else []
            return [j for future, j in under_way.items() if not _took(future, take)] + refused
        except BaseException:
            for future in under_way:
                future.cancel()
            raise


def _took(future: Future[Batch], take: Callable[[Batch], None]) -> bool:
    """Take what a future has, if it has something."""
    if not future.done() or future.cancelled() or future.exception() is not None:
        return False
    take(future.result())
    return True
