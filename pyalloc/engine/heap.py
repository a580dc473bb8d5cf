"""One process's allocator."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

from pyalloc.engine.allocators import require_allocator
from pyalloc.engine.border import CData, Mortal, check, ffi, lib, text
from pyalloc.engine.heapdata import (
    CHUNK,
    ArenaView,
    HeapStatistics,
    Layout,
    MallInfo,
    Settings,
    statistics_of,
)
from pyalloc.engine.pages import Pages
from pyalloc.engine.stops import Stop, stop_of
from pyalloc.engine.structs import as_dict

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt


def _given_up(heap: Heap) -> CData:
    """Return the handle of a heap that is dead from now on."""
    handle = heap.handle
    del heap.handle, heap.moved, heap.lowest
    ffi.gc(handle, None)
    return handle


class Heap(Mortal):
    """One process's allocator.

    Calls return a pointer (0: NULL) or ``PENDING``; then ``stop`` has the question, ``answer``
    takes the reply and ``resume`` goes on.  ``spent`` is a heap whose memory may be used again; it
    is gone afterwards.
    """

    _end = "this heap is gone: its process has ended, or another heap has its memory"
    moved: memoryview
    """One byte, not 0 if the break has moved since its peak was last asked for, or it was set, or
    if anything was mapped without a question since."""
    lowest: memoryview
    """One word: the address of the lowest mapping that was made without a question."""
    set_brk: Callable[[int], None]
    """Tell the heap that somebody else moved the break."""

    def __init__(
        self, allocator: str, word: int, brk_start: int, cpus: int, spent: Heap | None = None
    ) -> None:
        require_allocator(allocator)
        old = ffi.NULL if spent is None else _given_up(spent)
        handle = lib.pa_heap_renew(old, allocator.encode(), word, brk_start, cpus)
        if handle == ffi.NULL:
            raise MemoryError
        self._take(handle)

    @property
    def is_small(self) -> bool:
        """Whether its memory is worth keeping for the next heap (``spent``)."""
        return bool(lib.pa_heap_is_small(self.handle))

    def _take(self, handle: CData) -> None:
        self.handle = ffi.gc(handle, lib.pa_heap_drop)
        self.moved = memoryview(ffi.buffer(lib.pa_heap_moved(self.handle)))
        self.lowest = memoryview(ffi.buffer(lib.pa_heap_lowest(self.handle))).cast("Q")
        self.set_brk = functools.partial(lib.pa_heap_set_break, self.handle)

    def release(self) -> None:
        """Give the host's memory back; no call may follow but :meth:`copy`."""
        ffi.release(self.handle)
        del self.handle, self.moved, self.lowest, self.set_brk

    def copy(self, pages: Pages | None = None) -> Heap:
        """Return an identical heap on ``pages``, or on none."""
        if "handle" not in self.__dict__:
            return self
        handle = lib.pa_heap_copy(self.handle, ffi.NULL if pages is None else pages.handle)
        if handle == ffi.NULL:
            raise MemoryError
        heap = Heap.__new__(Heap)
        heap._take(handle)  # noqa: SLF001
        return heap

    def attach(self, pages: Pages | None) -> None:
        """Model touches on ``pages``, or on none; they must outlive the heap's next call."""
        lib.pa_heap_attach(self.handle, ffi.NULL if pages is None else pages.handle)

    def entries(self) -> tuple[Callable[..., int], Callable[..., int], Callable[..., int]]:
        """Return malloc, free and realloc as bare functions: the fastest way in."""
        return (
            functools.partial(lib.pa_heap_malloc, self.handle),
            functools.partial(lib.pa_heap_free, self.handle),
            functools.partial(lib.pa_heap_realloc, self.handle),
        )

    @property
    def is_stopped(self) -> bool:
        """Whether a call waits for an answer (a result may happen to equal ``PENDING``)."""
        return bool(lib.pa_heap_is_stopped(self.handle))

    def malloc(self, size: int) -> int:
        """Call malloc."""
        return int(lib.pa_heap_malloc(self.handle, size))

    def free(self, pointer: int) -> int:
        """Call free."""
        return int(lib.pa_heap_free(self.handle, pointer))

    def realloc(self, pointer: int, size: int) -> int:
        """Call realloc."""
        return int(lib.pa_heap_realloc(self.handle, pointer, size))

    def malloc_list(
        self, sizes: npt.NDArray[np.uint64], addresses: npt.NDArray[np.uint64], *, write: bool
    ) -> tuple[int, int]:
        """Call malloc for each of ``sizes``; with ``write`` each block is written whole at once.

        Returns how many are done, and how many pages of the next one are written if it is not the
        heap that has stopped.
        """
        written = ffi.new("uint64_t *")
        done = lib.pa_heap_malloc_list(
            self.handle,
            ffi.from_buffer("uint64_t[]", sizes),
            len(sizes),
            write,
            ffi.from_buffer("uint64_t[]", addresses, require_writable=True),
            written,
        )
        return int(done), int(written[0])

    def free_list(self, pointers: npt.NDArray[np.uint64]) -> int:
        """Call free for each; return how many are done before the heap has stopped."""
        array = ffi.from_buffer("uint64_t[]", pointers)
        return int(lib.pa_heap_free_list(self.handle, array, len(pointers)))

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
        return stop_of(lib.pa_heap_stop(self.handle))

    def set_program(self, name: str) -> None:
        """Tell what the program is called in the library's last words (``argv[0]``)."""
        lib.pa_heap_set_program(self.handle, name.encode())

    @property
    def abort_text(self) -> str:
        """What the C library said when it aborted; empty for a fault."""
        return text(lib.pa_heap_abort_text(self.handle))

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

    def lease_below(self, low: int, high: int, least: int, *, aligns_huge: bool) -> None:
        """Let mappings go right below ``high`` and each other without a question, down to ``low``.

        Those smaller than ``least`` bytes are asked for, and with ``aligns_huge`` whole 2 MB.
        """
        lib.pa_heap_lease_below(self.handle, low, high, least, aligns_huge)

    @property
    def mapped_to(self) -> int:
        """How far down mappings have come without a question; to ask is to know."""
        return int(lib.pa_heap_mapped_to(self.handle))

    def take_peak(self) -> int:
        """Return the highest break since this was last asked."""
        return int(lib.pa_heap_break_peak(self.handle))

    def usable_size(self, pointer: int) -> int:
        """Return malloc_usable_size of ``pointer`` in bytes."""
        return int(lib.pa_heap_usable_size(self.handle, pointer))

    def tunable(self, name: str, value: int) -> bool:
        """Set a tunable by its name after ``glibc.malloc.``; False if it is unknown or refused."""
        return int(lib.pa_heap_tunable(self.handle, name.encode(), value)) == 0

    def environment(self, name: str, text: str) -> bool:
        """Let the library read a variable of the environment at its start; False: it ignores it."""
        return int(lib.pa_heap_environment(self.handle, name.encode(), text.encode())) == 0

    def statistics(self) -> HeapStatistics:
        """Return where the bytes are."""
        struct = ffi.new("pa_heap_statistics *")
        lib.pa_heap_read_statistics(self.handle, struct)
        return statistics_of(struct)

    def mallinfo(self, arena: int | None = None) -> MallInfo:
        """Return mallinfo2 of all arenas, or of one in the order in which malloc_stats has them."""
        info = ffi.new("pa_mallinfo *")
        number = 0xFFFFFFFF if arena is None else arena
        check(lib.pa_heap_mallinfo(self.handle, number, info), "reading mallinfo")
        return MallInfo(**as_dict(info))

    def chunks(self) -> npt.NDArray[np.void]:
        """Return every chunk in address order: :data:`CHUNK`, state one of CHUNK_STATES."""
        return self._chunks(lib.pa_heap_walk)

    def lists(self) -> npt.NDArray[np.void]:
        """Return every free chunk but the top, list by list, in the lists' own order."""
        return self._chunks(lib.pa_heap_list)

    def _chunks(self, read: Callable[..., int]) -> npt.NDArray[np.void]:
        count = int(read(self.handle, ffi.NULL, 0))
        found = np.zeros(count, CHUNK)
        if count:
            read(self.handle, ffi.from_buffer("pa_chunk[]", found, require_writable=True), count)
        return found

    def arenas(self) -> list[ArenaView]:
        """Return the arenas in the order in which the library goes through them."""
        found: list[ArenaView] = []
        view = ffi.new("pa_arena *")
        while lib.pa_heap_read_arena(self.handle, len(found), view) == lib.PA_OK:
            found.append(ArenaView(**as_dict(view)))
        return found

    def settings(self) -> Settings:
        """Return how the library is set; ArgumentError if this is not a ptmalloc."""
        struct = ffi.new("pa_settings *")
        check(lib.pa_heap_read_settings(self.handle, struct), "reading the settings of a heap")
        return Settings(**as_dict(struct))

    def layout(self) -> Layout:
        """Look at the heap as a whole: holes, pages, what a trim would give back."""
        found = ffi.new("pa_layout *")
        check(lib.pa_heap_read_layout(self.handle, found), "looking at a heap")
        tenths = tuple(int(n) for n in found.pages_by_tenth)
        return Layout(
            **{**as_dict(found), "squares_free": found.squares_free, "pages_by_tenth": tenths}
        )

    def check(self) -> None:
        """Raise EngineBug unless every invariant holds."""
        check(lib.pa_heap_check(self.handle), "checking a heap")
