"""The nearest right word, for whoever wrote another."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(word: str, known: Iterable[str]) -> str:
    """Return "; did you mean ...?", or in brackets all there is where nothing is near.

    >>> nearest("memory_mx", ["memory_max", "swap_max"])
    '; did you mean memory_max?'
    """
    names = sorted(known)
    near = difflib.get_close_matches(word, names, n=3, cutoff=0.6)
    if near:
        return f"; did you mean {' or '.join(near)}?"
    return f" (there {'are' if len(names) > 1 else 'is'} {', '.join(names)})" if names else ""


def near_word(word: str, known: Iterable[str]) -> str:
    """Return "; did you mean ...?" if something is near."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""
