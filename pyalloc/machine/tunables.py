"""The settings of an allocator by name: what there is, and what is near a name that is none."""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Mapping
from typing import Final, SupportsIndex

from pyalloc import engine
from pyalloc.errors import ArgumentError
from pyalloc.nearest import nearest
from pyalloc.units import parse_size

TUNABLES: Final = (
    "arena_max",
    "arena_test",
    "check",
    "hugetlb",
    "mmap_max",
    "mmap_threshold",
    "mxfast",
    "perturb",
    "tcache_count",
    "tcache_max",
    "tcache_unsorted_limit",
    "top_pad",
    "trim_threshold",
)
"""Names after ``glibc.malloc.`` (the manual's "Memory Allocation Tunables")."""

PREFIX: Final = "glibc.malloc."
_PAST: Final = 1 << 64


def number_of(name: str, value: int | str) -> int:
    """Return the value of a setting; text is a number as in C, or a size such as ``"64K"``.

    Raises
    ------
    ArgumentError
        It is no number, negative, or wider than 64 bits.
    """
    number = _number(value)
    if number is None or not 0 <= number < _PAST:
        message = f"tunable {name} takes a number of 64 bits, such as 65536 or 64K (got {value!r})"
        raise ArgumentError(message)
    return number


def _number(value: int | str) -> int | None:
    if not isinstance(value, str):
        return operator.index(value) if isinstance(value, SupportsIndex) else None
    with contextlib.suppress(ValueError):
        return int(value, 0)
    with contextlib.suppress(ArgumentError):
        return parse_size(value)
    return None


def unknown(name: str) -> str:
    """Return the nearest right word for a name that is none, and nothing for one that is."""
    short = name.removeprefix(PREFIX)
    if short in TUNABLES:
        return ""
    return nearest(short, TUNABLES)


def tune(heap: engine.Heap, tunables: Mapping[str, int | str]) -> None:
    """Set what ``tunables`` name.

    Raises
    ------
    ArgumentError
        The allocator has no such setting, or refuses the value.
    """
    for name, value in tunables.items():
        number = number_of(name, value)
        if heap.tunable(name.removeprefix(PREFIX), number):
            continue
        hint = unknown(name)
        refuses = "" if hint else f", or refuses {value!r} for it"
        message = f"the allocator has no tunable {name!r}{refuses}{hint}"
        raise ArgumentError(message)
