"""The border to the engine: the only file that touches cffi's ``ffi`` and ``lib``.

One class a handle.  Status codes become exceptions here and nowhere else; no ``ffi`` object leaves.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pyalloc._engine import ffi, lib
from pyalloc.errors import ArgumentError, EngineBug, EngineBusy, EngineLimit

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

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


# --- replay

SAMPLE_FIELDS: Final = (
    "calls",
    "allocated",
    "requested",
    "blocks",
    "heap",
    "mapped",
    "rss",
    "swap",
    "minor_faults",
    "major_faults",
    "free_tcache",
    "free_fast",
    "free_unsorted",
    "free_small",
    "free_large",
    "top",
    "largest_hole",
)
"""The rows of a sample buffer, in the order of ``pa_sample_field``."""

TOUCH_MODES: Final[dict[str, int]] = {
    "none": lib.PA_TOUCH_NONE,
    "write": lib.PA_TOUCH_WRITE,
    "recorded": lib.PA_TOUCH_RECORDED,
}

_COLUMN_TYPES: Final = {
    "op": ("uint8_t[]", np.uint8),
    "block": ("uint32_t[]", np.uint32),
    "size": ("uint64_t[]", np.uint64),
    "arg": ("uint64_t[]", np.uint64),
    "thread": ("uint32_t[]", np.uint32),
}
OUTPUTS: Final = ("address", "usable", "brk")


class ReplayRun:
    """A column table of calls being run on a heap.

    The columns and the output arrays are used in place, without a copy.

    Parameters
    ----------
    heap
        The heap the calls act on.
    columns
        ``op``, ``block``, ``size`` and, where they hold anything, ``arg`` and ``thread``.
    outputs
        Writable uint64 arrays, one value a row, of any of :data:`OUTPUTS`.
    samples
        Writable uint64 array of one row a field (:data:`SAMPLE_FIELDS`), one column a sample.
    every
        Calls from one sample to the next; 0 for none.
    touch
        One of :data:`TOUCH_MODES`.
    """

    __slots__ = ("_handle", "_keep", "_stop", "heap")

    def __init__(
        self,
        heap: Heap,
        columns: Mapping[str, npt.NDArray[Any]],
        outputs: Mapping[str, npt.NDArray[np.uint64]],
        samples: npt.NDArray[np.uint64],
        every: int,
        touch: str = "none",
    ) -> None:
        self._keep: list[object] = []
        table = ffi.new("pa_columns *", {"count": len(columns["op"])})
        for name, (ctype, dtype) in _COLUMN_TYPES.items():
            if name in columns:
                setattr(table, name, self._buffer(ctype, columns[name], dtype))
        out = ffi.new("pa_outputs *")
        for name, array in outputs.items():
            setattr(out, name, self._buffer("uint64_t[]", array, np.uint64, writable=True))
        sampled = ffi.new("pa_samples *", {"room": samples.shape[1], "every": every})
        flat = samples.reshape(-1)
        sampled.values = self._buffer("uint64_t[]", flat, np.uint64, writable=True)
        handle = lib.pa_replay_new(heap.handle, table, out, sampled, TOUCH_MODES[touch])
        if handle == ffi.NULL:
            message = "no memory for the table of blocks of a replay"
            raise MemoryError(message)
        self.heap = heap
        self._handle = ffi.gc(handle, lib.pa_replay_drop)
        self._stop = lib.pa_replay_stop(handle)

    def _buffer(
        self, ctype: str, array: npt.NDArray[Any], dtype: type, *, writable: bool = False
    ) -> Any:  # noqa: ANN401 - a cffi pointer
        if array.dtype != dtype or not array.flags.c_contiguous:
            message = f"a column of {np.dtype(dtype)} in one piece is needed (got {array.dtype})"
            raise ArgumentError(message)
        if not array.size:
            return ffi.NULL
        buffer = ffi.from_buffer(ctype, array, require_writable=writable)
        self._keep.append(buffer)
        return buffer

    def run(self) -> bool:
        """Run on; return True at the end of the trace, False at a question."""
        status = lib.pa_replay_run(self._handle)
        if status == PENDING:
            return False
        check(status, "replaying a trace")
        return True

    @property
    def stop(self) -> Stop:
        """The question it stopped with; ``prot`` is the op of a row that policy performs."""
        s = self._stop
        return Stop(s.reason, s.address, s.length, s.old_length, s.prot, s.answer)

    def answer(self, value: int) -> None:
        """Answer the question; :meth:`run` goes on with it."""
        lib.pa_replay_answer(self._handle, value)

    def totals(self) -> dict[str, int]:
        """Return the running totals by the names of ``pa_replay_totals``."""
        totals = ffi.new("pa_replay_totals *")
        lib.pa_replay_read_totals(self._handle, totals)
        return {name: int(getattr(totals, name)) for name, _ in ffi.typeof(totals[0]).fields}

    def blocks(self) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
        """Return last address and requested bytes of each block; 2^64-1 for one not allocated."""
        count = lib.pa_replay_count_blocks(self._handle)
        address, size = np.zeros(count, np.uint64), np.zeros(count, np.uint64)
        if count:
            lib.pa_replay_read_blocks(
                self._handle,
                ffi.from_buffer("uint64_t[]", address, require_writable=True),
                ffi.from_buffer("uint64_t[]", size, require_writable=True),
            )
        return address, size
