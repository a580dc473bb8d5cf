"""Compare: runs side by side, of several traces, or of one under several settings.

Each run is a replay on a process that has a machine to itself, under what its recording ran under
(library, environment) unless a setting says otherwise.  The others are held against the first run,
figure by figure and call site by call site.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pyalloc.errors import ArgumentError
from pyalloc.lab.examine import allocator_of
from pyalloc.lab.replay import machine_for, process_for
from pyalloc.lab.setting import Setting, is_known, version_of
from pyalloc.lab.trial import touch_of, trims_before, with_trims
from pyalloc.machine import ReplayError, ReplaySummary
from pyalloc.trace import Op, Trace
from pyalloc.trace.sites import Site

Tell = Callable[[str, int, int], None]

FIGURES: Final = (
    "calls",
    "failed",
    "allocated",
    "peak_requested",
    "peak_held",
    "peak_rss",
    "peak_blocks",
    "requested",
    "held",
    "rss",
    "free",
    "top",
    "largest_hole",
    "jw1",
    "jw2",
    "jw3",
    "jw4",
    "realized",
    "bohra",
    "pinned_pages",
    "trim_gain",
    "minor_faults",
    "brk_calls",
    "mmap_calls",
    "arenas",
)
"""The figures of :class:`pyalloc.ReplaySummary` that are held against each other."""


@dataclass(frozen=True)
class Run:
    """One run: what it was, its figures, and what ended it early if anything did.

    ``parts_at`` is the first call whose block lies elsewhere than in the first run of the same
    trace; None if there is none, or nothing to compare.  ``measured_peak`` is what the whole real
    process had resident, where that was measured; bytes.
    """

    name: str
    trace: Trace
    allocator: str
    setting: Setting
    summary: ReplaySummary
    errors: tuple[ReplayError, ...]
    parts_at: int | None
    measured_peak: int | None

    def figure(self, name: str) -> float | None:
        """Return one of :data:`FIGURES`; None where it is not defined."""
        value: float | None = getattr(self.summary, name)
        return value

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as JSON values."""
        return {
            "name": self.name,
            "command": list(self.trace.info.command),
            "allocator": self.allocator,
            "setting": self.setting.name,
            "parts_at": self.parts_at,
            "measured_peak": self.measured_peak,
            "errors": [f"call {error.row}: {error.message}" for error in self.errors],
            **{name: self.figure(name) for name in FIGURES},
        }


@dataclass(frozen=True, slots=True)
class SiteChange:
    """One call site in each run: calls, bytes allocated, bytes live at the peak and at the end.

    A site is a function and its file: lines move from build to build.
    """

    site: str
    calls: tuple[int, ...]
    bytes: tuple[int, ...]
    at_peak: tuple[int, ...]
    at_end: tuple[int, ...]

    @property
    def change(self) -> int:
        """By how many bytes it has more or less at the peak, or allocates, than in the first."""
        return max(abs(v - self.at_peak[0]) for v in self.at_peak) or max(
            abs(v - self.bytes[0]) for v in self.bytes
        )

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "site": self.site,
            "calls": list(self.calls),
            "bytes": list(self.bytes),
            "at_peak": list(self.at_peak),
            "at_end": list(self.at_end),
        }


@dataclass(frozen=True, eq=False)
class Comparison:
    """Runs side by side; ``sites`` are those that differ, most first (of several traces)."""

    runs: tuple[Run, ...]
    sites: tuple[SiteChange, ...]

    def __repr__(self) -> str:
        return f"<Comparison of {', '.join(run.name for run in self.runs)}>"

    def change(self, name: str, run: int = 1) -> float | None:
        """Return how much more a figure is than in the first run, as a part of that."""
        first, other = self.runs[0].figure(name), self.runs[run].figure(name)
        if first is None or other is None or not first:
            return None
        return other / first - 1

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {
            "runs": [run.to_dict() for run in self.runs],
            "sites": [site.to_dict() for site in self.sites],
        }


