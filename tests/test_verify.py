"""The model against the real thing on this host, and a planted difference that must be found."""

from __future__ import annotations

import json

import pytest
from test_host import can_build, needs_cc

from pyalloc.cli import main
from pyalloc.lab.verify.malloc import Setting, profile_for, random_streams, verify_malloc
from pyalloc.trace import Op

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


@needs_cc
def test_a_planted_difference_is_found_and_shrunk() -> None:
    """With another mmap threshold, one block too large for the first 132 KB is enough.

    The first call makes the heap that the second, smaller than the real threshold, does not fit in.
    """
    specs = random_streams(5, calls=3000, sizes=["mixed"], seed=1)
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
    assert "at least one stream" in capfd.readouterr().err
