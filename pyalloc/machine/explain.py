"""An address of a heap in words: what is there, why it stays, what the next calls would do.

What calls *would* do is not reasoned out but tried, on a copy of the heap that is thrown away; so
it is as exact as the heap itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from pyalloc import engine
from pyalloc.errors import ArgumentError
from pyalloc.machine.chunks import Chunk, Chunks, ChunkState, FreeLists
from pyalloc.machine.chunkwords import STATES, brief, into, list_name, rank, within
from pyalloc.units import PAGE

if TYPE_CHECKING:
    from pyalloc.machine.heapview import HeapView

_BINNED: Final = (ChunkState.UNSORTED, ChunkState.SMALL, ChunkState.LARGE)
_PAST: Final = 1 << 64
_PINS: Final = (ChunkState.USED, ChunkState.OWN, ChunkState.TCACHE, ChunkState.FAST)


@dataclass(frozen=True, slots=True)
class Explanation:
    """What lies at an address.

    Attributes
    ----------
    address, offset
        The address, and how far into the block's memory it is; negative: in the chunk's header.
    chunk, before, after
        The chunk it belongs to and its neighbours; None where there is none.
    position, length
        Place in its list, 0 at the head, and how many are on it; None for a chunk on no list.
    pinned_by
        The highest chunk in use above it in the same stretch of memory: as long as that is not
        free, the end of the heap cannot come down to this one.  None if there is none.
    trimmable
        Bytes of it that ``malloc_trim(0)`` would give back to the system.
    next_address
        What the next malloc of its size would return; 0 is NULL, None where the kernel's answer
        would decide.
    sentences
        All of it in words.
    """

    address: int
    offset: int
    chunk: Chunk | None
    before: Chunk | None
    after: Chunk | None
    position: int | None
    length: int | None
    pinned_by: Chunk | None
    trimmable: int
    next_address: int | None
    sentences: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join(self.sentences)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        found = asdict(self)
        for name in ("chunk", "before", "after", "pinned_by"):
            chunk: Chunk | None = getattr(self, name)
            found[name] = chunk and chunk._asdict() | {"state": chunk.state.name.lower()}
        return found


def explain(view: HeapView, address: int, thread: int = 0) -> Explanation:
    """Return what lies at ``address``; ``thread`` is the one whose next calls are told.

    Raises
    ------
    ArgumentError
        It is no address of any machine.
    """
    if not 0 <= address < _PAST:
        message = f"an address is 0 to {_PAST - 1:#x} (got {address})"
        raise ArgumentError(message)
    chunks = view.chunks()
    word = view.word
    index = _find(chunks, address, word)
    if index is None:
        return _outside(view, address)
    return _Teller(view, chunks, index, address, thread).tell()


def _find(chunks: Chunks, address: int, word: int) -> int | None:
    """Return the row of the chunk that ``address`` lies in; its header is part of it."""
    header = 2 * word
    if address + header >= _PAST:
        return None
    index = int(np.searchsorted(chunks.address, np.uint64(address + header), "right")) - 1
    if index < 0 or address + header < int(chunks.address[index]):
        return None
    start = int(chunks.address[index]) - header
    size = max(int(chunks.size[index]), header)
    return index if start <= address < start + size else None


def _outside(view: HeapView, address: int) -> Explanation:
    process = view.process
    vma = process.space.at(address) if process.alive else None
    if vma is None:
        where = "nothing is mapped there"
    else:
        where = f"it lies in the area {vma.start:#x}-{vma.end:#x}"
        where += ", between the heap's own parts" if _is_heap(view, address) else ""
    text = f"{address:#x} is in no chunk of the heap: {where}."
    return Explanation(address, 0, None, None, None, None, None, None, 0, None, (text,))


def _is_heap(view: HeapView, address: int) -> bool:
    return view.process.space.start_brk <= address < view.heap.brk


# --- trying calls


class _Outcome(NamedTuple):
    """What a call did on a copy: its result, what it asked the kernel for, the copy."""

    result: int | None
    asked: str
    heap: engine.Heap


def _try(view: HeapView, thread: int, call: Callable[[engine.Heap], int]) -> _Outcome | None:
    """Make a call on a copy of the heap; None where the heap can make no more calls."""
    if view.heap.is_stopped:
        return None
    heap = view.heap.copy()
    heap.set_thread(thread)
    result = call(heap)
    while heap.is_stopped:
        stop = heap.stop
        if stop.reason == engine.STOP_ABORT:
            return _Outcome(None, heap.abort_text or "a fault", heap)
        if stop.reason == engine.STOP_MMAP:
            return _Outcome(None, f"a new mapping of {stop.length:,} bytes", heap)
        if stop.reason == engine.STOP_BRK:
            heap.answer(stop.address)
        result = heap.resume()
    return _Outcome(result, "", heap)


# --- telling


class _Teller:
    def __init__(
        self, view: HeapView, chunks: Chunks, index: int, address: int, thread: int
    ) -> None:
        self.view = view
        self.chunks = chunks
        self.index = index
        self.address = address
        self.thread = thread
        self.chunk = chunks.row(index)
        self.word = view.word
        self.lists = FreeLists.of(view.heap.lists())
        self.before = self._neighbour(-1)
        self.after = self._neighbour(1)
        self.position, self.length = self._place()
        self.pin = self._pin()

    @property
    def start(self) -> int:
        """Where the chunk's header begins."""
        return self.chunk.address - 2 * self.word

    @property
    def usable(self) -> int:
        words = 2 if self.chunk.state == ChunkState.MAPPED else 1
        return max(self.chunk.size - words * self.word, 0)

    def _neighbour(self, step: int) -> Chunk | None:
        """Return the chunk before or after, if there is no gap and neither is a mapping."""
        other = self.index + step
        if not 0 <= other < len(self.chunks) or self.chunk.state == ChunkState.MAPPED:
            return None
        low, high = sorted((self.index, other))
        low_end = int(self.chunks.address[low]) + int(self.chunks.size[low])
        if low_end != int(self.chunks.address[high]):
            return None
        return self.chunks.row(other)

    def _place(self) -> tuple[int | None, int | None]:
        here = np.flatnonzero(self.lists.address == np.uint64(self.chunk.address))
        if not here.size:
            return None, None
        row = int(here[0])
        begins = np.flatnonzero(self.lists.position == 0)
        after = begins[begins > row]
        position = int(self.lists.position[row])
        end = int(after[0]) if after.size else len(self.lists)
        return position, position + end - row

    def _stretch(self) -> Chunks:
        """Return the chunks above this one, up to the end of its stretch of memory."""
        ends = self.chunks.address[self.index :] + self.chunks.size[self.index :]
        gap = np.flatnonzero(ends[:-1] != self.chunks.address[self.index + 1 :])
        stop = self.index + 1 + (int(gap[0]) if gap.size else len(ends) - 1)
        return self.chunks[self.index + 1 : stop]

    def _pin(self) -> Chunk | None:
        if self.chunk.state == ChunkState.MAPPED:
            return None
        above = self._stretch()
        held = np.flatnonzero(np.isin(above.state, _PINS))
        return above.row(int(held[-1])) if held.size else None

    # --- the whole

    def tell(self) -> Explanation:
        trimmable = self._trimmable()
        next_address, next_words = self._next_malloc()
        sentences = [
            self._where(),
            self._what(),
            self._neighbours(),
            *self._why_it_stays(trimmable),
            *self._when_freed(),
            next_words,
        ]
        return Explanation(
            address=self.address,
            offset=self.address - self.chunk.address,
            chunk=self.chunk,
            before=self.before,
            after=self.after,
            position=self.position,
            length=self.length,
            pinned_by=self.pin,
            trimmable=trimmable,
            next_address=next_address,
            sentences=tuple(filter(None, sentences)),
        )

    def _where(self) -> str:
        offset = self.address - self.chunk.address
        block = f"the memory that begins at {self.chunk.address:#x}"
        if offset < 0:
            return f"{self.address:#x} is in the header of {block}."
        if offset:
            return f"{self.address:#x} is {offset:,} bytes into {block}."
        return f"{self.address:#x} is where a chunk's memory begins."

    def _what(self) -> str:
        arena = f"arena {self.chunk.arena}" if self.chunk.arena else "the main arena"
        where = "" if self.chunk.state == ChunkState.MAPPED else f" of {arena}"
        return f"The chunk is {self.chunk.size:,} bytes{where}: {self._state_words()}."

    def _state_words(self) -> str:
        chunk = self.chunk
        length, position = self.length or 1, self.position or 0
        place, last = rank(position, length), rank(length - 1 - position, length)
        match chunk.state:
            case ChunkState.TCACHE:
                return f"free, in {list_name(chunk)}, {place} to be handed out"
            case ChunkState.FAST:
                return f"free, in {list_name(chunk)}, {place} to be handed out"
            case ChunkState.UNSORTED:
                return f"free, on the unsorted list, {last} to be looked at"
            case ChunkState.SMALL:
                return f"free, in {list_name(chunk)}, {last} to be handed out"
            case ChunkState.LARGE:
                return f"free, in {list_name(chunk)}, {place}, the largest first"
            case _:
                return STATES.get(chunk.state, "in use") + self._request_words()

    def _request_words(self) -> str:
        if self.chunk.state == ChunkState.OWN:
            return f" of thread {self.chunk.thread}"
        if self.chunk.requested < 0:
            return ""
        asked = f", {self.chunk.requested:,} of {self.usable:,} usable bytes asked for"
        return f"{asked} (block {self.chunk.block})"

    def _neighbours(self) -> str:
        if self.chunk.state == ChunkState.MAPPED:
            return ""
        before = brief(self.before) if self.before else "nothing of the heap"
        after = brief(self.after) if self.after else "nothing of the heap"
        return f"Before it: {before}. After it: {after}."

    # --- why it stays

    def _why_it_stays(self, trimmable: int) -> Iterator[str]:
        match self.chunk.state:
            case ChunkState.MAPPED | ChunkState.OWN | ChunkState.FENCE:
                return
            case ChunkState.TOP:
                yield self._top_words(trimmable)
                return
            case ChunkState.TCACHE:
                yield (
                    "A chunk in a tcache counts as in use: it merges with no neighbour and "
                    "malloc_trim() leaves it. It stays until its thread takes it or ends."
                )
            case ChunkState.FAST:
                yield (
                    "A chunk in a fastbin merges with no neighbour until the fastbins are emptied: "
                    "at a large request, at a free that makes a chunk of 64 KiB or more, by "
                    "malloc_trim() or mallopt()."
                )
            case _:
                pass
        yield self._pin_words()
        if self.chunk.state in _BINNED:
            yield self._trim_words(trimmable)

    def _pin_words(self) -> str:
        end = "the break" if self.chunk.arena == 0 else "the end of its heap"
        if not self._reaches_top():
            return "Its stretch of memory is closed: the end of the heap lies elsewhere by now."
        if self.pin is None:
            return f"Nothing above it holds {end} up."
        return f"Above it {brief(self.pin)} holds {end} up: it cannot come down below that."

    def _reaches_top(self) -> bool:
        above = self._stretch()
        return bool(len(above)) and above.state[-1] == ChunkState.TOP

    def _trim_words(self, trimmable: int) -> str:
        if trimmable:
            pages = trimmable // PAGE
            return f"malloc_trim(0) would give {pages:,} whole pages of it back to the system."
        return "No whole page lies inside it, so malloc_trim(0) gives nothing of it back."

    def _top_words(self, trimmable: int) -> str:
        settings = self._settings()
        gives = f"malloc_trim(0) would give {trimmable:,} bytes of it back"
        if settings is None:
            return f"{gives}."
        return (
            "A free that makes a chunk of 64 KiB or more gives it back once it reaches "
            f"{settings.trim_threshold:,} bytes (the trim threshold); {gives}."
        )

    def _settings(self) -> engine.Settings | None:
        try:
            return self.view.heap.settings()
        except ArgumentError:
            return None

    def _trimmable(self) -> int:
        """Return what malloc_trim(0) gives back of this chunk: whole pages behind its links."""
        settings = self._settings()
        if settings is None:
            return 0
        if self.chunk.state == ChunkState.TOP and self.chunk.arena == 0:
            spare = self.chunk.size - 4 * self.word - 1
            return spare // PAGE * PAGE if self.chunk.size >= 4 * self.word else 0
        if self.chunk.state not in _BINNED or settings.version < 208:
            return 0
        if self.chunk.state == ChunkState.SMALL:
            return 0
        first = -(-(self.start + 6 * self.word) // PAGE) * PAGE
        end = (self.start + self.chunk.size) // PAGE * PAGE
        return max(end - first, 0)

    # --- what calls would do

    def _when_freed(self) -> Iterator[str]:
        if self.chunk.state not in {ChunkState.USED, ChunkState.MAPPED}:
            return
        outcome = _try(self.view, self.thread, lambda heap: heap.free(self.chunk.address))
        if outcome is None:
            return
        if outcome.result is None:
            yield f"free() would end the program: {outcome.asked}."
            return
        yield self._freed_words(outcome.heap)

    def _freed_words(self, heap: engine.Heap) -> str:
        after = Chunks.of(heap.chunks())
        index = _find(after, self.chunk.address, self.word)
        given = self.view.heap.brk - heap.brk
        back = f", and the break would come down by {given:,} bytes" if given > 0 else ""
        if index is None:
            return f"free() would give its memory back to the system{back}."
        now = after.row(index)
        merged = f"a chunk of {now.size:,} bytes" if now.size != self.chunk.size else "it"
        if now.state == ChunkState.TOP:
            return f"free() would make it part of the top, then {now.size:,} bytes{back}."
        if now.state == ChunkState.USED:
            return "free() would leave it as it is."
        return f"free() would put {merged} {into(now)}{back}."

    def _next_malloc(self) -> tuple[int | None, str]:
        if self.chunk.state == ChunkState.FENCE or not self.usable:
            return None, ""
        size = self.usable
        outcome = _try(self.view, self.thread, lambda heap: heap.malloc(size))
        if outcome is None:
            return None, ""
        told = f"The next malloc({size:,}) of thread {self.thread} would get"
        if outcome.result is None:
            return None, f"{told} {outcome.asked}."
        if not outcome.result:
            return 0, f"{told} NULL."
        return outcome.result, f"{told} {self._source(outcome)}."

    def _source(self, outcome: _Outcome) -> str:
        """Say where the memory at a pointer comes from: what is there now."""
        pointer = outcome.result or 0
        index = _find(self.chunks, pointer, self.word)
        if index is None:
            return f"{pointer:#x}, memory new from the kernel"
        source = self.chunks.row(index)
        which = "this chunk" if index == self.index else f"{pointer:#x}"
        later = Chunks.of(outcome.heap.chunks())
        got = later.row(_find(later, pointer, self.word) or 0)
        if source.state == ChunkState.TOP:
            grown = "" if outcome.heap.brk == self.view.heap.brk else ", the break moved up"
            return f"{pointer:#x}, cut from the top{grown}"
        if got.size > source.size:
            return f"{pointer:#x}, made of free chunks that are merged first"
        if got.size < source.size:
            return f"{pointer:#x}, cut from a chunk of {source.size:,} bytes {within(source)}"
        return f"{which}, as it is {within(source)}"
