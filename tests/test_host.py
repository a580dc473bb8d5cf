"""The real C library, the real kernel and live /proc, seen from Python."""

from __future__ import annotations

import functools
import gc
import os
import resource
import shutil
import signal
import stat
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from flatkernel import FlatKernel

import pyalloc as pa
from pyalloc import engine
from pyalloc.errors import ArgumentError
from pyalloc.host import compile as host_compile
from pyalloc.host import faults, glibc, proc
from pyalloc.host.compile import CompilerMissing, HostError
from pyalloc.kernel.oom import oom_policy
from pyalloc.kernel.proctext import parse_fields
from pyalloc.machine import Machine
from pyalloc.trace import NULL_BLOCK
from pyalloc.workload.streams import stream

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = 4096
RECORD = ("address", "brk", "usable")

O = pa.Op  # noqa: E741 - a letter reads better in tables of calls


def can_build(word: int) -> bool:
    try:
        host_compile.program("calls", word=word)
    except CompilerMissing:
        return False
    return True


WORDS = [
    pytest.param(8, id="64", marks=pytest.mark.skipif(not can_build(8), reason="no C compiler")),
    pytest.param(4, id="32", marks=pytest.mark.skipif(not can_build(4), reason="no 32-bit libc")),
]
needs_cc = WORDS[0].marks[0]


def trace(*rows: tuple[int, ...]) -> pa.Trace:
    """Return a trace of rows of op, block, size, arg."""
    full = [(*row, *(0,) * (4 - len(row))) for row in rows]
    return pa.Trace.from_arrays(*(list(column) for column in zip(*full, strict=True)))


# --- the real library


@needs_cc
def test_addresses_begin_where_the_break_was() -> None:
    """glibc 2.26 to 2.41 puts its tcache (0x290 bytes with header) first."""
    run = glibc.run(trace((O.MALLOC, 0, 100), (O.MALLOC, 1, 5000)), record=RECORD)
    assert run.signal is None
    assert run.calls == 2
    assert run.address is not None
    assert run.address[1] - run.address[0] == 112
    assert run.address[0] - run.brk0 in {0x10, 0x2A0, 0x310}
    assert run.usable is not None
    assert run.usable.tolist() == [104, 5000]
    assert run.brk is not None
    assert (run.brk == run.brk0 + 0x21000).all()
    assert not run.randomized
    assert "[stack]" in run.maps
    assert "[heap]" not in run.maps
    assert f"{run.brk0:x}-{run.brk0 + 0x21000:x} rw-p 00000000 00:00 0" in run.maps_end


@pytest.mark.parametrize("word", WORDS)
def test_every_call_means_what_a_trace_says(word: int) -> None:
    run = glibc.run(
        trace(
            (O.FREE, NULL_BLOCK),
            (O.MALLOC, 0, 10),
            (O.REALLOC, 1, 500),  # never allocated: a malloc
            (O.REALLOC, 1, 50_000),
            (O.CALLOC, 2, 7),
            (O.MEMALIGN, 3, 10, 1024),
            (O.POSIX_MEMALIGN, 4, 10, 2048),
            (O.POSIX_MEMALIGN, 5, 10, 3),  # no power of two: NULL
            (O.ALIGNED_ALLOC, 6, 10, 512),
            (O.VALLOC, 7, 10),
            (O.PVALLOC, 8, 10),
            (O.REALLOC, 0, 0),  # frees
            (O.MALLOC, 9, 10),  # gets it again
            (O.MALLOC, 10, 1 << 31 if word == 4 else 1 << 62),  # too much
            (O.FREE, 10),
            (O.MALLOC, NULL_BLOCK, 10),
            (O.MALLOC_TRIM, NULL_BLOCK, 0),
            (O.THREAD_EXIT, NULL_BLOCK),
        ),
        record=RECORD,
        word=word,
    )
    assert (run.signal, run.message, run.calls) == (None, "", 18)
    assert run.address is not None
    assert run.usable is not None
    p = [int(value) for value in run.address]
    assert p[0] == 0
    assert p[12] == p[1]
    assert [i for i, value in enumerate(p) if not value] == [0, 7, 11, 13, 14, 16, 17]
    assert all(p[row] % align == 0 for row, align in ((5, 1024), (6, 2048), (8, 512), (9, PAGE)))
    assert run.usable[10] >= PAGE  # pvalloc
    assert run.usable[3] >= 50_000


