"""Larson and Krishnan's server."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from pyalloc.trace import Trace
from pyalloc.workload.rows import Rows, frees, interleaved, joined, mallocs, thread_exits
from pyalloc.workload.sizes import SizeLaw, parse_sizes
from pyalloc.workload.writer import check

Numbers = npt.NDArray[np.int64]

_WARMTH: Final = 4


def _previous_in_slot(slot: Numbers, first: Numbers, base: int) -> Numbers:
    """Return which block each operation finds in its slot when operation k puts in ``base`` + k.

    ``first`` holds the blocks that are in the slots to begin with.
    """
    order = np.argsort(slot, kind="stable")
    found = np.empty(len(slot), np.int64)
    found[order[1:]] = base + order[:-1]
    starts = np.flatnonzero(np.diff(slot[order], prepend=-1))
    found[order[starts]] = first[slot[order[starts]]]
    return found


def larson(
    threads: int = 4,
    blocks: int = 1000,
    sizes: str | int | SizeLaw = "8-999",
    operations: int = 10_000,
    generations: int = 10,
    seed: int = 0,
) -> Trace:
    """Return larson, a server: random blocks replaced, handed from thread to thread.

    The main thread makes all blocks, shuffles them and replaces each four times on average; then
    the threads begin, each with blocks of its own.

    Parameters
    ----------
    threads
        Threads at a time.
    blocks
        Blocks each of them keeps.
    sizes
        Request sizes; the original's ``8 1000`` is 8 to 999.
    operations
        Blocks a thread replaces (a free and a malloc each) before it ends.
    generations
        How often a set of blocks goes from a thread to the next.
    seed
        Seed of the generator.
    """
    check(threads=threads, blocks=blocks, operations=operations, generations=generations)
    law, rng = parse_sizes(sizes), np.random.default_rng(seed)
    slots, warm_up = _warm_up(rng, law, threads * blocks)
    first = warm_up.block.max() + 1
    replaced = operations * generations
    parts = []
    for lineage in range(threads):
        own = slots[lineage * blocks : (lineage + 1) * blocks]
        slot = rng.integers(0, blocks, replaced)
        base = int(first) + lineage * replaced
        found = _previous_in_slot(slot, own, base)
        made = mallocs(base + np.arange(replaced), law.draw(rng, replaced))
        who = 1 + lineage + threads * (np.arange(replaced) // operations)
        parts.append(_lineage(found, made, who, operations))
    return joined([warm_up, interleaved(parts)]).trace("larson")


def _warm_up(rng: np.random.Generator, law: SizeLaw, count: int) -> tuple[Numbers, Rows]:
    """Return which block is in each slot before the threads begin, and the calls up to there.

    The main thread fills all slots, shuffles them and replaces four blocks for each.
    """
    shuffled, times = rng.permutation(count), _WARMTH * count
    slot = rng.integers(0, count, times)
    found = _previous_in_slot(slot, shuffled, count)
    block = count + np.arange(times)
    calls = joined([frees(found), mallocs(block, law.draw(rng, times))])
    calls = calls.sorted(np.concatenate([2 * np.arange(times), 2 * np.arange(times) + 1]))
    slots = shuffled.copy()
    slots[slot] = block  # of several for one slot the last stays
    return slots, joined([mallocs(np.arange(count), law.draw(rng, count)), calls])


def _lineage(found: Numbers, made: Rows, who: Numbers, operations: int) -> Rows:
    """Return free, malloc, free, malloc ..., and the end of each thread after its share."""
    count = len(found)
    place = np.arange(count)
    ends = np.arange(operations - 1, count, operations)
    owned = Rows(made.op, made.block, made.size, who.astype(np.uint32), made.site)
    together = joined([frees(found, who), owned, thread_exits(who[ends])])
    return together.sorted(np.concatenate([3 * place, 3 * place + 1, 3 * ends + 2]))
