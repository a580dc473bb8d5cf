"""The smallest value that works, by trying: bisection, and a look around whether it holds.

Bisection is right if whatever works goes on to work when more is given.  That is so of most limits
and not of all: a threaded program that may have a little more address space reserves an arena for a
thread, and then fails for want of the rest.  So values above the one found are tried, too, and
where one fails the answer is the value from which on all of them work.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

from pyalloc.errors import ArgumentError


class NeverEnough(ArgumentError):
    """Nothing is large enough; the text says what happens even so."""


class Verdict(NamedTuple):
    """Whether a try survived, and what happened if it did not."""

    survived: bool
    what: str = ""
    row: int | None = None


SURVIVED: Final = Verdict(survived=True)

Try = Callable[[int], Verdict]
Tell = Callable[[str, int, int], None]

_FACTORS: Final = (1.1, 1.5)
_GRID: Final = 1.25
_DOUBLINGS: Final = 6
_LEAP: Final = 16
_MOST: Final = 1 << 46


def failed(what: str, row: int | None = None) -> Verdict:
    """Return the verdict of a try that did not survive."""
    return Verdict(survived=False, what=what, row=row)


@dataclass(frozen=True, slots=True)
class Found:
    """What works.

    ``value`` is the smallest from which on all that was tried works, ``least`` the smallest that
    works at all; they differ where something between them does not.  ``below`` is what happens at
    ``below_value``, just under ``value`` (None where nothing is too small), ``probes`` what was
    tried and whether it worked.
    """

    value: int
    least: int
    below_value: int | None
    below: Verdict | None
    probes: tuple[tuple[int, bool], ...]


class _Tries:
    """Tries by count of steps, each made once."""

    def __init__(self, attempt: Try, step: int, within: float, tell: Tell | None) -> None:
        self.attempt, self.step, self.within, self.tell = attempt, step, within, tell
        self.known: dict[int, Verdict] = {}

    def __call__(self, count: int) -> bool:
        if count not in self.known:
            self.known[count] = self.attempt(count * self.step)
            if self.tell:
                self.tell("trying limits", len(self.known), 0)
        return self.known[count].survived

    def border(self, low: int, high: int) -> int:
        """Return the smallest count that works between one that does not and one that does."""
        while high - low > max(1, int(high * self.within)):
            middle = (low + high) // 2
            if self(middle):
                high = middle
            else:
                low = middle
        return high


def smallest(
    attempt: Try,
    *,
    start: int,
    step: int = 1,
    within: float = 0.0,
    most: int | None = None,
    enough: int | None = None,
    tell: Tell | None = None,
) -> Found:
    """Return the smallest multiple of ``step`` that works, and whether all above it do.

    Parameters
    ----------
    attempt
        Tries a value.
    start
        A guess: the search goes up and down from there.
    step
        The grain of the answer.
    within
        How far it may be above the smallest, as a part of it.
    most
        The largest value there is.
    enough
        A value from which on all are known to work.

    Raises
    ------
    NeverEnough
        Nothing works, however large.
    """
    tries = _Tries(attempt, step, within, tell)
    limit = (_MOST if most is None else most) // step
    high = _working(tries, max(start // step, 1), limit)
    low = _failing(tries, high)
    least = tries.border(low, high)
    value = least
    known = None if enough is None else -(-enough // step)
    above = [count for count in _above(least, known) if count <= limit]
    bad = [count for count in above if not tries(count)]
    if bad:
        fallback = known or _working(tries, bad[-1] + 1, limit)
        good = next((count for count in above if count > bad[-1]), fallback)
        value = tries.border(bad[-1], good)
    below = max((n for n, v in tries.known.items() if n < value and not v.survived), default=None)
    return Found(
        value=value * step,
        least=least * step,
        below_value=None if below is None else below * step,
        below=None if below is None else tries.known[below],
        probes=tuple(sorted((count * step, v.survived) for count, v in tries.known.items())),
    )


def _above(least: int, enough: int | None) -> list[int]:
    """Return counts above ``least`` to try, ascending."""
    if enough is None:
        return sorted({max(int(least * factor), least + 1) for factor in _FACTORS})
    found, at = [], least + 1
    while at < enough:
        found.append(at)
        at = max(int(at * _GRID), at + 1)
    return found


def _working(tries: _Tries, start: int, limit: int) -> int:
    """Return a count of steps that works, from ``start`` up."""
    count = min(start, limit)
    for doublings in range(limit.bit_length()):
        if tries(count):
            return count
        if count == limit:
            break
        count = min(count * (2 if doublings < _DOUBLINGS else _LEAP), limit)
    message = f"it does not survive, however much it is given: {tries.known[count].what}"
    raise NeverEnough(message)


def _failing(tries: _Tries, high: int) -> int:
    """Return a count of steps that fails, below ``high``; -1 if all work."""
    low = high
    while low > 0:
        low //= 2
        if not tries(low):
            return low
    return -1
