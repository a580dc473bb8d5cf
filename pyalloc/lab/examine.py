"""Examine one recorded program: what it asked for, what that cost, and where the rest sits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pyalloc.engine import allocator_names
from pyalloc.lab.replay import Agreement, agreement, replay
from pyalloc.machine import Machine, Process, Replay
from pyalloc.trace import Measured, Trace
from pyalloc.units import PAGE


@dataclass(frozen=True, slots=True)
class Breakdown:
    """Where the memory is at one moment; bytes.

    ``held`` is what the allocator has from the kernel.  It is the sum of ``requested`` by the
    program, ``overhead`` (chunk headers and alignment), the free chunks by where they are kept, and
    ``top``, the free end of the heap.  ``resident`` of it is in memory.
    """

    calls: int
    requested: int
    held: int
    overhead: int
    tcache: int
    fast: int
    unsorted: int
    small: int
    large: int
    top: int
    resident: int

    @property
    def free(self) -> int:
        """Bytes in free chunks, top included."""
        return self.tcache + self.fast + self.unsorted + self.small + self.large + self.top

    @property
    def untouched(self) -> int:
        """Bytes held of pages that were never written."""
        return max(self.held - self.resident, 0)


@dataclass(frozen=True, slots=True)
class SiteUse:
    """What one call site allocated: calls and bytes in all, live at the peak, live at the end."""

    site: str
    calls: int
    bytes: int
    bytes_at_peak: int
    bytes_at_end: int


@dataclass(frozen=True, slots=True)
class TrimGain:
    """What ``malloc_trim(0)`` at the end would change; bytes resident and held."""

    resident_before: int
    resident_after: int
    held_before: int
    held_after: int

    @property
    def gain(self) -> int:
        """Resident bytes it would give back."""
        return self.resident_before - self.resident_after


@dataclass(frozen=True)
class Examination:
    """Everything :func:`examine` found; :meth:`to_dict` is for JSON.

    ``replay_at_peak`` stopped at the moment at which the heap held most.
    """

    trace: Trace
    replay: Replay
    replay_at_peak: Replay
    allocator: str
    agreement: Agreement | None
    peak: Breakdown
    end: Breakdown
    sites: tuple[SiteUse, ...]
    trim: TrimGain | None

    @property
    def measured(self) -> Measured | None:
        """What the kernel measured in the real run."""
        return self.trace.info.measured

    def to_dict(self) -> dict[str, Any]:
        """Return the findings as JSON values; bytes throughout."""
        info = self.trace.info
        measured = self.measured.to_json() if self.measured else None
        for text in ("status", "maps", "smaps_rollup", "samples"):
            if measured:
                measured.pop(text, None)
        return {
            "command": list(info.command),
            "allocator": self.allocator,
            "calls": len(self.trace),
            "threads": int(np.unique(self.trace.thread).size),
            "exit_code": info.exit_code,
            "signal": info.signal,
            "truncated": info.truncated,
            "agreement": asdict(self.agreement) if self.agreement else None,
            "peak": asdict(self.peak),
            "end": asdict(self.end),
            "trim": asdict(self.trim) if self.trim else None,
            "sites": [asdict(site) for site in self.sites],
            "measured": measured,
            "summary": self.replay.summary.to_dict(),
            "errors": [asdict(error) for error in self.replay.errors],
        }


def examine(
    trace: Trace,
    allocator: str | None = None,
    *,
    machine: Machine | None = None,
    tunables: Mapping[str, int | str] | None = None,
    touch: str = "write",
    sites: int = 10,
    samples: int = 1000,
) -> Examination:
    """Replay ``trace`` and look at where the memory was.

    ``touch`` is as in :func:`pyalloc.replay`: by default every block is taken to be written.
    ``allocator`` is by default the C library the trace was recorded on, if it is known.
    """
    allocator = allocator or allocator_of(trace)
    before = machine.copy() if machine is not None else None
    result = replay(
        trace, allocator, machine=machine, tunables=tunables, touch=touch, samples=samples
    )
    to_peak = trace[: result.summary.peak_held_row + 1]
    peak = replay(to_peak, allocator, machine=before, tunables=tunables, touch=touch, samples=1)
    return Examination(
        trace=trace,
        replay=result,
        replay_at_peak=peak,
        allocator=allocator,
        agreement=agreement(trace, result),
        peak=_breakdown(peak),
        end=_breakdown(result),
        sites=_sites(trace, sites),
        trim=_trim(result),
    )


def allocator_of(trace: Trace) -> str:
    """Return the allocator ``trace`` was recorded on, or the nearest generation there is."""
    version = trace.info.glibc
    if version is None:
        return "glibc-2.36"
    name = f"glibc-{version}"
    return name if name in allocator_names() else "glibc-2.36"


def _breakdown(result: Replay) -> Breakdown:
    """Return the last sample of a replay."""
    held = result.sampled("heap") + result.sampled("mapped")
    if not held.size:
        return Breakdown(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    i = len(held) - 1
    at = {name: int(result.sampled(name)[i]) for name in _SAMPLED}
    free = {kind: at[f"free_{kind}"] for kind in ("tcache", "fast", "unsorted", "small", "large")}
    all_held = int(held[i])
    overhead = all_held - at["requested"] - sum(free.values()) - at["top"]
    return Breakdown(
        calls=at["calls"],
        requested=at["requested"],
        held=all_held,
        overhead=max(overhead, 0),
        top=at["top"],
        resident=at["rss"],
        **free,
    )


_SAMPLED = (
    "calls",
    "requested",
    "free_tcache",
    "free_fast",
    "free_unsorted",
    "free_small",
    "free_large",
    "top",
    "rss",
)


def _sites(trace: Trace, count: int) -> tuple[SiteUse, ...]:
    if not len(trace) or not trace.has("site"):
        return ()
    totals = trace.by_site()
    names = trace.info.sites.resolve(int(site) for site in totals.site[:count])
    return tuple(
        SiteUse(
            str(names[int(totals.site[i])]),
            int(totals.calls[i]),
            int(totals.bytes[i]),
            int(totals.bytes_at_peak[i]),
            int(totals.bytes_at_end[i]),
        )
        for i in range(min(count, len(totals.site)))
    )


def _trim(result: Replay) -> TrimGain | None:
    """Try malloc_trim on a copy of the machine."""
    process = result.process
    if not process.alive:
        return None
    twin = process.machine.copy().processes[process.pid]
    before, held_before = _resident(twin), _held(twin)
    twin.malloc_trim(0)
    return TrimGain(before, _resident(twin), held_before, _held(twin))


def _resident(process: Process) -> int:
    return process.pages.table.counters()["anon"] * PAGE


def _held(process: Process) -> int:
    statistics = process.heap_statistics()
    return statistics.bytes_system + statistics.bytes_mapped
