"""Scans of memory: a working set, a limit, and the order in which its pages are accessed.

A scan goes over its working set pass by pass.  The first pass fills memory, in order, or reads a
file in the scan's own order; what a scan misses shows in those that follow.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from pyalloc.units import PAGE

MODES: Final = {
    "anon": "private memory",
    "anon0": "private memory with nothing but zeros in it",
    "shm": "shared memory",
    "fread": "a file, read page by page",
    "fmap": "a file, mapped",
    "fmapr": "a file, mapped with MADV_RANDOM",
}
"""What is scanned."""

PATTERNS: Final = {
    "seq": "in order",
    "rand": "any page, again and again",
    "back": "in order, and back in the next pass",
    "hotcold": "90 % of the accesses to 20 % of the pages",
    "zipf": "the n-th page 1/n as often as the first, wherever it is",
}
"""In which order."""

_MB: Final = (1 << 20) // PAGE
_PLACES: Final = 7

Pages = npt.NDArray[np.integer[Any]]
_T = TypeVar("_T")


def order_of(
    mode: str, pattern: str, pages: int, number: int, chance: np.random.Generator
) -> Pages:
    """Return the pages that pass ``number`` accesses, in order; what fills is sequential."""
    if pattern == "seq" or (not number and not mode.startswith("f")):
        return np.arange(pages)
    if pattern == "rand":
        return chance.integers(0, pages, pages)
    if pattern == "back":
        return np.arange(pages)[:: -1 if number % 2 else 1]
    if pattern == "hotcold":
        hot = pages // 5
        spots = chance.integers(0, hot, pages), chance.integers(hot, pages, pages)
        return np.where(chance.random(pages) < 0.9, *spots)
    weight = 1 / np.arange(1, pages + 1)
    places = np.random.default_rng(_PLACES).permutation(pages)
    return np.asarray(places[chance.choice(pages, pages, p=weight / weight.sum())])


@dataclass(frozen=True, slots=True)
class Scan:
    """A scan of ``factor`` times as much as its limit of ``megabytes``."""

    seed: int
    mode: str
    pattern: str
    megabytes: int
    factor: float
    write: bool
    page_cluster: int = 3
    swappiness: int = 60
    passes: int = 6

    @property
    def pages(self) -> int:
        """Pages of the working set."""
        return int(self.megabytes * _MB * self.factor)

    def orders(self) -> Iterator[tuple[Pages, bool]]:
        """Yield each pass: its pages in order, and whether they are written."""
        chance = np.random.default_rng(self.seed)
        for number in range(self.passes):
            fills = not number and not self.mode.startswith("f")
            order = order_of(self.mode, self.pattern, self.pages, number, chance)
            yield order, self.write or fills


_LIMITS: Final = tuple(16 + step**2 // 32 for step in range(33))  # small ones take less time
_FACTORS: Final = tuple(hundredths / 100 for hundredths in range(50, 201, 5))
_SWAPPINESS: Final = (60, 60, 60, 60, 60, 60, 1, 10, 100, 200)


class Choices(NamedTuple):
    """What scans may be; each value is as likely as the others."""

    mode: Sequence[str] = tuple(MODES)
    pattern: Sequence[str] = tuple(PATTERNS)
    megabytes: Sequence[int] = _LIMITS
    factor: Sequence[float] = _FACTORS
    write: Sequence[bool] = (True, False)
    page_cluster: Sequence[int] = (0, 3)
    swappiness: Sequence[int] = _SWAPPINESS


def random_scan(seed: int, choices: Choices | None = None, *, passes: int = 6) -> Scan:
    """Return the scan of a seed; to hold one thing fixed leaves the others as they were."""
    chance, of = np.random.default_rng(seed), choices or Choices()

    def one(values: Sequence[_T]) -> _T:
        return values[int(chance.random() * len(values))]

    mode = one(of.mode)
    return Scan(
        seed=seed,
        mode=mode,
        pattern=one(of.pattern),
        megabytes=one(of.megabytes),
        factor=one(of.factor),
        write=one(of.write) and mode != "fread",
        page_cluster=one(of.page_cluster),
        swappiness=one(of.swappiness),
        passes=passes,
    )
