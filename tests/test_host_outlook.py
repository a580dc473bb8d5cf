"""``pyalloc host``: the live machine's outlook against what its kernel says of itself."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pyalloc.cli import main
from pyalloc.host import cgroups, proc
from pyalloc.host.cgroups import CgroupLevel, nearest
from pyalloc.host.outlook import outlook
from pyalloc.host.system import system
from pyalloc.units import PAGE

V1 = Path("/sys/fs/cgroup/memory")
V2 = Path("/sys/fs/cgroup")
NOBODY = 65534

HOLD = """
import sys, time
block = bytearray(int(sys.argv[1]))
print("ready", flush=True)
time.sleep(60)
"""


@contextlib.contextmanager
def holding(size: int, adj: int = 0) -> Iterator[int]:
    """Run a process that holds ``size`` bytes."""
    command = [sys.executable, "-c", HOLD, str(size)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        Path(f"/proc/{process.pid}/oom_score_adj").write_text(str(adj))
        try:
            yield process.pid
        finally:
            process.kill()


modern = pytest.mark.skipif(
    system().version < (5, 9), reason="older kernels never show a score below that of 1 point"
)


@modern
@pytest.mark.parametrize(("size", "adj"), [(1 << 20, 0), (200 << 20, 0), (8 << 20, 500)])
def test_the_terms_give_the_oom_score_that_the_kernel_shows(size: int, adj: int) -> None:
    """For a small, a large and an adjusted process the computed score is the file's."""
    with holding(size, adj) as pid:
        view = outlook(pid).view
        assert view is not None
        assert view.candidate is not None
        assert abs(view.candidate.oom_score - view.shown) <= 1
        parts = view.candidate.rss + view.candidate.swap + view.candidate.page_tables
        assert view.candidate.terms[-2].points == parts
        assert view.candidate.rss * PAGE > size


@modern
def test_the_victim_has_the_highest_score_of_all() -> None:
    """A process that is asked to be killed first is the victim, and the kernel agrees."""
    with holding(1 << 20, 1000) as pid:
        found = outlook()
        assert found.machine.victim is not None
        assert found.machine.victim.pid == pid
        shown = {}
        for candidate in found.machine.candidates:
            with contextlib.suppress(proc.NoSuchProcess):
                shown[candidate.pid] = proc.oom_score(candidate.pid)
        assert shown[pid] == max(shown.values())


def test_the_commit_limit_is_the_kernel_s() -> None:
    """Ratio or kilobytes, huge pages and swap give the CommitLimit of /proc/meminfo."""
    now = system()
    assert now.commit_limit_pages * PAGE == now.kb("CommitLimit")


def test_the_largest_request_passes_and_one_page_more_does_not() -> None:
    """In mode 0 the boundary is exact: the kernel maps what is foretold, not a page more."""
    found = outlook()
    if found.system.settings.overcommit_memory != 0 or found.promise is None:
        pytest.skip("this machine is not in mode 0")
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    mmap.mmap(-1, found.promise, flags=flags).close()
    with pytest.raises(OSError, match="Cannot allocate"):
        mmap.mmap(-1, found.promise + PAGE, flags=flags).close()


def test_strict_promises_leave_out_what_is_reserved() -> None:
    """In mode 2 root may have the admin's reserve, and a process pays for its own size."""
    now = system()
    strict = replace(
        now,
        sysctls={**now.sysctls, "overcommit_memory": 2, "overcommit_ratio": 100},
        meminfo={**now.meminfo, "Committed_AS": 0},  # whatever else runs here
    )
    root, other = strict.most_promised(root=True), strict.most_promised(root=False)
    assert root is not None
    assert other is not None
    assert root - other == now.sysctls["admin_reserve_kbytes"] << 10
    large = strict.most_promised(32 * 1000, root=True)
    assert large == root - 1000 * PAGE
    always = replace(now, sysctls={**now.sysctls, "overcommit_memory": 1})
    assert always.most_promised(root=False) is None


def test_the_article_s_free_memory_is_the_sum_of_four_lines() -> None:
    """With the article's own figures the sum is the article's."""
    fields = {"MemFree": 3668, "Buffers": 13640, "Cached": 171788, "SwapFree": 909676}
    assert replace(system(), meminfo=fields).free_virtual == 1098772 << 10


# --- cgroups ---------------------------------------------------------------------------------


def level(left: int | None, usage: int = 0) -> CgroupLevel:
    limit = None if left is None else usage + left
    return CgroupLevel(2, "/x", "/x", usage, limit, None, None, None, None)


