"""Sizes in words and in numbers: parsing ``"256M"`` and printing ``1.5 MiB``."""

from __future__ import annotations

import re
from typing import Final

from pyalloc.errors import ArgumentError

PAGE: Final = 4096

_FACTORS: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZE: Final = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?\s*", re.IGNORECASE)


def parse_size(value: int | str, name: str = "size") -> int:
    """Return ``value`` in bytes; text takes K, M, G, T as powers of 1024.

    >>> parse_size("256M")
    268435456
    """
    if isinstance(value, bool) or not isinstance(value, int | str):
        message = f"{name} must be a number of bytes or text such as '256M' (got {value!r})"
        raise TypeError(message)
    if isinstance(value, int):
        size = value
    else:
        match = _SIZE.fullmatch(value)
        if not match:
            message = f"{name} must be a number of bytes or text such as '256M' (got {value!r})"
            raise ArgumentError(message)
        size = int(float(match[1]) * _FACTORS[match[2].upper()])
    if size < 0:
        message = f"{name} must not be negative (got {value!r})"
        raise ArgumentError(message)
    return size


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
