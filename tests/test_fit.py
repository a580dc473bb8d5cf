"""Fit: the smallest limit is the smallest, on copies of a machine and for real."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pyalloc as pa
from pyalloc.cli import main
from pyalloc.host.compile import HostError
from pyalloc.host.limited import run_limited
from pyalloc.host.measure import measure
from pyalloc.lab.fit import NeverEnough, Traced, fit, survives
from pyalloc.lab.fit.search import SURVIVED, failed, smallest
from pyalloc.lab.fit.traced import recorder_space, unpromised
from pyalloc.lab.fit.verify import verify
from pyalloc.units import PAGE

M, F = pa.Op.MALLOC, pa.Op.FREE
MIB = 1 << 20


def blocks(count: int, size: int) -> pa.Trace:
    """A trace of ``count`` blocks that are kept."""
    return pa.Trace.from_arrays([M] * count, range(count), [size] * count)


def built(tmp_path: Path, name: str) -> str:
    """Return one of the test programs, compiled."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    source = Path(__file__).parent / "programs" / f"{name}.c"
    program = str(tmp_path / name)
    subprocess.run([compiler, "-O0", "-g", "-o", program, source, "-pthread"], check=True)
    return program


def recorded(program: str, tmp_path: Path) -> pa.Trace:
    """Return the trace of a program's main process."""
    return next(r for r in pa.record([program], tmp_path / "t.parquet") if r.main).trace()


# --- the search


@given(st.integers(1, 1 << 30), st.integers(1, 1 << 30), st.sampled_from([1, 4096]))
def test_the_search_finds_the_border(border: int, start: int, step: int) -> None:
    """Of all multiples of the step the found one is the first that works; just below, none does."""
    found = smallest(
        lambda value: SURVIVED if value >= border else failed("too small"), start=start, step=step
    )
    assert found.value - step < border <= found.value
    assert found.least == found.value
    if found.below_value is not None:
        assert found.below_value == found.value - step
        assert found.below == failed("too small")


def test_a_hole_above_the_smallest_is_seen() -> None:
    """Where more room makes it fail again, the answer lies above the hole, and both are told."""

    def attempt(value: int) -> object:
        return SURVIVED if 100 <= value < 130 or value >= 400 else failed("lacks the rest")

    found = smallest(attempt, start=120, enough=1000)  # type: ignore[arg-type]
    assert (found.least, found.value) == (100, 400)


def test_what_never_works_is_an_error_that_says_why() -> None:
    """No limit is large enough: the reason is that of the largest."""
    with pytest.raises(NeverEnough, match="however much it is given: no room at 64"):
        smallest(lambda value: failed(f"no room at {value}"), start=5, most=64)


# --- traces


def test_an_address_space_is_refused_just_below_its_peak() -> None:
    """Mappings of a megabyte each: at the limit the last is got from the heap's own end instead."""
    trace = blocks(64, MIB)
    found = fit(trace, "as")
    peak = pa.replay(trace).process.status()["VmPeak"]
    assert found.value == (int(peak) << 10) - PAGE
    assert found.below_value == found.value - PAGE
    assert found.row == 63
    assert "asks for 1,048,576 bytes and gets NULL" in str(found.below)


def test_a_cgroup_must_hold_what_is_written() -> None:
    """64 MiB of blocks written need a cgroup of that and the process's own, and not a page less."""
    found = fit(blocks(64, MIB), "cgroup")
    assert 64 * MIB < found.value < 65 * MIB
    assert "the OOM killer ends it in call 63" in str(found.below)
    assert survives(blocks(64, MIB), "cgroup", found.value).survived
    assert not survives(blocks(64, MIB), "cgroup", found.value - PAGE).survived


def test_swap_stands_in_for_memory() -> None:
    """What the RAM lacks, the swap must have; with enough RAM no swap is needed."""
    trace = blocks(32, MIB)
    found = fit(trace, "swap", ram="24M")
    ram = fit(trace, "ram").value
    assert found.value == pytest.approx(ram - 24 * MIB, abs=MIB)
    assert fit(trace, "swap", ram="64M").value == 0
    assert fit(trace, "ram", reserved="16M").value == pytest.approx(ram + 16 * MIB, rel=0.05)


def test_strict_overcommit_counts_promises() -> None:
    """In mode 2, 64 MiB of blocks never written need most of 128 MiB x 50 percent, and a bit."""
    found = fit(blocks(64, MIB), "ratio", ram="128M")
    assert 50 <= found.value <= 56
    assert found.is_ratio
    assert found.words(found.value) == f"{found.value} %"
    assert not survives(blocks(64, MIB), "ratio", "40%", ram="128M").survived


def test_what_is_refused_anyway_is_no_failure() -> None:
    """A request beyond PTRDIFF_MAX is NULL on every machine: the limit is found all the same."""
    trace = pa.Trace.from_arrays([M, M, M], [0, 1, 2], [MIB, (1 << 63) + 1, MIB])
    found = fit(trace, "as")
    assert found.row == 2
    assert survives(trace, "as", found.value).survived


