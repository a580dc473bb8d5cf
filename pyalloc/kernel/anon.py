"""Which anonymous areas share reverse-mapping structures, because that decides what merges.

An area gets an ``anon_vma`` with its first private page.  Two areas that got different ones never
merge again, so the history of faults and forks is visible in ``/proc/PID/maps``.

Source: ``mm/rmap.c`` of Linux 2.6.18, 6.12 and 6.18.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyalloc.kernel.area import Vma


class AnonVma:
    """One tree of areas that may hold the same anonymous page.

    ``children`` counts the trees that were split off it by fork (the root counts itself),
    ``active`` the areas whose own tree it is, ``linked`` all areas that hang on it.
    """

    __slots__ = ("active", "children", "linked", "parent")

    def __init__(self, parent: AnonVma | None = None) -> None:
        self.parent = parent
        self.children = 1 if parent is None else 0
        self.active = 0
        self.linked = 0
        if parent is not None:
            parent.children += 1

    def __deepcopy__(self, memo: dict[int, Any]) -> AnonVma:
        twin = AnonVma.__new__(AnonVma)
        memo[id(self)] = twin
        twin.parent = None if self.parent is None else copied(self.parent, memo)
        twin.children, twin.active, twin.linked = self.children, self.active, self.linked
        return twin


def copied(anon: AnonVma, memo: dict[int, Any]) -> AnonVma:
    """Return the twin of ``anon`` in the copy that ``memo`` belongs to."""
    twin: AnonVma | None = memo.get(id(anon))
    return anon.__deepcopy__(memo) if twin is None else twin


def adopt(vma: Vma, anon: AnonVma) -> None:
    """Give ``vma``, which has none, the tree ``anon`` as its own and only one."""
    vma.anon_vma = anon
    vma.chain = (anon,)
    anon.active += 1
    anon.linked += 1


def clone(target: Vma, source: Vma, *, reuse: bool = False) -> None:
    """Hang ``target`` on every tree of ``source``.

    With ``reuse`` (fork), a tree that no area owns any more becomes the target's own.
    """
    for anon in source.chain:
        anon.linked += 1
        if reuse and target.anon_vma is None and anon.children < 2 and not anon.active:
            target.anon_vma = anon
    target.chain = source.chain
    if target.anon_vma is not None:
        target.anon_vma.active += 1


def inherit(vma: Vma, other: Vma) -> None:
    """Let ``vma``, about to swallow ``other``, take over its trees if it has none itself."""
    if other.anon_vma is not None and vma.anon_vma is None:
        vma.anon_vma = other.anon_vma
        clone(vma, other)


def fork(child: Vma, parent: Vma, *, chains: bool) -> None:
    """Set up the forked copy of ``parent``; ``chains`` is False for 2.6, which shares one tree."""
    child.anon_vma = None
    child.chain = ()
    if parent.anon_vma is None:
        return
    if not chains:
        adopt(child, parent.anon_vma)
        return
    clone(child, parent, reuse=True)
    if child.anon_vma is None:
        own = AnonVma(parent.anon_vma)
        child.anon_vma = own
        child.chain = (*child.chain, own)
        own.active += 1
        own.linked += 1


def unlink(vma: Vma) -> None:
    """Take ``vma`` off all its trees; an empty tree no longer counts as a child."""
    for anon in vma.chain:
        anon.linked -= 1
        if not anon.linked and anon.parent is not None:
            anon.parent.children -= 1
    if vma.anon_vma is not None:
        vma.anon_vma.active -= 1
    vma.anon_vma = None
    vma.chain = ()
