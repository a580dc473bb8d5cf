"""Overcommit accounting: whether the machine may promise this many pages.

Sources: ``mm/mmap.c`` and ``security/commoncap.c`` of Linux 2.6.11 and 2.6.18, ``mm/util.c`` of
6.12, ``Documentation/mm/overcommit-accounting.rst``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from pyalloc.errors import ArgumentError

GUESS, ALWAYS, NEVER = 0, 1, 2
"""The values of ``vm.overcommit_memory``: heuristic, always yes, strict."""


@dataclass(frozen=True, slots=True)
class OvercommitSettings:
    """The sysctls under ``vm.`` that decide; kilobytes where the name says so."""

    overcommit_memory: int = GUESS
    overcommit_ratio: int = 50
    overcommit_kbytes: int = 0
    admin_reserve_kbytes: int = 8192
    user_reserve_kbytes: int = 131072

    def __post_init__(self) -> None:
        if self.overcommit_memory not in (GUESS, ALWAYS, NEVER):
            message = f"overcommit_memory must be 0, 1 or 2 (got {self.overcommit_memory!r})"
            raise ArgumentError(message)
        for name in (
            "overcommit_ratio",
            "overcommit_kbytes",
            "admin_reserve_kbytes",
            "user_reserve_kbytes",
        ):
            if getattr(self, name) < 0:
                message = f"{name} must not be negative (got {getattr(self, name)!r})"
                raise ArgumentError(message)


@dataclass(frozen=True, slots=True)
class MemoryCounts:
    """What the test looks at, all in pages.  Only 2.6's mode 0 asks for the last five."""

    total_ram: int
    total_swap: int
    committed: int
    total_vm: int
    hugetlb: int = 0
    page_cache: int = 0
    free_ram: int = 0
    free_swap: int = 0
    reclaimable_slab: int = 0
    total_reserve: int = 0


def commit_limit(settings: OvercommitSettings, total_ram: int, swap: int, hugetlb: int = 0) -> int:
    """Return ``CommitLimit`` of /proc/meminfo in pages; ``overcommit_kbytes`` beats the ratio."""
    if settings.overcommit_kbytes:
        return settings.overcommit_kbytes // 4 + swap
    return (total_ram - hugetlb) * settings.overcommit_ratio // 100 + swap


class OvercommitPolicy(Protocol):
    """Answers whether ``pages`` more may be promised."""

    def allows(
        self, settings: OvercommitSettings, counts: MemoryCounts, pages: int, *, root: bool
    ) -> bool:
        """Return the kernel's answer; ``counts.committed`` does not yet include ``pages``."""


@dataclass(frozen=True, slots=True)
class Overcommit26:
    """The test of 2.6: mode 0 counts what could be freed, non-root keeps 1/32 away.

    ``reserve`` is True for 2.6.18, which leaves the watermarks' reserve out of the free pages.
    """

    reserve: bool

    def allows(
        self, settings: OvercommitSettings, counts: MemoryCounts, pages: int, *, root: bool
    ) -> bool:
        """Return the kernel's answer; root means CAP_SYS_ADMIN."""
        if settings.overcommit_memory == ALWAYS:
            return True
        if settings.overcommit_memory == GUESS:
            return self._guess(counts, pages, root=root)
        allowed = (counts.total_ram - counts.hugetlb) * settings.overcommit_ratio // 100
        if not root:
            allowed -= allowed // 32
        allowed += counts.total_swap - counts.total_vm // 32
        return counts.committed + pages < allowed

    def _guess(self, counts: MemoryCounts, pages: int, *, root: bool) -> bool:
        free = counts.page_cache + counts.free_swap + counts.reclaimable_slab
        if not root:
            free -= free // 32
        if free > pages:
            return True
        more = counts.free_ram
        if self.reserve:
            if more <= counts.total_reserve:
                return False
            more -= counts.total_reserve
        if not root:
            more -= more // 32
        return free + more > pages


def could_hold(total_ram: int, total_swap: int, pages: int) -> bool:
    """Return what mode 0 asks since 5.2: whether all of memory is as large as one request."""
    return pages <= total_ram + total_swap


@dataclass(frozen=True, slots=True)
class OvercommitModern:
    """The test since 5.2: mode 0 refuses only what RAM and swap together could never hold."""

    def allows(
        self, settings: OvercommitSettings, counts: MemoryCounts, pages: int, *, root: bool
    ) -> bool:
        """Return the kernel's answer; root means CAP_SYS_ADMIN."""
        if settings.overcommit_memory == ALWAYS:
            return True
        if settings.overcommit_memory == GUESS:
            return could_hold(counts.total_ram, counts.total_swap, pages)
        allowed = commit_limit(settings, counts.total_ram, counts.total_swap, counts.hugetlb)
        if not root:
            allowed -= settings.admin_reserve_kbytes // 4
        allowed -= min(counts.total_vm // 32, settings.user_reserve_kbytes // 4)
        return counts.committed + pages < allowed


OVERCOMMIT_2_6_11 = Overcommit26(reserve=False)
OVERCOMMIT_2_6_18 = Overcommit26(reserve=True)
OVERCOMMIT_6_12 = OvercommitModern()

_POLICIES: Final[Mapping[str, OvercommitPolicy]] = {
    "2.6.11": OVERCOMMIT_2_6_11,
    "2.6.18": OVERCOMMIT_2_6_18,
    "6.12": OVERCOMMIT_6_12,
    "6.18": OVERCOMMIT_6_12,
}


def overcommit_policy(kernel: str) -> OvercommitPolicy:
    """Return the test of a kernel generation."""
    return _POLICIES[kernel]
