"""Distributions of request sizes: written as text, or learnt from a trace.

==========================  ======================================================================
text                        sizes
==========================  ======================================================================
``64``                      all alike
``1-4000``                  uniform
``log:1-1M``                log-uniform: as many from 1 to 2 bytes as from 512 KiB to 1 MiB
``pow:16-64K``              powers of two, each as likely
``pareto:1.2:16-1M``        bounded Pareto law of that exponent: most small, a few very large
``markov:0.9:1-4000``       each with that probability as large as the one before, else uniform
``classes:0.9:8-64/1K-4K``  classes of sizes, any number: each size stays in the class of the one
                            before with that probability, else goes to one of the others; uniform
                            inside a class
``trace:FILE``              those of a recorded trace, each as likely as it occurs there
``chain:FILE``              the same, each following the one before as it does there
==========================  ======================================================================

Both ends of a range are included; K, M and G are powers of 1024.  Requests come in runs in real
programs, which is what ``markov:``, ``classes:`` and ``chain:`` keep and the others lose.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from pyalloc.errors import ArgumentError
from pyalloc.trace import Trace, read_trace
from pyalloc.trace.summary import granted
from pyalloc.units import parse_size

if TYPE_CHECKING:
    import numpy.typing as npt

    Bytes = npt.NDArray[np.uint64]
    Reals = npt.NDArray[np.float64]

SIZES: Final[dict[str, str]] = {
    "small": "1-128",
    "medium": "1-4000",
    "mixed": "log:1-1M",
    "powers": "pow:16-64K",
    "heavy": "pareto:1.2:16-1M",
}
"""Names for size distributions; anything :func:`parse_sizes` takes may stand in their place."""

_LARGEST: Final = 1 << 40
_SIZES: Final = re.compile(r"(?:(log|pow|pareto|markov):)?(?:([0-9.]+):)?([^-:]+)(?:-([^-:]+))?")
_PARAMETRIC: Final = ("pareto", "markov")


class SizeLaw(Protocol):
    """Anything that sizes can be drawn from."""

    def draw(self, rng: np.random.Generator, count: int) -> Bytes:
        """Return ``count`` sizes in bytes."""

    @property
    def mean(self) -> float:
        """The expected size in bytes."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """A distribution of request sizes written as text; bounds are in bytes.

    ``law`` is uniform, log, pow, pareto or markov; ``shape`` the exponent of pareto, or the
    probability with which markov repeats a size.
    """

    law: str
    low: int
    high: int
    shape: float = 0.0

    def draw(self, rng: np.random.Generator, count: int) -> Bytes:
        """Return ``count`` sizes in bytes."""
        if self.law == "uniform":
            return rng.integers(self.low, self.high + 1, count, np.uint64)
        if self.law == "pow":
            first, last = self.low.bit_length() - 1, self.high.bit_length() - 1
            power: Bytes = rng.integers(first, last + 1, count, np.uint64)
            return np.left_shift(np.uint64(1), power)
        if self.law == "markov":
            fresh = rng.integers(self.low, self.high + 1, count, np.uint64)
            return _held(fresh, rng.random(count) < self.shape)
        part = rng.random(count)
        if self.law == "log":
            low, high = np.log(self.low), np.log(self.high + 1)
            drawn = np.exp(low + (high - low) * part)
        else:
            drawn = np.rint(_pareto(self.shape, self.low, self.high, part))
        clipped: Reals = np.clip(drawn, self.low, self.high)
        return clipped.astype(np.uint64)

    @property
    def mean(self) -> float:
        """The expected size in bytes."""
        if self.law in ("uniform", "markov") or self.low == self.high:
            return (self.low + self.high) / 2
        if self.law == "pow":
            powers = self.high.bit_length() - self.low.bit_length() + 1
            return (2 * self.high - self.low) / powers
        if self.law == "pareto":
            return _pareto_mean(self.shape, self.low, self.high)
        return float((self.high - self.low) / np.log(self.high / self.low))


def _held(fresh: Bytes, repeats: npt.NDArray[np.bool_]) -> Bytes:
    """Return ``fresh`` with each repeated value taken from the last one that was not."""
    source = np.where(repeats, 0, np.arange(len(fresh)))
    return fresh[np.maximum.accumulate(source)] if len(fresh) else fresh


def _pareto(shape: float, low: float, high: float, part: Reals) -> Reals:
    """Invert the distribution function of the bounded Pareto law."""
    kept = 1 - part * (1 - (low / high) ** shape)
    result: Reals = low * kept ** (-1 / shape)
    return result


def _pareto_mean(shape: float, low: float, high: float) -> float:
    norm = shape * low**shape / (1 - (low / high) ** shape)
    if abs(shape - 1) < 1e-9:
        return float(norm * np.log(high / low))
    return float(norm * (high ** (1 - shape) - low ** (1 - shape)) / (1 - shape))


@dataclass(frozen=True, slots=True)
class Classes:
    """A Markov chain of size classes, each uniform inside; bounds in bytes, both included.

    ``stays`` is the probability that a size is of the same class as the one before it.
    """

    stays: float
    low: tuple[int, ...]
    high: tuple[int, ...]

    def draw(self, rng: np.random.Generator, count: int) -> Bytes:
        """Return ``count`` sizes in bytes."""
        classes = len(self.low)
        moves = rng.random(count) >= self.stays
        step = rng.integers(1, classes, count) if classes > 1 else np.zeros(count, np.int64)
        now = (rng.integers(0, classes) + np.cumsum(step * moves)) % classes
        low, high = np.array(self.low, np.uint64)[now], np.array(self.high, np.uint64)[now]
        drawn: Bytes = rng.integers(low, high + np.uint64(1), dtype=np.uint64)
        return drawn

    @property
    def mean(self) -> float:
        """The expected size in bytes: every class is as likely as any other in the long run."""
        return float(np.mean([(a + b) / 2 for a, b in zip(self.low, self.high, strict=True)]))


# --- learnt from a trace


@dataclass(frozen=True, eq=False)
class Empirical:
    """The sizes of a trace, each as likely as it occurs there."""

    sizes: Bytes

    @classmethod
    def of(cls, trace: Trace) -> Empirical:
        """Learn from the requests that ``trace`` was granted."""
        return cls(_requests(trace))

    def draw(self, rng: np.random.Generator, count: int) -> Bytes:
        """Return ``count`` sizes in bytes."""
        drawn: Bytes = self.sizes[rng.integers(0, len(self.sizes), count)]
        return drawn

    @property
    def mean(self) -> float:
        """The expected size in bytes."""
        return float(self.sizes.mean())


@dataclass(frozen=True, eq=False)
class Markov:
    """The sizes of a trace, each following the one before as it does there.

    The state is the size itself.  ``value`` holds the different sizes, ``start[i]`` where the
    followers of ``value[i]`` begin in ``followers``.
    """

    value: Bytes
    start: npt.NDArray[np.int64]
    followers: npt.NDArray[np.int64]

    @classmethod
    def of(cls, trace: Trace) -> Markov:
        """Learn from the requests that ``trace`` was granted; after the last comes the first."""
        value, state = np.unique(_requests(trace), return_inverse=True)
        after = np.roll(state, -1)
        order = np.argsort(state, kind="stable")
        start = np.concatenate([[0], np.cumsum(np.bincount(state, minlength=len(value)))])
        return cls(value, start.astype(np.int64), after[order].astype(np.int64))

    def draw(self, rng: np.random.Generator, count: int) -> Bytes:
        """Return ``count`` sizes in bytes."""
        part = rng.random(count + 1).tolist()
        start, followers = self.start.tolist(), self.followers.tolist()
        state = followers[int(part[0] * len(followers))]
        states = []
        for at in part[1:]:
            states.append(state)
            first, end = start[state], start[state + 1]
            state = followers[first + int(at * (end - first))]
        return self.value[np.array(states, np.int64)]

    @property
    def mean(self) -> float:
        """The expected size in bytes: the chain visits each size as often as the trace does."""
        visits = np.diff(self.start)
        return float(np.average(self.value.astype(float), weights=visits))


def _requests(trace: Trace) -> Bytes:
    sizes = trace.size[granted(trace)]
    if not len(sizes):
        message = "sizes cannot be learnt from a trace that was granted no request"
        raise ArgumentError(message)
    return sizes


_LEARNT: Final[dict[str, type[Empirical | Markov]]] = {"trace": Empirical, "chain": Markov}


# --- text


def parse_sizes(text: str | int | SizeLaw) -> SizeLaw:
    """Return the distribution that ``text`` names; one that is given as such is returned.

    Parameters
    ----------
    text
        A name in :data:`SIZES`, a number of bytes, or one of the forms in the table above.

    Raises
    ------
    ArgumentError
        It is none of these, LOW is above HIGH or not positive, an end of ``pow:`` is no power of
        two, or a parameter lies outside its domain.
    TraceError
        The file of ``trace:`` or ``chain:`` cannot be read.

    Examples
    --------
    >>> parse_sizes("log:1-1M")
    Sizes(law='log', low=1, high=1048576, shape=0.0)
    """
    if not isinstance(text, str | int):
        return text
    written = SIZES.get(str(text), str(text))
    law, colon, rest = written.partition(":")
    if colon and law in _LEARNT:
        return _LEARNT[law].of(read_trace(rest))
    if colon and law == "classes":
        return _classes(rest, written)
    match = _SIZES.fullmatch(written)
    if not match or bool(match[2]) != (match[1] in _PARAMETRIC):
        message = (
            f"sizes must be one of {', '.join(SIZES)}, a number of bytes, [log:|pow:]LOW-HIGH, "
            f"pareto:EXPONENT:LOW-HIGH, markov:PROBABILITY:LOW-HIGH, "
            f"classes:PROBABILITY:LOW-HIGH/..., trace:FILE or chain:FILE (got {text!r})"
        )
        raise ArgumentError(message)
    low = parse_size(_number(match[3]), "sizes")
    high = low if match[4] is None else parse_size(_number(match[4]), "sizes")
    law = match[1] or "uniform"
    shape = _shape(law, match[2])
    _check_bounds(law, low, high, written)
    return Sizes(law, low, high, shape)


def _classes(text: str, written: str) -> Classes:
    stays, _, ranges = text.partition(":")
    probability = _shape("classes", stays)
    found = [_SIZES.fullmatch(each) for each in ranges.split("/")]
    bounds = []
    for match in found:
        if match is None or match[1] or match[2]:
            message = f"sizes classes: are written PROBABILITY:LOW-HIGH/LOW-HIGH (got {written!r})"
            raise ArgumentError(message)
        low = parse_size(_number(match[3]), "sizes")
        high = low if match[4] is None else parse_size(_number(match[4]), "sizes")
        _check_bounds("uniform", low, high, written)
        bounds.append((low, high))
    return Classes(probability, tuple(a for a, _ in bounds), tuple(b for _, b in bounds))


def _number(text: str) -> int | str:
    return int(text) if text.isdecimal() else text


def _shape(law: str, text: str | None) -> float:
    if text is None:
        return 0.0
    try:
        shape = float(text)
    except ValueError:
        shape = -1.0
    probability = law in ("markov", "classes")
    most = 1.0 if probability else 100.0
    if not (0 < shape <= most or (probability and shape == 0)):
        least = "from 0 to 1" if probability else "above 0 and at most 100"
        message = f"the number in sizes {law}: must be {least} (got {text!r})"
        raise ArgumentError(message)
    return shape


def _check_bounds(law: str, low: int, high: int, text: str) -> None:
    from_zero = law in ("uniform", "markov")
    if not (from_zero or low > 0) or not low <= high <= _LARGEST:
        message = f"sizes must go from a LOW above 0 up to at most 1T (got {text!r})"
        raise ArgumentError(message)
    if law == "pow" and (low & (low - 1) or high & (high - 1)):
        message = f"both ends of sizes pow: must be powers of two (got {text!r})"
        raise ArgumentError(message)
