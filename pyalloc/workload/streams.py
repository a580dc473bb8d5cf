"""Generated traces: who lives how long, how large, and how many at a time.

A stream is an experiment's independent variable, so each part of it can be varied alone:

*order* (``kind``)
    Which block is freed next.  ``random``, ``lifo``, ``fifo``, ``largest`` and ``smallest`` make
    **the same calls at the same rows with the same sizes** for one seed; only the blocks their
    frees name differ.  Whatever differs between their results is therefore the order's doing.
*sizes*
    A distribution written as text, such as ``"1-4000"`` (uniform) or ``"pareto:1.2:16-1M"``, or
    learnt from a trace; see :mod:`pyalloc.workload.sizes`.
*live*
    How many blocks are alive at a time.

========================  ========================================================================
kind                      lifetimes
========================  ========================================================================
``random``                each free takes any live block, all as likely (memoryless)
``lifo``                  each free takes the youngest live block, as a stack does
``fifo``                  each free takes the oldest live block, as a queue does
``largest``               each free takes the largest live block
``smallest``              each free takes the smallest live block
``exponential``           drawn at birth from an exponential law of mean ``live`` allocations; the
                          number alive starts at 0 and approaches ``live``
``generational``          nine in ten die within ``live`` / 100 allocations on average, the tenth
                          lives 9.91 ``live``: the weak generational hypothesis with mean ``live``
``bursts``                requests of ``live`` / 8 blocks; at the end of each, seven in eight die
                          in random order and the others live on, 64 requests on average
``phases``                ``live`` blocks are made, then 19 in 20 die in random order; the
                          survivors die at the end of the next phase
``sorted``                phases whose blocks are made in the order in which they die, so that what
                          dies together lies together and the survivors lie at the end
``comb``                  rounds of blocks of which every other one dies at once, each round with
                          the sizes of the one before doubled, so that no hole fits the next
                          (after Robson's worst case for first fit); begins again after 10 rounds
``pins``                  rounds of blocks of which every other one is a small one of 24 bytes; the
                          others die at once and the small ones a round later, so that the heap
                          keeps the size of a whole round when hardly a byte of it is in use
========================  ========================================================================

Random streams flatter allocators: real programs free in groups (Wilson et al., "Dynamic Storage
Allocation", IWMM'95), which is what ``bursts`` and ``phases`` are for.  ``random`` is also the
slot scheme of most published malloc benchmarks: draw one of 2 x ``live`` slots, free what is in
it or else fill it.  ``comb`` and ``pins`` are meant for blocks of one size, such as ``"64"`` and
``"4000"``; ``comb`` has it in its first round.

Every block has its own number and is freed at most once; the same spec gives the same rows on
every machine (PCG64).
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from pyalloc.errors import ArgumentError
from pyalloc.nearest import nearest
from pyalloc.trace import Op, Trace, TraceInfo
from pyalloc.trace.ops import ALIGNS
from pyalloc.workload.sizes import SIZES, SizeLaw, parse_sizes

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    Numbers = npt.NDArray[np.int64]
    Bytes = npt.NDArray[np.uint64]
    Reals = npt.NDArray[np.float64]

__all__ = ["KINDS", "SIZES", "SizeLaw", "StreamSpec", "parse_sizes", "stream"]

_ROWS: Final = 1 << 31

_YOUNG_SHARE: Final = 0.9
_YOUNG_MEAN: Final = 0.01  # of `live`
_OLD_MEAN: Final = (1 - _YOUNG_SHARE * _YOUNG_MEAN) / (1 - _YOUNG_SHARE)
_BURSTS_LIVED: Final = 64
_PHASE_SURVIVORS: Final = 0.05
_COMB_ROUNDS: Final = 10
_PIN_ROUNDS: Final = 2
_PIN: Final = 24  # bytes: the largest request that the smallest chunk of a 64-bit ptmalloc holds

_CALLS: Final = {
    Op.MALLOC: 0.70,
    Op.CALLOC: 0.15,
    Op.MEMALIGN: 0.05,
    Op.POSIX_MEMALIGN: 0.04,
    Op.ALIGNED_ALLOC: 0.03,
    Op.VALLOC: 0.015,
    Op.PVALLOC: 0.015,
}
_MOVED: Final = 0.2  # share of the blocks that are reallocated once


# --- orders: the block each row is about, and whether the row frees it


@dataclass(frozen=True, slots=True)
class _Calls:
    """Rows without sizes: a block's first row allocates it, its second one frees it."""

    block: Numbers
    frees: npt.NDArray[np.bool_]


