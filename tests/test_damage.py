"""Programs that damage their heap, far beyond what the library notices."""

from __future__ import annotations

import pytest

import pyalloc as pa
from pyalloc.workload.storm import StormSpec

FOLLOWS_A_LINK = StormSpec(count=3000, live=10, seed=54, word=4, misuse=1)
COPIES_A_SIZE = StormSpec(order="fifo", sizes="medium", count=1500, live=100, seed=17, misuse=40)


@pytest.mark.parametrize("spec", [FOLLOWS_A_LINK, COPIES_A_SIZE])
def test_a_damaged_heap_ends_the_program_and_not_the_model(spec: StormSpec) -> None:
    """2.3.3 follows links and copies as many bytes as stand there, whatever they are."""
    arch = "i386" if spec.word == 4 else "x86_64"
    (error,) = pa.replay(spec.make(), "glibc-2.3.3", arch=arch, samples=0).errors
    assert error.kind == "fault"
