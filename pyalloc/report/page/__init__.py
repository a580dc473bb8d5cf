"""One self-contained HTML page of an examination: no network, light and dark, made to be kept.

Everything the page shows is one JSON value (:func:`page_data`); the script beside it draws it.
"""

from __future__ import annotations

import html
import json
from importlib import resources
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pyalloc.lab.examine import Examination
from pyalloc.lab.heapmap import KINDS, Region, heap_map
from pyalloc.machine import Breakdown, Process
from pyalloc.machine.metrics import IN_BYTES
from pyalloc.report.examination import agreement_words, short_site, verdict
from pyalloc.report.listing import title_of
from pyalloc.report.metrics import percent
from pyalloc.units import format_size

_KINDS: Final = (
    ("requested", "used", "in use, as asked for", "what the program has and did not give back"),
    ("overhead", "overhead", "headers, alignment", "what blocks cost beyond their size; arenas"),
    ("tcache", "tcache", "free: tcache", "kept by each thread for blocks of the same size"),
    ("fast", "fast", "free: fastbins", "small ones, not yet merged with their neighbours"),
    ("unsorted", "unsorted", "free: unsorted", "freed lately, not yet sorted by size"),
    ("small", "small", "free: small bins", "holes below 1 KiB between blocks in use"),
    ("large", "large", "free: large bins", "larger holes between blocks in use"),
    ("top", "top", "free: top", "the end of the heap, from which new blocks are cut"),
)
_Column = npt.NDArray[np.int64]
_PERCENT: Final = frozenset({"jw1", "jw2", "jw3", "jw3_net", "jw4", "bohra", "realized"})
_MOST_POINTS: Final = 600
SAMPLES: Final = 6000
"""How often to look at a run that is to be drawn: what is thrown away is chosen, not missed."""


def render_page(found: Examination) -> str:
    """Return the page as HTML."""
    text = json.dumps(page_data(found), separators=(",", ":")).replace("<", "\\u003c")
    parts = {
        "@TITLE@": html.escape(f"{_command(found)} - pyalloc"),
        "@STYLE@": _resource("page.css"),
        "@SCRIPT@": _resource("page.js"),
        "@DATA@": text,
    }
    page = _resource("page.html")
    for mark, part in parts.items():
        page = page.replace(mark, part, 1)
    return page


def page_data(found: Examination) -> dict[str, Any]:
    """Return everything the page shows, as JSON values; bytes throughout."""
    return {
        "command": _command(found),
        "about": f"{len(found.trace):,} calls, replayed on {found.allocator}. "
        f"{agreement_words(found)}",
        "verdict": verdict(found),
        "notes": _notes(found),
        "tiles": _tiles(found),
        "kinds": [{"name": n, "color": c, "title": t, "what": w} for n, c, t, w in _KINDS],
        "mapKinds": [{"color": k, "title": _MAP_TITLES.get(k, f"free: {k}")} for k in KINDS],
        "timeline": _timeline(found),
        "moments": [_moment("peak", found.peak), _moment("end", found.end)],
        "maps": [
            {"title": "at the peak", "regions": _regions(found.replay_at_peak.process)},
            {"title": "at the end", "regions": _regions(found.replay.process)},
        ],
        "sites": [
            [short_site(s.site), s.calls, s.bytes, s.bytes_at_peak, s.bytes_at_end]
            for s in found.sites
        ],
        "sizes": _sizes(found),
        "figures": _figures(found),
        "addressSpace": str(found.replay.process.maps()) if found.replay.process.alive else "",
    }


_MAP_TITLES: Final = {name: title for name, _, title, _ in _KINDS} | {"used": "in use"}


