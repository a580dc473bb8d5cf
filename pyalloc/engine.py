"""The border to the engine: the only file that touches cffi's ``ffi`` and ``lib``.

One class a handle.  Status codes become exceptions here and nowhere else; no ``ffi`` object leaves.
"""

from __future__ import annotations

import difflib
import functools
import operator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pyalloc._engine import ffi, lib
from pyalloc.errors import ArgumentError, EngineBug, EngineBusy, EngineLimit, PyallocError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy.typing as npt

PENDING: Final[int] = lib.PA_PENDING
"""In place of a pointer: the call is stopped, policy must answer (``Heap.stop``)."""

STOP_BRK: Final[int] = lib.PA_STOP_BRK
STOP_MMAP: Final[int] = lib.PA_STOP_MMAP
STOP_MREMAP: Final[int] = lib.PA_STOP_MREMAP
STOP_MUNMAP: Final[int] = lib.PA_STOP_MUNMAP
STOP_MPROTECT: Final[int] = lib.PA_STOP_MPROTECT
STOP_FRAMES: Final[int] = lib.PA_STOP_FRAMES
STOP_ABORT: Final[int] = lib.PA_STOP_ABORT
STOP_TOUCH: Final[int] = lib.PA_STOP_TOUCH

_EXCEPTIONS: Final[dict[int, type[Exception]]] = {
    lib.PA_ERR_HOST_NOMEM: MemoryError,
    lib.PA_ERR_INVALID: ArgumentError,
    lib.PA_ERR_LIMIT: EngineLimit,
    lib.PA_ERR_CORRUPT: EngineBug,
    lib.PA_ERR_BUSY: EngineBusy,
    lib.PA_GUARDED: EngineLimit,  # only a heap's own writes: an allocator does not stop half-way
}


class GuardedPage(PyallocError):
    """The page after the ``done`` pages that were served is a guard."""

    def __init__(self, done: int) -> None:
        super().__init__("a guard page")
        self.done = done


def check(status: int, doing: str) -> None:
    """Raise for ``status`` unless it is PA_OK; ``doing`` completes 'while ...'."""
    if status:
        text = ffi.string(lib.pa_status_text(status)).decode()
        message = f"{text} (while {doing})"
        raise _EXCEPTIONS[status](message)


def allocator_names() -> list[str]:
    """Return the name of every allocator in the engine."""
    return list(_allocator_names())


@functools.cache
def _allocator_names() -> tuple[str, ...]:
    names: list[str] = []
    while (name := lib.pa_allocator_name(len(names))) != ffi.NULL:
        names.append(ffi.string(name).decode())
    return tuple(names)


def allocator_changes() -> list[str]:
    """Return what each allocator changes against the generation before, in words."""
    return [ffi.string(lib.pa_allocator_changes(i)).decode() for i in range(len(allocator_names()))]


@dataclass(frozen=True, slots=True)
class Stop:
    """A question of the engine to policy; addresses and lengths in bytes."""

    reason: int
    address: int
    length: int
    old_length: int
    prot: int
    answer: int


@dataclass(frozen=True, slots=True)
class HeapStatistics:
    """Where the bytes of a heap are; free chunks by the kind of list that holds them."""

    bytes_system: int
    bytes_system_peak: int
    bytes_mapped: int
    count_mapped: int
    bytes_mapped_peak: int
    count_mapped_peak: int
    bytes_tcache: int
    count_tcache: int
    bytes_fast: int
    count_fast: int
    bytes_unsorted: int
    count_unsorted: int
    bytes_small: int
    count_small: int
    bytes_large: int
    count_large: int
    bytes_top: int
    bytes_largest_hole: int
    bytes_own: int
    bytes_header: int
    bytes_header_mapped: int
    count_arenas: int
    count_brk_calls: int
    count_mmap_calls: int
    count_madvise_calls: int
    count_arena_calls: int
    count_steps: int
    bytes_largest_asked: int
    bytes_top_kept: int
    bytes_top_trimmed: int
    count_threshold_moves: int


@dataclass(frozen=True, slots=True)
class Layout:
    """A heap as a whole; what a cache (tcache, fastbin) holds is free.

    ``pages_by_tenth[0]`` counts the pages of which nothing is in use, ``[i]`` those of which more
    than (i - 1) / 10 and up to i / 10 is.  ``bytes_trimmed`` (of the break, negative if it would
    move up) and ``pages_trimmed`` (resident ones) are what ``malloc_trim(0)`` would give back.
    """

    bytes_used: int
    count_used: int
    bytes_free: int
    count_free: int
    bytes_largest_free: int
    squares_free: float
    pages_held: int
    pages_backed: int
    pages_by_tenth: tuple[int, ...]
    bytes_trimmed: int
    pages_trimmed: int


