"""Adversaries: sequences of calls made to fragment a heap.

``robson``
    J. M. Robson's strategy ("Bounds for Some Functions Concerning Dynamic Storage Allocation",
    JACM 21, 1974), which forces any allocator that does not move blocks to about
    M (1 + log2(n) / 2) bytes for M live ones and blocks up to n.  It looks at the addresses it
    gets: in step i it keeps what lies on a chosen residue of 2^i units, so that no hole of 2^i
    units is left, frees the rest, and asks for blocks of 2^i units.  So it is played against an
    allocator, and its trace is that game.
``mesh_fragmenter``
    The basic strategy by which the authors of Mesh (Powers et al., PLDI 2019) fragment a heap,
    after Garbe and Morris: blocks of a doubled size in pairs, of each pair one freed, so that no
    hole fits what comes next.
``litter``
    Litter a heap before a program begins (the method of "Reconsidering 'Reconsidering Custom Memory
    Allocation'", 2026): allocate many times the blocks that it has at its peak, of the sizes it
    uses, and free a part of them at random.

The stream kinds ``comb`` and ``pins`` (:mod:`pyalloc.workload.streams`) are adversaries, too.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from pyalloc.errors import ArgumentError
from pyalloc.machine import Machine, Process
from pyalloc.trace import NULL_BLOCK, Trace, TraceInfo
from pyalloc.trace.table import DTYPES
from pyalloc.units import parse_size
from pyalloc.workload.rows import frees, joined, mallocs
from pyalloc.workload.sizes import Empirical

_MOST_BLOCKS: Final = 1 << 24


# --- Robson


def robson(
    live: int | str = "1M",
    largest: int | str = "64K",
    unit: int = 32,
    allocator: str = "first-fit",
    arch: str = "x86_64",
    header: int | None = None,
) -> Trace:
    """Return the game that Robson's worst-case strategy plays against an allocator.

    Parameters
    ----------
    live
        Most bytes live at a time, chunk headers included.
    largest
        Largest chunk in bytes; steps double from ``unit`` to it.
    unit
        Smallest chunk in bytes, a power of two.
    allocator, arch
        The opponent; the trace fragments others, too, but not as thoroughly.
    header
        Bytes of a chunk beyond the request; by default a word, as in glibc.
    """
    budget, top = parse_size(live, "live"), parse_size(largest, "largest")
    header = (8 if arch == "x86_64" else 4) if header is None else header
    if unit & (unit - 1) or unit <= header:
        message = f"unit must be a power of two above {header} bytes (got {unit!r})"
        raise ArgumentError(message)
    if not unit <= top <= budget or budget // unit > _MOST_BLOCKS:
        message = (
            f"largest must be from unit to live, and live at most {_MOST_BLOCKS} units "
            f"(got {live!r}, {largest!r}, {unit!r})"
        )
        raise ArgumentError(message)
    machine = Machine(ram="64G", swap=0, kernel="6.18", arch=arch)
    game = _Game(machine.spawn(allocator=allocator), unit, budget, header)
    game.play(top)
    return game.trace()


class _Game:
    """Robson's strategy under way; chunks in bytes."""

    def __init__(self, process: Process, unit: int, budget: int, header: int) -> None:
        self.process = process
        self.unit = unit
        self.budget = budget
        self.header = header
        self.parts: list[tuple[bool, npt.NDArray[np.int64], int]] = []
        self.count = 0
        self.at = np.empty(0, np.int64)  # chunk addresses of what is live
        self.size = np.empty(0, np.int64)
        self.block = np.empty(0, np.int64)

    def play(self, largest: int) -> None:
        """Play every step."""
        residue, size = 0, self.unit
        self._fill(size)
        while 2 * size <= largest:
            residue = self._best_residue(residue, size)
            size *= 2
            self._keep(self._covers(residue, size))
            self._fill(size)

    def _covers(self, residue: int, modulus: int) -> npt.NDArray[np.bool_]:
        """Return which chunks hold an address that is ``residue`` modulo ``modulus``."""
        covers: npt.NDArray[np.bool_] = (residue - self.at) % modulus < self.size
        return covers

    def _best_residue(self, residue: int, size: int) -> int:
        """Return the residue modulo 2 ``size`` that wastes most: few live bytes, many places."""
        modulus = 2 * size

        def wasted(choice: int) -> int:
            kept = self._covers(choice, modulus)
            return int(kept.sum()) * modulus - int(self.size[kept].sum())

        return max((residue, residue + size), key=wasted)

    def _keep(self, kept: npt.NDArray[np.bool_]) -> None:
        gone = self.block[~kept]
        for address in self.at[~kept].tolist():
            self.process.free(address + self.header)
        self.parts.append((False, gone, 0))
        self.at, self.size, self.block = self.at[kept], self.size[kept], self.block[kept]

    def _fill(self, size: int) -> None:
        """Allocate chunks of ``size`` bytes while they are within the budget."""
        count = (self.budget - int(self.size.sum())) // size
        request = size - self.header
        got = [self.process.malloc(request) for _ in range(count)]
        new = self.count + np.arange(count)
        self.count += count
        self.parts.append((True, new, request))
        self.at = np.concatenate([self.at, np.array(got, np.int64) - self.header])
        self.size = np.concatenate([self.size, np.full(count, size)])
        self.block = np.concatenate([self.block, new])

    def trace(self) -> Trace:
        """Return the calls made."""
        return joined(
            [mallocs(block, size) if made else frees(block) for made, block, size in self.parts]
        ).trace("robson")


