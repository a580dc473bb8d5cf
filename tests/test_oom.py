"""The victim the kernel killed is the one the policy chooses."""

import gzip
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyalloc.errors import ArgumentError
from pyalloc.kernel.oom import Task, badness, oom_policy, oom_score

DATA = Path(__file__).parent / "data" / "kernel"


def load(name: str) -> Any:
    """Read recorded truth: the full set where PYALLOC_TRUTH says so, else what ships."""
    full = os.environ.get("PYALLOC_TRUTH")
    path = Path(full) / "kernel" / name if full else DATA / name
    return json.loads(gzip.decompress(path.read_bytes()))


SCENARIOS = load("oom.json.gz")["scenarios"]


def tasks_of(event: dict[str, Any]) -> list[Task]:
    keys = ("pid", "name", "uid", "total_vm", "rss", "swapents", "pgtables_bytes", "oom_score_adj")
    return [Task(**{key: row[key] for key in keys}) for row in event["tasks"]]


def totalpages_of(scenario: dict[str, Any], event: dict[str, Any]) -> int:
    limit = event["memory"]["limit_kb"] // 4
    if not scenario["swappiness"] or not scenario["swaptotal_kb"]:
        return limit
    swap = max(event["memory+swap"]["limit_kb"] // 4 - limit, 0)
    return limit + min(swap, scenario["swaptotal_kb"] // 4)


EVENTS = [
    pytest.param(scenario, event, id=f"{scenario['name']}-{index}")
    for scenario in SCENARIOS
    for index, event in enumerate(scenario["ooms"])
    if event["killed"]
]


@pytest.mark.parametrize(("scenario", "event"), EVENTS)
def test_the_kernel_s_victim_follows_from_its_task_table(
    scenario: dict[str, Any], event: dict[str, Any]
) -> None:
    """Given the table the kernel printed, the choice is the kernel's."""
    verdict = oom_policy("6.12").choose(tasks_of(event), totalpages_of(scenario, event))
    assert verdict.victim is not None
    assert verdict.victim.pid == int(event["oom_kill"]["pid"])


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        (Task(2, "a", uid=1, total_vm=785469), 785469),
        (Task(2, "a", uid=0, total_vm=785469), 49091),
        (Task(2, "a", uid=1, total_vm=268128, cpu_time=100, run_time=5000), 89376),
        (Task(2, "a", uid=1, total_vm=268128, run_time=100000), 89376),
        (Task(2, "a", uid=1, total_vm=268128, nice=5), 536256),
        (Task(2, "a", uid=1, total_vm=268128, oom_adj=3), 2145024),
        (Task(2, "a", uid=1, total_vm=268128, oom_adj=-16), 4),
        (Task(2, "a", uid=1, total_vm=4000, run_time=1, nice=1, capable=(True, False)), 2000),
        (Task(2, "a", uid=1, total_vm=4000, run_time=1, capable=(False, True)), 1000),
        (Task(2, "a", uid=0, total_vm=4000, oom_adj=1), 500),
        (Task(2, "a", uid=0, total_vm=4000, oom_adj=-1), 125),
        (Task(2, "kswapd0", total_vm=4000, run_time=1, kernel_thread=True), 0),
        (Task(2, "kswapd0", total_vm=4000, kernel_thread=True), 0),
        (Task(2, "gone", children=(Task(3, "x", total_vm=99),)), 0),
    ],
)
def test_badness_of_2_6(task: Task, expected: int) -> None:
    """Each factor of 2.6 divides or multiplies in the kernel's order and rounding."""
    for era in ("2.6.11", "2.6.18"):
        assert oom_policy(era).choose([task], 0).scores[2] == expected


TASKS = st.builds(
    Task,
    pid=st.just(2),
    name=st.just("a"),
    uid=st.sampled_from([0, 1]),
    total_vm=st.integers(0, 1 << 20),
    nice=st.integers(-20, 19),
    capable=st.none() | st.tuples(st.booleans(), st.booleans()),
    kernel_thread=st.booleans(),
)


@given(task=TASKS, adj=st.integers(-16, 15), cpu=st.floats(0, 1e6), run=st.floats(0, 1e9))
def test_the_score_of_2_6_is_the_last_of_its_terms(
    task: Task, adj: int, cpu: float, run: float
) -> None:
    """Most tasks are scored without their terms: it comes to the same."""
    young = replace(task, run_time=1.0)  # too young to matter, and old enough to be worked out
    for era in ("2.6.11", "2.6.18"):
        short, long = (oom_policy(era).choose([each], 0).scores[2] for each in (task, young))
        assert short == long
        verdict = oom_policy(era).choose(
            [replace(task, oom_adj=adj, cpu_time=cpu, run_time=run)], 0
        )
        assert verdict.scores[2] == list(verdict.terms[2])[-1].points


