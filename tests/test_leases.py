"""What the heap does by itself is what policy would have answered, question by question."""

from __future__ import annotations

import random
from typing import Any

import pytest

import pyalloc as pa
from pyalloc.machine.heap import ProcessHeap

MB = 1 << 20
KERNELS = [
    ("6.18", "x86_64", "glibc-2.36"),
    ("6.12", "i386", "glibc-2.36"),
    ("6.18", "i386", "glibc-2.3.3"),
    ("2.6.18", "i386", "glibc-2.3.3"),
]
SIZES = (300, 60_000, 140_000, MB, 2 * MB - 4096, 2 * MB - 16, 4 * MB - 4096, 9 * MB)


class Asking(ProcessHeap):
    """A heap that asks for each mapping."""

    def _lease_below(self, ground: Any) -> None:  # noqa: ARG002 - any area
        self.give_ground_back()


def new_process(kernel: str, arch: str, allocator: str) -> pa.Process:
    machine = pa.Machine(ram="512M", swap="64M", kernel=kernel, arch=arch)
    return machine.spawn("p", allocator=allocator)


def asking(process: pa.Process) -> pa.Process:
    """The same process, whose heap asks for each mapping."""
    process.heap.__class__ = Asking
    process.heap.lease()
    return process


def outcome(process: pa.Process, call: str, *arguments: Any) -> Any:
    try:
        return getattr(process, call)(*arguments)
    except (OSError, pa.MemoryFault, pa.ProcessKilled) as error:
        return repr(error)


def texts(process: pa.Process) -> tuple[str, ...]:
    """What the kernel prints of the process and of the whole machine."""
    machine = process.machine
    return (
        str(process.maps()),
        str(process.status()),
        str(process.smaps()),
        str(machine.meminfo()),
    )


class Twins:
    """Two processes that are told the same."""

    def __init__(self, kernel: str, arch: str, allocator: str, seed: int) -> None:
        self.random = random.Random(seed)  # noqa: S311 - no secret
        self.processes = [
            new_process(kernel, arch, allocator),
            asking(new_process(kernel, arch, allocator)),
        ]
        self.blocks: list[int] = []

    def do(self, call: str, *arguments: Any) -> Any:
        one, other = (outcome(process, call, *arguments) for process in self.processes)
        if call == "fork":
            assert texts(one) == texts(other)
            asking(other)
            for child in (one, other):
                child.malloc(MB)
            assert texts(one) == texts(other)
            child_exits = [child.exit(0) for child in (one, other)]
            return child_exits[0]
        assert one == other, (call, arguments)
        return one

    def block(self) -> int:
        return self.random.choice(self.blocks) if self.blocks else 0

    def step(self) -> None:
        kind = self.random.random()
        size = int(self.random.choice(SIZES) * self.random.choice((1, 1, 1, self.random.random())))
        if kind < 0.55:
            self.keep(self.do("malloc", size))
        elif kind < 0.7 and self.blocks:
            self.do("free", self.blocks.pop(self.random.randrange(len(self.blocks))))
        elif kind < 0.76 and self.blocks:
            block = self.blocks.pop(self.random.randrange(len(self.blocks)))
            self.keep(self.do("realloc", block, size) or block)
        elif kind < 0.84 and self.blocks:
            self.do("touch", self.block(), self.random.randrange(1, 70_000))
        else:
            self.system_call(self.random.randrange(9))

    def keep(self, block: int) -> None:
        if block:
            self.blocks.append(block)

    def system_call(self, which: int) -> None:
        rw, private = pa.PROT.READ | pa.PROT.WRITE, pa.MAP.PRIVATE | pa.MAP.ANONYMOUS
        page = self.block() & ~4095
        match which:
            case 0:
                self.do("mmap", 0, self.random.choice((4096, 300_000, 3 * MB)), rw, private)
            case 1:
                self.do("mmap", 0, 70_000, pa.PROT.READ, private)
            case 2:
                self.do("mprotect", page - 8192, 4096, self.random.choice((0, 3)))
            case 3:
                self.do("munmap", page - 40 * 4096, 4096)
            case 4:
                self.do("fork")
            case 5:
                self.do("madvise", page, 8192, pa.MADV.DONTNEED)
            case 6:
                self.do("sbrk", self.random.choice((4096, 200_000)))
            case 7:
                self.do("mremap", page - 4096, 4096, 8192, pa.MREMAP.MAYMOVE)
            case _:
                mode = self.random.choice((0, 1, 2))
                for process in self.processes:
                    process.machine.sysctl["vm.overcommit_memory"] = mode


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("kernel", "arch", "allocator"), KERNELS)
def test_mappings_without_a_question(kernel: str, arch: str, allocator: str, seed: int) -> None:
    """Addresses, texts and promises are the same whether the heap asks or has its lease."""
    twins = Twins(kernel, arch, allocator, seed)
    for i in range(120):
        twins.step()
        if i % 7 == 0:
            one, other = (texts(process) for process in twins.processes)
            assert one == other
    one, other = (texts(process) for process in twins.processes)
    assert one == other


