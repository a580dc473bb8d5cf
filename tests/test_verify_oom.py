"""Whom this host's OOM killer kills in a full cgroup, and whom the model's."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from test_host import can_build

from pyalloc.cli import main
from pyalloc.errors import ArgumentError
from pyalloc.host.box import box
from pyalloc.host.compile import HostError
from pyalloc.host.kernel import host_kernel
from pyalloc.host.kmsg import KernelLog
from pyalloc.lab.verify.oom import Kill, Row, _differences, run_case, verify_oom
from pyalloc.report.verify import oom_lines
from pyalloc.workload.oomcases import KINDS, random_case

MB = 1 << 20


def can_fill_a_cgroup() -> bool:
    """Whether this process may make a memory cgroup and read the kernel's log."""
    try:
        host_kernel()
        with KernelLog(), box(16 * MB, 0):
            return can_build(8)
    except HostError:
        return False


real = pytest.mark.skipif(not can_fill_a_cgroup(), reason="no memory cgroup can be made here")


@real
def test_no_case_differs_from_this_kernel() -> None:
    """Victims, candidates and figures of ten cases are equal, and somebody was killed."""
    verdict = verify_oom(10, seed=7)
    assert verdict.agrees, list(oom_lines(verdict))
    assert verdict.kills > 3  # reports may be left out: others' kills count for the kernel's limit


@real
def test_a_wrong_kernel_is_found_out() -> None:
    """2.6.18 has other rules and another log: the first case with a kill shows it."""
    host = replace(host_kernel(), model="2.6.18")
    verdict = verify_oom(10, seed=7, host=host)
    assert not verdict.agrees
    assert "differs: seed" in "\n".join(oom_lines(verdict))


@real
def test_nothing_stays_behind() -> None:
    """The cgroup is gone after a case, with those inside it."""
    case = next(case for case in map(random_case, range(50)) if case.inner)
    run_case(case, host_kernel())
    with box(16 * MB, 0, [None]) as procs:
        assert (procs.parent / "0").is_dir()
    assert not procs.parent.exists()
    run_case(case, host_kernel())


@real
def test_the_command_prints_its_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    """As text and as JSON."""
    assert main(["verify", "oom", "--cases", "2", "--seed", "3"]) == 0
    assert "every victim, candidate and figure is equal" in capsys.readouterr().out
    assert main(["verify", "oom", "--cases", "1", "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)["oom"]
    assert found["cases"] == 1
    assert found["agrees"] is True


def test_a_case_is_the_seed_s() -> None:
    """The same seed gives the same case, and a hundred of them use every kind of step."""
    assert random_case(5) == random_case(5) != random_case(6)
    cases = [random_case(seed, negative=True) for seed in range(100)]
    steps = {step.kind for c in cases for process in c.processes for step in process.steps}
    assert steps == set(KINDS)
    assert {-1000, 1000} < {process.adj for c in cases for process in c.processes}


def test_no_cases_is_an_error() -> None:
    """At least one is needed."""
    with pytest.raises(ArgumentError, match="at least one case"):
        verify_oom(0)


def kill(victim: str = "0", scope: str = "", line: str = "", **figures: int) -> Kill:
    rows = tuple(
        Row(who, (100, 50 + figures.get(f"rss{who}", 0), 50, 0, 0, 8192, 0, 0)) for who in "012"
    )
    return Kill(rows, scope, victim, line)


@pytest.mark.parametrize(
    ("other", "what"),
    [
        (kill("1"), "victim"),
        (kill(rss1=32), "rss of process 1"),
        (kill(rss2=200), "rss of process 2"),
        (kill(scope="x"), "constraint"),
        (kill(line="x"), "line of the victim"),
        (Kill(kill().rows[::-1], "", "0", ""), "candidates"),
    ],
)
def test_each_difference_is_one(other: Kill, what: str) -> None:
    """Another victim, order, figure, scope or line; whoever asks may be some pages off."""
    assert next(_differences(kill(), other, "2", 96))[0] == what
    assert not list(_differences(kill(), kill(rss2=96), "2", 96))
    assert not list(_differences(kill("2"), kill("1"), "2", 96))
