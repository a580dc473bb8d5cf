"""The real C library of this machine, making the calls of a trace.

A small C program (``csrc/calls.c``) takes the columns, makes the calls in their order in a fresh
process whose addresses are not randomised, and hands back what the library and the kernel did.
All memory of that program is mapped and faulted in before call 0, so that addresses, faults and
resident bytes are the library's alone.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import re
import struct
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np

from pyalloc.errors import ArgumentError
from pyalloc.host import compile as _compile
from pyalloc.host.compile import HostError
from pyalloc.machine.tunables import TUNABLES, unknown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy.typing as npt

    U64 = npt.NDArray[np.uint64]

RECORDS: Final = ("address", "brk", "usable")
"""What can be taken down of every call."""

TOUCHES: Final = ("none", "write", "recorded")
"""Whether blocks are written: never, whole when they are allocated, or where TOUCH rows say."""

MOST_THREADS: Final = 1024
"""Threads the program has room for."""

_MAGIC: Final = 0x70610001
_IN: Final = struct.Struct("12Q")
_ASKED: Final = struct.Struct("10Q")
_TOLD: Final = struct.Struct("9Q16s")
_INFO: Final = struct.Struct("10q10Q")
_HEADER: Final = 4096
_TEXT: Final = 8 << 20  # bytes kept of each text: 65,536 mappings of usual names
_TEXTS: Final = tuple(_HEADER + i * _TEXT for i in range(4))  # maps, maps, rollup, rollup
_COLUMNS: Final = _HEADER + 4 * _TEXT
_NO_BLOCK: Final = 0xFFFFFFFF
_RSS: Final = re.compile(r"^Rss:\s+(\d+) kB", re.MULTILINE)


class Calls(Protocol):
    """What is needed of a trace: the columns of :class:`pyalloc.Trace`."""

    @property
    def op(self) -> npt.NDArray[np.uint8]:
        """The call, as :class:`pyalloc.Op` numbers it."""

    @property
    def block(self) -> npt.NDArray[np.uint32]:
        """The object it is about."""

    @property
    def size(self) -> U64:
        """Bytes."""

    @property
    def arg(self) -> U64:
        """Alignment, or parameter number."""

    @property
    def thread(self) -> npt.NDArray[np.uint32]:
        """The calling thread."""


@dataclass(frozen=True, slots=True)
class HostStatistics:
    """What the library says of itself after the last call.

    ``malloc_stats`` and ``malloc_info`` are the texts of these calls; ``mallinfo`` and
    ``mallinfo2`` the ten fields of the structs in their order, zeros where there is no mallinfo2.
    """

    malloc_stats: str
    malloc_info: str
    mallinfo: tuple[int, ...]
    mallinfo2: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class HostRun:
    """What the real library and the real kernel did.

    Attributes
    ----------
    address, brk, usable
        One value a call, where asked for: the pointer an allocating call returned (0 for NULL and
        for other calls), the break after the call, malloc_usable_size of the pointer.
    nanoseconds, times
        Wall time from before call 0 to after the last, the least and each of the fresh processes;
        taking records down is part of it.
    calls
        Calls that were made; fewer than the trace has if the library aborted.
    maps, brk0
        The text of ``/proc/self/maps`` and the break just before call 0.
    maps_end
        The same text after the last call; empty if it was not reached.
    rss0, rss
        Resident bytes just before call 0 and after the last (of ``smaps_rollup``, which counts the
        pages themselves).
    minor_faults, major_faults
        Page faults from before call 0 to after the last.
    glibc
        The library's version, as ``"2.36"``.
    word
        Bytes in a pointer: 8 or 4.
    randomized
        Whether the kernel refused to switch address randomisation off; then addresses differ from
        run to run, but ``maps`` and ``brk0`` still fit them.
    signal, message
        What the process died of, if it did, and what the library said.
    statistics
        What the library says of itself after the last call, where asked for and reached.
    """

    address: U64 | None
    brk: U64 | None
    usable: U64 | None
    nanoseconds: int
    times: tuple[int, ...]
    calls: int
    maps: str
    brk0: int
    maps_end: str
    rss0: int
    rss: int
    minor_faults: int
    major_faults: int
    glibc: str
    word: int
    randomized: bool
    signal: int | None = None
    message: str = ""
    statistics: HostStatistics | None = None


def run(
    trace: Calls,
    *,
    touch: str = "none",
    record: Sequence[str] = (),
    word: int = 8,
    tunables: Mapping[str, int] | None = None,
    repeat: int = 1,
    statistics: bool = False,
) -> HostRun:
    """Make the calls of ``trace`` on the C library of this machine.

    Calls of several threads are made by as many, one at a time, in the order of the rows: a thread
    starts right before its first row, and has ended before the row after its THREAD_EXIT.

    Parameters
    ----------
    trace
        The calls.  A 32-bit process takes the low half of sizes and arguments.
    touch
        One of :data:`TOUCHES`.
    record
        Any of :data:`RECORDS`.
    word
        Bytes in a pointer: 8, or 4 for the 32-bit library.
    tunables
        Values by name, any of :data:`TUNABLES`.
    repeat
        Number of fresh processes; times are of all, everything else is of the last.
    statistics
        Let the library say at the end what it says of itself.

    Returns
    -------
    HostRun
        Also when the library aborted on the way: see its ``signal``.

    Raises
    ------
    CompilerMissing
        No compiler for that word size.
    HostError
        The program could not be run.
    ArgumentError
        An argument, or the trace, asks for what cannot be done.
    """
    _check(trace, touch, record, repeat)
    program = str(_compile.program("calls", word=word))
    environment = _environment(tunables or {})
    with _memory("calls") as columns:
        _write_columns(columns, trace, TOUCHES.index(touch), statistics=statistics)
        runs = [
            _run_once(program, environment, columns, len(trace.op), record, word)
            for _ in range(repeat)
        ]
    times = tuple(each["nanoseconds"] for each in runs)
    return HostRun(**{**runs[-1], "nanoseconds": min(times), "times": times})


def version(word: int = 8) -> str:
    """Return the version of this machine's glibc, as ``"2.36"``."""
    return run(_Nothing(), word=word).glibc


