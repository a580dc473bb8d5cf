"""Running a scenario: one queue of what is to happen, one simulated clock.

Programs take turns.  Each runs until it waits; when it goes on is decided by its own waiting and by
the time its calls took, and of two that are due at the same time the one that began to wait first
goes first.  So one seed gives one order of events.
"""

from __future__ import annotations

import heapq
import itertools
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from pyalloc.arguments import whole
from pyalloc.errors import (
    ArgumentError,
    EndlessFault,
    HeapAbort,
    KernelPanic,
    MemoryFault,
    ProcessKilled,
    ScenarioError,
)
from pyalloc.lab.simulation import OOM, RUNNING, Event, Outcome, Simulation
from pyalloc.lab.timeline import Timeline, rows_of
from pyalloc.machine import Cgroup, File, Machine, OomEvent, Process
from pyalloc.units import PAGE, format_duration, format_size, parse_duration
from pyalloc.workload.programs import Job, Program, program
from pyalloc.workload.scenario import ChangeSpec, ProcessSpec, Scenario, load_scenario
from pyalloc.workload.scenario.stage import cgroups_on, files_on, machine_of, spawn

FOREVER: Final = float("inf")
_LOOK: Final = 1.0  # seconds from one look at a cgroup to the next
_QUIET: Final = 60.0  # seconds after which the same thing is news again
_MOST_AT_ONCE: Final = 100_000  # steps without time passing


def simulate(
    scenario: Scenario | Mapping[str, Any] | str | Path,
    *,
    seed: int | None = None,
    until: float | str | None = None,
    samples: int = 500,
    progress: Callable[[float], None] | None = None,
    enough: Callable[[Event], bool] | None = None,
) -> Simulation:
    """Run a scenario and return what happened.

    Parameters
    ----------
    scenario
        A :class:`pyalloc.Scenario`, plain data of one, the path of a TOML file, or the name of one
        that comes with the package (:func:`pyalloc.scenarios`).
    seed
        In place of the scenario's own.
    until
        Seconds, or text such as ``"10min"``, after which it stops; by default its ``duration``.
    samples
        How many samples the timeline has, up to twice as many.
    progress
        Called with the share of the time that has passed, now and then.
    enough
        Called with each event; the simulation ends where it returns True.

    Raises
    ------
    ScenarioError
        It cannot be run, or one of its own programs raised an error.

    Examples
    --------
    >>> import pyalloc as pa
    >>> small = {"machine": {"ram": "64M"}, "process": [{"name": "a", "program": "leak"}]}
    >>> pa.simulate(small).killed
    ('a',)
    """
    if isinstance(scenario, str | Path):
        scenario = load_scenario(scenario)
    elif not isinstance(scenario, Scenario):
        scenario = Scenario.from_dict(scenario)
    else:
        scenario.check()
    chosen = whole(scenario.seed if seed is None else seed, "seed")
    stage = _Stage(scenario, chosen, whole(samples, "samples", 1), enough)
    stage.run(parse_duration(scenario.duration if until is None else until, "until"), progress)
    return stage.result()


@dataclass(slots=True)
class _Run:
    """One process on its way."""

    spec: ProcessSpec
    copy: int
    program: Program
    job: Job
    steps: Iterator[float]
    started: float
    ended: float | None = None
    peak_swap: int = 0

    @property
    def process(self) -> Process:
        return self.job.process


