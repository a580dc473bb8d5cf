"""Faults and resident pages, step by step, as a real kernel counted them."""

from __future__ import annotations

import gzip
import itertools
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pyalloc.errors import MemoryFault
from pyalloc.kernel.abi import MADV, MAP, MREMAP, PROT
from pyalloc.kernel.limits import Limits
from pyalloc.machine import File, Machine

PAGE = 4096
PAGES = 4096
SIZE = PAGES * PAGE
RW = PROT.READ | PROT.WRITE
PRIVATE = MAP.PRIVATE | MAP.ANONYMOUS
DATA = Path(__file__).parent / "data" / "kernel"
FIELDS = (
    "minflt",
    "majflt",
    "RssAnon",
    "RssFile",
    "RssShmem",
    "VmSize",
    "VmPTE",
    "VmSwap",
    "VmLck",
)


def load() -> Any:
    full = os.environ.get("PYALLOC_TRUTH")
    folder = Path(full) / "kernel" if full else DATA
    return json.loads(gzip.decompress((folder / "demand_paging.json.gz").read_bytes()))


TRUTH = load()


@dataclass
class Bench:
    """A process that is looked at after each step."""

    kind: str
    machine: Machine = field(
        default_factory=lambda: Machine(ram="1G", swap=0, kernel="6.18", arch="x86_64")
    )

    def __post_init__(self) -> None:
        self.process = self.machine.spawn(rlimits=Limits(ipc_lock=True))
        self.process.touch(0x7FFFFFFFE000, PAGE)  # the stack is in use, and its tables
        beside_vdso = 0x7FFFF7FFF000  # which a real process has read
        self.process.mmap(beside_vdso, PAGE, RW, PRIVATE | MAP.FIXED)
        self.process.touch(beside_vdso, PAGE)
        self.faults = self._faults()

    def _faults(self) -> tuple[int, int]:
        counters = self.process.pages.table.counters()
        return counters["minor_faults"], counters["major_faults"]

    def look(self) -> list[int]:
        """Return faults since the last look, and kB."""
        old, self.faults = self.faults, self._faults()
        counters = self.process.pages.table.counters()
        space = self.process.space
        kb = [
            counters["anon"],
            counters["file"],
            counters["shmem"],
            space.total_vm,
            counters["tables"],
            counters["swap"],
            space.locked_vm,
        ]
        return [new - was for new, was in zip(self.faults, old, strict=True)] + [4 * n for n in kb]

    def anon(self, prot: int = RW, flags: int = 0) -> int:
        return self.process.mmap(0, SIZE, prot, PRIVATE | flags)

    def file(self, flags: int, prot: int = RW) -> tuple[File, int]:
        folio = PAGE if "4 kB" in self.kind else 2 << 20
        tmpfs = "tmpfs" in self.kind
        file = self.machine.file("data", SIZE, folio=PAGE if tmpfs else folio, tmpfs=tmpfs)
        fd = self.process.open(file)
        return file, self.process.mmap(0, SIZE, prot, flags, fd)

    def read(self, at: int, step: int = 1) -> None:
        self._touch(at, step, write=False)

    def write(self, at: int, step: int = 1) -> None:
        self._touch(at, step, write=True)

    def _touch(self, at: int, step: int, *, write: bool) -> None:
        if step == 1:
            self.process.touch(at, SIZE, write)
            return
        for page in range(0, PAGES, step):
            self.process.touch(at + page * PAGE, 1, write)


def anon_write(b: Bench) -> Iterator[str]:
    at = b.anon()
    yield "mmap rw"
    b.write(at)
    yield "write all"
    b.write(at)
    yield "write again"
    b.read(at)
    yield "read again"
    b.process.munmap(at, SIZE)
    yield "munmap"


def anon_half(b: Bench) -> Iterator[str]:
    at = b.anon()
    b.read(at, 2)
    yield "read even pages"
    b.write(at, 2)
    yield "write even pages"
    b.write(at)
    yield "write all"