def test_a_refused_mapping_of_the_program_s_own_counts() -> None:
    """An MMAP row that finds no room is a failure, too."""
    trace = pa.Trace.from_arrays([M, pa.Op.MMAP], [0, 1], [100, 64 * MIB])
    found = fit(trace, "as")
    assert found.value > 64 * MIB
    assert "mapping of the program's own" in str(found.below)


MAPS = """\
555555554000-555555555000 r-xp 00000000 fe:00 2    /bin/prog
555555755000-555555756000 rw-p 00000000 fe:00 2    /bin/prog
7ffffffde000-7ffffffff000 rw-p 00000000 00:00 0    [stack]
"""


def test_what_cannot_even_begin_is_dead_at_once() -> None:
    """A cgroup that does not hold the kernel's part of a process with areas: killed in exec."""
    machine = pa.Machine(ram="1G", swap=0, kernel="6.18", arch="x86_64")
    group = machine.cgroup("tiny", memory_max=0)
    process = machine.spawn("prog", cgroup=group, maps=MAPS, brk=0x555555756000)
    assert not process.alive
    assert process.killed_by == "oom"
    info = pa.TraceInfo(arch="x86_64", maps=MAPS, brk_start=0x555555756000)
    trace = pa.Trace(blocks(4, MIB).columns, info)
    for of in ("cgroup", "ram"):
        assert "exec itself needs more" in survives(trace, of, "8K").what


