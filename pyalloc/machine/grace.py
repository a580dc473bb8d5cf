"""Page tables of OOM victims, which go later than their pages.

A page table is freed after a grace period of RCU, as others may still walk it (``tlb_remove_table``
of ``mm/mmu_gather.c``), and until then its cgroup pays for it.  So if whoever got a victim's pages
has used them up before, the victim's tables are what it does not get, and the next process is
killed so much earlier.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pyalloc.machine.machine import Machine

GRACE: Final = 0.024
"""Simulated seconds: six ticks of a kernel of 250 Hz, in which one fills some 60 MB."""


class Grace:
    """What is still to be freed on one machine: when, of which cgroup, and how many pages.

    Whoever reads counters does so later than that, but for the OOM killer's own report: while that
    is made ``watched`` is set.
    """

    __slots__ = ("_held", "machine", "watched")

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.watched = False
        self._held: list[tuple[float, int, int]] = []

    def hold(self, group: int, pages: int) -> None:
        """Keep ``pages`` that were just freed for a while."""
        if self.machine.profile.modern and self.machine.ram.charge_kernel(group, pages):
            self._held.append((self.machine.clock + GRACE, group, pages))

    def free(self) -> bool:
        """Free what is due; return whether that was anything."""
        now = self.machine.clock
        return self._free([held for held in self._held if held[0] <= now])

    def pass_by(self) -> None:
        """Let the grace period pass, for somebody who reads counters."""
        if not self.watched:
            self._free(list(self._held))

    def _free(self, due: list[tuple[float, int, int]]) -> bool:
        for held in due:
            self._held.remove(held)
            self.machine.ram.charge_kernel(held[1], -held[2])
        return bool(due)