@needs_cc
def test_rows_beside_malloc_move_what_they_say() -> None:
    run = glibc.run(
        trace(
            (O.MALLOC, 0, 10),
            (O.SBRK, NULL_BLOCK, 3 * PAGE),
            (O.MMAP, 1, 1 << 24),
            (O.MALLOPT, NULL_BLOCK, 4096, (1 << 64) - 3),  # M_MMAP_THRESHOLD
            (O.MALLOC, 2, 1 << 18),
            (O.MUNMAP, 1, 1 << 24),
        ),
        record=("address", "brk"),
    )
    assert run.brk is not None
    assert run.address is not None
    assert run.brk[1] - run.brk[0] == 3 * PAGE
    assert run.brk[4] == run.brk[1]
    assert run.address[4] > run.brk[1]


@needs_cc
def test_an_abort_is_a_result() -> None:
    run = glibc.run(
        trace((O.MALLOC, 0, 10), (O.MALLOC, 1, 10), (O.FREE, 0), (O.FREE, 0), (O.MALLOC, 2, 1)),
        record=("address",),
    )
    assert run.signal == signal.SIGABRT
    assert "double free" in run.message
    assert run.calls == 3
    assert run.maps_end == ""
    assert run.address is not None
    assert run.address[1] - run.address[0] == 32


@needs_cc
def test_tunables_reach_the_library_and_ours_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_TOP_PAD_", "0")
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.top_pad=0")
    calls = trace((O.MALLOC, 0, 10))
    plain = glibc.run(calls, record=["brk"])
    padded = glibc.run(calls, record=["brk"], tunables={"top_pad": 1 << 20})
    assert plain.brk is not None
    assert padded.brk is not None
    assert plain.brk[0] - plain.brk0 == 0x21000
    assert padded.brk[0] - padded.brk0 == 0x101000


@needs_cc
def test_faults_and_resident_bytes_are_the_library_s_alone() -> None:
    """A megabyte that is not written faults for the chunk's header only, one written for all."""
    calls = trace((O.MALLOC, 0, 1 << 20))
    plain, written = glibc.run(calls), glibc.run(calls, touch="write")
    assert (plain.minor_faults, plain.rss - plain.rss0) == (2, 2 * PAGE)  # tcache, chunk header
    assert (written.minor_faults, written.rss - written.rss0) == (258, 258 * PAGE)
    nothing = glibc.run(trace((O.FREE, NULL_BLOCK)), touch="write")
    assert (nothing.minor_faults, nothing.rss - nothing.rss0) == (0, 0)


@needs_cc
def test_touch_rows_write_inside_their_block() -> None:
    calls = trace(
        (O.MALLOC, 0, 1 << 20),
        (O.TOUCH, 0, 10 * PAGE, 5 * PAGE),
        (O.TOUCH, 0, 1 << 40, (1 << 20) - 1),  # cut at the block's end
        (O.TOUCH, 0, 1, 1 << 20),  # past it: nothing
        (O.FREE, 0),
        (O.TOUCH, 0, 10),  # not allocated: nothing
    )
    assert glibc.run(calls).minor_faults == 2
    assert glibc.run(calls, touch="recorded").minor_faults == 2 + 11 + 1


@needs_cc
def test_repeats_are_fresh_processes() -> None:
    run = glibc.run(stream("random", count=1000, live=100), repeat=3)
    assert len(run.times) == 3
    assert run.nanoseconds == min(run.times) > 0


