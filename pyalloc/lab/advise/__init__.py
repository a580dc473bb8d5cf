"""Advise: what other settings of the allocator would make of a program.

Every answer is a replay of the program's own calls (:mod:`pyalloc.lab.trial`); what the rest of the
process has resident was measured when it was recorded (:mod:`pyalloc.lab.rest`); what the work
costs is a stated model (:mod:`pyalloc.lab.prices`).

Not modelled: that threads wait for each other's arenas, which few arenas make more likely; and that
a program which runs at another speed may do other things.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Any, Final, Literal

from pyalloc.errors import ArgumentError
from pyalloc.lab.advise.search import (
    combined_settings,
    extended_settings,
    is_inert,
    single_settings,
)
from pyalloc.lab.prices import Prices
from pyalloc.lab.rest import Rest, rest_of
from pyalloc.lab.setting import Setting, is_known, version_of
from pyalloc.lab.trial import Outcome, Trials, sample_rows
from pyalloc.trace import Trace, require_trace
from pyalloc.units import format_size

Memory = Literal["peak", "end"]
Tell = Callable[[str, int, int], None]

_LEAST_CALLS: Final = 32
_COUNTS: Final = (
    "failed",
    "faults",
    "brk",
    "mmap",
    "munmap",
    "mremap",
    "mprotect",
    "madvise",
    "arena_calls",
    "steps",
)
_SAMPLES: Final = 256
_USEFUL: Final = 0.01
_WORTH_SETTING: Final = 0.02
_WORTH_BYTES: Final = 1 << 20
_MOST_USEFUL: Final = 5


@dataclass(frozen=True, slots=True)
class Trial:
    """One setting and what it comes to; bytes, and nanoseconds of work by the stated prices.

    ``peak`` and ``end`` are resident bytes: of the whole process where the rest of it was measured,
    else of the heap alone.  ``same`` says that it provably runs as the default does.
    """

    setting: Setting
    outcome: Outcome
    peak: int
    end: int
    work: float
    line: str
    same: bool = False

    def memory(self, kind: Memory) -> int:
        """Return the figure that is to be made small."""
        return self.peak if kind == "peak" else self.end

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as JSON values."""
        o = self.outcome
        return {
            "setting": self.setting.name,
            "tunables": dict(self.setting.tunables),
            "allocator": self.setting.allocator,
            "trim_calls": self.setting.trim_calls,
            "trim_bytes": self.setting.trim_bytes,
            "line": self.line,
            "peak": self.peak,
            "end": self.end,
            "work_ns": round(self.work),
            "same_as_default": self.same,
            "error": o.error,
            "heap_peak": o.peak_rss,
            "heap_end": o.final_rss,
            "held_peak": o.peak_held,
            "held_end": o.final_held,
            "system_calls": o.system_calls,
            **{name: getattr(o, name) for name in _COUNTS},
        }


