"""mimalloc's stress test."""

from __future__ import annotations

from typing import Final

import numpy as np

from pyalloc.trace import Trace
from pyalloc.workload.writer import Writer, check

_WORD: Final = 8
_SIZES: Final = 5  # powers of two words, 1 to 16, of a block that is not kept
_KEPT_SIZES: Final = 7  # 1 to 64
_ROOM: Final = 100_000  # entries by which the table of a thread grows
_MOST_LOADS: Final = 8  # threads do from one to eight times the work
_DRAWS: Final = 10  # a round needs at most


def mstress(
    threads: int = 4, scale: int = 10, iterations: int = 2, transfers: int = 1000, seed: int = 0
) -> Trace:
    """Return mimalloc's stress test: some kept, some freed, some swapped by threads.

    Blocks have powers of two words, two in a hundred of them 100 times as many, and of these some
    1,000 or 10,000 times.  Between two iterations half of what lies in the table of swapped
    blocks is freed.

    Parameters
    ----------
    threads
        Threads at a time, the main thread among them; the others end before the next iteration.
    scale
        The n-th of every eight threads allocates 100 ``scale`` n blocks, and half as many more,
        larger ones, that it keeps until it ends.
    iterations
        How often this is done.
    transfers
        Places of the table through which blocks are swapped.
    seed
        Seed of the generator.
    """
    check(threads=threads, scale=scale, iterations=iterations, transfers=transfers)
    rng, out = np.random.default_rng(seed), Writer()
    table = [-1] * transfers
    for iteration in range(iterations):
        running = [
            _Stress(i and i + iteration * (threads - 1), 100 * scale * (i % _MOST_LOADS + 1), rng)
            for i in range(threads)
        ]
        for one in running:
            one.begin(out)
        while running:
            for one in running:
                if not one.step(out, table):
                    one.finish(out)
            running = [one for one in running if one.alive]
        last = iteration + 1 == iterations
        for place in np.flatnonzero((rng.random(transfers) < _chance(50)) | last).tolist():
            if table[place] >= 0:
                out.free(table[place], 0)
                table[place] = -1
    return out.rows().trace("mstress")


def _chance(percent: int) -> float:
    """Return the probability of a draw from 0 to 99 that may be as large as ``percent``."""
    return (percent + 1) / 100


_LARGE: Final = _chance(1)
_GIANT: Final = _LARGE * _chance(1)  # 10,000 times
_HUGE: Final = _GIANT + (_LARGE - _GIANT) * _chance(10)  # 1,000 times


def _times(draw: float) -> int:
    """Return how many times larger a block becomes."""
    if draw >= _LARGE:
        return 1
    return 10_000 if draw < _GIANT else 1_000 if draw < _HUGE else 100


class _Stress:
    """One thread of mstress."""

    def __init__(self, thread: int, allocations: int, rng: np.random.Generator) -> None:
        self.thread = thread
        self.left = allocations
        self.keep = allocations // 2
        self.data: list[int] = []
        self.kept: list[int] = []
        self.alive = True
        self._tables: list[int] = []
        self._draws = iter(rng.random((allocations + allocations // 2, _DRAWS)).tolist())

    def begin(self, out: Writer) -> None:
        """Make the table of blocks that are kept."""
        self._tables.append(out.malloc(_WORD * self.keep, self.thread))

    def step(self, out: Writer, table: list[int]) -> bool:
        """Make the calls of one round; False when there is none left."""
        if not (self.left or self.keep):
            return False
        draw = next(self._draws)
        if not self.keep or (self.left and draw[1] < _chance(50)):
            self.left -= 1
            self._make_room(out)
            words = (1 << int(draw[2] * _SIZES)) * _times(draw[0])
            self.data.append(out.malloc(_WORD * words, self.thread))
        else:
            self.keep -= 1
            words = (1 << int(draw[2] * _KEPT_SIZES)) * _times(draw[0])
            self.kept.append(out.malloc(_WORD * words, self.thread))
        if self.data and draw[3] < _chance(66):
            self._free_at(int(draw[4] * len(self.data)), out)
        if self.data and draw[5] < _chance(25):
            here, there = int(draw[6] * len(self.data)), int(draw[7] * len(table))
            table[there], self.data[here] = self.data[here], table[there]
        return True

    def _make_room(self, out: Writer) -> None:
        """Let the table of blocks that are not kept grow where it is full."""
        if len(self.data) % _ROOM:
            return
        if not self.data:
            self._tables.append(out.malloc(_WORD * _ROOM, self.thread))
        else:
            out.realloc(self._tables[1], _WORD * (len(self.data) + _ROOM), self.thread)

    def _free_at(self, place: int, out: Writer) -> None:
        if self.data[place] >= 0:
            out.free(self.data[place], self.thread)
        self.data[place] = -1

    def finish(self, out: Writer) -> None:
        """Free what is left and end; the main thread goes on."""
        for block in self.kept + self.data + self._tables:
            if block >= 0:
                out.free(block, self.thread)
        if self.thread:
            out.end(self.thread)
        self.alive = False