def compare(
    traces: Trace | Mapping[str, Trace] | Sequence[Trace],
    settings: Sequence[Setting | str] | None = None,
    *,
    touch: str | None = None,
    listed: int = 12,
    tell: Tell | None = None,
) -> Comparison:
    """Replay traces under settings and return their figures side by side.

    Parameters
    ----------
    traces
        One or several, with names or without; the first is what the others are held against.
    settings
        Each trace is run under each of them, such as ``"default"``, ``"arena_max=1"`` or
        ``"allocator=glibc-2.12"``; by default under what it was recorded under.
    touch
        What the programs do to their memory, as in :func:`pyalloc.replay`; by default as recorded,
        or else every block is written.
    listed
        How many call sites to list.
    tell
        Called with what is done, how many, of how many.

    Raises
    ------
    ArgumentError
        There is nothing to compare: one run only, or a setting that is none.
    """
    named = _named(traces)
    tried = [Setting.parse(s) if isinstance(s, str) else s for s in settings or (Setting(),)]
    plans = list(product(named.items(), tried))
    if len(plans) < 2:
        message = "one run has nothing beside it: give a second trace, or a setting to compare with"
        raise ArgumentError(message)
    runs: list[Run] = []
    first: dict[str, npt.NDArray[np.uint64]] = {}
    for (name, trace), setting in plans:
        run, address = _run(_label(name, setting, named, tried), trace, setting, touch)
        base = first.setdefault(name, address)
        runs.append(_parting(run, base, address))
        if tell:
            tell("replaying", len(runs), len(plans))
    return Comparison(tuple(runs), tuple(_sites(list(named.values()), listed)))


def _named(traces: Trace | Mapping[str, Trace] | Sequence[Trace]) -> dict[str, Trace]:
    if isinstance(traces, Trace):
        return {"trace": traces}
    if isinstance(traces, Mapping):
        return dict(traces)
    return {f"trace {i + 1}": trace for i, trace in enumerate(traces)}


def _label(
    name: str, setting: Setting, named: Mapping[str, Trace], tried: Sequence[Setting]
) -> str:
    words = [name] if len(named) > 1 else []
    return " ".join([*words, setting.name] if len(tried) > 1 else words) or setting.name


def _run(
    name: str, trace: Trace, setting: Setting, touch: str | None
) -> tuple[Run, npt.NDArray[np.uint64]]:
    allocator = setting.allocator or allocator_of(trace)
    machine = machine_for(trace)
    if not is_known(setting, allocator, machine.profile.word):
        message = f"{allocator} takes no setting {setting.name!r} from its environment"
        raise ArgumentError(message)
    variables = setting.environment(trace.info.tunables, version_of(allocator))
    process = process_for(trace, machine, allocator=allocator, environment=variables)
    calls = _with_trims(trace, setting)
    result = process.replay(calls, touch=touch or touch_of(trace), samples=0)
    measured = trace.info.measured
    run = Run(
        name=name,
        trace=trace,
        allocator=allocator,
        setting=setting,
        summary=result.summary,
        errors=result.errors,
        parts_at=None,
        measured_peak=measured.program_peak if measured and setting.is_default else None,
    )
    return run, result.address


def _with_trims(trace: Trace, setting: Setting) -> Trace:
    if not (setting.trim_calls or setting.trim_bytes):
        return trace
    return Trace(with_trims(trace.columns, trims_before(trace.columns, setting)))


def _parting(run: Run, base: npt.NDArray[np.uint64], address: npt.NDArray[np.uint64]) -> Run:
    """Return the run with the first call whose block lies elsewhere."""
    if base is address or len(base) != len(address):
        return run
    differ = np.flatnonzero((base != address) & (run.trace.op != Op.FREE))
    parts = int(differ[0]) if differ.size else None
    return replace(run, parts_at=parts)


# --- call sites


def _sites(traces: Sequence[Trace], count: int) -> Iterator[SiteChange]:
    """Yield the call sites that differ between traces, most first."""
    if len(traces) < 2 or not all(len(t) and t.has("site") for t in traces):
        return
    tables = [_uses(trace) for trace in traces]
    none = np.zeros(4, np.int64)
    found = []
    for site in dict.fromkeys(site for table in tables for site in table):
        uses = np.array([table.get(site, none) for table in tables])
        if (uses != uses[0]).any():
            columns = (tuple(column) for column in uses.T.tolist())
            found.append(SiteChange(site, *columns))
    found.sort(key=lambda site: -site.change)
    yield from found[:count]


def _uses(trace: Trace) -> dict[str, npt.NDArray[np.int64]]:
    """Return calls, bytes, bytes at the peak and at the end of each function that allocates."""
    totals = trace.by_site()
    names = trace.info.sites.resolve(int(site) for site in totals.site)
    found: dict[str, npt.NDArray[np.int64]] = {}
    for i, site in enumerate(totals.site):
        name = _function(names[int(site)])
        row = [totals.calls[i], totals.bytes[i], totals.bytes_at_peak[i], totals.bytes_at_end[i]]
        found[name] = found.get(name, 0) + np.array(row, np.int64)
    return found


def _function(site: Site) -> str:
    """Return a site without its line."""
    if not site.function:
        return str(site)
    where = site.file or site.module
    return f"{site.function} ({where.rsplit('/', 1)[-1]})"
