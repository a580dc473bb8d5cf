"""One study: a program, its calls in many orders, and how much each saves."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pyalloc.arguments import whole
from pyalloc.errors import ArgumentError
from pyalloc.lab.examine import allocator_of
from pyalloc.lab.order.calls import Calls, Rows
from pyalloc.lab.order.jitter import jittered
from pyalloc.lab.order.moves import DEFAULT, Arrangement, apply_moves, describe, find_moves
from pyalloc.lab.order.search import Found, Score, score_of, search
from pyalloc.lab.order.windows import windows
from pyalloc.lab.paired import Interval, mean_of
from pyalloc.lab.stage import Stage, stage_for
from pyalloc.lab.trial import touch_of
from pyalloc.machine import ReplaySummary
from pyalloc.nearest import nearest
from pyalloc.trace import Op, Trace, TraceInfo
from pyalloc.workload.catalogue import find_workload, parse_workload, trace_of

RECORDED: Final = "recorded"
BEST, WORST = "best found", "worst found"

METRICS: Final[Mapping[str, str]] = {
    "peak_held": "held at the peak",
    "held": "held at the end",
    "peak_rss": "resident at the peak",
    "jw1": "mean of held over asked",
}
"""What an order is judged by: fields of the summary, of which less is better."""

Tell = Callable[[str, int, int], None]


@dataclass(frozen=True)
class OrderResult:
    """One order: what each repetition came to, beside the program in its own order.

    ``summaries[k]`` and ``base[k]`` are of the same calls; repetition 0 is the program itself.
    """

    name: str
    description: str
    summaries: tuple[ReplaySummary, ...]
    base: tuple[ReplaySummary, ...]

    def saved(self, metric: str) -> Interval:
        """Return how much less ``metric`` is than in the program's own order (paired)."""
        return mean_of([b - o for b, o in self._pairs(metric)])

    def saved_percent(self, metric: str) -> Interval:
        """Return the same in percent of the program's own."""
        return mean_of([100 * (b - o) / b if b else 0.0 for b, o in self._pairs(metric)])

    def _pairs(self, metric: str) -> list[tuple[float, float]]:
        return [
            (float(getattr(b, metric) or 0), float(getattr(o, metric) or 0))
            for b, o in zip(self.base, self.summaries, strict=True)
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON values; bytes and percent."""
        return {
            "name": self.name,
            "description": self.description,
            "requested_peak": self.summaries[0].peak_requested,
            "summary": self.summaries[0].to_dict(),
            "saved": {m: _interval(self.saved(m)) for m in METRICS},
            "saved_percent": {m: _interval(self.saved_percent(m)) for m in METRICS},
        }


def _interval(found: Interval) -> dict[str, float | None]:
    return {"mean": found.mean, "low": found.low, "high": found.high}


@dataclass(frozen=True, eq=False)
class OrderStudy:
    """What :func:`order` found.

    Attributes
    ----------
    results
        One an order, the program's own (``recorded``) first; then as asked for; what a search
        found last.
    by
        The metric the search was for.
    window
        Calls of a window; ``windows`` says how many there are.
    repeats
        Repetitions, the program itself among them; ``varied`` says what differs between them.
    """

    trace: Trace
    allocator: str
    touch: str
    by: str
    window: int
    windows: int
    repeats: int
    varied: str
    results: tuple[OrderResult, ...]
    orders: Mapping[str, Rows]
    searches: Mapping[str, Found]

    def __repr__(self) -> str:
        return (
            f"<OrderStudy of {len(self.trace):,} calls: {len(self.results)} orders,"
            f" {self.best().name} is best by {self.by}>"
        )

    def __getitem__(self, name: str) -> OrderResult:
        """Return the result of one order."""
        for result in self.results:
            if result.name == name:
                return result
        message = f"no order {name!r} in this study{nearest(name, [r.name for r in self])}"
        raise ArgumentError(message)

    def __iter__(self) -> Iterator[OrderResult]:
        """Yield every result."""
        return iter(self.results)

    @property
    def guesses(self) -> bool:
        """Whether an order moved frees past calls, and no access says how far they may go."""
        moved = {"immediate", BEST, WORST} & {result.name for result in self.results}
        return bool(moved) and not (self.trace.op == Op.TOUCH).any()

    def best(self, metric: str | None = None) -> OrderResult:
        """Return the order that saves most of ``metric``; the program's own if none does."""
        chosen = metric or self.by
        return max(self.results, key=lambda r: r.saved(chosen).mean)

    def reordered(self, name: str) -> Trace:
        """Return the trace with its calls in one of the orders."""
        calls = Calls(self.trace)
        order = self.orders[self[name].name]
        columns = {n: c[order] for n, c in self.trace.columns.items() if n != "address"}
        columns |= calls.columns(order)
        info = self.trace.info
        kept = TraceInfo(
            source=f"{info.source}, order {name}",
            command=info.command,
            glibc=info.glibc,
            arch=info.arch,
            cpus=info.cpus,
            brk_start=info.brk_start,
            maps=info.maps,
            sites=info.sites,
        )
        return Trace(columns, kept)

    def to_dict(self) -> dict[str, Any]:
        """Return the study as JSON values."""
        return {
            "command": list(self.trace.info.command),
            "calls": len(self.trace),
            "allocator": self.allocator,
            "touch": self.touch,
            "by": self.by,
            "window": self.window,
            "windows": self.windows,
            "repeats": self.repeats,
            "varied": self.varied,
            "best": self.best().name,
            "orders": [result.to_dict() for result in self.results],
            "searches": {
                name: {"replays": found.replays, "steps": list(found.steps)}
                for name, found in self.searches.items()
            },
        }


# --- the study


@dataclass(frozen=True)
class _Instance:
    """One repetition: its calls, and the order they have in it."""

    calls: Calls
    starts: Rows
    order: Rows
    stage: Stage
    seed: int


def order(
    subject: Trace | str | os.PathLike[str],
    orders: Iterable[str] | Mapping[str, npt.ArrayLike] | None = None,
    *,
    allocator: str | None = None,
    arch: str | None = None,
    tunables: Mapping[str, int | str] | None = None,
    touch: str | None = None,
    window: int | None = None,
    repeats: int = 5,
    search: int = 50,
    by: str = "peak_held",
    seed: int = 0,
    workers: int | None = None,
    executor: Executor | None = None,
    tell: Tell | None = None,
) -> OrderStudy:
    """Replay the calls of a program in other legal orders and say what each would save.

    Parameters
    ----------
    subject
        A trace, a trace file or a workload (``"fifo:count=100000"``).
    orders
        Names out of :data:`MOVES`, ``"A+B"`` for one after the other; by default :data:`DEFAULT`.
        Or a mapping of names to orders of your own: row numbers in their new order.
    allocator, arch, tunables, touch
        As in :func:`pyalloc.replay`; ``touch`` by default as recorded, else every block is written.
    window
        Calls inside which a call may move, extended to the end of a run of allocations or frees;
        by default a tenth of the trace.
    repeats
        Repetitions: the program itself and its neighbours, or seeds of a workload.
    search
        Replays to spend on finding the best order, and as many on the worst; 0 is none.
    by
        One of :data:`METRICS`: what the search is for.
    seed
        Seed of everything that is drawn.
    workers, executor
        Threads to use, by default one a processor; or an executor that shares this memory.
    tell
        Hears of the progress: what, how much of how much.

    Raises
    ------
    ArgumentError
        The trace is too short to judge an order by, an order is unknown or not legal, or an
        argument is outside its domain.
    """
    if by not in METRICS:
        message = f"by must be one of {', '.join(METRICS)} (got {by!r})"
        raise ArgumentError(message)
    whole(repeats, "repeats", 1)
    whole(search, "search")
    whole(seed, "seed")
    names = _names(orders)
    study = _Study(subject, allocator, arch, tunables, touch, window, repeats, seed)
    if isinstance(orders, Mapping):
        study.take(orders)
    workers = workers or len(os.sched_getaffinity(0))
    if executor is None:
        with ThreadPoolExecutor(workers) as own:
            return study.run(own, names, search, by, tell)
    return study.run(executor, names, search, by, tell)


def _names(orders: Iterable[str] | Mapping[str, npt.ArrayLike] | None) -> tuple[str, ...]:
    if isinstance(orders, Mapping):
        return tuple(orders)
    names = DEFAULT if orders is None else tuple(dict.fromkeys(orders))
    for name in names:
        find_moves(name)
    return names


class _Study:
    """A study under way."""

    def __init__(
        self,
        subject: Trace | str | os.PathLike[str],
        allocator: str | None,
        arch: str | None,
        tunables: Mapping[str, int | str] | None,
        touch: str | None,
        window: int | None,
        repeats: int,
        seed: int,
    ) -> None:
        traces = _seeded(subject, repeats, seed)
        self.varied = f"{repeats} seeds of the workload"
        if traces is None:
            self.varied = f"{repeats} runs, neighbouring calls exchanged in all but the first"
            traces = [subject if isinstance(subject, Trace) else trace_of(subject)] * repeats
        if repeats == 1:
            self.varied = "one run"
        self.trace = traces[0]
        self.allocator = allocator or allocator_of(self.trace)
        self.touch = touch or touch_of(self.trace)
        self.tunables = dict(tunables or {})
        self.seed = seed
        self.instances = list(self._instances(traces, arch, window))
        self.given: dict[str, Rows] = {}

    def _instances(
        self, traces: Sequence[Trace], arch: str | None, window: int | None
    ) -> Iterable[_Instance]:
        calls = made = None
        for k, trace in enumerate(traces):
            if made is not trace or calls is None:
                calls, made = Calls(trace), trace
                calls.require_enough()
                starts = windows(calls, window)
                stage = stage_for(trace, arch)
            a = Arrangement(calls, starts)
            again = k > 0 and trace is traces[0]
            own = jittered(a, self.seed + k) if again else a.order
            yield _Instance(calls, starts, own, stage, self.seed + k)

    def take(self, orders: Mapping[str, npt.ArrayLike]) -> None:
        """Check orders of the user's own."""
        calls = self.instances[0].calls
        if any(i.calls is not calls for i in self.instances):
            message = "orders of your own need a trace, not the seeds of a workload"
            raise ArgumentError(message)
        for name, rows in orders.items():
            try:
                self.given[name] = calls.check(rows)
            except ArgumentError as error:
                message = f"order {name!r}: {error}"
                raise ArgumentError(message) from None

    # --- running

    def measure(self, k: int, rows: Rows) -> ReplaySummary:
        """Replay the calls of repetition ``k`` in an order."""
        instance = self.instances[k]
        columns = instance.calls.columns(rows)
        summary, error = instance.stage.replay(
            columns, self.allocator, tunables=self.tunables, touch=self.touch
        )
        if error is not None:
            message = f"the program does not run to its end: call {error.row}: {error.message}"
            raise ArgumentError(message)
        return summary

    def ordered(self, k: int, name: str, found: Mapping[str, Rows]) -> Rows:
        """Return the order ``name`` of repetition ``k``."""
        at = self.instances[k]
        if name == RECORDED:
            return at.order
        if name not in found:
            return apply_moves(Arrangement(at.calls, at.starts, at.order), name, at.seed)
        a = Arrangement(at.calls, at.starts, found[name])  # an order of the first one's rows
        return a.order if k == 0 else jittered(a, at.seed)

    def run(
        self, pool: Executor, names: Sequence[str], budget: int, by: str, tell: Tell | None
    ) -> OrderStudy:
        """Replay everything."""
        every = [RECORDED, *names]
        runs = self._run_all(pool, every, range(len(self.instances)), self.given, tell)
        orders = {name: self.ordered(0, name, self.given) for name in every}
        searches = self._search(pool, orders, runs, budget, by, tell) if budget else {}
        found = {name: s.order for name, s in searches.items()}
        repeats = range(len(self.instances)) if self._one_trace else range(1)
        runs |= self._run_all(pool, list(found), repeats, found, tell)
        return OrderStudy(
            trace=self.trace,
            allocator=self.allocator,
            touch=self.touch,
            by=by,
            window=int(np.diff(self.instances[0].starts, append=len(self.trace)).max()),
            windows=len(self.instances[0].starts),
            repeats=len(self.instances),
            varied=self.varied,
            results=tuple(self._result(name, runs) for name in [*every, *found]),
            orders=orders | found,
            searches=searches,
        )

    @property
    def _one_trace(self) -> bool:
        return all(i.calls is self.instances[0].calls for i in self.instances)

    def _result(self, name: str, runs: Mapping[tuple[str, int], ReplaySummary]) -> OrderResult:
        repeats = [k for k in range(len(self.instances)) if (name, k) in runs]
        words = {RECORDED: "as the program calls", BEST: "by search", WORST: "by search"}
        text = "given" if name in self.given else words.get(name) or describe(name)
        return OrderResult(
            name,
            text,
            tuple(runs[name, k] for k in repeats),
            tuple(runs[RECORDED, k] for k in repeats),
        )

    def _run_all(
        self,
        pool: Executor,
        names: Sequence[str],
        repeats: Iterable[int],
        found: Mapping[str, Rows],
        tell: Tell | None,
    ) -> dict[tuple[str, int], ReplaySummary]:
        tasks: dict[Future[ReplaySummary], tuple[str, int]] = {
            pool.submit(self._one, k, name, found): (name, k) for k in repeats for name in names
        }
        done: dict[tuple[str, int], ReplaySummary] = {}
        try:
            for future in as_completed(tasks):
                done[tasks[future]] = future.result()
                if tell:
                    tell("replaying orders", len(done), len(tasks))
        finally:
            for future in tasks:
                future.cancel()
        return done

    def _one(self, k: int, name: str, found: Mapping[str, Rows]) -> ReplaySummary:
        return self.measure(k, self.ordered(k, name, found))

    def _search(
        self,
        pool: Executor,
        orders: Mapping[str, Rows],
        runs: Mapping[tuple[str, int], ReplaySummary],
        budget: int,
        by: str,
        tell: Tell | None,
    ) -> dict[str, Found]:
        scores = {name: score_of(runs[name, 0], by) for name in orders}
        spent = [0]

        def measure(rows: Rows) -> Score:
            score = score_of(self.measure(0, rows), by)
            spent[0] += 1
            if tell:
                tell("searching", spent[0], 2 * budget)
            return score

        first = self.instances[0]
        tasks = {}
        for name, begin in (
            (BEST, min(scores, key=scores.__getitem__)),
            (WORST, max(scores, key=scores.__getitem__)),
        ):
            tasks[name] = pool.submit(
                search,
                first.calls,
                first.starts,
                orders[begin],
                measure,
                budget=budget,
                seed=self.seed,
                worst=name == WORST,
            )
        return {name: task.result() for name, task in tasks.items()}


def _seeded(subject: Trace | str | os.PathLike[str], repeats: int, seed: int) -> list[Trace] | None:
    """Return the traces of a workload's seeds; None if it is none, or nothing in it is random."""
    if not isinstance(subject, str) or os.path.lexists(subject) or repeats == 1:
        return None
    name = subject.partition(":")[0]
    try:
        find_workload(name)
    except ArgumentError:
        return None
    found, parameters = parse_workload(subject)
    if "seed" in parameters:
        return None
    traces = [found.make(**{**found.settings(parameters), "seed": seed + k}) for k in range(2)]
    if traces[0] == traces[1]:
        return None
    return traces + [
        found.make(**{**found.settings(parameters), "seed": seed + k}) for k in range(2, repeats)
    ]
