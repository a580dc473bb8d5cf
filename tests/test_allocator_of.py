"""Which generation stands for the library that a trace was recorded on."""

from __future__ import annotations

import dataclasses

import pytest

import pyalloc as pa
from pyalloc.lab.examine import allocator_of


@pytest.mark.parametrize(("version", "name"), [
    (None, "glibc-2.36"), ("of my own", "glibc-2.36"), ("2.2.5", "glibc-2.3.3"),
    ("2.17", "glibc-2.12"), ("2.23", "glibc-2.23"), ("2.25", "glibc-2.23"),
    ("2.26", "glibc-2.31"), ("2.30", "glibc-2.31"), ("2.33", "glibc-2.31"),
    ("2.39", "glibc-2.36"), ("2.43", "glibc-2.43pre"), ("2.50", "glibc-2.43pre"),
])  # fmt: skip
def test_a_version_between_two_is_taken_for_the_older(version: str | None, name: str) -> None:
    """But for those that have a tcache already, whose elder has none."""
    trace = pa.workload("fifo", count=10, live=3)
    info = dataclasses.replace(trace.info, glibc=version)
    assert allocator_of(pa.Trace(trace.columns, info)) == name