class _Stage:
    """The machine of a scenario, and all that is to happen on it."""

    def __init__(
        self,
        scenario: Scenario,
        seed: int,
        samples: int,
        enough: Callable[[Event], bool] | None = None,
    ) -> None:
        self._enough = enough
        self.scenario = scenario
        self.seed = seed
        self.machine: Machine = machine_of(scenario.machine, seed)
        self.cgroups = cgroups_on(self.machine, scenario.cgroups)
        self.files: Mapping[str, File] = files_on(self.machine, scenario.files)
        self.programs = {spec.name: program(spec.program) for spec in scenario.processes}
        self.runs: list[_Run] = []
        self.alive: dict[int, _Run] = {}
        self.happened: list[Event] = []
        self.timeline = Timeline(samples, self._rows)
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._number = itertools.count()
        self._restarts: dict[str, int] = {}
        self._kills_seen = 0
        self._news = _News(self)
        self._over = False
        for spec in scenario.processes:
            self._schedule_starts(spec)
        for change in scenario.changes:
            self._at(parse_duration(change.at), partial(self._change, change))

    # --- the queue ----------------------------------------------------------------------

    def _at(self, time: float, action: Callable[[], None]) -> None:
        if time < FOREVER:
            heapq.heappush(self._queue, (time, next(self._number), action))

    def _schedule_starts(self, spec: ProcessSpec) -> None:
        start, every = parse_duration(spec.start), parse_duration(spec.every)
        for copy in range(spec.copies):
            self._at(start + copy * every, partial(self._start, spec, copy))
        if spec.stop is not None:
            self._at(parse_duration(spec.stop), partial(self._signal, spec.name, "SIGTERM"))

    def run(self, until: float, progress: Callable[[float], None] | None) -> None:
        """Let everything happen that is due before ``until``."""
        at_once = steps = 0
        while self._queue and not self._over:
            time, _, action = heapq.heappop(self._queue)
            if time > until:
                self.machine.advance(max(until - self.machine.clock, 0.0))
                break
            now = self.machine.clock
            at_once = at_once + 1 if time <= now else 0
            if at_once > _MOST_AT_ONCE:
                when = format_duration(time)
                message = f"{_MOST_AT_ONCE:,} steps at {when}: does a program yield 0 forever?"
                raise ScenarioError(message)
            if self.timeline.is_due(time):
                self._sample()
            if time > now:
                self.machine.advance(time - now)
            action()
            steps += 1
            if progress is not None and steps % 4096 == 0:
                progress(min(time / until, 1.0) if until else 1.0)
        self._sample()

    # --- processes ----------------------------------------------------------------------

    def _label(self, spec: ProcessSpec, copy: int) -> str:
        return spec.name if spec.copies == 1 else f"{spec.name}-{copy + 1}"

    def _start(self, spec: ProcessSpec, copy: int) -> None:
        label = self._label(spec, copy)
        again = self._restarts.get(label, 0)
        seed = (self.seed, zlib.crc32(label.encode()), again)
        try:
            process = spawn(self.machine, spec, self.cgroups)
        except (ProcessKilled, EndlessFault) as end:
            self.report(None, "refused", f"{label} cannot start: {end}")
            return
        job = Job(self, process, label, seed)
        what = self.programs[spec.name]
        self._begin(_Run(spec, copy, what, job, what(job), self.machine.clock))
        self.report(job, "start", f"restart {again}" if again else str(what))

    def _begin(self, run: _Run) -> None:
        self.runs.append(run)
        self.alive[run.process.pid] = run
        self._at(self.machine.clock, partial(self._step, run))

    def fork(self, job: Job, run: Callable[[Job], Iterator[float]]) -> Job:
        """Fork the job's process and let the child run."""
        parent = self.alive[job.process.pid]
        process = job.process.fork()
        child = Job(self, process, job.label, (*job.seed, process.pid))
        what = run if isinstance(run, Program) else parent.program
        self._begin(_Run(parent.spec, -1, what, child, run(child), self.machine.clock))
        self.report(child, "start", f"forked by {job.process.pid}")
        return child

    def _step(self, run: _Run) -> None:
        if not run.process.alive:
            return
        try:
            wait = next(run.steps)
        except StopIteration as end:
            self._exit(run, end.value)
        except (ProcessKilled, HeapAbort):
            pass
        except MemoryFault as fault:
            run.process.kill("SIGBUS" if fault.signal == 7 else "SIGSEGV")
        except (KernelPanic, EndlessFault) as end:
            self._halt(run, end)
        except OSError as error:
            self.report(run.job, "refused", f"a system call failed: {error.strerror}")
            self._exit(run, 1)
        except ScenarioError:
            raise
        except Exception as error:
            raise self._program_error(run, error) from error
        else:
            self._at(self.machine.clock + self._checked(run, wait), partial(self._step, run))
        self._take_notice(run)

    def _checked(self, run: _Run, wait: object) -> float:
        if isinstance(wait, int | float) and wait >= 0:
            return wait
        message = f"program {run.program} of {run.job.label} must yield seconds (got {wait!r})"
        raise ScenarioError(message)

    def _program_error(self, run: _Run, error: Exception) -> ScenarioError:
        when = format_duration(self.machine.clock)
        kind = "" if isinstance(error, ArgumentError) else f"{type(error).__name__}: "
        message = f"program {run.program} of {run.job.label}, at {when}: {kind}{error}"
        return ScenarioError(message)

    def _exit(self, run: _Run, value: object) -> None:
        if run.process.alive:
            run.process.exit(value if isinstance(value, int) else 0)

    def _signal(self, name: str, signal: str) -> None:
        for run in [run for run in self.alive.values() if run.spec.name == name]:
            run.process.kill(signal)
            self._ended(run)

    def _halt(self, run: _Run, end: KernelPanic | EndlessFault) -> None:
        """End the machine, or this program: its process stays, and does nothing more."""
        if isinstance(end, EndlessFault):
            self.report(run.job, "stuck", str(end))
            return
        self.report(run.job, "panic", f"Kernel panic: {end}")
        self._over = True

    # --- what a step has done -----------------------------------------------------------

    def _take_notice(self, run: _Run) -> None:
        kills = len(self.machine.oom_events)
        self._news.look(run.process.cgroup, now=kills > self._kills_seen)
        for event in self.machine.oom_events[self._kills_seen :]:
            self._kills_seen += 1
            for pid in event.killed:
                if pid in self.alive:
                    self._oom(self.alive[pid], event)
        if not run.process.alive and run.process.pid in self.alive:
            self._ended(run)

    def _oom(self, victim: _Run, event: OomEvent) -> None:
        task = next(task for task in event.tasks if task.pid == victim.process.pid)
        victim.peak_swap = max(victim.peak_swap, task.swapents * PAGE)
        where = event.cgroup or "the machine"
        score = event.verdict.scores.get(victim.process.pid)
        text = f"killed: {where} is out of memory; badness {score or 0:,}"
        if victim.process.pid != event.victim:
            text = f"killed: it dies with {event.victim}, the victim"
        if event.invoker != event.victim and event.invoker in self.alive:
            text += f", asked by {self.alive[event.invoker].job.label}"
        self._ended(victim, text, (task.rss + task.swapents) * PAGE)

    def _ended(self, run: _Run, text: str = "", size: int = 0) -> None:
        process = run.process
        if self.alive.pop(process.pid, None) is None:
            return
        run.ended = self.machine.clock
        if process.last is not None:
            run.peak_swap = max(run.peak_swap, process.last.swap * PAGE)
        how = _how(process)
        kind = OOM if how == OOM else "exit" if process.killed_by is None else "signal"
        self.report(run.job, kind, text or how, size)
        _close(run.steps)
        self._restart(run, how)

    def _restart(self, run: _Run, how: str) -> None:
        spec, label = run.spec, run.job.label
        wanted = spec.restart == "always" or (spec.restart == "on-failure" and how != "exit 0")
        if not wanted or run.copy < 0 or self._restarts.get(label, 0) >= spec.restart_limit:
            return
        self._restarts[label] = self._restarts.get(label, 0) + 1
        delay = parse_duration(spec.restart_delay)
        self._at(self.machine.clock + delay, partial(self._start, spec, run.copy))

    def report(self, job: Job | None, kind: str, text: str, size: int = 0) -> None:
        """Take down an event."""
        name, pid = (job.label, job.process.pid) if job else ("", None)
        event = Event(self.machine.clock, kind, name, pid, size, text)
        self.happened.append(event)
        if self._enough is not None and self._enough(event):
            self._over = True

    # --- changes ------------------------------------------------------------------------

    def _change(self, change: ChangeSpec) -> None:
        if change.cgroup:
            self._change_limits(self.cgroups[change.cgroup], change)
        if change.signal:
            self.report(None, "change", f"{change.signal} to {change.process}")
            self._signal(change.process, change.signal)
        if change.oom_score_adj is not None:
            self.report(
                None, "change", f"oom_score_adj of {change.process}: {change.oom_score_adj}"
            )
            for run in self.alive.values():
                if run.spec.name == change.process:
                    run.process.oom_score_adj = change.oom_score_adj

    def _change_limits(self, group: Cgroup, change: ChangeSpec) -> None:
        limits = {"memory_max": change.memory_max, "swap_max": change.swap_max}
        named = {**limits, "memory_high": change.memory_high}
        words = ", ".join(f"{name} {value}" for name, value in named.items() if value is not None)
        if change.memory_high is not None:
            group.memory_high = change.memory_high
        try:
            group.set_limits(**limits)
        except ArgumentError as error:
            words += f" ({error})"
        self.report(None, "change", f"{group.path}: {words}")

    # --- samples ------------------------------------------------------------------------

    def _sample(self) -> None:
        self._news.look_at_swap()
        self.timeline.take(self.machine.clock)

    def _rows(self) -> list[Any]:
        for run in self.alive.values():
            swap = run.process.pages.table.counters()["swap"] * PAGE
            run.peak_swap = max(run.peak_swap, swap)
        runs = ((run.process, run.job.label) for run in self.alive.values())
        return rows_of(self.machine, iter(self.cgroups.values()), runs)

    def result(self) -> Simulation:
        """Return what came of it."""
        outcomes = tuple(map(_outcome, self.runs))
        return Simulation(
            self.scenario, self.machine, tuple(self.happened), outcomes, self.timeline
        )


