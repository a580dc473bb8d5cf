"""Blame: which blocks, by call site, keep free memory from going back to the kernel.

A look at the heap at one moment (:mod:`pyalloc.lab.blame.holders`) says who could be to blame.
What it would save if those blocks lay elsewhere is then not estimated but tried: the trace is
replayed without them, and they are replayed alone, as in an arena of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from pyalloc.arguments import whole
from pyalloc.errors import ArgumentError
from pyalloc.lab.blame.elsewhere import try_without
from pyalloc.lab.blame.holders import (
    FAST,
    LIBRARY,
    TCACHE,
    Holders,
    TopPin,
    find_holders,
)
from pyalloc.lab.leaks import before_teardown
from pyalloc.lab.setting import Setting, version_of
from pyalloc.lab.trial import Outcome, Trials
from pyalloc.trace import Trace, require_trace
from pyalloc.units import format_size

At = Literal["waste", "peak", "end"] | int

_NAMES: Final = {
    TCACHE: "(freed, kept in a tcache)",
    FAST: "(freed, kept in a fastbin)",
    LIBRARY: "(the library's own)",
}
_LEAST_CALLS: Final = 8
_MANY_CALLS: Final = 500_000
_LEAST_FREE: Final = 0.05  # of what is resident: less is nothing to blame anybody for


@dataclass(frozen=True, slots=True)
class Culprit:
    """One holder and what it costs; bytes.

    Attributes
    ----------
    site, name
        The call site's number and its name; negative for holders that are no call site.
    blocks, bytes
        What it holds, with headers.
    pages, alone
        Pages it lies on, and those of them that nobody else holds.
    pinned_top
        Free memory that an arena's end could come down over without it.
    pinned_pages
        Free memory on the pages that it holds alone.
    shared_pages
        Its part of the free memory on pages that it holds with others.
    saved, saved_at_end, saved_gone
        Resident memory saved at the moment, and at the end of the trace, had its blocks lain in
        an arena of their own; at the moment, had they never been.  Tried by replay; None where it
        was not.  For blocks in caches: had there been no such cache.
    """

    site: int
    name: str
    blocks: int
    bytes: int
    pages: int
    alone: int
    pinned_top: int
    pinned_pages: int
    shared_pages: int
    saved: int | None = None
    saved_at_end: int | None = None
    saved_gone: int | None = None

    @property
    def suspected(self) -> int:
        """What a look at the heap lets one suspect: free memory that only it keeps."""
        return self.pinned_top + self.pinned_pages


@dataclass(frozen=True, slots=True)
class Together:
    """What is saved with the blocks of several sites apart at once, as in :class:`Culprit`."""

    sites: tuple[int, ...]
    saved: int
    saved_at_end: int
    saved_gone: int


@dataclass(frozen=True, eq=False)
class Blame:
    """Who keeps the memory of a heap at one moment; bytes.

    ``row`` is the number of calls before that moment.  Of ``rss`` resident bytes ``requested`` are
    in use, ``free_whole`` lie on pages that hold nothing at all, ``free_partial`` on pages that
    something holds.  ``free_top`` of them lie at the free end of the main arena and
    ``free_thread_tops`` at those of the threads' arenas, which shrink when a free makes them reach
    ``trim_threshold``; ``malloc_trim`` gives back whole pages, but not those of the threads' ends.
    ``used_by_page`` has the bytes in use on each resident page that is not wholly in one block.
    """

    trace: Trace
    allocator: str
    at: At
    row: int
    rss: int
    held: int
    requested: int
    end_rss: int
    free_whole: int
    free_partial: int
    free_top: int
    free_thread_tops: int
    trim_threshold: int | None
    used_by_page: npt.NDArray[np.int64]
    culprits: tuple[Culprit, ...]
    together: Together | None
    top_pins: tuple[TopPin, ...]
    has_sites: bool

    def __repr__(self) -> str:
        return (
            f"<Blame after call {self.row:,}: {format_size(self.rss)} resident,"
            f" {format_size(self.requested)} asked for, {len(self.culprits)} culprits>"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values; bytes throughout."""
        bounds = (0, 256, 1024, 2048, 4096, 8192)
        histogram = np.histogram(self.used_by_page, bounds)[0]
        names = {c.site: c.name for c in self.culprits}
        return {
            "command": list(self.trace.info.command),
            "allocator": self.allocator,
            "at": self.at,
            "row": self.row,
            "rss": self.rss,
            "held": self.held,
            "requested": self.requested,
            "end_rss": self.end_rss,
            "free_whole": self.free_whole,
            "free_partial": self.free_partial,
            "free_top": self.free_top,
            "free_thread_tops": self.free_thread_tops,
            "trim_threshold": self.trim_threshold,
            "pages_by_bytes_used": {
                f"{low}-{high}": int(n)
                for low, high, n in zip(bounds[:-1], bounds[1:], histogram, strict=True)
            },
            "has_sites": self.has_sites,
            "together": asdict(self.together) if self.together else None,
            "culprits": [asdict(c) | {"suspected": c.suspected} for c in self.culprits],
            "top_pins": [
                asdict(pin) | {"name": names.get(pin.holder, "")} for pin in self.top_pins
            ],
        }


