"""Scans under a memory limit miss as often here as on this host, where that does not go by chance.

Well below and well above the limit a scan misses nearly the same from run to run; around it, and
where it turns back, real runs differ by three times (``test_reclaim.py``).
"""

from __future__ import annotations

import os
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
from livescan import live_passes, sysctl
from reclaimruns import Scan

from pyalloc.host.compile import HostError

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
def test_a_scan_misses_as_often_as_on_this_host(
    kind: tuple[str, str, int, float, int], tmp_path: Path
) -> None:
    """Within 0.05 of an access: pages swapped in, or major faults where nothing is read."""
    mode, pattern, megabytes, factor, write = kind
    run: dict[str, Any] = {
        "mode": mode,
        "pattern": pattern,
        "limit_mb": megabytes,
        "ws_pages": int(megabytes * 256 * factor),
        "write": write,
        "swappiness": sysctl("swappiness"),
        "page_cluster": sysctl("page-cluster"),
        "rows": [None] * 4,
    }
    measure = "major" if mode in {"anon0", "fmapr"} else "swapped_in"
    try:
        here = mean(getattr(row, measure) for row in live_passes(run, tmp_path)[1:])
    except HostError as error:
        pytest.skip(str(error))
    mine = mean(getattr(row, measure) for row in Scan(run).passes()[1:])
    assert mine == pytest.approx(here, abs=0.05)
