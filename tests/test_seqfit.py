"""Sequential fit against a model of it that is slow and obvious, address by address."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pyalloc as pa
from pyalloc.engine import PENDING, SAMPLE_FIELDS, STOP_ABORT, STOP_BRK, Heap, ReplayRun

PAGE = 4096
START = 0x55555557C000
POLICIES = ("first-fit", "best-fit", "next-fit", "worst-fit")


@dataclass
class Block:
    start: int
    size: int
    used: bool = False

    @property
    def end(self) -> int:
        return self.start + self.size


@dataclass
class SequentialFit:
    """All memory is one ascending list of blocks; the last one is the top."""

    policy: str
    start: int
    limit: int
    word: int = 8
    blocks: list[Block] = field(default_factory=list)
    rover: int | None = None  # start of a free block; None: begin at the front

    @property
    def unit(self) -> int:
        return 2 * self.word

    @property
    def least(self) -> int:
        return 2 * self.unit

    @property
    def brk(self) -> int:
        return self.blocks[-1].end if self.blocks else self.start

    def free_blocks(self) -> list[Block]:
        return [b for b in self.blocks[:-1] if not b.used]

    def find_used(self, pointer: int) -> int | None:
        for i, b in enumerate(self.blocks):
            if b.used and b.start + self.unit == pointer:
                return i
        return None

    # --- search

    def choose(self, need: int) -> Block | None:
        fits = [b for b in self.free_blocks() if b.size >= need]
        if not fits:
            return None
        if self.policy == "best-fit":
            return min(fits, key=lambda b: b.size)
        if self.policy == "worst-fit":
            return max(fits, key=lambda b: b.size)
        if self.policy == "next-fit" and self.rover is not None:
            return next((b for b in fits if b.start >= self.rover), fits[0])
        return fits[0]

    def next_free_after(self, start: int) -> int | None:
        return next((b.start for b in self.free_blocks() if b.start > start), None)

    def split(self, i: int, size: int) -> None:
        b = self.blocks[i]
        self.blocks[i : i + 1] = [
            Block(b.start, size, b.used),
            Block(b.start + size, b.size - size),
        ]

    # --- calls

    def allocate(self, size: int) -> Block | None:
        need = max(self.least, -(-(size + self.word) // self.unit) * self.unit)
        return self.take(need)

    def take(self, need: int) -> Block | None:
        found = self.choose(need)
        if found is None:
            return self.take_from_top(need)
        i = self.blocks.index(found)
        follower = self.next_free_after(found.start)
        if found.size - need >= self.least:
            self.split(i, need)
            if self.policy == "next-fit" or self.rover == found.start:
                self.rover = found.start + need
        elif self.policy == "next-fit" or self.rover == found.start:
            self.rover = follower
        self.blocks[i].used = True
        return self.blocks[i]

    def extend_top(self, need: int) -> bool:
        have = self.blocks[-1].size if self.blocks else 0
        if have >= need + self.least:
            return True
        more = -(-(self.brk + need + self.least - have) // PAGE) * PAGE - self.brk
        if self.brk + more > self.limit:
            return False
        if not self.blocks:
            self.blocks.append(Block(self.start, 0))
        self.blocks[-1].size += more
        return True

    def take_from_top(self, need: int) -> Block | None:
        if not self.extend_top(need):
            return None
        self.split(len(self.blocks) - 1, need)
        self.blocks[-2].used = True
        return self.blocks[-2]

    def release(self, i: int) -> None:
        self.blocks[i].used = False
        if i + 1 < len(self.blocks) and not self.blocks[i + 1].used:
            self.merge(i)
        if i and not self.blocks[i - 1].used:
            self.merge(i - 1)

    def merge(self, i: int) -> None:
        low, high = self.blocks[i : i + 2]
        into_top = i + 2 == len(self.blocks)
        if self.rover == high.start:
            self.rover = low.start
        if into_top and self.rover == low.start:
            self.rover = None
        low.size += high.size
        del self.blocks[i + 1]

    def malloc(self, size: int) -> int:
        b = self.allocate(size)
        return b.start + self.unit if b else 0

    def free(self, pointer: int) -> bool:
        """False: the library would abort."""
        if not pointer:
            return True
        i = self.find_used(pointer)
        if i is None:
            return False
        self.release(i)
        return True

    def shrink(self, i: int, need: int) -> None:
        if self.blocks[i].size - need >= self.least:
            self.split(i, need)
            self.release(i + 1)

    def realloc(self, pointer: int, size: int) -> int:  # noqa: PLR0911 - a case a line
        if not pointer:
            return self.malloc(size)
        i = self.find_used(pointer)
        assert i is not None
        if size == 0:
            self.release(i)
            return 0
        need = max(self.least, -(-(size + self.word) // self.unit) * self.unit)
        b = self.blocks[i]
        if need <= b.size:
            self.shrink(i, need)
            return pointer
        if i + 2 == len(self.blocks):
            return pointer if self.grow_last(need - b.size) else 0
        if self.grow(i, need):
            return pointer
        moved = self.allocate(size)
        if moved is None:
            return 0
        self.release(self.blocks.index(b))
        return moved.start + self.unit

    def grow_last(self, more: int) -> bool:
        if not self.extend_top(more):
            return False
        b, top = self.blocks[-2:]
        top.start, top.size = top.start + more, top.size - more
        b.size += more
        return True

    def grow(self, i: int, need: int) -> bool:
        b, above = self.blocks[i : i + 2]
        more = need - b.size
        if above.used or above.size < more:
            return False
        follower = self.next_free_after(above.start)
        at_rover = self.rover == above.start
        if above.size - more >= self.least:
            above.start, above.size = above.start + more, above.size - more
            b.size += more
            if self.policy == "next-fit" or at_rover:
                self.rover = above.start
        else:
            b.size += above.size
            del self.blocks[i + 1]
            if at_rover:
                self.rover = follower
        return True

    def memalign(self, alignment: int, size: int) -> int:
        if alignment <= self.unit:
            return self.malloc(size)
        need = max(self.least, -(-(size + self.word) // self.unit) * self.unit)
        b = self.take(need + alignment + self.least)
        if b is None:
            return 0
        lead = -(b.start + self.unit) % alignment
        if lead and lead < self.least:
            lead += alignment
        i = self.blocks.index(b)
        if lead:
            self.split(i, lead)
            self.blocks[i + 1].used = True
            aligned = self.blocks[i + 1]
            self.release(i)
            i = self.blocks.index(aligned)
        self.shrink(i, need)
        return self.blocks[i].start + self.unit

    def trim(self, pad: int) -> int:
        if not self.blocks:
            return 0
        spare = self.blocks[-1].size - self.least - pad
        if spare < PAGE:
            return 0
        self.blocks[-1].size -= spare // PAGE * PAGE
        return 1


# --- the comparison

SIZES = st.one_of(st.integers(0, 200), st.integers(0, 3000), st.integers(0, 40000))
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just(pa.Op.MALLOC), st.integers(0, 15), SIZES, st.just(0)),
        st.tuples(st.just(pa.Op.FREE), st.integers(0, 15), st.just(0), st.just(0)),
        st.tuples(st.just(pa.Op.REALLOC), st.integers(0, 15), SIZES, st.just(0)),
        st.tuples(
            st.just(pa.Op.MEMALIGN),
            st.integers(0, 15),
            SIZES,
            st.integers(3, 13).map(lambda n: 1 << n),
        ),
        st.tuples(st.just(pa.Op.MALLOC_TRIM), st.just(0), st.integers(0, 9000), st.just(0)),
    ),
    max_size=120,
)


def run_model(model: SequentialFit, steps: list[tuple[pa.Op, int, int, int]]) -> list[int]:
    """Return the pointer each step gives; blocks are named as in a trace."""
    live: dict[int, int] = {}
    pointers = []
    for op, block, size, arg in steps:
        pointer = 0
        if op == pa.Op.MALLOC:
            pointer = model.malloc(size)
        elif op == pa.Op.MEMALIGN:
            pointer = model.memalign(arg, size)
        elif op == pa.Op.REALLOC:
            old = live.pop(block, 0)
            pointer = model.realloc(old, size)
            if old and size and not pointer:
                live[block] = old
        elif op == pa.Op.FREE:
            model.free(live.pop(block, 0))
        else:
            model.trim(size)
        if pointer:
            live[block] = pointer
        pointers.append(pointer)
    return pointers


def without_double_frees(
    steps: list[tuple[pa.Op, int, int, int]],
) -> list[tuple[pa.Op, int, int, int]]:
    """Drop frees of blocks that are not allocated; a trace would call them double frees."""
    live: set[int] = set()
    kept = []
    for step in steps:
        op, block, size, _ = step
        if op == pa.Op.FREE and block not in live:
            continue
        if op == pa.Op.FREE or (op == pa.Op.REALLOC and size == 0 and block in live):
            live.discard(block)
        elif op != pa.Op.MALLOC_TRIM:
            live.add(block)
        kept.append(step)
    return kept


def run_engine(
    heap: Heap, steps: list[tuple[pa.Op, int, int, int]], limit: int
) -> tuple[list[int], int]:
    """Return the pointers and how often the engine asked; the break is granted up to ``limit``."""
    table = np.array([[int(v) for v in s] for s in steps], np.uint64).reshape(-1, 4)
    columns = {
        "op": table[:, 0].astype(np.uint8),
        "block": table[:, 1].astype(np.uint32),
        "size": table[:, 2].copy(),
        "arg": table[:, 3].copy(),
    }
    address = np.zeros(len(steps), np.uint64)
    samples = np.zeros((len(SAMPLE_FIELDS), len(steps) + 1), np.uint64)
    run = ReplayRun(heap, columns, {"address": address}, samples, 1)
    stops = 0
    while not run.run():
        stop = run.stop
        stops += 1
        assert stop.reason == STOP_BRK
        run.answer(stop.address if stop.address <= limit else heap.brk)
    heap.check()
    return address.tolist(), stops


@pytest.mark.parametrize("word", [8, 4])
@pytest.mark.parametrize("policy", POLICIES)
@given(steps=STEPS, leased=st.booleans())
@settings(max_examples=60, deadline=None)
def test_addresses_equal_the_model(policy: str, word: int, steps: list, leased: bool) -> None:
    """Every pointer of every policy is the model's, whether the break is leased or asked for."""
    start = START if word == 8 else 0x08052000
    limit = start + (1 << 28)
    model = SequentialFit(policy, start, limit, word)
    steps = without_double_frees(steps)
    heap = Heap(policy, word, start, 1)
    if leased:
        heap.lease(limit)
    got, stops = run_engine(heap, steps, limit)
    assert got == run_model(model, steps)
    assert heap.brk == model.brk
    assert not (leased and stops)


