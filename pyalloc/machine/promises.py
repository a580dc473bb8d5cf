"""Overcommit on one machine: what is promised, and whether more may be.

The tests are :mod:`pyalloc.kernel.overcommit`'s.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from pyalloc.engine import UNLIMITED
from pyalloc.kernel.overcommit import (
    ALWAYS,
    GUESS,
    NEVER,
    MemoryCounts,
    commit_limit,
    could_hold,
    overcommit_policy,
)
from pyalloc.kernel.zones import total_reserve
from pyalloc.machine.ratelimit import RateLimit
from pyalloc.units import PAGE

if TYPE_CHECKING:
    from pyalloc.machine.machine import Machine


class Asker(Protocol):
    """The process that wants memory to be promised."""

    pid: int
    name: str
    uid: int


class Promises:
    """The account of promised pages (``vm_committed_as``).

    ``areas`` are pages promised to areas and shared mappings at once; the engine counts those of
    shared memory that are promised one by one.
    """

    __slots__ = ("areas", "machine", "policy", "refusals")

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.policy = overcommit_policy(machine.profile.name)
        self.areas = 0
        self.refusals = RateLimit("__vm_enough_memory")

    @property
    def committed(self) -> int:
        """``Committed_AS`` in pages."""
        return self.areas + self.machine.ram.promised

    @property
    def limit(self) -> int:
        """``CommitLimit`` in pages."""
        machine = self.machine
        return commit_limit(machine.overcommit, machine.total_ram, machine.total_swap)

    def refuse(self, process: Asker, pages: int) -> None:
        """Let the log say that ``process`` was not promised ``pages``."""
        if self.machine.profile.modern:
            self.refusals.log(
                self.machine,
                f"__vm_enough_memory: pid: {process.pid}, comm: {process.name},"
                f" bytes: {pages * PAGE} not enough memory for the allocation",
            )

    def allows(self, process: Asker, pages: int, more_vm: int = 0) -> bool:
        """Return whether the policy lets ``process``, larger by ``more_vm``, have ``pages``."""
        machine = self.machine
        settings = machine.overcommit
        mode = settings.overcommit_memory
        if mode == ALWAYS:
            return True
        if mode == GUESS and machine.profile.modern:
            ram = machine.total_ram
            return pages <= ram or could_hold(ram, machine.total_swap, pages)
        counts = self._counts(process, more_vm)
        return self.policy.allows(settings, counts, pages, root=process.uid == 0)

    def _counts(self, process: Asker, more_vm: int) -> MemoryCounts:
        machine = self.machine
        space = getattr(process, "space", None)
        counts = MemoryCounts(
            total_ram=machine.total_ram,
            total_swap=machine.total_swap,
            committed=self.committed,
            total_vm=(space.total_vm if space else 0) + more_vm,
        )
        if machine.overcommit.overcommit_memory != GUESS:
            return counts
        have = machine.ram.counters()
        return replace(
            counts,
            page_cache=have["file"] + have["shmem"] + have["swap_cached"],
            free_ram=have["free"],
            free_swap=have["slots_free"],
            total_reserve=total_reserve(machine.zones),
        )

    def room(self, process: Asker, pages: int) -> int:
        """Return how many of ``pages`` could be promised one by one without a question."""
        machine = self.machine
        mode = machine.overcommit.overcommit_memory
        if mode == ALWAYS:
            return pages
        if mode == GUESS:
            return min(pages, machine.total_ram + machine.total_swap) * machine.profile.modern
        low, high = 0, pages
        while low < high:
            middle = (low + high + 1) // 2
            if self.allows(process, middle, middle):
                low = middle
            else:
                high = middle - 1
        return low

    def watch_shared(self, process: Asker, pages: int) -> None:
        """Tell the engine how much shared memory may come to be while ``process`` works.

        The test is made before each page; in mode 2 alone its answer depends on how many there are.
        """
        ram = self.machine.ram
        strict = self.machine.overcommit.overcommit_memory == NEVER
        ram.limit_promised(ram.promised + self._single(process, pages) if strict else UNLIMITED)

    def _single(self, process: Asker, pages: int) -> int:
        low, high = 0, pages
        while low < high:
            middle = (low + high + 1) // 2
            if self.allows(process, middle):
                low = middle
            else:
                high = middle - 1
        return low