class _Nothing:
    """A trace of no calls."""

    op = np.zeros(0, np.uint8)
    block = np.zeros(0, np.uint32)
    size = np.zeros(0, np.uint64)
    arg = np.zeros(0, np.uint64)
    thread = np.zeros(0, np.uint32)


# --- before


def _check(trace: Calls, touch: str, record: Sequence[str], repeat: int) -> None:
    if touch not in TOUCHES:
        message = f"touch must be one of {', '.join(TOUCHES)} (got {touch!r})"
        raise ArgumentError(message)
    if unknown := [name for name in record if name not in RECORDS]:
        message = f"record must name {', '.join(RECORDS)} (got {unknown[0]!r})"
        raise ArgumentError(message)
    if repeat < 1:
        message = f"repeat must be 1 or more (got {repeat})"
        raise ArgumentError(message)
    if len(np.unique(trace.thread)) >= MOST_THREADS:
        message = f"the trace has calls of more than {MOST_THREADS - 1} threads"
        raise ArgumentError(message)


def _environment(tunables: Mapping[str, int]) -> dict[str, str]:
    """Return all of the program's environment: nothing of ours may steer the library."""
    for name in tunables:
        if name not in TUNABLES:
            message = f"no tunable {name!r}{unknown(name)}"
            raise ArgumentError(message)
    variables = {"LIBC_FATAL_STDERR_": "1"}
    if tunables:
        pairs = (f"glibc.malloc.{name}={value}" for name, value in tunables.items())
        variables["GLIBC_TUNABLES"] = ":".join(pairs)
    return variables


@contextlib.contextmanager
def _memory(name: str) -> Iterator[int]:
    """Yield a file that is in memory only: writing it back would disturb page faults."""
    fd = os.memfd_create(name)
    try:
        yield fd
    finally:
        os.close(fd)


def _aligned(offset: int) -> int:
    return (offset + 63) & -64


def _write_columns(fd: int, trace: Calls, touch: int, *, statistics: bool) -> None:
    arg = trace.arg if trace.arg.any() else None
    block, blocks = _numbered(trace.block)
    thread, threads = _threads(trace.thread)
    offsets, at = [], _HEADER
    for column in (trace.op, block, trace.size, arg, thread):
        offsets.append(0 if column is None else at)
        if column is not None:
            _write_at(fd, np.ascontiguousarray(column), at)
            at = _aligned(at + column.nbytes)
    os.ftruncate(fd, at)
    *offsets, thread_at = offsets
    counts = (_MAGIC, len(trace.op), blocks, touch)
    os.pwrite(fd, _IN.pack(*counts, *offsets, statistics, thread_at, threads, at), 0)


def _threads(thread: npt.NDArray[np.uint32]) -> tuple[npt.NDArray[np.uint32] | None, int]:
    """Return the threads numbered from 0, the main one, and how many; None if it is alone."""
    distinct = np.union1d(thread, np.zeros(1, np.uint32))
    if len(distinct) == 1:
        return None, 1
    return np.searchsorted(distinct, thread).astype(np.uint32), len(distinct)


