"""The nearest right word."""

from __future__ import annotations

import doctest

import pytest

from pyalloc import nearest as module
from pyalloc.nearest import near_word, nearest

NAMES = ("mmap_threshold", "trim_threshold", "top_pad", "arena_max")


@pytest.mark.parametrize("word", ["mmap_treshold", "MMAP_THRESHOLD", "mmap-threshold"])
def test_capitals_and_dashes_are_no_difference(word: str) -> None:
    assert near_word(word, NAMES).startswith("; did you mean mmap_threshold")


def test_several_that_are_near_are_named_nearest_first() -> None:
    assert nearest("m_threshold", NAMES) == "; did you mean trim_threshold or mmap_threshold?"


def test_where_nothing_is_near_all_there_is_is_listed_up_to_a_point() -> None:
    assert (
        nearest("xyz", NAMES) == " (there are arena_max, mmap_threshold, top_pad, trim_threshold)"
    )
    assert near_word("xyz", NAMES) == ""
    assert nearest("xyz", [f"a{i}" for i in range(100)]).endswith(" and 76 more)")
    assert nearest("xyz", ["one"]) == " (there is one)"
    assert nearest("xyz", []) == ""


def test_its_examples_are_right() -> None:
    assert doctest.testmod(module).failed == 0