def _resource(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _command(found: Examination) -> str:
    return title_of(found.trace.info)


def _notes(found: Examination) -> list[dict[str, Any]]:
    notes = [
        {"text": f"stopped at call {error.row:,}: {error.message}", "bad": True}
        for error in found.replay.errors
    ]
    if found.trace.info.truncated:
        text = f"the recording is cut short: {found.trace.info.truncated}"
        notes.append({"text": text, "bad": True})
    return notes


def _tiles(found: Examination) -> list[dict[str, str]]:
    s = found.replay.summary
    tiles = [
        ("asked for at the peak", format_size(s.peak_requested)),
        ("held at the peak", format_size(s.peak_held)),
        ("resident at the peak", format_size(s.peak_rss)),
        ("in use at the end", format_size(s.requested)),
        ("held at the end", format_size(s.held)),
    ]
    if found.trim is not None:
        tiles.append(("malloc_trim(0) would give back", format_size(max(found.trim.gain, 0))))
    return [{"title": title, "value": value} for title, value in tiles]


def _moment(title: str, at: Breakdown) -> dict[str, Any]:
    return {
        "title": title,
        "held": at.held,
        "bytes": {name: getattr(at, name) for name, *_ in _KINDS},
    }


def _timeline(found: Examination) -> dict[str, Any]:
    sampled = _samples(found)
    calls = sampled["calls"]
    values = {
        name: sampled[name if name in {"requested", "top"} else f"free_{name}"]
        for name, *_ in _KINDS
        if name != "overhead"
    }
    held = sampled["heap"] + sampled["mapped"]
    values["overhead"] = np.maximum(held - sum(values.values()), 0)
    seconds = found.trace.has("time") and len(calls) > 0
    if seconds:
        time = found.trace.time
        x = (time[np.maximum(calls - 1, 0)] - time[0]) / 1e9
    else:
        x = calls.astype(float)
    keep = _telling(held)
    return {
        "x": x[keep].tolist(),
        "calls": calls[keep].tolist(),
        "seconds": seconds,
        "xTitle": "seconds since the first call" if seconds else "calls",
        "values": {name: column[keep].tolist() for name, column in values.items()},
        "line": {
            "title": "resident",
            "color": "rss",
            "values": sampled["rss"][keep].tolist(),
        },
    }


def _samples(found: Examination) -> dict[str, _Column]:
    """Return what was seen of the run, call by call; the moment of the peak is among it."""
    free = (f"free_{name}" for name in ("tcache", "fast", "unsorted", "small", "large"))
    names = ("calls", "heap", "mapped", "rss", "requested", "top", *free)
    both = [found.replay]
    if len(found.trace) and found.replay.process.alive:
        both.append(found.replay_at_peak)
    columns = {n: np.concatenate([r.sampled(n) for r in both]).astype(np.int64) for n in names}
    _, first = np.unique(columns["calls"], return_index=True)
    return {name: column[first] for name, column in columns.items()}


def _telling(held: _Column) -> _Column:
    """Return which samples to draw: of each stretch of the run its highest and its lowest."""
    count = len(held)
    if count <= _MOST_POINTS:
        return np.arange(count)
    stretches = np.array_split(np.arange(count), _MOST_POINTS // 2)
    ends = [rows[find(held[rows])] for rows in stretches for find in (np.argmax, np.argmin)]
    return np.unique([0, *ends, count - 1])


def _regions(process: Process) -> list[dict[str, Any]]:
    return [_region(region) for region in heap_map(process)] if process.alive else []


def _region(region: Region) -> dict[str, Any]:
    return {
        "start": region.start,
        "pages": region.pages,
        "arena": region.arena,
        "bytes": region.bytes.tolist(),
        "resident": region.resident.tolist(),
    }


def _sizes(found: Examination) -> list[list[int]]:
    histogram = found.trace.size_histogram()
    rows = zip(histogram.upper, histogram.count, histogram.bytes, strict=True)
    return [[int(upper), int(count), int(total)] for upper, count, total in rows if count]


def _figures(found: Examination) -> list[list[str]]:
    return [
        [_figure_name(name), _value(name, value)]
        for name, value in found.replay.summary.flat().items()
    ]


def _figure_name(name: str) -> str:
    if name == "pages_to_0":
        return "pages with nothing in use"
    if name.startswith("pages_to_"):
        return f"pages up to {name.removeprefix('pages_to_')} % in use"
    return name.replace("_", " ")


def _value(name: str, value: float | None) -> str:
    if value is None:
        return "undefined"
    if name in IN_BYTES:
        return format_size(value)
    if name in _PERCENT:
        return percent(value)
    return f"{value:,.4g}" if isinstance(value, float) else f"{value:,}"
