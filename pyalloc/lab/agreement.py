"""How far a replay's addresses are the recorded ones.

What lies between the start of the break and the break must be equal.  The kernel places the heaps
of threads, and mappings of single blocks, beside mappings of the program's own, which no trace has:
they agree if each block has the same place in its heap and each heap keeps its counterpart.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pyalloc.machine import Replay
from pyalloc.trace import Op, Trace
from pyalloc.units import PAGE

Bool = npt.NDArray[np.bool_]
I64 = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far simulated addresses equal the recorded ones.

    ``compared`` calls returned a block in both runs; ``equal`` of them at the same address.
    ``in_heaps`` have the same place in a thread's heap, which lies elsewhere; ``mapped`` are
    mappings of their own in both runs.  ``first`` is the row of the first call that disagrees, None
    if none does; ``simulated`` and ``recorded`` are its addresses.
    """

    compared: int
    equal: int
    in_heaps: int
    mapped: int
    first: int | None
    simulated: int = 0
    recorded: int = 0

    @property
    def complete(self) -> bool:
        """Whether no call disagrees."""
        return self.first is None

    @property
    def agreeing(self) -> int:
        """How many calls agree."""
        return self.equal + self.in_heaps + self.mapped


def agreement(trace: Trace, result: Replay) -> Agreement | None:
    """Compare ``result`` with the addresses recorded in ``trace``; None if it has none of glibc's.

    A replay with ``record=("address", "usable")`` is compared more strictly: only blocks that
    the simulated library has mapped by themselves may lie at another place of a heap's size.
    """
    if trace.address is None or trace.info.foreign_malloc is not None:
        return None
    rows = int(result.summary.calls)
    op, real, model = trace.op[:rows], trace.address[:rows], result.address[:rows]
    allocates = (op <= Op.PVALLOC) & (op != Op.FREE)
    same = allocates & (real == model)
    apart = allocates & _outside_break(result, real) & _outside_break(result, model)
    apart &= (real != 0) & (model != 0)
    movable = apart & ~same
    in_heaps = movable & ((real - model) % np.uint64(heap_span(trace)) == 0)
    mapped = movable & ~in_heaps & ((real - model) % np.uint64(PAGE) == 0)
    if (usable := getattr(result, "usable", None)) is not None:
        mapped &= (model + usable[:rows]) % np.uint64(PAGE) == 0  # the end of a mapping
        own = in_heaps & ((model + usable[:rows]) % np.uint64(PAGE) == 0)
        in_heaps, mapped = in_heaps & ~own, mapped | own
    in_heaps &= ~_strays(in_heaps | (apart & same), real, model, heap_span(trace))
    differ = np.flatnonzero(allocates & ~same & ~in_heaps & ~mapped)
    first = int(differ[0]) if differ.size else None
    return Agreement(
        compared=int(allocates.sum()),
        equal=int(same.sum()),
        in_heaps=int(in_heaps.sum()),
        mapped=int(mapped.sum()),
        first=first,
        simulated=int(model[first]) if first is not None else 0,
        recorded=int(real[first]) if first is not None else 0,
    )


def heap_span(trace: Trace) -> int:
    """Return size and alignment of a thread's heap (``HEAP_MAX_SIZE``) where it was recorded."""
    major, minor, *_ = (*(trace.info.glibc or "2.36").split("."), "0")
    old = (int(major), int(minor)) < (2, 6)
    return 1 << 20 if old or trace.info.arch == "i386" else 64 << 20


def _outside_break(result: Replay, address: U64) -> Bool:
    space = result.process.space
    return (address < space.start_brk) | (address >= _border(result))


def _border(result: Replay) -> int:
    """Return an address between the heap and the mappings: half-way from the one to the other."""
    space = result.process.space
    top = space.start_brk + result.summary.peak_held
    above = min((vma.start for vma in space if vma.start > top), default=space.task_size)
    return (top + above) // 2


def _strays(in_heaps: Bool, real: U64, model: U64, span: int) -> Bool:
    """Return those of ``in_heaps`` whose heap has another counterpart at that time.

    An area may hold one heap after another; two at once mean that a call went to another arena.
    """
    strays = np.zeros(len(in_heaps), bool)
    rows = np.flatnonzero(in_heaps)
    if not rows.size:
        return strays
    pairs = np.stack([real[rows] // np.uint64(span), model[rows] // np.uint64(span)], axis=1)
    pairs, at = np.unique(pairs, axis=0, return_inverse=True)
    at = at.reshape(-1)
    first, last = np.full(len(pairs), len(real)), np.zeros(len(pairs), np.int64)
    np.minimum.at(first, at, rows)
    np.maximum.at(last, at, rows)
    meanwhile = _overlapping(pairs[:, 0], first, last) | _overlapping(pairs[:, 1], first, last)
    strays[rows[meanwhile[at]]] = True
    return strays


def _overlapping(group: U64, first: I64, last: I64) -> Bool:
    """Return which intervals begin before an earlier one of the same group has ended."""
    order = np.lexsort((first, group))
    number = np.cumsum(np.diff(group[order], prepend=group[order[0]]) != 0)
    step = int(last.max()) + 1
    until = np.maximum.accumulate(number * step + last[order])
    overlapping = np.zeros(len(group), bool)
    overlapping[order[1:]] = number[1:] * step + first[order[1:]] <= until[:-1]
    return overlapping
