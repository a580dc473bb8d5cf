"""The border to the engine: the only file that touches cffi's ``ffi`` and ``lib``.

One class a handle.  Status codes become exceptions here and nowhere else; no ``ffi`` object leaves.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any, Final

from pyalloc._engine import ffi, lib
from pyalloc.errors import ArgumentError, EngineBug, EngineBusy, EngineLimit

PENDING: Final[int] = lib.PA_PENDING
"""In place of a pointer: the call is stopped, policy must answer (``Heap.stop``)."""

STOP_BRK: Final[int] = lib.PA_STOP_BRK
STOP_MMAP: Final[int] = lib.PA_STOP_MMAP
STOP_MREMAP: Final[int] = lib.PA_STOP_MREMAP
STOP_MUNMAP: Final[int] = lib.PA_STOP_MUNMAP
STOP_MPROTECT: Final[int] = lib.PA_STOP_MPROTECT
STOP_FRAMES: Final[int] = lib.PA_STOP_FRAMES
STOP_ABORT: Final[int] = lib.PA_STOP_ABORT
STOP_TOUCH: Final[int] = lib.PA_STOP_TOUCH

_EXCEPTIONS: Final[dict[int, type[Exception]]] = {
    lib.PA_ERR_HOST_NOMEM: MemoryError,
    lib.PA_ERR_INVALID: ArgumentError,
    lib.PA_ERR_LIMIT: EngineLimit,
    lib.PA_ERR_CORRUPT: EngineBug,
    lib.PA_ERR_BUSY: EngineBusy,
}


def check(status: int, doing: str) -> None:
    """Raise for ``status`` unless it is PA_OK; ``doing`` completes 'while ...'."""
    if status:
        text = ffi.string(lib.pa_status_text(status)).decode()
        raise _EXCEPTIONS[status](f"{text} (while {doing})")


def allocator_names() -> list[str]:
    """Return the name of every allocator in the engine."""
    names = []
    while (name := lib.pa_allocator_name(len(names))) != ffi.NULL:
        names.append(ffi.string(name).decode())
    return names


@dataclass(frozen=True, slots=True)
class Stop:
    """A question of the engine to policy; addresses and lengths in bytes."""

    reason: int
    address: int
    length: int
    old_length: int
    prot: int
    answer: int


@dataclass(frozen=True, slots=True)
class HeapStatistics:
    """Where the bytes of a heap are; free chunks by the kind of list that holds them."""

    bytes_system: int
    bytes_system_peak: int
    bytes_mapped: int
    count_mapped: int
    bytes_tcache: int
    count_tcache: int
    bytes_fast: int
    count_fast: int
    bytes_unsorted: int
    count_unsorted: int
    bytes_small: int
    count_small: int
    bytes_large: int
    count_large: int
    bytes_top: int
    bytes_largest_hole: int
    count_arenas: int
    count_brk_calls: int
    count_mmap_calls: int


class Heap:
    """One process's allocator.

    Calls return a pointer (0: NULL) or ``PENDING``; then ``stop`` has the question, ``answer`` takes
    the reply and ``resume`` goes on.
    """

    def __init__(self, allocator: str, word: int, brk_start: int, cpus: int) -> None:
        known = allocator_names()
        if allocator not in known:
            near = difflib.get_close_matches(allocator, known, n=3, cutoff=0.4) or known
            message = f"no allocator {allocator!r}; did you mean {', '.join(near)}?"
            raise ArgumentError(message)
        handle = lib.pa_heap_new(allocator.encode(), word, brk_start, cpus)
        if handle == ffi.NULL:
            raise MemoryError
        self._take(handle)

    def _take(self, handle: Any) -> None:
        self.handle = ffi.gc(handle, lib.pa_heap_drop)

    def copy(self, mm: Any = None) -> Heap:
        """Return an identical heap on the pages ``mm`` (a handle), or on none."""
        handle = lib.pa_heap_copy(self.handle, ffi.NULL if mm is None else mm)
        if handle == ffi.NULL:
            raise MemoryError
        heap = Heap.__new__(Heap)
        heap._take(handle)  # noqa: SLF001
        return heap

    def attach(self, mm: Any) -> None:
        """Model touches on the pages ``mm`` (a handle), or on none."""
        lib.pa_heap_attach(self.handle, ffi.NULL if mm is None else mm)

    def malloc(self, size: int) -> int:
        """Call malloc."""
        return int(lib.pa_heap_malloc(self.handle, size))

    def free(self, pointer: int) -> int:
        """Call free."""
        return int(lib.pa_heap_free(self.handle, pointer))

    def realloc(self, pointer: int, size: int) -> int:
        """Call realloc."""
        return int(lib.pa_heap_realloc(self.handle, pointer, size))

    def other(self, op: int, size: int, arg: int) -> int:
        """Make any other call by its op number."""
        return int(lib.pa_heap_other(self.handle, op, size, arg))

    def set_thread(self, thread: int) -> None:
        """Let the next calls be made by ``thread``."""
        lib.pa_heap_set_thread(self.handle, thread)

    def resume(self) -> int:
        """Go on with the stopped call."""
        return int(lib.pa_heap_resume(self.handle))

    def answer(self, value: int) -> None:
        """Answer the question in ``stop``."""
        lib.pa_heap_answer(self.handle, value)

    @property
    def stop(self) -> Stop:
        """The question the engine stopped with."""
        s = lib.pa_heap_stop(self.handle)
        return Stop(s.reason, s.address, s.length, s.old_length, s.prot, s.answer)

    @property
    def abort_text(self) -> str:
        """What the C library said when it aborted; empty for a fault."""
        return str(ffi.string(lib.pa_heap_abort_text(self.handle)).decode())

    def raise_error(self) -> None:
        """Raise if the model itself gave up."""
        check(lib.pa_heap_error(self.handle), "growing a simulated heap")

    def lease(self, highest: int, floor_vpn: int = 0, ceiling_vpn: int = 1 << 52) -> None:
        """Let the break move up to ``highest`` without a question."""
        lib.pa_heap_lease(self.handle, highest, floor_vpn, ceiling_vpn)

    @property
    def brk(self) -> int:
        """The program break as the heap has moved it."""
        return int(lib.pa_heap_break(self.handle))

    def take_peak(self) -> int:
        """Return the highest break since this was last asked."""
        return int(lib.pa_heap_break_peak(self.handle))

    def set_brk(self, brk: int) -> None:
        """Tell the heap that somebody else moved the break."""
        lib.pa_heap_set_break(self.handle, brk)

    def usable_size(self, pointer: int) -> int:
        """Return malloc_usable_size of ``pointer`` in bytes."""
        return int(lib.pa_heap_usable_size(self.handle, pointer))

    def tunable(self, name: str, value: int) -> bool:
        """Set a tunable by its name after ``glibc.malloc.``; False if it is unknown or refused."""
        return int(lib.pa_heap_tunable(self.handle, name.encode(), value)) == 0

    def statistics(self) -> HeapStatistics:
        """Return where the bytes are."""
        s = ffi.new("pa_heap_statistics *")
        lib.pa_heap_read_statistics(self.handle, s)
        return HeapStatistics(**{name: int(getattr(s, name)) for name in HeapStatistics.__slots__})

    def check(self) -> None:
        """Raise EngineBug unless every invariant holds."""
        check(lib.pa_heap_check(self.handle), "checking a heap")
