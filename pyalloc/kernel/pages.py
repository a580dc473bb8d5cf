"""What an address space tells of its page layer, and one for who has none."""

from __future__ import annotations

from typing import Protocol

from pyalloc.kernel.area import Vma


class Pages(Protocol):
    """What the page layer is told; addresses in bytes, ends exclusive.

    Calls come when the areas already are as the system call leaves them.
    """

    def unmap(self, start: int, end: int, floor: int, ceiling: int) -> None:
        """Drop all pages of a range; page tables wholly inside (floor, ceiling) go too."""

    def move(self, old: int, new: int, length: int, head: int) -> None:
        """Let the pages at ``old`` be those at ``new``, which has none.

        For ``head`` bytes before both, there are no areas: whole page tables may move.
        """

    def discard(self, start: int, end: int) -> None:
        """Drop all pages of a range that stays mapped (MADV_DONTNEED)."""

    def lazyfree(self, start: int, end: int) -> None:
        """Let the private pages of a range be dropped before anything else (MADV_FREE)."""

    def protect(self, start: int, end: int, writable: bool) -> None:
        """Allow or refuse writes to a range from now on."""

    def lock(self, start: int, end: int, locked: bool) -> None:
        """Keep the pages of a range that are in memory there, or no longer."""

    def populate(self, vma: Vma, start: int, end: int, write: bool) -> None:
        """Fault in a range inside ``vma``, as far as memory and its object go."""


class NoPages:
    """A page layer for who wants areas only."""

    def unmap(self, start: int, end: int, floor: int, ceiling: int) -> None:
        """Do nothing."""

    def move(self, old: int, new: int, length: int, head: int) -> None:
        """Do nothing."""

    def discard(self, start: int, end: int) -> None:
        """Do nothing."""

    def lazyfree(self, start: int, end: int) -> None:
        """Do nothing."""

    def protect(self, start: int, end: int, writable: bool) -> None:
        """Do nothing."""

    def lock(self, start: int, end: int, locked: bool) -> None:
        """Do nothing."""

    def populate(self, vma: Vma, start: int, end: int, write: bool) -> None:
        """Do nothing."""
