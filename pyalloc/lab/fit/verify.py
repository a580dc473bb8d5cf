"""A limit held against reality: the program itself under it, and below and above it.

First it runs without a limit, to know how it ends when nothing is wrong.  Then it runs under the
limit that was found; if that is enough, under less and less until it no longer ends so, else under
more and more until it does.  So the real smallest limit is known to lie between two values.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pyalloc.errors import ArgumentError
from pyalloc.host.compile import HostError
from pyalloc.host.limited import run_limited
from pyalloc.host.measure import CommandTimeout, Measurement, describe_end, measure
from pyalloc.lab.fit import Fit
from pyalloc.lab.setting import as_recorded
from pyalloc.units import PAGE

TOLERANCE: Final = 0.02

_LESS: Final = (0.99, 0.98, 0.95, 0.9, 0.75, 0.5)
_MORE: Final = (1.01, 1.02, 1.05, 1.1, 1.25, 1.5)
_PATIENCE: Final = 20
_LEAST_PATIENCE: Final = 10.0


@dataclass(frozen=True, slots=True)
class LimitedRun:
    """One real run under a limit of ``value`` bytes, whether it ended as without, and how."""

    value: int
    survived: bool
    end: str


@dataclass(frozen=True, slots=True)
class Verification:
    """A limit and what the program really did under it and near it.

    ``why_not`` says why it could not be tried; ``runs`` is empty then.
    """

    fit: Fit
    runs: tuple[LimitedRun, ...] = ()
    why_not: str | None = None

    @property
    def smallest(self) -> int | None:
        """The smallest limit that was survived."""
        return min((run.value for run in self.runs if run.survived), default=None)

    @property
    def largest_failed(self) -> int | None:
        """The largest limit that was not survived."""
        return max((run.value for run in self.runs if not run.survived), default=None)

    @property
    def holds(self) -> bool | None:
        """Whether the program survives under the limit or 2 percent more; None: not tried."""
        if self.why_not is not None:
            return None
        return self.smallest is not None and self.smallest <= self.fit.value * (1 + TOLERANCE)

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as JSON values."""
        return {
            "of": self.fit.of,
            "predicted": self.fit.value,
            "holds": self.holds,
            "why_not": self.why_not,
            "runs": [{"value": r.value, "survived": r.survived, "end": r.end} for r in self.runs],
        }


def verify(
    found: Sequence[Fit],
    command: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    tunables: Mapping[str, str] | None = None,
    timeout: float | None = None,
    tell: Callable[[str, int, int], None] | None = None,
) -> list[Verification]:
    """Run ``command`` under each limit of ``found`` that can be had on this host.

    Parameters
    ----------
    found
        What :func:`pyalloc.fit` says of a recording of the command.
    command, env
        What to run.
    tunables
        The variables that steered malloc in the recording.
    timeout
        Seconds for a run; under a limit it is given up after twenty times as long as without one.
    tell
        Called with what is done, how many runs, 0.

    Raises
    ------
    ArgumentError
        There is no command.
    CommandError
        The command cannot be run without a limit.
    """
    if not command:
        message = "which command is to be run? Give it behind --"
        raise ArgumentError(message)
    variables = as_recorded(os.environ if env is None else env, tunables or {})
    base = measure(command, variables, timeout=timeout)
    patience = max(_PATIENCE * base.elapsed, _LEAST_PATIENCE)
    tries = _Tries(command, variables, base, min(timeout or patience, patience), tell)
    return [_verified(one, tries) for one in found]


@dataclass
class _Tries:
    """Runs of one command under limits."""

    command: Sequence[str]
    env: Mapping[str, str]
    base: Measurement
    timeout: float
    tell: Callable[[str, int, int], None] | None
    count: int = 0

    def __call__(self, of: str, value: int, swap: int) -> LimitedRun:
        self.count += 1
        if self.tell:
            self.tell("running the program", self.count, 0)
        try:
            run = run_limited(self.command, self.env, of, value, swap=swap, timeout=self.timeout)
        except CommandTimeout:
            return LimitedRun(value, survived=False, end="does not come to its end")
        if run is None:
            return LimitedRun(value, survived=False, end="not even exec succeeds")
        survived = (run.exit_code, run.signal) == (self.base.exit_code, self.base.signal)
        return LimitedRun(value, survived, _end(run, of))


def _end(run: Measurement, of: str) -> str:
    if of == "cgroup" and run.signal == signal.SIGKILL:
        return "killed by the OOM killer"
    return describe_end(run) or "exit code 0"


def _verified(one: Fit, tries: _Tries) -> Verification:
    swap = one.fixed.get("swap", 0)
    runs: list[LimitedRun] = []
    try:
        for value in _values(one, runs):
            runs.append(tries(one.of, value, swap))  # noqa: PERF401 - _values looks at it
    except HostError as error:
        return Verification(one, why_not=str(error))
    return Verification(one, tuple(runs))


def _values(one: Fit, runs: Sequence[LimitedRun]) -> Iterator[int]:
    """Yield the limits to try, until the runs so far enclose the smallest."""
    yield one.value
    enough = runs[0].survived
    if enough and one.below_value:
        yield one.below_value
    for factor in _LESS if enough else _MORE:
        if runs[-1].survived != enough:
            return
        yield int(one.value * factor) // PAGE * PAGE
