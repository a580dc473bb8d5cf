"""Scenarios: what is refused and where, what varies, and that a seed gives one order of events."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pyalloc as pa
from pyalloc import Bytes, Job, Seconds

GOOD = """\
title = "two"
duration = "1h"

[machine]
ram = "1G"

[[cgroup]]
name = "web"
memory_max = "100M"

[[process]]
name = "a"
program = "leak:size=1M"
cgroup = "web"

[[process]]
name = "b"
program = { name = "hold", size = "10M", time = "10min" }
"""


def load(folder: Path, text: str) -> pa.Scenario:
    file = folder / "s.toml"
    file.write_text(text)
    return pa.load_scenario(file)


BAD = {
    "unknown key": ("ram =", "rma =", 5, "machine.rma: no such key; did you mean ram?"),
    "unknown key of a part": (
        "memory_max",
        "memory_mx",
        9,
        "did you mean memory_max or memory_high?",
    ),
    "unknown table": ("[[cgroup]]", "[[cgruop]]", 7, "cgruop: no such key; did you mean cgroup?"),
    "wrong unit of a size": ('"1G"', '"1Q"', 5, "ram: must be a number of bytes"),
    "a part of a byte": ('"1G"', "1.5", 5, "text such as '256M' (got 1.5)"),
    "wrong unit of a time": ('"1h"', '"3 parsecs"', 2, "duration: must be a number of seconds"),
    "size for a time": ('"10min"', '"10M"', 18, "program.time: must be a number of seconds"),
    "wrong word": ('ram = "1G"', 'kernel = "2.6.12"', 5, "did you mean 2.6.18, 2.6.11 or 6.12?"),
    "wrong number": ('ram = "1G"', "overcommit_memory = 5", 5, "must be one of 0, 1, 2 (got 5)"),
    "number too high": ('ram = "1G"', "swappiness = 500", 5, "at most 200"),
    "impossible machine": ('ram = "1G"', 'ram = "1G"\nreserved = "1G"', 4, "ram beyond what is"),
    "no memory": ('"1G"', "0", 4, "machine: a machine needs ram"),
    "two of a name": ('name = "b"', 'name = "a"', 17, "there is a process a already"),
    "no name": ('name = "b"', "", 16, "name: this key is needed"),
    "not a name": ('name = "b"', 'name = "b b"', 17, "a name is a word"),
    "unknown cgroup": ('cgroup = "web"', 'cgroup = "wep"', 14, "did you mean web?"),
    "cycle of one": ("memory_max", 'parent = "web"\nmemory_max', 9, "lies in itself: web in web"),
    "no parent": ("memory_max", 'parent = "x"\nmemory_max', 9, "no cgroup 'x' (there is web)"),
    "unknown program": ("leak:", "lek:", 13, "no program 'lek'; did you mean leak?"),
    "unknown parameter": ("size=1M", "sizze=1M", 13, "no parameter 'sizze'; did you mean size?"),
    "unknown parameter in a table": ("size = ", "sise = ", 18, "program.sise: program hold has no"),
    "parameter's unit": ("size=1M", "size=1parsec", 13, "size must be a number of bytes"),
    "missing trace": (
        'name = "hold", size = "10M", time = "10min"',
        'trace = "no.parquet"',
        18,
        "no",
    ),
    "missing module": (
        'name = "hold", size = "10M", time = "10min"',
        'python = "no_m:f"',
        18,
        "No",
    ),
    "no source": ('name = "hold", size = "10M", time = "10min"', "", 18, "one of name, trace and"),
    "unknown allocator": ('name = "b"', 'name = "b"\nallocator = "glibc-9"', 16, "glibc-2.42"),
    "unknown tunable": ('name = "b"', 'name = "b"\ntunables = {x = 1}', 16, "no tunable 'x'"),
    "not TOML": ('ram = "1G"', 'ram = "1G', 5, "not TOML"),
    "one bracket": ("[[cgroup]]", "[cgroup]", 7, "double brackets"),
}


@pytest.mark.parametrize("case", BAD, ids=str)
def test_bad_input_is_refused_with_its_line_and_the_right_word(case: str, tmp_path: Path) -> None:
    """Whatever is wrong in a file, the error names the file, the line and what to write."""
    old, new, line, words = BAD[case]
    assert old in GOOD
    with pytest.raises(pa.ScenarioError) as caught:
        load(tmp_path, GOOD.replace(old, new, 1))
    text = str(caught.value)
    assert text.startswith(f"{tmp_path / 's.toml'}:{line}: ")
    assert words in text
    assert "\n" not in text


def test_a_circle_of_cgroups_is_refused() -> None:
    """Cgroups that lie in each other are noticed, however long the way round is."""
    names = ["a", "b", "c"]
    groups = [{"name": n, "parent": p} for n, p in zip(names, ["c", "a", "b"], strict=True)]
    data = {"cgroup": groups, "process": [{"name": "p", "program": "idle"}]}
    with pytest.raises(pa.ScenarioError, match="lies in itself: a in c in b in a"):
        pa.Scenario.from_dict(data)


def test_a_scenario_goes_through_plain_data_and_pickle_unchanged(tmp_path: Path) -> None:
    """A scenario is a value: what it is made of and what it is sent as make it again."""
    one = load(tmp_path, GOOD)
    assert pa.Scenario.from_dict(one.to_dict()) == one
    assert pickle.loads(pickle.dumps(one)) == one  # noqa: S301 - our own bytes


def test_vary_changes_what_it_names_and_nothing_else(tmp_path: Path) -> None:
    """A key path reaches machines, cgroups, processes and the parameters of their programs."""
    one = load(tmp_path, GOOD)
    other = one.vary(
        {
            "machine.ram": "2G",
            "cgroup.web.memory_max": "50M",
            "process.a.program.size": "2M",
            "process.b.program.size": "20M",
        }
    )
    assert one.machine.ram == "1G"
    assert other.machine.ram == "2G"
    assert other.cgroups[0].memory_max == "50M"
    assert other.processes[0].program == {"name": "leak", "size": "2M"}
    assert other.processes[1].program["size"] == "20M"
    with pytest.raises(pa.ScenarioError, match="did you mean memory_max"):
        one.vary({"cgroup.web.memory_mx": 1})
    with pytest.raises(pa.ScenarioError, match="no cgroup of that name"):
        one.vary({"cgroup.wob.memory_max": 1})


def run(**parts: Any) -> pa.Simulation:
    return pa.simulate({"machine": {"ram": "256M"}, **parts})


def test_one_seed_gives_one_order_of_events() -> None:
    """Two runs are equal to the last event; another seed changes what chance decides."""
    servers = [{"name": "s", "program": "server:requests=5,kept=0.5", "copies": 3}]
    first, again = (run(process=servers, duration="1min") for _ in range(2))
    assert first.happened == again.happened
    assert first.outcomes == again.outcomes
    assert first.timeline.to_batches() == again.timeline.to_batches()
    other = pa.simulate(
        {"machine": {"ram": "256M"}, "process": servers, "duration": "2min"}, seed=1
    )
    assert other.outcomes != first.outcomes


def test_a_leak_in_a_cgroup_dies_at_its_limit_and_its_neighbour_lives() -> None:
    """The cgroup's limit is hit, then its only process is killed; what lies outside goes on."""
    found = run(
        cgroup=[{"name": "web", "memory_max": "32M"}],
        process=[
            {"name": "leak", "program": "leak:size=1M,every=1s", "cgroup": "web"},
            {"name": "big", "program": "hold:size=100M"},
        ],
        duration="2min",
    )
    assert found.killed == ("leak",)
    kinds = [event.kind for event in found.happened]
    assert kinds == ["start", "start", "limit", "oom"]
    victim = found.outcomes[0]
    assert victim.how == "oom"
    assert victim.ended == pytest.approx(
        31, abs=0.5
    )  # 31 blocks fit beside the headers and tables, the 32nd does not
    assert 31 << 20 < victim.peak_rss <= 32 << 20
    assert found.outcomes[1].how == "running"