def _how(process: Process) -> str:
    if process.alive:
        return RUNNING
    return process.killed_by or f"exit {process.exit_code}"


def _close(steps: Iterator[float]) -> None:
    close = getattr(steps, "close", None)
    if close is not None:
        try:
            close()
        except (ProcessKilled, RuntimeError):  # it made calls on its way out, or would not go
            return


def _outcome(run: _Run) -> Outcome:
    process = run.process
    held = process.resident() if process.alive else process.last
    peak_size = max(process.space.peak_vm, process.space.total_vm)
    faults = process.pages.table.counters() if process.alive else {}
    return Outcome(
        label=run.job.label,
        name=run.spec.name,
        pid=process.pid,
        program=str(run.program),
        cgroup=process.cgroup.path if process.cgroup else None,
        started=run.started,
        ended=run.ended,
        how=_how(process),
        failed=run.job.failed,
        peak_rss=max(held.peak, held.total) * PAGE if held else 0,
        peak_swap=run.peak_swap,
        peak_size=peak_size * PAGE,
        minor_faults=faults.get("minor_faults", 0),
        major_faults=faults.get("major_faults", 0),
    )


class _News:
    """What the kernel is busy with, told when it begins, and again after a quiet while."""

    def __init__(self, stage: _Stage) -> None:
        self._stage = stage
        self._hits: dict[int, int] = {}
        self._due: dict[int, float] = {}
        self._seen: dict[str, float] = {}
        self._swapped = 0
        self._full = False

    def look(self, group: Cgroup | None, *, now: bool) -> None:
        """Tell of limits hit in ``group`` and those above it; looks once a second, or ``now``."""
        time = self._stage.machine.clock
        while group is not None and (now or time >= self._due.get(group.number, 0.0)):
            self._due[group.number] = time + _LOOK
            hits = group.limit_hits
            if hits > self._hits.get(group.number, 0):
                self._hits[group.number] = hits
                limit = format_size(group.counters()["limit"] * PAGE)
                self._tell(group.path, "limit", f"{group.path} is at its limit of {limit}")
            group = group.parent

    def look_at_swap(self) -> None:
        """Tell of swapping, and of swap that has run out."""
        counters = self._stage.machine.ram.counters()
        if counters["swapped_out"] > self._swapped:
            self._swapped = counters["swapped_out"]
            self._tell("swap", "swapping", "the machine writes to swap")
        full = bool(counters["slots"]) and not counters["slots_free"]
        if full and not self._full:
            self._tell(
                "full", "swap-full", f"swap is full: {format_size(counters['slots'] * PAGE)}"
            )
        self._full = full

    def _tell(self, subject: str, kind: str, text: str) -> None:
        now = self._stage.machine.clock
        if now - self._seen.get(subject, -FOREVER) > _QUIET:
            self._stage.report(None, kind, text)
        self._seen[subject] = now
