"""The model against the real thing on this host, and a planted difference that must be found."""

from __future__ import annotations

import json
from dataclasses import astuple
from pathlib import Path

import pytest
from test_host import can_build, needs_cc

from pyalloc.cli import main
from pyalloc.errors import TraceError
from pyalloc.host import glibc
from pyalloc.lab.verify.malloc import (
    Call,
    Setting,
    profile_for,
    random_streams,
    run_both,
    trace_of,
    verify_malloc,
)
from pyalloc.lab.verify.malloccase import Case, read_case, verify_case
from pyalloc.trace import Op

CASES = sorted(Path(__file__).with_name("data").joinpath("verify").glob("*.json"))
WORDS = [
    pytest.param(64, marks=needs_cc),
    pytest.param(32, marks=pytest.mark.skipif(not can_build(4), reason="no 32-bit libc")),
]


@pytest.mark.parametrize("word", WORDS)
def test_no_stream_differs_from_the_library_of_this_host(word: int) -> None:
    """Address, break and usable size of every call."""
    verdict = verify_malloc(random_streams(20, calls=2000, seed=7), Setting(word))
    assert verdict.agrees, verdict.to_dict()
    assert verdict.equal_calls == verdict.calls >= 20 * 1500


@pytest.mark.parametrize("word", WORDS)
def test_no_storm_differs_from_the_library_of_this_host(word: int) -> None:
    """Every call, at every border, with settings that change and a break that others move."""
    specs = random_streams(12, calls=2000, kinds=["storm"], seed=11, word=word)
    verdict = verify_malloc(specs, Setting(word, {"tcache_count": 3}, "write"))
    assert verdict.agrees, verdict.to_dict()


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("tunables", [{}, {"arena_max": 3, "tcache_count": 2}])
def test_no_stream_of_threads_differs_from_the_library_of_this_host(
    word: int, tunables: dict[str, int]
) -> None:
    """More threads than arenas free each other's blocks, end and come again."""
    specs = random_streams(8, calls=2000, seed=3, word=word, threads=24)
    verdict = verify_malloc(specs, Setting(word, tunables, "write"))
    assert verdict.agrees, verdict.to_dict()


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("threads", [1, 12])
def test_the_library_says_of_itself_what_the_model_says(word: int, threads: int) -> None:
    """malloc_stats, malloc_info and both mallinfos, with threads of other arenas or without."""
    setting = Setting(word, {"mmap_threshold": 1 << 20})
    for spec in random_streams(4, calls=1500, seed=5, word=word, threads=threads):
        trace = spec.make()
        allocator = profile_for(glibc.version(word // 8))
        real, model = run_both(trace, setting, allocator, statistics=True)
        said, heap = real.statistics, model.heap
        assert said is not None
        assert said.malloc_stats == heap.malloc_stats()
        assert said.malloc_info == heap.malloc_info()
        assert said.mallinfo == astuple(heap.mallinfo())
        assert said.mallinfo2 == astuple(heap.mallinfo2())


@needs_cc
def test_a_planted_difference_of_threads_is_found_and_shrunk() -> None:
    """With one arena less, a thread for each arena and one more are enough."""
    specs = random_streams(5, calls=500, kinds=["random"], sizes=["small"], seed=1, threads=9)
    verdict = verify_malloc(specs, Setting(64, {"arena_max": 3}), planted={"arena_max": 2})
    assert verdict.finding is not None
    shortest = verdict.finding.shortest
    assert len({call.thread for call in shortest}) == len(shortest) == 3
    assert {(call.op, call.thread) for call in shortest} == {(Op.MALLOC, n) for n in range(3)}


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_what_differed_once_does_not_differ_again(path: Path) -> None:
    """Assertions of the library's own, and corners of which thread has which arena."""
    case = read_case(path)
    if not can_build(case.setting.word // 8) or glibc.version(case.setting.word // 8) != "2.36":
        pytest.skip("needs glibc 2.36 of that word size")
    assert verify_case(case).agrees
    real, model = run_both(trace_of(case.calls), case.setting, "glibc-2.36")
    assert [error.message for error in model.errors] == ([real.message] if real.signal else [])


@needs_cc
def test_a_finding_is_saved_and_run_again(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Under the model that found it the case differs; under the right one it does not."""
    specs = random_streams(5, calls=500, kinds=["random"], sizes=["mixed"], seed=1)
    found = verify_malloc(specs, planted={"mmap_threshold": 60_000}).finding
    assert found is not None
    path = tmp_path / "case.json"
    Case.of(found).write(path)
    assert read_case(path).calls == found.shortest
    assert verify_case(read_case(path), "glibc-2.3.3").finding is not None
    assert main(["verify", "malloc", "--case", str(path)]) == 0
    assert f"1 streams, {len(found.shortest)} calls" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--tunable", "mmap_treshold=3"], "did you mean mmap_threshold"),
        (["--tunable", "mmap_threshold=x"], "takes a number"),
        (["--tunable", f"top_pad={1 << 64}"], "takes a number of 64 bits"),
        (["--kind", "strom"], "did you mean storm?"),
        (["--case", "/nowhere"], "No such file"),
        (["--case", __file__], "not a case of pyalloc verify malloc"),
    ],
)
def test_bad_input_is_told_in_a_line(
    arguments: list[str], words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", "malloc", *arguments]) == 2
    error = capfd.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_a_case_of_another_shape_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "case.json"
    good = Case(Setting(), (), "none").to_dict()
    for wrong in (
        {"format": "another"},
        {"calls": [["MALOC", 0, 1, 0]]},
        {"calls": [["MALLOC", 0, -1, 0]]},
        {"calls": 3},
        {"setting": {"word": 16}},
    ):
        path.write_text(json.dumps(good | wrong), encoding="utf-8")
        with pytest.raises(TraceError, match=r"case\.json"):
            read_case(path)


@needs_cc
def test_a_planted_difference_is_found_and_shrunk() -> None:
    """With another mmap threshold, one block too large for the first 132 KB is enough.

    The first call makes the heap that the second, smaller than the real threshold, does not fit in.
    """
    specs = random_streams(5, calls=3000, kinds=["random", "fifo"], sizes=["mixed"], seed=1)
    verdict = verify_malloc(specs, planted={"mmap_threshold": 100_000})
    assert verdict.finding is not None
    shortest = verdict.finding.shortest
    assert len(shortest) <= 2
    assert [call.block for call in shortest] == list(range(len(shortest)))
    assert {call.op for call in shortest} == {Op.MALLOC}
    assert 100_000 - 16 < shortest[-1].size < 131_072
    assert verdict.finding.shortest_difference.row == len(shortest) - 1


@pytest.mark.parametrize(
    ("version", "allocator"),
    [
        ("2.36", "glibc-2.36"),
        ("2.39", "glibc-2.36"),
        ("2.42", "glibc-2.42"),
        ("2.2.5", "glibc-2.3.3"),
        ("2.3.6", "glibc-2.3.3"),
        ("2.17", "glibc-2.12"),
    ],
)
def test_a_version_without_a_profile_is_taken_for_the_one_before(
    version: str, allocator: str
) -> None:
    assert profile_for(version) == allocator


@needs_cc
def test_the_command_says_what_it_compared(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "malloc", "--streams", "3", "--calls", "500"]) == 0
    out = capfd.readouterr().out
    assert "3 streams" in out
    assert "is equal" in out
    assert main(["verify", "malloc", "--streams", "2", "--calls", "100", "--json"]) == 0
    (found,) = json.loads(capfd.readouterr().out)["malloc"]
    assert found["agrees"]
    assert found["streams"] == 2


def test_no_streams_are_bad_input(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "malloc", "--streams", "0"]) == 2
    assert "streams must be 1 or more" in capfd.readouterr().err


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("top_pad", [0, 128 << 10])
def test_the_largest_requests_of_a_thread_s_heap_go_where_the_library_puts_them(
    word: int, top_pad: int
) -> None:
    """Around HEAP_MAX_SIZE, unit by unit: a heap of its own, or what is left to try."""
    most = (64 << 20) if word == 64 else (1 << 20)
    setting = Setting(word, {"mmap_max": 0, "top_pad": top_pad}, "none")
    sizes = [most + offset for offset in (*range(-3 * 4096, 4097, 512), *range(-240, 64, 16))]
    calls = [Call(Op.MALLOC, 0, 24, 0, 0)]
    for i, size in enumerate(sizes):
        calls.append(Call(Op.MALLOC, 2 * i + 1, size, 0, 1))
        calls.append(Call(Op.MALLOC, 2 * i + 2, 24, 0, 1))
        calls.append(Call(Op.FREE, 2 * i + 1, 0, 0, 1))
    verdict = verify_case(Case(setting, tuple(calls), "largest heaps"))
    assert verdict.agrees, verdict.to_dict()
