"""The nearest right word, for whoever wrote another."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Final

_LIKE: Final = 0.6
_MOST: Final = 3
_LISTED: Final = 24


def nearest(word: str, known: Iterable[str]) -> str:
    """Return "; did you mean ...?", or in brackets all there is where nothing is near.

    >>> nearest("memory_mx", ["memory_max", "swap_max"])
    '; did you mean memory_max?'
    >>> nearest("jemalloc", ["first-fit", "best-fit"])
    ' (there are best-fit, first-fit)'
    """
    names = sorted(known)
    hint = near_word(word, names)
    if hint or not names:
        return hint
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    be = "are" if len(names) > 1 else "is"
    return f" (there {be} {', '.join(names[:_LISTED])}{more})"


def near_word(word: str, known: Iterable[str]) -> str:
    """Return "; did you mean ...?" if something is near; capitals and dashes are no difference.

    >>> near_word("Mmap-Treshold", ["mmap_threshold", "top_pad"])
    '; did you mean mmap_threshold?'
    """
    plain: dict[str, str] = {}
    for name in known:
        plain.setdefault(_plain(name), name)
    found = difflib.get_close_matches(_plain(word), plain, n=_MOST, cutoff=_LIKE)
    names = [plain[name] for name in found]
    if not names:
        return ""
    words = ", ".join(names[:-1]) + " or " + names[-1] if len(names) > 1 else names[0]
    return f"; did you mean {words}?"


def _plain(word: str) -> str:
    return word.lower().replace("-", "_")
