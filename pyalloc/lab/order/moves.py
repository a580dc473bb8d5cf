"""Moves: what makes one order of the calls from another, inside windows.

A move takes a legal order and gives a legal one.  Frees change places with frees and allocations
with allocations of the same thread (:func:`fill`), so that every thread makes the same kinds of
calls at the same moments; ``immediate`` and ``delayed`` move frees past other calls.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from pyalloc.engine import fill_places
from pyalloc.errors import ArgumentError
from pyalloc.lab.order.calls import ALLOCATION, FREE, Calls, Rows
from pyalloc.nearest import nearest
from pyalloc.trace import Op

U64 = npt.NDArray[np.uint64]


class Arrangement:
    """An order under way: ``order[place]`` is a row, ``place[row]`` its place."""

    def __init__(self, calls: Calls, starts: Rows, order: Rows | None = None) -> None:
        self.calls = calls
        self.starts = starts
        self.order = np.arange(calls.count) if order is None else order.copy()
        self.place = np.empty(calls.count + 1, np.int64)
        self.place[self.order] = np.arange(calls.count)
        self.place[calls.count] = calls.count  # never

    def window_of(self, places: Rows) -> Rows:
        """Return the window of each place."""
        found: Rows = np.searchsorted(self.starts, places, "right") - 1
        return found

    def rows_between(self, low: int, high: int, kind: int) -> Rows:
        """Return the rows of one kind at some places."""
        rows = self.order[low:high]
        found: Rows = rows[self.calls.kind[rows] == kind]
        return found

    def set(self, places: Rows, rows: Rows) -> None:
        """Put rows in places."""
        self.order[places] = rows
        self.place[rows] = places


Key = Callable[[Arrangement, Rows, np.random.Generator], U64]


def _descending(values: npt.NDArray[np.generic]) -> U64:
    return np.uint64(2**64 - 1) - values.astype(np.uint64)


def _birth(a: Arrangement, lives: Rows) -> U64:
    return a.place[a.calls.lives.birth[lives]].astype(np.uint64)


def _death(a: Arrangement, lives: Rows) -> U64:
    return a.place[a.calls.lives.death[lives]].astype(np.uint64)


def _site(a: Arrangement, lives: Rows) -> U64:
    """Return a number for each call site, as they come up."""
    site = a.calls.trace.site[a.calls.lives.birth[lives]]
    _, first, which = np.unique(site, return_index=True, return_inverse=True)
    found: U64 = first[which].astype(np.uint64)
    return found


def _asked(a: Arrangement, lives: Rows) -> U64:
    size: U64 = a.calls.trace.size[a.calls.lives.birth[lives]]
    return size


def _by_size(a: Arrangement, lives: Rows, *, descending: bool) -> U64:
    """Rank blocks by the size they are freed with, of equal ones the oldest first."""
    size = a.calls.freed_size[lives]
    rank = np.empty(len(lives), np.uint64)
    rank[np.lexsort((_birth(a, lives), _descending(size) if descending else size))] = np.arange(
        len(lives)
    )
    return rank


FREE_KEYS: Final[Mapping[str, Key]] = {
    "lifo": lambda a, lives, _: _descending(_birth(a, lives)),
    "fifo": lambda a, lives, _: _birth(a, lives),
    "largest": lambda a, lives, _: _by_size(a, lives, descending=True),
    "smallest": lambda a, lives, _: _by_size(a, lives, descending=False),
    "random": lambda _, lives, rng: rng.permutation(len(lives)).astype(np.uint64),
}
ALLOCATION_KEYS: Final[Mapping[str, Key]] = {
    "lifetime": lambda a, lives, _: _descending(_death(a, lives)),
    "size": lambda a, lives, _: _asked(a, lives),
    "site": lambda a, lives, _: _site(a, lives),
    "shortest": lambda a, lives, _: _death(a, lives),
    "bulky": lambda a, lives, _: _descending(_asked(a, lives)),
    "shuffled": lambda _, lives, rng: rng.permutation(len(lives)).astype(np.uint64),
}


def fill(
    a: Arrangement,
    kind: int,
    key: Key,
    rng: np.random.Generator,
    *,
    low: int = 0,
    high: int | None = None,
    by_run: bool = False,
) -> None:
    """Let rows of one kind change places: in each window and thread, the smallest key first.

    ``low`` and ``high`` bound the places; ``by_run`` keeps a row in its run of frees, too.
    """
    calls = a.calls
    rows = a.rows_between(low, calls.count if high is None else high, kind)
    if len(rows) < 2:
        return
    place = a.place[rows]
    lives = calls.life_of[rows]
    if kind == FREE:
        release = a.place[calls.lives.last[lives]] + 1
    else:  # the same thing seen backwards: the last row an allocation may come before
        place, release = -place, -(a.place[calls.lives.second[lives]] - 1)
    window = a.window_of(a.place[rows])
    group = window * (int(calls.owner.max()) + 1) + calls.owner[rows]
    if by_run:
        group = np.unique(window << 32 | _runs(a, rows), return_inverse=True)[1]
    by_place = np.lexsort((place, group))
    smallest = key(a, lives, rng)
    taker = fill_places(
        group[by_place].astype(np.uint32),
        _offset(place)[by_place],
        _offset(release, int(place.min()))[by_place],
        (smallest if kind == FREE else _descending(smallest))[by_place],
    )
    a.set(a.place[rows][by_place].copy(), rows[by_place][taker])


def _offset(places: Rows, least: int | None = None) -> U64:
    """Return places counted from the least, as numbers that are not negative."""
    base = int(places.min()) if least is None else least
    return np.maximum(places - base, 0).astype(np.uint64)


def _runs(a: Arrangement, rows: Rows) -> Rows:
    """Return which run of frees, made by a thread in one go, each row is in."""
    calls = a.calls
    order = a.order[np.argsort(calls.owner[a.order], kind="stable")]
    begins = np.diff(calls.owner[order], prepend=-1) != 0
    begins[1:] |= calls.kind[order[1:]] != calls.kind[order[:-1]]
    run = np.empty(calls.count, np.int64)
    run[order] = np.cumsum(begins)
    return run[rows]


# --- moves past other calls


def _resort(a: Arrangement, when: npt.NDArray[np.float64]) -> None:
    """Sort the places by ``when``, one number a place."""
    order = a.order[np.argsort(when, kind="stable")]
    a.set(np.arange(len(order)), order)


def _move_frees(a: Arrangement, *, early: bool) -> None:
    """Move each free as far as its window, its block and its thread's end let it go."""
    calls = a.calls
    rows = a.rows_between(0, calls.count, FREE)
    place = a.place[rows]
    window = a.window_of(place)
    when = np.arange(calls.count, dtype=np.float64)
    low, high = _thread_bounds(a, rows)
    if early:
        start = np.maximum(a.starts[window] - 0.5, low + 0.5)
        when[place] = np.maximum(a.place[calls.lives.last[calls.life_of[rows]]] + 0.5, start)
    else:
        ends = np.append(a.starts[1:], calls.count)
        when[place] = np.minimum(ends[window] - 0.5, high - 0.5)
    _resort(a, when)


