"""Sizes and times in words and in numbers: ``"256M"`` and ``1.5 MiB``, ``"5min"`` and ``5:00``."""

from __future__ import annotations

import math
import operator
import re
from fractions import Fraction
from typing import Final, SupportsFloat, SupportsIndex

from pyalloc.errors import ArgumentError, WrongType

PAGE: Final = 4096

_FACTORS: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZE: Final = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?\s*", re.IGNORECASE)

_SECONDS: Final = {
    "us": 1e-6,
    "ms": 1e-3,
    "": 1.0,
    "s": 1.0,
    "min": 60.0,
    "h": 3600.0,
    "d": 86400.0,
}
_DURATION: Final = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(us|ms|s|min|h|d|)\s*")


def parse_size(value: int | str, name: str = "size") -> int:
    """Return ``value`` in bytes; text takes K, M, G, T as powers of 1024.

    >>> parse_size("256M")
    268435456
    """
    wanted = f"{name} must be a number of bytes or text such as '256M' (got {value!r})"
    if isinstance(value, bool) or not isinstance(value, SupportsIndex | str):
        raise WrongType(wanted)
    if isinstance(value, str):
        match = _SIZE.fullmatch(value)
        if not match:
            raise ArgumentError(wanted)
        number = Fraction(match[1])  # exact: a float has 53 bits
        size = int(number * _FACTORS[match[2].upper()])
    else:
        size = operator.index(value)
    if size < 0:
        message = f"{name} must not be negative (got {value!r})"
        raise ArgumentError(message)
    return size


def parse_duration(value: float | str, name: str = "duration") -> float:
    """Return ``value`` in seconds; text takes us, ms, s, min, h and d.

    >>> parse_duration("1.5h"), parse_duration("1min 30s")
    (5400.0, 90.0)
    """
    wanted = f"{name} must be a number of seconds or text such as '90s', '5min' or '2h'"
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        message = f"{wanted} (got {value!r})"
        raise WrongType(message)
    seconds = _seconds(value) if isinstance(value, str) else value
    if not 0 <= seconds < float("inf"):
        message = f"{wanted}, 0 or more (got {value!r})"
        raise ArgumentError(message)
    return float(seconds)


def _seconds(text: str) -> float:
    """Return a text of numbers with units in seconds; NaN if it is none."""
    parts = list(_DURATION.finditer(text))
    whole = "".join(part[0] for part in parts) == text and parts
    lacks = len(parts) > 1 and any(not part[2] for part in parts)
    if not whole or lacks:
        return float("nan")
    return sum(float(number) * _SECONDS[unit] for number, unit in (part.groups() for part in parts))


def format_duration(seconds: float) -> str:
    """Return ``seconds`` as a reader of a report wants them.

    >>> format_duration(0.25), format_duration(75), format_duration(7384)
    ('250 ms', '1:15', '2:03:04')
    """
    if seconds < 60:
        return f"{seconds:.3g} s" if seconds >= 1 or not seconds else f"{seconds * 1000:.3g} ms"
    whole = round(seconds)
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 24:
        return f"{hours // 24} d {hours % 24:02}:{minutes:02}:{rest:02}"
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def format_size(size: float) -> str:
    """Return ``size`` bytes in the largest binary unit that keeps it at 1 or more.

    >>> format_size(1536)
    '1.5 KiB'
    """
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def nanoseconds(seconds: float) -> int:
    """Return whole nanoseconds; time does not run backwards.

    >>> nanoseconds(0.25)
    250000000
    """
    given: object = seconds
    if type(given) is not float and (
        not isinstance(given, SupportsFloat) or isinstance(given, str)
    ):
        message = f"seconds must be a number (got {seconds!r}, a {type(seconds).__name__})"
        raise WrongType(message)
    ns = round(seconds * 1e9) if math.isfinite(seconds) else -1
    if not 0 <= ns < 1 << 63:
        message = f"seconds must not be negative, nor more than 292 years (got {seconds!r})"
        raise ArgumentError(message)
    return ns
