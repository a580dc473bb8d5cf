"""The model held against the real thing on this host.

One module a part of the machine; each returns a verdict, which says whether a difference was found
and, if so, shows the first, shrunk to the fewest steps.

=========================================  ====================================================
:mod:`~pyalloc.lab.verify.malloc`          random streams of calls against the host's glibc
:mod:`~pyalloc.lab.verify.kernel`          random system calls against the host's kernel
:mod:`~pyalloc.lab.verify.oom`             random cases of a full cgroup against its OOM killer
:mod:`~pyalloc.lab.verify.reclaim`         random scans of memory against what it reclaims
=========================================  ====================================================
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol


class Verdict(Protocol):
    """What a verification found."""

    @property
    def agrees(self) -> bool:
        """Whether no difference was found."""

    def to_dict(self) -> dict[str, Any]:
        """Return the findings as JSON values."""


Progress = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and how much there is."""


def quiet(what: str, done: int, total: int) -> None:
    """Tell nobody."""
