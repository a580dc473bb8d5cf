"""The same program with some of its blocks allocated elsewhere: tried, not estimated.

Rows of the blocks in question are made to do nothing, so that all others are as they were and row
numbers stay; and are then replayed alone, as in an arena that has nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pyalloc.lab.blame.holders import FAST, TCACHE
from pyalloc.lab.setting import Setting, is_known
from pyalloc.lab.trial import Columns, Outcome, Trials
from pyalloc.trace import NULL_BLOCK, Op, Trace

Mask = npt.NDArray[np.bool_]
Group = tuple[int, ...]

_CACHES: Final = {TCACHE: ("tcache_count", 0), FAST: ("mxfast", 0)}


class Lives:
    """Which rows belong to one life of a block: from the call that allocates it to its free."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace

    @cached_property
    def _rows(self) -> npt.NDArray[np.intp]:
        """Rows about blocks, those of each block together and in order."""
        named = np.flatnonzero(self.trace.block != NULL_BLOCK)
        return named[np.argsort(self.trace.block[named], kind="stable")]

    @cached_property
    def _allocates(self) -> Mask:
        op = self.trace.op[self._rows]
        found: Mask = (op <= Op.PVALLOC) & (op != Op.FREE)
        return found

    @cached_property
    def _life(self) -> npt.NDArray[np.intp]:
        block, op = self.trace.block[self._rows], self.trace.op[self._rows]
        begins = np.ones(len(block), np.bool_)
        begins[1:] = block[1:] != block[:-1]
        begins |= self._allocates & (op != Op.REALLOC)
        return np.cumsum(begins) - 1

    def rows_of(self, sites: Iterable[int]) -> Mask:
        """Return the rows about blocks that one of ``sites`` allocated or resized."""
        mask = np.zeros(len(self.trace), np.bool_)
        if not len(self._rows):
            return mask
        guilty = np.zeros(int(self._life[-1]) + 1, np.bool_)
        here = self._allocates & np.isin(self.trace.site[self._rows], list(sites))
        guilty[self._life[here]] = True
        mask[self._rows[guilty[self._life]]] = True
        return mask


def silenced(columns: Columns, mask: Mask) -> dict[str, npt.NDArray[Any]]:
    """Return the calls with those of ``mask`` made to do nothing."""
    changed = dict(columns)
    changed["op"] = np.where(mask, np.uint8(Op.TOUCH), columns["op"])
    changed["block"] = np.where(mask, np.uint32(NULL_BLOCK), columns["block"])
    return changed


def alone(columns: Columns, mask: Mask) -> dict[str, npt.NDArray[Any]]:
    """Return only the calls of ``mask``, made by one thread."""
    changed = silenced(columns, ~mask)
    changed.pop("thread", None)
    return changed


def try_without(
    trials: Trials, groups: Sequence[Sequence[int]]
) -> Mapping[Group, tuple[Outcome, Outcome | None]]:
    """Replay without the blocks of each group of sites, and those blocks alone.

    Holders that are caches are switched off; the second outcome is None where nothing is left to be
    put elsewhere.  What the library cannot be told is left out.
    """
    lives = Lives(trials.trace)
    jobs: list[tuple[Group, Setting, Columns | None, bool]] = []
    for group in map(tuple, groups):
        setting = Setting(tuple(_CACHES[s] for s in group if s in _CACHES))
        sites = [s for s in group if s >= 0]
        if not is_known(setting, trials.allocator, trials.word):
            continue
        mask = lives.rows_of(sites) if sites else None
        rest = trials.columns if mask is None else silenced(trials.columns, mask)
        jobs.append((group, setting, rest, True))
        if mask is not None:
            jobs.append((group, Setting(), alone(trials.columns, mask), False))
    outcomes = trials.run_all([j[1] for j in jobs], [j[2] for j in jobs]) if jobs else []
    rest_of = {j[0]: o for j, o in zip(jobs, outcomes, strict=True) if j[3]}
    own_of = {j[0]: o for j, o in zip(jobs, outcomes, strict=True) if not j[3]}
    return {group: (rest, own_of.get(group)) for group, rest in rest_of.items()}
