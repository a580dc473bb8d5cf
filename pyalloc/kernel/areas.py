"""The sorted list of areas, and the two things that keep it minimal: splitting and merging.

An address space has tens to a few ten thousand areas, is searched far more often than changed, and
changes one area at a time: two parallel lists and a bisection beat any tree in Python.

Invariant: ``starts[i] == vmas[i].start`` and ``vmas[i].end <= vmas[i + 1].start``.

Sources: ``mm/vma.c`` of Linux 6.12 and 6.18, ``mm/mmap.c`` of 2.6.11 and 2.6.18.
"""

from __future__ import annotations

import copy
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from typing import Any

from pyalloc.errors import EngineBug
from pyalloc.kernel import anon
from pyalloc.kernel.abi import VM_ACCESS, VM_SPECIAL
from pyalloc.kernel.anon import AnonVma
from pyalloc.kernel.area import Vma
from pyalloc.units import PAGE


def _copied(vma: Vma, memo: dict[int, Any]) -> Vma:
    """Return the twin of ``vma``; machines have many areas, and are copied often."""
    file = vma.file
    if file is not None:
        file = memo.get(id(file)) or copy.deepcopy(file, memo)
    twin = Vma(vma.start, vma.end, vma.flags, vma.pgoff, file, vma.name)
    memo[id(vma)] = twin
    if vma.anon_vma is not None:
        twin.anon_vma = anon.copied(vma.anon_vma, memo)
        twin.chain = tuple([anon.copied(tree, memo) for tree in vma.chain])
    return twin


