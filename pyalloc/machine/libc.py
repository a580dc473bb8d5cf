"""What a process calls of its C library: malloc and its relatives.

They return what they return in C.  Sizes and addresses are taken as registers take them; where
every call counts, only those that the engine does not take at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NoReturn

import numpy as np
import numpy.typing as npt

from pyalloc import engine
from pyalloc.arguments import numbers, registers, whole
from pyalloc.machine.accesses import Accesses
from pyalloc.units import PAGE

_PENDING: Final = engine.PENDING
_LONGEST: Final = (1 << 64) - 1
_MOST_THREADS: Final = 1 << 22
_OP: Final = {
    "calloc": 1,
    "memalign": 4,
    "posix_memalign": 5,
    "aligned_alloc": 6,
    "valloc": 7,
    "pvalloc": 8,
    "malloc_trim": 9,
    "mallopt": 10,
    "thread_exit": 15,
}
_MISFITS: Final = (TypeError, OverflowError)
"""What a number gives that is not one the engine takes: it is looked at again, more slowly."""


class LibraryCalls(Accesses):
    """What a process asks its C library for; the process itself is a subclass."""

    def _refuse(self, *_: int) -> NoReturn:
        """Raise the error of a call after the end."""
        raise NotImplementedError

    def bind(self) -> None:
        """Tie the three hottest calls to the engine."""
        if self.alive:
            self._malloc, self._free, self._realloc = self.heap.heap.entries()
        else:
            self._malloc = self._free = self._realloc = self._refuse

    def close_entries(self) -> None:
        """Let no other thread call the engine directly until :meth:`bind` is called again."""
        if self.alive:
            entries = self.heap.heap.entries()
            self._malloc, self._free, self._realloc = map(self._guarded, entries)

    def _guarded(self, entry: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: int) -> Any:  # noqa: ANN401 - as the entry
            self.machine.require_mine()
            return entry(*arguments)

        return call

    # --- calls --------------------------------------------------------------------------

    def malloc(self, size: int) -> int:
        """Return the address of ``size`` new bytes; 0 is NULL."""
        try:
            pointer = self._malloc(size)
        except _MISFITS:
            pointer = self._malloc(*registers(self.mask, size=size))
        return pointer if pointer != _PENDING else self.heap.settle(pointer)

    def free(self, address: int) -> None:
        """Free a block; 0 does nothing.

        Raises
        ------
        HeapAbort
            The library noticed an error and aborted; the process is dead.
        """
        try:
            pointer = self._free(address)
        except _MISFITS:
            pointer = self._free(*registers(self.mask, address=address))
        if pointer == _PENDING:
            self.heap.settle(_PENDING)

    def realloc(self, address: int, size: int) -> int:
        """Resize a block and return its new address; 0 is NULL."""
        try:
            pointer = self._realloc(address, size)
        except _MISFITS:
            pointer = self._realloc(*registers(self.mask, address=address, size=size))
        return pointer if pointer != _PENDING else self.heap.settle(pointer)

    def calloc(self, count: int, size: int) -> int:
        """Return the address of ``count * size`` zeroed bytes; 0 is NULL."""
        if type(count) is not int or type(size) is not int or count < 0 or size < 0:
            count, size = registers(self.mask, count=count, size=size)
        total = count * size
        if total > self.mask:
            self.require_alive()
            return 0
        return self._call("calloc", total)

    def fill(self, size: int) -> int:
        """Return the address of ``size`` new bytes, all of them written; 0 is NULL.

        The same as :meth:`malloc` and :meth:`touch`, in a fraction of the time.

        Raises
        ------
        ProcessKilled
            The OOM killer chose this process on the way.
        """
        block = self.malloc(size)
        if block and size:
            if type(size) is not int or size > self.mask or size < 0:
                (size,) = registers(self.mask, size=size)
            self._fill(block, size, 0)
        return block

    def _fill(self, block: int, size: int, written: int) -> None:
        """Write to the pages of a block of which so many are written already."""
        if self.space.locked_vm or self.huge_advice:
            self.touch(block, size)
            return
        first = block // PAGE
        self.pages.write(first + written, (block + size - 1) // PAGE - first + 1 - written)

    def malloc_each(self, sizes: npt.ArrayLike) -> npt.NDArray[np.uint64]:
        """Make a malloc of each size, one after another, and return the addresses; 0 is NULL.

        One call for a whole array, the way to make very many.

        Parameters
        ----------
        sizes
            Bytes, as a numpy array or a list of ints.

        Raises
        ------
        ArgumentError, WrongType
            It is no list of whole numbers.
        ProcessKilled, HeapAbort
            As :meth:`malloc`; the calls before it have been made.
        """
        return self._malloc_each(sizes, write=False)

    def fill_each(self, sizes: npt.ArrayLike) -> npt.NDArray[np.uint64]:
        """Make a :meth:`fill` of each size, one after another; else as :meth:`malloc_each`."""
        if self.space.locked_vm or self.space.lock_future or self.huge_advice:
            wanted = numbers(sizes, "sizes", np.uint64).tolist()
            return np.array([self.fill(size) for size in wanted], np.uint64)
        return self._malloc_each(sizes, write=True)

    def _malloc_each(self, sizes: npt.ArrayLike, *, write: bool) -> npt.NDArray[np.uint64]:
        self.require_alive()
        wanted = self._registers(sizes, "sizes")
        got = np.zeros(len(wanted), np.uint64)
        heap, at = self.heap.heap, 0
        while at < len(got):
            done, written = heap.malloc_list(wanted[at:], got[at:], write=write)
            at += done
            if at == len(got):
                break
            if heap.is_stopped:
                got[at] = self.heap.settle(_PENDING)
            if write and got[at] and wanted[at]:
                self._fill(int(got[at]), int(wanted[at]), written)
            at += 1
        return got

    def _registers(self, values: npt.ArrayLike, name: str) -> npt.NDArray[np.uint64]:
        """Return numbers as registers hold them."""
        found = numbers(values, name, np.uint64)
        return found if self.mask == _LONGEST else found & np.uint64(self.mask)

    def free_each(self, addresses: npt.ArrayLike) -> None:
        """Free each block, one after another; 0 does nothing.

        Raises
        ------
        ArgumentError, WrongType
            It is no list of whole numbers.
        HeapAbort
            As :meth:`free`; the calls before it have been made.
        """
        self.require_alive()
        blocks = self._registers(addresses, "addresses")
        at = 0
        while (at := at + self.heap.heap.free_list(blocks[at:])) < len(blocks):
            self.heap.settle(_PENDING)
            at += 1

    def memalign(self, alignment: int, size: int) -> int:
        """Return the address of ``size`` bytes at a multiple of ``alignment``; 0 is NULL."""
        return self._call("memalign", size, alignment)

    def posix_memalign(self, alignment: int, size: int) -> int:
        """Return the address, 0 where the C call returns an error number."""
        return self._call("posix_memalign", size, alignment)

    def aligned_alloc(self, alignment: int, size: int) -> int:
        """Return the address of ``size`` bytes at a multiple of ``alignment``; 0 is NULL."""
        return self._call("aligned_alloc", size, alignment)

    def valloc(self, size: int) -> int:
        """Return the address of ``size`` bytes on a page of their own; 0 is NULL."""
        return self._call("valloc", size)

    def pvalloc(self, size: int) -> int:
        """Return the address of whole pages that hold ``size`` bytes; 0 is NULL."""
        return self._call("pvalloc", size)

    def malloc_trim(self, pad: int = 0) -> int:
        """Give free memory back; 1 if any was."""
        (pad,) = registers(self.mask, pad=pad)
        return self._call("malloc_trim", pad)

    def mallopt(self, parameter: int, value: int) -> int:
        """Set an allocator parameter by its number; 1 if it was taken."""
        parameter, value = registers(_LONGEST, parameter=parameter, value=value)
        return self._call("mallopt", value, parameter)

    def usable_size(self, address: int) -> int:
        """Return ``malloc_usable_size`` in bytes; 0 for NULL."""
        self.require_alive()
        try:
            return self.heap.heap.usable_size(address)
        except _MISFITS:
            (address,) = registers(self.mask, address=address)
            return self.heap.heap.usable_size(address)

    def _call(self, name: str, size: int, alignment: int = 0) -> int:
        self.require_alive()
        heap = self.heap.heap
        try:
            result = heap.other(_OP[name], size, alignment)
        except _MISFITS:
            size, alignment = registers(self.mask, size=size, alignment=alignment)
            result = heap.other(_OP[name], size, alignment)
        return self.heap.settle(result) if result == _PENDING and heap.is_stopped else result

    def set_thread(self, thread: int) -> None:
        """Let the next calls be made by thread number ``thread``; the first one is 0.

        Raises
        ------
        ArgumentError
            No thread has such a number.
        """
        self.require_alive()
        self.heap.heap.set_thread(whole(thread, "thread", 0, _MOST_THREADS - 1))

    def thread_exit(self) -> None:
        """End the current thread: its cache goes back to the heap."""
        self._call("thread_exit", 0)