def blame(
    trace: Trace,
    at: At = "waste",
    *,
    allocator: str | None = None,
    touch: str | None = None,
    tried: int | None = None,
    listed: int = 12,
) -> Blame:
    """Return who keeps the heap of ``trace`` from shrinking.

    Parameters
    ----------
    trace
        The calls, with their call sites.
    at
        The moment: ``"waste"`` (most resident memory lies free; if any does before the program only
        frees to end, then before that), ``"peak"`` (the heap has most from the kernel), ``"end"``,
        or after how many calls.
    allocator, touch
        As in :func:`pyalloc.replay`; by default as recorded.
    tried
        How many of the worst are tried elsewhere by replay; by default 3, of more than half a
        million calls 2.
    listed
        How many holders to return.

    Raises
    ------
    ArgumentError
        The trace is too short, ``at`` lies outside it, or it does not run.
    """
    require_trace(trace)
    whole(listed, "listed")
    if tried is not None:
        whole(tried, "tried")
    if len(trace) < _LEAST_CALLS:
        message = f"{len(trace)} calls are too few to blame anybody (at least {_LEAST_CALLS})"
        raise ArgumentError(message)
    trials = Trials(trace, allocator=allocator, touch=touch)
    row = _row_of(trials, at)
    trials.rows = np.unique(np.array([row, len(trace)], np.uint64))
    if tried is None:
        tried = 3 if len(trace) <= _MANY_CALLS else 2
    holders, outcome, threshold = _look(trials, row)
    moment = _moment(outcome, row)
    culprits, together = _tried(
        trials, _culprits(trace, holders, listed), (holders, outcome), row, tried
    )
    return Blame(
        trace=trace,
        allocator=trials.allocator,
        at=at,
        row=row,
        rss=moment["rss"],
        held=moment["held"],
        requested=moment["requested"],
        end_rss=outcome.final_rss,
        free_whole=holders.free_whole,
        free_partial=holders.free_partial,
        free_top=holders.free_tops[0],
        free_thread_tops=holders.free_tops[1],
        trim_threshold=threshold,
        used_by_page=holders.used_by_page,
        culprits=tuple(culprits),
        together=together,
        top_pins=holders.top_pins,
        has_sites=trace.has("site"),
    )


def _row_of(trials: Trials, at: At) -> int:
    count = len(trials.trace)
    if at == "end":
        return count
    if at == "peak":
        return max(trials.run(Setting()).peak_held_row + 1, 1)
    if at == "waste":
        return _most_free(trials)
    if isinstance(at, bool) or not isinstance(at, int) or not 0 < at <= count:
        message = (
            f"at must be 'waste', 'peak', 'end' or a number of calls from 1 to {count} (got {at!r})"
        )
        raise ArgumentError(message)
    return at


def _most_free(trials: Trials) -> int:
    """Return after which call most resident memory lies free, as far as the looks of a run tell.

    What a program leaves behind when it frees everything to end matters to nobody, unless that is
    all there is.
    """
    seen = trials.run(Setting())
    if not len(seen.rows):
        return len(trials.trace)
    rss = seen.timeline["rss"].astype(np.int64)
    free = rss - seen.timeline["requested"].astype(np.int64)
    at_work = seen.rows <= before_teardown(trials.trace)
    row = int(np.where(at_work, free, -1).argmax())
    if free[row] < _LEAST_FREE * rss[row] or not at_work[row]:
        row = int(free.argmax())
    return int(seen.rows[row])


