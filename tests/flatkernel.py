"""A small stand-in for the address space: answers a heap's questions as the live kernel would."""

from __future__ import annotations

import re
from bisect import insort

from pyalloc import engine

PAGE = 4096


class FlatKernel:
    """Mappings top-down in the highest gap that fits; the break up to the next mapping."""

    def __init__(self, maps: str, brk: int, bits: int) -> None:
        self.used: list[tuple[int, int]] = []
        self.brk = brk
        self.bits = bits
        for line in maps.splitlines():
            match = re.match(r"([0-9a-f]+)-([0-9a-f]+) (\S+)", line)
            if match and "[vsyscall]" not in line and "[heap]" not in line:
                low, high = int(match[1], 16), int(match[2], 16)
                self.used.append((low - (256 * PAGE if "[stack]" in line else 0), high))
        self.used.sort()
        stack = next(i for i, u in enumerate(self.used) if u[1] == max(v[1] for v in self.used))
        self.top = self.used[stack - 1][1]
        self.brk_start = brk

    def gap(self, length: int) -> int:
        """Return where the highest free range of ``length`` begins; below the stack's gap."""
        heap = (self.brk_start & -PAGE, (self.brk + PAGE - 1) & -PAGE)
        used = sorted([*self.used, heap])
        high = self.top
        for low, end in reversed(used):
            if end <= high:
                if high - end >= length:
                    return high - length
                high = low
            elif low < high:
                high = low
        if high - PAGE >= length:
            return high - length
        # bottom-up from a third of the task size
        task = (
            0x7FFFFFFFF000
            if self.bits == 64
            else 0xC0000000
            if self.top <= 0xC0000000
            else 0xFFFFE000
        )
        low = (task // 3 + PAGE - 1) & -PAGE
        for begin, end in used:
            if end <= low:
                continue
            if begin - low >= length:
                return low
            low = max(low, end)
        return low if task - low >= length else 0

    def mmap(self, length: int, hint: int = 0) -> int:
        length = (length + PAGE - 1) & -PAGE
        if length > 1 << (47 if self.bits == 64 else 32):
            return 0
        if hint and all(e <= hint or b >= hint + length for b, e in self.used):
            at = hint
        elif self.bits == 64 and length % (2 << 20) == 0:
            at = self.gap(length + (2 << 20))
            if at:
                at = (at + (2 << 20)) & -(2 << 20)
        else:
            at = self.gap(length)
        if at:
            insort(self.used, (at, at + length))
        return at

    def munmap(self, address: int, length: int) -> None:
        end = address + length
        rest = []
        for b, e in self.used:
            if e <= address or b >= end:
                rest.append((b, e))
            else:
                if b < address:
                    rest.append((b, address))
                if e > end:
                    rest.append((end, e))
        self.used = sorted(rest)

    def mremap(self, old: int, old_length: int, length: int) -> int:
        length = (length + PAGE - 1) & -PAGE
        if length <= old_length:
            self.munmap(old + length, old_length - length)
            return old
        room = min([b for b, _ in self.used if b >= old + old_length], default=1 << 47)
        if room >= old + length:
            self.munmap(old, old_length)
            insort(self.used, (old, old + length))
            return old
        new = self.mmap(length)
        if new:
            self.munmap(old, old_length)
        return new

    def move_brk(self, brk: int) -> int:
        if brk < self.brk_start or brk >= 1 << (47 if self.bits == 64 else 32):
            return self.brk
        room = min([b for b, _ in self.used if b >= self.brk_start], default=1 << 47)
        end, held = ((at + PAGE - 1) & -PAGE for at in (brk, self.brk))
        if end > held and end + PAGE > room:
            return self.brk
        self.brk = brk
        return brk

    def lease(self, heap: engine.Heap) -> None:
        """Let the break move inside its gap, as policy does."""
        room = min([b for b, _ in self.used if b >= self.brk_start], default=1 << 47)
        heap.lease(room - 2 * PAGE)

    def serve(self, heap: engine.Heap) -> None:
        """Answer the heap's question."""
        stop = heap.stop
        self.brk = heap.brk
        if stop.reason == engine.STOP_BRK:
            heap.answer(self.move_brk(stop.address))
        elif stop.reason == engine.STOP_MMAP:
            heap.answer(self.mmap(stop.length, stop.address))
        elif stop.reason == engine.STOP_MREMAP:
            heap.answer(self.mremap(stop.address, stop.old_length, stop.length))
        elif stop.reason == engine.STOP_MUNMAP:
            self.munmap(stop.address, stop.length)


class Died(Exception):
    """A signal ended the simulated program; ``text``: what the C library said, if anything."""

    def __init__(self, signal: int, text: str) -> None:
        super().__init__(text)
        self.signal = signal
        self.text = text


FREE_AGAIN, FENCE = 12, 13
"""Two calls that only recordings have: free without forgetting, a mapping above the break."""


class FlatProcess:
    """One program on a :class:`FlatKernel`: calls go in, what the library did comes out."""

    def __init__(self, allocator: str, bits: int, brk: int, maps: str, cpus: int = 2) -> None:
        self.bits = bits
        self.mask = (1 << bits) - 1
        self.kernel = FlatKernel(maps, brk, bits)
        self.heap = engine.Heap(allocator, bits // 8, brk, cpus)
        self.heap.set_program("prog")
        self.kernel.lease(self.heap)
        self.blocks: dict[int, int] = {}

    def finish(self, result: int) -> int:
        """Answer questions until the call is over."""
        while result == engine.PENDING:
            stop = self.heap.stop
            if stop.reason == engine.STOP_ABORT:
                raise Died(stop.answer, self.heap.abort_text)
            self.kernel.serve(self.heap)
            result = self.heap.resume()
            self.kernel.lease(self.heap)
        return result

    def fence(self, distance: int) -> int:
        """Map a page ``distance`` above the break, if it can be had: the break ends at it."""
        at = ((self.heap.brk + PAGE - 1) & -PAGE) + distance
        if at % PAGE or any(begin < at + PAGE and at < end for begin, end in self.kernel.used):
            return self.mask
        insort(self.kernel.used, (at, at + PAGE))
        self.kernel.brk = self.heap.brk
        self.kernel.lease(self.heap)
        return at

    def call(self, op: int, block: int, size: int, arg: int) -> int:
        """Make one call as the recordings number them; return its pointer or result."""
        old = self.blocks.get(block, 0)
        if op == FENCE:
            return self.fence(size)
        if op in {3, FREE_AGAIN}:
            if op == 3:
                self.blocks.pop(block, None)
            self.finish(self.heap.free(old))
            return 0
        if op == 2:
            value = self.finish(self.heap.realloc(old, size))
            if value or not size:
                self.blocks[block] = value
            return value
        value = self.finish(self.heap.malloc(size) if op == 0 else self.other(op, size, arg))
        if op <= 8:
            self.blocks[block] = value
        return value

    def other(self, op: int, size: int, arg: int) -> int:
        """Make a call that is neither malloc, free nor realloc."""
        if op == 1:
            size = (size & self.mask) * (max(arg, 1) & self.mask)
            if size > self.mask:
                return 0
        return self.heap.other(op, size, arg)
