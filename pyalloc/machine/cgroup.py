"""Memory cgroups: limits that a group of processes shares (cgroup v2 ``memory`` controller)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from pyalloc import engine
from pyalloc.errors import ArgumentError
from pyalloc.kernel.proctext import ProcText
from pyalloc.units import PAGE, parse_size

if TYPE_CHECKING:
    from pyalloc.machine.machine import Machine


_SIZES: Final = (
    "anon", "file", "kernel", "kernel_stack", "pagetables", "sec_pagetables", "percpu", "sock",
    "vmalloc", "shmem", "file_mapped", "file_dirty", "file_writeback", "swapcached", "anon_thp",
    "file_thp", "shmem_thp", "inactive_anon", "active_anon", "inactive_file", "active_file",
    "unevictable", "slab_reclaimable", "slab_unreclaimable", "slab",
)  # fmt: skip
_EVENTS: Final = (
    "workingset_refault_anon", "workingset_refault_file", "workingset_activate_anon",
    "workingset_activate_file", "workingset_restore_anon", "workingset_restore_file",
    "workingset_nodereclaim", "pgdemote_kswapd", "pgdemote_direct", "pgdemote_khugepaged",
    "pgpromote_success", "pgscan", "pgsteal", "pgscan_kswapd", "pgscan_direct",
    "pgscan_khugepaged", "pgsteal_kswapd", "pgsteal_direct", "pgsteal_khugepaged", "pgfault",
    "pgmajfault", "pgrefill", "pgactivate", "pgdeactivate", "pglazyfree", "pglazyfreed",
    "swpin_zero", "swpout_zero", "thp_fault_alloc", "thp_collapse_alloc", "thp_swpout",
    "thp_swpout_fallback", "numa_pages_migrated", "numa_pte_updates", "numa_hint_faults",
)  # fmt: skip
"""The lines of ``memory.stat`` of a running 6.12, in order."""
_WORKINGSET: Final = {"refault": "refaults", "activate": "activated", "restore": "restored"}
_OOM_EVENTS: Final = ("low", "high", "max", "oom", "oom_kill", "oom_group_kill")


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
        self._oom_events = dict.fromkeys(("oom", "oom_kill", "oom_group_kill"), 0)
        self._hits_of_dying = 0

    @property
    def path(self) -> str:
        """Its path below the root of the hierarchy, such as ``/web``."""
        return f"{self.parent.path if self.parent else ''}/{self.name}"

    def counters(self) -> dict[str, int]:
        """Return usage and events in pages, those of the cgroups below it included."""
        self.machine.grace.pass_by()
        return self.machine.ram.group(self.number)

    @property
    def limit_hits(self) -> int:
        """How often it was at its own ``memory.max``."""
        return self.machine.ram.limit_hits(self.number)

    def stat(self) -> ProcText[int]:
        """Return ``memory.stat``: sizes in bytes, and events, of it and all below it.

        As on Linux counters are added up for whoever reads it, and reclaim, which otherwise knows
        them as of up to two seconds ago, does from then on.
        """
        self.machine.ram.flush_stats()
        fields = self._sizes() | self._happenings()
        return ProcText("".join(f"{name} {value}\n" for name, value in fields.items()), fields)

    def _sizes(self) -> dict[str, int]:
        pages, usage = self.machine.ram.group_pages(self.number), self.counters()
        cached = pages["file"] + pages["shmem"] + pages["swap_cached"]
        kernel = usage["usage"] - pages["anon"] - cached
        sizes = dict.fromkeys(_SIZES, 0) | {
            "anon": pages["anon"],
            "file": cached,
            "kernel": kernel,
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
            "slab_unreclaimable": kernel - usage["tables"],
            "slab": kernel - usage["tables"],
        }
        return {name: count * PAGE for name, count in sizes.items()}

    def _happenings(self) -> dict[str, int]:
        usage = self.counters()
        known = {
            f"workingset_{name}_{kind}": usage[f"{counter}{file}"]
            for name, counter in _WORKINGSET.items()
            for file, kind in enumerate(("anon", "file"))
        }
        return dict.fromkeys(_EVENTS, 0) | {
            **known,
            "pgscan": usage["scanned"],
            "pgsteal": usage["stolen"],
            "pgscan_direct": usage["scanned"],
            "pgsteal_direct": usage["stolen"],
            "pgfault": usage["faults"],
            "pgmajfault": usage["major_faults"],
            "pgrefill": usage["refilled"],
        }

    def events(self) -> ProcText[int]:
        """Return ``memory.events``: what happened to it and to all below it."""
        fields = dict.fromkeys(_OOM_EVENTS, 0)
        for group in self.tree():
            for name, count in group.events_local().items():
                fields[name] += count
        return ProcText("".join(f"{name} {value}\n" for name, value in fields.items()), fields)

    def events_local(self) -> ProcText[int]:
        """Return ``memory.events.local``: what happened to it alone."""
        counters = self.counters()
        fields = dict.fromkeys(_OOM_EVENTS, 0) | {
            "high": counters["high_hits"],
            "max": counters["limit_hits"] + self._hits_of_dying,
            **self._oom_events,
        }
        return ProcText("".join(f"{name} {value}\n" for name, value in fields.items()), fields)

    def note(self, event: str, count: int = 1) -> None:
        """Count an event of :meth:`events`: ``oom``, ``oom_kill`` or ``oom_group_kill``."""
        self._oom_events[event] += count

    def note_dying(self) -> None:
        """Whoever asked dies: it runs into the limit 17 times again before it gives up."""
        self._hits_of_dying += 17

    def tree(self) -> Iterator[Cgroup]:
        """Yield it and all below it, each before those below it, as they were made."""
        yield self
        for below in self.machine.cgroups.values():
            if below.parent is self:
                yield from below.tree()

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
