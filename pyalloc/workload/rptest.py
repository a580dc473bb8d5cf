"""rpmalloc's benchmark."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Final, Literal

import numpy as np

from pyalloc.errors import ArgumentError
from pyalloc.trace import Op, Trace
from pyalloc.workload.sizes import SizeLaw, parse_sizes
from pyalloc.workload.writer import Writer, check

_FEWEST, _MOST = 30, 99  # per cent of the operations that a round makes
_FREED: Final = 0.8  # frees for each allocation
_ROUNDS: Final = 2  # over all loops
_POINTER, _SET = 8, 32  # bytes of a pointer, and of the head of a set of blocks
_SMALL: Final = 4096  # below it two blocks of three are aligned, to 8 or 16 bytes

Set = tuple[int, int, list[int]]
"""Blocks that are handed on: their head, the table of their pointers, and the blocks."""


def rptest(
    threads: int = 4,
    loops: int = 100,
    blocks: int = 1000,
    operations: int = 100,
    sizes: str | int | SizeLaw = "8-16000",
    dropoff: Literal["even", "linear", "exp"] = "linear",
    cross: int = 2,
    seed: int = 0,
) -> Trace:
    """Return rpmalloc's benchmark: strides through sets of blocks, handed around.

    Parameters
    ----------
    threads
        Threads; each hands sets of blocks to the others in turn.
    loops
        Loops a thread makes, twice.  In each it frees blocks, frees the sets that it was handed,
        then fills as many places, and frees what it finds there.
    blocks
        Places for blocks a thread has.
    operations
        Places filled in a loop are 30 to 99 per cent of this; those freed are four fifths of that.
    sizes
        Request sizes.
    dropoff
        ``even`` leaves them as they are, ``linear`` and ``exp`` make small ones more frequent.
    cross
        Every so many loops a set of blocks is made and handed on; 0 is never.
    seed
        Seed of the generator.
    """
    check(threads=threads, loops=loops, blocks=blocks, operations=operations)
    if dropoff not in ("even", "linear", "exp") or cross < 0:
        message = f"dropoff must be even, linear or exp, cross 0 or more (got {dropoff!r}, {cross})"
        raise ArgumentError(message)
    rng, out = np.random.default_rng(seed), Writer()
    amounts = rng.integers(_FEWEST, _MOST + 1, (_ROUNDS * loops, 2))
    frees_, fills = (amounts * (operations * _FREED / 100, operations / 100)).astype(int).T.tolist()
    draw = _sizes(parse_sizes(sizes), dropoff, rng)
    running = [_Worker(i, threads, blocks, out, draw) for i in range(threads)]
    for turn in range(_ROUNDS):
        for loop in range(turn * loops, (turn + 1) * loops):
            for one in running:
                hands_on = cross and threads > 1 and (loop - turn * loops) % cross == 0
                one.loop(frees_[loop], fills[loop], running if hands_on else ())
        for one in running:
            one.free_sets()
        for one in running:
            one.free_places()
    for one in running:
        one.end()
    return out.rows().trace("rptest")


def _sizes(law: SizeLaw, dropoff: str, rng: np.random.Generator) -> Iterator[int]:
    """Yield sizes for ever."""
    least = None
    while True:
        drawn = law.draw(rng, 1 << 14).astype(np.int64)
        least = int(drawn.min()) if least is None else min(least, int(drawn.min()))
        weight = rng.random((2, len(drawn)))
        part = {
            "even": np.ones(len(drawn)),
            "linear": np.abs(weight.sum(axis=0) - 1),
            "exp": weight.prod(axis=0),
        }[dropoff]
        yield from (least + ((drawn - least) * part).astype(np.int64)).tolist()


def _strides(blocks: int) -> tuple[int, int]:
    """Return the first primes, from 7 on, that reach all of so many places."""
    primes = (n for n in count(7) if all(n % k for k in range(2, int(n**0.5) + 1)))
    found = (prime for prime in primes if blocks % prime)
    return next(found), next(found)


class _Worker:
    """One thread of rptest."""

    def __init__(
        self, index: int, threads: int, blocks: int, out: Writer, draw: Iterator[int]
    ) -> None:
        self.thread = 1 + index
        self.handed: list[Set] = []
        self._out = out
        self._draw = draw
        self._index, self._threads = index, threads
        self._next = 0
        self._table = out.malloc(_POINTER * blocks, self.thread)
        self._places = [-1] * blocks
        self._fill_stride, self._free_stride = _strides(blocks)
        self._free_at = self._fill_at = self._made = 0

    def _block(self) -> int:
        size = next(self._draw)
        self._made += 1
        aligned = size < _SMALL and self._made % 3  # to 8 or 16: malloc as it is
        return self._out.malloc(size, self.thread, Op.MALLOC if aligned else Op.CALLOC)

    def loop(self, frees_: int, fills: int, others: list[_Worker] | tuple[()]) -> None:
        """Make the calls of one loop; with ``others``, hand a set of blocks to one of them."""
        places, out = self._places, self._out
        for _ in range(frees_):
            self._empty(self._free_at)
            self._free_at = (self._free_at + self._free_stride) % len(places)
        self.free_sets()
        for _ in range(fills):
            self._empty(self._fill_at)
            places[self._fill_at] = self._block()
            self._fill_at = (self._fill_at + self._fill_stride) % len(places)
        if others:
            head = out.malloc(_SET, self.thread)
            table = out.malloc(_POINTER * fills, self.thread)
            self._hand_on(others, (head, table, [self._block() for _ in range(fills)]))

    def _hand_on(self, others: list[_Worker], made: Set) -> None:
        self._next = (self._next + 1) % self._threads
        if self._next == self._index:
            self._next = (self._next + 1) % self._threads
        others[self._next].handed.append(made)

    def _empty(self, place: int) -> None:
        if self._places[place] >= 0:
            self._out.free(self._places[place], self.thread)
            self._places[place] = -1

    def free_sets(self) -> None:
        """Free the sets that others have handed over, the newest first."""
        while self.handed:
            head, table, blocks = self.handed.pop()
            for block in (*blocks, table, head):
                self._out.free(block, self.thread)

    def free_places(self) -> None:
        """Free all blocks of its own."""
        for place in range(len(self._places)):
            self._empty(place)

    def end(self) -> None:
        """Free the table of places and end."""
        self._out.free(self._table, self.thread)
        self._out.end(self.thread)
