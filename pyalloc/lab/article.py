"""Every figure of the article that can be derived, beside what it prints."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pyalloc.machine import Machine
from pyalloc.units import PAGE
from pyalloc.workload import article

_MAP = (
    "0009a000-0039d000",
    "005ce000-08048000",
    "0806d000-b7f62000",
    "b7f73000-b7f75000",
    "b7f76000-bf7ee000",
    "bf822000-bff29000",
)
"""The six blocks of memory in the map that the article prints at program A's end."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure: what the article prints, what the simulation gives, and why they differ."""

    name: str
    printed: int | str
    simulated: int | str
    why: str = ""

    @property
    def equal(self) -> bool:
        """Whether both are the same."""
        return self.printed == self.simulated


def figures(progress: Callable[[str], None] | None = None) -> list[Figure]:
    """Run the article's programs on its machine and return every figure."""
    found: list[Figure] = []
    for part in (_program_a, _status_a, _status_b, _end_of_b, _single_calls, _arithmetic):
        if progress is not None:
            progress((part.__doc__ or "").partition("\n")[0].rstrip("."))
        found += part()
    return found


def _program_a() -> Iterator[Figure]:
    """Program A to NULL."""
    a = article.process(article.machine(), "fragment", stack_pages=21)
    yield Figure("A: blocks of 1 MB until NULL", 3056, article.loop(a, write=False))
    ranges = set(a.maps())
    for line in _MAP:
        yield Figure("A: area in the final map", line, line if line in ranges else "absent")


def _status_rows(name: str, blocks: int, printed: dict[str, int], *, write: bool) -> list[Figure]:
    process = article.process(article.machine(), "fragment")
    article.loop(process, write=write, blocks=blocks)
    status = process.status()
    return [
        Figure(f"{name}: {field} at {blocks} blocks, kB", value, status[field], _WHY.get(field, ""))
        for field, value in printed.items()
    ]


_WHY = {
    "VmRSS": "a header page a block is exact; of program and libraries the article had 84 pages",
}


def _status_a() -> list[Figure]:
    """Program A's status."""
    printed = {
        "VmSize": 3141876,
        "VmData": 3140564,
        "VmStk": 88,
        "VmExe": 4,
        "VmLib": 1204,
        "VmPTE": 3072,
        "VmRSS": 12556,
    }
    return _status_rows("A", 3055, printed, write=False)


def _status_b() -> list[Figure]:
    """Program B's status."""
    printed = {"VmSize": 1072512, "VmData": 1071200, "VmPTE": 1064}
    return _status_rows("B", 1042, printed, write=True)


def _end_of_b() -> Iterator[Figure]:
    """Program B to the kill."""
    machine = article.machine()
    b = article.process(machine, "fragment2")
    yield Figure(
        "B: MB written when it is killed",
        1081,
        article.loop(b, write=True),
        "what else the machine held is known by its sum only",
    )
    yield Figure("B: killed by", "SIGTERM", _signal(b.killed_by), "the kernel sends SIGKILL")


def _signal(killed_by: str | None) -> str:
    return "SIGKILL" if killed_by == "oom" else str(killed_by)


def _single_calls() -> Iterator[Figure]:
    """Single calls."""
    process = article.process(article.machine(), "small")
    block = process.malloc(4097)
    first, last = block // PAGE, (block + 4096) // PAGE
    yield Figure("malloc(4097): pages", 2, last - first + 1)
    yield Figure(
        "malloc(4097): bytes of the chunk",
        "4105 to 4109",
        process.usable_size(block) + 4,
        "a chunk is a multiple of 8 bytes",
    )
    heap = process.heap_statistics().count_mmap_calls
    process.malloc(128 * 1024 - 16)
    below = process.heap_statistics().count_mmap_calls - heap
    process.malloc(128 * 1024)
    above = process.heap_statistics().count_mmap_calls - heap
    yield Figure("M_MMAP_THRESHOLD, kB", 128, 128 if (below, above) == (0, 1) else "another")


def _arithmetic() -> Iterator[Figure]:
    """Arithmetic on printed lines."""
    machine = Machine(ram="256M", swap="256M", overcommit_memory=2, overcommit_ratio=50)
    limit = machine.meminfo()["CommitLimit"] // 1024
    yield Figure("commit limit, 256 MB + 256 MB, ratio 50, MB", 384, limit)
    yield Figure(
        "dmesg: kB of 262080k not available",
        8492,
        262080 - 255716,
        "the article counts code, data and init twice: they are part of the reserved pages",
    )
    free, buffers, cached, swap = 3668, 13640, 171788, 909676
    yield Figure("free virtual memory, kB", 1098772, free + buffers + cached + swap)
