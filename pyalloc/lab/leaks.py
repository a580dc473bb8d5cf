"""Leaks: what is never freed, by call site, and whether it grows; or whether only the heap does.

Live memory that grows without end is a leak; live memory that stays while the heap grows is
fragmentation.  Growth is judged by *floors*, the least of each of a few stretches of the run, so
that bursts do not count; what the program frees on its way out is left out of that.

A trace knows which blocks were never freed, not which the program can still reach: a cache that
fills and a list nobody looks at are the same to it.  What tells them apart is that a cache ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from pyalloc.arguments import whole
from pyalloc.errors import ArgumentError
from pyalloc.lab.setting import Setting
from pyalloc.lab.trial import Trials
from pyalloc.trace import Op, Trace, require_trace
from pyalloc.trace.live import changes, rows_live_after
from pyalloc.trace.summary import granted

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

Course = Literal["grows", "plateau", "once", "late"]
Kind = Literal["leak", "growth", "fragmentation", "flat"]

_LEAST_CALLS: Final = 64
_STRETCHES: Final = 12
_WARM_UP: Final = 2
"""Stretches at the beginning that no growth is judged by."""
_POINTS: Final = 96
_TEARDOWN: Final = 0.05
_GROWN: Final = 0.1
_LEAST_GROWN: Final = 16 << 10
_STEADY: Final = 0.7
_UNDIMINISHED: Final = 0.35
_OF_THE_GROWTH: Final = 0.2
_EARLY: Final = 0.15


@dataclass(frozen=True, slots=True)
class SiteLeak:
    """What one call site never freed.

    Attributes
    ----------
    site, name
        Its number and its name.
    blocks, bytes
        Never freed.
    allocated, kept
        Blocks it ever allocated, and the part of them that was never freed.
    course
        How its never freed memory went: ``grows`` to the end, ``once`` (there from the beginning),
        ``late`` (came at the end), else ``plateau``.
    rate
        Bytes a second it grows by (a thousand calls where the trace has no times), while it does.
    """

    site: int
    name: str
    blocks: int
    bytes: int
    allocated: int
    kept: float
    course: Course
    rate: float


@dataclass(frozen=True, eq=False)
class Leaks:
    """What is never freed, and the verdict.

    ``kind`` is ``leak`` (live memory grows, and a site with it), ``growth`` (it grows, at no site
    steadily), ``fragmentation`` (the heap grows and live memory does not) or ``flat``.  ``x`` are
    seconds, or thousands of calls where the trace has no times; ``live``, ``held`` and ``rss`` are
    bytes at those points.  ``live_rate`` and ``rss_rate`` are bytes per unit of ``x``.
    """

    trace: Trace
    kind: Kind
    unit: Literal["s", "1,000 calls"]
    x: F64
    live: I64
    held: I64
    rss: I64
    live_rate: float
    rss_rate: float
    judged_until: int
    never_freed: int
    blocks: int
    sites: tuple[SiteLeak, ...]
    has_sites: bool

    def __repr__(self) -> str:
        return f"<Leaks: {self.kind}, {self.blocks:,} blocks never freed, {len(self.sites)} sites>"

    @property
    def suspect(self) -> SiteLeak | None:
        """The site that grows most, if any does."""
        growing = [s for s in self.sites if s.course == "grows"]
        return max(growing, key=lambda s: s.rate, default=None)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {
            "command": list(self.trace.info.command),
            "kind": self.kind,
            "unit": self.unit,
            "live_rate": self.live_rate,
            "rss_rate": self.rss_rate,
            "judged_until": self.judged_until,
            "never_freed": self.never_freed,
            "blocks": self.blocks,
            "has_sites": self.has_sites,
            "sites": [asdict(site) for site in self.sites],
            "timeline": {
                "x": [round(float(v), 6) for v in self.x],
                "live": self.live.tolist(),
                "held": self.held.tolist(),
                "rss": self.rss.tolist(),
            },
        }


def leaks(
    trace: Trace, *, allocator: str | None = None, touch: str | None = None, listed: int = 15
) -> Leaks:
    """Return what ``trace`` never freed and whether it grows.

    Parameters
    ----------
    trace
        The calls; with their times, rates are bytes a second.
    allocator, touch
        As in :func:`pyalloc.replay`, for the size of the heap; by default as recorded.
    listed
        How many call sites to return.

    Raises
    ------
    ArgumentError
        The trace is too short to judge growth by, or does not run.
    """
    require_trace(trace)
    whole(listed, "listed")
    if len(trace) < _LEAST_CALLS:
        message = (
            f"{len(trace)} calls are too few to judge growth by (at least {_LEAST_CALLS});"
            " record more of the program"
        )
        raise ArgumentError(message)
    until = before_teardown(trace)
    points = np.unique(np.linspace(1, until, _POINTS).astype(np.int64))
    trials = Trials(trace, allocator=allocator, touch=touch, rows=points.astype(np.uint64))
    outcome = trials.run(Setting())
    if outcome.error:
        message = f"the trace does not run to its end: {outcome.error}"
        raise ArgumentError(message)
    unit, clock = _clock(trace)
    x = clock[points - 1]
    live = outcome.timeline["requested"].astype(np.int64)
    rss = outcome.timeline["rss"].astype(np.int64)
    end = rows_live_after(trace, len(trace))
    sites = _sites(trace, points, x, end, listed)
    live_rate, rss_rate = growth(x, live), growth(x, rss)
    return Leaks(
        trace=trace,
        kind=_kind(live_rate, rss_rate, sites),
        unit=unit,
        x=x,
        live=live,
        held=outcome.timeline["held"].astype(np.int64),
        rss=rss,
        live_rate=live_rate,
        rss_rate=rss_rate,
        judged_until=until,
        never_freed=int(trace.size[end].sum()),
        blocks=len(end),
        sites=tuple(sites),
        has_sites=trace.has("site"),
    )


def _clock(trace: Trace) -> tuple[Literal["s", "1,000 calls"], F64]:
    """Return the unit of time and the time after each call."""
    if trace.has("time"):
        return "s", (trace.time - trace.time[0]).astype(np.float64) / 1e9
    return "1,000 calls", np.arange(1, len(trace) + 1) / 1e3


def before_teardown(trace: Trace) -> int:
    """Return how many calls there are before the program only frees to end."""
    allocates = (trace.op <= Op.PVALLOC) & (trace.op != Op.FREE)
    after = np.cumsum(allocates[::-1])
    length = np.arange(1, len(trace) + 1)
    only_frees = np.flatnonzero(after <= _TEARDOWN * length)
    return max(len(trace) - (int(only_frees[-1]) + 1 if only_frees.size else 0), 1)


# --- growth


def _floors(x: F64, y: I64) -> tuple[F64, F64]:
    """Return the least value of each stretch of equal length in ``x``, and where it is."""
    borders = np.linspace(x[0], x[-1], _STRETCHES + 1)
    place = np.clip(np.searchsorted(borders, x, "right") - 1, 0, _STRETCHES - 1)
    found = [(np.flatnonzero(place == k)) for k in range(_STRETCHES)]
    least = [part[np.argmin(y[part])] for part in found if part.size]
    return x[least], y[least].astype(np.float64)


def growth(x: F64, y: I64) -> float:
    """Return by how much ``y`` grows per unit of ``x``, 0 where it does not keep growing.

    It does if its floors rise in most of the stretches after the warm-up, by a tenth and sixteen
    kilobytes in all, and in the second half of them not much less than in the first: what fills up
    is no leak.
    """
    where, floors = _floors(x, y)
    where, floors = where[_WARM_UP:], floors[_WARM_UP:]
    if len(floors) < 3:
        return 0.0
    steps = np.diff(floors)
    risen = float(floors[-1] - floors[0])
    steady = float((steps > 0).mean()) >= _STEADY
    if not steady or risen < max(_GROWN * floors[0], _LEAST_GROWN):
        return 0.0
    middle = len(floors) // 2
    lately = float(floors[-1] - floors[middle])
    if lately < _UNDIMINISHED * float(floors[middle] - floors[0]):
        return 0.0
    return lately / max(float(where[-1] - where[middle]), 1e-9)


def _kind(live_rate: float, rss_rate: float, sites: list[SiteLeak]) -> Kind:
    leaking = sum(site.rate for site in sites if site.course == "grows")
    if leaking > _OF_THE_GROWTH * live_rate:
        return "leak"
    if live_rate > 0:
        return "growth"
    return "fragmentation" if rss_rate > 0 else "flat"


# --- by call site


def live_by_site(trace: Trace, points: I64) -> I64:
    """Return the bytes that each site holds, a row each, after so many calls, a column each."""
    c = changes(trace)
    site = trace.site[c.row].astype(np.int64)
    change = np.zeros((int(trace.site.max(initial=0)) + 1, len(points) + 1), np.int64)
    np.add.at(change, (site, np.searchsorted(points, c.row, "right")), np.maximum(c.after, 0))
    gone = np.flatnonzero(c.before > 0)  # what the change before, of the same block, gave
    place = np.searchsorted(points, c.row[gone], "right")
    np.add.at(change, (site[gone - 1], place), -c.before[gone])
    return np.cumsum(change[:, :-1], axis=1)


def kept_by_site(trace: Trace, points: I64, end: I64) -> I64:
    """Return the same of the blocks that are never freed: those of the rows ``end``."""
    change = np.zeros((int(trace.site.max(initial=0)) + 1, len(points) + 1), np.int64)
    place = np.searchsorted(points, end, "right")
    np.add.at(change, (trace.site[end], place), trace.size[end].astype(np.int64))
    return np.cumsum(change[:, :-1], axis=1)


def _sites(trace: Trace, points: I64, x: F64, end: I64, listed: int) -> list[SiteLeak]:
    live, kept = live_by_site(trace, points), kept_by_site(trace, points, end)
    length = len(kept)
    blocks = np.bincount(trace.site[end], minlength=length)
    bytes_ = np.bincount(trace.site[end], trace.size[end].astype(np.float64), length)
    allocated = np.bincount(trace.site[np.flatnonzero(granted(trace))], minlength=length)
    courses = {int(s): _course(x, live[s], kept[s]) for s in np.flatnonzero(blocks)}
    order = sorted(courses, key=lambda s: (-courses[s][1], -bytes_[s], s))[:listed]
    names = trace.info.sites.resolve(order)
    return [
        SiteLeak(
            site=s,
            name=str(names[s]),
            blocks=int(blocks[s]),
            bytes=int(bytes_[s]),
            allocated=int(allocated[s]),
            kept=float(blocks[s] / max(allocated[s], 1)),
            course=courses[s][0],
            rate=courses[s][1],
        )
        for s in order
    ]


def _course(x: F64, live: I64, kept: I64) -> tuple[Course, float]:
    """Return how a site's never freed memory went, and by how much it keeps growing.

    It grows if both what the site holds and what it never frees of that do.
    """
    rate = min(growth(x, live), growth(x, kept))
    if rate > 0:
        return "grows", rate
    final = max(int(kept[-1]), 1)
    begun, done = (float(x[int(np.argmax(kept >= part * final))]) for part in (0.1, 0.9))
    span = max(float(x[-1] - x[0]), 1e-9)
    if (done - x[0]) / span < _EARLY:
        return "once", 0.0
    return ("late" if (begun - x[0]) / span > 1 - _EARLY else "plateau"), 0.0


def courses_in_words() -> Mapping[str, str]:
    """Return what each course means."""
    return {
        "grows": "grows to the end",
        "plateau": "does not keep growing",
        "once": "there from the start",
        "late": "came at the end",
    }
