"""The recorder against real programs."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import pyalloc as pa
from pyalloc.cli.subject import end_of, going_on, subject
from pyalloc.errors import ArgumentError, RecordError
from pyalloc.host.measure import measure
from pyalloc.kernel.elf import read_headers
from pyalloc.lab.rest import rest_of
from pyalloc.lab.setting import Setting
from pyalloc.lab.trial import Trials
from pyalloc.report.examination import agreement_words, untouched_words
from pyalloc.trace.blocks import assign_blocks
from pyalloc.trace.ops import ALLOCATES
from pyalloc.trace.record import CannotRun, Recording, _libraries, record

Build = Callable[..., str]
Capture = pytest.CaptureFixture[str]

cc = shutil.which("cc") or shutil.which("gcc")
needs_cc = pytest.mark.skipif(cc is None, reason="needs a C compiler")
FIXED = ["setarch", "-R"] if shutil.which("setarch") else []

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux only")


@pytest.fixture(scope="module", params=[64, 32])
def bits(request: pytest.FixtureRequest) -> int:
    """The word size of the programs that are built."""
    if request.param not in _libraries():
        pytest.skip(f"no recorder for {request.param} bits here")
    return int(request.param)


@pytest.fixture(scope="module")
def build(bits: int, tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Return a function that compiles a C program once."""
    folder = tmp_path_factory.mktemp(f"programs{bits}")

    def compile_one(name: str, source: str, *flags: str) -> str:
        program = folder / name
        if not program.exists():
            (folder / f"{name}.c").write_text(textwrap.dedent(source))
            subprocess.run(
                [
                    str(cc),
                    f"-m{bits}",
                    "-O0",
                    "-w",
                    str(folder / f"{name}.c"),
                    "-o",
                    str(program),
                    *flags,
                ],
                check=True,
            )
        return str(program)

    return compile_one


def by_op(trace: pa.Trace) -> dict[str, int]:
    return {op.name: n for op, n in trace.summary().calls_by_op.items()}


def only(recordings: list[Recording]) -> pa.Trace:
    assert len(recordings) == 1
    return recordings[0].trace()


ALL_CALLS = """
    #define _GNU_SOURCE
    #include <malloc.h>
    #include <stdint.h>
    #include <stdio.h>
    #include <stdlib.h>
    #include <unistd.h>
    static char line[32];
    #define OUT(p) write(1, line, sprintf(line, "%zx\\n", (size_t)(p)))
    int main(void) {
        void *a, *b, *c, *volatile null = 0;
        OUT(a = malloc(100));
        OUT(b = calloc(3, 40));
        OUT(a = realloc(a, 5000));
        OUT(c = memalign(4096, 300));
        free(c);
        posix_memalign(&c, 64, 10); OUT(c);
        posix_memalign(&c, 3, 10); OUT(0);
        OUT(aligned_alloc(128, 256));
        OUT(valloc(10));
        OUT(pvalloc(10));
        OUT(malloc((size_t)-1 / 2 + 1));
        OUT(calloc((size_t)-1 / 2, 4));
        OUT(reallocarray(b, 10, 100));
        OUT(realloc(null, 7));
        OUT(realloc(malloc(30), 0));
        OUT(malloc(0));
        free(null);
        OUT(malloc(200000));
        mallopt(M_TRIM_THRESHOLD, 65536);
        malloc_trim(0);
        sbrk(4096);
        brk((char *)sbrk(0) + 4096);
        OUT(realloc(a, (size_t)-1 / 2 + 1));
        free(a);
        _exit(7);
    }
"""


