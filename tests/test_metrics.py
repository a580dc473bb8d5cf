"""Fragmentation in figures: each equals what a slow count, call by call, finds."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

import pyalloc as pa
from pyalloc.engine import CHUNK_STATES
from pyalloc.lab.replay import machine_for
from pyalloc.machine.metrics import FIGURES
from pyalloc.workload.streams import stream

PAGE = 4096
FREE = {"tcache", "fast", "unsorted", "small", "large", "top"}


def traces() -> dict[str, tuple[pa.Trace, str, str]]:
    """Return traces of every kind of call, with an allocator and an architecture each."""
    mixed = stream("random", "log:1-300K", count=1500, live=60, seed=3, calls="all")
    return {
        "mixed": (mixed, "glibc-2.36", "x86_64"),
        "mixed-32": (mixed, "glibc-2.3.3", "i386"),
        "small": (stream("bursts", "1-400", count=3000, live=300, seed=1), "glibc-2.31", "x86_64"),
        "fifo": (stream("fifo", "1-4000", count=2000, live=300, seed=2), "glibc-2.12", "x86_64"),
        "pins": (stream("pins", "4000", count=800, live=200), "glibc-2.36", "x86_64"),
        "big": (stream("lifo", "100K-400K", count=400, live=20, seed=5), "glibc-2.35", "i386"),
        "threads": (
            pa.workload("larson:threads=3,blocks=40,operations=150,generations=2"),
            "glibc-2.36",
            "x86_64",
        ),
        "first-fit": (stream("random", "1-9000", count=1200, live=80, seed=4), "first-fit", "i386"),
    }


@dataclass
class Slow:
    """A trace called by hand, and what was seen after each call."""

    process: pa.Process
    word: int
    live: dict[int, tuple[int, int]] = field(default_factory=dict)  # block: address, size
    rows: list[tuple[int, int, int, int]] = field(default_factory=list)  # granted, A, P, pages
    peak: dict[str, int] = field(default_factory=dict)
    start: int = 0

    def held(self) -> int:
        """A, as mallinfo has it."""
        if self.process.allocator == "first-fit":
            return self.process.heap.heap.brk - self.process.space.start_brk
        info = self.process.heap.heap.mallinfo()
        return info.arena + info.hblkhd

    def pages(self) -> int:
        c = self.process.pages.table.counters()
        return c["anon"] + c["swap"] - self.start

    def call(self, row: Any) -> int:
        """Make one call; return the bytes granted."""
        p, op = self.process, row.op
        p.set_thread(row.thread)
        if op == pa.Op.FREE:
            address, _ = self.live.pop(row.block)
            p.free(address)
            return 0
        if op == pa.Op.THREAD_EXIT:
            p.thread_exit()
            return 0
        if op == pa.Op.REALLOC:
            old, _ = self.live.pop(row.block, (0, 0))
            address = p.realloc(old, row.size)
        elif op in (pa.Op.MALLOC, pa.Op.CALLOC):
            address = p.malloc(row.size) if op == pa.Op.MALLOC else p.calloc(1, row.size)
        elif op in (pa.Op.VALLOC, pa.Op.PVALLOC):
            address = getattr(p, op.name.lower())(row.size)
        else:
            address = getattr(p, op.name.lower())(row.arg, row.size)
        assert address
        self.live[row.block] = address, row.size
        p.touch(address, row.size) if row.size else None
        return row.size

    def run(self, trace: pa.Trace) -> None:
        self.start = self.pages()
        highest = -1
        for row in trace:
            granted = self.call(row)
            live = sum(size for _, size in self.live.values())
            self.rows.append((granted, self.held(), live, self.pages()))
            if self.held() > highest:
                highest = self.held()
                self.peak = self.split()

    def split(self) -> dict[str, int]:
        """Return header, alignment and free bytes by kind, block by block and chunk by chunk."""
        chunks = self.process.heap.heap.chunks()
        mapped = set(chunks["address"][chunks["state"] == CHUNK_STATES.index("mapped")].tolist())
        size = dict(zip(chunks["address"].tolist(), chunks["size"].tolist(), strict=True))
        header = alignment = 0
        for address, requested in self.live.values():
            own = 2 * self.word if address in mapped else self.word
            header += own
            alignment += size[address] - own - requested
        if mapped:  # what lies before a mapped chunk in its mapping
            alignment += self.process.heap.heap.mallinfo().hblkhd - sum(size[a] for a in mapped)
        found = {"header": header, "alignment": alignment}
        for kind in FREE:
            state = chunks["state"] == CHUNK_STATES.index(kind)
            found[kind] = int(chunks["size"][state].sum())
        return found

    def holes(self) -> list[int]:
        chunks = self.process.heap.heap.chunks()
        return [int(c["size"]) for c in chunks if CHUNK_STATES[c["state"]] in FREE]

    def occupancy(self) -> list[int]:
        """Return the pages held by tenths in use, byte range by byte range."""
        used: Counter[int] = Counter()
        for c in self.process.heap.heap.chunks():
            if CHUNK_STATES[c["state"]] in FREE:
                continue
            at, end = int(c["address"]) - 2 * self.word, 0
            end = at + int(c["size"])
            while at < end:
                part = min(end, (at // PAGE + 1) * PAGE) - at
                used[at // PAGE] += part
                at += part
        found = [0] * 11
        for in_use in used.values():
            found[-(-in_use * 10 // PAGE)] += 1
        found[0] = -(-self.held() // PAGE) - len(used)
        return found

    def trimmed(self) -> tuple[int, int]:
        """Call malloc_trim on a copy of the machine; return resident bytes and held bytes given."""
        twin = self.process.machine.copy().processes[self.process.pid]
        copy = Slow(twin, self.word)
        before = copy.pages(), copy.held()
        twin.malloc_trim(0)
        return (before[0] - copy.pages()) * PAGE, before[1] - copy.held()


def slow_run(trace: pa.Trace, allocator: str, arch: str) -> Slow:
    machine = machine_for(trace, arch)
    slow = Slow(machine.spawn(allocator=allocator), 8 if arch == "x86_64" else 4)
    slow.run(trace)
    return slow


CASES = traces()


@pytest.fixture(scope="module", params=CASES)
def both(request: pytest.FixtureRequest) -> tuple[Slow, pa.ReplaySummary]:
    trace, allocator, arch = CASES[request.param]
    return slow_run(trace, allocator, arch), pa.replay(
        trace, allocator, arch, touch="write", samples=7
    ).summary


def test_johnstone_and_wilson_measure_what_they_say(both: tuple[Slow, pa.ReplaySummary]) -> None:
    """Four ratios of A and P over bytes allocated, by definition, from every single call."""
    slow, s = both
    granted, held, live, _ = (np.array(c, float) for c in zip(*slow.rows, strict=True))
    time = granted > 0
    jw1 = np.average(held[time] / live[time], weights=granted[time])
    assert s.jw1 == pytest.approx(100 * (jw1 - 1), rel=1e-9)
    assert s.jw2 == pytest.approx(100 * (held[live.argmax()] / live.max() - 1))
    assert s.jw3 == pytest.approx(100 * (held.max() / live[held.argmax()] - 1))
    assert s.jw4 == pytest.approx(100 * (held.max() / live.max() - 1))
    assert s.peak_held_row == held.argmax()
    assert s.peak_requested_row == live.argmax()


def test_the_ends_and_peaks_are_those_seen(both: tuple[Slow, pa.ReplaySummary]) -> None:
    slow, s = both
    _, held, live, pages = zip(*slow.rows, strict=True)
    assert s.bohra == pytest.approx(100 * (held[-1] / live[-1] - 1))
    assert s.utilization == pytest.approx(max(live) / max(held))
    assert s.blowup == pytest.approx(max(held) / max(live))
    at = live.index(max(live))
    assert s.realized == pytest.approx(100 * (pages[at] * PAGE / live[at] - 1))
    assert s.at_end.untouched == held[-1] - pages[-1] * PAGE
    assert s.at_peak.untouched == max(held) - pages[held.index(max(held))] * PAGE


def test_the_overhead_is_split_as_the_chunks_lie(both: tuple[Slow, pa.ReplaySummary]) -> None:
    """Header, alignment and each kind of free chunk, at the peak and at the end."""
    slow, s = both
    for seen, told in ((slow.peak, s.at_peak), (slow.split(), s.at_end)):
        assert {name: getattr(told, name) for name in seen} == seen
        parts = ("requested", "header", "alignment", "own", *sorted(FREE))
        assert sum(getattr(told, part) for part in parts) == told.held
        assert told.free + told.overhead + told.requested == told.held
    net = 100 * ((s.peak_held - s.at_peak.overhead) / s.at_peak.requested - 1)
    assert s.jw3_net == pytest.approx(net)


def test_holes_and_pages_are_those_of_the_chunks(both: tuple[Slow, pa.ReplaySummary]) -> None:
    slow, s = both
    holes = np.array(slow.holes(), float)
    assert s.largest_hole == holes.max()
    assert s.free == holes.sum()
    assert s.hole_index == pytest.approx(1 - holes.max() / holes.sum())
    assert s.sawicki == pytest.approx(1 - (holes**2).sum() / holes.sum() ** 2)
    assert s.occupancy is not None
    assert list(s.occupancy) == slow.occupancy()
    assert s.pinned_pages == s.occupancy[1]
    assert sum(s.occupancy) == -(-s.held // PAGE)


def test_the_trim_gain_is_what_malloc_trim_gives_back(both: tuple[Slow, pa.ReplaySummary]) -> None:
    """What the look at the heap promises is what the call does on a copy of the machine."""
    slow, s = both
    assert (s.trim_gain, s.trim_held) == slow.trimmed()


def test_pins_pin_pages_and_a_trim_frees_what_lies_between() -> None:
    """A block of 24 bytes every third page: hardly a byte in use, every page is held."""
    large, small = 2 * np.arange(200), 2 * np.arange(200) + 1
    op = [pa.Op.MALLOC] * 400 + [pa.Op.FREE] * 200
    block = np.concatenate([np.arange(400), large])
    size = np.where(np.isin(block, small), 24, 12000)
    s = pa.replay(pa.Trace.from_arrays(op, block, size), touch="write").summary
    assert s.occupancy is not None
    assert 200 <= (s.pinned_pages or 0) <= 202
    assert s.occupancy[0] > 390
    assert s.trim_gain == pytest.approx(s.rss * 2 / 3, rel=0.05)


def test_figures_do_not_depend_on_the_samples() -> None:
    trace = stream("random", "1-4000", count=5000, live=100)
    assert pa.replay(trace, samples=0).summary == pa.replay(trace, samples=3000).summary


def test_a_measure_that_is_not_defined_is_none_and_says_why() -> None:
    nothing = pa.replay(pa.Trace.from_arrays([], [], [])).summary
    for name in ("jw1", "jw2", "jw4", "bohra", "utilization", "blowup", "hole_index", "sawicki"):
        assert getattr(nothing, name) is None
        assert nothing.undefined[name]
    untouched = pa.replay(stream("lifo", count=100, live=10)).summary
    assert untouched.realized is None
    assert "touch" in untouched.undefined["realized"]
    empty = pa.replay(pa.Trace.from_arrays([pa.Op.MALLOC], [0], [0])).summary  # holds, asks 0
    assert empty.jw3 is None
    assert empty.undefined["jw3"]
    assert empty.held > 0


def test_a_killed_process_has_no_heap_to_look_at() -> None:
    machine = pa.Machine(ram="64M", swap=0, overcommit_memory=1)
    result = pa.replay(pa.workload("loop_malloc:count=100"), machine=machine, touch="write")
    s = result.summary
    assert result.errors[0].kind == "killed"
    assert s.occupancy is s.trim_gain is s.sawicki is None
    assert "killed" in s.undefined["occupancy"]
    assert s.rss == 0
    assert 60 << 20 < s.peak_rss <= 64 << 20
    assert s.minor_faults * PAGE >= s.peak_rss
    assert s.peak_requested == (s.calls + 1) << 20  # the block it died writing is its own
    assert s.jw1 is not None


def test_summaries_go_through_json_and_into_rows() -> None:
    s = pa.replay(stream("lifo", count=1000, live=10), touch="write").summary
    told = s.to_dict()
    assert told["at_peak"]["held"] == s.peak_held
    assert told["undefined"] == {}
    row = s.flat()
    assert list(row) == list(FIGURES)
    assert all(v is None or isinstance(v, FIGURES[n]) for n, v in row.items())
    assert row["at_peak_header"] == s.at_peak.header
    assert row["pages_to_100"] == (s.occupancy or ())[10]
    assert all(isinstance(value, int | float | None) for value in row.values())
