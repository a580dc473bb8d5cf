"""Examine one recorded program: what it asked for, what that cost, and where the rest sits."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np

from pyalloc.arguments import whole
from pyalloc.engine import allocator_names
from pyalloc.lab.agreement import Agreement, agreement
from pyalloc.lab.replay import replay
from pyalloc.lab.setting import version_of
from pyalloc.machine import Breakdown, Machine, Replay
from pyalloc.trace import Measured, Trace, require_trace
from pyalloc.trace.info import heap_rss_in
from pyalloc.units import format_size

DEFAULT_ALLOCATOR: Final = "glibc-2.36"
_TCACHE: Final = (2, 26)  # the first version with one (malloc/malloc.c)
_VERSION: Final = re.compile(r"\d+(\.\d+)*")


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


@dataclass(frozen=True, slots=True)
class WholeHeap:
    """What a look at every chunk says, at one moment; None where it is not defined.

    The fields are those of :class:`~pyalloc.ReplaySummary`.
    """

    largest_hole: int
    hole_index: float | None
    sawicki: float | None
    occupancy: tuple[int, ...] | None
    pinned_pages: int | None
    trim_gain: int | None
    trim_held: int | None

    @classmethod
    def of(cls, result: Replay) -> WholeHeap:
        """Return what is known of the heap at the end of ``result``."""
        return cls(*(getattr(result.summary, name) for name in cls.__slots__))


@dataclass(frozen=True, eq=False)
class Examination:
    """Everything :func:`examine` found; :meth:`to_dict` is for JSON."""

    trace: Trace
    replay: Replay
    allocator: str
    agreement: Agreement | None
    sites: tuple[SiteUse, ...]
    trim: TrimGain | None
    replay_to: Callable[[int], Replay]

    def __repr__(self) -> str:
        s = self.replay.summary
        return (
            f"<Examination of {len(self.trace):,} calls on {self.allocator}: peak"
            f" {format_size(s.peak_held)} held for {format_size(s.peak_requested)} requested>"
        )

    @property
    def peak(self) -> Breakdown:
        """Where the memory is when the heap holds most."""
        return self.replay.summary.at_peak

    @property
    def end(self) -> Breakdown:
        """Where the memory is at the end."""
        return self.replay.summary.at_end

    @cached_property
    def replay_at_peak(self) -> Replay:
        """The same run, stopped at the moment at which the heap held most."""
        return self.replay_to(self.replay.summary.peak_held_row + 1)

    @property
    def heap_at_peak(self) -> WholeHeap:
        """Holes and pages when the heap holds most."""
        return WholeHeap.of(self.replay_at_peak)

    @property
    def heap_at_end(self) -> WholeHeap:
        """Holes and pages at the end."""
        return WholeHeap.of(self.replay)

    @cached_property
    def heap_rss(self) -> int | None:
        """Bytes in memory at the end between the start of the break and the break."""
        process = self.replay.process
        return heap_rss_in(str(process.smaps())) if process.alive else None

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
            "peak": self.peak.to_dict(),
            "end": self.end.to_dict(),
            "heap_at_peak": asdict(self.heap_at_peak),
            "heap_at_end": asdict(self.heap_at_end),
            "trim": asdict(self.trim) if self.trim else None,
            "sites": [asdict(site) for site in self.sites],
            "heap_rss": self.heap_rss,
            "measured": measured,
            "summary": self.replay.summary.to_dict(),
            "errors": [asdict(error) for error in self.replay.errors],
        }


@dataclass(frozen=True, slots=True, eq=False)
class _Again:
    """The same run once more, as far as a call; it can be pickled unless a machine was given."""

    trace: Trace
    allocator: str
    machine: Machine | None
    tunables: Mapping[str, int | str] | None
    touch: str

    def __call__(self, row: int) -> Replay:
        return replay(
            self.trace[:row],
            self.allocator,
            machine=self.machine.copy() if self.machine is not None else None,
            tunables=self.tunables,
            touch=self.touch,
            samples=1,
        )


def examine(
    trace: Trace,
    allocator: str | None = None,
    *,
    machine: Machine | None = None,
    tunables: Mapping[str, int | str] | None = None,
    touch: str = "write",
    sites: int = 10,
    samples: int = 1000,
    strict: bool = False,
) -> Examination:
    """Replay ``trace`` and look at where the memory was.

    ``touch`` is as in :func:`pyalloc.replay`: by default every block is taken to be written.
    ``allocator`` is by default the C library the trace was recorded on, if it is known; ``strict``
    has its errors tell what the library does not notice.
    """
    require_trace(trace)
    whole(sites, "sites")
    allocator = allocator or allocator_of(trace)
    before = machine.copy() if machine is not None else None
    result = replay(
        trace,
        allocator,
        machine=machine,
        tunables=tunables,
        touch=touch,
        record=("address", "usable"),
        samples=samples,
        strict=strict,
    )
    return Examination(
        trace=trace,
        replay=result,
        allocator=allocator,
        agreement=agreement(trace, result),
        sites=_sites(trace, sites),
        trim=_trim(result),
        replay_to=_Again(trace, allocator, before, tunables, touch),
    )


def allocator_of(trace: Trace) -> str:
    """Return the allocator ``trace`` was recorded on.

    A version between two generations is taken for the older one, but one of 2.26 to 2.30, which
    has the tcache already, for 2.31; what is older than all of them for the oldest.
    """
    version = trace.info.glibc
    if version is None or not _VERSION.fullmatch(version):
        return DEFAULT_ALLOCATOR
    name = f"glibc-{version}"
    known = sorted(filter(version_of, allocator_names()), key=version_of)
    if name in known:
        return name
    wanted = version_of(name)
    wanted = max(wanted, (2, 31)) if wanted >= _TCACHE else wanted
    older = [one for one in known if version_of(one) <= wanted]
    return older[-1] if older else known[0]


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
    s = result.summary
    if s.trim_gain is None or s.trim_held is None:
        return None
    resident = s.at_end.resident
    return TrimGain(resident, resident - s.trim_gain, s.held, s.held - s.trim_held)