def test_a_refusal_says_what_refused() -> None:
    """NULL comes with its reason: the limit of the process, or the mode of the machine."""
    limited = run(process=[{"name": "a", "program": "leak:size=8M", "rlimit_as": "64M"}])
    assert "RLIMIT_AS is 64.0 MiB" in next(e.text for e in limited.happened if e.kind == "refused")
    strict = pa.simulate(
        {
            "machine": {"ram": "256M", "overcommit_memory": 2},
            "process": [{"name": "a", "program": "leak:size=8M"}],
        }
    )
    refused = next(e for e in strict.happened if e.kind == "refused")
    assert "overcommit_memory is 2" in refused.text
    assert refused.size == 8 << 20
    assert strict.outcomes[0].how == "exit 1"


def test_copies_restarts_and_stops_follow_the_clock() -> None:
    """Copies start one after another, what fails is started again, SIGTERM comes when due."""
    found = run(
        process=[
            {"name": "c", "program": "idle:time=1min", "copies": 3, "every": "10s"},
            {
                "name": "r",
                "program": "calls:sizes=1T",
                "restart": "on-failure",
                "restart_delay": "5s",
                "restart_limit": 2,
            },
            {"name": "s", "program": "idle", "stop": "30s"},
        ],
    )
    copies = [o for o in found.outcomes if o.name == "c"]
    assert [o.label for o in copies] == ["c-1", "c-2", "c-3"]
    assert [o.started for o in copies] == pytest.approx([0, 10, 20], abs=0.5)
    assert [o.ended for o in copies] == pytest.approx([60, 70, 80], abs=0.5)
    again = [o for o in found.outcomes if o.name == "r"]
    assert [(o.how, o.failed) for o in again] == [("exit 1", 1)] * 3
    assert [o.started for o in again] == pytest.approx([0, 5, 10], abs=0.5)
    stopped = next(o for o in found.outcomes if o.name == "s")
    assert stopped.how == "SIGTERM"
    assert stopped.ended == pytest.approx(30, abs=0.5)
    assert found.seconds == pytest.approx(80, abs=0.5)  # nothing is left to happen


