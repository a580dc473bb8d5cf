"""The programs of the article "When Linux Runs Out of Memory" (M. Santosa, 2006).

Program A asks for 1 MB at a time until malloc returns NULL; program B writes what it gets.  Both
print a line a block, for which the C library of the time maps a page of buffer after the first.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Protocol

from pyalloc.errors import ProcessKilled
from pyalloc.kernel.abi import MAP, PROT
from pyalloc.kernel.limits import Limits
from pyalloc.kernel.prelink import prelinked_layout
from pyalloc.machine import Machine, Process
from pyalloc.units import PAGE

MEGABYTE = 1 << 20
RAM = "255944K"
"""MemTotal of the article's machine of 256 MB."""
SWAP = "909676K"
OTHERS = 54352 << 10
"""Bytes that program B never got: 1081 of its blocks leave so much of RAM and swap."""
_IN_USE = 4 << 20  # of them: files that other programs keep in use
_COUNTED = (2 << 20) + (1124 << 10)  # of them: the watermark and B's page tables, modelled


def machine() -> Machine:
    """Return the article's machine: 256 MB of RAM, 888 MB of swap, Linux 2.6.18 on i386.

    What other programs and the kernel held is not known but for its sum (:data:`OTHERS`); here it
    is reserved memory and a file that somebody keeps in use.
    """
    reserved = OTHERS - _IN_USE - _COUNTED
    box = Machine(ram=RAM, swap=SWAP, reserved=reserved, kernel="2.6.18", arch="i386")
    init = box.spawn("init", uid=0, rlimits=Limits(memlock=_IN_USE, ipc_lock=True))
    files = init.open(box.file("lib", size=_IN_USE), "r")
    at = init.mmap(0, _IN_USE, PROT.READ, MAP.SHARED, files)
    init.mlock(at, _IN_USE)
    return box


def process(on: Machine, name: str, stack_pages: int = 22) -> Process:
    """Start a program of the article as its shell did: dynamic, prelinked, with glibc 2.3.

    ``stack_pages`` is 22 where the article shows its status and 21 where it shows its map.
    """
    layout = prelinked_layout(on.profile, f"/{name}", stack_pages)
    program = on.spawn(name, allocator="glibc-2.3.3", uid=0, layout=layout)
    for vma in list(program.space):  # a program that runs has used a page of each at least
        if vma.name is None:
            program.touch(vma.end - PAGE, PAGE, write=bool(vma.flags & PROT.WRITE))
    return program


class Caller(Protocol):
    """What the programs call: a process, or a job of a scenario."""

    def malloc(self, size: int) -> int:
        """Return new bytes; 0 is NULL."""

    def calloc(self, count: int, size: int) -> int:
        """Return zeroed bytes; 0 is NULL."""

    def touch(self, addr: int, length: int, write: bool = True) -> None:
        """Access each page of a range."""

    def mmap(self, addr: int, length: int, prot: int, flags: int) -> int:
        """Map memory."""


def megabytes(of: Caller, how: str = "malloc", size: int = MEGABYTE) -> Iterator[int]:
    """Ask for 1 MB at a time until NULL; yield the number of blocks after each.

    ``how`` is ``"malloc"``, ``"calloc"``, or ``"write"``: malloc, and fill what comes.
    """
    got = 0
    while block := of.calloc(1, size) if how == "calloc" else of.malloc(size):
        if how == "write":
            of.touch(block, size)
        got += 1
        if got == 1:
            of.mmap(0, PAGE, PROT.READ | PROT.WRITE, MAP.PRIVATE | MAP.ANONYMOUS)
        yield got


def loop(
    of: Process,
    *,
    write: bool,
    blocks: int | None = None,
    step: Callable[[int], None] | None = None,
) -> int:
    """Ask for 1 MB at a time; return how many blocks there were.

    It ends with NULL, with the process killed, or after ``blocks``; ``step`` is called with the
    number of blocks after each.
    """
    got = 0
    with contextlib.suppress(ProcessKilled):
        for got in megabytes(of, "write" if write else "malloc"):
            if step is not None:
                step(got)
            if got == blocks:
                break
    return got
