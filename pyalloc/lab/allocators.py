"""The allocators there are, and what each is."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pyalloc import engine


@dataclass(frozen=True, slots=True)
class Allocator:
    """An allocator: the name :func:`pyalloc.replay` takes, and what it changes.

    A generation of glibc is described by its differences from the generation before it.
    """

    name: str
    description: str


def _age(allocator: Allocator) -> tuple[bool, list[int]]:
    """Sort generations by version, and others after them as they are."""
    numbers = [int(n) for n in re.findall(r"\d+", allocator.name)]
    return not allocator.name.startswith("glibc-"), numbers


def allocators() -> list[Allocator]:
    """Return every allocator there is, generations of glibc first, oldest first."""
    names, changes = engine.allocator_names(), engine.allocator_changes()
    return sorted(map(Allocator, names, changes), key=_age)
