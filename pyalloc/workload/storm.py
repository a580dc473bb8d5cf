"""Storms: every call there is, at every border, in any order.

Streams are what programs do; a storm is what a verification needs.  Sizes fall on the borders of
bins, caches and thresholds as often as between them, alignments need not be powers of two, requests
are larger than any memory, blocks are resized to nothing, the allocator is trimmed and tuned while
it runs, somebody else moves the break, and, where it is asked for, blocks are freed twice.

The same spec gives the same rows on every machine (PCG64).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from pyalloc.errors import ArgumentError
from pyalloc.nearest import nearest
from pyalloc.trace import NULL_BLOCK, Op, Trace, TraceInfo
from pyalloc.workload.sizes import SizeLaw, parse_sizes

ORDERS: Final = ("random", "lifo", "fifo")

_CALLS: Final = {
    Op.MALLOC: 30.0,
    Op.FREE: 38.0,
    Op.REALLOC: 12.0,
    Op.CALLOC: 7.0,
    Op.MEMALIGN: 3.0,
    Op.POSIX_MEMALIGN: 3.0,
    Op.ALIGNED_ALLOC: 3.0,
    Op.VALLOC: 1.0,
    Op.PVALLOC: 1.0,
    Op.MMAP: 0.3,
    Op.MUNMAP: 0.3,
}
"""Weights of the calls that each storm makes."""

_TUNING: Final = {Op.MALLOC_TRIM: 0.3, Op.MALLOPT: 0.3, Op.SBRK: 0.3}

_BORDERS: Final = (0, 8, 12, 16, 24, 64, 72, 80, 120, 128, 160, 504, 512, 1000, 1008, 1016)
_BORDERS_LARGE: Final = (1024, 1032, 1040, 3072, 4080, 4096, 8192, 65_536, 131_072, 262_144)
_PARAMETERS: Final = (1, -1, -2, -3, -4, -5, -6, -7, -8, -9, 77)
_BORDER_SHARE, _HUGE_SHARE = 0.25, 0.002
_MOST_SBRK: Final = 40_000
_LARGEST_MMAP_PAGES: Final = 600
_RECENT: Final = 10
_REASON, _BEYOND = 26, 41  # shifts: 64 MiB can be had and filled, 2 TiB cannot be had


@dataclass(frozen=True, slots=True, kw_only=True)
class StormSpec:
    """Everything that decides a storm; equal specs give equal traces.

    Attributes
    ----------
    order
        Which live block is freed: one of :data:`ORDERS`.
    sizes
        Distribution of the sizes between borders, as :func:`~pyalloc.workload.sizes.parse_sizes`
        takes it.
    count, live, seed
        Number of calls; blocks alive at a time; seed of the generator.
    word
        Bytes of a pointer, which decides what is larger than any memory.
    tuning
        Whether there are malloc_trim, mallopt and other people's sbrk.
    misuse
        How many blocks are freed that are free already, each one of the last ten that were freed.
    """

    order: str = "random"
    sizes: str | int | SizeLaw = "mixed"
    count: int = 10_000
    live: int = 100
    seed: int = 0
    word: int = 8
    tuning: bool = True
    misuse: int = 0

    def __post_init__(self) -> None:
        if self.order not in ORDERS:
            message = f"no order {self.order!r}{nearest(self.order, ORDERS)}"
            raise ArgumentError(message)
        if self.word not in (4, 8):
            message = f"word must be 4 or 8 bytes (got {self.word!r})"
            raise ArgumentError(message)
        for name, least in (("count", 0), ("live", 1), ("seed", 0), ("misuse", 0)):
            if getattr(self, name) < least:
                message = f"{name} must be {least} or more (got {getattr(self, name)})"
                raise ArgumentError(message)
        parse_sizes(self.sizes)

    def make(self) -> Trace:
        """Return the trace."""
        rows = list(_Storm(self).rows())
        columns = list(zip(*rows, strict=True)) if rows else [()] * 4
        return Trace.from_arrays(
            *(np.array(column, np.uint64) for column in columns), info=TraceInfo(source="storm")
        )


Row = tuple[int, int, int, int]


class _Storm:
    """A storm being made: what is drawn beforehand, and which blocks are alive."""

    def __init__(self, spec: StormSpec) -> None:
        calls, sizes, others = np.random.default_rng(spec.seed).spawn(3)
        self.spec = spec
        self.mask = (1 << 8 * spec.word) - 1
        weights = _CALLS | (_TUNING if spec.tuning else {})
        share = np.array(list(weights.values())) / sum(weights.values())
        self.op = calls.choice(np.array(list(weights)), spec.count, p=share).tolist()
        self.size = self._sizes(sizes).tolist()
        self.pick: list[list[int]] = others.integers(0, 1 << 62, (2, spec.count)).tolist()
        again = others.choice(spec.count, min(spec.misuse, spec.count), replace=False)
        self.again = set(again.tolist())
        self.live: list[int] = []
        self.dead: list[int] = []
        self.mapped: list[tuple[int, int]] = []
        self.blocks = 0

    def _sizes(self, rng: np.random.Generator) -> npt.NDArray[np.uint64]:
        """Draw sizes: between borders, at them and beside them, and now and then far too large."""
        count = self.spec.count
        sizes = parse_sizes(self.spec.sizes).draw(rng, count)
        borders = np.array(_BORDERS + _BORDERS_LARGE, np.int64)
        at_border = np.maximum(rng.choice(borders, count) + rng.integers(-9, 10, count), 0)
        sizes = np.where(rng.random(count) < _BORDER_SHARE, at_border.astype(np.uint64), sizes)
        # within two pages of SIZE_MAX, and of PTRDIFF_MAX where that cannot be had, either
        near = rng.integers(0, 8192, count).astype(np.uint64)
        half = np.uint64(self.mask // 2)
        half_way = half - near if self.spec.word == 8 else half + np.uint64(1) + near
        huge = np.where(rng.random(count) < 0.5, np.uint64(self.mask) - near, half_way)
        return np.where(rng.random(count) < _HUGE_SHARE, huge, sizes)

    def rows(self) -> Iterator[Row]:
        """Yield op, block, size and arg of each call."""
        for row in range(self.spec.count):
            if row in self.again and self.dead:
                back = 1 + self.pick[0][row] % min(len(self.dead), _RECENT)
                yield Op.FREE, self.dead[-back], 0, 0
                continue
            yield self._row(row, Op(self.op[row]))

    def _row(self, row: int, op: Op) -> Row:
        special = _SPECIAL.get(op)
        if special is not None and (made := special(self, row)) is not None:
            return made
        if len(self.live) >= 2 * self.spec.live:
            return self._free(row) or (Op.FREE, NULL_BLOCK, 0, 0)
        if op in _SPECIAL:
            op = Op.MALLOC
        self.blocks += 1
        self.live.append(self.blocks - 1)
        arg = self._alignment(row) if op in _ALIGNED else 0
        return op, self.blocks - 1, self.size[row], arg

    def _alignment(self, row: int) -> int:
        """Return an alignment: mostly a power of two, some of nothing, some beyond reason."""
        kind, value = self.pick[0][row] % 100, self.pick[1][row]
        if kind < 80:
            return 1 << value % 15
        if kind < 90:
            return int(value % 5000)
        shift = value % (8 * self.spec.word)
        return 1 << (shift if shift < _REASON or shift >= _BEYOND else shift % _REASON)

    def _free(self, row: int) -> Row | None:
        if not self.live:
            return None
        pick = self.pick[0][row]
        if pick % 500 == 0:
            return Op.FREE, NULL_BLOCK, 0, 0
        at = {"random": pick % len(self.live), "lifo": -1, "fifo": 0}[self.spec.order]
        self.dead.append(self.live.pop(at))
        return Op.FREE, self.dead[-1], 0, 0

    def _realloc(self, row: int) -> Row | None:
        if not self.live:
            return None
        at = self.pick[0][row] % len(self.live)
        block = self.live[at]
        size = self.size[row] if self.pick[1][row] % 50 else 0
        if not size:  # frees it
            self.dead.append(self.live.pop(at))
        return Op.REALLOC, block, size, 0

    def _trim(self, row: int) -> Row:
        return Op.MALLOC_TRIM, NULL_BLOCK, (0, 0, 4096, 100_000)[self.pick[0][row] % 4], 0

    def _tune(self, row: int) -> Row:
        parameter = _PARAMETERS[self.pick[0][row] % len(_PARAMETERS)]
        kind, value = self.pick[1][row] % 10, self.pick[1][row] // 10
        if kind < 6:
            setting = value % 200
        elif kind < 9:
            setting = value % (1 << 20)
        else:
            setting = -1 - value % 100
        return Op.MALLOPT, NULL_BLOCK, setting & (1 << 64) - 1, parameter & (1 << 64) - 1

    def _sbrk(self, row: int) -> Row:
        step = self.pick[0][row] % _MOST_SBRK
        return Op.SBRK, NULL_BLOCK, step & -4096 if self.pick[1][row] % 2 else step, 0

    def _mmap(self, row: int) -> Row:
        size = 4096 * (1 + self.pick[0][row] % _LARGEST_MMAP_PAGES)
        self.blocks += 1
        self.mapped.append((self.blocks - 1, size))
        return Op.MMAP, self.blocks - 1, size, 0

    def _munmap(self, row: int) -> Row | None:
        if not self.mapped:
            return None
        block, size = self.mapped.pop(self.pick[0][row] % len(self.mapped))
        return Op.MUNMAP, block, size, 0


_ALIGNED: Final = frozenset({Op.MEMALIGN, Op.POSIX_MEMALIGN, Op.ALIGNED_ALLOC})
_SPECIAL: Final[dict[Op, Callable[[_Storm, int], Row | None]]] = {
    Op.FREE: _Storm._free,  # noqa: SLF001 - the table is the storm's own
    Op.REALLOC: _Storm._realloc,  # noqa: SLF001
    Op.MALLOC_TRIM: _Storm._trim,  # noqa: SLF001
    Op.MALLOPT: _Storm._tune,  # noqa: SLF001
    Op.SBRK: _Storm._sbrk,  # noqa: SLF001
    Op.MMAP: _Storm._mmap,  # noqa: SLF001
    Op.MUNMAP: _Storm._munmap,  # noqa: SLF001
}
