"""The rest: what a real process has resident beside its heap, found from its recording.

A replay knows the heap; the kernel measured the whole process from time to time while it was
recorded.  The difference at the same calls is everything else: program text, libraries, stacks, the
program's own mappings, and, counted negative, memory that was asked for and never written.  None of
it depends on the allocator's settings, so it is added to what another setting makes of the heap.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from pyalloc.lab.trial import Outcome
from pyalloc.trace import Measured, Trace

F64 = npt.NDArray[np.float64]

_RING_RECORDS: Final = 16384
_RECORD_BYTES: Final = 48


@dataclass(frozen=True, slots=True, eq=False)
class Rest:
    """Resident bytes beside the heap after ``rows`` calls, and how the whole was measured.

    ``peak`` and ``final`` are the whole process's, without the recorder.  ``beyond_peak`` is what
    the kernel's own peak has beyond the one put together from heap and rest.
    """

    rows: F64
    bytes: F64
    peak: float
    final: float
    beyond_peak: float
    final_rest: float

    def at(self, rows: npt.NDArray[np.uint64]) -> F64:
        """Return the rest after each of ``rows`` calls."""
        found: F64 = np.interp(rows.astype(np.float64), self.rows, self.bytes)
        return found

    def process_peak(self, outcome: Outcome) -> int:
        """Return the most the whole process would have resident."""
        return int(_highest(outcome, self.at(outcome.rows)) + self.beyond_peak)

    def process_final(self, outcome: Outcome) -> int:
        """Return what the whole process would have resident at its end."""
        return int(outcome.final_rss + self.final_rest)


def rest_of(trace: Trace, outcome: Outcome) -> Rest | None:
    """Return the rest, given the trace's own run replayed as it was; None if it is not known.

    ``outcome`` must have been sampled at the calls at which the kernel was asked.
    """
    measured = trace.info.measured
    if measured is None or measured.samples is None or measured.peak_rss is None:
        return None
    if trace.info.foreign_malloc is not None:
        return None  # the heap in it is another allocator's
    samples = measured.samples
    there = np.isin(samples.row, outcome.rows)
    if not there.any() or outcome.error:
        return None
    rows = samples.row[there]
    heap = outcome.timeline["rss"][np.searchsorted(outcome.rows, rows)].astype(np.float64)
    own = _recorder(measured, rows, len(trace))
    beside = samples.rss[there].astype(np.float64) - own - heap
    final = float(measured.program_final or 0)
    rest = Rest(rows.astype(np.float64), beside, 0.0, final, 0.0, final - outcome.final_rss)
    together = _highest(outcome, rest.at(outcome.rows))
    peak = float(measured.program_peak or 0)
    return Rest(rest.rows, beside, peak, final, peak - together, rest.final_rest)


def _recorder(measured: Measured, rows: npt.NDArray[np.uint64], calls: int) -> F64:
    """Return what the recorder itself had resident: its ring fills with the first calls."""
    own = float(measured.recorder_rss or 0)
    ring = float(min(calls, _RING_RECORDS) * _RECORD_BYTES)
    filled = np.minimum(rows.astype(np.float64), _RING_RECORDS) * _RECORD_BYTES
    found: F64 = np.maximum(own - ring, 0) + np.minimum(filled, own)
    return np.minimum(found, own)


def _highest(outcome: Outcome, rest: F64) -> float:
    """Return the highest sum of heap and rest, at the samples and between them."""
    at_rows = outcome.timeline["rss"].astype(np.float64) + rest
    before = np.concatenate((rest[:1], rest[:-1]))
    between = outcome.timeline["rss_peak"].astype(np.float64) + (before + rest) / 2
    return float(max(at_rows.max(), between.max())) if len(rest) else 0.0
