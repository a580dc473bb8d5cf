"""What an address space tells of its page layer, and one for who has none."""

from __future__ import annotations

from typing import Protocol

from pyalloc.kernel.area import Vma
from pyalloc.kernel.files import Inode, OpenFile


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

    def cool(self, start: int, end: int) -> None:
        """Let the pages of a range that nobody else maps be among the next to go (MADV_COLD)."""

    def page_out(self, start: int, end: int) -> None:
        """Let them go now (MADV_PAGEOUT)."""

    def read_ahead(self, file: OpenFile, first: int, count: int) -> None:
        """Begin to read pages of a file into the page cache (MADV_WILLNEED)."""

    def punch(self, inode: Inode, first: int, count: int) -> None:
        """Drop pages of an object for everybody who maps them (MADV_REMOVE)."""

    def collapse(self, vma: Vma, start: int) -> str:
        """Make one page of the 2 MB at ``start`` (MADV_COLLAPSE).

        "done", "cannot", "nothing" is mapped anywhere near, or there is no "room".
        """

    def is_guarded(self, address: int) -> bool:
        """Return whether there is a guard at an address."""

    def guard(self, start: int, end: int) -> None:
        """Drop the pages of a range and let no page come there (MADV_GUARD_INSTALL)."""

    def unguard(self, start: int, end: int) -> None:
        """Let pages come to a range again (MADV_GUARD_REMOVE)."""

    def protect(self, vma: Vma, start: int, end: int) -> None:
        """Allow or refuse writes to a range from now on, as ``vma``, which holds it, says."""

    def lock(self, start: int, end: int, locked: bool) -> None:
        """Keep the pages of a range that are in memory there, or no longer."""

    def populate(
        self,
        vma: Vma,
        start: int,
        end: int,
        write: bool,
        *,
        own: bool = False,
        tries: bool = False,
    ) -> bool:
        """Fault in a range inside ``vma``, as far as memory and its object go; False: not all.

        ``own`` (madvise, mprotect) counts faults as the program's own are; else those that waited
        for the disk count as minor (6.x: ``__mm_populate`` tries again without FOLL_TRIED).
        ``tries`` (madvise) counts whatever it had to wait for as major (FOLL_TRIED).
        """


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

    def cool(self, start: int, end: int) -> None:
        """Do nothing."""

    def page_out(self, start: int, end: int) -> None:
        """Do nothing."""

    def read_ahead(self, file: OpenFile, first: int, count: int) -> None:
        """Do nothing."""

    def punch(self, inode: Inode, first: int, count: int) -> None:
        """Do nothing."""

    def collapse(self, vma: Vma, start: int) -> str:  # noqa: ARG002
        """Return that nothing is there."""
        return "nothing"

    def is_guarded(self, address: int) -> bool:  # noqa: ARG002
        """Return that there is none."""
        return False

    def guard(self, start: int, end: int) -> None:
        """Do nothing."""

    def unguard(self, start: int, end: int) -> None:
        """Do nothing."""

    def protect(self, vma: Vma, start: int, end: int) -> None:
        """Do nothing."""

    def lock(self, start: int, end: int, locked: bool) -> None:
        """Do nothing."""

    def populate(
        self,
        vma: Vma,
        start: int,  # noqa: ARG002
        end: int,
        write: bool,  # noqa: ARG002
        *,
        own: bool = False,  # noqa: ARG002
        tries: bool = False,  # noqa: ARG002
    ) -> bool:
        """Return whether the object goes so far."""
        return end <= vma.object_end
