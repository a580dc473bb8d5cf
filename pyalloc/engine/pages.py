"""One process's page table."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from pyalloc.engine.border import CData, Mortal, check, ffi, lib
from pyalloc.engine.structs import as_dict, word_names, words
from pyalloc.errors import PyallocError

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt


PROTECTIONS: Final[dict[str, int]] = {
    "read_only": lib.PA_READ_ONLY,
    "private": lib.PA_WRITE_PRIVATE,
    "counted": lib.PA_WRITE_COUNTED,
    "shared": lib.PA_WRITE_SHARED,
}
"""What writes need after mprotect; see ``pa_protection``."""


_MM_WORDS: Final = word_names("pa_mm_counters")


_COLLAPSED: Final = {
    lib.PA_OK: "done",
    lib.PA_ERR_INVALID: "cannot",
    lib.PA_ERR_LIMIT: "nothing",
    lib.PA_EXHAUSTED: "room",
}


class GuardedPage(PyallocError):
    """The page after the ``done`` pages that were served is a guard."""

    def __init__(self, done: int) -> None:
        super().__init__("a guard page")
        self.done = done


@dataclass(frozen=True, slots=True)
class View:
    """An area that shows an object: its first page and size, and the object's page shown there."""

    vpn: int
    count: int
    index: int
    number: int
    shared: bool
    around: int = 1
    writable: bool = False
    stream: int = 0
    random: bool = False
    sequential: bool = False
    executable: bool = False
    huge: bool = False


def _as_struct(view: View) -> CData:
    return ffi.new(
        "pa_view *",
        (
            view.vpn,
            view.count,
            view.index,
            view.number,
            view.around,
            view.stream,
            view.shared,
            view.writable,
            view.random,
            view.sequential,
            view.executable,
            view.huge,
        ),
    )