@needs_cc
def test_no_calls_are_a_run_too() -> None:
    empty = pa.Trace.from_arrays(np.zeros(0, "u1"), np.zeros(0, "u4"), np.zeros(0, "u8"))
    run = glibc.run(empty, record=RECORD)
    assert run.calls == 0
    assert run.address is not None
    assert len(run.address) == 0
    assert glibc.version() == run.glibc


# --- the model against it


def on_the_model(calls: pa.Trace, real: glibc.HostRun) -> dict[str, Any]:
    """Return the columns that the model computes from where the real run began."""
    kernel = FlatKernel(real.maps, real.brk0, 8 * real.word)
    heap = engine.Heap(f"glibc-{real.glibc}", real.word, real.brk0, os.cpu_count() or 1)
    kernel.lease(heap)
    out = {name: np.zeros(len(calls), np.uint64) for name in RECORD}
    columns = {name: getattr(calls, name) for name in ("op", "block", "size", "arg")}
    run = engine.ReplayRun(heap, columns, out, np.zeros((len(engine.SAMPLE_FIELDS), 0), "u8"), 0)
    while not run.run():
        kernel.serve(heap)
        run.answer(heap.stop.answer)
        kernel.lease(heap)
    return out


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("kind", ["random", "lifo", "bursts"])
@pytest.mark.parametrize("sizes", ["small", "medium", "mixed"])
def test_the_model_returns_the_addresses_of_this_machine(word: int, kind: str, sizes: str) -> None:
    if f"glibc-{glibc.version(word)}" not in engine.allocator_names():
        pytest.skip(f"glibc {glibc.version(word)} is not modelled")
    calls = stream(kind, sizes, count=20_000, live=200, seed=5, calls="all")
    real = glibc.run(calls, record=RECORD, word=word)
    model = on_the_model(calls, real)
    for name in RECORD:
        want = getattr(real, name)
        assert np.array_equal(model[name], want), (
            f"{name} differs first at row {np.argmax(model[name] != want)}"
        )


def pages_on_the_model(
    calls: pa.Trace, real: glibc.HostRun, touch: str, word: int = 8
) -> tuple[int, int]:
    """Return minor faults and growth of resident bytes on a machine like this one."""
    machine = Machine(ram="1G", swap=0, kernel="6.18", arch="x86_64" if word == 8 else "i386")
    process = machine.spawn(allocator=f"glibc-{real.glibc}", maps=real.maps, brk=real.brk0)
    table = process.pages.table
    before = table.counters()["anon"]
    replay = process.replay(calls, touch=touch)
    return replay.summary.minor_faults, (table.counters()["anon"] - before) * PAGE


TOUCHED = [
    (sizes, touch, which)
    for sizes in ("small", "medium", "mixed")
    for touch in ("none", "write")
    for which in ("plain", "all")
]
HUGE = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@needs_cc
@pytest.mark.skipif(
    HUGE.exists() and "[always]" in HUGE.read_text(), reason="this machine gives out huge pages"
)
@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("kind", ["random", "lifo", "bursts"])
@pytest.mark.parametrize(("sizes", "touch", "which"), TOUCHED)
def test_the_model_faults_page_by_page_as_this_machine(
    word: int, kind: str, sizes: str, touch: str, which: str
) -> None:
    if f"glibc-{glibc.version(word)}" not in engine.allocator_names():
        pytest.skip(f"glibc {glibc.version(word)} is not modelled")
    calls = stream(kind, sizes, count=10_000, live=200, seed=2, calls=which)
    real = glibc.run(calls, touch=touch, word=word)
    model = pages_on_the_model(calls, real, touch, word)
    assert model == (real.minor_faults, real.rss - real.rss0)


# --- bad input


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"touch": "all"}, "touch"),
        ({"record": ["addresses"]}, "addresses"),
        ({"word": 2}, "word"),
        ({"repeat": 0}, "repeat"),
        ({"tunables": {"top_pad:x": 1}}, "tunable"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ArgumentError, match=text):
        glibc.run(trace((O.MALLOC, 0, 1)), **options)