@pytest.mark.parametrize("policy", POLICIES)
@given(steps=STEPS)
@settings(max_examples=30, deadline=None)
def test_a_refused_break_gives_null_and_changes_nothing(policy: str, steps: list) -> None:
    """With 100 kB of room, requests fail where the model's fail and later ones go on alike."""
    limit = START + 25 * PAGE
    model = SequentialFit(policy, START, limit)
    # a failed request leaves its name unallocated: free only names that the model gave out
    steps = [s for s in steps if s[0] != pa.Op.FREE]
    heap = Heap(policy, 8, START, 1)
    got, _ = run_engine(heap, steps, limit)
    assert got == run_model(model, steps)


@pytest.mark.parametrize("policy", POLICIES)
def test_the_comparison_notices_a_wrong_address(policy: str) -> None:
    """A model with one rule bent does not agree: the comparison can fail."""
    steps = [(pa.Op.MALLOC, i, 1000 - 40 * i, 0) for i in range(12)]
    steps += [(pa.Op.FREE, i, 0, 0) for i in (1, 4, 6, 10)]
    steps += [(pa.Op.MALLOC, 20 + i, 90 + 45 * i, 0) for i in range(6)]
    steps += [(pa.Op.FREE, 20, 0, 0), (pa.Op.MALLOC, 30, 20, 0)]
    bent = SequentialFit(policy, START, 1 << 60)
    bent.policy = {"first-fit": "best-fit"}.get(policy, "first-fit")
    if policy == "best-fit":
        bent.policy = "worst-fit"
    got, _ = run_engine(Heap(policy, 8, START, 1), steps, 1 << 60)
    assert got != run_model(bent, steps)
    assert got == run_model(SequentialFit(policy, START, 1 << 60), steps)