# --- Mesh


def mesh_fragmenter(size: int = 512, total: int | str = "128M", *, end: bool = False) -> Trace:
    """Return Mesh's fragmenter: pairs of doubled sizes, of each pair one freed.

    Parameters
    ----------
    size
        Base size in bytes; the first blocks are twice as large.
    total
        Bytes to spend.
    end
        Free in the end what was kept.
    """
    left, step = parse_size(total, "total"), size
    if size < 1:
        message = f"size must be at least 1 (got {size!r})"
        raise ArgumentError(message)
    parts, kept, made = [], [], 0
    while left >= 2 * step:
        step *= 2
        pairs = left // (2 * step)
        if not pairs:
            break
        block = made + np.arange(2 * pairs)
        made += 2 * pairs
        parts += [mallocs(block, step), frees(block[1::2])]
        kept.append(block[::2])
        left -= pairs * step
    if end:
        parts += [frees(block) for block in kept]
    return joined(parts).trace("mesh_fragmenter")


# --- litter


def litter(
    trace: Trace,
    occupancy: float = 0.95,
    multiplier: float = 1.0,
    *,
    shuffle: bool = True,
    seed: int = 0,
) -> Trace:
    """Return ``trace`` with a littered heap before its first call.

    Parameters
    ----------
    trace
        The program; its block numbers move up by the number of litter blocks.
    occupancy
        Share of the litter that stays, for good.
    multiplier
        Litter blocks, as a multiple of the most that the program has live.
    shuffle
        Free at random places; without it, every k-th block is freed in the order of allocation.
    seed
        Seed of the generator.
    """
    if not 0 <= occupancy <= 1:
        message = f"occupancy must be 0 to 1 (got {occupancy!r})"
        raise ArgumentError(message)
    count = int(trace.live_blocks().max(initial=0) * multiplier)
    if not 0 <= count <= _MOST_BLOCKS:
        message = f"that is {count} blocks of litter; at most {_MOST_BLOCKS} are possible"
        raise ArgumentError(message)
    if not count:
        return trace
    rng = np.random.default_rng(seed)
    block = np.arange(count)
    gone = count - round(count * occupancy)
    freed = rng.permutation(block)[:gone] if shuffle else block[:: max(count // max(gone, 1), 1)]
    before = joined([mallocs(block, Empirical.of(trace).draw(rng, count)), frees(freed[:gone])])
    return _before(before.trace("litter"), trace, count)


def _before(first: Trace, then: Trace, shift: int) -> Trace:
    """Return the rows of both; what is known beside the rows is the second one's."""
    columns = {}
    for name, dtype in DTYPES.items():
        if name == "address" or not (then.has(name) or first.has(name)):
            continue
        a, b = (t.columns.get(name, np.zeros(len(t), dtype)) for t in (first, then))
        if name == "block":
            b = np.where(b == NULL_BLOCK, b, b + np.uint32(shift))
        columns[name] = np.concatenate([a, b]).astype(dtype)
    info = TraceInfo(source=f"litter + {then.info.source}", sites=then.info.sites)
    return Trace(columns, info)
