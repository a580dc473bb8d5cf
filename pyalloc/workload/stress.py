"""The stress tests of the field, as sequences of calls.

Malloc implementations are compared by the programs below.  What matters of each is who allocates
what, in which order it is freed, and by whom; that is what these traces hold.  Time is not in them:
threads take turns, one call each, unless a test says how they wait for each other.  Tables of
random numbers in the originals are replaced by draws from PCG64.

===================  =============================================================================
``larson``           a server: a thread replaces random blocks of its set, ends, and leaves the set
                     to a new thread (Larson and Krishnan, "Memory Allocation for Long-Running
                     Server Applications", ISMM 1998)
``sh6bench``         blocks of 1 to 1000 bytes, small ones most often, through a ring of which a
                     moving fifth survives each round; the rest is freed in order below it and in
                     reverse above it (MicroQuill SmartHeap benchmark 6)
``sh8bench``         the same with sizes in random order, and part of the blocks freed by another
                     thread (benchmark 8)
``cache_scratch``    each thread frees an object that the main thread allocated, then allocates and
                     frees one of that size over and over (Hoard, passive false sharing)
``cache_thrash``     the same without that object (Hoard, active false sharing)
``xmalloc``          producers allocate batches, consumers free them (Lever and Boreham, "malloc()
                     Performance in a Multithreaded Linux Environment", FREENIX 2000)
``threadtest``       each thread allocates many blocks of one size, frees them all, and again
                     (Hoard)
``mstress``          threads keep some blocks, free some at random, and swap some with other threads
                     through a table (mimalloc)
``rptest``           threads free and allocate in strides through their sets, and hand sets of
                     blocks to each other to be freed (rpmalloc)
===================  =============================================================================
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from pyalloc.errors import ArgumentError
from pyalloc.trace import NULL_BLOCK, Op, Trace
from pyalloc.workload.rows import Rows, frees, interleaved, joined, mallocs, rows, thread_exits
from pyalloc.workload.sizes import SizeLaw, parse_sizes

Numbers = npt.NDArray[np.int64]


def _check(**values: int) -> None:
    for name, value in values.items():
        if not 1 <= value < 1 << 31:
            message = f"{name} must be 1 to 2147483647 (got {value!r})"
            raise ArgumentError(message)


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


# --- larson


def larson(
    threads: int = 4,
    blocks: int = 1000,
    sizes: str | int | SizeLaw = "8-1000",
    operations: int = 10_000,
    generations: int = 10,
    seed: int = 0,
) -> Trace:
    """Return larson, a server: random blocks replaced, handed from thread to thread.

    Parameters
    ----------
    threads
        Threads at a time.
    blocks
        Blocks each of them keeps.
    sizes
        Request sizes.
    operations
        Blocks a thread replaces (a free and a malloc each) before it ends.
    generations
        How often a set of blocks goes from a thread to the next.
    seed
        Seed of the generator.
    """
    _check(threads=threads, blocks=blocks, operations=operations, generations=generations)
    law, rng = parse_sizes(sizes), np.random.default_rng(seed)
    initial = np.arange(threads * blocks)
    warm_up = mallocs(initial, law.draw(rng, len(initial)))
    replaced = operations * generations
    parts = []
    for lineage in range(threads):
        own = rng.permutation(initial[lineage * blocks : (lineage + 1) * blocks])
        slot = rng.integers(0, blocks, replaced)
        base = len(initial) + lineage * replaced
        found = _previous_in_slot(slot, own, base)
        made = mallocs(base + np.arange(replaced), law.draw(rng, replaced))
        who = 1 + lineage + threads * (np.arange(replaced) // operations)
        parts.append(_lineage(found, made, who, operations))
    return joined([warm_up, interleaved(parts)]).trace("larson")


def _lineage(found: Numbers, made: Rows, who: Numbers, operations: int) -> Rows:
    """Return free, malloc, free, malloc ..., and the end of each thread after its share."""
    count = len(found)
    place = np.arange(count)
    ends = np.arange(operations - 1, count, operations)
    owned = Rows(made.op, made.block, made.size, who.astype(np.uint32), made.site)
    together = joined([frees(found, who), owned, thread_exits(who[ends])])
    return together.sorted(np.concatenate([3 * place, 3 * place + 1, 3 * ends + 2]))


# --- the SmartHeap benchmarks


def _histogram(smallest: int, largest: int) -> Numbers:
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


def _ring(size: Numbers, ring: int, thread: int, base: int) -> Rows:
    """Return the calls that pass blocks of the given sizes through a ring of pointers."""
    kept = np.empty(0, np.int64)  # the fifth that survives, and where it lies
    start = end = ring
    parts: list[Rows] = []
    made = 0
    while made < len(size):
        slots = np.concatenate([np.arange(start), np.arange(end, ring)])
        count = min(len(slots), len(size) - made)
        block = base + made + np.arange(count)
        parts.append(mallocs(block, size[made : made + count], thread))
        made += count
        held = np.full(ring, -1)
        held[start:end] = kept
        held[slots[:count]] = block
        if count < len(slots):
            left = held[held >= 0]
            parts.append(frees(left, thread))
            return joined(parts)
        start = 0 if end >= ring else end
        end = min(start + ring // 5, ring)
        parts.append(frees(np.concatenate([held[:start], held[end:][::-1]]), thread))
        kept = held[start:end]
    parts.append(frees(kept, thread))
    return joined(parts)


def sh6bench(
    threads: int = 1,
    ring: int = 1000,
    passes: int = 10,
    smallest: int = 1,
    largest: int = 1000,
    seed: int = 0,
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
    seed
        Takes no effect: the sequence has nothing random.
    """
    del seed
    _check(threads=threads, ring=ring, passes=passes, smallest=smallest, largest=largest)
    sizes = np.tile(_histogram(smallest, largest), passes)
    first = 0 if threads == 1 else 1  # one thread is the main thread
    parts = [_ring(sizes, ring, first + i, i * len(sizes)) for i in range(threads)]
    return interleaved(parts).trace("sh6bench")


