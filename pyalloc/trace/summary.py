"""Figures that describe a trace as a whole: counts, peaks, sizes, call sites."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pyalloc.trace import live
from pyalloc.trace.ops import ALLOCATES, Op
from pyalloc.units import format_size

if TYPE_CHECKING:
    import numpy.typing as npt

    from pyalloc.trace.table import Trace

    I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class TraceSummary:
    """One trace in figures; sizes in bytes, as requested by the program.

    ``peak_row`` is the first row after which ``peak_requested`` is reached; ``failed`` counts
    requests that the real library refused; ``duration_ns`` is the time from the first call to the
    last, 0 when times are not known.
    """

    calls: int
    calls_by_op: dict[Op, int]
    allocations: int
    failed: int
    bytes_allocated: int
    peak_requested: int
    peak_row: int
    peak_blocks: int
    live_bytes_at_end: int
    live_blocks_at_end: int
    largest: int
    threads: int
    sites: int
    duration_ns: int


@dataclass(frozen=True, slots=True)
class SizeHistogram:
    """Requests by size: bin ``i`` holds sizes in ``(upper[i] / 2, upper[i]]``; bin 0 is size 0."""

    upper: npt.NDArray[np.uint64]
    count: I64
    bytes: npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class SiteTotals:
    """Totals by call site, ordered by bytes live at the peak, then by bytes allocated."""

    site: npt.NDArray[np.uint32]
    calls: I64
    bytes: I64
    blocks_at_peak: I64
    bytes_at_peak: I64
    blocks_at_end: I64
    bytes_at_end: I64


def granted(trace: Trace) -> npt.NDArray[np.bool_]:
    """Return which rows gave the program a block."""
    allocates = np.isin(trace.op, sorted(ALLOCATES))
    gives_back = (trace.op == Op.REALLOC) & (trace.size == 0)
    result: npt.NDArray[np.bool_] = allocates & ~gives_back & ~live.failed(trace)
    return result


def summarise(trace: Trace) -> TraceSummary:
    """Return the figures of ``trace``."""
    counts = np.bincount(trace.op, minlength=len(Op))
    held, blocks = trace.live_bytes(), trace.live_blocks()
    given = granted(trace)
    sizes = trace.size[given]
    peak = int(np.argmax(held)) if len(trace) else 0
    return TraceSummary(
        calls=len(trace),
        calls_by_op={op: int(counts[op]) for op in Op if counts[op]},
        allocations=int(given.sum()),
        failed=int(live.failed(trace).sum()),
        bytes_allocated=int(sizes.sum()),
        peak_requested=int(held[peak]) if len(trace) else 0,
        peak_row=peak,
        peak_blocks=int(blocks.max()) if len(trace) else 0,
        live_bytes_at_end=int(held[-1]) if len(trace) else 0,
        live_blocks_at_end=int(blocks[-1]) if len(trace) else 0,
        largest=int(sizes.max()) if sizes.size else 0,
        threads=int(np.unique(trace.thread).size),
        sites=int(np.unique(trace.site).size) if trace.has("site") else 0,
        duration_ns=int(trace.time[-1] - trace.time[0]) if len(trace) else 0,
    )


def size_histogram(trace: Trace) -> SizeHistogram:
    """Return how many requests of which size were granted, by powers of two."""
    sizes = trace.size[granted(trace)]
    bins = np.zeros(len(sizes), np.int64)
    # exact where a float is not: the exponent of size - 1, by halves of 32 bits
    low, high = ((sizes - (sizes > 0)) & 0xFFFFFFFF), (sizes - (sizes > 0)) >> np.uint64(32)
    word = np.where(high > 0, high, low).astype(np.float64)
    bits = np.frexp(word)[1] + np.where(high > 0, 32, 0)
    np.add(bits, 1, out=bins, where=sizes > 0)
    count = np.bincount(bins)
    total = np.zeros(len(count), np.uint64)
    np.add.at(total, bins, sizes)
    upper = np.array([0, *(1 << i for i in range(max(len(count) - 1, 0)))], np.uint64)
    return SizeHistogram(upper[: len(count)], count, total)


def _per_site(trace: Trace, rows: I64, length: int) -> tuple[I64, I64]:
    site = trace.site[rows]
    count = np.bincount(site, minlength=length)
    total = np.zeros(length, np.int64)
    np.add.at(total, site, trace.size[rows].astype(np.int64))
    return count, total


def by_site(trace: Trace) -> SiteTotals:
    """Return totals of every call site that allocated something."""
    length = int(trace.site.max()) + 1 if len(trace) else 0
    peak = int(np.argmax(trace.live_bytes())) if len(trace) else 0
    calls, allocated = _per_site(trace, np.flatnonzero(granted(trace)), length)
    at_peak = _per_site(trace, live.rows_live_after(trace, peak), length)
    at_end = _per_site(trace, live.rows_live_after(trace, len(trace)), length)
    order = np.lexsort((-allocated, -at_peak[1]))
    order = order[calls[order] > 0]
    return SiteTotals(
        order.astype(np.uint32),
        calls[order],
        allocated[order],
        at_peak[0][order],
        at_peak[1][order],
        at_end[0][order],
        at_end[1][order],
    )


def describe(trace: Trace) -> str:
    """Return one line for people."""
    held = trace.live_bytes()
    peak = format_size(int(held.max())) if len(held) else "0 B"
    blocks = trace.block_count
    words = [
        f"{len(trace):,} call{'s' * (len(trace) != 1)}",
        f"{blocks:,} block{'s' * (blocks != 1)}",
        f"peak {peak} requested",
    ]
    if trace.has("thread"):
        words.insert(2, f"{np.unique(trace.thread).size} threads")
    if trace.info.command:
        words.append(f"of {trace.info.command[0]}")
    return f"<Trace: {', '.join(words)}>"