def test_children_are_named_by_pid_as_well() -> None:
    """A pid of a task that is not in the list is nobody's."""
    child = Task(3, "x", uid=1, total_vm=100)
    parent = Task(2, "p", uid=1, total_vm=1000, children=(9, 3))
    verdict = oom_policy("2.6.11").choose([parent, child], 0)
    assert verdict.scores == {2: 1100, 3: 100}
    assert verdict.victim is child
    assert oom_policy("2.6.11").choose([parent], 0).victim is parent


@pytest.mark.parametrize(("era", "expected"), [("2.6.11", 789470), ("2.6.18", 395236)])
def test_children_weigh_differently(era: str, expected: int) -> None:
    """2.6.11 adds a child's whole size to its parent, 2.6.18 half of it and a page."""
    kids = (Task(3, "x", uid=1, total_vm=785469), Task(4, "y", uid=1, total_vm=3001))
    parent = Task(2, "p", uid=1, total_vm=1000, children=kids)
    verdict = oom_policy(era).choose([parent], 0)
    assert verdict.scores[2] == expected
    assert verdict.selected is parent
    assert verdict.victim is kids[0]


def test_2_6_ties_go_to_the_first_and_6_12_to_the_last() -> None:
    """Equal scores: 2.6 kills the older task, 6.12 the younger."""
    pair = [Task(pid, "t", uid=1, total_vm=10, rss=10) for pid in (2, 3)]
    assert oom_policy("2.6.18").choose(pair, 100).victim == pair[0]
    assert oom_policy("6.12").choose(pair, 100).victim == pair[1]


def test_exempt_tasks_are_never_chosen() -> None:
    """init, kernel threads and -1000 (or -17) survive; then there is no victim."""
    tasks = [
        Task(1, "init", total_vm=99, rss=99),
        Task(2, "kswapd0", kernel_thread=True),
        Task(3, "sshd", total_vm=50, rss=50, oom_score_adj=-1000, oom_adj=-17),
    ]
    verdict = oom_policy("6.12").choose(tasks, 100)
    assert verdict.victim is None
    assert set(verdict.scores.values()) == {None}
    assert oom_policy("2.6.18").choose(tasks, 100).scores == {1: None, 2: 0, 3: None}
    assert oom_policy("2.6.18").choose(tasks[::2], 100).victim is None
    assert oom_policy("2.6.11").choose(tasks, 100).scores[3] is not None


def test_an_exiting_victim_stops_the_next_kill() -> None:
    """While one victim is still exiting nobody else is killed."""
    tasks = [Task(2, "a", rss=5, total_vm=5, dying=True), Task(3, "b", rss=9, total_vm=9)]
    for era in ("2.6.11", "2.6.18", "6.12"):
        assert oom_policy(era).choose(tasks, 100).victim is None


@pytest.mark.parametrize(
    ("adj", "points", "score"), [(0, 277695, 1301), (-500, 132195, 968), (1000, 568695, 1967)]
)
def test_oom_score_of_6_12(adj: int, points: int, score: int) -> None:
    """The article's machine: 291405 pages of RAM and swap."""
    task = Task(2, "a", rss=50000, swapents=227419, pgtables_bytes=276 * 4096, oom_score_adj=adj)
    assert badness(task, 291405) == points
    assert oom_score(task, 291405) == score


def test_a_negative_badness_still_scores() -> None:
    """Truncation is towards zero, so a score stays above 0."""
    task = Task(2, "a", rss=1000, pgtables_bytes=5 * 4096, oom_score_adj=-999)
    assert badness(task, 291405) == -289704
    assert oom_score(task, 291405) == 4


def test_terms_add_up_to_the_score() -> None:
    """The reason trail ends in the score it explains."""
    verdict = oom_policy("6.12").choose(
        [Task(2, "a", rss=7, swapents=2, pgtables_bytes=8192, oom_score_adj=1)], 5000
    )
    assert [term.points for term in verdict.terms[2]] == [7, 9, 11, 16]
    assert verdict.scores[2] == 16


def test_an_unknown_policy_names_the_nearest() -> None:
    """A wrong name gets one line with names that exist."""
    with pytest.raises(ArgumentError, match=r"did you mean .*6\.12"):
        oom_policy("6.11")