def sh8bench(
    threads: int = 4,
    ring: int = 1000,
    passes: int = 10,
    smallest: int = 1,
    largest: int = 1000,
    foreign: float = 0.1,
    seed: int = 0,
) -> Trace:
    """Return SmartHeap's benchmark 8: the same in threads, part freed by others.

    Parameters
    ----------
    threads, ring, passes, smallest, largest
        As in :func:`sh6bench`; the sizes of each pass come in random order.
    foreign
        Share of the blocks that another thread frees.
    seed
        Seed of the generator.
    """
    _check(threads=threads, ring=ring, passes=passes, smallest=smallest, largest=largest)
    if not 0 <= foreign <= 1:
        message = f"foreign must be 0 to 1 (got {foreign!r})"
        raise ArgumentError(message)
    rng = np.random.default_rng(seed)
    one = _histogram(smallest, largest)
    parts = []
    for i in range(threads):
        sizes = np.concatenate([rng.permutation(one) for _ in range(passes)])
        parts.append(_ring(sizes, ring, 1 + i, i * len(sizes)))
    together = interleaved(parts)
    others = (together.op == Op.FREE) & (rng.random(len(together)) < foreign)
    step = rng.integers(1, max(threads, 2), len(together))
    another = 1 + (together.thread - 1 + step) % threads
    thread = np.where(others, another, together.thread).astype(np.uint32)
    return Rows(together.op, together.block, together.size, thread, together.site).trace("sh8bench")


# --- false sharing


def _again_and_again(thread: int, size: int, times: int, base: int) -> Rows:
    """Return malloc, free, malloc, free ... of one size."""
    op = np.tile(np.array([Op.MALLOC, Op.FREE], np.uint8), times)
    return rows(op, base + np.repeat(np.arange(times), 2), size * (op == Op.MALLOC), thread)