CHUNK: Final = np.dtype(
    [
        ("address", np.uint64),
        ("size", np.uint64),
        ("arena", np.uint32),
        ("thread", np.uint32),
        ("state", np.uint16),
        ("bin", np.uint16),
        ("flags", np.uint16),
        ("spare", np.uint16),
    ]
)
"""A chunk, as ``pa_chunk``: address of the user's memory, bytes with header, where it is kept."""

NO_THREAD: Final[int] = lib.PA_NO_THREAD

CHUNK_STATES: Final = (
    "used",
    "tcache",
    "fast",
    "unsorted",
    "small",
    "large",
    "top",
    "mapped",
    "fence",
    "own",
)
"""What a chunk is: in use, free in one of the kinds of lists, the top, a mapping of its own, the
end of a stretch of memory, the library's own."""


@dataclass(frozen=True, slots=True)
class ArenaView:
    """An arena and the heaps it lives in; bytes.  ``index`` is the chunks' ``arena``."""

    index: int
    count_threads: int
    count_heaps: int
    is_contiguous: int
    bytes_system: int
    bytes_system_peak: int
    top: int
    bytes_top: int
    bytes_heaps: int
    bytes_writable: int
    bytes_newest: int
    bytes_newest_writable: int


@dataclass(frozen=True, slots=True)
class Settings:
    """How a ptmalloc is set at the moment; bytes unless the name says otherwise.

    ``version`` is 236 for glibc 2.36, 203 for 2.3.3; ``fast_limit`` and ``tcache_limit`` are chunk
    sizes, the one included and the other not; ``is_dynamic`` (0 or 1) says that the mmap and trim
    thresholds follow the blocks that are freed.
    """

    version: int
    word: int
    align: int
    count_tcache: int
    tcache_limit: int
    fast_limit: int
    mmap_threshold: int
    trim_threshold: int
    top_pad: int
    count_mmaps_max: int
    is_dynamic: int
    huge_page: int


@dataclass(frozen=True, slots=True)
class MallInfo:
    """What mallinfo2 of the simulated library says, under its names; bytes and chunks.

    ``uordblks`` counts chunks in a tcache as in use; ``usmblks`` is always 0.
    """

    arena: int
    ordblks: int
    smblks: int
    hblks: int
    hblkhd: int
    usmblks: int
    fsmblks: int
    uordblks: int
    fordblks: int
    keepcost: int


def _given_up(heap: Heap) -> Any:  # noqa: ANN401 - a cffi pointer
    """Return the handle of a heap that is dead from now on."""
    handle: Any = heap.handle
    del heap.handle, heap.moved_from
    ffi.gc(handle, None)
    return handle


def _statistics(struct: Any) -> HeapStatistics:  # noqa: ANN401 - a cffi struct
    return HeapStatistics(*_READ_STATISTICS(struct))


_READ_STATISTICS: Final = operator.attrgetter(*HeapStatistics.__slots__)


class _Mortal:
    """What has a ``handle`` only while it lives: a call on it afterwards is an error, no crash."""

    __slots__ = ()
    _end = ""

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - asked only for what is missing
        if name not in {"handle", "moved_from", "set_brk", "unmap"}:
            raise AttributeError(name)
        raise ArgumentError(self._end)


