"""One self-contained HTML page of an examination: no network, light and dark, made to be kept.

Everything the page shows is one JSON value (:func:`page_data`); the script beside it draws it.
"""

from __future__ import annotations

import html
import json
from importlib import resources
from typing import Any, Final

import numpy as np

from pyalloc.lab.examine import Examination
from pyalloc.lab.heapmap import KINDS, Region, heap_map
from pyalloc.machine import Breakdown
from pyalloc.machine.metrics import IN_BYTES
from pyalloc.report.examination import agreement_words, short_site, verdict
from pyalloc.report.listing import title_of
from pyalloc.report.metrics import percent
from pyalloc.units import format_size

_KINDS: Final = (
    ("requested", "used", "in use, as asked for"),
    ("overhead", "overhead", "headers, alignment"),
    ("tcache", "tcache", "free: tcache"),
    ("fast", "fast", "free: fastbins"),
    ("unsorted", "unsorted", "free: unsorted"),
    ("small", "small", "free: small bins"),
    ("large", "large", "free: large bins"),
    ("top", "top", "free: top"),
)
_PERCENT: Final = frozenset({"jw1", "jw2", "jw3", "jw3_net", "jw4", "bohra", "realized"})
_MOST_POINTS: Final = 600


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
        "kinds": [{"name": n, "color": c, "title": t} for n, c, t in _KINDS],
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


_MAP_TITLES: Final = {name: title for name, _, title in _KINDS} | {"used": "in use"}


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
        "bytes": {name: getattr(at, name) for name, _, _ in _KINDS},
    }


def _timeline(found: Examination) -> dict[str, Any]:
    sampled = found.replay.sampled
    calls = sampled("calls").astype(np.int64)
    keep = np.unique(np.linspace(0, max(len(calls) - 1, 0), _MOST_POINTS).astype(int))
    keep = keep[: len(calls)]
    values = {
        name: sampled(name if name in {"requested", "top"} else f"free_{name}").astype(np.int64)
        for name, _, _ in _KINDS
        if name != "overhead"
    }
    held = (sampled("heap") + sampled("mapped")).astype(np.int64)
    values["overhead"] = np.maximum(held - sum(values.values()), 0)
    seconds = found.trace.has("time") and len(calls) > 0
    if seconds:
        time = found.trace.time
        x = (time[np.maximum(calls - 1, 0)] - time[0]) / 1e9
    else:
        x = calls.astype(float)
    return {
        "x": x[keep].tolist(),
        "calls": calls[keep].tolist(),
        "seconds": seconds,
        "xTitle": "seconds since the first call" if seconds else "calls",
        "values": {name: column[keep].tolist() for name, column in values.items()},
        "line": {
            "title": "resident",
            "color": "rss",
            "values": sampled("rss")[keep].tolist(),
        },
    }


def _regions(process: Any) -> list[dict[str, Any]]:  # noqa: ANN401
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
    if name.startswith("pages_to_"):
        return f"pages up to {name.removeprefix('pages_to_')} % in use"
    return name.replace("_", " ")


def _value(name: str, value: Any) -> str:  # noqa: ANN401
    if value is None:
        return "undefined"
    if name in IN_BYTES:
        return format_size(value)
    if name in _PERCENT:
        return percent(value)
    return f"{value:,.4g}" if isinstance(value, float) else f"{value:,}"
