"""Physical memory and swap of one machine."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from pyalloc.engine.border import UNLIMITED, CData, Mortal, check, ffi, lib
from pyalloc.engine.pages import Pages
from pyalloc.engine.structs import word_names, words
from pyalloc.errors import ArgumentError, EngineLimit
from pyalloc.nearest import nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


SHAPES: Final[dict[str, int]] = {
    "i386": lib.PA_SHAPE_I386,
    "i386-pae": lib.PA_SHAPE_PAE,
    "x86_64": lib.PA_SHAPE_X86_64,
}
"""Page-table shapes by architecture."""


RULES: Final[dict[str, int]] = {
    "new_anon_active": lib.PA_NEW_ANON_ACTIVE,
    "reclaim_mapped": lib.PA_RECLAIM_MAPPED,
    "second_look": lib.PA_SECOND_LOOK,
    "zero_is_file": lib.PA_ZERO_IS_FILE,
    "frees_discarded": lib.PA_FREES_DISCARDED,
    "exclusive": lib.PA_EXCLUSIVE,
    "moves_tables": lib.PA_MOVES_TABLES,
    "large_folios": lib.PA_LARGE_FOLIOS,
    "accounts_nodes": lib.PA_ACCOUNTS_NODES,
    "workingset": lib.PA_WORKINGSET,
    "zero_map": lib.PA_ZERO_MAP,
    "flusher": lib.PA_FLUSHER,
    "recency": lib.PA_RECENCY,
    "swap_ahead": lib.PA_SWAP_AHEAD,
    "swap_by_area": lib.PA_SWAP_BY_AREA,
    "fills_holes": lib.PA_FILLS_HOLES,
    "migrates": lib.PA_MIGRATES,
    "moves_used": lib.PA_MOVES_USED,
}
"""How reclaim and page tables behave, by name; a kernel profile lists those that hold."""


@dataclass(frozen=True, slots=True)
class RamSettings:
    """What a machine's memory is like; all counts in pages.

    ``shape`` is one of :data:`SHAPES`, ``rules`` a set of :data:`RULES`.
    """

    count_frames: int
    count_slots: int = 0
    count_reserved: int = 0
    watermark_min: int = 0
    watermark_low: int = 0
    watermark_high: int = 0
    shape: str = "x86_64"
    rules: frozenset[str] = frozenset()
    swappiness: int = 60
    page_cluster: int = 3
    counter_batch: int = 0
    """Pages that a processor counts for itself before others know; see ``percpu.c``."""
    costs: Mapping[str, int] = field(default_factory=dict)
    """What things cost in simulated nanoseconds, by the names of ``pa_costs``."""


def _settings_struct(settings: RamSettings) -> CData:
    if settings.shape not in SHAPES:
        message = f"no page-table shape {settings.shape!r}{nearest(settings.shape, SHAPES)}"
        raise ArgumentError(message)
    struct = ffi.new("pa_ram_settings *")
    for name in RamSettings.__slots__:
        if name not in {"shape", "rules", "costs"}:
            setattr(struct, name, getattr(settings, name))
    for name, ns in settings.costs.items():
        setattr(struct.costs, name, ns)
    struct.shape = SHAPES[settings.shape]
    struct.rules = sum(RULES[rule] for rule in settings.rules)
    return struct


_RAM_WORDS: Final = word_names("pa_ram_counters")
_GROUP_WORDS: Final = word_names("pa_group_counters")
_GROUP_PAGES: Final = word_names("pa_group_pages")


_spent: Final[list[CData]] = []
"""The memory of the machine that ended last, for the next one: one at most."""


def _used_memory() -> CData:
    try:
        return _spent.pop()  # two threads may both have seen that there is one
    except IndexError:
        return ffi.NULL


def _retire(handle: CData) -> None:
    """Keep a machine's memory, or give it back."""
    if _spent or not lib.pa_ram_is_small(handle):
        lib.pa_ram_drop(handle)
    else:
        _spent.append(handle)


