"""Memory cgroups: limits that a group of processes shares (cgroup v2 ``memory`` controller)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyalloc import engine
from pyalloc.errors import ArgumentError
from pyalloc.kernel.proctext import ProcText
from pyalloc.units import PAGE, parse_size

if TYPE_CHECKING:
    from pyalloc.machine.machine import Machine


def pages_of_limit(value: int | str | None, name: str) -> int:
    """Return a limit in pages; None and ``"max"`` are no limit."""
    if value is None or value == "max":
        return engine.UNLIMITED
    return parse_size(value, name) // PAGE


class Cgroup:
    """One memory cgroup; made by :meth:`Machine.cgroup <pyalloc.Machine.cgroup>`."""

    def __init__(
        self, machine: Machine, name: str, number: int, parent: Cgroup | None = None
    ) -> None:
        self.machine = machine
        self.name = name
        self.number = number
        self.parent = parent
        self.oom_group = False
        """``memory.oom.group``: whether the OOM killer ends all of it at once."""

    @property
    def path(self) -> str:
        """Its path below the root of the hierarchy, such as ``/web``."""
        return f"{self.parent.path if self.parent else ''}/{self.name}"

    def counters(self) -> dict[str, int]:
        """Return usage and events in pages, those of the cgroups below it included."""
        return self.machine.ram.group(self.number)

    def stat(self) -> ProcText[int]:
        """Return the lines of ``memory.stat`` that the machine knows: sizes in bytes, and events.

        As on Linux counters are added up for whoever reads it, and reclaim, which otherwise knows
        them as of up to two seconds ago, does from then on.
        """
        self.machine.ram.flush_stats()
        pages, usage = self.machine.ram.group_pages(self.number), self.counters()
        cached = pages["file"] + pages["shmem"] + pages["swap_cached"]
        sizes = {
            "anon": pages["anon"],
            "file": cached,
            "kernel": usage["usage"] - pages["anon"] - cached,
            "pagetables": usage["tables"],
            "shmem": pages["shmem"],
            "file_mapped": pages["mapped"],
            "file_dirty": pages["dirty"],
            "file_writeback": pages["writing"],
            "swapcached": pages["swap_cached"],
            "inactive_anon": pages["inactive_anon"],
            "active_anon": pages["active_anon"],
            "inactive_file": pages["inactive_file"],
            "active_file": pages["active_file"],
            "unevictable": pages["unevictable"],
        }
        fields = {name: count * PAGE for name, count in sizes.items()}
        fields |= {"pgscan": usage["scanned"], "pgsteal": usage["stolen"]}
        return ProcText("".join(f"{name} {value}\n" for name, value in fields.items()), fields)

    @property
    def memory_current(self) -> int:
        """``memory.current``: bytes charged."""
        return self.counters()["usage"] * PAGE

    @property
    def memory_peak(self) -> int:
        """``memory.peak``: the most bytes ever charged."""
        return self.counters()["usage_peak"] * PAGE

    @property
    def swap_current(self) -> int:
        """``memory.swap.current``: bytes of swap in use."""
        return self.counters()["usage_swap"] * PAGE

    @property
    def memory_high(self) -> int | None:
        """``memory.high`` in bytes, None is max: beyond it one reclaims and waits."""
        pages = self.counters()["high"]
        return None if pages == engine.UNLIMITED else pages * PAGE

    @memory_high.setter
    def memory_high(self, value: int | str | None) -> None:
        self.machine.ram.throttle_group(self.number, pages_of_limit(value, "memory_high"))

    def set_limits(
        self, *, memory_max: int | str | None = None, swap_max: int | str | None = None
    ) -> None:
        """Change ``memory.max`` and ``memory.swap.max``; None leaves a limit as it is.

        Raises
        ------
        ArgumentError
            The usage cannot be brought below the new limit without killing somebody.
        """
        now = self.counters()
        limit = now["limit"] if memory_max is None else pages_of_limit(memory_max, "memory_max")
        swap = now["swap_limit"] if swap_max is None else pages_of_limit(swap_max, "swap_max")
        if not self.machine.ram.limit_group(self.number, limit, swap):
            message = (
                f"{self.path} uses {self.memory_current} bytes that cannot be reclaimed;"
                " raise memory_max, or end a process in it"
            )
            raise ArgumentError(message)

    def __repr__(self) -> str:
        return f"<Cgroup {self.path}>"