def _look(trials: Trials, row: int) -> tuple[Holders, Outcome, int | None]:
    """Replay to the row, look around, and go on to the end."""
    with trials.begun(Setting()) as under_way:
        under_way.go_to(row)
        if under_way.died():
            message = f"the trace does not run that far: {under_way.died()}"
            raise ArgumentError(message)
        holders = find_holders(
            under_way.heap, under_way.run, under_way.pages, trials.trace, trials.word
        )
        if version_of(trials.allocator):
            threshold = under_way.heap.settings().trim_threshold
        else:
            threshold, holders = None, replace(holders, top_pins=())  # they never shrink
        under_way.go_to(None)
        return holders, under_way.outcome(), threshold


def _moment(outcome: Outcome, row: int) -> dict[str, int]:
    at = int(np.searchsorted(outcome.rows, np.uint64(row)))
    return {name: int(values[at]) for name, values in outcome.timeline.items()}


def _culprits(trace: Trace, holders: Holders, listed: int) -> list[Culprit]:
    """Return the holders, the most suspect first."""
    pinned = dict.fromkeys(holders.holder.tolist(), 0)
    for pin in holders.top_pins:
        pinned[pin.holder] += pin.pinned
    top = np.array([pinned[h] for h in holders.holder.tolist()], np.int64)
    suspected = top + holders.alone_free
    order = np.lexsort((-holders.bytes, -suspected))[:listed]
    names = trace.info.sites.resolve(int(h) for h in holders.holder[order] if h >= 0)
    return [
        Culprit(
            site=int(holders.holder[i]),
            name=_NAMES.get(int(holders.holder[i])) or str(names[int(holders.holder[i])]),
            blocks=int(holders.blocks[i]),
            bytes=int(holders.bytes[i]),
            pages=int(holders.pages[i]),
            alone=int(holders.alone[i]),
            pinned_top=int(top[i]),
            pinned_pages=int(holders.alone_free[i]),
            shared_pages=int(holders.share_free[i]),
        )
        for i in order
    ]


def _tried(
    trials: Trials,
    culprits: Sequence[Culprit],
    look: tuple[Holders, Outcome],
    row: int,
    tried: int,
) -> tuple[list[Culprit], Together | None]:
    """Return the culprits with what trials of the worst gave, and of all these at once."""
    before = look[1]
    names = _worst(culprits, look[0])[:tried]
    found = try_without(trials, [(n,) for n in names] + ([names] if len(names) > 1 else []))
    saved = {
        group: _savings(before, rest, own, row)
        for group, (rest, own) in found.items()
        if not (rest.error or (own and own.error))
    }
    done = [_with(c, saved.get((c.site,))) for c in culprits]
    done.sort(key=lambda c: (c.saved is None, -(c.saved or 0), -c.suspected))
    all_of_them = saved.get(tuple(names)) if len(names) > 1 else None
    return done, Together(tuple(names), *all_of_them) if all_of_them else None


def _with(culprit: Culprit, saved: tuple[int, int, int] | None) -> Culprit:
    if saved is None:
        return culprit
    apart, at_end, gone = saved
    return replace(culprit, saved=apart, saved_at_end=at_end, saved_gone=gone)


def _worst(culprits: Sequence[Culprit], holders: Holders) -> list[int]:
    """Return whom to try: the most suspect, and who would pin the top after them."""
    suspects = {c.site: c.suspected for c in culprits if c.suspected > 0 and c.site != LIBRARY}
    for pin in holders.top_pins:
        taken = 0
        for holder, pinned in pin.ladder:
            if holder == LIBRARY:
                break
            suspects[holder] = suspects.get(holder, 0) + (pinned - taken if taken else 0)
            taken = pinned
    known = {c.site for c in culprits}
    return sorted((s for s in suspects if s in known), key=lambda s: -suspects[s])


def _savings(before: Outcome, rest: Outcome, own: Outcome | None, row: int) -> tuple[int, int, int]:
    """Return what is saved with the blocks apart, now and at the end, and without them now."""
    gone = _moment(before, row)["rss"] - _moment(rest, row)["rss"]
    at_end = before.final_rss - rest.final_rss
    if own is None:
        return gone, at_end, gone
    return gone - _moment(own, row)["rss"], at_end - own.final_rss, gone
