"""What this machine's kernel takes to give out a page.

A small C program (``csrc/first_touch.c``) maps memory and writes one byte to each page of it.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from typing import Final

from pyalloc.errors import ArgumentError
from pyalloc.host import compile as _compile
from pyalloc.host.compile import HostError

_NO_MEMORY: Final = 3


@dataclass(frozen=True, slots=True)
class FirstTouch:
    """The first write to each of ``pages`` pages: wall time, and the page faults it took."""

    pages: int
    nanoseconds: int
    minor_faults: int

    @property
    def nanoseconds_per_page(self) -> float:
        """Wall time of one page's first write."""
        return self.nanoseconds / self.pages


def first_touch(pages: int = 32768, *, repeat: int = 3) -> FirstTouch:
    """Return the fastest of ``repeat`` runs, each in a fresh process.

    Parameters
    ----------
    pages
        How many pages to write to; they must fit in free memory.
    repeat
        Number of runs.

    Raises
    ------
    CompilerMissing
        There is no compiler.
    HostError
        The kernel did not give that much memory.
    """
    if pages < 1 or repeat < 1:
        message = f"pages and repeat must be 1 or more (got {pages}, {repeat})"
        raise ArgumentError(message)
    program = str(_compile.program("first_touch"))
    runs = [_run(program, pages) for _ in range(repeat)]
    return min(runs, key=lambda run: run.nanoseconds)


def _run(program: str, pages: int) -> FirstTouch:
    done = subprocess.run([program, str(pages)], capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        why = "the kernel refused to map that much" if done.returncode == _NO_MEMORY else "it died"
        message = f"{pages} pages could not be written to: {why} (exit code {done.returncode})"
        raise HostError(message)
    nanoseconds, faults = map(int, done.stdout.split())
    return FirstTouch(pages, nanoseconds, faults)