def malloc(heap: Heap, size: int) -> int:
    pointer = heap.malloc(size)
    while pointer == PENDING:
        heap.answer(heap.stop.address)
        pointer = heap.resume()
    return pointer


def test_a_double_free_and_a_wild_free_are_noticed() -> None:
    """Whatever pointer is no block's, free says so."""
    for bad in (0, 8, 16, 64):
        heap = Heap("first-fit", 8, START, 1)
        pointer = malloc(heap, 100)
        if bad == 0:
            assert heap.free(pointer) == 0
        assert heap.free(pointer + bad) == PENDING
        assert heap.stop.reason == STOP_ABORT
        assert heap.abort_text == "free(): invalid pointer"


def test_foreign_break_leaves_a_fence() -> None:
    """Memory that somebody else took between two growths is stepped over and never given out."""
    heap = Heap("first-fit", 8, START, 1)
    first = malloc(heap, 5000)
    heap.set_brk(heap.brk + 3 * PAGE)
    hole = range(heap.brk - 3 * PAGE, heap.brk)
    second = malloc(heap, 9000)
    assert second >= hole.stop
    heap.check()
    heap.free(first)
    heap.free(second)
    heap.check()
    assert all(malloc(heap, 500) not in hole for _ in range(40))
    heap.check()


def test_a_copy_goes_its_own_way() -> None:
    """A copy gives the same pointers as its original, and neither sees the other's."""
    heap = Heap("next-fit", 8, START, 1)
    pointers = [malloc(heap, 100 * (1 + i % 7)) for i in range(50)]
    for p in pointers[::3]:
        heap.free(p)
    copy = heap.copy()
    assert [malloc(heap, 150) for _ in range(30)] == [malloc(copy, 150) for _ in range(30)]
    heap.check()
    copy.check()
