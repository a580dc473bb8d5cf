"""The model against this host's kernel, and a planted difference that must be found."""

from __future__ import annotations

import json
import platform
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
from test_host import can_build

from pyalloc.cli import main
from pyalloc.cli.verify.kernel import Profile
from pyalloc.errors import TraceError
from pyalloc.host.compile import HostError
from pyalloc.host.kernel import host_kernel
from pyalloc.host.puppet import Outcome, Puppet, Start
from pyalloc.lab.verify import kernel
from pyalloc.lab.verify.kernel import (
    Case,
    Difference,
    random_specs,
    read_case,
    simpler,
    verify_case,
    verify_kernel,
)
from pyalloc.report.verify import kernel_lines
from pyalloc.workload.syscalls import PROFILES, SystemCall

PAGE = 4096
RELEASE = tuple(int(part) for part in re.findall(r"\d+", platform.release())[:2])


def can_verify() -> bool:
    """Whether this host has a kernel the model has a profile of, and lets it be looked at."""
    try:
        host_kernel()
    except HostError:
        return False
    return can_build(8) and (6, 17) <= RELEASE < (6, 19)


pytestmark = pytest.mark.skipif(not can_verify(), reason="no profile of this host's kernel")
WORDS = [64, pytest.param(32, marks=pytest.mark.skipif(not can_build(4), reason="no 32-bit gcc"))]


@pytest.mark.parametrize("word", WORDS)
def test_no_sequence_differs_from_this_kernel(word: int) -> None:
    """Results, areas, sizes, faults and smaps of three sequences of each kind are equal."""
    verdict = verify_kernel(random_specs(36, calls=60, word=word, seed=7), word=word)
    assert verdict.agrees, verdict.to_dict()
    assert verdict.calls == 36 * 60


def test_a_planted_difference_is_found_shrunk_saved_and_found_again(tmp_path: Path) -> None:
    """Of a machine of 1 MB the model refuses what this one gives: one mmap shows it."""
    host = replace(host_kernel(), ram=1 << 20, swap=0)
    specs = random_specs(8, calls=30, profiles=["mixed"], seed=3)
    verdict = verify_kernel(specs, host=host, budget=100)
    assert verdict.finding is not None
    shortest = verdict.finding.shortest
    assert 1 <= len(shortest.calls) <= 2
    path = tmp_path / "case.json"
    shortest.write(path)
    case = read_case(path)
    assert (case.calls, case.start) == (shortest.calls, shortest.start)
    again = verify_case(case, host)
    assert again.finding is not None
    assert again.finding.difference == shortest.difference
    assert verify_case(case).agrees


def test_what_does_not_come_again_is_counted_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """A difference that repetitions do not show is no finding, and is told."""
    real, differed = kernel.run_spec, []

    def once(*arguments: Any) -> tuple[Case, Difference | None]:
        case, found = real(*arguments)
        if differed:
            return case, found
        differed.append(case)
        return case, Difference(0, str(case.calls[0]), "VmRSS, kB:", "48", "56")

    monkeypatch.setattr(kernel, "run_spec", once)
    monkeypatch.setattr(kernel, "disturbances", lambda: (0, 0))  # of others on this host
    verdict = verify_kernel(random_specs(2, calls=5, seed=3))
    assert verdict.agrees
    assert (verdict.sequences, verdict.unsteady) == (2, 1)
    assert any("differed once" in line for line in kernel_lines(verdict))


def test_what_differs_with_other_swap_than_at_the_start_is_counted_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever gives this host swap meanwhile, as tests of others do, makes pages go out."""
    seen = iter([(0, 0)])
    monkeypatch.setattr(kernel, "disturbances", lambda: next(seen, (0, 64)))
    host = replace(host_kernel(), ram=1 << 20, swap=0)
    verdict = verify_kernel(random_specs(2, calls=30, profiles=["mixed"], seed=3), host=host)
    assert verdict.agrees
    assert verdict.unsteady > 0


def test_the_command_offers_every_profile() -> None:
    assert get_args(Profile) == tuple(PROFILES)


def test_a_call_s_simpler_forms_are_shorter_or_have_fewer_flags() -> None:
    call = SystemCall("mmap", (0, 8 * PAGE, 3, 0x8022, -1, 0))
    forms = list(simpler(call))
    assert SystemCall("mmap", (0, PAGE, 3, 0x8022, -1, 0)) in forms
    assert SystemCall("mmap", (0, 8 * PAGE, 3, 0x22, -1, 0)) in forms
    assert all(form.args < call.args for form in forms)


def test_a_puppet_does_what_it_is_told() -> None:
    """Its calls return what the kernel returns, and a touch tells the signal."""
    with Puppet(Start()) as puppet:
        at = puppet.call("mmap", 0, 2 * PAGE, 3, 0x22, -1, 0).value
        assert puppet.call("touch", at, 2, 1) == Outcome(2)
        assert puppet.present(at, at + 2 * PAGE) == [at, at + PAGE]
        assert puppet.call("munmap", at + 1, PAGE) == Outcome(-1, "EINVAL")
        assert puppet.call("munmap", at + PAGE, PAGE) == Outcome(0)
        assert puppet.call("touch", at, 2, 1) == Outcome(1, signal=11)
        assert puppet.call("branch") == puppet.call("fork") == Outcome(0)
        assert puppet.call("touch", at, 1, 0) == Outcome(1)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "not a case"),
        ("[]", "not a case"),
        ('{"format": "another"}', "its format is 'another'"),
        ('{"format": "pyalloc kernel case 1", "start": {}}', "not a case"),
    ],
)
def test_a_file_that_is_no_case_is_told_from_one(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "case.json"
    path.write_text(text)
    with pytest.raises(TraceError, match=why):
        read_case(path)


def test_the_command_says_what_it_compared(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    args = ["verify", "kernel", "--sequences", "2", "--calls", "10", "--word", "64"]
    assert main([*args, "--profile", "dense"]) == 0
    assert "2 sequences, 20 calls" in capfd.readouterr().out
    assert main([*args, "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["kernel"]["agrees"]
    Case(Start(), (SystemCall("brk", (0,)),), "one call").write(tmp_path / "one.json")
    assert main(["verify", "kernel", "--case", str(tmp_path / "one.json")]) == 0
    assert "1 sequence, 1 call" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("args", "why"),
    [
        (["--profile", "nonsense"], "nonsense"),
        (["--sequences", "0"], "sequences must be 1 or more"),
        (["--case", "/nonexistent"], "/nonexistent"),
    ],
)
def test_bad_input_is_one_line(
    capfd: pytest.CaptureFixture[str], args: list[str], why: str
) -> None:
    assert main(["verify", "kernel", *args]) == 2
    err = capfd.readouterr().err
    assert why in err
    assert err.count("\n") == 1
