"""Where the ``--`` of a command line is: the parser takes it away, and it has a meaning."""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar

from pyalloc.errors import ArgumentError

_behind: ContextVar[int] = ContextVar("_behind", default=0)


def note_arguments(arguments: Sequence[str]) -> None:
    """Remember how many words stand behind the first ``--``."""
    words = list(arguments)
    _behind.set(len(words) - words.index("--") - 1 if "--" in words else 0)


def count_behind() -> int:
    """Return how many words stand behind the first ``--``."""
    return _behind.get()


def split(words: Sequence[str]) -> tuple[str | None, tuple[str, ...]]:
    """Return the FILE before the ``--``, if any, and the command behind it."""
    count = _behind.get()
    before, command = words[: len(words) - count], tuple(words[len(words) - count :])
    if len(before) > 1:
        message = f"give one FILE (got {' '.join(before)}); a command goes behind --"
        raise ArgumentError(message)
    if not before and not command:
        message = "give a trace FILE, or a command behind --"
        raise ArgumentError(message)
    return (before[0] if before else None), command
