"""Lever and Boreham's producers and consumers."""

from __future__ import annotations

import numpy as np

from pyalloc.trace import Trace
from pyalloc.workload.rows import Rows, frees, interleaved, joined, mallocs, thread_exits
from pyalloc.workload.sizes import SizeLaw, parse_sizes
from pyalloc.workload.writer import check


def xmalloc(
    pairs: int = 2,
    batch: int = 4096,
    batches: int = 20,
    sizes: str | int | SizeLaw = "64",
    queue: int = 2,
    seed: int = 0,
) -> Trace:
    """Return xmalloc-test: producers allocate batches, consumers free them.

    Batches go onto one stack, and a consumer takes the newest.  When the producers are done the
    main thread frees what is left on it.

    Parameters
    ----------
    pairs
        Producing threads, and as many consuming ones.
    batch
        Blocks a batch; the batch itself, a link and a table of their pointers, is a block too.
    batches
        Batches that each producer makes.
    sizes
        Request sizes.
    queue
        Batches that each producer makes before the consumers begin.
    seed
        Seed of the generator.
    """
    check(pairs=pairs, batch=batch, batches=batches, queue=queue)
    law, rng = parse_sizes(sizes), np.random.default_rng(seed)
    stack: list[int] = []
    parts = []
    for turn in range(batches):
        taken = [stack.pop() for _ in range(pairs)] if turn >= queue else []
        made = [turn * pairs + i for i in range(pairs)]
        calls = [_made(n, batch, law, rng, 1 + 2 * i) for i, n in enumerate(made)]
        calls += [_freed(n, batch, 2 + 2 * i) for i, n in enumerate(taken)]
        parts.append(interleaved(calls))
        stack += made
    parts.append(thread_exits(1 + np.arange(2 * pairs)))
    parts += [_freed(n, batch, 0) for n in reversed(stack)]
    return joined(parts).trace("xmalloc")


def _made(number: int, batch: int, law: SizeLaw, rng: np.random.Generator, thread: int) -> Rows:
    """Return the calls that make a batch: its table first."""
    block = number * (batch + 1) + np.arange(batch + 1)
    size = np.concatenate([np.array([8 * (batch + 1)], np.uint64), law.draw(rng, batch)])
    return mallocs(block, size, thread)


def _freed(number: int, batch: int, thread: int) -> Rows:
    """Return the calls that free a batch: what the table names in its order, then the table."""
    block = number * (batch + 1) + np.arange(batch + 1)
    return frees(np.roll(block, -1), thread)
