"""The way a call went: where its memory came from, or where it went."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

import numpy as np

from pyalloc import engine
from pyalloc.lab.explain.state import HeapState
from pyalloc.lab.explain.words import plural
from pyalloc.machine.chunks import Chunk, ChunkState
from pyalloc.machine.chunkwords import brief, list_name
from pyalloc.trace import Op
from pyalloc.trace.table import Row
from pyalloc.units import PAGE

Path = Literal[
    "tcache",
    "fastbin",
    "exact fit",
    "split",
    "merged",
    "top",
    "top extended",
    "new arena",
    "mapping",
    "remapped",
    "in place",
    "moved",
    "NULL",
    "to tcache",
    "to fastbin",
    "to bin",
    "to top",
    "unmapped",
    "nothing",
    "other",
    "abort",
]

_BINNED: Final = (ChunkState.UNSORTED, ChunkState.SMALL, ChunkState.LARGE)


class Way(NamedTuple):
    """In a word or two, the chunk before the call that it is about, and in a sentence."""

    path: Path
    source: Chunk | None
    words: str


class Ways:
    """Two looks at a heap, with a call between them."""

    def __init__(
        self, call: Row, old: HeapState, new: HeapState, pointer: int, result: int
    ) -> None:
        self.call, self.old, self.new = call, old, new
        self.pointer, self.result = pointer, result

    def way(self) -> Way:
        """Return the way the call went."""
        op = self.call.op
        if op == Op.FREE or (op == Op.REALLOC and not self.call.size and self.pointer):
            return self._freed()
        if op == Op.REALLOC and self.pointer:
            return self._resized()
        return self._allocated() if op <= Op.PVALLOC else Way("other", None, self._other())

    # --- from where

    def _allocated(self) -> Way:
        if not self.result:
            return Way("NULL", None, "It returns NULL: nothing fits and the kernel gives no more.")
        got = self.new.holding(self.result)
        if got is None:
            return Way("other", None, f"It returns {self.result:#x}.")
        if got.state == ChunkState.MAPPED:
            return Way("mapping", None, self._mapped(got))
        source = self.old.holding(self.result)
        return self._from_chunk(source, got) if source else self._from_kernel(got)

    def _mapped(self, got: Chunk) -> str:
        settings = self.old.settings
        why = ""
        if settings is not None and got.size >= settings.mmap_threshold:
            threshold = f"{settings.mmap_threshold:,}"
            why = f" nothing free fits, and it reaches the mmap threshold of {threshold} bytes:"
        return f"{self.result:#x}:{why} it gets a mapping of its own, {got.size:,} bytes."

    def _from_kernel(self, got: Chunk) -> Way:
        at = f"{self.result:#x}"
        if self.new.statistics.count_arenas > self.old.statistics.count_arenas:
            words = f"{at} lies in arena {got.arena}, made for this thread just now."
            return Way("new arena", None, words)
        moved = self.new.brk - self.old.brk
        how = f": the break moved up by {moved:,} bytes" if moved > 0 else ""
        return Way("top extended", None, f"{at} is memory new from the kernel{how}.")

    def _from_chunk(self, source: Chunk, got: Chunk) -> Way:
        if source.state == ChunkState.TOP:
            return self._from_top(source, got)
        if source.state in _BINNED and source.size > got.size:
            return Way("split", source, self._part(source, got))
        at, whole = f"{self.result:#x}", source.size == got.size
        if source.state == ChunkState.TCACHE:
            left = self.old.in_bin_of(source) - 1
            return Way(
                "tcache",
                source,
                f"{at} is the chunk of {source.size:,} bytes that"
                f" {list_name(source)} hands out next; {left:,} more are in that bin.",
            )
        if not whole:
            what = f"{at} is made of free chunks that are merged first"
            return Way("merged", source, f"{what}: {brief(source)} is one of them.")
        if source.state == ChunkState.FAST:
            head = f"{at} is the chunk of {source.size:,} bytes at the head of {list_name(source)}."
            return Way("fastbin", source, head)
        return Way("exact fit", source, f"{at} is an exact fit: {brief(source)}.")

    def _part(self, source: Chunk, got: Chunk) -> str:
        words = f"{self.result:#x} is cut from {brief(source)}"
        c = self.old.chunks
        fits = np.isin(c.state, _BINNED) & (c.arena == source.arena) & (c.size >= got.size)
        if int(c.size[fits].min(initial=2**63)) == source.size:
            words += ", the smallest that is large enough"
        if source.address < got.address:
            words += f", {got.address - source.address:,} bytes into it, to be aligned"
        end = got.address + got.size
        left, rest = source.address + source.size - end, self.new.holding(end)
        if left > 0 and rest is not None:
            words += f"; the other {left:,} bytes are now {brief(rest)}"
        return words + "."

    def _from_top(self, source: Chunk, got: Chunk) -> Way:
        words = f"Nothing free fits: {self.result:#x} is cut from the top, {source.size:,} bytes"
        grown = self._growth(source.arena)
        left = source.address + source.size - (got.address + got.size)
        if grown <= 0:
            return Way("top", source, f"{words}, of which {left:,} remain.")
        words += f", too few: it is made {grown:,} bytes longer first."
        return Way("top extended", source, words)

    def _growth(self, arena: int) -> int:
        """Return how many bytes an arena's end moved up."""
        ends = self.old.end_of(arena), self.new.end_of(arena)
        return ends[1] - ends[0] if all(ends) else 0

    # --- resized

    def _resized(self) -> Way:
        old = self.old.holding(self.pointer)
        got = self.new.holding(self.result) if self.result else None
        if old is None or got is None:
            return Way("NULL", old, "It returns NULL: the block stays as it is.")
        if old.state == got.state == ChunkState.MAPPED:
            where = "where it is" if self.result == self.pointer else f"moved to {self.result:#x}"
            words = f"Its mapping of {old.size:,} bytes becomes one of {got.size:,}, {where}"
            return Way("remapped", old, f"{words}; nothing is copied.")
        if self.result == self.pointer:
            return Way("in place", old, self._in_place(old, got))
        taken, freed = self._allocated(), self._freed()
        return Way(
            "moved",
            taken.source,
            f"It cannot grow where it is. {taken.words} The block is"
            f" copied there, and the old one given back. {freed.words}",
        )

    def _in_place(self, old: Chunk, got: Chunk) -> str:
        if got.size == old.size:
            return f"The chunk of {got.size:,} bytes is large enough: nothing changes."
        if got.size < old.size:
            rest = self.new.holding(got.address + got.size)
            now = f", now {brief(rest)}" if rest else ""
            spare = f"{old.size - got.size:,} bytes"
            return f"It shrinks where it is; the other {spare} are freed{now}."
        into = self.old.holding(old.address + old.size)
        words = f"It grows where it is by {got.size - old.size:,} bytes, into what follows"
        grown = self._growth(got.arena)
        longer = f", made {grown:,} bytes longer first" if grown > 0 else ""
        return f"{words}: {brief(into) if into else 'new memory'}{longer}."

    # --- where to

    def _freed(self) -> Way:
        pointer = self.pointer
        old = self.old.holding(pointer) if pointer else None
        if old is None:
            known = f"The heap knows no block at {pointer:#x}." if pointer else ""
            return Way("nothing", None, known or "There is nothing to free.")
        if old.state == ChunkState.MAPPED:
            return Way("unmapped", old, self._unmapped(old))
        now = self.new.holding(pointer)
        if now is None or (now.state == ChunkState.USED and now.address != pointer):
            shrunk = f"{-self._growth(old.arena):,}"
            words = (
                f"It borders on the top, which is trimmed: {shrunk} bytes go back to the kernel."
            )
            return Way("to top", old, words)
        return self._to_list(old, now)

    def _to_list(self, old: Chunk, now: Chunk) -> Way:
        chunk = f"Its chunk of {now.size:,} bytes goes to {list_name(now)}"
        match now.state:
            case ChunkState.TCACHE:
                count = plural(self.new.in_bin_of(now), "chunk")
                return Way("to tcache", old, f"{chunk}, which now has {count}.")
            case ChunkState.FAST:
                return Way("to fastbin", old, f"{chunk}, unmerged.")
            case ChunkState.TOP:
                return Way("to top", old, self._to_top(old, now))
            case _:
                where = "onto" if now.state == ChunkState.UNSORTED else "into"
                words = f"{self._merged(old, now)} {where} {list_name(now)}."
                return Way("to bin", old, words)

    def _unmapped(self, old: Chunk) -> str:
        words = f"Its mapping of {old.size:,} bytes goes back to the kernel."
        a, b = self.old.settings, self.new.settings
        if a and b and a.mmap_threshold != b.mmap_threshold:
            words += (
                f" The mmap threshold follows it, from {a.mmap_threshold:,} to"
                f" {b.mmap_threshold:,} bytes, the trim threshold to {b.trim_threshold:,}:"
                " blocks up to that size come from the heap from now on."
            )
        return words

    def _to_top(self, old: Chunk, now: Chunk) -> str:
        words = f"Its chunk of {old.size:,} bytes borders on the top and becomes part of it"
        shrunk = -self._growth(now.arena)
        if shrunk > 0:
            words += f", which is long enough to be trimmed: {shrunk:,} bytes go back to the kernel"
        return f"{words}; the top is {now.size:,} bytes now."

    def _merged(self, old: Chunk, now: Chunk) -> str:
        sides = ["before"] * (now.address < old.address)
        sides += ["behind"] * (now.address + now.size > old.address + old.size)
        if not sides:
            return f"Its chunk of {now.size:,} bytes goes"
        around = " and ".join(sides)
        return f"It merges with the free memory {around} it into {now.size:,} bytes, which go"

    # --- other calls

    def _other(self) -> str:
        match self.call.op:
            case Op.MALLOC_TRIM:
                gone = (self.old.pages["anon"] - self.new.pages["anon"]) * PAGE
                return f"{gone:,} bytes of resident memory go back to the kernel."
            case Op.MALLOPT:
                return self._set()
            case Op.THREAD_EXIT:
                count = self.old.count(ChunkState.TCACHE) - self.new.count(ChunkState.TCACHE)
                return f"Its tcache is given up: {plural(count, 'chunk')} go back to the arenas."
            case _:
                return "The allocator is not called."

    def _set(self) -> str:
        a, b = self.old.settings, self.new.settings
        changed = [
            f"{name} from {getattr(a, name):,} to {getattr(b, name):,}"
            for name in engine.Settings.__slots__
            if a and b and getattr(a, name) != getattr(b, name)
        ]
        return f"It sets {', '.join(changed)}." if changed else "No setting changes."