def test_the_nearest_limit_is_the_one_with_the_least_room() -> None:
    """A parent's smaller room counts, a missing limit does not."""
    outer, inner = level(50, usage=900), level(100)
    assert nearest((inner, outer, level(None))) is outer
    assert nearest((level(None),)) is None


@pytest.fixture
def group() -> Iterator[Path]:
    """A memory cgroup of 64 MB with one of 128 MB in it; yields the inner one."""
    top = V1 if (V1 / "memory.limit_in_bytes").exists() else V2
    name = "memory.limit_in_bytes" if top is V1 else "memory.max"
    outer = top / f"pyalloc-test-{os.getpid()}"
    inner = outer / "inner"
    try:
        inner.mkdir(parents=True)
        if top is V2:
            (outer / "cgroup.subtree_control").write_text("+memory")
        (outer / name).write_text(str(64 << 20))
        (inner / name).write_text(str(128 << 20))
    except OSError as error:
        for folder in (inner, outer):
            with contextlib.suppress(OSError):
                folder.rmdir()
        pytest.skip(f"no memory cgroup can be made: {error}")
    yield inner
    for folder in (inner, outer):
        _remove(folder)


def _remove(folder: Path) -> None:
    for _ in range(100):
        try:
            folder.rmdir()
        except OSError:
            time.sleep(0.05)
        else:
            return


def test_the_limit_of_the_cgroup_above_is_found(group: Path) -> None:
    """Of nested cgroups the smaller limit is the nearest, and only its processes are candidates."""
    with holding(16 << 20) as pid:
        (group / "cgroup.procs").write_text(str(pid))
        found = outlook(pid)
        near = found.nearest
        assert near is not None
        assert near.folder == str(group.parent)
        assert near.limit == 64 << 20
        assert found.cgroup is not None
        assert [c.pid for c in found.cgroup.candidates] == [pid]
        assert found.cgroup.totalpages == (64 << 20) // PAGE + found.system.kb("SwapTotal") // PAGE
        assert cgroups.path_of(pid).endswith("/inner")
        assert main(["host", "--pid", str(pid)]) == 0


def test_version_2_files_are_read(tmp_path: Path) -> None:
    """memory.max, memory.swap.max, the page cache and kills of a cgroup as version 2 has them."""
    texts = {
        "memory.current": "1000000\n",
        "memory.max": "4096000\n",
        "memory.swap.current": "4096\n",
        "memory.swap.max": "max\n",
        "memory.stat": "anon 5\nfile 8192\n",
        "memory.events": "low 0\noom 3\noom_kill 2\n",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    found = cgroups._level_2(tmp_path, "/x")
    assert (found.limit, found.swap_limit, found.file, found.kills) == (4096000, None, 8192, 2)
    assert found.left == 3096000
    assert found.totalpages(10) == 1010


# --- the command -----------------------------------------------------------------------------


def test_the_report_fits_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Memory, promises and candidates, in 100 columns."""
    assert main(["host"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 100
    for words in ("MemAvailable", "AVPHYS", "CommitLimit", "Who would be killed"):
        assert words in out


def test_json_has_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    """Every figure by its name."""
    assert main(["host", "--pid", str(os.getpid()), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["view"]["pid"] == os.getpid()
    assert found["system"]["meminfo"]["MemTotal"] == proc.meminfo()["MemTotal"]
    assert found["machine"]["candidates"][0]["badness"] is not None


def as_nobody(arguments: list[str]) -> tuple[int, str]:
    """Run a command in a fork that has become nobody; return its exit code and output."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads
        pid = os.fork()
    if not pid:
        code = 99
        try:
            os.dup2(writing, 1)
            os.dup2(writing, 2)
            sys.stdout = os.fdopen(1, "w")
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            code = main(arguments)
            sys.stdout.flush()
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading) as stream:
        out = stream.read()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), out


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_nobody_gets_an_answer_too() -> None:
    """Without root it works as well, and says what it could not read."""
    code, out = as_nobody(["host", "--pid", "1"])
    assert code == 0, out
    assert "Who would be killed" in out
    assert "note: /proc/1/maps: Permission denied" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["host", "--pid", "99999999"], "no process 99999999"),
        (["host", "--policy", "6.13"], "no OOM policy '6.13'"),
        (["host", "--pid", "me"], "me"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A process that is not there and rules that are not known."""
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert words in captured.err
