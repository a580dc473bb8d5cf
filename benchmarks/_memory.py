"""A replay in a process of its own, whose growth of peak resident memory is what the model takes.

Run as a program, with a stream's kind, sizes, calls and blocks alive; prints one JSON object.  In a
process that has done anything else, memory that it had left over would serve, or be given back.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import _model

from pyalloc.host import proc
from pyalloc.workload.streams import stream

ENTRY = 8  # bytes of the trace's own table for each block, as in the real driver's


@dataclass(frozen=True)
class Memory:
    """Bytes: the simulated heap's at its most, the model's at its most, the trace's table."""

    held: int
    model: int
    table: int


def peak_bytes() -> int:
    return int(proc.status()["VmHWM"]) << 10


def grown(kind: str, sizes: str, count: int, live: int, touch: str) -> Memory:
    """Return what a replay adds to this process's peak; `prepare` and a first one come before."""
    trace = stream(kind, sizes, count=count, live=live)
    _model.prepare(trace[:1000], touch=touch).run()
    replay = _model.prepare(trace, touch=touch)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is what is resident now
    before = peak_bytes()
    replay.run()
    model = peak_bytes() - before
    return Memory(replay.bytes_held(), model, ENTRY * int(trace.block.max() + 1))


def measure(kind: str, sizes: str, count: int, live: int, touch: str) -> Memory:
    """Return what `grown` says in a fresh process."""
    words = [kind, sizes, str(count), str(live), touch]
    command = [sys.executable, __file__, *words]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return Memory(**json.loads(text))


if __name__ == "__main__":
    kind, sizes, count, live, touch = sys.argv[1:]
    sys.stdout.write(json.dumps(vars(grown(kind, sizes, int(count), int(live), touch))))
