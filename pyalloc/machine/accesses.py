"""What a program does with its memory itself, without a call: reading and writing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from pyalloc.arguments import numbers, registers, truth
from pyalloc.errors import ArgumentError, MemoryFault
from pyalloc.machine.sequences import SequenceCalls
from pyalloc.units import PAGE

_FLAG: Final[type] = bool
"""By another name, or mypy takes any check of a flag's type for unreachable."""


class Accesses(SequenceCalls):
    """What a process reads and writes; the process itself is a subclass."""

    def touch(self, addr: int, length: int, write: bool = True, *, zeros: bool = False) -> None:
        """Access each page of a range once.

        Parameters
        ----------
        addr, length
            The range, in bytes.
        write
            Write to each page; False: read it.
        zeros
            What is written is zeros: a page that holds nothing else needs no place on the disk
            to be swapped out (6.12 and later).  Private memory only.

        Raises
        ------
        MemoryFault
            The hardware would refuse: SIGSEGV or SIGBUS, at ``.address``.
        ProcessKilled
            The OOM killer chose this process on the way.
        """
        if type(addr) is not int or type(length) is not int:
            addr, length = registers(-1, addr=addr, length=length)
        if length < 0:
            message = f"length must not be negative (got {length})"
            raise ArgumentError(message)
        addr &= self.mask
        if type(write) is not _FLAG or type(zeros) is not _FLAG:
            write, zeros = truth(write, "write"), truth(zeros, "zeros")
        if zeros:
            with self._writing_zeros():
                self._touch(addr, length, write=write)
            return
        if not self.alive or self.machine.occupant is not None:
            self.require_alive()
        if length and self.heap.has_mapped(addr, length):
            first = addr // PAGE
            self.pages.access_own(first, -(-(addr + length) // PAGE) - first, write)
        else:
            self._touch(addr, length, write=write)

    @contextlib.contextmanager
    def _writing_zeros(self) -> Iterator[None]:
        """Let what is written in this block be zeros."""
        self.require_alive()
        table = self.pages.table
        table.write_zeros(zeros=True)
        try:
            yield
        finally:
            if self.alive:
                table.write_zeros(zeros=False)

    def _touch(self, addr: int, length: int, *, write: bool) -> None:
        space = self._space()
        size = space.total_vm
        at, end = addr // PAGE * PAGE, addr + length
        first = addr
        while at < end:
            try:
                vma = space.fault(first, write)
            except MemoryFault as fault:
                self.pages.fail_past_end(fault, write=write)
                raise
            stop = min(vma.end, -(-end // PAGE) * PAGE)
            self.pages.access(vma, at // PAGE, (stop - at) // PAGE, write=write)
            at = first = stop
        if space.total_vm != size:  # the stack has grown
            self.heap.lease()

    def touch_pages(
        self, addr: int, pages: npt.ArrayLike, write: bool = True, *, zeros: bool = False
    ) -> None:
        """Access single pages, in the order given: page ``i`` is the one at ``addr + i * 4096``.

        The way to make random, skewed or repeated accesses quickly: one call for a whole array.

        Parameters
        ----------
        addr
            An address in the page that number 0 stands for.
        pages
            Whole numbers, as a numpy array or anything that becomes one.
        write, zeros
            As :meth:`touch`.

        Raises
        ------
        ArgumentError
            ``pages`` does not hold whole numbers.
        WrongType
            It is no list.
        MemoryFault, ProcessKilled
            As :meth:`touch`; the accesses before it have been made.
        """
        index = numbers(pages, "pages", np.int64)
        (addr,) = registers(self.mask, addr=addr)
        if type(write) is not _FLAG or type(zeros) is not _FLAG:
            write, zeros = truth(write, "write"), truth(zeros, "zeros")
        if not len(index):
            return
        if not zeros:
            self._touch_pages(addr, index, write=write)
            return
        with self._writing_zeros():
            self._touch_pages(addr, index, write=write)

    def _touch_pages(self, addr: int, index: npt.NDArray[np.int64], *, write: bool) -> None:
        base = addr // PAGE
        low, high = base + int(index.min()), base + int(index.max())
        vma = self._space().find(low * PAGE)
        if vma is None or not vma.start <= low * PAGE <= high * PAGE < vma.end:
            vma = None
        if vma is None or not self.pages.takes_lists(vma):
            for number in index.tolist():
                self.touch((base + number) * PAGE, 1, write)
            return
        self.space.fault(low * PAGE, write)
        self.pages.access_list(vma, base, index, write=write)
        self.heap.lease()
