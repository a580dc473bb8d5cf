"""How long does a day take?  Ten processes, each at one event a second, for 24 simulated hours."""

from __future__ import annotations

from typing import TYPE_CHECKING

from _figures import Figure, Figures

import pyalloc as pa

if TYPE_CHECKING:
    from collections.abc import Callable

_MINUTE = 60.0

DAY = {
    "duration": "1d",
    "machine": {"ram": "4G", "swap": "1G", "kernel": "6.18"},
    "cgroup": [{"name": "web", "memory_max": "1G"}, {"name": "jobs", "memory_max": "512M"}],
    "file": [{"name": "data", "size": "2G"}],
    "process": [
        {
            "name": "web",
            "program": "server:requests=2,blocks=4,kept=0.01,lifetime=1h",
            "copies": 4,
            "cgroup": "web",
        },
        {"name": "db", "program": "database:buffers=256M,file=data,reads=4,writes=1"},
        {"name": "cache", "program": "hold:size=200M,hot=0.005"},
        {
            "name": "leak",
            "program": "leak:size=4K,every=1s",
            "restart": "always",
            "restart_limit": 100,
        },
        {
            "name": "job",
            "program": "batch:size=60M,block=1M,grow=1min,time=1s,pause=1s",
            "copies": 2,
            "cgroup": "jobs",
        },
        {"name": "scan", "program": "scan:size=64M,part=0.05"},
    ],
}
"""Ten processes that wake up once a second, as services, jobs and leaks do."""


def test_a_day_of_ten_processes(
    measure: Callable[..., float | None], benchmark: object, figures: Figures
) -> None:
    """A day of a ten-process scenario at one event a second takes less than a minute."""
    hours = {"duration": "10min"} if getattr(benchmark, "disabled", False) else {}
    found: list[pa.Simulation] = []
    seconds = measure(lambda: found.append(pa.simulate({**DAY, **hours})), rounds=1)
    assert len(found[0].outcomes) == 10
    assert all(outcome.how == "running" for outcome in found[0].outcomes)
    if seconds is not None:
        figure = Figure("a day of ten processes", seconds, "s", _MINUTE, at_most=True)
        figures.add(benchmark, figure)  # type: ignore[arg-type]  # the fixture's own type
