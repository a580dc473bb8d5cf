"""A process of its own, whose growth of peak resident memory is what the model takes.

Run as a program, with a stream's kind, sizes, calls, blocks alive and what is touched, or with a
number of pages; prints one JSON object.  In a process that has done anything else, memory that it
had left over would serve, or be given back.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import _model

import pyalloc as pa
from pyalloc.host import proc
from pyalloc.kernel.abi import MAP, PROT
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


def reset_peak() -> int:
    """Let the peak be what is resident now, and return that."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak_bytes()


def grown(kind: str, sizes: str, count: int, live: int, touch: str) -> Memory:
    """Return what a machine and a replay on it add to this process's peak, after a first one."""
    trace = stream(kind, sizes, count=count, live=live)
    _model.prepare(trace[:1000], touch=touch).run()
    before = reset_peak()
    replay = _model.prepare(trace, touch=touch)
    replay.run()
    model = peak_bytes() - before
    return Memory(replay.bytes_held(), model, ENTRY * int(trace.block.max() + 1))


@dataclass(frozen=True)
class Terabyte:
    """Bytes that a machine of 1 TB takes when it is booted, and those that so many pages add."""

    booted: int
    touched: int
    pages: int


def big_machine(pages: int) -> Terabyte:
    """Return what a machine of 1 TB adds to this process's peak, and so many pages written."""
    _model.written(1)
    start = reset_peak()
    machine = pa.Machine(ram="1T", swap="64G", kernel="6.18", arch="x86_64")
    process = machine.spawn()
    booted = peak_bytes() - start
    at = process.mmap(0, pages << 12, PROT.READ | PROT.WRITE, MAP.PRIVATE | MAP.ANONYMOUS)
    rss = int(process.statm()["resident"])
    start = reset_peak()
    process.touch(at, pages << 12)
    return Terabyte(booted, peak_bytes() - start, int(process.statm()["resident"]) - rss)


def in_fresh_process(*words: str) -> dict[str, int]:
    command = [sys.executable, __file__, *words]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found: dict[str, int] = json.loads(text)
    return found


def measure(kind: str, sizes: str, count: int, live: int, touch: str) -> Memory:
    """Return what `grown` says in a fresh process."""
    return Memory(**in_fresh_process(kind, sizes, str(count), str(live), touch))


def terabyte(pages: int) -> Terabyte:
    """Return what `big_machine` says in a fresh process."""
    return Terabyte(**in_fresh_process(str(pages)))


def main(words: list[str]) -> Memory | Terabyte:
    if len(words) == 1:
        return big_machine(int(words[0]))
    kind, sizes, count, live, touch = words
    return grown(kind, sizes, int(count), int(live), touch)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(vars(main(sys.argv[1:]))))