def test_changes_happen_when_they_are_due() -> None:
    """A lower memory.max takes from the cgroup what it has; a signal ends the process."""
    found = run(
        cgroup=[{"name": "web", "memory_max": "100M"}],
        process=[
            {"name": "a", "program": "leak:size=1M,every=1s", "cgroup": "web"},
            {"name": "b", "program": "idle"},
        ],
        change=[
            {"at": "10s", "cgroup": "web", "memory_max": "20M"},
            {"at": "15s", "process": "b", "signal": "SIGKILL"},
        ],
        duration="1min",
    )
    assert [o.how for o in found.outcomes] == ["oom", "SIGKILL"]
    assert [o.ended for o in found.outcomes] == pytest.approx([19, 15], abs=0.5)


def test_expectations_are_held_against_what_happened() -> None:
    """What should survive and did not, and what should die and did not, are told."""
    found = run(
        process=[
            {"name": "a", "program": "leak:size=8M"},
            {"name": "b", "program": "idle"},
        ],
        expect={"survive": ["a"], "killed": ["b"], "refused": ["b"]},
    )
    assert found.unmet == (
        "a should survive, and ended: oom",
        "b should be killed by the OOM killer, and was not",
        "b should meet NULL, and did not",
    )


# --- programs --------------------------------------------------------------------------------


def stairs(
    job: Job, steps: int = 3, size: Bytes = 1 << 20, every: Seconds = 1.0
) -> Iterator[float]:
    """Take some steps."""
    for number in range(steps):
        job.fill(size)
        job.note(f"step {number}")
        yield every


def test_a_generator_function_is_a_program() -> None:
    """A function given as such, with a seed of its own and notes in the events."""
    found = run(process=[{"name": "s", "program": stairs}])
    notes = [event for event in found.happened if event.kind == "note"]
    assert [event.text for event in notes] == ["step 0", "step 1", "step 2"]
    assert [event.time for event in notes] == pytest.approx([0, 1, 2], abs=0.5)
    assert found.outcomes[0].peak_rss >= 3 << 20


def test_a_function_of_a_file_beside_the_scenario_is_a_program(tmp_path: Path) -> None:
    """``python = "mine.py:main"`` is found beside the file, and its parameters take units."""
    (tmp_path / "mine.py").write_text(
        "from pyalloc import Bytes\n"
        "def main(job, size: Bytes = 0):\n"
        "    job.fill(size)\n"
        "    yield 1\n"
        "    return 3\n"
    )
    for spelling in ("mine.py:main", "mine:main"):
        table = f'{{ python = "{spelling}", size = "5M" }}'
        one = load(tmp_path, GOOD.replace('"leak:size=1M"', table))
        outcome = pa.simulate(one).outcomes[0]
        assert outcome.how == "exit 3"
        assert outcome.peak_rss > 5 << 20


def test_an_error_in_a_program_names_program_process_and_time() -> None:
    """What a program of one's own raises is told with where it was raised, and is kept."""

    def broken(job: Job) -> Iterator[float]:
        yield 90
        raise ZeroDivisionError(job.label)

    with pytest.raises(pa.ScenarioError, match="program broken of b, at 1:30: ZeroDiv") as caught:
        run(process=[{"name": "b", "program": broken}])
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_program_that_never_lets_time_pass_is_stopped() -> None:
    """Endless steps at one instant are an error, not a hang."""

    def busy(job: Job) -> Iterator[float]:
        while job:
            yield 0

    with pytest.raises(pa.ScenarioError, match="yield 0 forever"):
        run(process=[{"name": "b", "program": busy}])