def cache_scratch(
    threads: int = 4, size: int = 8, repetitions: int = 10_000, seed: int = 0
) -> Trace:
    """Return Hoard's cache-scratch: passive false sharing.

    Parameters
    ----------
    threads
        Threads, each of which is given a block by the main thread.
    size
        Bytes of every block.
    repetitions
        How often each thread allocates and frees.
    seed
        Takes no effect: nothing in it is random.
    """
    del seed
    _check(threads=threads, size=size, repetitions=repetitions)
    given = np.arange(threads)
    parts = [
        joined(
            [
                frees(given[i : i + 1], 1 + i),
                _again_and_again(1 + i, size, repetitions, threads + i * repetitions),
                thread_exits([1 + i]),
            ]
        )
        for i in range(threads)
    ]
    return joined([mallocs(given, size), interleaved(parts)]).trace("cache_scratch")


def cache_thrash(
    threads: int = 4, size: int = 8, repetitions: int = 10_000, seed: int = 0
) -> Trace:
    """Return Hoard's cache-thrash: active false sharing.

    Parameters
    ----------
    threads
        Threads.
    size
        Bytes of every block.
    repetitions
        How often each thread allocates and frees.
    seed
        Takes no effect: nothing in it is random.
    """
    del seed
    _check(threads=threads, size=size, repetitions=repetitions)
    parts = [
        joined([_again_and_again(1 + i, size, repetitions, i * repetitions), thread_exits([1 + i])])
        for i in range(threads)
    ]
    return interleaved(parts).trace("cache_thrash")


# --- producers and consumers


def xmalloc(
    pairs: int = 2,
    batch: int = 4096,
    batches: int = 20,
    sizes: str | int | SizeLaw = "64",
    queue: int = 2,
    seed: int = 0,
) -> Trace:
    """Return xmalloc-test: producers allocate batches, consumers free them.

    Parameters
    ----------
    pairs
        Pairs of a producing and a consuming thread.
    batch
        Blocks a batch; the batch itself, a table of their pointers, is a block too.
    batches
        Batches that each producer makes.
    sizes
        Request sizes.
    queue
        Batches a producer is ahead of its consumer.
    seed
        Seed of the generator.
    """
    _check(pairs=pairs, batch=batch, batches=batches, queue=queue)
    law, rng = parse_sizes(sizes), np.random.default_rng(seed)
    each = batch + 1
    parts, times = [], []
    for i in range(pairs):
        block = i * batches * each + np.arange(batches * each)
        number, place = np.divmod(np.arange(len(block)), each)
        table = place == 0
        size = np.where(table, np.uint64(8 * batch), law.draw(rng, len(block)))
        made = mallocs(block, size, 1 + 2 * i)
        # the consumer frees what the table names, then the table
        freed = block[np.lexsort((table, number))]
        parts += [made, frees(freed, 2 + 2 * i)]
        times += [np.arange(len(block)), np.arange(len(block)) + queue * each]
    return joined(parts).sorted(np.concatenate(times)).trace("xmalloc")


