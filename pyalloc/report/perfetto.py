"""A run as counter tracks that ui.perfetto.dev and chrome://tracing open.

The format is the JSON of the Trace Event Format (Google, "Trace Event Format", 2016): counter
events (``ph: "C"``) with a timestamp in microseconds.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from pyalloc.lab.examine import Examination
from pyalloc.report.listing import title_of

_TRACKS = {
    "heap (bytes)": ("requested", "heap", "mapped", "rss"),
    "free (bytes)": (
        "free_tcache",
        "free_fast",
        "free_unsorted",
        "free_small",
        "free_large",
        "top",
    ),
    "largest hole (bytes)": ("largest_hole",),
    "blocks": ("blocks",),
    "faults": ("minor_faults", "major_faults"),
}


def perfetto_json(found: Examination) -> str:
    """Return the run as trace events; a call counts as a microsecond where times are unknown."""
    info = found.trace.info
    pid = info.pid or 1
    events: list[dict[str, Any]] = [
        {
            "ph": "M",
            "name": "process_name",
            "pid": pid,
            "args": {"name": title_of(info)},
        }
    ]
    for i, at in enumerate(_microseconds(found)):
        for track, names in _TRACKS.items():
            values = {name: int(found.replay.sampled(name)[i]) for name in names}
            events.append({"ph": "C", "name": track, "pid": pid, "ts": at, "args": values})
    return json.dumps({"traceEvents": events, "displayTimeUnit": "ms"})


def _microseconds(found: Examination) -> list[float]:
    calls = found.replay.sampled("calls").astype(np.int64)
    if not (found.trace.has("time") and len(calls)):
        return [float(value) for value in calls]
    time = found.trace.time
    return [float(v) for v in (time[np.maximum(calls - 1, 0)] - time[0]) / 1e3]
