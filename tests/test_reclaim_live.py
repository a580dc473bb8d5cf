"""Scans under a memory limit miss as often here as on this host, where that does not go by chance.

Well below and well above the limit a scan misses nearly the same from run to run; around it, and
where it turns back, real runs differ by three times (``test_reclaim.py``).
"""

from __future__ import annotations

import os

import pytest

from pyalloc.host.compile import HostError
from pyalloc.lab.verify.reclaim import verify_reclaim
from pyalloc.workload.scans import Choices

STEADY = [
    # mode, pattern, MB of the limit, working set / limit, write
    ("anon", "seq", 24, 0.9, 1),
    ("anon", "seq", 24, 2.0, 1),
    ("anon", "seq", 40, 2.0, 0),
    ("anon", "rand", 20, 1.6, 1),
    ("anon", "rand", 36, 2.0, 0),
    ("anon", "zipf", 28, 1.5, 1),
    ("anon", "hotcold", 24, 2.0, 1),
    ("anon0", "rand", 16, 1.5, 1),
    ("shm", "seq", 24, 2.0, 1),
    ("shm", "rand", 32, 1.5, 1),
    ("fmapr", "rand", 32, 1.5, 0),
    ("fmapr", "seq", 24, 1.3, 0),
    ("fmapr", "rand", 32, 1.5, 1),
    ("fmapr", "seq", 32, 1.5, 1),
]


@pytest.mark.slow
@pytest.mark.skipif(not os.uname().release.startswith("6.18"), reason="the rules are Linux 6.18's")
@pytest.mark.parametrize("kind", STEADY, ids=lambda kind: "-".join(map(str, kind)))
def test_a_scan_misses_as_often_as_on_this_host(kind: tuple[str, str, int, float, int]) -> None:
    """Within 0.05 of an access: pages swapped in, or major faults where nothing is read."""
    choices = Choices(*((value,) for value in (*kind, 3, 60)))
    try:
        verdict = verify_reclaim(1, repeats=1, passes=4, seed=1, choices=choices)
    except HostError as error:
        pytest.skip(str(error))
    assert verdict.agrees, verdict.to_dict()