def _thread_bounds(a: Arrangement, rows: Rows) -> tuple[Rows, Rows]:
    """Return the places of the ends of threads that the rows must stay between."""
    calls = a.calls
    low, high = np.full(len(rows), -1), np.full(len(rows), calls.count)
    thread = calls.trace.thread
    for end in np.flatnonzero(calls.trace.op == Op.THREAD_EXIT).tolist():
        own, at = thread[rows] == thread[end], a.place[end]
        low[own & (rows > end)] = np.maximum(low[own & (rows > end)], at)
        high[own & (rows < end)] = np.minimum(high[own & (rows < end)], at)
    return low, high


# --- orders by name


@dataclass(frozen=True, slots=True)
class Move:
    """A way to order calls: a name, a line, and what it does to an arrangement."""

    name: str
    description: str
    apply: Callable[[Arrangement, np.random.Generator], None]


def _frees(name: str, description: str) -> Move:
    return Move(name, description, lambda a, rng: fill(a, FREE, FREE_KEYS[name], rng))


def _allocations(name: str, description: str) -> Move:
    key = ALLOCATION_KEYS[name]
    return Move(name, description, lambda a, rng: fill(a, ALLOCATION, key, rng))


def _reverse(a: Arrangement, rng: np.random.Generator) -> None:
    def later_first(at: Arrangement, lives: Rows, _: np.random.Generator) -> U64:
        return _descending(_death(at, lives))

    fill(a, FREE, later_first, rng, by_run=True)


MOVES: Final[Mapping[str, Move]] = {
    move.name: move
    for move in (
        Move("reversed", "each run of frees backwards", _reverse),
        _frees("lifo", "frees take the youngest block"),
        _frees("fifo", "frees take the oldest block"),
        _frees("largest", "frees take the largest block"),
        _frees("smallest", "frees take the smallest block"),
        _frees("random", "frees take any block"),
        Move("immediate", "frees as early as can be", lambda a, _: _move_frees(a, early=True)),
        Move("delayed", "frees at the window's end", lambda a, _: _move_frees(a, early=False)),
        _allocations("lifetime", "grouped: longest life first"),
        _allocations("size", "grouped: smallest first"),
        _allocations("site", "grouped by call site"),
    )
}
"""Every move by its name; ``"size+lifo"`` is one after the other."""

DEFAULT: Final = (*MOVES, "lifetime+lifo", "size+lifo", "site+lifo")
"""The orders that are tried unless others are asked for."""


def find_moves(name: str) -> tuple[Move, ...]:
    """Return the moves that ``name`` is made of.

    Raises
    ------
    ArgumentError
        There is no such order.
    """
    for part in name.split("+"):
        if part not in MOVES:
            hint = nearest(part, MOVES)
            message = f"no order {part!r}{hint}; A+B is one, then the other"
            raise ArgumentError(message)
    return tuple(MOVES[part] for part in name.split("+"))


def describe(name: str) -> str:
    """Return what an order does, in a line."""
    return ", then ".join(move.description for move in find_moves(name))


def apply_moves(a: Arrangement, name: str, seed: int) -> Rows:
    """Put ``a`` in the order ``name``; return it."""
    rng = np.random.default_rng(seed)
    for move in find_moves(name):
        move.apply(a, rng)
    return a.order