def test_more_threads_than_there_is_room_for_are_refused() -> None:
    many = np.arange(glibc.MOST_THREADS)
    calls = pa.Trace.from_arrays(np.zeros_like(many), many, many, thread=many)
    with pytest.raises(ArgumentError, match="1023 threads"):
        glibc.run(calls)


@needs_cc
@pytest.mark.parametrize("word", WORDS)
def test_each_thread_has_a_heap_of_its_own_until_it_ends(word: int) -> None:
    """What a thread leaves is the next one's: arena and blocks, but not its cache."""
    op = [O.MALLOC, O.MALLOC, O.FREE, O.MALLOC, O.THREAD_EXIT, O.MALLOC, O.MALLOC]
    block = [0, 1, 1, 2, pa.NULL_BLOCK, 3, 4]
    calls = pa.Trace.from_arrays(op, block, [99] * 7, thread=[0, 1, 1, 2, 1, 3, 0])
    real = glibc.run(calls, record=RECORD, word=word)
    assert real.address is not None
    first, one, _, two, _, three, last = (int(at) for at in real.address)
    assert abs(last - first) < 1 << 12
    assert one >> 20 != two >> 20
    assert three == one  # the cache was emptied into the top


@needs_cc
def test_a_trace_too_large_for_its_process_is_refused_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (16 << 20, 16 << 20))

    limited = functools.partial(subprocess.run, preexec_fn=limit)
    monkeypatch.setattr(subprocess, "run", limited)
    with pytest.raises(HostError, match="tables: Cannot allocate memory"):
        glibc.run(stream("random"))


@needs_cc
def test_block_numbers_may_be_anything() -> None:
    calls = trace((O.MALLOC, 0xFFFFFFFE, 10), (O.MALLOC, 7, 10), (O.FREE, 0xFFFFFFFE))
    run = glibc.run(calls, record=["address"])
    assert run.address is not None
    assert run.address[1] - run.address[0] == 32
    assert run.calls == 3


# --- compiling


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield tmp_path
    host_compile._temporary_folder.cache_clear()


@needs_cc
def test_a_program_is_built_once_for_its_flags(home: Path) -> None:
    first = host_compile.program("calls")
    built = first.stat().st_mtime_ns
    assert first.is_relative_to(home)
    assert stat.S_IMODE((home / "cache/pyalloc").stat().st_mode) == 0o700
    assert host_compile.program("calls") == first
    assert first.stat().st_mtime_ns == built
    assert [path.name for path in (home / "cache/pyalloc").iterdir()] == [first.name]