class Heap(_Mortal):
    """One process's allocator.

    Calls return a pointer (0: NULL) or ``PENDING``; then ``stop`` has the question, ``answer``
    takes the reply and ``resume`` goes on.  ``spent`` is a heap whose memory may be used again; it
    is gone afterwards.
    """

    _end = "this heap is gone: its process has ended, or another heap has its memory"
    moved_from: Callable[[int], bool]
    """Whether the break has been anywhere but there since its peak was last asked for."""
    set_brk: Callable[[int], None]
    """Tell the heap that somebody else moved the break."""

    def __init__(
        self, allocator: str, word: int, brk_start: int, cpus: int, spent: Heap | None = None
    ) -> None:
        known = _allocator_names()
        if allocator not in known:
            near = difflib.get_close_matches(allocator, known, n=3, cutoff=0.4) or known
            message = f"no allocator {allocator!r}; did you mean {', '.join(near)}?"
            raise ArgumentError(message)
        old = ffi.NULL if spent is None else _given_up(spent)
        handle = lib.pa_heap_renew(old, allocator.encode(), word, brk_start, cpus)
        if handle == ffi.NULL:
            raise MemoryError
        self._take(handle)

    @property
    def is_small(self) -> bool:
        """Whether its memory is worth keeping for the next heap (``spent``)."""
        return bool(lib.pa_heap_is_small(self.handle))

    def _take(self, handle: Any) -> None:  # noqa: ANN401 - a cffi pointer
        self.handle = ffi.gc(handle, lib.pa_heap_drop)
        self.moved_from = functools.partial(lib.pa_heap_moved, self.handle)
        self.set_brk = functools.partial(lib.pa_heap_set_break, self.handle)

    def release(self) -> None:
        """Give the host's memory back; no call may follow but :meth:`copy`."""
        ffi.release(self.handle)
        del self.handle, self.moved_from, self.set_brk

    def copy(self, pages: Pages | None = None) -> Heap:
        """Return an identical heap on ``pages``, or on none."""
        if "handle" not in self.__dict__:
            return self
        handle = lib.pa_heap_copy(self.handle, ffi.NULL if pages is None else pages.handle)
        if handle == ffi.NULL:
            raise MemoryError
        heap = Heap.__new__(Heap)
        heap._take(handle)  # noqa: SLF001
        return heap

    def attach(self, pages: Pages | None) -> None:
        """Model touches on ``pages``, or on none; they must outlive the heap's next call."""
        lib.pa_heap_attach(self.handle, ffi.NULL if pages is None else pages.handle)

    def entries(self) -> tuple[Callable[..., int], Callable[..., int], Callable[..., int]]:
        """Return malloc, free and realloc as bare functions: the fastest way in."""
        return (
            functools.partial(lib.pa_heap_malloc, self.handle),
            functools.partial(lib.pa_heap_free, self.handle),
            functools.partial(lib.pa_heap_realloc, self.handle),
        )

    @property
    def is_stopped(self) -> bool:
        """Whether a call waits for an answer (a result may happen to equal ``PENDING``)."""
        return bool(lib.pa_heap_is_stopped(self.handle))

    def malloc(self, size: int) -> int:
        """Call malloc."""
        return int(lib.pa_heap_malloc(self.handle, size))

    def free(self, pointer: int) -> int:
        """Call free."""
        return int(lib.pa_heap_free(self.handle, pointer))

    def realloc(self, pointer: int, size: int) -> int:
        """Call realloc."""
        return int(lib.pa_heap_realloc(self.handle, pointer, size))

    def other(self, op: int, size: int, arg: int) -> int:
        """Make any other call by its op number."""
        return int(lib.pa_heap_other(self.handle, op, size, arg))

    def set_thread(self, thread: int) -> None:
        """Let the next calls be made by ``thread``."""
        lib.pa_heap_set_thread(self.handle, thread)

    def resume(self) -> int:
        """Go on with the stopped call."""
        return int(lib.pa_heap_resume(self.handle))

    def answer(self, value: int) -> None:
        """Answer the question in ``stop``."""
        lib.pa_heap_answer(self.handle, value)

    @property
    def stop(self) -> Stop:
        """The question the engine stopped with."""
        s = lib.pa_heap_stop(self.handle)
        return Stop(s.reason, s.address, s.length, s.old_length, s.prot, s.answer)

    def set_program(self, name: str) -> None:
        """Tell what the program is called in the library's last words (``argv[0]``)."""
        lib.pa_heap_set_program(self.handle, name.encode())

    @property
    def abort_text(self) -> str:
        """What the C library said when it aborted; empty for a fault."""
        return str(ffi.string(lib.pa_heap_abort_text(self.handle)).decode())

    def raise_error(self) -> None:
        """Raise if the model itself gave up."""
        check(lib.pa_heap_error(self.handle), "growing a simulated heap")

    def lease(self, highest: int, floor_vpn: int = 0, ceiling_vpn: int = 1 << 52) -> None:
        """Let the break move up to ``highest`` without a question."""
        lib.pa_heap_lease(self.handle, highest, floor_vpn, ceiling_vpn)

    @property
    def brk(self) -> int:
        """The program break as the heap has moved it."""
        return int(lib.pa_heap_break(self.handle))

    def take_peak(self) -> int:
        """Return the highest break since this was last asked."""
        return int(lib.pa_heap_break_peak(self.handle))

    def usable_size(self, pointer: int) -> int:
        """Return malloc_usable_size of ``pointer`` in bytes."""
        return int(lib.pa_heap_usable_size(self.handle, pointer))

    def tunable(self, name: str, value: int) -> bool:
        """Set a tunable by its name after ``glibc.malloc.``; False if it is unknown or refused."""
        return int(lib.pa_heap_tunable(self.handle, name.encode(), value)) == 0

    def environment(self, name: str, text: str) -> bool:
        """Let the library read a variable of the environment at its start; False: it ignores it."""
        return int(lib.pa_heap_environment(self.handle, name.encode(), text.encode())) == 0

    def statistics(self) -> HeapStatistics:
        """Return where the bytes are."""
        s = ffi.new("pa_heap_statistics *")
        lib.pa_heap_read_statistics(self.handle, s)
        return _statistics(s)

    def mallinfo(self, arena: int | None = None) -> MallInfo:
        """Return mallinfo2 of all arenas, or of one in the order in which malloc_stats has them."""
        info = ffi.new("pa_mallinfo *")
        number = 0xFFFFFFFF if arena is None else arena
        check(lib.pa_heap_mallinfo(self.handle, number, info), "reading mallinfo")
        return MallInfo(**{name: int(getattr(info, name)) for name in MallInfo.__slots__})

    def chunks(self) -> npt.NDArray[np.void]:
        """Return every chunk in address order: :data:`CHUNK`, state one of CHUNK_STATES."""
        return self._chunks(lib.pa_heap_walk)

    def lists(self) -> npt.NDArray[np.void]:
        """Return every free chunk but the top, list by list, in the lists' own order."""
        return self._chunks(lib.pa_heap_list)

    def _chunks(self, read: Callable[..., int]) -> npt.NDArray[np.void]:
        count = int(read(self.handle, ffi.NULL, 0))
        found = np.zeros(count, CHUNK)
        if count:
            read(self.handle, ffi.from_buffer("pa_chunk[]", found, require_writable=True), count)
        return found

    def arenas(self) -> list[ArenaView]:
        """Return the arenas in the order in which the library goes through them."""
        found: list[ArenaView] = []
        view = ffi.new("pa_arena *")
        while lib.pa_heap_read_arena(self.handle, len(found), view) == lib.PA_OK:
            found.append(ArenaView(**_as_dict(view)))
        return found

    def settings(self) -> Settings:
        """Return how the library is set; ArgumentError if this is not a ptmalloc."""
        struct = ffi.new("pa_settings *")
        check(lib.pa_heap_read_settings(self.handle, struct), "reading the settings of a heap")
        return Settings(**_as_dict(struct))

    def layout(self) -> Layout:
        """Look at the heap as a whole: holes, pages, what a trim would give back."""
        found = ffi.new("pa_layout *")
        check(lib.pa_heap_read_layout(self.handle, found), "looking at a heap")
        tenths = tuple(int(n) for n in found.pages_by_tenth)
        return Layout(
            **{**_as_dict(found), "squares_free": found.squares_free, "pages_by_tenth": tenths}
        )

    def free_chunks(self) -> npt.NDArray[np.uint64]:
        """Return the bytes of each free chunk, top included."""
        chunks = self.chunks()
        state = chunks["state"]
        sizes: npt.NDArray[np.uint64] = chunks["size"][(state > 0) & (state <= lib.PA_CHUNK_TOP)]
        return sizes

    def check(self) -> None:
        """Raise EngineBug unless every invariant holds."""
        check(lib.pa_heap_check(self.handle), "checking a heap")