class Ram(Mortal):
    """Physical memory and swap of one machine; counts in pages, places in page numbers.

    Calls that may run out of frames return ``(pages done, exhausted)``: policy makes room and
    calls again for the rest.
    """

    __slots__ = ("handle", "pass_time", "settings", "system_call")
    _end = "this machine is closed"

    pass_time: Callable[[int, int], None]
    """Let time pass, the second number of nanoseconds with a processor at work."""
    system_call: Callable[[], None]
    """Let the time of a system call pass."""

    def __init__(self, settings: RamSettings) -> None:
        self.settings = settings
        struct = _settings_struct(settings)
        self._take(lib.pa_ram_renew(_used_memory(), struct))

    def _take(self, handle: CData) -> None:
        if handle == ffi.NULL:
            message = f"settings outside their domain, or no memory for them: {self.settings}"
            raise ArgumentError(message)
        self.handle = ffi.gc(handle, _retire)
        self.pass_time = functools.partial(lib.pa_ram_pass, self.handle)
        self.system_call = functools.partial(lib.pa_ram_system_call, self.handle)

    def release(self) -> None:
        """Give the host's memory back; no call may follow, nor one on its processes' pages."""
        ffi.release(self.handle)
        del self.handle, self.pass_time, self.system_call

    def copy(self) -> Ram:
        """Return an identical memory; processes keep their numbers (:meth:`pages`)."""
        twin = Ram.__new__(Ram)
        twin.settings = self.settings
        handle = lib.pa_ram_copy(self.handle)
        if handle == ffi.NULL:
            raise MemoryError
        twin._take(handle)  # noqa: SLF001
        return twin

    def configure(self, settings: RamSettings) -> None:
        """Change everything but frames, slots and shape."""
        check(lib.pa_ram_configure(self.handle, _settings_struct(settings)), "setting up memory")
        self.settings = settings

    def counters(self) -> dict[str, int]:
        """Return pages now and events so far, by the names of ``pa_ram_counters``."""
        counters = ffi.new("pa_ram_counters *")
        lib.pa_ram_read(self.handle, counters)
        return words(counters, _RAM_WORDS)

    def mapped(self) -> int:
        """Return how many pages of files and shared memory somebody maps; looks at all frames."""
        return int(lib.pa_ram_mapped(self.handle))

    def free_blocks(self, first: int, count: int, skip: int) -> tuple[list[int], int]:
        """Return the free blocks of each buddy order among ``count`` frames, less ``skip`` pages.

        The second value is how many pages were left out; fewer than ``skip`` if fewer were free.
        """
        blocks = ffi.new("uint64_t[]", lib.PA_BUDDY_ORDERS)
        left_out = lib.pa_ram_free_blocks(self.handle, first, count, skip, blocks)
        return [int(n) for n in blocks], int(left_out)

    @property
    def time(self) -> int:
        """Simulated time in nanoseconds."""
        return int(lib.pa_ram_time(self.handle))

    @property
    def work(self) -> int:
        """How many nanoseconds of :attr:`time` processors worked."""
        return int(lib.pa_ram_work(self.handle))

    def check(self) -> None:
        """Raise EngineBug unless every invariant holds."""
        check(lib.pa_ram_check(self.handle), "checking physical memory")

    def add_group(self, parent: int, limit: int = UNLIMITED, swap: int = UNLIMITED) -> int:
        """Make a memory cgroup below group ``parent`` (0: the root); return its number."""
        number = int(lib.pa_ram_add_group(self.handle, parent, limit, swap))
        if number < 0:
            message = "a machine has at most 1024 memory cgroups"
            raise EngineLimit(message)
        return number

    def limit_group(self, group: int, limit: int, swap: int) -> bool:
        """Set a group's limits; False if reclaim cannot get it below them."""
        status = lib.pa_ram_limit_group(self.handle, group, limit, swap)
        return self._fits(status, "limiting a memory cgroup")

    def throttle_group(self, group: int, high: int) -> None:
        """Set a group's ``memory.high``; what is above it is reclaimed as far as that goes."""
        check(lib.pa_ram_throttle_group(self.handle, group, high), "throttling a memory cgroup")

    def group(self, group: int) -> dict[str, int]:
        """Return a group's pages and events, by the names of ``pa_group_counters``."""
        counters = ffi.new("pa_group_counters *")
        lib.pa_ram_read_group(self.handle, group, counters)
        return words(counters, _GROUP_WORDS)

    def limit_hits(self, group: int) -> int:
        """Return that one of :meth:`group`, which is quick."""
        return int(lib.pa_ram_limit_hits(self.handle, group))

    def charge_kernel(self, group: int, pages: int) -> bool:
        """Charge memory of the kernel itself; False if there is no room."""
        status = lib.pa_ram_charge_kernel(self.handle, group, pages)
        return self._fits(status, "charging kernel memory")

    @staticmethod
    def _fits(status: int, doing: str) -> bool:
        if status != lib.PA_EXHAUSTED:
            check(status, doing)
        return bool(status == lib.PA_OK)

    def add_object(self, pages: int, *, shmem: bool) -> int:
        """Make a file in the page cache, or shared memory; return its number."""
        number = int(lib.pa_ram_add_object(self.handle, pages, shmem))
        if number < 0:
            message = "a machine has at most 8192 files and shared memories at once"
            raise EngineLimit(message)
        return number

    def resize_object(self, number: int, size: int) -> None:
        """Let an object end after ``size`` bytes; pages past that are dropped, mapped or not."""
        lib.pa_ram_resize_object(self.handle, number, size)

    def zero_edge(self, number: int, byte: int) -> None:
        """Make the rest of the page behind ``byte`` zeros, as a file that ends there has it."""
        lib.pa_ram_zero_edge(self.handle, number, byte)

    def drop_object(self, number: int) -> None:
        """Forget an object and its pages."""
        lib.pa_ram_drop_object(self.handle, number)

    def promise_object(self, number: int) -> None:
        """Promise the pages of shared memory one by one, as they come to be."""
        lib.pa_ram_promise_object(self.handle, number)

    @property
    def promised(self) -> int:
        """Pages promised one by one."""
        return int(lib.pa_ram_promised(self.handle))

    def limit_promised(self, most: int) -> None:
        """Refuse to let :attr:`promised` grow beyond ``most``."""
        lib.pa_ram_limit_promised(self.handle, most)

    def object_resident(self, number: int) -> int:
        """Return how many pages of an object are in frames."""
        return int(lib.pa_ram_object_resident(self.handle, number))

    def group_pages(self, group: int) -> dict[str, int]:
        """Return what a group's pages are, by the names of ``pa_group_pages``: a walk over them."""
        pages = ffi.new("pa_group_pages *")
        lib.pa_ram_read_group_pages(self.handle, group, pages)
        return words(pages, _GROUP_PAGES)

    def flush_stats(self) -> None:
        """Let reclaim know all counters of all groups as they are now."""
        lib.pa_ram_flush_stats(self.handle)

    def add_stream(self, pages: int) -> int:
        """Open a file that is read ahead in windows of up to ``pages``; return its number."""
        number = int(lib.pa_ram_add_stream(self.handle, pages))
        if not number:
            raise MemoryError
        return number

    def access_object(
        self, group: int, number: int, at: int, end: int, *, write: bool, stream: int = 0
    ) -> tuple[int, bool]:
        """Read or write the bytes ``[at, end)`` of an object, as read() and write() on ``stream``.

        The first value says how many pages that were.
        """
        done = ffi.new("uint64_t *")
        status = lib.pa_ram_access_object(self.handle, group, number, at, end, write, stream, done)
        return int(done[0]), not self._fits(status, "reading or writing a file")

    def load_object(self, group: int, number: int, first: int, count: int, order: int) -> int:
        """Cache pages as if read long ago, in folios of up to ``1 << order``; return how many."""
        done = ffi.new("uint64_t *")
        status = lib.pa_ram_load_object(self.handle, group, number, first, count, order, done)
        self._fits(status, "filling the page cache")
        return int(done[0])

    def clean_object(self, number: int, first: int, count: int) -> None:
        """Write dirty pages back; the next write to each of them is noticed again."""
        lib.pa_ram_clean_object(self.handle, number, first, count)

    def forget_object(self, number: int, first: int, count: int) -> None:
        """Drop clean pages that nobody maps."""
        lib.pa_ram_forget_object(self.handle, number, first, count)

    def punch_object(self, number: int, first: int, count: int) -> None:
        """Drop pages, mapped or not: a hole in a file."""
        lib.pa_ram_punch_object(self.handle, number, first, count)

    def new_pages(self, group: int = 0) -> Pages:
        """Return the empty page table of a new process in ``group``."""
        handle = lib.pa_mm_new(self.handle, group)
        if handle == ffi.NULL:
            message = "a machine has at most 8192 processes at once"
            raise EngineLimit(message)
        return Pages(handle, self)

    def pages(self, number: int) -> Pages:
        """Return the pages of the process with this number."""
        handle = lib.pa_ram_mm(self.handle, number)
        if handle == ffi.NULL:
            message = f"no process has number {number}"
            raise ArgumentError(message)
        return Pages(handle, self)
