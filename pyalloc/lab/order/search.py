"""A search for the best and the worst order.

Hill climbing: some calls of one kind, in some stretch of a window, change places by some rule; what
is not worse stays.  It starts from the best order that has a name, so that it never ends behind
those; how far it gets is a matter of its budget, and it proves no bound.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from pyalloc.lab.order.calls import ALLOCATION, FREE, Calls, Rows
from pyalloc.lab.order.moves import ALLOCATION_KEYS, FREE_KEYS, Arrangement, Key, fill
from pyalloc.machine import ReplaySummary

Score = tuple[float, ...]

_SHORTEST: Final = 8  # places of a stretch


@dataclass(frozen=True, eq=False)
class Found:
    """The order a search came to, how many replays it took, and which of them were better."""

    order: Rows
    score: Score
    replays: int
    steps: tuple[int, ...]


def score_of(summary: ReplaySummary, by: str) -> Score:
    """Return what is to be made small: the measure ``by``, then others where that is equal."""
    names = (by, "peak_held", "held", "jw1")
    return tuple(float(getattr(summary, name) or 0) for name in names)


def search(
    calls: Calls,
    starts: Rows,
    begin: Rows,
    measure: Callable[[Rows], Score],
    *,
    budget: int,
    seed: int,
    worst: bool = False,
) -> Found:
    """Return the order of the least score that ``budget`` replays find; the greatest, if ``worst``.

    ``begin`` is a legal order, ``measure`` the score of one.
    """
    rng = np.random.default_rng(seed)
    sign = -1.0 if worst else 1.0
    a = Arrangement(calls, starts, begin)
    best = measure(a.order)
    steps = []
    for i in range(budget):
        low, high = _stretch(calls, starts, rng)
        before = a.order[low:high].copy()
        kind, key = _rule(rng)
        fill(a, kind, key, rng, low=low, high=high)
        if np.array_equal(a.order[low:high], before):
            continue
        score = measure(a.order)
        if tuple(sign * s for s in score) <= tuple(sign * s for s in best):
            if score != best:
                steps.append(i)
            best = score
        else:
            a.set(np.arange(low, high), before)
    return Found(a.order, best, budget, tuple(steps))


def _stretch(calls: Calls, starts: Rows, rng: np.random.Generator) -> tuple[int, int]:
    """Return a stretch of places inside a window, as often short as long."""
    ends = np.append(starts[1:], calls.count)
    window = int(rng.integers(0, len(starts)))
    low, high = int(starts[window]), int(ends[window])
    room = high - low
    length = int(np.exp(rng.uniform(np.log(min(_SHORTEST, room)), np.log(room))) + 1)
    start = low + int(rng.integers(0, max(room - length, 0) + 1))
    return start, min(start + length, high)


def _rule(rng: np.random.Generator) -> tuple[int, Key]:
    rules = [(FREE, key) for key in FREE_KEYS.values()]
    rules += [(ALLOCATION, key) for key in ALLOCATION_KEYS.values()]
    return rules[int(rng.integers(0, len(rules)))]