def madv_free(b: Bench) -> Iterator[str]:
    at = b.anon()
    b.write(at)
    yield "write all"
    b.process.madvise(at, SIZE, MADV.FREE)
    yield "FREE all"
    b.read(at)
    yield "read all (not reclaimed)"
    b.write(at)
    yield "write all"


def populate_ro(b: Bench) -> Iterator[str]:
    at = b.anon(PROT.READ, MAP.POPULATE)
    yield "mmap r POPULATE"
    b.process.mprotect(at, SIZE, RW)
    b.write(at)
    yield "mprotect rw + write all"


def madv_populate_read(b: Bench) -> Iterator[str]:
    at = b.anon()
    b.process.madvise(at, SIZE, MADV.POPULATE_READ)
    yield "MADV_POPULATE_READ"
    b.write(at)
    yield "write all"


def mlock(b: Bench) -> Iterator[str]:
    at = b.anon()
    b.process.mlock(at, SIZE)
    yield "mlock untouched"
    b.write(at)
    yield "write all"
    b.process.munlock(at, SIZE)
    yield "munlock"
    b.process.madvise(at, SIZE, MADV.DONTNEED)
    yield "DONTNEED"
    b.process.mlock(at, SIZE // 2)
    yield "mlock half"
    with pytest.raises(OSError, match="Invalid argument"):
        b.process.madvise(at, SIZE // 2, MADV.DONTNEED)
    yield "DONTNEED on locked: EINVAL"


def mlockall(b: Bench) -> Iterator[str]:
    b.process.mlockall(3)
    yield "mlockall"
    b.anon()
    yield "mmap rw"


def mprotect(b: Bench) -> Iterator[str]:
    at = b.anon()
    b.write(at)
    yield "write all"
    b.process.mprotect(at, SIZE, PROT.READ)
    yield "->r"
    b.process.mprotect(at, SIZE, RW)
    yield "->rw"
    b.write(at)
    yield "write all"
    b.process.mprotect(at, SIZE, 0)
    yield "->none"
    b.process.mprotect(at, SIZE, RW)
    b.write(at)
    yield "->rw, write all"


def mremap_dontunmap(b: Bench) -> Iterator[str]:
    at = b.anon()
    b.write(at)
    yield "write all"
    new = b.process.mremap(at, SIZE, SIZE, MREMAP.MAYMOVE | MREMAP.DONTUNMAP)
    yield "DONTUNMAP"
    b.read(at)
    yield "read old"
    b.read(new)
    yield "read new"


def stack(b: Bench) -> Iterator[str]:
    def frames(count: int) -> None:
        """Write to both ends of each frame, the caller's address and registers in between."""
        for n in range(1, count + 1):
            b.process.touch(0x7FFFFFFFDF40 - n * (2 * PAGE + 48), 65)

    frames(100)
    yield "100 frames of 8 kB"
    frames(100)
    yield "again"
    frames(200)
    yield "200 frames"


def thp_never_madvised(b: Bench) -> Iterator[str]:
    at = b.anon()
    b.write(at)
    yield "write all, no madvise"


def file_priv_read(b: Bench) -> Iterator[str]:
    _, at = b.file(MAP.PRIVATE)
    b.read(at)
    yield "read all (cached file)"
    b.write(at)
    yield "write all (COW)"
    b.process.madvise(at, SIZE, MADV.DONTNEED)
    yield "DONTNEED (drops the private copies)"
    b.read(at)
    yield "read all"


def file_priv_stride(b: Bench) -> Iterator[str]:
    _, at = b.file(MAP.PRIVATE)
    b.read(at, 64)
    yield "read every 64th page (fault-around)"
    b.read(at)
    yield "read all"


def file_shared_write(b: Bench) -> Iterator[str]:
    _, at = b.file(MAP.SHARED)
    b.write(at)
    yield "write all directly"
    b.read(at)
    yield "read all"
    b.process.msync(at, SIZE)
    yield "msync"
    b.write(at)
    yield "write all after msync"


def file_random(b: Bench) -> Iterator[str]:
    _, at = b.file(MAP.SHARED, PROT.READ)
    b.process.madvise(at, SIZE, MADV.RANDOM)
    b.read(at)
    yield "MADV_RANDOM read all (cached)"


def file_cold_random(b: Bench) -> Iterator[str]:
    file, at = b.file(MAP.SHARED, PROT.READ)
    file.drop_cache()
    b.process.madvise(at, SIZE, MADV.RANDOM)
    b.read(at, 16)
    yield "MADV_RANDOM read every 16th page, cold cache"
    b.read(at)
    yield "read all"


def read_syscall(b: Bench) -> Iterator[str]:
    file, mapped = b.file(MAP.SHARED, PROT.READ)
    b.process.munmap(mapped, SIZE)
    at = b.anon()
    b.process.read(b.process.open(file), SIZE)
    b.write(at)
    yield "pread 16 MB into untouched anon"
    at = b.anon()
    yield "write untouched anon to /dev/null"
    b.process.touch(at, 16 * PAGE, write=False)
    yield "16 x write(pipe) from untouched pages"


STEPS: dict[str, Callable[[Bench], Iterator[str]]] = {
    f.__name__: f
    for f in (
        anon_write,
        anon_half,
        madv_free,
        populate_ro,
        madv_populate_read,
        mlock,
        mlockall,
        mprotect,
        mremap_dontunmap,
        stack,
        thp_never_madvised,
        file_priv_read,
        file_priv_stride,
        file_shared_write,
        file_random,
        file_cold_random,
        read_syscall,
    )
}
OWN_STEPS = {"mlockall"}
"""Steps whose figures are those of the real program itself."""

PATTERNS = [
    pytest.param(p, id=f"{p['pattern']}-{(p['file'] or 'anon')[:22]}")
    for p in TRUTH["patterns"]
    if p["stable"] and p["pattern"] in STEPS
]


def changes(rows: list[list[Any]]) -> list[tuple[str, list[int]]]:
    """Return each step's faults, and how the other figures differ from the step before."""
    return [
        (row[0], row[1:3] + [now - then for now, then in zip(row[3:], old[3:], strict=True)])
        for old, row in itertools.pairwise(rows)
    ]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_step_has_the_kernel_s_faults_and_pages(pattern: dict[str, Any]) -> None:
    bench = Bench(pattern["file"] or "")
    rows: list[list[Any]] = [["start", *bench.look()]]
    rows += [[label, *bench.look()] for label in STEPS[pattern["pattern"]](bench)]
    bench.machine.check()
    wanted = changes(pattern["runs"][0])
    if pattern["pattern"] == "stack":  # depth counts from where the real program stood
        wanted = [(label, [*row[:2], *row[2:5], *row[6:]]) for label, row in wanted]
        rows = [[*row[:6], *row[7:]] for row in rows]
    got = changes(rows)
    for have, want in zip(got, wanted, strict=True):
        if want[0] not in OWN_STEPS:
            assert have == want, dict(
                zip(FIELDS, zip(have[1], want[1], strict=False), strict=False)
            )


# --- what else was measured on the same kernel, in words ---------------------------------------


def steps_of(bench: Bench, steps: Iterator[object]) -> list[list[int]]:
    rows: list[list[Any]] = [["start", *bench.look()]]
    rows += [["", *bench.look()] for _ in steps]
    bench.machine.check()
    return [row for _, row in changes(rows)]


def test_a_zero_page_costs_a_fault_and_its_first_write_another() -> None:
    def steps(b: Bench) -> Iterator[None]:
        at = b.anon()
        b.read(at)
        yield
        b.write(at)
        yield
        b.process.madvise(at, SIZE, MADV.DONTNEED)
        yield

    bench = Bench("")
    read, write, drop = steps_of(bench, steps(bench))
    assert (read[0], read[2], read[6]) == (4096, 0, 32)
    assert (write[0], write[2]) == (4096, 16384)
    assert (drop[2], drop[6]) == (-16384, -32)


def test_a_shared_file_s_pages_are_written_one_fault_at_a_time_after_a_read() -> None:
    def steps(b: Bench) -> Iterator[None]:
        _, at = b.file(MAP.SHARED)
        for act in (b.read, b.write, b.write):
            act(at)
            yield

    bench = Bench("4 kB")
    assert [row[0] for row in steps_of(bench, steps(bench))] == [256, 4096, 0]
    bench = Bench("tmpfs")
    assert [row[0] for row in steps_of(bench, steps(bench))] == [257, 0, 0]


def test_huge_pages_come_where_they_are_asked_for() -> None:
    def steps(b: Bench) -> Iterator[None]:
        at = b.anon()
        b.process.madvise(at, SIZE, MADV.HUGEPAGE)
        b.read(at)
        yield
        b.write(at)
        yield
        b.process.madvise(at, PAGE, MADV.DONTNEED)
        yield
        b.write(at)
        yield
        b.process.munmap(at, SIZE)
        yield

    bench = Bench("")
    read, write, hole, again, gone = steps_of(bench, steps(bench))
    assert (read[0], read[2], read[6]) == (8, 0, 32)
    assert (write[0], write[2], write[6]) == (8, 16384, 0)
    assert (hole[2], hole[6]) == (-4, 0)
    assert (again[0], again[2]) == (1, 4)
    assert (gone[2], gone[6]) == (-16384, -32)


def test_a_child_of_fork_copies_a_huge_page_in_small_pieces() -> None:
    bench = Bench("")
    at = bench.anon()
    bench.process.madvise(at, SIZE, MADV.HUGEPAGE)
    bench.write(at)
    child = bench.process.fork()
    child.touch(at, 3 * PAGE)
    counters = child.pages.table.counters()
    assert counters["minor_faults"] == 3
    bench.machine.check()
    child.exit()
    bench.look()
    bench.write(at)
    assert bench.look()[0] == 8  # the parent's own entries are still whole, and sole again
    bench.machine.check()


def test_a_child_of_fork_faults_files_in_again() -> None:
    bench = Bench("2 MB")
    _, at = bench.file(MAP.SHARED)
    bench.read(at)
    child = bench.process.fork()
    assert child.pages.table.counters()["file"] == 0
    child.touch(at, SIZE, write=False)
    assert child.pages.table.counters()["minor_faults"] == 8
    bench.machine.check()


def test_what_lies_before_the_end_of_a_file_is_mapped_all_the_same() -> None:
    machine = Machine(ram="64M", swap=0, kernel="6.18", arch="x86_64")
    process = machine.spawn()
    file = machine.file("data", 4 * PAGE)
    at = process.mmap(0x10000000, 8 * PAGE, PROT.READ, MAP.PRIVATE, process.open(file))
    with pytest.raises(MemoryFault):
        process.touch(at + 4 * PAGE, 1, write=False)
    assert process.pages.table.counters()["file"] == 4


def test_the_last_folio_of_a_file_makes_no_page_table_for_its_neighbours() -> None:
    machine = Machine(ram="64M", swap=0, kernel="6.18", arch="x86_64")
    process = machine.spawn()
    fd = process.open(machine.file("data", 64 * PAGE, folio=64 * PAGE))
    whole = process.mmap(0x10000000, 64 * PAGE, PROT.READ, MAP.PRIVATE, fd)
    part = process.mmap(0x20000000, 32 * PAGE, PROT.READ, MAP.PRIVATE, fd)
    process.touch(whole, 1, write=False)
    assert process.pages.table.counters()["file"] == 64
    process.touch(part, 1, write=False)
    assert process.pages.table.counters()["file"] == 65
    process.touch(part + PAGE, 1, write=False)  # now there is a table
    assert process.pages.table.counters()["file"] == 64 + 16


def test_old_kernels_fault_again_after_mprotect_and_after_reading_back() -> None:
    machine = Machine(ram="64M", swap="64M", kernel="2.6.18", arch="i386")
    process = machine.spawn()
    at = process.mmap(0, 100 * PAGE, RW, PRIVATE)
    process.touch(at, 100 * PAGE)
    process.mprotect(at, 100 * PAGE, PROT.READ)
    process.mprotect(at, 100 * PAGE, RW)
    before = process.pages.table.counters()["minor_faults"]
    process.touch(at, 100 * PAGE)
    assert process.pages.table.counters()["minor_faults"] == before + 100