# --- physical memory and pages

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
    "workingset": lib.PA_WORKINGSET,
    "zero_map": lib.PA_ZERO_MAP,
    "swap_ahead": lib.PA_SWAP_AHEAD,
    "swap_by_area": lib.PA_SWAP_BY_AREA,
    "moves_used": lib.PA_MOVES_USED,
}
"""How reclaim and page tables behave, by name; a kernel profile lists those that hold."""

PROTECTIONS: Final[dict[str, int]] = {
    "read_only": lib.PA_READ_ONLY,
    "private": lib.PA_WRITE_PRIVATE,
    "counted": lib.PA_WRITE_COUNTED,
    "shared": lib.PA_WRITE_SHARED,
}
"""What writes need after mprotect; see ``pa_protection``."""

UNLIMITED: Final = 2**64 - 1


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
    costs: Mapping[str, int] = field(default_factory=dict)
    """What things cost in simulated nanoseconds, by the names of ``pa_costs``."""


def _settings_struct(settings: RamSettings) -> Any:  # noqa: ANN401 - a cffi struct
    if settings.shape not in SHAPES:
        message = f"no page-table shape {settings.shape!r}; there are {', '.join(SHAPES)}"
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


def _word_names(struct: str) -> tuple[str, ...]:
    """Return a name for each word of a struct that is made of uint64_t alone."""
    kind = ffi.typeof(struct)
    names: list[str] = []
    for name, member in kind.fields:
        if member.type.kind == "array":
            names += [f"{name}{i}" for i in range(member.type.length)]
        else:
            names.append(name)
    if ffi.sizeof(kind) != 8 * len(names):
        message = f"{struct} is not made of uint64_t alone"
        raise EngineBug(message)
    return tuple(names)


_RAM_WORDS: Final = _word_names("pa_ram_counters")
_GROUP_WORDS: Final = _word_names("pa_group_counters")
_GROUP_PAGES: Final = _word_names("pa_group_pages")
_MM_WORDS: Final = _word_names("pa_mm_counters")


def _words(struct: Any, names: tuple[str, ...]) -> dict[str, int]:  # noqa: ANN401 - a cffi struct
    """Return a struct of uint64_t by the names of its words, faster than field by field."""
    return dict(zip(names, ffi.unpack(ffi.cast("uint64_t *", struct), len(names)), strict=True))


