"""Areas in address order: found by bisection, walked by their links.

An address space has tens to a few ten thousand areas and is searched far more often than changed.
Two parallel lists and a bisection find an area faster than any tree does in Python, but a change
moves everything that lies behind it; so the lists are cut into blocks of some hundred areas, which
are found by a bisection of their own.

Invariants: ``firsts[0] == 0``, else ``firsts[i] == blocks[i].starts[0]``; only the first block may
be empty; ``starts[k] == areas[k].start`` in each; ``areas[k].next`` is the one after it, and
``areas[k].block`` the block.
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
        for vma in areas:
            vma.block = self


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

    @property
    def first(self) -> Vma | None:
        """The lowest area."""
        areas = self.blocks[0].areas
        return areas[0] if areas else None

    @property
    def last(self) -> Vma | None:
        """The highest area."""
        areas = self.blocks[-1].areas
        return areas[-1] if areas else None

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

    def around(self, address: int) -> tuple[Vma | None, Vma | None]:
        """Return the last area before a hole and the first one after it."""
        before = self.last_before(address)
        return before, self.first if before is None else before.next

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

    def link(self, vma: Vma, before: Vma | None = None) -> None:
        """Put ``vma`` where it belongs, behind ``before`` where that is known."""
        if before is None:
            before = self.last_before(vma.start)
        if before is None:
            block, index, after = self.blocks[0], 0, self.first
        else:
            block, after = before.block, before.next
            index = bisect_right(block.starts, before.start)
            before.next = vma
        block.starts.insert(index, vma.start)
        block.areas.insert(index, vma)
        self.count += 1
        vma.prev, vma.next, vma.block = before, after, block
        if after is not None:
            after.prev = vma
        if len(block.areas) > _FULL:
            self._cut(block)

    def unlink(self, vma: Vma) -> None:
        """Take ``vma`` out."""
        block, before, after = vma.block, vma.prev, vma.next
        index = bisect_left(block.starts, vma.start)
        del block.starts[index], block.areas[index]
        self.count -= 1
        vma.prev = vma.next = vma.block = None
        if before is not None:
            before.next = after
        if after is not None:
            after.prev = before
        if not index:
            self._lost_first(block, vma.start)

    def move_start(self, vma: Vma, start: int) -> None:
        """Let ``vma`` begin at ``start``, with nothing in between; its page offset follows."""
        old, starts = vma.start, vma.block.starts
        index = bisect_left(starts, old)
        vma.pgoff += (start - old) // PAGE
        vma.start = starts[index] = start
        if not index:
            self._lost_first(vma.block, old)

    def _cut(self, block: _Block) -> None:
        """Make two blocks of a full one."""
        middle = len(block.areas) // 2
        at = bisect_right(self.firsts, block.starts[middle])
        self.blocks.insert(at, _Block(block.areas[middle:]))
        self.firsts.insert(at, block.starts[middle])
        del block.areas[middle:], block.starts[middle:]

    def _lost_first(self, block: _Block, start: int) -> None:
        """Keep ``firsts`` right: a block does not begin at ``start`` any more, or is empty."""
        at = bisect_right(self.firsts, start) - 1
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
        homes = [block for block in self.blocks for _ in block.areas]
        if (
            self.firsts != [0, *firsts]
            or starts != [vma.start for vma in self]
            or homes != [vma.block for vma in self]
        ):
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
