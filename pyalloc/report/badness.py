"""A score of the OOM killer in words."""

from __future__ import annotations

from collections.abc import Sequence

from pyalloc.kernel.oom import Term


def steps(terms: Sequence[Term]) -> str:
    """Return the steps of a score: what is added as such, what changes it all with its result.

    >>> steps([Term("rss", 50), Term("swap", 50), Term("page tables", 52)])
    'rss 50 + page tables 2'
    >>> steps([Term("total_vm", 1000), Term("superuser / 4", 250)])
    'total_vm 1,000, superuser / 4: 250'
    """
    words, points = [], 0
    for term in terms:
        if set(term.what) & set("/*<>"):
            words.append(f", {term.what}: {term.points:,}")
        elif term.points != points:
            sign = "+" if term.points > points else "-"
            words.append(f" {sign} {term.what} {abs(term.points - points):,}")
        points = term.points
    return "".join(words).removeprefix(" + ")
