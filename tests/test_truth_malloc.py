"""Every address, break and usable size is what the real C library gave, in each generation."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flatkernel import Died, FlatProcess

from pyalloc.engine import MallInfo
from pyalloc.errors import ArgumentError

DATA = Path(__file__).parent / "data" / "malloc"

ABORT, FAULT = 2**64 - 1, 2**64 - 2
"""In place of a value: the call ended in SIGABRT, in SIGSEGV or SIGBUS."""


def bits_of(arch: str) -> int:
    return 64 if arch == "x86_64" else 32


def play(process: FlatProcess, calls: dict[str, Any]) -> tuple[int, str]:
    """Make the recorded calls; return row and difference of the first that differs, or (-1, text).

    The text is what the library said when the program aborted where the recording does.
    """
    rows = zip(*(calls[name].tolist() for name in calls), strict=True)
    for row, (op, block, size, arg, value, brk, usable) in enumerate(rows):
        try:
            got = process.call(op, block, size, arg)
        except Died as end:
            as_recorded = value == (ABORT if end.signal == 6 else FAULT)
            return (-1, end.text) if as_recorded else (row, f"died: {end.text!r}")
        if value in {ABORT, FAULT} and brk == 0:
            return row, f"lived: {got:#x}"
        want = (value, brk, usable)
        have = (got, process.heap.brk, process.heap.usable_size(got) if op <= 8 and got else 0)
        if want != have:
            return row, f"{op=} {block=} {size=} {arg=}: want {hexes(want)}, got {hexes(have)}"
    return -1, ""


def hexes(numbers: tuple[int, int, int]) -> str:
    return f"{numbers[0]:#x} brk {numbers[1]:#x} usable {numbers[2]}"


COLUMNS = ("op", "id", "size", "arg", "value", "brk", "usable")


def shipped(archive: str) -> dict[str, Any]:
    """Return the recordings of an archive by name."""
    found = {}
    with tarfile.open(DATA / archive) as members:
        for member in members:
            file = members.extractfile(member)
            if file:
                found[Path(member.name).stem] = np.load(io.BytesIO(file.read()))
    return found


def recordings(kind: str, archive: str) -> dict[str, Any]:
    """Return the recordings by name: the full set where PYALLOC_TRUTH says so, else what ships."""
    full = os.environ.get("PYALLOC_TRUTH")
    if full:
        return {path.stem: np.load(path) for path in sorted(Path(full, kind).glob("*.npz"))}
    return shipped(archive)


RECORDED = recordings("malloc", "calls.tar.xz")
PROGRAMS = recordings("programs", "programs.tar.xz")
MALLINFO = shipped("mallinfo.tar.xz")


def named(prefix: str) -> list[str]:
    """Return the recordings whose name begins so."""
    return [name for name in RECORDED if name.startswith(prefix)]


@pytest.mark.parametrize("name", named("glibc-"))
def test_a_stream_of_calls(name: str) -> None:
    """Every call of a long stream: pointer, break, usable size."""
    allocator, arch = name.split("--", maxsplit=1)[0].rsplit("-", 1)
    stream = RECORDED[name]
    process = FlatProcess(allocator, bits_of(arch), int(stream["brk0"]), str(stream["maps"]))
    row, difference = play(process, {column: stream[column] for column in COLUMNS})
    assert row < 0, f"call {row}: {difference}"
    process.heap.check()


def cases_of(corner: Any, allocator: str, bits: int) -> list[str]:
    """Run every corner case; return a line for each that differs."""
    columns = {name: corner[name] for name in COLUMNS}
    start, maps, errors = corner["case_start"].tolist(), corner["maps"], corner["case_err"]
    wrong = []
    for i, name in enumerate(corner["case_name"]):
        where = str(maps[corner["case_maps"][i]])
        process = FlatProcess(allocator, bits, int(corner["case_brk0"][i]), where)
        part = {key: column[start[i] : start[i + 1]] for key, column in columns.items()}
        row, text = play(process, part)
        if row >= 0:
            wrong.append(f"{name} call {row}: {text}")
        elif text != str(errors[i]).strip():
            wrong.append(f"{name}: says {text!r}, not {str(errors[i]).strip()!r}")
    return wrong


@pytest.mark.parametrize("name", named("corner--"))
def test_corner_cases(name: str) -> None:
    """Thresholds, settings, failures, aborts: short programs each in a process of its own."""
    version, arch = name.removeprefix("corner--").rsplit("-", 1)
    wrong = cases_of(RECORDED[name], f"glibc-{version}", bits_of(arch))
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", MALLINFO)
def test_mallinfo_after_each_call(name: str) -> None:
    """Where the library says its bytes are, field by field."""
    allocator, arch = name.split("--", maxsplit=1)[0].rsplit("-", 1)
    stream = MALLINFO[name]
    process = FlatProcess(allocator, bits_of(arch), int(stream["brk0"]), str(stream["maps"]))
    rows = zip(*(stream[column].tolist() for column in COLUMNS[:4]), strict=True)
    for row, call in enumerate(rows):
        process.call(*call)
        info = process.heap.mallinfo()
        said = dict(zip(MallInfo.__slots__, stream["info"][row].tolist(), strict=True))
        assert said == {field: getattr(info, field) for field in said}, f"call {row}: {call}"


def test_the_arenas_add_up_to_the_whole() -> None:
    """As malloc_stats shows them: the main arena first, then the newest."""
    run = ProgramRun(0x555555560000, 64)
    for thread in (1, 2, 3):
        run.call(1, thread, thread, 1000 * thread, 0)
    heap = run.process.heap
    arenas = [heap.mallinfo(i) for i in range(heap.statistics().count_arenas)]
    assert [arena.arena for arena in arenas] == [0x21000] * 3
    assert arenas[1].uordblks > arenas[2].uordblks > arenas[0].uordblks
    assert sum(arena.fordblks for arena in arenas) == heap.mallinfo().fordblks
    with pytest.raises(ArgumentError):
        heap.mallinfo(3)


# --- real programs: randomised addresses, so only what is inside a heap can be compared

STACK = {
    64: "7ffff7fbf000-7ffff7fff000 r-xp 0 0 0 x\n7ffffffde000-7ffffffff000 rw-p 0 0 0 [stack]\n",
    32: "f7fb0000-f7ffe000 r-xp 0 0 0 x\nfffdd000-ffffe000 rw-p 0 0 0 [stack]\n",
}
CALLS = {1: 0, 2: 3, 3: 2, 4: 1, 5: 4, 6: 15}
"""The op numbers of recorded programs as those of the engine."""


class ProgramRun:
    """A recorded program on the simulated library; knows which thread heap is which."""

    def __init__(self, base: int, bits: int) -> None:
        self.base = base
        self.process = FlatProcess("glibc-2.36", bits, base, STACK[bits])
        self.heap_max = 64 << 20 if bits == 64 else 1 << 20
        self.real_of: dict[int, int] = {}

    def call(self, op: int, tid: int, slot: int, size: int, align: int) -> int:
        self.process.heap.set_thread(tid - 1)
        if op == 6:
            self.process.finish(self.process.heap.other(CALLS[op], 0, 0))
            return 0
        return self.process.call(CALLS[op], slot, size, 1 if op == 4 else align)

    def agrees(self, got: int, real: int) -> bool:
        """Same offset in the main heap; same heap and offset in it; or both a mapping."""
        if not got or self.base <= got < self.process.heap.brk:
            return got == real
        used = self.process.kernel.used
        begin, end = next(area for area in used if area[0] <= got < area[1])
        heap = real - real % self.heap_max
        if end - begin != self.heap_max or begin % self.heap_max:
            return real % 4096 == got % 4096 and not self.base <= real < self.process.heap.brk
        self.real_of = {
            sim: real for sim, real in self.real_of.items() if (sim, sim + self.heap_max) in used
        }
        if begin not in self.real_of and heap not in self.real_of.values():
            self.real_of[begin] = heap
        return self.real_of.get(begin) == heap and real % self.heap_max == got % self.heap_max


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program(name: str) -> None:
    """Threads come and go, free each other's blocks, share and inherit arenas."""
    program = PROGRAMS[name]
    bits = 32 if name.startswith("mt32") else 64
    run = ProgramRun(int(program["base"]), bits)
    columns = [program[column].tolist() for column in ("op", "tid", "slot", "size", "align", "ret")]
    for row, (op, tid, slot, size, align, ret) in enumerate(zip(*columns, strict=True)):
        got = run.call(op, tid, slot, size, align)
        if op not in {2, 6}:
            assert run.agrees(got, ret & run.process.mask), f"call {row}: {got:#x}, not {ret:#x}"
    run.process.heap.check()
