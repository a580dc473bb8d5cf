"""The memory of this machine and its settings: what there is, what is promised, by what rules.

Sources: ``Documentation/filesystems/proc.rst``, ``admin-guide/sysctl/vm.rst`` and
``admin-guide/mm/transhuge.rst`` of Linux 6.12; sysconf(3), confstr(3).
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pyalloc.host import proc
from pyalloc.kernel.overcommit import (
    ALWAYS,
    MemoryCounts,
    OvercommitSettings,
    commit_limit,
    overcommit_policy,
)
from pyalloc.units import PAGE

_SYSCTLS: Final = (
    "overcommit_memory",
    "overcommit_ratio",
    "overcommit_kbytes",
    "admin_reserve_kbytes",
    "user_reserve_kbytes",
    "swappiness",
    "page-cluster",
    "min_free_kbytes",
    "max_map_count",
    "panic_on_oom",
    "oom_kill_allocating_task",
)
_RULES: Final = "6.12"
_ROOT_BONUS_ENDED: Final = (4, 17)
_MODERN_SINCE: Final = (2, 6, 36)


@dataclass(frozen=True, slots=True)
class SwapArea:
    """A line of ``/proc/swaps``; bytes."""

    name: str
    kind: str
    size: int
    used: int
    priority: int


@dataclass(frozen=True, slots=True)
class System:
    """A machine as its kernel tells it; bytes unless the name says otherwise.

    ``meminfo`` is in kB as the file has it.  ``avphys`` is what sysconf calls available physical
    pages: free ones, nothing that could be freed.  ``sysctls`` are those under ``vm.``, without
    what could not be read.
    """

    kernel: str
    machine: str
    libc: str
    meminfo: Mapping[str, int]
    avphys: int
    sysctls: Mapping[str, int]
    swaps: tuple[SwapArea, ...]
    huge_pages: str
    unread: tuple[str, ...] = ()

    def kb(self, *names: str) -> int:
        """Return the sum of fields of meminfo in bytes."""
        return sum(self.meminfo.get(name, 0) for name in names) << 10

    @property
    def free_virtual(self) -> int:
        """Free virtual memory as the article counts it: MemFree, Buffers, Cached and SwapFree."""
        return self.kb("MemFree", "Buffers", "Cached", "SwapFree")

    @property
    def totalpages(self) -> int:
        """What badness is measured against: RAM and swap, in pages."""
        return self.kb("MemTotal", "SwapTotal") // PAGE

    @property
    def settings(self) -> OvercommitSettings:
        """The sysctls that overcommit depends on."""
        names = OvercommitSettings.__slots__
        return OvercommitSettings(**{n: self.sysctls[n] for n in names if n in self.sysctls})

    def counts(self, total_vm: int = 0) -> MemoryCounts:
        """Return what the overcommit test looks at for a process of ``total_vm`` pages."""
        return MemoryCounts(
            total_ram=self.kb("MemTotal") // PAGE,
            total_swap=self.kb("SwapTotal") // PAGE,
            committed=self.kb("Committed_AS") // PAGE,
            total_vm=total_vm,
            hugetlb=self.meminfo.get("HugePages_Total", 0) * self.kb("Hugepagesize") // PAGE,
        )

    def most_promised(self, total_vm: int = 0, *, root: bool) -> int | None:
        """Return the largest single request that overcommit lets pass, in bytes; None: any.

        ``total_vm`` is the size of the process that asks, in pages.
        """
        if self.settings.overcommit_memory == ALWAYS:
            return None
        counts = self.counts(total_vm)
        low, high = 0, counts.total_ram + counts.total_swap + self.commit_limit_pages
        policy = overcommit_policy(_RULES)
        while low < high:
            middle = (low + high + 1) // 2
            if policy.allows(self.settings, counts, middle, root=root):
                low = middle
            else:
                high = middle - 1
        return low * PAGE

    @property
    def commit_limit_pages(self) -> int:
        """``CommitLimit`` by its formula, in pages."""
        counts = self.counts()
        return commit_limit(self.settings, counts.total_ram, counts.total_swap, counts.hugetlb)

    @property
    def version(self) -> tuple[int, ...]:
        """The kernel's version in numbers."""
        match = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", self.kernel)
        return tuple(int(part) for part in match.groups(default="0")) if match else ()

    @property
    def oom_rules(self) -> str:
        """The name of the OOM policy that this kernel follows."""
        return _RULES if self.version >= _MODERN_SINCE else "2.6.18"

    @property
    def oom_remark(self) -> str:
        """What that policy leaves out of this kernel's."""
        if _MODERN_SINCE <= self.version < _ROOT_BONUS_ENDED:
            return "before 4.17 root's processes had 3 % less, which is not counted here"
        return ""


def system() -> System:
    """Return this machine's memory and settings as they are now; never needs root."""
    unread: list[str] = []
    sysctls = {}
    for name in _SYSCTLS:
        text = _read(Path("/proc/sys/vm", name), unread)
        if text is not None:
            sysctls[name] = int(text)
    return System(
        kernel=platform.release(),
        machine=platform.machine(),
        libc=_libc(),
        meminfo=proc.meminfo(),
        avphys=os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        sysctls=sysctls,
        swaps=_swaps(unread),
        huge_pages=_huge_pages(unread),
        unread=tuple(unread),
    )


def _read(path: Path, unread: list[str]) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError as error:
        unread.append(f"{path}: {error.strerror}")
        return None


def _libc() -> str:
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or "unknown"
    except (ValueError, OSError):
        return "unknown"


def _swaps(unread: list[str]) -> tuple[SwapArea, ...]:
    text = _read(Path("/proc/swaps"), unread) or ""
    found = []
    for line in text.splitlines()[1:]:
        name, kind, size, used, priority = line.rsplit(maxsplit=4)
        found.append(SwapArea(name, kind, int(size) << 10, int(used) << 10, int(priority)))
    return tuple(found)


def _huge_pages(unread: list[str]) -> str:
    """Return the setting of transparent huge pages; "never" where the kernel has none."""
    path = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not path.exists():
        return "never"
    chosen = re.search(r"\[(\w+)\]", _read(path, unread) or "")
    return chosen[1] if chosen else "unknown"