def test_a_trace_runs_at_the_pace_of_its_times(tmp_path: Path) -> None:
    """Calls are made when they were made, and memory is held as long."""
    op = [pa.Op.MALLOC, pa.Op.MALLOC, pa.Op.FREE]
    seconds = np.array([5, 20, 40], np.uint64) * 10**9
    trace = pa.Trace.from_arrays(op, [0, 1, 0], [8 << 20, 8 << 20, 0], time=seconds)
    trace.write(tmp_path / "t.parquet")
    table = '{ trace = "t.parquet", tick = "1s" }'
    one = load(tmp_path, GOOD.replace('"leak:size=1M"', table))
    found = pa.simulate(one)
    outcome = found.outcomes[0]
    assert outcome.how == "exit 0"
    assert outcome.ended == pytest.approx(35, abs=0.5)
    assert 16 << 20 < outcome.peak_rss < 17 << 20


def test_a_slice_of_a_trace_and_the_whole_of_it_give_the_same_addresses() -> None:
    """A trace that is run bit by bit leaves the heap as one that is run at once."""
    trace = pa.workload("random:count=5000,live=200")
    whole, parts = (pa.Machine(ram="256M", kernel="6.18", arch="x86_64").spawn() for _ in range(2))
    whole.replay(trace, touch="write")
    playback = parts.playback(trace, touch="write")
    for end in (1, 2, 777, 778, 4000, 5000):
        playback.run_to(end)
        assert playback.row == end
    assert str(whole.maps()) == str(parts.maps())
    assert whole.malloc(100) == parts.malloc(100)
    assert whole.heap_statistics() == parts.heap_statistics()


def test_fill_is_malloc_and_touch() -> None:
    """The short way to write a whole block leaves a process as the long way does."""
    short, long = (pa.Machine(ram="64M", kernel="6.18", arch="x86_64").spawn() for _ in range(2))
    for size in (0, 1, 100, 5000, 70_000, 1 << 20, 3):
        block = long.malloc(size)
        long.touch(block, size)
        assert short.fill(size) == block
    assert str(short.smaps()) == str(long.smaps())
    assert short.pages.table.counters() == long.pages.table.counters()
    for process in (short, long):
        process.mlockall(3)
    block = long.malloc(50_000)
    long.touch(block, 50_000)
    assert short.fill(50_000) == block
    assert str(short.smaps()) == str(long.smaps())


def test_processes_that_have_ended_leave_nothing_on_the_host() -> None:
    """More processes than the host has room for heaps can come and go, and be copied past."""
    machine = pa.Machine(ram="64M", kernel="6.18", arch="x86_64")
    parent = machine.spawn("parent")
    for _ in range(5000):
        child = parent.fork()
        child.fill(100)
        child.exit()
    twin = machine.copy()
    assert twin.spawn("next").fill(100)
    assert len(twin.processes) == 5002


def test_a_cgroup_has_all_its_limits() -> None:
    """memory_high holds it back, oom_group ends all of it, and a change can move memory_high."""
    found = pa.simulate(
        {
            "duration": "2min",
            "machine": {"ram": "256M", "swap": "0", "kernel": "6.12"},
            "cgroup": [
                {"name": "slow", "memory_max": "64M", "memory_high": "16M"},
                {"name": "pod", "memory_max": "32M", "oom_group": True},
            ],
            "process": [
                {"name": "held", "program": "hold:size=32M", "cgroup": "slow"},
                {"name": "side", "program": "hold:size=1M", "cgroup": "pod"},
                {"name": "main", "program": "hold:size=48M", "cgroup": "pod", "start": "5s"},
            ],
            "change": [{"at": "90s", "cgroup": "slow", "memory_high": "48M"}],
        }
    )
    ended = {outcome.name: outcome.how for outcome in found.outcomes}
    assert ended == {"held": "running", "side": "oom", "main": "oom"}
    told = [event for event in found.events.column("text").to_pylist() if event]
    assert "/slow: memory_high 48M" in told
    assert any(text.startswith("killed: it dies with ") for text in told)
    assert found.machine.cgroups["/slow"].memory_high == 48 << 20


def test_a_machine_too_small_to_start_anything_is_refused() -> None:
    """Nothing runs before every process could start once."""
    tiny = {"machine": {"ram": "8K"}, "process": [{"name": "a", "program": "hold:size=1M"}]}
    with pytest.raises(pa.ScenarioError, match=r"process a: .* too small for it to start"):
        pa.simulate(tiny)
