"""The allocators that the engine has, by name."""

from __future__ import annotations

import functools

from pyalloc.engine.border import ffi, lib, text
from pyalloc.errors import ArgumentError
from pyalloc.nearest import nearest


def allocator_names() -> list[str]:
    """Return the name of every allocator in the engine."""
    return list(_names())


@functools.cache
def _names() -> tuple[str, ...]:
    names: list[str] = []
    while (name := lib.pa_allocator_name(len(names))) != ffi.NULL:
        names.append(text(name))
    return tuple(names)


def allocator_changes() -> list[str]:
    """Return what each allocator changes against the generation before, in words."""
    return [text(lib.pa_allocator_changes(index)) for index in range(len(_names()))]


def require_allocator(name: str) -> None:
    """Raise ArgumentError, with the names that are near, unless the engine has ``name``."""
    known = _names()
    if name not in known:
        message = f"no allocator {name!r}{nearest(name, known)}"
        raise ArgumentError(message)
