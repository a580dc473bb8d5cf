"""Areas in address order: found by bisection, walked by their links.

An address space has tens to a few ten thousand areas and is searched far more often than changed.
Two parallel lists and a bisection find an area faster than any tree does in Python, but a change
moves everything that lies behind it; so the lists are cut into blocks of some hundred areas, which
are found by a bisection of their own.

Invariants: ``firsts[0] == 0``, else ``firsts[i] == blocks[i].starts[0]``; only the first block may
be empty; ``starts[k] == areas[k].start`` in each; ``areas[k].next`` is the one after it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from itertools import chain, pairwise
from typing import Final

from pyalloc.errors import EngineBug
from pyalloc.kernel.area import Vma
from pyalloc.units import PAGE

_FULL: Final = 512
"""Areas in a block, when it is cut in two."""


class _Block:
    """Neighbouring areas, and where each starts."""

    __slots__ = ("areas", "starts")

    def __init__(self, areas: list[Vma]) -> None:
        self.areas = areas
        self.starts = [vma.start for vma in areas]


class AreaList:
    """Areas in address order, none over another."""

    __slots__ = ("blocks", "count", "firsts")

    def __init__(self, areas: Iterable[Vma] = ()) -> None:
        areas = list(areas)
        cut = range(0, len(areas) or 1, _FULL // 2)
        self.blocks = [_Block(areas[at : at + _FULL // 2]) for at in cut]
        self.firsts = [0, *(block.starts[0] for block in self.blocks[1:])]
        self.count = len(areas)
        for one, other in pairwise(areas):
            one.next, other.prev = other, one

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Vma]:
        return chain.from_iterable([block.areas for block in self.blocks])

    # --- finding ------------------------------------------------------------------------

    def find(self, address: int) -> Vma | None:
        """Return the first area that ends above ``address``; it may start above it too."""
        block = self.blocks[bisect_right(self.firsts, address) - 1]
        index = bisect_right(block.starts, address)
        if not index:  # nothing starts that low
            return block.areas[0] if block.areas else None
        vma = block.areas[index - 1]
        return vma if vma.end > address else vma.next

    def last_before(self, address: int) -> Vma | None:
        """Return the last area that starts below ``address``."""
        block = self.blocks[bisect_left(self.firsts, address, 1) - 1]
        index = bisect_left(block.starts, address)
        return block.areas[index - 1] if index else None

    def covering(self, start: int, end: int) -> list[Vma]:
        """Return the areas with at least one byte in the range."""
        found = []
        vma = self.find(start)
        while vma is not None and vma.start < end:
            found.append(vma)
            vma = vma.next
        return found

    def overlaps(self, start: int, end: int) -> bool:
        """Return whether any area has a byte in the range."""
        vma = self.find(start)
        return vma is not None and vma.start < end

    # --- changing -----------------------------------------------------------------------

    def link(self, vma: Vma) -> None:
        """Put ``vma`` where it belongs."""
        start = vma.start
        at = bisect_right(self.firsts, start) - 1
        block = self.blocks[at]
        index = bisect_left(block.starts, start)
        if index:
            before = block.areas[index - 1]
            after = before.next
        else:  # in the first block only
            before, after = None, block.areas[0] if block.areas else None
        block.starts.insert(index, start)
        block.areas.insert(index, vma)
        self.count += 1
        vma.prev, vma.next = before, after
        if before is not None:
            before.next = vma
        if after is not None:
            after.prev = vma
        if len(block.areas) > _FULL:
            self._cut(at, block)

    def unlink(self, vma: Vma) -> None:
        """Take ``vma`` out."""
        start = vma.start
        at = bisect_right(self.firsts, start) - 1
        block = self.blocks[at]
        index = bisect_left(block.starts, start)
        del block.starts[index]
        del block.areas[index]
        self.count -= 1
        before, after = vma.prev, vma.next
        vma.prev = vma.next = None
        if before is not None:
            before.next = after
        if after is not None:
            after.prev = before
        if not index:
            self._lost_first(at, block)

    def move_start(self, vma: Vma, start: int) -> None:
        """Let ``vma`` begin at ``start``, with nothing in between; its page offset follows."""
        at = bisect_right(self.firsts, vma.start) - 1
        block = self.blocks[at]
        index = bisect_left(block.starts, vma.start)
        vma.pgoff += (start - vma.start) // PAGE
        vma.start = block.starts[index] = start
        if at and not index:
            self.firsts[at] = start

    def _cut(self, at: int, block: _Block) -> None:
        """Make two blocks of a full one."""
        middle = len(block.areas) // 2
        self.blocks.insert(at + 1, _Block(block.areas[middle:]))
        self.firsts.insert(at + 1, block.starts[middle])
        del block.areas[middle:], block.starts[middle:]

    def _lost_first(self, at: int, block: _Block) -> None:
        """Keep ``firsts`` right: a block begins later, or is empty."""
        if block.areas:
            if at:
                self.firsts[at] = block.starts[0]
        elif len(self.blocks) > 1:
            del self.blocks[at], self.firsts[at]
            self.firsts[0] = 0

    # --- checking -----------------------------------------------------------------------

    def check(self) -> None:
        """Raise :class:`EngineBug` unless areas are sorted, disjoint and rightly linked."""
        firsts = [block.starts[0] for block in self.blocks[1:]]
        starts = [start for block in self.blocks for start in block.starts]
        if self.firsts != [0, *firsts] or starts != [vma.start for vma in self]:
            message = "the index of areas is not theirs"
            raise EngineBug(message)
        before = None
        for vma in self:
            last = before.end if before is not None else 0
            if not last <= vma.start < vma.end:
                message = f"area {vma.start:#x}-{vma.end:#x} out of order after {last:#x}"
                raise EngineBug(message)
            if vma.prev is not before or (before is not None and before.next is not vma):
                message = f"area {vma.start:#x}-{vma.end:#x} is not linked to what is before it"
                raise EngineBug(message)
            before = vma
        if (before is not None and before.next is not None) or len(starts) != self.count:
            message = f"{len(starts)} areas should be {self.count}, the last at the end"
            raise EngineBug(message)