def _as_dict(struct: Any) -> dict[str, int]:  # noqa: ANN401 - a pointer to a cffi struct
    names, read = _reader(ffi.typeof(struct))
    return dict(zip(names, map(int, read(struct)), strict=True))


@functools.cache
def _reader(pointer: Any) -> tuple[tuple[str, ...], Callable[[Any], Any]]:  # noqa: ANN401
    """Return the names of a struct's numbers, and what reads them all."""
    fields = pointer.item.fields
    names = tuple(name for name, field in fields if field.type.kind == "primitive")
    return names, operator.attrgetter(*names)


class Ram:
    """Physical memory and swap of one machine; counts in pages, places in page numbers.

    Calls that may run out of frames return ``(pages done, exhausted)``: policy makes room and
    calls again for the rest.
    """

    __slots__ = ("handle", "pass_time", "settings")

    pass_time: Callable[[int, int], None]
    """Let time pass, the second number of nanoseconds with a processor at work."""

    def __init__(self, settings: RamSettings) -> None:
        self.settings = settings
        self._take(lib.pa_ram_new(_settings_struct(settings)))

    def _take(self, handle: Any) -> None:  # noqa: ANN401
        if handle == ffi.NULL:
            message = f"settings outside their domain, or no memory for them: {self.settings}"
            raise ArgumentError(message)
        self.handle = ffi.gc(handle, lib.pa_ram_drop)
        self.pass_time = functools.partial(lib.pa_ram_pass, self.handle)

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
        return _words(counters, _RAM_WORDS)

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
        return _words(counters, _GROUP_WORDS)

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

    def resize_object(self, number: int, pages: int) -> None:
        """Truncate or extend an object; pages past its new end are dropped, mapped or not."""
        lib.pa_ram_resize_object(self.handle, number, pages)

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
        return _words(pages, _GROUP_PAGES)

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
        self, group: int, number: int, first: int, count: int, *, write: bool, stream: int = 0
    ) -> tuple[int, bool]:
        """Read or write whole pages of an object, as read() and write() do on ``stream``."""
        done = ffi.new("uint64_t *")
        status = lib.pa_ram_access_object(
            self.handle, group, number, first, count, write, stream, done
        )
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
        return Pages(self, handle)

    def pages(self, number: int) -> Pages:
        """Return the pages of the process with this number."""
        handle = lib.pa_ram_mm(self.handle, number)
        if handle == ffi.NULL:
            message = f"no process has number {number}"
            raise ArgumentError(message)
        return Pages(self, handle)


def no_pages(ram: Ram) -> Pages:
    """Return the pages of a process that has ended."""
    return Pages(ram)


@dataclass(frozen=True, slots=True)
class View:
    """An area that shows an object: its first page and size, and the object's page shown there."""

    vpn: int
    count: int
    index: int
    number: int
    shared: bool
    around: int = 1
    writable: bool = False
    stream: int = 0
    random: bool = False
    sequential: bool = False
    executable: bool = False


def _as_struct(view: View) -> Any:  # noqa: ANN401 - a cffi struct
    return ffi.new(
        "pa_view *",
        (
            view.vpn,
            view.count,
            view.index,
            view.number,
            view.around,
            view.stream,
            view.shared,
            view.writable,
            view.random,
            view.sequential,
            view.executable,
        ),
    )


_COLLAPSED: Final = {
    lib.PA_OK: "done",
    lib.PA_ERR_INVALID: "cannot",
    lib.PA_ERR_LIMIT: "nothing",
    lib.PA_EXHAUSTED: "room",
}