def _numbered(block: npt.NDArray[np.uint32]) -> tuple[npt.NDArray[np.uint32], int]:
    """Return block numbers that a table can be indexed by, and how many entries it needs."""
    is_named = block != _NO_BLOCK
    named = block[is_named]
    highest = int(named.max(initial=0))
    if highest <= 2 * len(block):
        return block, highest + 1
    distinct, index = np.unique(named, return_inverse=True)
    dense = block.copy()
    dense[is_named] = index
    return dense, len(distinct)


def _write_at(fd: int, array: npt.NDArray[Any], at: int) -> None:
    left = array.data.cast("B") if len(array) else memoryview(b"")
    while left:
        written = os.pwrite(fd, left, at)
        left, at = left[written:], at + written


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where the program puts what; bytes from the start of its output."""

    columns: dict[str, int]
    column_bytes: int

    @classmethod
    def of(cls, count: int, record: Sequence[str]) -> _Layout:
        """Return the layout for ``count`` calls: a header, four texts, columns."""
        each = _aligned(8 * count)
        columns = {name: _COLUMNS + i * each for i, name in enumerate(record)}
        return cls(columns, each * len(record))

    def header(self) -> bytes:
        wanted = (self.columns.get(name, 0) for name in RECORDS)
        return _ASKED.pack(_COLUMNS, self.column_bytes, *wanted, *_TEXTS, _TEXT)


# --- running


def _run_once(
    program: str,
    environment: dict[str, str],
    columns: int,
    count: int,
    record: Sequence[str],
    word: int,
) -> dict[str, Any]:
    layout = _Layout.of(count, record)
    with _memory("results") as results:
        bytes_ = _COLUMNS + layout.column_bytes
        os.ftruncate(results, bytes_)
        os.pwrite(results, layout.header(), 0)
        died_of, text = _call(program, environment, columns, results)
        with mmap.mmap(results, bytes_, mmap.MAP_SHARED, mmap.PROT_READ) as output:
            told, text = _statistics(output, text)
            ended = {"word": word, "signal": died_of, "message": text, "statistics": told}
            return ended | _read(output, layout, count)


def _call(
    program: str, environment: dict[str, str], columns: int, results: int
) -> tuple[int | None, str]:
    """Run the program; return the signal it died of, and what it said."""
    try:
        done = subprocess.run(  # noqa: S603
            [program, str(columns), str(results)],
            env=environment,
            pass_fds=(columns, results),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
    except OSError as error:
        message = f"{program}: cannot be run: {error.strerror}"
        raise HostError(message) from None
    if done.returncode > 0:
        raise HostError(_refusal(results, done.returncode))
    text = done.stderr.decode(errors="replace")
    return (-done.returncode or None), text


def _refusal(results: int, code: int) -> str:
    """Return why the program gave up before call 0."""
    *_, line, number = struct.unpack("13Q", os.pread(results, 104, 0))
    if line:
        return f"the trace does not fit beside its own tables: {os.strerror(number)}"
    return f"the program that makes the calls failed with exit code {code}"


def _statistics(output: mmap.mmap, text: str) -> tuple[HostStatistics | None, str]:
    """Return what the library said of itself, and what else was on stderr."""
    said, *told = text.split("\f")
    if not told:
        return None, said.strip()
    numbers = _INFO.unpack_from(output, _ASKED.size + _TOLD.size)
    return HostStatistics(told[0], told[1], numbers[:10], numbers[10:]), said.strip()


def _text(output: mmap.mmap, at: int) -> str:
    end = output.find(b"\0", at, at + _TEXT)
    return output[at : at + _TEXT if end < 0 else end].decode(errors="surrogateescape")


def _rss(text: str) -> int:
    match = _RSS.search(text)
    return int(match[1]) << 10 if match else 0


def _read(output: mmap.mmap, layout: _Layout, count: int) -> dict[str, Any]:
    magic, _, _, row, randomized, brk0, nanoseconds, minor, major, glibc = _TOLD.unpack_from(
        output, _ASKED.size
    )
    if magic != _MAGIC:
        message = "the program that makes the calls died before call 0"
        raise HostError(message)
    found: dict[str, Any] = dict.fromkeys(RECORDS)
    for name, at in layout.columns.items():
        found[name] = np.frombuffer(output, np.uint64, count, at).copy()
    maps, maps_end, before, after = (_text(output, at) for at in _TEXTS)
    return found | {
        "nanoseconds": nanoseconds,
        "calls": row,
        "maps": maps,
        "brk0": brk0,
        "maps_end": maps_end,
        "rss0": _rss(before),
        "rss": _rss(after),
        "minor_faults": minor,
        "major_faults": major,
        "glibc": glibc.rstrip(b"\0").decode(),
        "randomized": bool(randomized),
    }