def test_asking_in_vain_without_end_is_no_survival(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that gets no arena asks again with each malloc: after enough of that it is over."""
    trace = pa.workload("larson:threads=4,operations=2000,generations=2")
    traced = Traced(trace)
    monkeypatch.setattr("pyalloc.lab.fit.traced._MOST_REFUSALS", 50)
    limit = traced.program.own_space + 3 * MIB
    verdict = traced.under_address_space(limit)
    assert not verdict.survived
    assert "refused its malloc memory 50 times" in verdict.what


def test_bad_limits_are_told_in_a_line() -> None:
    """Unknown limits, missing RAM, no calls, and a limit below what exec needs."""
    trace = blocks(4, MIB)
    with pytest.raises(pa.ArgumentError, match=r"no limit 'foo' .*as, cgroup"):
        fit(trace, "foo")
    with pytest.raises(pa.ArgumentError, match="how much RAM has the machine"):
        fit(trace, "swap")
    with pytest.raises(pa.ArgumentError, match="below what exec itself needs"):
        survives(trace, "as", "100K")
    for of in ("cgroup", "ram"):
        assert "exec itself needs more" in survives(trace, of, "4K").what
    with pytest.raises(pa.ArgumentError, match="whole number of percent"):
        survives(trace, "ratio", "much", ram="1G")
    with pytest.raises(pa.ArgumentError, match="has no calls"):
        fit(pa.Trace.from_arrays([], [], []), "as")


def test_the_recorder_s_own_areas_are_told_from_the_program_s() -> None:
    """Its ring and the page it maps far away are left out of what the program needs."""
    maps = (
        "3f0000000000-3f0000001000 rw-p 00000000 00:00 0 \n"
        "3f0000010000-3f0000020000 rw-s 00000000 fe:00 1    /tmp/.t.spool/7.0.ring\n"
        "555555554000-555555555000 r-xp 00000000 fe:00 2    /bin/prog\n"
        "555555755000-555555756000 rw-p 00000000 fe:00 2    /bin/prog\n"
    )
    assert recorder_space(maps) == 0x11000
    assert unpromised(maps) == 0x10000 + 0x1000


# --- reality


def test_ulimit_v_is_exact_to_the_page(tmp_path: Path) -> None:
    """The real program survives under the limit that was found, and not with a page less."""
    program = built(tmp_path, "leaky")
    trace = recorded(program, tmp_path)
    found = fit(trace, "as")
    assert found.value == measure([program]).vm_peak
    assert str(found.site).startswith(("copy", "forget"))
    enough = run_limited([program], None, "as", found.value)
    assert enough is not None
    assert enough.exit_code == 0
    less = run_limited([program], None, "as", found.value - PAGE)
    assert less is None or less.exit_code != 0


def test_a_real_cgroup_kills_where_the_model_says(tmp_path: Path) -> None:
    """In a real memory cgroup the program survives under the limit, and dies with 3 % less."""
    program = built(tmp_path, "notes")
    found = fit(recorded(program, tmp_path), "cgroup")
    try:
        enough = run_limited([program], None, "cgroup", int(found.value * 1.01))
        less = run_limited([program], None, "cgroup", int(found.value * 0.97))
    except HostError as error:
        pytest.skip(str(error))
    assert enough is not None
    assert enough.exit_code == 0
    assert less is not None
    assert less.signal == 9


def test_verification_encloses_the_real_smallest(tmp_path: Path) -> None:
    """ulimit -v is tried for real; a ratio is not, and the reason is given."""
    program = built(tmp_path, "leaky")
    traced = Traced(recorded(program, tmp_path))
    fits = [fit(traced, "as"), fit(traced, "ratio", ram="64M")]
    checked, untried = verify(fits, [program])
    assert checked.holds
    assert checked.smallest == fits[0].value
    assert checked.largest_failed == fits[0].value - PAGE
    assert untried.holds is None
    assert "every process" in str(untried.why_not)


# --- scenarios

SCENARIO = """
duration = "20s"
[machine]
ram = "64M"
swap = "0"
kernel = "6.18"
arch = "x86_64"
[[cgroup]]
name = "box"
memory_max = "16M"
[[process]]
name = "worker"
cgroup = "box"
program = { name = "hold", size = "24M" }
"""


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    path = tmp_path / "box.toml"
    path.write_text(SCENARIO, encoding="utf-8")
    return path


def test_a_scenario_is_fitted_by_any_of_its_sizes(scenario: Path) -> None:
    """The cgroup must hold the worker's 24 MiB; below, the worker is killed by name."""
    one = pa.load_scenario(scenario)
    found = fit(one, "cgroup")
    assert found.name == "cgroup.box.memory_max"
    assert 24 * MIB < found.value < 26 * MIB
    assert str(found.below).startswith("worker: killed: ")
    assert pa.simulate(one.vary({found.name: found.below_value})).outcomes[0].how == "oom"
    assert pa.simulate(one.vary({found.name: found.value})).outcomes[0].how != "oom"
    with pytest.raises(pa.ArgumentError, match="no process wrker; did you mean worker"):
        fit(one, "cgroup", survive=("wrker",))


def test_a_value_with_which_a_scenario_cannot_start_is_too_small(scenario: Path) -> None:
    """Below what exec needs in the cgroup, and below the machine's own; an unknown key is told."""
    one = pa.load_scenario(scenario)
    assert survives(one, "cgroup", "4K").what.startswith("it cannot even start: ")
    found = fit(one.vary({"process.worker.program.size": "16K"}), "cgroup")
    assert found.survivors == ("worker",)
    assert found.value < 2 * MIB
    assert fit(one.vary({"cgroup.box.memory_max": "max"}), "ram").value > 24 * MIB
    with pytest.raises(pa.ScenarioError, match="did you mean ram"):
        fit(one, "machine.rum")
    with pytest.raises(pa.ScenarioError, match="did you mean ram"):
        survives(one, "machine.rum", "1M")


# --- the command


def test_the_command_says_what_to_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each limit with what happens below it, the line to set, and JSON of the same."""
    path = str(tmp_path / "t.parquet")
    blocks(40, MIB).write(path)
    assert main(["fit", path]) == 0
    out = capsys.readouterr().out
    assert "ulimit -v 4" in out
    assert "gets NULL" in out
    assert main(["fit", path, "--limit", "cgroup", "--json"]) == 0
    (one,) = json.loads(capsys.readouterr().out)["fits"]
    assert one["value"] > 40 * MIB
    assert {"value": one["value"], "survived": True} in one["probes"]


def test_exit_codes_of_the_command(
    tmp_path: Path, scenario: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """0: it is enough; 1: it is not, or nothing is; 2: that was no question."""
    path = str(tmp_path / "t.parquet")
    blocks(40, MIB).write(path)
    assert main(["fit", path, "--at", "60M"]) == 0
    assert main(["fit", path, "--at", "20M"]) == 1
    assert main(["fit", path, "--limit", "swap", "--ram", "1G", "--at", "x"]) == 2
    assert main(["fit", path, "--limit", "as", "--at", "100K"]) == 2
    assert "below what exec itself needs" in capsys.readouterr().err
    assert main(["fit", str(scenario), "--verify"]) == 2
    assert main(["fit", str(scenario), "--limit", "cgroup", "--at", "16M"]) == 1
    assert "worker: killed" in capsys.readouterr().out
    assert main(["fit", str(scenario), "--limit", "cgroup", "--at", "32M"]) == 0
    assert "32M: worker survives." in capsys.readouterr().out
    assert main(["fit", path, "--survive", "worker"]) == 2
    assert main(["fit", str(scenario), "--ram", "1G"]) == 2


def test_what_the_program_left_unwritten_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A limit holds blocks as if they were written whole; the recorded run shows what less does."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    source = tmp_path / "half.c"
    source.write_text(
        "#include <stdlib.h>\n#include <string.h>\n"
        "int main(void) { for (int i = 0; i < 100; i++) memset(malloc(100000), 1, 50000); }\n"
    )
    program = str(tmp_path / "half")
    subprocess.run([compiler, "-O0", "-fno-builtin", "-o", program, source], check=True)
    trace = recorded(program, tmp_path)
    found = Traced(trace).program
    assert found.unwritten == pytest.approx(100 * 11 * PAGE, rel=0.1)
    assert main(["fit", str(tmp_path / "t.parquet"), "--limit", "cgroup"]) == 0
    assert "less memory would have done" in " ".join(capsys.readouterr().out.split())