@needs_cc
def test_another_compiler_or_source_is_another_program(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = host_compile.program("first_touch")
    sources = home / "csrc"
    shutil.copytree(host_compile.SOURCES, sources)
    monkeypatch.setattr(host_compile, "SOURCES", sources)
    assert host_compile.program("first_touch") == first
    with (sources / "first_touch.c").open("a") as file:
        file.write("/* changed */\n")
    assert host_compile.program("first_touch") != first


@needs_cc
@pytest.mark.usefixtures("home")
def test_a_folder_that_others_may_write_to_is_not_trusted(tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "pyalloc"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    program = host_compile.program("first_touch")
    assert not program.is_relative_to(tmp_path / "cache")
    assert program.exists()


@pytest.mark.usefixtures("home")
def test_no_compiler_is_said_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(CompilerMissing, match="install gcc or clang"):
        host_compile.program("calls")
    monkeypatch.setenv("CC", "no-such-cc")
    with pytest.raises(CompilerMissing, match="no-such-cc"):
        host_compile.program("calls")


@pytest.mark.usefixtures("home")
def test_a_compiler_that_fails_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "fake-cc"
    fake.write_text("#!/bin/sh\necho 'fatal: bits/libc-header-start.h' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("CC", str(fake))
    with pytest.raises(CompilerMissing, match=r"libc-header-start(.|\n)*32-bit parts"):
        host_compile.program("calls", word=4)


@needs_cc
def test_sources_compile_without_a_warning(tmp_path: Path) -> None:
    strict = ["-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Werror"]
    for source in host_compile.SOURCES.glob("*.c"):
        flags = host_compile.BARE if source.stem == "puppet" else host_compile.FLAGS
        command = [host_compile.compiler(), *flags, *strict, source]
        subprocess.run([*command, "-o", tmp_path / source.stem], check=True)


# --- first touch


@needs_cc
def test_each_page_faults_once() -> None:
    touch = faults.first_touch(1000, repeat=2)
    assert (touch.pages, touch.minor_faults) == (1000, 1000)
    assert 10 < touch.nanoseconds_per_page < 1_000_000


@needs_cc
def test_memory_that_cannot_be_had_is_said() -> None:
    with pytest.raises(HostError, match="refused"):
        faults.first_touch(1 << 40)
    with pytest.raises(ArgumentError, match="pages"):
        faults.first_touch(0)


# --- /proc

MAPS = """\
08048000-08049000 r-xp 00000000 03:02 123        /home/me/my prog
bffeb000-c0000000 rwxp bffeb000 00:00 0
"""


def test_fields_are_numbers_where_they_are_numbers() -> None:
    text = "Name:\tab c\nVmRSS:\t    1704 kB\nThreads:\t1\nUid:\t0\t0\t0\t0\n\n"
    assert parse_fields(text) == {
        "Name": "ab c",
        "VmRSS": 1704,
        "Threads": 1,
        "Uid": "0\t0\t0\t0",
    }


def test_smaps_belong_to_their_area() -> None:
    first, second = MAPS.splitlines()
    text = f"{first}\nRss: 4 kB\nVmFlags: rd ex\n{second}\nRss: 8 kB\n"
    (prog, a), (_, b) = proc.parse_smaps(text)
    assert prog.name == "/home/me/my prog"
    assert (a, b) == ({"Rss": 4, "VmFlags": "rd ex"}, {"Rss": 8})


def test_this_process_is_as_the_kernel_says() -> None:
    gc.collect()  # or machines of other tests go while this one looks
    areas = proc.maps()
    assert any(area.name == "[stack]" for area in areas)
    status, statm = proc.status(), proc.statm(os.getpid())
    assert status["Pid"] == os.getpid()
    assert statm.resident * 4 == pytest.approx(status["VmRSS"], rel=0.1)
    total = sum(area.length for area in areas if area.name != "[vsyscall]") >> 10
    assert total == pytest.approx(status["VmSize"], rel=0.01)
    rss = sum(int(fields["Rss"]) for _, fields in proc.smaps())
    assert rss == pytest.approx(status["VmRSS"], rel=0.1)
    assert 0 <= proc.oom_score() <= 2000
    assert proc.meminfo()["MemTotal"] > proc.meminfo()["MemFree"] > 0


def test_live_processes_can_be_judged_by_a_policy() -> None:
    with subprocess.Popen(["/bin/sleep", "60"]) as child:
        try:
            tasks = {task.pid: task for task in proc.tasks()}
        finally:
            child.kill()
    me = tasks[os.getpid()]
    assert child.pid in me.children
    assert (me.uid, me.kernel_thread, me.dying) == (os.geteuid(), False, False)
    assert me.total_vm >= me.rss > 1000
    assert me.cpu_time <= me.run_time
    verdict = oom_policy("6.12").choose(list(tasks.values()), proc.meminfo()["MemTotal"] // 4)
    assert verdict.victim is not None


def test_a_process_that_is_gone_is_said() -> None:
    with subprocess.Popen(["/bin/true"]) as child:
        child.wait()
    with pytest.raises(proc.NoSuchProcess, match=str(child.pid)):
        proc.maps(child.pid)
    with pytest.raises(ProcessLookupError):
        proc.statm(child.pid)