class Pages(_Mortal):
    """One process's page table; all arguments in pages and virtual page numbers.

    Without a ``handle`` it is that of a process that has ended.
    """

    __slots__ = ("_done", "handle", "ram", "unmap")
    _end = "the process has ended: it has no pages"
    unmap: Callable[[int, int, int, int], None]
    """Drop so many pages from a first one on, and tables that lie whole in [floor, ceiling)."""

    def __init__(self, ram: Ram, handle: Any = None) -> None:  # noqa: ANN401
        self.ram = ram
        if handle is not None:
            self.handle = handle
            self.unmap = functools.partial(lib.pa_mm_unmap, handle)
        self._done = ffi.new("uint64_t *")

    @property
    def number(self) -> int:
        """Its number in the machine."""
        return int(lib.pa_mm_number(self.handle))

    def drop(self) -> None:
        """Give everything back; the object is dead afterwards."""
        lib.pa_mm_drop(self.handle)
        del self.handle, self.unmap

    def counters(self) -> dict[str, int]:
        """Return pages and faults by the names of ``pa_mm_counters``, ``tables`` in all."""
        counters = ffi.new("pa_mm_counters *")
        lib.pa_mm_read(self.handle, counters)
        found = _words(counters, _MM_WORDS)
        levels = [found.pop(f"tables{level}") for level in range(4)]
        return {**found, "leaf_tables": levels[0], "tables": sum(levels)}

    def range_counters(self, vpn: int, count: int) -> dict[str, int]:
        """Return what lies in a range, by the names of ``pa_range_counters``."""
        counters = ffi.new("pa_range_counters *")
        lib.pa_mm_read_range(self.handle, vpn, count, counters)
        return _as_dict(counters)

    def object_swap(self, view: View) -> int:
        """Return how many pages of the shared memory that an area shows are in swap."""
        return int(lib.pa_mm_object_swap(self.handle, _as_struct(view)))

    def resident(self, vpn: int, count: int) -> npt.NDArray[np.bool_]:
        """Return for each of ``count`` pages whether it is in memory, as mincore()."""
        found = np.zeros(count, np.uint8)
        if count:
            out = ffi.from_buffer("uint8_t[]", found, require_writable=True)
            lib.pa_mm_read_resident(self.handle, vpn, count, out)
        return found.astype(np.bool_)

    def _outcome(self, status: int, doing: str) -> tuple[int, bool]:
        done = int(self._done[0])
        if status == lib.PA_EXHAUSTED:
            return done, True
        if status == lib.PA_GUARDED:
            raise GuardedPage(done)
        check(status, doing)
        return done, False

    def write_zeros(self, *, zeros: bool) -> None:
        """Say whether what is written to private memory from now on is zeros."""
        lib.pa_mm_write_zeros(self.handle, zeros)

    def touch_anon(self, vpn: int, count: int, *, write: bool) -> tuple[int, bool]:
        """Access pages of a private anonymous area."""
        status = lib.pa_mm_touch_anon(self.handle, vpn, count, write, self._done)
        if not status:
            return count, False
        return self._outcome(status, "touching memory")

    def touch_object(
        self, view: View, vpn: int, count: int, *, write: bool
    ) -> tuple[int, bool, bool]:
        """Access pages of an area that shows an object.

        The third value says that the next page lies past the object's end.
        """
        status = lib.pa_mm_touch_object(
            self.handle, _as_struct(view), vpn, count, write, self._done
        )
        return self._object_outcome(status)

    def _object_outcome(self, status: int) -> tuple[int, bool, bool]:
        if status == lib.PA_ERR_INVALID:
            return int(self._done[0]), False, True
        return (*self._outcome(status, "touching a mapped object"), False)

    def touch_list(
        self, view: View | None, vpn: int, index: npt.NDArray[np.uint64], *, write: bool
    ) -> tuple[int, bool, bool]:
        """Access pages ``vpn + index[i]`` one after another; results as of :meth:`touch_object`."""
        struct = ffi.NULL if view is None else _as_struct(view)
        array = ffi.from_buffer("uint64_t[]", index)
        status = lib.pa_mm_touch_list(
            self.handle, struct, vpn, array, len(index), write, self._done
        )
        return self._object_outcome(status)

    def discard(self, vpn: int, count: int) -> None:
        """MADV_DONTNEED."""
        lib.pa_mm_discard(self.handle, vpn, count)

    def lazy_free(self, vpn: int, count: int) -> None:
        """MADV_FREE."""
        lib.pa_mm_lazy_free(self.handle, vpn, count)

    def cool(self, vpn: int, count: int) -> None:
        """MADV_COLD."""
        lib.pa_mm_cool(self.handle, vpn, count)

    def page_out(self, vpn: int, count: int) -> None:
        """MADV_PAGEOUT."""
        lib.pa_mm_page_out(self.handle, vpn, count)

    def collapse(self, vpn: int, *, writable: bool, locked: bool) -> str:
        """MADV_COLLAPSE of 2 MB: return "done", "cannot", "nothing" is there, or no "room"."""
        return _COLLAPSED[lib.pa_mm_collapse(self.handle, vpn, writable, locked)]

    def guard(self, vpn: int, count: int) -> tuple[int, bool]:
        """MADV_GUARD_INSTALL."""
        status = lib.pa_mm_guard(self.handle, vpn, count, self._done)
        return self._outcome(status, "installing guards")

    def unguard(self, vpn: int, count: int) -> None:
        """MADV_GUARD_REMOVE."""
        lib.pa_mm_unguard(self.handle, vpn, count)

    def move(self, vpn: int, new_vpn: int, count: int, head: int = 0) -> tuple[int, bool]:
        """Mremap: move the entries; ``head`` pages before both places are empty."""
        status = lib.pa_mm_move(self.handle, vpn, new_vpn, count, head, self._done)
        return self._outcome(status, "moving pages")

    def touch_huge(
        self, low: int, high: int, vpn: int, count: int, *, write: bool
    ) -> tuple[int, bool]:
        """Access pages of the area [low, high), which may have huge pages."""
        status = lib.pa_mm_touch_huge(self.handle, low, high, vpn, count, write, self._done)
        return self._outcome(status, "touching memory")

    def protect(self, vpn: int, count: int, how: str) -> None:
        """Mprotect; ``how`` is one of :data:`PROTECTIONS`."""
        lib.pa_mm_protect(self.handle, vpn, count, PROTECTIONS[how])

    def lock(self, vpn: int, count: int, *, lock: bool) -> None:
        """Mlock or munlock what is present."""
        lib.pa_mm_lock(self.handle, vpn, count, lock)

    def share(self, parent: Pages, vpn: int, count: int, *, shared: bool) -> tuple[int, bool]:
        """Fork: take over the parent's entries of a range."""
        status = lib.pa_mm_share(self.handle, parent.handle, vpn, count, shared, self._done)
        return self._outcome(status, "copying page tables")


