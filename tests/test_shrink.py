"""What is left of a sequence shows what the whole showed, and nothing of it can go."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyalloc.errors import ArgumentError
from pyalloc.lab.shrink import shrink

STEPS = st.lists(st.integers(0, 9), max_size=60)


def contains_in_order(steps: Sequence[int], wanted: Sequence[int]) -> bool:
    left = iter(steps)
    return all(any(step == one for step in left) for one in wanted)


@given(STEPS, st.data())
def test_exactly_the_steps_that_matter_are_left(steps: list[int], data: st.DataObject) -> None:
    """A difference that needs some steps in order needs no others."""
    indices = data.draw(st.sets(st.sampled_from(range(len(steps))) if steps else st.nothing()))
    wanted = [steps[i] for i in sorted(indices)]
    assert shrink(steps, lambda part: contains_in_order(part, wanted)) == wanted


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40))
def test_no_single_step_of_the_result_can_go(steps: list[int]) -> None:
    """1-minimal, also where many different parts show it."""
    least = sum(steps) // 2

    def shows(part: Sequence[int]) -> bool:
        return sum(part) >= least

    left = shrink(steps, shows)
    assert shows(left)
    assert not any(shows(left[:i] + left[i + 1 :]) for i in range(len(left)))


def test_steps_are_simplified_once_none_can_go() -> None:
    """Sizes fall to the least that still shows it."""

    def shows(part: Sequence[int]) -> bool:
        return sum(step >= 100 for step in part) >= 2

    def halves(step: int) -> list[int]:
        return [100, step // 2]

    assert shrink([5000, 3, 120, 777], shows, simpler=halves) == [100, 100]


def test_it_costs_few_attempts_where_few_steps_matter() -> None:
    """Two of ten thousand steps are found within two hundred attempts, none made twice."""
    made: list[tuple[int, ...]] = []

    def shows(part: Sequence[int]) -> bool:
        made.append(tuple(part))
        return {17, 9876} <= set(part)

    assert shrink(range(10_000), shows) == [17, 9876]
    assert len(made) == len(set(made)) < 200


def test_the_budget_bounds_the_attempts_and_the_best_so_far_is_kept() -> None:
    counts: list[tuple[int, int]] = []
    left = shrink(
        range(1000),
        lambda part: sum(part) >= 900,
        budget=5,
        progress=lambda made, steps: counts.append((made, steps)),
    )
    assert sum(left) >= 900
    assert len(left) < 1000
    assert [made for made, _ in counts] == [1, 2, 3, 4, 5]
    assert counts[-1][1] == len(left)


def test_a_sequence_that_does_not_show_it_is_refused() -> None:
    with pytest.raises(ArgumentError, match="3 steps do not show"):
        shrink([1, 2, 3], lambda part: not part and False)