def pair(kernel: str = "6.18", arch: str = "x86_64") -> tuple[pa.Process, pa.Process]:
    """One process with its leases and one that asks, each with one large block."""
    one, other = new_process(kernel, arch, "glibc-2.36"), new_process(kernel, arch, "glibc-2.36")
    asking(other)
    for process in (one, other):
        process.malloc(300)
        process.malloc(MB)
    assert one.heap.ground is not None
    assert other.heap.ground is None
    return one, other


def test_a_mapping_of_the_programs_own_takes_the_place() -> None:
    """After another system call the next block goes where that leaves room."""
    for prot in (pa.PROT.READ, pa.PROT.READ | pa.PROT.WRITE):
        one, other = pair()
        for process in (one, other):
            process.mmap(0, 300_000, prot, pa.MAP.PRIVATE | pa.MAP.ANONYMOUS)
        assert one.malloc(MB) == other.malloc(MB)
        assert texts(one) == texts(other)


def test_the_peak_is_that_of_both_together() -> None:
    """Whether the break came down before a mapping or after it shows in VmPeak."""
    one, other = pair()
    for process in (one, other):
        blocks = [process.malloc(100_000) for _ in range(200)]
        for block in reversed(blocks):
            process.free(block)
        for _ in range(3):
            process.malloc(MB)
    assert texts(one) == texts(other)


def test_a_child_maps_for_itself() -> None:
    """After a fork neither process takes the other's place for its own."""
    one, other = pair()
    children = one.fork(), other.fork()
    asking(children[1])
    for mother, child in ((one, children[0]), (other, children[1])):
        for process in (mother, child, mother, child):
            process.malloc(MB)
    assert texts(one) == texts(other)
    assert texts(children[0]) == texts(children[1])


@pytest.mark.parametrize("gap", [1, 700, 1500, 5000])
def test_above_the_base_nothing_is_leased(gap: int) -> None:
    """Where all below mmap_base is full, areas grow upwards, not down into what is free there."""
    pairs = [new_process("6.18", "i386", "glibc-2.36") for _ in range(2)]
    asking(pairs[1])
    private = pa.MAP.PRIVATE | pa.MAP.ANONYMOUS
    blocks: list[list[int | None]] = [[], []]
    chance = random.Random(gap)  # noqa: S311 - no secret
    sizes = [int(chance.choice((2, 9, 30, 130)) * MB * chance.random()) for _ in range(250)]
    for process, mine in zip(pairs, blocks, strict=True):
        process.machine.sysctl["vm.overcommit_memory"] = 1
        base = process.space.placement.base
        process.mmap(base + gap * 4096, 4096, 3, private | pa.MAP.FIXED)
        for i, size in enumerate(sizes):
            mine.append(process.malloc(size))
            if i % 25 == 24:
                process.free(mine[i // 2] or 0)
                mine[i // 2] = None
    assert blocks[0] == blocks[1]
    assert texts(pairs[0]) == texts(pairs[1])