def threadtest(
    threads: int = 4, iterations: int = 50, objects: int = 30_000, size: int = 8, seed: int = 0
) -> Trace:
    """Return Hoard's threadtest: each thread fills and frees, again and again.

    Parameters
    ----------
    threads
        Threads.
    iterations
        How often each of them allocates its objects and frees them all.
    objects
        Objects of an iteration, shared out among the threads.
    size
        Bytes of an object.
    seed
        Takes no effect: nothing in it is random.
    """
    del seed
    _check(threads=threads, iterations=iterations, objects=objects, size=size)
    own = max(objects // threads, 1)
    parts = []
    for i in range(threads):
        block = (i * iterations * own + np.arange(iterations * own)).reshape(iterations, own)
        calls = np.repeat(np.array([[Op.MALLOC, Op.FREE]], np.uint8), iterations, axis=0)
        op = np.repeat(calls.reshape(-1), own)
        both = np.concatenate([block, block], axis=1).reshape(-1)
        parts.append(rows(op, both, size * (op == Op.MALLOC), 1 + i))
    return interleaved(parts).trace("threadtest")


# --- mstress

_LONGEST: Final = 128  # words of a block that is not kept
_HUGE: Final = 100  # times larger is one block in fifty


class _Writer:
    """Rows written one at a time."""

    __slots__ = ("block", "count", "op", "size", "thread")

    def __init__(self) -> None:
        self.op: list[int] = []
        self.block: list[int] = []
        self.size: list[int] = []
        self.thread: list[int] = []
        self.count = 0

    def malloc(self, size: int, thread: int) -> int:
        block = self.count
        self.count += 1
        self._add(Op.MALLOC, block, size, thread)
        return block

    def free(self, block: int, thread: int) -> None:
        self._add(Op.FREE, block, 0, thread)

    def end(self, thread: int) -> None:
        self._add(Op.THREAD_EXIT, NULL_BLOCK, 0, thread)

    def _add(self, op: int, block: int, size: int, thread: int) -> None:
        self.op.append(op)
        self.block.append(block)
        self.size.append(size)
        self.thread.append(thread)

    def rows(self) -> Rows:
        return rows(
            np.array(self.op, np.uint8),
            np.array(self.block, np.int64),
            np.array(self.size, np.uint64),
            np.array(self.thread, np.uint32),
        )


def mstress(
    threads: int = 4, scale: int = 10, iterations: int = 2, transfers: int = 1000, seed: int = 0
) -> Trace:
    """Return mimalloc's stress test: some kept, some freed, some swapped by threads.

    Parameters
    ----------
    threads
        Threads at a time; all end before the next iteration begins.
    scale
        The n-th of them allocates 80 ``scale`` n blocks, and half as many, ten times larger, that
        it keeps until it ends.
    iterations
        How often this is done.
    transfers
        Places of the table through which blocks are swapped.
    seed
        Seed of the generator.
    """
    _check(threads=threads, scale=scale, iterations=iterations, transfers=transfers)
    rng, out = np.random.default_rng(seed), _Writer()
    table = [-1] * transfers
    for iteration in range(iterations):
        running = [
            _Stress(1 + iteration * threads + i, 80 * scale * (i % 8 + 1), rng)
            for i in range(threads)
        ]
        while running:
            for one in running:
                if not one.step(out, table):
                    one.finish(out)
            running = [one for one in running if one.alive]
    for block in table:
        if block >= 0:
            out.free(block, 0)
    return out.rows().trace("mstress")


class _Stress:
    """One thread of mstress."""

    def __init__(self, thread: int, allocations: int, rng: np.random.Generator) -> None:
        self.thread = thread
        self.left = allocations
        self.keep = allocations // 2
        self.data: list[int] = []
        self.kept: list[int] = []
        self.alive = True
        self._chances = iter(rng.random((2 * allocations + 64, 8)).tolist())
        self._rng = rng

    def step(self, out: _Writer, table: list[int]) -> bool:
        """Make the calls of one round; False when there is none left."""
        if not (self.left or self.keep):
            return False
        chance = next(self._chances, None) or self._rng.random(8).tolist()
        huge = _HUGE if chance[0] < 0.02 else 1
        if not self.keep or (self.left and chance[1] < 0.51):
            self.left -= 1
            words = int(chance[2] * _LONGEST) + 1
            self.data.append(out.malloc(8 * words * huge, self.thread))
        else:
            self.keep -= 1
            words = 10 * (int(chance[2] * 10 * _LONGEST) + 1)
            self.kept.append(out.malloc(8 * words * huge, self.thread))
        if self.data and chance[3] < 0.67:
            self._free_at(int(chance[4] * len(self.data)), out)
        if self.data and chance[5] < 0.26:
            here, there = int(chance[6] * len(self.data)), int(chance[7] * len(table))
            table[there], self.data[here] = self.data[here], table[there]
        return True

    def _free_at(self, place: int, out: _Writer) -> None:
        if self.data[place] >= 0:
            out.free(self.data[place], self.thread)
        self.data[place] = -1

    def finish(self, out: _Writer) -> None:
        """Free what is left and end."""
        for block in self.kept + self.data:
            if block >= 0:
                out.free(block, self.thread)
        out.end(self.thread)
        self.alive = False


# --- rptest

_FEWEST_CALLS: Final = 31
_MOST_CALLS: Final = 99


def rptest(
    threads: int = 4,
    loops: int = 500,
    blocks: int = 1000,
    sizes: str | int | SizeLaw = "8-16000",
    cross: int = 2,
    seed: int = 0,
) -> Trace:
    """Return rpmalloc's benchmark: strides through sets of blocks, handed around.

    Parameters
    ----------
    threads
        Threads; each hands blocks to the next.
    loops
        Rounds a thread makes; in each it frees 31 to 99 blocks, then fills as many places.
    blocks
        Places for blocks a thread has.
    sizes
        Request sizes.
    cross
        Every so many rounds a set of blocks is made and handed on; 0 is never.
    seed
        Seed of the generator.
    """
    _check(threads=threads, loops=loops, blocks=blocks)
    law, rng, out = parse_sizes(sizes), np.random.default_rng(seed), _Writer()
    most = threads * loops * _MOST_CALLS * 2
    draw = iter(law.draw(rng, most).tolist())
    calls = rng.integers(_FEWEST_CALLS, _MOST_CALLS + 1, (loops, threads, 3)).tolist()
    places = [[-1] * blocks for _ in range(threads)]
    handed: list[list[int]] = [[] for _ in range(threads)]
    strides = _strides(blocks)
    for loop in range(loops):
        for i in range(threads):
            for block in handed[i]:
                out.free(block, 1 + i)
            handed[i] = []
            frees_, fills, given = calls[loop][i]
            _stride_free(places[i], loop, frees_, strides[0], out, 1 + i)
            _stride_fill(places[i], loop, fills, strides[1], out, 1 + i, draw)
            if cross and loop % cross == 0:
                new = [out.malloc(next(draw), 1 + i) for _ in range(given)]
                handed[(i + 1) % threads] += new
    for i in range(threads):
        for block in handed[i] + places[i]:
            if block >= 0:
                out.free(block, 1 + i)
        out.end(1 + i)
    return out.rows().trace("rptest")


def _strides(blocks: int) -> tuple[int, int]:
    """Return two strides that reach every place: coprime to ``blocks``, near a third and a half."""
    found = []
    for near in (blocks // 3, blocks // 2):
        step = max(near, 1)
        while np.gcd(step, blocks) != 1:
            step += 1
        found.append(step)
    return found[0], found[1]


def _stride_free(
    places: list[int], loop: int, count: int, stride: int, out: _Writer, thread: int
) -> None:
    for k in range(count):
        at = (loop * _MOST_CALLS + k) * stride % len(places)
        if places[at] >= 0:
            out.free(places[at], thread)
            places[at] = -1


def _stride_fill(
    places: list[int],
    loop: int,
    count: int,
    stride: int,
    out: _Writer,
    thread: int,
    draw: Iterator[int],
) -> None:
    for k in range(count):
        at = (loop * _MOST_CALLS + k) * stride % len(places)
        if places[at] < 0:
            places[at] = out.malloc(next(draw), thread)


__all__ = [
    "cache_scratch",
    "cache_thrash",
    "larson",
    "mstress",
    "rptest",
    "sh6bench",
    "sh8bench",
    "threadtest",
    "xmalloc",
]