class Pages(Mortal):
    """One process's page table; all arguments in pages and virtual page numbers.

    Without a ``handle`` it is that of a process that has ended.
    """

    __slots__ = ("_done", "_keep", "handle", "protect", "unmap")
    _end = "the process has ended: it has no pages"
    unmap: Callable[[int, int, int, int], None]
    """Drop the pages from ``start`` to ``end``, and tables that lie whole in ``[floor, ceiling)``.

    These four are in bytes.
    """
    protect: Callable[[int, int, int], None]
    """Mprotect so many pages from a first one on; the last is one of :data:`PROTECTIONS`."""

    def __init__(self, handle: CData = None, memory: object = None) -> None:
        self._keep = memory  # the handle lies in it
        if handle is not None:
            self.handle = handle
            self.unmap = functools.partial(lib.pa_mm_munmap, handle)
            self.protect = functools.partial(lib.pa_mm_protect, handle)
        self._done = ffi.new("uint64_t *")

    @property
    def number(self) -> int:
        """Its number in the machine."""
        return int(lib.pa_mm_number(self.handle))

    def drop(self) -> None:
        """Give everything back; the object is dead afterwards."""
        lib.pa_mm_drop(self.handle)
        self.forget()

    def forget(self) -> None:
        """Be dead: the memory that held it is gone."""
        del self.handle, self.unmap, self.protect

    def counters(self) -> dict[str, int]:
        """Return pages and faults by the names of ``pa_mm_counters``, ``tables`` in all."""
        counters = ffi.new("pa_mm_counters *")
        lib.pa_mm_read(self.handle, counters)
        found = words(counters, _MM_WORDS)
        levels = [found.pop(f"tables{level}") for level in range(4)]
        return {**found, "leaf_tables": levels[0], "tables": sum(levels)}

    def range_counters(self, vpn: int, count: int) -> dict[str, int]:
        """Return what lies in a range, by the names of ``pa_range_counters``."""
        counters = ffi.new("pa_range_counters *")
        lib.pa_mm_read_range(self.handle, vpn, count, counters)
        return as_dict(counters)

    def object_swap(self, view: View) -> int:
        """Return how many pages of the shared memory that an area shows are in swap."""
        return int(lib.pa_mm_object_swap(self.handle, _as_struct(view)))

    def resident(self, vpn: int, count: int) -> npt.NDArray[np.bool_]:
        """Return for each of ``count`` pages whether it is in memory, as mincore()."""
        found = np.zeros(count, np.uint8)
        if count:
            out = ffi.from_buffer("uint8_t[]", found, require_writable=True)
            lib.pa_mm_read_resident(self.handle, vpn, count, out)
        return found.astype(np.bool_)

    def _outcome(self, status: int, doing: str) -> tuple[int, bool]:
        done = int(self._done[0])
        if status == lib.PA_EXHAUSTED:
            return done, True
        if status == lib.PA_GUARDED:
            raise GuardedPage(done)
        check(status, doing)
        return done, False

    def write_zeros(self, *, zeros: bool) -> None:
        """Say whether what is written to private memory from now on is zeros."""
        lib.pa_mm_write_zeros(self.handle, zeros)

    def populate(self, *, populates: bool, tries: bool = False) -> None:
        """Say whether faults from now on are those of a call that populates, as mmap or mlock.

        Such a call makes a fault that had to wait for the disk anew, as if it were another one:
        it counts as minor.  One that ``tries`` it again, as advice does, counts it as major.
        """
        lib.pa_mm_populate(self.handle, populates, tries)

    def set_rseq(self, vpn: int, *, registered: bool) -> None:
        """Say which page of private memory the kernel uses when the process goes on, or none."""
        lib.pa_mm_set_rseq(self.handle, vpn, registered)

    def inherit_rseq(self, parent: Pages) -> None:
        """Have the page of the parent, if it is still there."""
        lib.pa_mm_inherit_rseq(self.handle, parent.handle)

    def returns(self) -> None:
        """Let the kernel use that page if the process has waited since it last ran."""
        lib.pa_mm_return(self.handle)

    def touch_anon(self, vpn: int, count: int, write: bool) -> tuple[int, bool]:
        """Access pages of a private anonymous area."""
        status = lib.pa_mm_touch_anon(self.handle, vpn, count, write, self._done)
        if not status:
            return count, False
        return self._outcome(status, "touching memory")

    def touch_object(
        self, view: View, vpn: int, count: int, *, write: bool
    ) -> tuple[int, bool, bool]:
        """Access pages of an area that shows an object.

        The third value says that the next page lies past the object's end.
        """
        status = lib.pa_mm_touch_object(
            self.handle, _as_struct(view), vpn, count, write, self._done
        )
        return self._object_outcome(status)

    def _object_outcome(self, status: int) -> tuple[int, bool, bool]:
        if status == lib.PA_ERR_INVALID:
            return int(self._done[0]), False, True
        return (*self._outcome(status, "touching a mapped object"), False)

    def touch_list(
        self, view: View | None, vpn: int, index: npt.NDArray[np.int64], *, write: bool
    ) -> tuple[int, bool, bool]:
        """Access pages ``vpn + index[i]`` one after another; results as of :meth:`touch_object`."""
        struct = ffi.NULL if view is None else _as_struct(view)
        array = ffi.from_buffer("uint64_t[]", index)  # vpn + index wraps to where it was meant
        status = lib.pa_mm_touch_list(
            self.handle, struct, vpn, array, len(index), write, self._done
        )
        return self._object_outcome(status)

    def keep_busy(self, vpn: int, count: int, period: int) -> None:
        """Let another processor go over pages once in ``period`` ns; ``count`` 0: no longer."""
        check(lib.pa_mm_keep_busy(self.handle, vpn, count, period), "using pages meanwhile")

    @property
    def stopped(self) -> bool:
        """Whether that one came to a page that was gone, and waits to be told to go on."""
        return bool(lib.pa_mm_is_stopped(self.handle))

    def zap(self, vpn: int, count: int) -> None:
        """Drop all pages of a range, as if a file were cut off before them."""
        lib.pa_mm_zap(self.handle, vpn, count)

    def discard(self, vpn: int, count: int) -> None:
        """MADV_DONTNEED."""
        lib.pa_mm_discard(self.handle, vpn, count)

    def lazy_free(self, vpn: int, count: int) -> None:
        """MADV_FREE."""
        lib.pa_mm_lazy_free(self.handle, vpn, count)

    def cool(self, vpn: int, count: int) -> None:
        """MADV_COLD."""
        lib.pa_mm_cool(self.handle, vpn, count)

    def activate(self, vpn: int) -> None:
        """Take the page for one that was used more than once."""
        lib.pa_mm_activate(self.handle, vpn)

    def page_out(self, vpn: int, count: int) -> None:
        """MADV_PAGEOUT."""
        lib.pa_mm_page_out(self.handle, vpn, count)

    def collapse(self, vpn: int, *, writable: bool, locked: bool) -> str:
        """MADV_COLLAPSE of 2 MB: return "done", "cannot", "nothing" is there, or no "room"."""
        return _COLLAPSED[lib.pa_mm_collapse(self.handle, vpn, writable, locked)]

    def guard(self, vpn: int, count: int) -> tuple[int, bool]:
        """MADV_GUARD_INSTALL."""
        status = lib.pa_mm_guard(self.handle, vpn, count, self._done)
        return self._outcome(status, "installing guards")

    def unguard(self, vpn: int, count: int) -> None:
        """MADV_GUARD_REMOVE."""
        lib.pa_mm_unguard(self.handle, vpn, count)

    def move(self, vpn: int, new_vpn: int, count: int, head: int = 0) -> tuple[int, bool]:
        """Mremap: move the entries; ``head`` pages before both places are empty."""
        status = lib.pa_mm_move(self.handle, vpn, new_vpn, count, head, self._done)
        return self._outcome(status, "moving pages")

    def touch_huge(
        self, low: int, high: int, vpn: int, count: int, *, write: bool
    ) -> tuple[int, bool]:
        """Access pages of the area [low, high), which may have huge pages."""
        status = lib.pa_mm_touch_huge(self.handle, low, high, vpn, count, write, self._done)
        return self._outcome(status, "touching memory")

    def lock(self, vpn: int, count: int, *, lock: bool) -> None:
        """Mlock or munlock what is present."""
        lib.pa_mm_lock(self.handle, vpn, count, lock)

    def share(self, parent: Pages, vpn: int, count: int, *, shared: bool) -> tuple[int, bool]:
        """Fork: take over the parent's entries of a range."""
        status = lib.pa_mm_share(self.handle, parent.handle, vpn, count, shared, self._done)
        return self._outcome(status, "copying page tables")