# --- replay

SAMPLE_FIELDS: Final = (
    "calls",
    "allocated",
    "requested",
    "blocks",
    "heap",
    "mapped",
    "rss",
    "swap",
    "minor_faults",
    "major_faults",
    "free_tcache",
    "free_fast",
    "free_unsorted",
    "free_small",
    "free_large",
    "top",
    "largest_hole",
    "rss_peak",
)
"""The rows of a sample buffer, in the order of ``pa_sample_field``."""

TOUCH_MODES: Final[dict[str, int]] = {
    "none": lib.PA_TOUCH_NONE,
    "write": lib.PA_TOUCH_WRITE,
    "recorded": lib.PA_TOUCH_RECORDED,
}

_COLUMN_TYPES: Final = {
    "op": ("uint8_t[]", np.uint8),
    "block": ("uint32_t[]", np.uint32),
    "size": ("uint64_t[]", np.uint64),
    "arg": ("uint64_t[]", np.uint64),
    "thread": ("uint32_t[]", np.uint32),
}
OUTPUTS: Final = ("address", "usable", "brk")


class ReplayRun:
    """A column table of calls being run on a heap.

    The columns and the output arrays are used in place, without a copy.

    Parameters
    ----------
    heap
        The heap the calls act on.
    columns
        ``op``, ``block``, ``size`` and, where they hold anything, ``arg`` and ``thread``.
    outputs
        Writable uint64 arrays, one value a row, of any of :data:`OUTPUTS`.
    samples
        Writable uint64 array of one row a field (:data:`SAMPLE_FIELDS`), one column a sample.
    every
        Calls from one sample to the next; 0 for none.
    touch
        One of :data:`TOUCH_MODES`.
    rows
        uint64, ascending from 1: sample after so many calls each, in place of every ``every``.
    """

    __slots__ = ("_keep", "_stop", "handle", "heap", "samples")

    def __init__(
        self,
        heap: Heap,
        columns: Mapping[str, npt.NDArray[Any]],
        outputs: Mapping[str, npt.NDArray[np.uint64]],
        samples: npt.NDArray[np.uint64],
        every: int,
        touch: str = "none",
        rows: npt.NDArray[np.uint64] | None = None,
    ) -> None:
        if len(samples) != len(SAMPLE_FIELDS):
            message = f"samples must have {len(SAMPLE_FIELDS)} rows (got {len(samples)})"
            raise ArgumentError(message)
        self._keep: list[object] = []
        table = ffi.new("pa_columns *", {"count": len(columns["op"])})
        for name, (ctype, dtype) in _COLUMN_TYPES.items():
            if name in columns:
                setattr(table, name, self._buffer(ctype, columns[name], dtype))
        out = ffi.new("pa_outputs *")
        for name, array in outputs.items():
            setattr(out, name, self._buffer("uint64_t[]", array, np.uint64, writable=True))
        sampled = ffi.new("pa_samples *", {"room": samples.shape[1], "every": every})
        flat = samples.reshape(-1)
        sampled.values = self._buffer("uint64_t[]", flat, np.uint64, writable=True)
        if rows is not None:
            sampled.rows = self._buffer("uint64_t[]", rows, np.uint64)
            sampled.count_rows = len(rows)
        handle = lib.pa_replay_new(heap.handle, table, out, sampled, TOUCH_MODES[touch])
        if handle == ffi.NULL:
            message = "no memory for the table of blocks of a replay"
            raise MemoryError(message)
        self.heap = heap
        self.samples = samples
        self.handle = ffi.gc(handle, lib.pa_replay_drop)
        self._stop = lib.pa_replay_stop(handle)

    def _buffer(
        self, ctype: str, array: npt.NDArray[Any], dtype: type, *, writable: bool = False
    ) -> Any:  # noqa: ANN401 - a cffi pointer
        if array.dtype != dtype or not array.flags.c_contiguous:
            message = f"a column of {np.dtype(dtype)} in one piece is needed (got {array.dtype})"
            raise ArgumentError(message)
        if not array.size:
            return ffi.NULL
        buffer = ffi.from_buffer(ctype, array, require_writable=writable)
        self._keep.append(buffer)
        return buffer

    def run(self, end: int | None = None) -> bool:
        """Run on; return True at the end, or before row ``end``, and False at a question."""
        if end is None:
            status = lib.pa_replay_run(self.handle)
        else:
            status = lib.pa_replay_run_to(self.handle, end)
        if status == PENDING:
            return False
        check(status, "replaying a trace")
        return True

    @property
    def stop(self) -> Stop:
        """The question it stopped with; ``prot`` is the op of a row that policy performs."""
        s = self._stop
        return Stop(s.reason, s.address, s.length, s.old_length, s.prot, s.answer)

    def answer(self, value: int) -> None:
        """Answer the question; :meth:`run` goes on with it."""
        lib.pa_replay_answer(self.handle, value)

    def totals(self) -> dict[str, int]:
        """Return the running totals by the names of ``pa_replay_totals``."""
        totals = ffi.new("pa_replay_totals *")
        lib.pa_replay_read_totals(self.handle, totals)
        return _as_dict(totals)

    @property
    def ratio_sum(self) -> float:
        """A / P after each request, times its bytes, summed up."""
        totals = ffi.new("pa_replay_totals *")
        lib.pa_replay_read_totals(self.handle, totals)
        return float(totals.ratio_sum)

    def peak(self) -> tuple[HeapStatistics, int, int]:
        """Return the heap when it held most, blocks allocated then, and pages in memory or swap."""
        peak = ffi.new("pa_replay_peak *")
        lib.pa_replay_read_peak(self.handle, peak)
        return _statistics(peak.heap), int(peak.blocks), int(peak.pages)

    def blocks(self) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
        """Return last address and requested bytes of each block; 2^64-1 for one not allocated."""
        count = lib.pa_replay_count_blocks(self.handle)
        address, size = np.zeros(count, np.uint64), np.zeros(count, np.uint64)
        if count:
            lib.pa_replay_read_blocks(
                self.handle,
                ffi.from_buffer("uint64_t[]", address, require_writable=True),
                ffi.from_buffer("uint64_t[]", size, require_writable=True),
            )
        return address, size


