"""A column table of calls, run on a heap."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pyalloc.engine.border import CData, check, ffi, lib
from pyalloc.engine.heap import Heap
from pyalloc.engine.heapdata import HeapStatistics, statistics_of
from pyalloc.engine.stops import PENDING, Stop, stop_of
from pyalloc.engine.structs import as_dict
from pyalloc.errors import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt


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
    "rss_peak",
)
"""The rows of a sample buffer, in the order of ``pa_sample_field``."""


TOUCH_MODES: Final[dict[str, int]] = {
    "none": lib.PA_TOUCH_NONE,
    "write": lib.PA_TOUCH_WRITE,
    "recorded": lib.PA_TOUCH_RECORDED,
}


OUTPUTS: Final = ("address", "usable", "brk")


_COLUMN_TYPES: Final = {
    "op": ("uint8_t[]", np.uint8),
    "block": ("uint32_t[]", np.uint32),
    "size": ("uint64_t[]", np.uint64),
    "arg": ("uint64_t[]", np.uint64),
    "thread": ("uint32_t[]", np.uint32),
}


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
    rows
        uint64, ascending from 1: sample after so many calls each, in place of every ``every``.
    """

    __slots__ = ("_keep", "_stop", "handle", "heap", "samples")

    def __init__(
        self,
        heap: Heap,
        columns: Mapping[str, npt.NDArray[Any]],
        outputs: Mapping[str, npt.NDArray[np.uint64]],
        samples: npt.NDArray[np.uint64],
        every: int,
        touch: str = "none",
        rows: npt.NDArray[np.uint64] | None = None,
    ) -> None:
        if len(samples) != len(SAMPLE_FIELDS):
            message = f"samples must have {len(SAMPLE_FIELDS)} rows (got {len(samples)})"
            raise ArgumentError(message)
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
        if rows is not None:
            sampled.rows = self._buffer("uint64_t[]", rows, np.uint64)
            sampled.count_rows = len(rows)
        handle = lib.pa_replay_new(heap.handle, table, out, sampled, TOUCH_MODES[touch])
        if handle == ffi.NULL:
            message = "no memory for the table of blocks of a replay"
            raise MemoryError(message)
        self.heap = heap
        self.samples = samples
        self.handle = ffi.gc(handle, lib.pa_replay_drop)
        self._stop = lib.pa_replay_stop(handle)

    def _buffer(
        self, ctype: str, array: npt.NDArray[Any], dtype: type, *, writable: bool = False
    ) -> CData:
        if array.dtype != dtype or not array.flags.c_contiguous:
            message = f"a column of {np.dtype(dtype)} in one piece is needed (got {array.dtype})"
            raise ArgumentError(message)
        if not array.size:
            return ffi.NULL
        buffer = ffi.from_buffer(ctype, array, require_writable=writable)
        self._keep.append(buffer)
        return buffer

    def run(self, end: int | None = None) -> bool:
        """Run on; return True at the end, or before row ``end``, and False at a question."""
        if end is None:
            status = lib.pa_replay_run(self.handle)
        else:
            status = lib.pa_replay_run_to(self.handle, end)
        if status == PENDING:
            return False
        check(status, "replaying a trace")
        return True

    @property
    def stop(self) -> Stop:
        """The question it stopped with; ``prot`` is the op of a row that policy performs."""
        return stop_of(self._stop)

    def answer(self, value: int) -> None:
        """Answer the question; :meth:`run` goes on with it."""
        lib.pa_replay_answer(self.handle, value)

    def totals(self) -> dict[str, int]:
        """Return the running totals by the names of ``pa_replay_totals``."""
        totals = ffi.new("pa_replay_totals *")
        lib.pa_replay_read_totals(self.handle, totals)
        return as_dict(totals)

    @property
    def ratio_sum(self) -> float:
        """A / P after each request, times its bytes, summed up."""
        totals = ffi.new("pa_replay_totals *")
        lib.pa_replay_read_totals(self.handle, totals)
        return float(totals.ratio_sum)

    def peak(self) -> tuple[HeapStatistics, int, int]:
        """Return the heap when it held most, blocks allocated then, and pages in memory or swap."""
        peak = ffi.new("pa_replay_peak *")
        lib.pa_replay_read_peak(self.handle, peak)
        return statistics_of(peak.heap), int(peak.blocks), int(peak.pages)

    def blocks(self) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
        """Return last address and requested bytes of each block; 2^64-1 for one not allocated."""
        count = lib.pa_replay_count_blocks(self.handle)
        address, size = np.zeros(count, np.uint64), np.zeros(count, np.uint64)
        if count:
            lib.pa_replay_read_blocks(
                self.handle,
                ffi.from_buffer("uint64_t[]", address, require_writable=True),
                ffi.from_buffer("uint64_t[]", size, require_writable=True),
            )
        return address, size
