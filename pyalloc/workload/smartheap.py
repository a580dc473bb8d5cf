"""MicroQuill's SmartHeap benchmarks: blocks through a ring of which a moving fifth survives.

The ring is filled but for the part that is kept from the round before.  When it is full the next
fifth is marked to be kept; what lies below it is freed in order, what lies above it in reverse.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from pyalloc.trace import Trace
from pyalloc.workload.rows import Rows, frees, interleaved, joined, mallocs, thread_exits
from pyalloc.workload.writer import Writer, check

Numbers = npt.NDArray[np.int64]

_KEPT: Final = 5  # one part of so many
_POINTER: Final = 8
_HISTOGRAM: Final = (
    (8, 1000),
    (16, 5000),
    (48, 1000),
    (72, 100),
    (148, 100),
    (200, 100),
    (520, 10),
    (1056, 5),
    (4096, 3),
    (9162, 1),
    (34_562, 1),
    (168_524, 1),
)
"""Sizes of benchmark 8, and how many of each are allocated at a time."""


def sh6bench(
    threads: int = 1,
    ring: int = 1000,
    passes: int = 10,
    smallest: int = 1,
    largest: int = 1000,
    leaks: bool = False,
) -> Trace:
    """Return SmartHeap's benchmark 6: small blocks through a ring, a fifth survives.

    Parameters
    ----------
    threads
        Threads, each with a ring of its own.
    ring
        Pointers in it; the original calls this the number of calls and makes as many passes.
    passes
        Passes over all sizes.
    smallest, largest
        Bounds of the sizes in bytes.
    leaks
        Lose what is kept at the bottom of the ring, as the original does: it writes other pointers
        there; and what is kept at the end.
    """
    check(threads=threads, ring=ring, passes=passes, smallest=smallest, largest=largest)
    sizes = np.tile(_sizes(smallest, largest), passes)
    parts = []
    for i in range(threads):
        thread = 0 if threads == 1 else 1 + i  # one thread is the main thread
        table = np.array([i * (len(sizes) + 1)])
        calls = [mallocs(table, _POINTER * ring, thread)]
        calls += _through_ring(sizes, ring, thread, int(table[0]) + 1, leaks=leaks)
        calls += [frees(table, thread), *([thread_exits([thread])] if thread else [])]
        parts.append(joined(calls))
    return interleaved(parts).trace("sh6bench")


def _sizes(smallest: int, largest: int) -> Numbers:
    """Return the sizes of one pass: from each base down by halves, small ones more often."""
    sizes, times = [], []
    base = smallest
    while base < largest:
        size = base
        while size >= smallest:
            sizes.append(size)
            times.append((10 if size < 10_000 else 1) * 5 ** ((size < 1000) + (size < 100)))
            size //= 2
        base = base * 3 // 2 + 1
    return np.repeat(np.array(sizes, np.int64), times)


def _through_ring(
    size: Numbers, ring: int, thread: int, base: int, *, leaks: bool
) -> Iterator[Rows]:
    """Yield the calls that pass blocks of the given sizes through a ring of pointers."""
    held = np.full(ring, -1)
    start = end = ring  # the part that is kept
    made = 0
    while made < len(size):
        low = 0 if start or leaks else end
        slots = np.arange(ring) if leaks and not start else np.r_[low:start, max(end, low) : ring]
        count = min(len(slots), len(size) - made)
        block = base + made + np.arange(count)
        yield mallocs(block, size[made : made + count], thread)
        made += count
        held[slots[:count]] = block
        if count < len(slots):
            left = held[: slots[count]] if leaks else held
            yield frees(left[left >= 0], thread)
            return
        start = 0 if end >= ring else end
        end = min(start + ring // _KEPT, ring)
        yield frees(np.concatenate([held[:start], held[end:][::-1]]), thread)
        held[:start] = held[end:] = -1
    if not leaks:
        yield frees(held[held >= 0], thread)


def sh8bench(
    threads: int = 4,
    ring: int = 20_000,
    iterations: int = 400,
    foreign: int = 16_000,
) -> Trace:
    """Return SmartHeap's benchmark 8: the same with another mix, and blocks of the main thread.

    Threads that end leave what they have, as the original does.

    Parameters
    ----------
    threads
        Threads beside the main thread, which share out everything below.
    ring
        Pointers in all rings.
    iterations
        Each allocates a number of blocks of one size, and the next of the next size.
    foreign
        Blocks that the main thread allocates and the others free.
    """
    check(threads=threads, ring=ring, iterations=iterations)
    if not 0 <= foreign < 1 << 31:
        check(foreign=foreign)
    out = Writer()
    each = foreign // (threads * threads)  # blocks of each thread's part that each thread frees
    made: list[int] = []
    turns: list[Iterator[None]] = [
        _share(
            out,
            1 + i,
            (max(ring // threads, 1), iterations // threads),
            made,
            _order(i, each, threads),
        )
        for i in range(threads)
    ]
    turns.append(_foreign(out, made, each * threads * threads))
    while turns:
        turns = [turn for turn in turns if next(turn, turn) is None]
    return out.rows().trace("sh8bench")


def _order(index: int, each: int, threads: int) -> deque[int]:
    """Return which of the main thread's blocks a thread frees: some of each thread's part."""
    parts = (index * each + part * each * threads + np.arange(each) for part in range(threads))
    return deque(np.concatenate([*parts, np.empty(0, np.int64)]).astype(int).tolist())


def _foreign(out: Writer, made: list[int], count: int) -> Iterator[None]:
    for _ in range(count):
        made.append(out.malloc(_HISTOGRAM[0][0], 0))
        yield


def _share(
    out: Writer, thread: int, work: tuple[int, int], made: list[int], others: deque[int]
) -> Iterator[None]:
    """Make the calls of one thread, one a turn."""
    ring, iterations = work
    table = out.malloc(_POINTER * ring, thread)
    yield
    held = [table] * ring
    at, start, end = 0, ring, ring
    for iteration in range(iterations):
        while others and others[0] < len(made):
            out.free(made[others.popleft()], thread)
            yield
        size, count = _HISTOGRAM[(iteration + 1) % len(_HISTOGRAM)]
        for _ in range(count):
            if at == start:
                at = end
            if at < ring:
                held[at] = out.malloc(size, thread)
                at += 1
                yield
                continue
            start = 0 if end >= ring else end  # a full ring costs the block of this turn
            end = min(start + ring // _KEPT, ring)
            for block in (*held[:start], *held[end:][::-1]):
                out.free(block, thread)
                yield
            at = 0
    out.end(thread)
