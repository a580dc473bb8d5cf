"""The programs that come with pyalloc, by name.

What they do is what matters to memory: how much is asked for, how much of it is written, how often
it is looked at again, and when it is given back.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Final

import numpy as np
import numpy.typing as npt

from pyalloc.errors import ArgumentError
from pyalloc.kernel.abi import MAP, PROT
from pyalloc.units import PAGE, format_size
from pyalloc.workload.article import megabytes
from pyalloc.workload.programs.job import Job
from pyalloc.workload.programs.units import ENDLESS, FOREVER, Bytes, Seconds
from pyalloc.workload.sizes import parse_sizes

_MEGABYTE: Final = 1 << 20
_HOT_ACCESSES: Final = 0.9


# --- the article's ---------------------------------------------------------------------------


def _megabytes(name: str, how: str, does: str) -> Callable[..., Iterator[float]]:
    """Return the program that gets one block after another in the way ``how``."""

    def run(
        job: Job,
        size: Bytes = _MEGABYTE,
        every: Seconds = 0.001,
        most: Bytes = ENDLESS,
        stay: Seconds = 0.0,
    ) -> Iterator[float]:
        got = 0
        try:
            for count in megabytes(job, how, size):
                got = count
                if (got + 1) * size > most:
                    break
                yield every
            else:
                job.note(f"{got:,} blocks of {format_size(size)}, then NULL", got * size)
            yield stay
        finally:
            if not job.process.alive:
                job.note(f"it had {got:,} blocks of {format_size(size)}", got * size)

    run.__name__ = run.__qualname__ = name
    run.__doc__ = f"""{does}

    Parameters
    ----------
    size
        Bytes of a request.
    every
        Time from one request to the next.
    most
        What it stops at, if NULL does not come before.
    stay
        How long it lives on with what it has.
    """
    return run


program_a: Final = _megabytes(
    "program_a",
    "malloc",
    "Ask for a megabyte at a time until NULL, and never use it: the article's program A.",
)
program_b: Final = _megabytes(
    "program_b",
    "write",
    "Ask for a megabyte at a time and fill it, until killed: the article's program B.",
)
program_calloc: Final = _megabytes(
    "program_calloc", "calloc", "Ask for a megabyte at a time through calloc, until NULL."
)


# --- services --------------------------------------------------------------------------------


def idle(job: Job, size: Bytes = _MEGABYTE, time: Seconds = FOREVER) -> Iterator[float]:
    """Write some memory once and sleep.

    Parameters
    ----------
    size
        How much.
    time
        How long it lives.
    """
    job.fill(size)
    yield time


def hold(
    job: Job,
    size: Bytes = 100 * _MEGABYTE,
    block: Bytes = 64 << 10,
    hot: float = 0.1,
    every: Seconds = 1.0,
    time: Seconds = FOREVER,
) -> Iterator[float]:
    """Build up a working set and go on using a part of it.

    Parameters
    ----------
    size
        The working set.
    block
        The blocks it is made of.
    hot
        The share of the blocks that is written again, drawn anew each time.
    every
        Time from one use to the next.
    time
        How long it lives.
    """
    made = job.fill_each([block] * max(size // block, 1))
    first = (made[made != 0] // PAGE).astype(np.int64)
    within = np.arange(-(-block // PAGE))
    ends, count = job.now + time, round(hot * len(first))
    while job.now < ends:
        yield every
        if count:
            used = first[job.rng.integers(0, len(first), count)]
            job.touch_pages(0, (used[:, np.newaxis] + within).ravel())


def scan(
    job: Job, size: Bytes = 100 * _MEGABYTE, part: float = 1.0, every: Seconds = 1.0
) -> Iterator[float]:
    """Read through one large block from end to end, over and over: reclaim's worst case.

    Parameters
    ----------
    size
        The block.
    part
        The share of it that is read at a time.
    every
        Time from one part to the next.
    """
    block = job.fill(size)
    step = max(round(size * part), PAGE)
    while block:
        for at in range(0, size, step):
            yield every
            job.touch(block + at, min(step, size - at), write=False)


def leak(
    job: Job, size: Bytes = _MEGABYTE, every: Seconds = 1.0, most: Bytes = ENDLESS
) -> Generator[float, None, int]:
    """Allocate and fill a block again and again, and free none: it goes on until NULL.

    Parameters
    ----------
    size
        Bytes of a block.
    every
        Time from one to the next.
    most
        What it stops at; then it only sleeps.
    """
    held = 0
    while held + size <= most:
        if not job.fill(size):
            return 1
        held += size
        yield every
    yield FOREVER
    return 0


def server(
    job: Job,
    requests: float = 50.0,
    sizes: str = "64-16K",
    blocks: int = 8,
    kept: float = 0.02,
    lifetime: Seconds = 60.0,
    base: Bytes = 16 * _MEGABYTE,
    every: Seconds = 1.0,
) -> Iterator[float]:
    """Serve requests: each allocates some blocks and frees most of them, some live on for a while.

    Parameters
    ----------
    requests
        Requests a second, on average (Poisson).
    sizes
        Sizes of the blocks, as "64-16K" or "pareto:1.2:16-1M".
    blocks
        Blocks of a request.
    kept
        The share of the blocks that outlives its request.
    lifetime
        How long these live on average.
    base
        What it writes when it starts.
    every
        How long it works at a time.
    """
    job.fill(base)
    law, rng = parse_sizes(sizes), job.rng
    sessions: list[tuple[float, int]] = []
    while True:
        yield every
        now = job.now
        while sessions and sessions[0][0] <= now:
            job.free(heapq.heappop(sessions)[1])
        count = int(rng.poisson(requests * every)) * blocks
        made = job.fill_each(law.draw(rng, count))
        stay = ((rng.random(count) < kept) & (made != 0)).nonzero()
        ends = now + rng.exponential(lifetime, count)
        for session in zip(ends[stay].tolist(), made[stay].tolist(), strict=True):
            heapq.heappush(sessions, session)
        made[stay] = 0
        job.free_each(made)


def database(
    job: Job,
    buffers: Bytes = 256 * _MEGABYTE,
    file: str = "",
    reads: int = 20,
    writes: int = 5,
    every: Seconds = 1.0,
    hot: float = 0.2,
) -> Generator[float, None, int]:
    """Keep a pool of buffers in memory, read and write pages of a file, a few far more often.

    Parameters
    ----------
    buffers
        The pool, written when it starts.
    file
        A file of the scenario; none: only the pool is used.
    reads, writes
        Pages it reads and writes at a time.
    every
        Time from one time to the next.
    hot
        The share of pool and file that nine accesses in ten go to.
    """
    pool = job.fill(buffers)
    data = job.file(file) if file else None
    fd = job.open(data, "rw") if data else -1
    length = data.size // PAGE if data else 0
    read, write = job.read, job.write
    while pool:
        yield every
        job.touch_pages(pool, _skewed(job, writes, buffers // PAGE, hot), write=True)
        job.touch_pages(pool, _skewed(job, reads, buffers // PAGE, hot), write=False)
        for page in _skewed(job, writes, length, hot).tolist():
            write(fd, PAGE, page * PAGE)
        for page in _skewed(job, reads, length, hot).tolist():
            read(fd, PAGE, page * PAGE)
    return 1


def _skewed(job: Job, count: int, pages: int, share: float) -> npt.NDArray[np.int64]:
    """Return page numbers of which nine in ten lie in the first ``share`` of all."""
    if not pages:
        return np.empty(0, np.int64)
    few = max(int(pages * share), 1)
    chance = job.rng.random(2 * count)
    among = np.where(chance[:count] < _HOT_ACCESSES, few, pages)
    return (chance[count:] * among).astype(np.int64)


def batch(
    job: Job,
    size: Bytes = 256 * _MEGABYTE,
    block: Bytes = _MEGABYTE,
    grow: Seconds = 10.0,
    time: Seconds = 30.0,
    pause: Seconds = 300.0,
    runs: int = 0,
) -> Iterator[float]:
    """Work in runs: grow to a size, use it for a while, free it all, and pause.

    Parameters
    ----------
    size, block
        What a run allocates, and in what pieces.
    grow
        How long it takes to grow.
    time
        How long it stays.
    pause
        Time to the next run.
    runs
        How many; 0: no end.
    """
    count, done = max(size // block, 1), 0
    while True:
        held = []
        for _ in range(count):
            held.append(job.fill(block))
            yield grow / count
        yield time
        for address in held:
            job.free(address)
        done += 1
        if done == runs:
            return
        yield pause


def fork_bomb(
    job: Job, size: Bytes = 4 * _MEGABYTE, every: Seconds = 0.1, most: int = 512
) -> Iterator[float]:
    """Write some memory and fork, over and over; the children do the same.

    Parameters
    ----------
    size
        What each process writes.
    every
        Time from one fork to the next.
    most
        Processes of this user at a time (RLIMIT_NPROC): beyond them fork fails.
    """
    job.fill(size)
    while True:
        yield every
        own = (p for p in job.machine.processes.values() if p.alive and p.uid == job.process.uid)
        if sum(1 for _ in own) < most:
            try:
                job.fork(lambda child: fork_bomb(child, size, every, most))
            except OSError as error:
                job.report("refused", f"fork: {error.strerror}")
                return


def lock(job: Job, size: Bytes = 4 * _MEGABYTE, file: str = "") -> Iterator[float]:
    """Map a file, or memory, and lock it: what nobody else can have.

    Parameters
    ----------
    size
        How much.
    file
        A file of the scenario; none: anonymous memory.
    """
    flags, fd = MAP.PRIVATE | MAP.ANONYMOUS, -1
    prot = PROT.READ | PROT.WRITE
    if file:
        flags, fd, prot = MAP.SHARED, job.open(job.file(file), "r"), PROT.READ
    address = job.mmap(0, size, prot, flags, fd)
    job.mlock(address, size)
    yield FOREVER


def calls(
    job: Job, sizes: str = "1M", count: int = 1, every: Seconds = 0.001
) -> Generator[float, None, int]:
    """Make some requests, write what comes, and end: fails with exit code 1 at the first NULL.

    Parameters
    ----------
    sizes
        Sizes of the requests, as "1G" or "64-16K".
    count
        How many.
    every
        Time from one to the next.
    """
    if count < 0:
        message = f"count must not be negative (got {count})"
        raise ArgumentError(message)
    for size in parse_sizes(sizes).draw(job.rng, count):
        if not job.fill(int(size)):
            return 1
        yield every
    return 0


LIBRARY: Final[Mapping[str, Callable[..., Iterator[float]]]] = {
    run.__name__: run
    for run in (
        program_a,
        program_b,
        program_calloc,
        idle,
        hold,
        scan,
        leak,
        server,
        database,
        batch,
        fork_bomb,
        lock,
        calls,
    )
}
"""The programs by name."""
