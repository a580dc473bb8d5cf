"""The shortest sequence of steps that still shows what a long one shows.

Delta debugging (Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing Input", IEEE
TSE 28(2), 2002): whole stretches are left out first, then shorter ones, down to single steps.  What
is left is *1-minimal*: leave out any one step, and it is not shown any more.  Single steps can then
be made simpler (a smaller size, a plainer call) for as long as it is still shown.

The model and the real thing are both run anew for each attempt, so an attempt is what costs;
nothing is tried twice, and a budget bounds how many there are.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Hashable, Iterable, Sequence
from hashlib import blake2b
from typing import Final, Generic, TypeVar

from pyalloc.errors import ArgumentError

Step = TypeVar("Step", bound=Hashable)

BUDGET: Final = 2000
"""Attempts a shrinking makes at most, unless it is told otherwise."""


def shrink(
    steps: Sequence[Step],
    shows: Callable[[Sequence[Step]], bool],
    *,
    simpler: Callable[[Step], Iterable[Step]] | None = None,
    budget: int = BUDGET,
    progress: Callable[[int, int], None] | None = None,
) -> list[Step]:
    """Return the shortest part of ``steps``, in order, for which ``shows`` is still true.

    Parameters
    ----------
    steps
        A sequence that shows it; steps are hashable values.
    shows
        Runs a sequence and says whether it shows what is looked for.  It must take any part of
        ``steps``; where a part makes no sense, the answer is False.
    simpler
        Returns what a step may be replaced by, the simplest first; tried once no step can go.
    budget
        Attempts at most; the shortest sequence found by then is returned.
    progress
        Told after each attempt how many there were, and how many steps are left.

    Returns
    -------
    list
        The steps that are left; if the budget was enough, none of them can be left out.

    Raises
    ------
    ArgumentError
        ``steps`` as a whole does not show it, so there is nothing to shrink.

    Examples
    --------
    >>> from pyalloc.lab.shrink import shrink
    >>> shrink(range(100), lambda part: 7 in part and 42 in part)
    [7, 42]
    """
    search = _Search(shows, budget, progress)
    left = list(steps)
    if not search.attempt(left):
        message = f"these {len(left)} steps do not show what they are to be shrunk for"
        raise ArgumentError(message)
    while True:
        before = left
        left = _without_stretches(left, search)
        if simpler is not None:
            left = _simplified(left, simpler, search)
        if left == before or search.spent:
            return left


class _Search(Generic[Step]):
    """Attempts: remembered, counted, and refused once the budget is spent."""

    def __init__(
        self,
        shows: Callable[[Sequence[Step]], bool],
        budget: int,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self._shows = shows
        self._progress = progress
        self._left = budget
        self._budget = budget
        self._number: dict[Step, int] = {}
        self._known: dict[bytes, bool] = {}
        self._shortest = 0

    @property
    def spent(self) -> bool:
        """Whether the budget is used up."""
        return self._left <= 0

    def _key(self, steps: list[Step]) -> bytes:
        known = self._number
        numbers = array("L", (known.setdefault(step, len(known)) for step in steps))
        return blake2b(numbers.tobytes(), digest_size=16).digest()

    def attempt(self, steps: list[Step]) -> bool:
        """Return whether ``steps`` show it; False for all that is new once the budget is spent."""
        key = self._key(steps)
        if key in self._known:
            return self._known[key]
        if self.spent:
            return False
        self._left -= 1
        shown = self._known[key] = bool(self._shows(steps))
        if shown:
            self._shortest = len(steps)
        if self._progress is not None:
            self._progress(self._budget - self._left, self._shortest)
        return shown


def _without_stretches(steps: list[Step], search: _Search[Step]) -> list[Step]:
    """Leave out stretches, halving their length down to one step, until none can go."""
    length = max(len(steps) // 2, 1)
    while steps and not search.spent:
        shorter = _pass(steps, length, search)
        went = len(shorter) < len(steps)
        steps = shorter
        if not went and length == 1:
            break
        if not went:
            length = max(length // 2, 1)
        length = min(length, max(len(steps) // 2, 1))
    return steps


def _pass(steps: list[Step], length: int, search: _Search[Step]) -> list[Step]:
    """Try to leave out each stretch of ``length``, from the end: later steps rest on earlier."""
    end = len(steps)
    while end > 0:
        start = max(end - length, 0)
        rest = steps[:start] + steps[end:]
        if search.attempt(rest):
            steps = rest
        end = start
    return steps


def _simplified(
    steps: list[Step], simpler: Callable[[Step], Iterable[Step]], search: _Search[Step]
) -> list[Step]:
    """Replace each step by the simplest that is still good enough."""
    for i in range(len(steps)):
        for candidate in simpler(steps[i]):
            attempt = [*steps[:i], candidate, *steps[i + 1 :]]
            if candidate != steps[i] and search.attempt(attempt):
                steps = attempt
                break
    return steps