@needs_cc
def test_every_call_is_taken_down_as_it_was_made(
    bits: int, build: Build, tmp_path: Path, capfd: Capture
) -> None:
    program = build("all", ALL_CALLS)
    [recording] = record([program], tmp_path / "t")
    printed = [int(line, 16) for line in capfd.readouterr().out.split()]
    assert (recording.exit_code, recording.signal, recording.main) == (7, None, True)
    t = recording.trace()
    rows = list(t)
    assert [(r.op.name, r.size, r.arg) for r in rows] == [
        ("MALLOC", 100, 0),
        ("CALLOC", 120, 0),
        ("REALLOC", 5000, 0),
        ("MEMALIGN", 300, 4096),
        ("FREE", 0, 0),
        ("POSIX_MEMALIGN", 10, 64),
        ("POSIX_MEMALIGN", 10, 3),
        ("ALIGNED_ALLOC", 256, 128),
        ("VALLOC", 10, 0),
        ("PVALLOC", 10, 0),
        ("MALLOC", 1 << (bits - 1), 0),
        ("CALLOC", 2**64 - 1, 0),
        ("REALLOC", 1000, 0),
        ("REALLOC", 7, 0),
        ("MALLOC", 30, 0),
        ("REALLOC", 0, 0),
        ("MALLOC", 0, 0),
        ("FREE", 0, 0),
        ("MALLOC", 200000, 0),
        ("MALLOPT", 65536, 2**64 - 1),
        ("MALLOC_TRIM", 0, 0),
        ("SBRK", 4096, 0),
        ("SBRK", 4096, 0),
        ("REALLOC", 1 << (bits - 1), 0),
        ("FREE", 0, 0),
    ]
    # what the program printed is what is in the column, in order
    pointers = [r.address for i, r in enumerate(rows) if r.op in ALLOCATES and i != 14]
    assert pointers == printed  # row 14 is the argument of realloc(malloc(30), 0)
    assert rows[0].block == rows[2].block == rows[23].block == rows[24].block
    assert rows[3].block == rows[4].block
    assert rows[17].block == 0xFFFFFFFF
    assert t.info.glibc
    assert t.info.arch == {64: os.uname().machine, 32: "i386"}[bits]
    assert t.info.brk_start
    assert "[stack]" in (t.info.maps or "")
    assert t.info.measured is not None
    assert t.info.measured.peak_rss
    assert len(t.info.measured.samples or ()) >= 2


SHOW = """
    #include <pthread.h>
    #include <stdio.h>
    #include <stdlib.h>
    #include <string.h>
    #include <sys/mman.h>
    #include <unistd.h>
    extern char **environ;
    static void *start;
    static void show(const char *what, char *p) {
        dprintf(1, "%s %zx\\n", what, (size_t)(p - (char *)start));
    }
    static void *thread(void *x) { free(malloc(50)); return malloc(1000); }
    int main(int argc, char **argv, char **envp) {
        start = sbrk(0);
        for (char **e = envp; *e; e++) strdup(*e);   /* the environment decides the heap */
        show("environ", malloc(10));
        char *big = malloc(1 << 20), *other = malloc(1 << 21), *third = malloc(3 << 20);
        dprintf(1, "mmapped %zx %zx\\n", big - other, other - third);
        char *map = mmap(0, 8192, 3, 0x22, -1, 0);
        dprintf(1, "mmap %zx\\n", third - map);
        pthread_t t;
        for (int i = 0; i < 5; i++) {
            pthread_create(&t, 0, thread, 0);
            pthread_join(t, 0);
            show("thread", malloc(40));
        }
        FILE *f = fopen("/dev/null", "r"); getc(f); show("stdio", malloc(99)); fclose(f);
        dprintf(1, "fd %d\\n", open("/dev/null", 0));
        setenv("A", "b", 1); show("setenv", malloc(100000));
        dprintf(1, "%d %d\\n", getenv("LD_PRELOAD") != 0, getenv("PYALLOC_SPOOL") != 0);
        show("brk", sbrk(0));
    }
"""


@needs_cc
def test_the_program_sees_the_same_addresses_as_without_the_recorder(
    build: Build, tmp_path: Path, capfd: Capture
) -> None:
    """Heap offsets, distances of mmapped blocks, file numbers and the environment."""
    program = build("show", SHOW, "-lpthread", "-include", "fcntl.h")
    subprocess.run([*FIXED, program], check=True, env=dict(os.environ))
    alone = capfd.readouterr().out
    record([*FIXED, program], tmp_path / "t")
    recorded = capfd.readouterr().out
    assert recorded == alone
    assert len(alone.splitlines()) == 13


def test_python_has_the_same_heap_with_and_without(tmp_path: Path, capfd: Capture) -> None:
    """A large program that imports libraries: the break ends at the same place."""
    code = (
        "import json, re, sys; x=[str(i)*50 for i in range(20000)]; "
        "print([hex(int(l.split()[0].split('-')[1],16)-int(l.split()[0].split('-')[0],16)) "
        "for l in open('/proc/self/maps') if '[heap]' in l])"
    )
    env = {**os.environ, "PYTHONMALLOC": "malloc", "PYTHONHASHSEED": "0"}
    command = [*FIXED, os.path.realpath(sys.executable), "-I", "-S", "-c", code]
    subprocess.run(command, check=True, env=env)
    alone = capfd.readouterr().out
    record(command, tmp_path / "t", env)
    assert capfd.readouterr().out == alone