def _rank_in_group(group: Numbers) -> tuple[Numbers, Numbers]:
    """Return the stable order that sorts ``group``, and each row's number within its group."""
    order = np.argsort(group, kind="stable")
    ordered = group[order]
    place = np.arange(len(group))
    first = np.zeros(len(group), np.int64)
    np.multiply(ordered[1:] != ordered[:-1], place[1:], out=first[1:])
    rank = np.empty(len(group), np.int64)
    rank[order] = place - np.maximum.accumulate(first)
    return order, rank


def _slots(rng: np.random.Generator, count: int, live: int) -> Numbers:
    """Return the slot that each row toggles; the first ``live`` rows fill half of all slots."""
    filled = rng.permutation(2 * live)[: min(live, count)]
    drawn = rng.integers(0, 2 * live, count - len(filled))
    return np.concatenate([filled, drawn]).astype(np.int32)


def _match(order: Numbers, frees: npt.NDArray[np.bool_]) -> Numbers:
    """Return each row's block: in ``order``, which sorts by group, frees follow allocations."""
    block = np.cumsum(~frees) - 1
    ordered = block[order]
    is_free = np.flatnonzero(frees[order])
    ordered[is_free] = ordered[is_free - 1]
    block[order] = ordered
    return block


def _random(rng: np.random.Generator, count: int, live: int) -> _Calls:
    order, rank = _rank_in_group(_slots(rng, count, live))
    frees = rank % 2 == 1
    return _Calls(_match(order, frees), frees)


def _lifo(rng: np.random.Generator, count: int, live: int) -> _Calls:
    _, rank = _rank_in_group(_slots(rng, count, live))
    frees = rank % 2 == 1
    depth = np.cumsum(np.where(frees, -1, 1))
    order = np.argsort(depth + frees, kind="stable")  # a push and its pop are at one depth
    return _Calls(_match(order, frees), frees)


def _fifo(rng: np.random.Generator, count: int, live: int) -> _Calls:
    _, rank = _rank_in_group(_slots(rng, count, live))
    frees = rank % 2 == 1
    return _Calls(np.where(frees, np.cumsum(frees), np.cumsum(~frees)) - 1, frees)


def _by_size(*, largest: bool) -> Callable[[_Calls, Bytes], _Calls]:
    """Return what lets the frees of a stream take the largest or the smallest live block."""

    def sorted_by_size(calls: _Calls, size: Bytes) -> _Calls:
        # one integer a block, so that the heap compares integers: rank by size, then the age
        keys = np.unique(size, return_inverse=True)[1].astype(np.int64) << 31
        rank = ((-keys if largest else keys) + np.arange(len(size))).tolist()
        live: list[int] = []
        born = 0
        block = []
        for frees in calls.frees.tolist():
            if frees:
                block.append(heapq.heappop(live) & 0x7FFFFFFF)
                continue
            heapq.heappush(live, rank[born])
            block.append(born)
            born += 1
        return _Calls(np.array(block, np.int64), calls.frees)

    return sorted_by_size


def _by_time(birth: Reals, death: Reals, count: int) -> _Calls:
    """Return the first ``count`` rows of blocks that are born and die at the given times."""
    blocks = len(birth)
    order = np.argsort(np.concatenate([birth, death]), kind="stable")[:count]
    frees = order >= blocks
    return _Calls(np.where(frees, order - blocks, order), frees)


def _exponential(rng: np.random.Generator, count: int, live: int) -> _Calls:
    birth = np.arange(count, dtype=np.float64)
    return _by_time(birth, birth + rng.exponential(live, count), count)


def _generational(rng: np.random.Generator, count: int, live: int) -> _Calls:
    birth = np.arange(count, dtype=np.float64)
    young = rng.random(count) < _YOUNG_SHARE
    mean = np.where(young, _YOUNG_MEAN * live, _OLD_MEAN * live)
    return _by_time(birth, birth + rng.exponential(mean), count)


def _in_rounds(count: int, length: int) -> tuple[Reals, Reals]:
    """Return round and time of birth of ``count`` blocks; births take a round's first half."""
    round_, place = np.divmod(np.arange(count), length)
    return round_.astype(np.float64), round_ + place / (2 * length)