class Space:
    """The address space of a process that has a machine to itself; nothing in it is refused.

    Parameters
    ----------
    holes
        Where mappings may lie: starts and ends, ascending; the break grows in one of them.
    base
        Mappings go below it (mmap_base) as long as there is room.
    aligns_huge
        Mappings of whole huge pages are aligned to them.
    """

    __slots__ = ("_handle",)

    def __init__(
        self, holes: Sequence[tuple[int, int]], base: int, *, aligns_huge: bool = False
    ) -> None:
        bounds = ffi.new("uint64_t[]", [bound for hole in holes for bound in hole])
        handle = lib.pa_space_new(bounds, len(holes), base, aligns_huge)
        if handle == ffi.NULL:
            message = f"these are no holes of an address space: {list(holes)}"
            raise ArgumentError(message)
        self._handle = ffi.gc(handle, lib.pa_space_drop)

    def run(self, replay: ReplayRun, end: int | None = None) -> bool:
        """Run a replay, or its rows before ``end``; return False where it died (see ``stop``)."""
        last = UNLIMITED if end is None else end
        status = lib.pa_space_run_to(self._handle, replay.handle, last)
        if status == PENDING:
            return False
        check(status, "replaying a trace")
        return True

    def counters(self) -> dict[str, int]:
        """Return how many system calls there were, by the names of ``pa_space_counters``."""
        counters = ffi.new("pa_space_counters *")
        lib.pa_space_read(self._handle, counters)
        return _as_dict(counters)


def fill_places(
    group: npt.NDArray[np.uint32],
    place: npt.NDArray[np.uint64],
    release: npt.NDArray[np.uint64],
    key: npt.NDArray[np.uint64],
) -> npt.NDArray[np.uint32]:
    """Return which call takes each place, when calls change places inside their groups.

    Parameters
    ----------
    group, place
        Of each call, ascending by both.
    release
        The first place each call may take; its own or an earlier one.
    key
        Of the calls that may take a place, the one of the smallest key does.

    Raises
    ------
    ArgumentError
        A call is released behind its own place.
    """
    taker = np.zeros(len(place), np.uint32)
    by_release = np.lexsort((release, group)).astype(np.uint32)
    status = lib.pa_fill_places(
        len(place),
        ffi.from_buffer("uint32_t[]", group),
        ffi.from_buffer("uint64_t[]", place),
        ffi.from_buffer("uint64_t[]", release),
        ffi.from_buffer("uint32_t[]", by_release),
        ffi.from_buffer("uint64_t[]", key),
        ffi.from_buffer("uint32_t[]", taker, require_writable=True),
    )
    check(status, "putting calls in another order")
    return taker