THREADS = """
    #include <pthread.h>
    #include <stdlib.h>
    #define N 20000
    static void *slot[64];
    static void *work(void *seed) {
        unsigned s = (unsigned)(size_t)seed;
        for (int i = 0; i < N; i++) {
            s = s * 1103515245 + 12345;
            void *old = __atomic_exchange_n(&slot[s >> 16 & 63], malloc(s >> 8 & 1023), 5);
            free(old);
        }
        return 0;
    }
    int main(void) {
        pthread_t t[8];
        for (int round = 0; round < 2; round++) {
            for (size_t i = 0; i < 8; i++) pthread_create(&t[i], 0, work, (void *)(i + 1));
            for (int i = 0; i < 8; i++) pthread_join(t[i], 0);
        }
        return 0;
    }
"""


@needs_cc
def test_a_program_of_this_directory_is_found(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ``./name``, and by its name alone where PATH says so."""
    program = Path(build("here", "int main(void) { return 0; }"))
    monkeypatch.chdir(program.parent)
    assert record(["./here"], tmp_path / "t")[0].trace().info.exit_code == 0
    monkeypatch.setenv("PATH", f".:{os.environ['PATH']}")
    assert record(["here"], tmp_path / "u")[0].trace().info.exit_code == 0


@needs_cc
def test_statistics_of_many_arenas_are_the_real_library_s(
    bits: int, build: Build, tmp_path: Path, capfd: Capture
) -> None:
    """A program's own malloc_info and malloc_stats, after twelve threads, are its replay's."""
    source = Path(__file__).with_name("programs").joinpath("talkers.c").read_text("utf-8")
    trace = only(record([build("talkers", source, "-lpthread")], tmp_path / "t"))
    said = capfd.readouterr()
    if f"glibc-{trace.info.glibc}" not in {known.name for known in pa.allocators()}:
        pytest.skip(f"no profile of glibc {trace.info.glibc}")
    heap = pa.replay(trace, f"glibc-{trace.info.glibc}").heap
    assert heap.malloc_info() == said.out
    assert said.out.count("<heap nr=") > {64: 4, 32: 2}[bits]
    assert heap.malloc_stats() == said.err


@needs_cc
def test_a_replay_is_steered_by_what_steered_the_program(build: Build, tmp_path: Path) -> None:
    """A program run under GLIBC_TUNABLES is replayed under them: the same addresses."""
    source = Path(__file__).with_name("programs").joinpath("leaky.c").read_text("utf-8")
    tunables = "glibc.malloc.mmap_threshold=8192:glibc.malloc.tcache_count=0"
    env = os.environ | {"GLIBC_TUNABLES": tunables}
    trace = only(record([build("leaky", source)], tmp_path / "t", env))
    allocator = f"glibc-{trace.info.glibc}"
    if allocator not in {known.name for known in pa.allocators()}:
        pytest.skip(f"no profile of glibc {trace.info.glibc}")
    result = pa.replay(trace, allocator)
    same = pa.agreement(trace, result)
    assert same is not None
    assert same.complete
    bare = pa.Trace(trace.columns, dataclasses.replace(trace.info, tunables={}))
    assert (pa.replay(bare, allocator).address != result.address).any()


@needs_cc
def test_threads_are_recorded_in_true_order(build: Build, tmp_path: Path) -> None:
    """No address is handed out while it is in use, none is freed that is not; ends come last."""
    t = only(record([build("threads", THREADS, "-lpthread")], tmp_path / "t"))
    counts = by_op(t)
    assert counts["MALLOC"] == 2 * 8 * 20000
    assert counts["THREAD_EXIT"] == 16
    assert t.info.unknown_frees == {}
    held: set[int] = set()
    address_of: dict[int, int] = {}
    for op, block, address in zip(t.op.tolist(), t.block.tolist(), t.address.tolist(), strict=True):
        if op == pa.Op.FREE and block != 0xFFFFFFFF:
            held.remove(address_of[block])
        elif op in (pa.Op.MALLOC, pa.Op.CALLOC):
            assert address not in held
            held.add(address)
            address_of[block] = address
    assert set(t.thread.tolist()) == set(range(17))
    for thread in range(1, 17):
        rows = np.flatnonzero(t.thread == thread)
        assert t.op[rows[-1]] == pa.Op.THREAD_EXIT
    assert (np.diff(t.time.astype("i8")) >= 0).all()


@needs_cc
@pytest.mark.parametrize("how", ["kill", "abort", "segv"])
def test_nothing_is_lost_when_the_program_dies(build: Build, tmp_path: Path, how: str) -> None:
    source = """
        #include <signal.h>
        #include <stdlib.h>
        #include <unistd.h>
        int main(int argc, char **argv) {
            void *p = 0;
            for (int i = 0; i < 50000; i++) p = malloc(100);
            if (*argv[1] == 'k') kill(getpid(), SIGKILL);
            if (*argv[1] == 's') *(volatile char *)0 = 1;
            free(p); free(p);
        }
    """
    [recording] = record([build("dies", source), how], tmp_path / "t")
    died_of = {"kill": signal.SIGKILL, "abort": signal.SIGABRT, "segv": signal.SIGSEGV}[how]
    assert (recording.signal, recording.exit_code) == (died_of, None)
    t = recording.trace()
    assert by_op(t)["MALLOC"] == 50000
    assert t.info.truncated is None
    if how == "abort":
        assert t[-1].op == t[-2].op == pa.Op.FREE
        assert t[-1].block == t[-2].block
        assert t.info.unfinished == (len(t) - 1,)


FORK = """
    #include <stdlib.h>
    #include <string.h>
    #include <sys/wait.h>
    #include <unistd.h>
    int main(int argc, char **argv) {
        void *a = malloc(100), *b = malloc(200);
        pid_t child = fork();
        if (child == 0) {
            free(a);
            a = realloc(b, 5000);
            if (argc > 1) execl(argv[0], argv[0], (char *)0);
            exit(a == 0);
        }
        malloc(300);
        waitpid(child, 0, 0);
        if (argc > 1) { execlp(argv[0], argv[0], (char *)0); }
        return 0;
    }
"""


@needs_cc
def test_a_forked_child_goes_on_in_a_file_that_stands_alone(build: Build, tmp_path: Path) -> None:
    main, child = record([build("fork", FORK)], tmp_path / "t.parquet")
    assert (main.main, main.forked, child.main, child.forked) == (True, False, False, True)
    assert child.parent_pid == main.pid
    assert child.path == tmp_path / f"t.{child.pid}.parquet"
    t, u = main.trace(), child.trace()
    assert [r.op.name for r in t] == ["MALLOC", "MALLOC", "MALLOC"]
    assert [r.op.name for r in u] == ["MALLOC", "MALLOC", "FREE", "REALLOC"]
    assert u.info.inherited_rows == 2
    assert u[2].block == u[0].block
    assert u[3].block == u[1].block
    assert t[:2].address.tolist() == u[:2].address.tolist()
    assert u.info.brk_start == t.info.brk_start
    assert u.info.unknown_frees == {}
    assert child.calls == 2


@needs_cc
def test_every_exec_begins_a_new_file(build: Build, tmp_path: Path) -> None:
    recordings = record([build("fork", FORK), "again"], tmp_path / "t.parquet")
    assert len(recordings) == 6  # two processes before their exec, and the same program twice
    assert recordings[0].command[1:] == ()
    assert [r.main for r in recordings] == [True] + [False] * 5
    assert recordings[0].exit_code == 0
    assert len({r.path for r in recordings}) == 6
    assert sum(r.forked for r in recordings) == 3


def test_children_can_be_left_out(tmp_path: Path, capfd: Capture) -> None:
    [recording] = record(["sh", "-c", "ls / | sort | tail -1"], tmp_path / "t", children="none")
    assert recording.main
    assert capfd.readouterr().out.strip()


@pytest.mark.skipif(not shutil.which("gcc"), reason="needs gcc")
def test_a_compiler_is_a_file_a_process(tmp_path: Path) -> None:
    (tmp_path / "x.c").write_text("int main(void) { return 0; }\n")
    recordings = record(
        ["gcc", "-c", str(tmp_path / "x.c"), "-o", str(tmp_path / "x.o")], tmp_path / "t"
    )
    names = [Path(r.command[0]).name for r in recordings]
    assert names[0] == "gcc"
    assert {"cc1", "as"} <= set(names)
    assert all(r.trace().info.unknown_frees == {} for r in recordings)


def test_a_pipeline_and_its_output(tmp_path: Path, capfd: Capture) -> None:
    recordings = record(["sh", "-c", "printf 'b\\na\\n' | sort; exit 3"], tmp_path / "t")
    assert capfd.readouterr().out == "a\nb\n"
    assert recordings[0].exit_code == 3
    assert "sort" in {Path(r.command[0]).name for r in recordings}


@needs_cc
def test_children_of_system_and_popen_are_recorded(build: Build, tmp_path: Path) -> None:
    source = """
        #include <stdio.h>
        #include <stdlib.h>
        int main(void) {
            system("true; ls / >/dev/null");
            pclose(popen("cat </dev/null; true", "r"));
        }
    """
    recordings = record([build("system", source)], tmp_path / "t")
    assert {"ls", "cat"} <= {Path(r.command[0]).name for r in recordings}


@needs_cc
def test_call_sites_lead_back_to_the_source_line(build: Build, tmp_path: Path) -> None:
    source = """
        #include <stdlib.h>
        void *take(void) {
            return malloc(77);
        }
        int main(void) { return take() == 0; }
    """
    t = only(record([build("site", source, "-g")], tmp_path / "t"))
    row = int(np.flatnonzero(t.size == 77)[0])
    site = t.info.sites.resolve([int(t.site[row])])[int(t.site[row])]
    assert site.module.endswith("/site")
    assert site.function == "take"
    if shutil.which("addr2line"):
        assert (Path(site.file or "").name, site.line) == ("site.c", 4)


@needs_cc
def test_code_loaded_later_is_found_too(build: Build, tmp_path: Path) -> None:
    library = build(
        "late.so", "#include <stdlib.h>\nvoid *f(void){return malloc(4242);}", "-shared", "-fPIC"
    )
    source = """
        #include <dlfcn.h>
        int main(int c, char **v) { ((void *(*)(void))dlsym(dlopen(v[1], 2), "f"))(); }
    """
    t = only(record([build("loads", source, "-ldl"), library], tmp_path / "t"))
    row = int(np.flatnonzero(t.size == 4242)[0])
    assert t.info.sites[int(t.site[row])].module == library


@needs_cc
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
def test_a_program_that_becomes_another_user_is_recorded_to_its_end(build: Build) -> None:
    """And so is what it starts: not in a folder of pytest's, which others may not enter."""
    program = build(
        "changes",
        """
        #include <stdlib.h>
        #include <unistd.h>
        int main(void) {
            for (int i = 0; i < 3000; i++) malloc(100);
            if (setgid(12345) || setuid(12345)) return 9;
            for (int i = 0; i < 40000; i++) malloc(100);
            return system("/bin/true");
        }
        """,
    )
    main = "import pyalloc.cli; pyalloc.cli.main()"
    shown = subprocess.run(
        [sys.executable, "-P", "-c", main, "run", "--", program],
        check=True,
        capture_output=True,
        text=True,
    )
    assert "All 43," in shown.stdout
    assert "cut short" not in shown.stdout
    assert "/bin/true" in shown.stdout
    assert "ld.so" not in shown.stderr


@needs_cc
def test_how_the_command_ended_and_who_runs_on_is_said(build: Build, tmp_path: Path) -> None:
    program = build(
        "runs_on",
        """
        #include <signal.h>
        #include <stdlib.h>
        #include <unistd.h>
        int main(int argc, char **argv) {
            int ready[2];
            pipe(ready);
            if (fork() == 0) {
                malloc(10);
                write(ready[1], "", 1);
                for (int i = 0; i < 3; i++) close(i);
                sleep(20);
            }
            char byte;
            read(ready[0], &byte, 1);
            malloc(20);
            raise(SIGSEGV);
        }
        """,
    )
    main, child = record([program], tmp_path / "t")
    os.kill(child.pid, signal.SIGKILL)
    assert (main.running, child.running) == (False, True)
    assert end_of(main) == "the command was ended by signal SIGSEGV"
    assert (going_on([main, child]) or "").endswith(f"from then on: process {child.pid}")


@needs_cc
def test_a_replay_has_the_limits_of_the_recorded_run(build: Build, tmp_path: Path) -> None:
    """What ulimit -v refused the program, it is refused again: all addresses, NULL included."""
    program = build(
        "starves",
        """
        #include <stdlib.h>
        int main(void) {
            for (int size = 200; size < 60000000; size += size / 3)
                for (int i = 0; i < 9; i++) malloc(size);
            return 0;
        }
        """,
    )
    command = ["sh", "-c", f"ulimit -v 100000; exec {program}"]
    found = pa.examine(record(command, tmp_path / "t")[0].trace())
    asked = found.trace.address[found.trace.op == pa.Op.MALLOC]
    assert (asked == 0).sum() > 50
    assert found.agreement is not None
    assert found.agreement.complete


# --- refusals


def refused(tmp_path: Path, *command: str, **more: object) -> str:
    with pytest.raises(RecordError) as caught:
        record(list(command), tmp_path / "t", **more)  # type: ignore[arg-type]
    assert list(tmp_path.glob("t*")) == []
    assert list(tmp_path.glob(".t*")) == []
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_a_missing_command_is_said_in_the_words_of_the_shell(tmp_path: Path) -> None:
    with pytest.raises(CannotRun, match="no-such-program: command not found") as caught:
        record(["no-such-program"], tmp_path / "t")
    assert caught.value.exit_code == 127
    with pytest.raises(CannotRun, match="/no/such: No such file or directory") as caught:
        record(["/no/such"], tmp_path / "t")
    (tmp_path / "plain").write_text("hello")
    with pytest.raises(CannotRun, match="plain: Permission denied") as caught:
        record([str(tmp_path / "plain")], tmp_path / "t")
    assert caught.value.exit_code == 126
    (tmp_path / "script").write_text("#!/no/interpreter\n")
    (tmp_path / "script").chmod(0o755)
    with pytest.raises(CannotRun, match="/no/interpreter: No such file"):
        record([str(tmp_path / "script")], tmp_path / "t")
    with pytest.raises(ArgumentError, match="no command"):
        record([], tmp_path / "t")


@needs_cc
def test_a_program_may_be_started_by_its_loader(build: Build, tmp_path: Path) -> None:
    """The loader has no loader of its own, and is no static program for that."""
    program = build("loaded", "int main(void) { free(malloc(4321)); return 0; }")
    headers = read_headers(program)
    assert headers is not None
    assert headers.interpreter is not None
    found = pa.examine(only(record([headers.interpreter, program], tmp_path / "t")))
    assert 4321 in found.trace.size
    assert found.agreement is not None
    assert found.agreement.complete


@needs_cc
def test_a_static_program_is_refused_before_it_runs(build: Build, tmp_path: Path) -> None:
    try:
        program = build("static", "int main(void) { return 0; }", "-static")
    except subprocess.CalledProcessError:
        pytest.skip("no static libc")
    assert "statically linked" in refused(tmp_path, program)


@needs_cc
def test_a_32_bit_program_needs_a_recorder_of_32_bits(
    bits: int, build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = build("narrow", "int main(void) { return 0; }")
    monkeypatch.setattr("pyalloc.trace.record._libraries", lambda: {64: _libraries()[64]})
    if bits == 32:
        assert "no recorder for 32 bits; install" in refused(tmp_path, program)
    else:
        only(record([program], tmp_path / "t"))


def test_without_a_platform_s_name_there_is_one_recorder(monkeypatch: pytest.MonkeyPatch) -> None:
    """No loader could choose by it."""
    monkeypatch.setattr("pyalloc.trace.record._platform", lambda: None)
    assert set(_libraries()) == {64}


@needs_cc
def test_a_program_of_one_word_size_starts_one_of_the_other(
    bits: int, build: Build, tmp_path: Path, capfd: Capture
) -> None:
    """The loader of each takes its own recorder, and has nothing to say."""
    program = build("inner", "int main(void) { free(malloc(1234)); return 0; }")
    inner = record(["/bin/sh", "-c", f"{program}; true"], tmp_path / "t")[1].trace()
    assert inner.info.arch == {64: os.uname().machine, 32: "i386"}[bits]
    assert 1234 in inner.size
    assert capfd.readouterr().err == ""
    outer = build("outer", 'int main(void) { return system("/bin/true"); }')
    assert len(record([outer], tmp_path / "u")) == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a file away")
def test_a_setuid_program_is_refused(tmp_path: Path) -> None:
    program = tmp_path / "setuid"
    shutil.copy("/bin/true", program)
    os.chown(program, 12345, 0)
    program.chmod(0o4755)
    assert "it is setuid" in refused(tmp_path, str(program))


def test_output_that_exists_or_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("precious")
    with pytest.raises(RecordError, match="exists; choose another name, or force"):
        record(["true"], tmp_path / "old")
    assert (tmp_path / "old").read_text() == "precious"
    record(["true"], tmp_path / "old", force=True)
    assert pa.read_trace(tmp_path / "old").info.command == ("true",)
    with pytest.raises(RecordError, match="No such file or directory"):
        record(["true"], tmp_path / "no" / "t")
    with pytest.raises(RecordError, match="is a directory"):
        record(["true"], tmp_path)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for 4 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        [str(shutil.which("mount")), "-t", "tmpfs", "-o", "size=4m", "none", str(folder)],
        check=False,
        stderr=-3,
    )
    if mounted.returncode:
        pytest.skip("may not mount a small disk")
    yield folder
    subprocess.run([str(shutil.which("umount")), str(folder)], check=True)


@needs_cc
def test_a_full_disk_stops_the_recording_and_not_the_program(
    build: Build, small_disk: Path, capfd: Capture
) -> None:
    source = """
        #include <stdio.h>
        #include <stdlib.h>
        int main(void) {
            for (int i = 0; i < 300000; i++) free(malloc(i % 1000));
            printf("done\\n");
        }
    """
    [recording] = record([build("many", source)], small_disk / "t")
    assert capfd.readouterr().out == "done\n"
    assert recording.exit_code == 0
    assert recording.truncated == "No space left on device while recording"
    t = recording.trace()
    assert 30000 < len(t) < 600000
    assert by_op(t)["MALLOC"] - by_op(t)["FREE"] in (0, 1)
    (small_disk / "t").unlink()
    (small_disk / "fill").write_bytes(bytes(3 << 20))
    with pytest.raises(RecordError, match="No space left on device"):
        record(["true"], small_disk / "t")


# --- conversion


def test_blocks_follow_pointers() -> None:
    """Reuse, realloc in place and moved, double free, frees of nothing known."""
    m, r, f = pa.Op.MALLOC, pa.Op.REALLOC, pa.Op.FREE
    rows = [
        (m, 1, 0, 16),  # block 0
        (m, 1, 0, 32),  # block 1
        (r, 9, 16, 16),  # 0 in place
        (r, 9, 16, 48),  # 0 moves
        (f, 0, 16, 0),  # nobody lives at 16 any more: block 2
        (m, 1, 0, 16),  # block 3
        (f, 0, 48, 0),  # 0
        (f, 0, 48, 0),  # 0 again
        (f, 0, 16, 0),  # 3
        (r, 5, 0, 48),  # block 4
        (r, 1 << 63, 48, 0),  # 4, failed
        (r, 0, 48, 0),  # 4, freed
        (f, 0, 0, 0),  # NULL
        (f, 0, 999, 0),  # block 5
        (r, 5, 888, 64),  # block 6, unknown
        (f, 0, 64, 0),  # 6
        (f, 0, 32, 0),  # 1
    ]
    op, _, old, ret = (np.array(c, "u8") for c in zip(*rows, strict=True))
    found = assign_blocks(op.astype("u1"), old, ret)
    null = 0xFFFFFFFF
    assert found.block.tolist() == [0, 1, 0, 0, 2, 3, 0, 0, 3, 4, 4, 4, null, 5, 6, 6, 1]
    assert found.unknown.tolist() == [4, 13, 14]


def test_blocks_equal_the_obvious_ones() -> None:
    rng = np.random.default_rng(3)
    held: list[tuple[int, int]] = []  # address, block
    rows, expected, blocks, free = [], [], 0, list(range(16, 16 * 400, 16))
    for _ in range(20000):
        what = rng.integers(0, 3)
        if what == 0 or not held:
            at = free.pop(int(rng.integers(len(free)))) if len(free) > 1 else free[0]
            held.append((at, blocks))
            rows.append((pa.Op.MALLOC, 1, 0, at))
            expected.append(blocks)
            blocks += 1
        else:
            at, block = held.pop(int(rng.integers(len(held))))
            free.append(at)
            expected.append(block)
            if what == 1:
                rows.append((pa.Op.FREE, 0, at, 0))
            else:
                to = free.pop(int(rng.integers(len(free))))
                held.append((to, block))
                rows.append((pa.Op.REALLOC, 5, at, to))
        if len(held) > 300:
            at, block = held.pop()
            free.append(at)
            rows.append((pa.Op.FREE, 0, at, 0))
            expected.append(block)
    op, _, old, ret = (np.array(c, "u8") for c in zip(*rows, strict=True))
    found = assign_blocks(op.astype("u1"), old, ret)
    assert found.block.tolist() == expected


def test_the_recorder_has_no_thread_local_storage_and_one_place_in_memory(tmp_path: Path) -> None:
    t = only(record(["true"], tmp_path / "t"))
    assert re.search(r"^3f00000\w+-\w+ rw-s", t.info.maps or "", re.MULTILINE)
    if shutil.which("readelf"):
        out = subprocess.run(
            [str(shutil.which("readelf")), "-lW", str(_libraries()[64])],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        assert "TLS" not in out


@needs_cc
@pytest.mark.parametrize(("written", "words"), [(1, "as many as the kernel"), (0, "left 1.6 MiB")])
def test_the_heap_in_memory_is_counted_in_both_runs(
    written: int, words: str, build: Build, tmp_path: Path
) -> None:
    """Equal to the page where blocks are written; what is left alone is said in bytes."""
    program = build(
        f"half{written}",
        f"""
        #include <stdlib.h>
        #include <string.h>
        int main(void) {{
            for (int i = 0; i < 400; i++) {{
                char *p = malloc(12272);
                if ({written} || i % 2) memset(p, 1, 12272);
            }}
            for (int i = 0; i < 50; i++) {{
                char *p = malloc(20000);
                if ({written}) memset(p, 1, 20000);
                free(p);
            }}
            return 0;
        }}
        """,
    )
    found = pa.examine(only(record([program], tmp_path / "t")))
    assert found.measured is not None
    assert found.heap_rss is not None
    assert found.measured.heap_rss is not None
    assert (found.heap_rss == found.measured.heap_rss) == bool(written)
    assert any(words in line for line in untouched_words(found))


def shared(folder: Path, name: str, source: str, bits: int) -> Path:
    """Compile a library."""
    code = folder / f"{name}.c"
    code.write_text(textwrap.dedent(source))
    library = folder / f"{name}.so"
    subprocess.run(
        [str(cc), f"-m{bits}", "-w", "-shared", "-fPIC", str(code), "-o", str(library)], check=True
    )
    return library


@needs_cc
def test_a_library_bound_to_its_own_dependencies_is_recorded(
    bits: int, build: Build, tmp_path: Path
) -> None:
    """RTLD_DEEPBIND would find the C library's malloc before the recorder's."""
    plugin = shared(
        tmp_path,
        "plugin",
        """
        #include <stdlib.h>
        void work(void) { for (int i = 0; i < 77; i++) free(malloc(3000 + i)); }
        """,
        bits,
    )
    program = build(
        "deep",
        """
        #define _GNU_SOURCE
        #include <dlfcn.h>
        int main(int argc, char **argv) {
            void *plugin = dlopen(argv[1], RTLD_NOW | RTLD_DEEPBIND);
            ((void (*)(void))dlsym(plugin, "work"))();
            return 0;
        }
        """,
    )
    found = pa.examine(only(record([program, str(plugin)], tmp_path / "t")))
    sizes = found.trace.size[found.trace.op == pa.Op.MALLOC]
    assert np.isin(np.arange(3000, 3077), sizes).all()
    assert found.agreement is not None
    assert found.agreement.complete


OWN_MALLOC = """
    #include <stddef.h>
    static _Alignas(16) char pool[1 << 20];
    static size_t used;
    void *malloc(size_t n) { void *p = pool + used; used += (n + 31) & ~15ul; return p; }
    void free(void *p) {}
    void *calloc(size_t n, size_t size) { return malloc(n * size); }
    void *realloc(void *p, size_t n) { return malloc(n); }
"""


@needs_cc
def test_another_malloc_is_named(bits: int, build: Build, tmp_path: Path) -> None:
    """Its calls are the program's; its addresses and its memory are not compared with a model's."""
    other = shared(tmp_path, "other", OWN_MALLOC, bits)
    program = build("user", "#include <stdlib.h>\nint main(void) { return !malloc(5000); }")
    env = os.environ | {"LD_PRELOAD": str(other)}
    [recording] = record([program], tmp_path / "t", env)
    assert recording.warnings == (
        f"malloc is that of {other}, not glibc's: addresses and memory are its own",
    )
    found = pa.examine(recording.trace())
    assert 5000 in found.trace.size
    assert found.agreement is None
    assert str(other) in agreement_words(found)
    assert rest_of(found.trace, Trials(found.trace).run(Setting())) is None
    with subject([str(tmp_path / "t")]) as about:
        assert about.notes[0].startswith(f"malloc was that of {other}")


@needs_cc
def test_a_malloc_in_the_program_itself_is_said_to_be_out_of_reach(
    build: Build, tmp_path: Path
) -> None:
    main = "\nint main(void) { return !malloc(5000); }"
    program = build("own", textwrap.dedent(OWN_MALLOC) + main, "-rdynamic")
    [recording] = record([program], tmp_path / "t")
    assert recording.calls == 0
    [warning] = recording.warnings
    assert warning.startswith(f"{program} has a malloc of its own")
    assert "none of its calls" in agreement_words(pa.examine(recording.trace()))


@needs_cc
@pytest.mark.skipif(not FIXED, reason="needs setarch")
def test_the_peak_is_that_of_a_run_without_the_recorder(
    bits: int, build: Build, tmp_path: Path
) -> None:
    """To the pages of libc that only the recorder calls, and with what destructors bring in."""
    late = shared(
        tmp_path,
        "late",
        """
        static char page[3 << 20];
        __attribute__((destructor)) static void end(void) {
            for (int i = 0; i < sizeof page; i += 4096) page[i] = 1;
        }
        void here(void) {}
        """,
        bits,
    )
    program = build(
        "ends",
        """
        #include <stdlib.h>
        #include <string.h>
        void here(void);
        int main(void) { here(); memset(malloc(700000), 1, 700000); return 0; }
        """,
        str(late),
    )
    command = [*FIXED, program]
    alone = measure(command)
    measured = record(command, tmp_path / "t")[0].trace().info.measured
    assert measured is not None
    assert measured.program_peak is not None
    assert measured.program_final is not None
    assert alone.peak_rss > 4 << 20
    assert abs(measured.program_peak - alone.peak_rss) <= 192 << 10
    assert abs(measured.program_final - alone.final_rss) <= 192 << 10


def test_the_recorder_moves_libraries_by_blocks_the_kernel_reads_around_a_fault() -> None:
    """So a library has the same pages resident with the recorder and without."""
    headers = read_headers(_libraries()[64])
    assert headers is not None
    last = [entry for entry in headers.entries if entry.kind == 1][-1]
    assert (last.address + last.memory_bytes) % 65536 == 0