@dataclass(frozen=True, eq=False)
class Advice:
    """What was tried, and what is best.

    ``trials`` are ordered by memory, ``front`` are those that nothing else beats in both memory and
    work, ``best`` is the one to take: of those that the environment can set and that cost no more
    than ``slower`` allows, the one with the least memory.  ``best is default`` where none is worth
    it: 2 percent and a megabyte.
    """

    trace: Trace
    allocator: str
    memory: Memory
    slower: float
    prices: Prices
    rest: Rest | None
    default: Trial
    best: Trial
    trials: tuple[Trial, ...]
    front: tuple[Trial, ...]

    def __repr__(self) -> str:
        return (
            f"<Advice on {len(self.trace):,} calls: {self.best.setting.name} is best of"
            f" {len(self.trials)}, {format_size(self.saved)} less>"
        )

    @property
    def saved(self) -> int:
        """Bytes that the best setting saves."""
        return self.default.memory(self.memory) - self.best.memory(self.memory)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values; bytes and nanoseconds."""
        front = {id(t) for t in self.front}
        return {
            "command": list(self.trace.info.command),
            "allocator": self.allocator,
            "calls": len(self.trace),
            "memory": self.memory,
            "whole_process": self.rest is not None,
            "slower": self.slower,
            "default": self.default.to_dict(),
            "best": self.best.to_dict(),
            "saved": self.saved,
            "trials": [{**t.to_dict(), "on_front": id(t) in front} for t in self.trials],
        }


def advise(
    trace: Trace,
    settings: Sequence[Setting | str] | None = None,
    *,
    allocator: str | None = None,
    memory: Memory = "peak",
    slower: float = 0.1,
    prices: Prices | None = None,
    touch: str | None = None,
    workers: int | None = None,
    tell: Tell | None = None,
) -> Advice:
    """Try settings on ``trace`` and return what each comes to.

    Parameters
    ----------
    trace
        The calls; a recording also has what the process was measured at.
    settings
        What to try, such as ``"mmap_threshold=64K arena_max=1"``; by default a search: each knob
        alone, then the useful ones together.
    allocator
        What stands for the default; by default what the trace was recorded on.
    memory
        What is to be small: the resident memory at its ``"peak"`` or at the ``"end"``.
    slower
        How much more work the best setting may make, as a part of the time the program took; where
        that is not known, of the allocator's own work, ten times as much.
    prices
        What the work costs.
    touch
        What the program does to its memory, as in :func:`pyalloc.replay`.
    workers
        Threads; by default one a processor.
    tell
        Called with what is done, how many, of how many.

    Raises
    ------
    ArgumentError
        The trace is too short to judge, or not of a glibc; a setting that is none.
    """
    require_trace(trace)
    if not 0 <= slower < inf:
        message = f"slower must be a number, 0 or more (got {slower!r})"
        raise ArgumentError(message)
    prices = prices or Prices()
    if memory not in ("peak", "end"):
        message = f"memory must be 'peak' or 'end' (got {memory!r})"
        raise ArgumentError(message)
    trials = _made_ready(trace, allocator, touch)
    search = _Search(trials, prices, workers, tell)
    default = search.run_default()
    if settings is None:
        search.one_by_one()
        search.together(memory)
    else:
        search.exactly([Setting.parse(s) if isinstance(s, str) else s for s in settings])
    return _judged(search, default, memory, slower)


def _made_ready(trace: Trace, allocator: str | None, touch: str | None) -> Trials:
    if len(trace) < _LEAST_CALLS:
        message = (
            f"{len(trace)} calls are too few to judge a setting by (at least {_LEAST_CALLS});"
            " record more of the program"
        )
        raise ArgumentError(message)
    measured = trace.info.measured
    also = measured.samples.row.tolist() if measured and measured.samples is not None else ()
    trials = Trials(
        trace,
        allocator=allocator,
        touch=touch,
        rows=sample_rows(len(trace), _SAMPLES, also),
    )
    if not version_of(trials.allocator):
        message = f"settings of {trials.allocator} are not known; advise knows those of glibc"
        raise ArgumentError(message)
    return trials


class _Search:
    """Trials under way."""

    def __init__(
        self, trials: Trials, prices: Prices, workers: int | None, tell: Tell | None
    ) -> None:
        self.trials = trials
        self.prices = prices
        self.workers = workers
        self.tell = tell
        self.done: dict[Setting, Trial] = {}
        self.rest: Rest | None = None
        self.default: Trial

    def run_default(self) -> Trial:
        outcome = self.trials.run(Setting())
        if outcome.error:
            message = f"the trace does not run to its end: {outcome.error}"
            raise ArgumentError(message)
        self.rest = rest_of(self.trials.trace, outcome)
        self.default = self._add(outcome)
        return self.default

    def _add(self, outcome: Outcome, *, same: bool = False) -> Trial:
        setting, rest = outcome.setting, self.rest
        version = version_of(setting.allocator or self.trials.allocator)
        trial = Trial(
            setting,
            outcome,
            rest.process_peak(outcome) if rest else outcome.peak_rss,
            rest.process_final(outcome) if rest else outcome.final_rss,
            self.prices.work(outcome),
            setting.line(self.trials.base, version),
            same,
        )
        self.done[setting] = trial
        return trial

    def _try(self, settings: Sequence[Setting]) -> list[Trial]:
        default = self.default.outcome
        fresh = [s for s in dict.fromkeys(settings) if s not in self.done]
        inert = [s for s in fresh if is_inert(s, self.trials, default)]
        for setting in inert:
            self._add(replace(default, setting=setting), same=True)
        real = [s for s in fresh if s not in self.done]
        for outcome in self.trials.run_all(real, workers=self.workers, tell=self.tell):
            self._add(outcome)
        return [self.done[s] for s in settings]

    def exactly(self, settings: Sequence[Setting]) -> None:
        for setting in settings:
            if not is_known(setting, self.trials.allocator, self.trials.word):
                where = setting.allocator or self.trials.allocator
                message = f"{where} takes no setting {setting.name!r} from its environment"
                raise ArgumentError(message)
        self._try(settings)

    def one_by_one(self) -> None:
        self._try(single_settings(self.trials, self.default.outcome))

    def _useful(self, memory: Memory) -> list[Setting]:
        """Return the best setting of each knob that helps, the most helpful first."""
        base, work = self.default.memory(memory), self.default.work
        gains: dict[Setting, float] = {}
        for trial in self.done.values():
            if trial.same or trial.outcome.error or trial.setting.allocator:
                continue
            saved = (base - trial.memory(memory)) / max(base, 1)
            faster = (work - trial.work) / max(work, 1)
            if saved >= _USEFUL or (faster >= _USEFUL * 3 and saved > -_USEFUL):
                gains[trial.setting] = saved + faster / 100
        ordered = sorted(gains, key=lambda s: (-gains[s], s.distance))
        best_of_knob: dict[str, Setting] = {}
        for setting in ordered:
            best_of_knob.setdefault(_knob_of(setting), setting)
        return list(best_of_knob.values())[:_MOST_USEFUL]

    def together(self, memory: Memory) -> None:
        useful = self._useful(memory)
        pairs = self._try(combined_settings(useful, self.done))
        if pairs:
            best = min(pairs, key=lambda t: (t.memory(memory), t.work))
            self._try(extended_settings(best.setting, useful, self.done))


def _knob_of(setting: Setting) -> str:
    if setting.tunables:
        return setting.tunables[0][0]
    return "malloc_trim"


# --- judging


def _judged(search: _Search, default: Trial, memory: Memory, slower: float) -> Advice:
    trials = sorted(
        search.done.values(),
        key=lambda t: (t.memory(memory), t.work, len(t.setting.tunables), t.setting.distance),
    )
    sound = [t for t in trials if not t.outcome.error]
    return Advice(
        trace=search.trials.trace,
        allocator=search.trials.allocator,
        memory=memory,
        slower=slower,
        prices=search.prices,
        rest=search.rest,
        default=default,
        best=_best(sound, default, memory, _allowance(search.trials.trace, default, slower)),
        trials=tuple(trials),
        front=tuple(_front(sound)),
    )


def _front(trials: Sequence[Trial]) -> list[Trial]:
    """Return the trials that no other beats in memory and work; ``trials`` are by memory."""
    front: list[Trial] = []
    for trial in trials:
        if not trial.same and (not front or trial.work < front[-1].work):
            front.append(trial)
    return front


def _allowance(trace: Trace, default: Trial, slower: float) -> float:
    """Return how many nanoseconds of work the best setting may make."""
    measured = trace.info.measured
    took = measured.elapsed_ns if measured and measured.elapsed_ns else 10 * default.work
    return default.work + slower * took


def _best(trials: Sequence[Trial], default: Trial, memory: Memory, allowed: float) -> Trial:
    fit = [t for t in trials if t.setting.is_environment and t.work <= allowed]
    fit = [t for t in fit if t.outcome.failed <= default.outcome.failed]
    least = min((t.memory(memory) for t in fit), default=default.memory(memory))
    base = default.memory(memory)
    if base - least < max(_WORTH_SETTING * base, _WORTH_BYTES):
        return default
    near = [t for t in fit if t.memory(memory) <= least + 0.01 * base]
    return min(near, key=lambda t: (len(t.setting.tunables), t.work, t.setting.distance))