class Areas:
    """Areas in address order."""

    __slots__ = ("rule", "starts", "vmas")

    def __init__(self, rule: str) -> None:
        self.starts: list[int] = []
        self.vmas: list[Vma] = []
        self.rule = rule

    def __deepcopy__(self, memo: dict[int, Any]) -> Areas:
        twin = Areas(self.rule)
        memo[id(self)] = twin
        twin.starts = self.starts.copy()
        twin.vmas = [_copied(vma, memo) for vma in self.vmas]
        return twin

    def __len__(self) -> int:
        return len(self.vmas)

    def __iter__(self) -> Iterator[Vma]:
        return iter(self.vmas)

    # --- finding ------------------------------------------------------------------------

    def index(self, address: int) -> int:
        """Return the index of the first area that ends above ``address`` (``len`` if none)."""
        index = bisect_right(self.starts, address)
        if index and self.vmas[index - 1].end > address:
            return index - 1
        return index

    def find(self, address: int) -> Vma | None:
        """Return the first area that ends above ``address``; it may start above it too."""
        index = self.index(address)
        return self.vmas[index] if index < len(self.vmas) else None

    def covering(self, start: int, end: int) -> list[Vma]:
        """Return the areas with at least one byte in the range."""
        first = self.index(start)
        return self.vmas[first : bisect_left(self.starts, end, first)]

    def overlaps(self, start: int, end: int) -> bool:
        """Return whether any area has a byte in the range."""
        vma = self.find(start)
        return vma is not None and vma.start < end

    def before(self, vma: Vma) -> Vma | None:
        """Return the area before ``vma``."""
        index = bisect_left(self.starts, vma.start)
        return self.vmas[index - 1] if index else None

    def after(self, vma: Vma) -> Vma | None:
        """Return the area after ``vma``."""
        index = bisect_right(self.starts, vma.start)
        return self.vmas[index] if index < len(self.vmas) else None

    # --- changing -----------------------------------------------------------------------

    def insert(self, vma: Vma) -> None:
        """Put ``vma`` where it belongs; it counts as a user of its file from now on."""
        index = bisect_left(self.starts, vma.start)
        self.starts.insert(index, vma.start)
        self.vmas.insert(index, vma)
        if vma.file is not None:
            vma.file.inode.attach()

    def remove(self, vma: Vma) -> None:
        """Take ``vma`` out, off its file and off its anonymous trees."""
        index = bisect_left(self.starts, vma.start)
        del self.starts[index]
        del self.vmas[index]
        self.release(vma)

    @staticmethod
    def release(vma: Vma) -> None:
        """Undo what an area that is no longer in any list still holds."""
        anon.unlink(vma)
        if vma.file is not None:
            vma.file.inode.detach()

    def remove_range(self, start: int, end: int) -> None:
        """Take out every area of a range whose ends are area ends."""
        first = bisect_left(self.starts, start)
        last = bisect_left(self.starts, end, first)
        gone = self.vmas[first:last]
        del self.starts[first:last]
        del self.vmas[first:last]
        for vma in gone:
            self.release(vma)

    def move_start(self, vma: Vma, start: int) -> None:
        """Let ``vma`` begin at ``start``; its page offset follows."""
        index = bisect_left(self.starts, vma.start)
        vma.pgoff += (start - vma.start) // PAGE
        vma.start = start
        self.starts[index] = start

    def split(self, vma: Vma, at: int) -> Vma:
        """Cut ``vma`` at ``at``; it keeps the low part, the new high part is returned."""
        high = Vma(
            at,
            vma.end,
            vma.flags,
            vma.pgoff + (at - vma.start) // PAGE,
            vma.file,
            vma.name,
            vma.anon_vma,
        )
        anon.clone(high, vma)
        vma.end = at
        self.insert(high)
        return high

    # --- merging ------------------------------------------------------------------------

    def _joins(self, left: Vma, right: Vma) -> bool:
        """Return whether two neighbours are alike in all but their anonymous trees."""
        return (
            left.end == right.start
            and left.flags == right.flags
            and left.file is right.file
            and left.name == right.name
            and left.pgoff + (left.end - left.start) // PAGE == right.pgoff
            and not left.flags & VM_SPECIAL
        )

    def _anon_joins(self, target: Vma, source: AnonVma | None, forked: bool) -> bool:
        """Return whether ``target`` may swallow pages of the tree ``source``.

        ``forked`` tells that the area those pages come from stems from a fork.
        """
        own = target.anon_vma
        if own is source:
            return True
        if self.rule == "either":
            return own is None or source is None
        if self.rule == "target":
            return (own is None or source is None) and len(target.chain) == 1
        if own is None:
            return not forked
        return source is None and len(target.chain) == 1

    def _anons_join(self, left: Vma, right: Vma) -> bool:
        one, other = left.anon_vma, right.anon_vma
        return one is None or other is None or one is other

    def merge_new(self, new: Vma, *, forked: bool = False, left_only: bool = False) -> Vma | None:
        """Join ``new``, which is in no list yet, to its neighbours; None if neither fits."""
        index = bisect_left(self.starts, new.start)
        left = self.vmas[index - 1] if index else None
        right = self.vmas[index] if index < len(self.vmas) and not left_only else None
        if left and not (self._joins(left, new) and self._anon_joins(left, new.anon_vma, forked)):
            left = None
        if right and not (
            self._joins(new, right)
            and self._anon_joins(right, new.anon_vma, forked)
            and (left is None or self._anons_join(left, right))
        ):
            right = None
        if left is None:
            if right is not None:
                anon.inherit(right, new)
                self.move_start(right, new.start)
            return right
        anon.inherit(left, right if right and right.anon_vma else new)
        if right is None:
            left.end = new.end
            return left
        end = right.end
        self.remove(right)
        left.end = end
        return left

    def merge_changed(self, vma: Vma, start: int, end: int, flags: int) -> Vma | None:
        """Join the part of ``vma`` that is about to get ``flags`` to its neighbours.

        Returns the area that now holds the range, with ``flags``; None if no neighbour fits.
        """
        if flags & VM_SPECIAL:
            return None
        index = bisect_left(self.starts, vma.start)
        part = Vma(start, end, flags, vma.pgoff + (start - vma.start) // PAGE, vma.file, vma.name)
        forked = len(vma.chain) > 1
        left = right = None
        if start == vma.start and index:
            left = self._if_fits_left(self.vmas[index - 1], part, vma.anon_vma, forked)
        if end == vma.end and index + 1 < len(self.vmas):
            right = self.vmas[index + 1]
            if not (
                self._joins(part, right)
                and self._anon_joins(right, vma.anon_vma, forked)
                and (left is None or self._anons_join(left, right))
            ):
                right = None
        return self._absorb(left, vma, right, start, end)

    def _if_fits_left(
        self, left: Vma, part: Vma, source: AnonVma | None, forked: bool
    ) -> Vma | None:
        fits = self._joins(left, part) and self._anon_joins(left, source, forked)
        return left if fits else None

    def _absorb(
        self, left: Vma | None, vma: Vma, right: Vma | None, start: int, end: int
    ) -> Vma | None:
        """Give [start, end) of ``vma`` to ``left``, to ``right``, or to both joined."""
        if left is not None and right is not None:
            anon.inherit(left, right if right.anon_vma else vma)
            end = right.end
            self.remove(right)
            self.remove(vma)
            left.end = end
            return left
        if left is not None:
            anon.inherit(left, vma)
            if end == vma.end:
                self.remove(vma)
            else:
                self.move_start(vma, end)
            left.end = end
            return left
        if right is not None:
            anon.inherit(right, vma)
            if start == vma.start:
                self.remove(vma)
            else:
                vma.end = start
            self.move_start(right, start)
        return right

    def isolate(self, vma: Vma, start: int, end: int) -> Vma:
        """Cut ``vma`` so that one area is exactly the range, and return that."""
        if vma.start < start:
            vma = self.split(vma, start)
        if vma.end > end:
            self.split(vma, end)
        return vma

    # --- anonymous trees ----------------------------------------------------------------

    def prepare_anon(self, vma: Vma) -> None:
        """Give ``vma`` its anonymous tree, because it gets its first private page.

        It shares the tree of a neighbour that continues it and differs in access rights only,
        the next one first.
        """
        if vma.anon_vma is not None:
            return
        index = bisect_left(self.starts, vma.start)
        tree = None
        if index + 1 < len(self.vmas):
            tree = self._shareable(vma, self.vmas[index + 1])
        if tree is None and index:
            tree = self._shareable(self.vmas[index - 1], vma)
        anon.adopt(vma, AnonVma() if tree is None else tree)

    def _shareable(self, left: Vma, right: Vma) -> AnonVma | None:
        """Return the tree that one of two neighbours has and the other may join."""
        owner = left if left.anon_vma is not None else right
        alike = (
            left.end == right.start
            and left.file is right.file
            and not (left.flags ^ right.flags) & ~VM_ACCESS
            and left.pgoff + left.pages == right.pgoff
            and (self.rule == "either" or len(owner.chain) == 1)
        )
        return owner.anon_vma if alike else None

    # --- checking -----------------------------------------------------------------------

    def check(self) -> None:
        """Raise :class:`EngineBug` unless areas are sorted, disjoint, whole and merged."""
        last = 0
        for start, vma in zip(self.starts, self.vmas, strict=True):
            if not (start == vma.start < vma.end and vma.start >= last):
                message = f"area {vma.start:#x}-{vma.end:#x} out of order after {last:#x}"
                raise EngineBug(message)
            if (vma.start | vma.end) % PAGE or (vma.anon_vma is None) != (not vma.chain):
                message = f"area {vma.start:#x}-{vma.end:#x} is not whole"
                raise EngineBug(message)
            last = vma.end