def _bursts(rng: np.random.Generator, count: int, live: int) -> _Calls:
    round_, birth = _in_rounds(count, max(live // 8, 1))
    stays = rng.random(count) < 1 / 8
    lives = np.where(stays, rng.exponential(_BURSTS_LIVED, count), 0)
    return _by_time(birth, round_ + np.floor(lives) + 0.5 + rng.random(count) / 2, count)


def _phases(rng: np.random.Generator, count: int, live: int) -> _Calls:
    round_, birth = _in_rounds(count, live)
    stays = rng.random(count) < _PHASE_SURVIVORS
    return _by_time(birth, round_ + stays + 0.5 + rng.random(count) / 2, count)


def _sorted_phases(_rng: np.random.Generator, count: int, live: int) -> _Calls:
    round_, birth = _in_rounds(count, live)
    place = birth - round_  # from 0 to 1/2
    stays = 2 * place >= 1 - _PHASE_SURVIVORS
    return _by_time(birth, round_ + stays + 0.5 + place, count)


def _round_length(live: int, rounds: int) -> int:
    """Return the blocks a round of which half stay for ``rounds`` rounds, ``live`` in all."""
    return max(2 * live // (rounds + 1), 2)


def _combed(count: int, live: int, rounds: int) -> _Calls:
    _, birth = _in_rounds(count, _round_length(live, rounds))
    stays = np.arange(count) % 2 == 0
    return _by_time(birth, birth + 0.5 + stays * (rounds - 1), count)


def _comb(_rng: np.random.Generator, count: int, live: int) -> _Calls:
    return _combed(count, live, _COMB_ROUNDS)


def _pins(_rng: np.random.Generator, count: int, live: int) -> _Calls:
    return _combed(count, live, _PIN_ROUNDS)


_ORDERS: Final[dict[str, Callable[[np.random.Generator, int, int], _Calls]]] = {
    "random": _random,
    "lifo": _lifo,
    "fifo": _fifo,
    "largest": _random,
    "smallest": _random,
    "exponential": _exponential,
    "generational": _generational,
    "bursts": _bursts,
    "phases": _phases,
    "sorted": _sorted_phases,
    "comb": _comb,
    "pins": _pins,
}
KINDS: Final = tuple(_ORDERS)
"""The kinds of streams."""


# --- sizes of the blocks, where the kind has a say in them


def _comb_sizes(size: Bytes, live: int) -> Bytes:
    """Double the sizes from round to round."""
    round_ = np.arange(len(size)) // _round_length(live, _COMB_ROUNDS) % _COMB_ROUNDS
    return size << round_.astype(np.uint64)


def _pin_sizes(size: Bytes, _live: int) -> Bytes:
    """Make the blocks that stay small."""
    return np.where(np.arange(len(size)) % 2 == 0, np.uint64(_PIN), size)


_REORDERED: Final[dict[str, Callable[[_Calls, Bytes], _Calls]]] = {
    "largest": _by_size(largest=True),
    "smallest": _by_size(largest=False),
}
_RESIZED: Final[dict[str, Callable[[Bytes, int], Bytes]]] = {
    "comb": _comb_sizes,
    "pins": _pin_sizes,
}


# --- streams


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSpec:
    """Everything that decides a stream; equal specs give equal traces.

    Attributes
    ----------
    kind
        Order of frees, one of :data:`KINDS`.
    sizes
        Request sizes: 64, 1-4000, log:1-1M, pow:16-64K, pareto:1.2:16-1M, markov:0.9:1-4000,
        classes:0.9:8-64/1K-4K, trace:FILE or chain:FILE (see :mod:`pyalloc.workload.sizes`).
    count
        Number of calls.
    live
        Number of blocks alive once the stream has filled up (on average; ``lifo`` and ``fifo`` make
        the calls of ``random``).
    seed
        Seed of the generator.
    calls
        ``"plain"``: malloc and free only.  ``"all"``: 30 % of the blocks come from calloc and the
        aligned calls instead, and every fifth one is reallocated once in its life.
    drain
        Free at the end what is still alive: ``lifo`` the youngest first, ``random`` in random
        order, all others the oldest first.  These calls come on top of ``count``.
    """

    kind: str
    sizes: str | int | SizeLaw = "medium"
    count: int = 1_000_000
    live: int = 10_000
    seed: int = 0
    calls: str = "plain"
    drain: bool = False

    def __post_init__(self) -> None:
        if self.kind not in _ORDERS:
            message = f"no kind of stream {self.kind!r}{nearest(self.kind, KINDS)}"
            raise ArgumentError(message)
        if self.calls not in ("plain", "all"):
            message = f"calls must be 'plain' or 'all' (got {self.calls!r})"
            raise ArgumentError(message)
        parse_sizes(self.sizes)
        for name, least, most in (("count", 0, _ROWS), ("live", 1, _ROWS), ("seed", 0, 1 << 63)):
            value = getattr(self, name)
            if not least <= value <= most:
                message = f"{name} must be {least} to {most} (got {value})"
                raise ArgumentError(message)

    def make(self) -> Trace:
        """Return the trace."""
        orders, sizes, others = np.random.default_rng(self.seed).spawn(3)
        distribution = parse_sizes(self.sizes)
        calls = _ORDERS[self.kind](orders, self.count, self.live)
        size = distribution.draw(sizes, int(np.count_nonzero(~calls.frees)))
        if self.kind in _RESIZED:
            size = _RESIZED[self.kind](size, self.live)
        if self.kind in _REORDERED:
            calls = _REORDERED[self.kind](calls, size)
        rows = _plain_rows(calls, size)
        if self.calls == "all":
            rows = _all_rows(rows, distribution, others, self.count)
        if self.drain:
            rows = _drained(rows, self.kind, others)
        arg = rows.arg if rows.arg.any() else None
        return Trace.from_arrays(
            rows.op, rows.block, rows.size, arg, info=TraceInfo(source="stream")
        )


# --- rows


@dataclass(frozen=True, slots=True)
class _Rows:
    op: npt.NDArray[np.uint8]
    block: npt.NDArray[np.uint32]
    size: Bytes
    arg: Bytes


def _plain_rows(calls: _Calls, size: Bytes) -> _Rows:
    block = calls.block.astype(np.uint32)
    op = np.where(calls.frees, np.uint8(Op.FREE), np.uint8(Op.MALLOC))
    none = np.zeros(len(op), np.uint64)
    return _Rows(op, block, np.where(calls.frees, none, size[block]), none)


def _all_rows(rows: _Rows, sizes: SizeLaw, rng: np.random.Generator, count: int) -> _Rows:
    """Let other calls allocate some of the blocks, and reallocate some; the first ``count``."""
    is_new = rows.op == Op.MALLOC
    blocks = int(np.count_nonzero(is_new))
    op = rows.op.copy()
    op[is_new] = rng.choice(np.array(list(_CALLS), np.uint8), blocks, p=list(_CALLS.values()))
    aligned = np.isin(op, list(ALIGNS))
    arg = np.where(aligned, np.uint64(8) << rng.integers(0, 10, len(op), np.uint64), np.uint64(0))
    return _with_reallocs(_Rows(op, rows.block, rows.size, arg), sizes, rng, blocks, count)


def _with_reallocs(
    rows: _Rows, sizes: SizeLaw, rng: np.random.Generator, blocks: int, count: int
) -> _Rows:
    frees = rows.op == Op.FREE
    birth = np.flatnonzero(~frees)
    death = np.full(blocks, len(rows.op))
    death[rows.block[frees]] = np.flatnonzero(frees)
    moved = np.flatnonzero(rng.random(blocks) < _MOVED)
    when = birth[moved] + (death - birth)[moved] * rng.random(len(moved))
    order = np.argsort(np.concatenate([np.arange(len(rows.op)), when]), kind="stable")[:count]
    return _Rows(
        np.concatenate([rows.op, np.full(len(moved), Op.REALLOC, np.uint8)])[order],
        np.concatenate([rows.block, moved.astype(np.uint32)])[order],
        np.concatenate([rows.size, sizes.draw(rng, len(moved))])[order],
        np.concatenate([rows.arg, np.zeros(len(moved), np.uint64)])[order],
    )


def _drained(rows: _Rows, kind: str, rng: np.random.Generator) -> _Rows:
    frees = rows.op == Op.FREE
    left = np.setdiff1d(rows.block, rows.block[frees])  # ascending: the oldest first
    if kind == "lifo":
        left = left[::-1]
    elif kind == "random":
        left = rng.permutation(left)
    none = np.zeros(len(left), np.uint64)
    return _Rows(
        np.concatenate([rows.op, np.full(len(left), Op.FREE, np.uint8)]),
        np.concatenate([rows.block, left]),
        np.concatenate([rows.size, none]),
        np.concatenate([rows.arg, none]),
    )


def stream(
    kind: str,
    sizes: str | int | SizeLaw = "medium",
    count: int = 1_000_000,
    live: int = 10_000,
    seed: int = 0,
    *,
    calls: str = "plain",
    drain: bool = False,
) -> Trace:
    """Return the trace of ``StreamSpec(kind=kind, ...)``; see there.

    Examples
    --------
    >>> from pyalloc.workload.streams import stream
    >>> stream("lifo", "1-128", count=1000, live=100)
    <Trace: 1,000 calls, 551 blocks, peak 7.8 KiB requested>
    """
    return StreamSpec(
        kind=kind, sizes=sizes, count=count, live=live, seed=seed, calls=calls, drain=drain
    ).make()
