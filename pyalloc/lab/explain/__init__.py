"""One call in words: which way the allocator went, what it cost, and how the heap lies afterwards.

Nothing is guessed from the rules of a version: the heap is looked at before and after the call, and
what is said is the difference.  So it is true of every generation and every allocator there is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pyalloc.errors import ArgumentError
from pyalloc.lab.explain.state import SYSTEM_CALLS, HeapState, look
from pyalloc.lab.explain.ways import Path, Way, Ways
from pyalloc.lab.explain.words import call_text, plural
from pyalloc.lab.setting import Setting
from pyalloc.lab.trial import Trials
from pyalloc.machine.chunks import Chunk, ChunkState
from pyalloc.machine.chunkwords import brief
from pyalloc.trace import NULL_BLOCK, Op, Trace, require_trace
from pyalloc.units import PAGE

_NOT_LIVE = 2**64 - 1
_IN_USE = (ChunkState.USED, ChunkState.MAPPED)


@dataclass(frozen=True, slots=True)
class Cost:
    """What one call made the machine do: bytes, and counts of the rest.

    ``brk_bytes`` is how far the break moved; ``steps`` the free chunks that were looked at.
    """

    brk: int
    mmap: int
    munmap: int
    mremap: int
    mprotect: int
    madvise: int
    brk_bytes: int
    faults: int
    resident_bytes: int
    steps: int

    @classmethod
    def between(cls, old: HeapState, new: HeapState) -> Cost:
        """Return what came to pass between two looks."""
        return cls(
            **{name: new.calls[name] - old.calls[name] for name in SYSTEM_CALLS},
            brk_bytes=new.brk - old.brk,
            faults=new.pages["minor_faults"] - old.pages["minor_faults"],
            resident_bytes=(new.pages["anon"] - old.pages["anon"]) * PAGE,
            steps=new.statistics.count_steps - old.statistics.count_steps,
        )

    def __str__(self) -> str:
        counts = {name: getattr(self, name) for name in SYSTEM_CALLS}
        calls = [f"{n}()" + (f" {k} times" if k > 1 else "") for n, k in counts.items() if k]
        words = f"It costs {', '.join(calls)}" if calls else "It costs no system call"
        words += f" and {plural(self.faults, 'page fault')}" if self.faults else ", no page fault"
        if self.resident_bytes:
            words += f"; resident memory changes by {self.resident_bytes:+,} bytes"
        if self.steps:
            words += f"; {plural(self.steps, 'free chunk')} had to be looked at"
        return words + "."


@dataclass(frozen=True, slots=True)
class CallExplanation:
    """One call.

    Attributes
    ----------
    row
        Its number, from 0.
    call
        What was called, as in C.
    path
        Which way it went, in a word or two.
    address, size
        The block's address afterwards (0: none) and its chunk's bytes.
    source
        The chunk before the call that the memory came from, or that was freed; None if it is new.
    cost
        System calls, page faults and search.
    chunk, before, after
        The chunk at the address afterwards, and its neighbours then.
    allocated_by, freed_by
        The calls that began and ended the block's life, if they are in the trace.
    sentences
        All of it in words.
    """

    row: int
    call: str
    path: Path
    address: int
    size: int
    source: Chunk | None
    cost: Cost
    chunk: Chunk | None
    before: Chunk | None
    after: Chunk | None
    allocated_by: int | None
    freed_by: int | None
    sentences: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join(self.sentences)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        found = asdict(self)
        for name in ("source", "chunk", "before", "after"):
            chunk: Chunk | None = getattr(self, name)
            found[name] = chunk and chunk._asdict() | {"state": chunk.state.name.lower()}
        return found


def explain(
    trace: Trace, at: int, *, allocator: str | None = None, touch: str | None = None
) -> CallExplanation:
    """Explain call number ``at`` of ``trace``, counted from 0.

    ``allocator`` and ``touch`` are as in :func:`pyalloc.replay`; by default as recorded.

    Raises
    ------
    ArgumentError
        There is no such call, or the program died before it.
    """
    return explain_calls(trace, at, 1, allocator=allocator, touch=touch)[0]


def explain_calls(
    trace: Trace,
    at: int,
    count: int,
    *,
    allocator: str | None = None,
    touch: str | None = None,
) -> list[CallExplanation]:
    """Explain ``count`` calls from number ``at`` on; raises as :func:`explain`."""
    require_trace(trace)
    if isinstance(at, bool) or not isinstance(at, int) or not 0 <= at < len(trace):
        message = f"there is no call {at!r}: the trace has calls 0 to {len(trace) - 1}"
        raise ArgumentError(message)
    trials = Trials(trace, allocator=allocator, touch=touch)
    found: list[CallExplanation] = []
    with trials.begun(Setting(), rows=np.zeros(0, np.uint64)) as under_way:
        under_way.go_to(at)
        if under_way.died():
            message = f"the program died before call {at:,}: {under_way.died()}"
            raise ArgumentError(message)
        for row in range(at, min(at + count, len(trace))):
            before = look(under_way, trials)
            under_way.go_to(row + 1)
            after = look(under_way, trials)
            found.append(_Teller(trace, row, before, after, under_way.died()).tell())
            if under_way.died():
                break
    return found


class _Teller:
    """Two looks at a heap, and the call between them."""

    def __init__(
        self, trace: Trace, row: int, old: HeapState, new: HeapState, error: str | None
    ) -> None:
        self.trace, self.row, self.old, self.new, self.error = trace, row, old, new, error
        self.call = trace[row]
        self.pointer = self._live_at(old)
        self.result = self._given()

    def _live_at(self, state: HeapState) -> int:
        """Return the address of the call's block, 0 if it is not allocated."""
        if self.call.block == NULL_BLOCK:
            return 0
        address, size = (int(column[self.call.block]) for column in state.blocks)
        return address if size != _NOT_LIVE else 0

    def _given(self) -> int:
        """Return what an allocating call gave."""
        if self.call.op > Op.PVALLOC or self.call.op == Op.FREE:
            return 0
        if self.call.block != NULL_BLOCK:
            return self._live_at(self.new)
        return max(self.new.addresses(*_IN_USE) - self.old.addresses(*_IN_USE), default=0)

    def tell(self) -> CallExplanation:
        way = self._way()
        address = self.result or (self.pointer if self.call.op == Op.FREE else 0)
        chunk = self.new.holding(address) if address else None
        before = self.new.neighbour(chunk, -1) if chunk else None
        after = self.new.neighbour(chunk, 1) if chunk else None
        born, died = self._life()
        cost = Cost.between(self.old, self.new)
        sentences = [
            self._asked(),
            way.words,
            *self._on_the_way(way.source),
            str(cost),
            _lies(chunk, before, after),
            self._life_words(born, died),
        ]
        return CallExplanation(
            row=self.row,
            call=self._text(),
            path=way.path,
            address=self.result,
            size=chunk.size if chunk and self.result else 0,
            source=way.source,
            cost=cost,
            chunk=chunk,
            before=before,
            after=after,
            allocated_by=born,
            freed_by=died,
            sentences=tuple(filter(None, sentences)),
        )

    def _way(self) -> Way:
        if self.error:
            return Way("abort", None, f"The library ends the program: {self.error}.")
        return Ways(self.call, self.old, self.new, self.pointer, self.result).way()

    def _text(self) -> str:
        passed = self.pointer
        if self.call.op == Op.FREE and self.call.block != NULL_BLOCK:
            passed = int(self.old.blocks[0][self.call.block])  # once more, if it is free already
        return call_text(self.call, passed)

    def _asked(self) -> str:
        site = self.trace.info.sites.resolve([self.call.site])[self.call.site]
        place = f" from {site}" if self.call.site else ""
        when = f", {self.call.time / 1e6:.3f} ms into the run" if self.trace.has("time") else ""
        who = f" by thread {self.call.thread}" if self.trace.has("thread") else ""
        return f"Call {self.row:,}: {self._text()}{who}{place}{when}."

    def _on_the_way(self, source: Chunk | None) -> Iterator[str]:
        """Say what the library did beside what it was asked for."""
        old, new = self.old, self.new
        if self.error:
            return
        if new.addresses(ChunkState.OWN) - old.addresses(ChunkState.OWN):
            yield "The thread's tcache is made first."
        binned = new.addresses(ChunkState.SMALL, ChunkState.LARGE)
        sorted_ = len(old.addresses(ChunkState.UNSORTED) & binned)
        if sorted_:
            yield f"On the way {plural(sorted_, 'chunk')} moved from the unsorted list to a bin."
        kept = new.addresses(ChunkState.TCACHE) - old.addresses(ChunkState.TCACHE)
        kept -= {self.pointer, self.result}
        if kept and self.call.op <= Op.PVALLOC:
            yield f"{plural(len(kept), 'more chunk')} of the size went to the tcache for later."
        gone = old.addresses(ChunkState.FAST) - new.addresses(ChunkState.FAST)
        gone -= {self.result, source.address if source else 0} | kept
        if gone:
            yield f"The fastbins were emptied: {plural(len(gone), 'chunk')} merged or went on."

    def _life(self) -> tuple[int | None, int | None]:
        """Return the calls that began and ended the life of the block."""
        if self.call.block == NULL_BLOCK:
            return None, None
        rows = np.flatnonzero(self.trace.block == self.call.block)
        op = self.trace.op[rows]
        begins = rows[(op <= Op.PVALLOC) & (op != Op.FREE) & (op != Op.REALLOC)]
        first = begins[begins <= self.row]
        frees = rows[(op == Op.FREE) & (rows >= self.row)]
        later = begins[begins > self.row]
        ends = frees.size and not (later.size and later[0] < frees[0])
        born = int(first[-1]) if first.size else int(rows[0])
        return born, int(frees[0]) if ends else None

    def _life_words(self, born: int | None, died: int | None) -> str:
        if born is None or self.call.op > Op.PVALLOC:
            return ""
        begun = f"The block was allocated by call {born:,}." if born < self.row else ""
        if self.call.op == Op.FREE:
            return begun
        end = f"It is freed by call {died:,}." if died is not None else "It is never freed."
        return f"{begun} {end}".strip()


def _lies(chunk: Chunk | None, before: Chunk | None, after: Chunk | None) -> str:
    if chunk is None or chunk.state == ChunkState.MAPPED:
        return ""
    sides = [f"before it {brief(before)}"] if before else []
    sides += [f"behind it {brief(after)}"] if after else []
    around = f"; {', '.join(sides)}" if sides else ""
    return f"The chunk is now {brief(chunk)}{around}."
