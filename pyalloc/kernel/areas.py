"""The areas of a process, and the two things that keep them few: splitting and merging.

Sources: ``mm/vma.c`` of Linux 6.12 and 6.18, ``mm/mmap.c`` of 2.6.11 and 2.6.18.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any, Final

from pyalloc.errors import EngineBug
from pyalloc.kernel import anon
from pyalloc.kernel.abi import VM_ACCESS, VM_MAYBE_GUARD, VM_SPECIAL
from pyalloc.kernel.anon import AnonVma
from pyalloc.kernel.area import Vma
from pyalloc.kernel.arealist import AreaList
from pyalloc.units import PAGE

_STICKY: Final = VM_MAYBE_GUARD
"""Flags that keep no areas apart: the joined one has them if one of its parts had."""
_APART: Final = ~_STICKY
"""Flags that do."""
_APART_BUT_ACCESS: Final = ~(VM_ACCESS | _STICKY)


class Areas(AreaList):
    """Areas in address order, each on its file and its anonymous trees."""

    __slots__ = ("rule",)

    def __init__(self, rule: str, areas: Iterable[Vma] = ()) -> None:
        super().__init__(areas)
        self.rule = rule

    def __deepcopy__(self, memo: dict[int, Any]) -> Areas:
        twin = Areas(self.rule, [copy.deepcopy(vma, memo) for vma in self])
        memo[id(self)] = twin
        return twin

    # --- changing -----------------------------------------------------------------------

    def insert(self, vma: Vma, before: Vma | None = None) -> None:
        """Put ``vma`` where it belongs, behind ``before`` where that is known.

        It counts as a user of its file from now on.
        """
        self.link(vma, before)
        if vma.file is not None:
            vma.file.inode.attach()

    def remove(self, vma: Vma) -> None:
        """Take ``vma`` out, off its file and off its anonymous trees."""
        self.unlink(vma)
        if vma.chain:
            anon.unlink(vma)
        if vma.file is not None:
            vma.file.inode.detach()

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
        if vma.chain:
            anon.clone(high, vma)
        vma.end = at
        self.insert(high, vma)
        return high

    # --- merging ------------------------------------------------------------------------

    def _continues(self, left: Vma, right: Vma) -> bool:
        """Return whether ``right`` begins where ``left`` ends, in the same object."""
        return (
            left.end == right.start
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

    def merge_new(
        self, new: Vma, left: Vma | None, right: Vma | None, *, forked: bool = False
    ) -> Vma | None:
        """Join ``new``, which is in no list yet, to what is before and after it.

        ``forked`` tells that it has pages of a parent.  Returns the area that now holds it, None if
        neither fits.
        """
        if left and (
            (left.flags ^ new.flags) & _APART
            or not self._continues(left, new)
            or not self._anon_joins(left, new.anon_vma, forked)
        ):
            left = None
        if right and (
            (right.flags ^ new.flags) & _APART
            or not self._continues(new, right)
            or not self._anon_joins(right, new.anon_vma, forked)
            or (left is not None and not self._anons_join(left, right))
        ):
            right = None
        if left is None:
            if right is not None:
                if new.chain:
                    anon.inherit(right, new)
                right.flags |= new.flags & _STICKY
                self.move_start(right, new.start)
            return right
        left.flags |= (new.flags | (right.flags if right else 0)) & _STICKY
        if right is None:
            if new.chain:
                anon.inherit(left, new)
            left.end = new.end
            return left
        anon.inherit(left, right if right.anon_vma else new)
        end = right.end
        self.remove(right)
        left.end = end
        return left

    def merge_changed(self, vma: Vma, start: int, end: int, flags: int) -> Vma | None:
        """Join the part of ``vma`` that is about to get ``flags`` to its neighbours.

        Returns the area that now holds the range, with ``flags``; None if no neighbour fits.
        """
        left = vma.prev if start == vma.start else None
        if left and (left.flags ^ flags) & _APART:
            left = None
        right = vma.next if end == vma.end else None
        if right and (right.flags ^ flags) & _APART:
            right = None
        if left is None and right is None:
            return None
        own, forked = vma.anon_vma, len(vma.chain) > 1
        if left and not (self._continues(left, vma) and self._anon_joins(left, own, forked)):
            left = None
        if right and not (
            self._continues(vma, right)
            and self._anon_joins(right, own, forked)
            and (left is None or self._anons_join(left, right))
        ):
            right = None
        return self._absorb(left, vma, right, start, end)

    def _absorb(
        self, left: Vma | None, vma: Vma, right: Vma | None, start: int, end: int
    ) -> Vma | None:
        """Give [start, end) of ``vma`` to ``left``, to ``right``, or to both joined."""
        for target in (left, right):
            if target is not None:
                target.flags |= vma.flags & _STICKY
        if left is not None and right is not None:
            left.flags |= right.flags & _STICKY
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

    # --- anonymous trees ----------------------------------------------------------------

    def prepare_anon(self, vma: Vma) -> None:
        """Give ``vma`` its anonymous tree, because it gets its first private page.

        It shares the tree of a neighbour that continues it and differs in access rights only,
        the next one first.
        """
        if vma.anon_vma is not None:
            return
        tree = self._shareable(vma, vma.next) if vma.next is not None else None
        if tree is None and vma.prev is not None:
            tree = self._shareable(vma.prev, vma)
        anon.adopt(vma, AnonVma() if tree is None else tree)

    def _shareable(self, left: Vma, right: Vma) -> AnonVma | None:
        """Return the tree that one of two neighbours has and the other may join."""
        owner = left if left.anon_vma is not None else right
        alike = (
            left.end == right.start
            and left.file is right.file
            and not (left.flags ^ right.flags) & _APART_BUT_ACCESS
            and left.pgoff + left.pages == right.pgoff
            and (self.rule == "either" or len(owner.chain) == 1)
        )
        return owner.anon_vma if alike else None

    # --- checking -----------------------------------------------------------------------

    def check(self) -> None:
        """Raise :class:`EngineBug` unless areas are sorted, disjoint and whole."""
        super().check()
        for vma in self:
            if (vma.start | vma.end) % PAGE or (vma.anon_vma is None) != (not vma.chain):
                message = f"area {vma.start:#x}-{vma.end:#x} is not whole"
                raise EngineBug(message)
