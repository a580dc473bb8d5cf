"""Advice held against reality: the program itself, under the default and under the best setting.

It runs as it is, without the recorder (:mod:`pyalloc.host.measure`), several times each.  What is
compared is VmHWM, the most the whole process had resident: predicted as the heap that a trial gave
plus the rest that was measured when the program was recorded.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyalloc.errors import ArgumentError
from pyalloc.host.measure import Measurement, measure
from pyalloc.lab.advise import Advice, Trial
from pyalloc.lab.setting import as_recorded, version_of

TOLERANCE = 0.05


@dataclass(frozen=True, slots=True)
class Check:
    """One setting: what was predicted of the process, and what each real run had; bytes."""

    trial: Trial
    predicted_peak: int
    predicted_end: int
    runs: tuple[Measurement, ...]

    @property
    def measured_peak(self) -> int:
        """The median of the runs."""
        return int(statistics.median(run.peak_rss for run in self.runs))

    @property
    def measured_end(self) -> int:
        """The median of the runs."""
        return int(statistics.median(run.final_rss for run in self.runs))

    @property
    def error(self) -> float:
        """How far the predicted peak is from the measured one, as a part of that."""
        return self.predicted_peak / self.measured_peak - 1 if self.measured_peak else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as JSON values."""
        return {
            "setting": self.trial.setting.name,
            "line": self.trial.line,
            "predicted_peak": self.predicted_peak,
            "measured_peak": self.measured_peak,
            "error": round(self.error, 4),
            "predicted_end": self.predicted_end,
            "measured_end": self.measured_end,
            "runs": [
                {
                    "peak": r.peak_rss,
                    "end": r.final_rss,
                    "minor_faults": r.minor_faults,
                    "cpu_seconds": round(r.cpu_seconds, 3),
                    "elapsed": round(r.elapsed, 3),
                    "exit_code": r.exit_code,
                    "signal": r.signal,
                }
                for r in self.runs
            ],
        }


@dataclass(frozen=True, slots=True)
class Verification:
    """The default and, if it is another, the best setting, each held against real runs."""

    checks: tuple[Check, ...]

    @property
    def holds(self) -> bool:
        """Whether each predicted peak is within 5 percent of the measured one."""
        return all(abs(check.error) <= TOLERANCE for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as JSON values."""
        return {"holds": self.holds, "checks": [check.to_dict() for check in self.checks]}


def verify(
    advice: Advice,
    command: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    runs: int = 3,
    timeout: float | None = None,
    tell: Callable[[str, int, int], None] | None = None,
) -> Verification:
    """Run ``command`` under the default and the best setting and return both beside their figures.

    Parameters
    ----------
    advice
        What was predicted; its trace must be a recording, for its rest to be known.
    command, env
        What to run; the variables that steer malloc are taken from the recording.
    runs
        Real runs of each setting, in turn.
    timeout
        Seconds for each.

    Raises
    ------
    ArgumentError
        The rest of the process was not measured, so that there is nothing to compare.
    CommandError
        The command cannot be run.
    """
    rest = advice.rest
    if rest is None:
        message = "the trace has no measured memory to add the heap to; record the command anew"
        raise ArgumentError(message)
    if runs < 1:
        message = f"runs must be at least 1 (got {runs})"
        raise ArgumentError(message)
    trials = list(dict.fromkeys((advice.default.setting, advice.best.setting)))
    by_setting = {t.setting: t for t in advice.trials}
    found: dict[int, list[Measurement]] = {i: [] for i in range(len(trials))}
    for turn in range(runs):
        for i, setting in enumerate(trials):
            variables = _environment(advice, by_setting[setting], env)
            found[i].append(measure(command, variables, timeout=timeout))
            if tell:
                tell("running the program", turn * len(trials) + i + 1, runs * len(trials))
    checks = (
        Check(by_setting[s], by_setting[s].peak, by_setting[s].end, tuple(found[i]))
        for i, s in enumerate(trials)
    )
    return Verification(tuple(checks))


def _environment(advice: Advice, trial: Trial, env: Mapping[str, str] | None) -> dict[str, str]:
    """Return the environment of a run: the user's, the recording's for malloc, the setting's."""
    base = advice.trace.info.tunables
    variables = as_recorded(os.environ if env is None else env, base)
    return variables | trial.setting.environment(base, version_of(advice.allocator))
