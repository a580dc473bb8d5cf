"""What this machine's kernel takes for mapping calls and for a fork.

A small C program (``csrc/address_space.c``) makes the calls in a process of its own.
"""

from __future__ import annotations

import subprocess
from typing import Final

from pyalloc.errors import ArgumentError
from pyalloc.host import compile as _compile
from pyalloc.host.compile import HostError

PAIRS: Final = ("mmap, munmap", "mmap fixed in the middle", "mprotect in the middle", "brk")
"""What :func:`mapping_calls` times, two calls each."""


def mapping_calls(areas: int, *, count: int = 2000) -> dict[str, float]:
    """Return nanoseconds a call by the names of :data:`PAIRS`, among ``areas`` areas.

    Every other area is readable and writable, the rest have no access; each has two pages.

    Raises
    ------
    CompilerMissing
        There is no compiler.
    HostError
        The kernel did not give as many areas (``vm.max_map_count``).
    """
    times = _run("calls", areas, count, f"{areas} areas could not be made")
    return {name: time / (2 * count) for name, time in zip(PAIRS, times, strict=True)}


def forks(pages: int, *, count: int = 5) -> list[int]:
    """Return the nanoseconds of ``count`` forks of a process that has written ``pages`` pages.

    Raises
    ------
    CompilerMissing
        There is no compiler.
    HostError
        The kernel did not give that much memory.
    """
    return _run("fork", pages, count, f"{pages} pages could not be written to and forked")


def _run(what: str, size: int, count: int, failure: str) -> list[int]:
    if size < 1 or count < 1:
        message = f"sizes and counts must be 1 or more (got {size}, {count})"
        raise ArgumentError(message)
    program = str(_compile.program("address_space"))
    command = [program, what, str(size), str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        message = f"{failure} here (exit code {done.returncode})"
        raise HostError(message)
    return [int(word) for word in done.stdout.split()]
