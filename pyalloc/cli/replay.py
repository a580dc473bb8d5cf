"""``pyalloc replay``: replay a recorded trace and report."""

from __future__ import annotations

from typing import Literal

from pyalloc.cli.options import AllocatorName, Flag, Format, Natural, Tunables, settings
from pyalloc.cli.output import console, print_json, working
from pyalloc.cli.subject import read
from pyalloc.lab.examine import examine
from pyalloc.report.examination import print_report


def replay(
    file: str,
    /,
    *,
    allocator: AllocatorName | None = None,
    touch: Literal["none", "write", "recorded"] = "write",
    tunable: Tunables | None = None,
    format: Format | None = None,  # noqa: A002
    sites: Natural = 10,
    strict: Flag = False,
    json: Flag = False,
) -> int:
    """Replay a recorded trace on a simulated machine and report where the memory went.

    Parameters
    ----------
    file
        A trace file of any format that "pyalloc convert" reads, or a workload by name.
    allocator
        Replay on this allocator (see "pyalloc allocators"); by default the recorded C library.
    touch
        What the program does to its memory: write every block, nothing, or as recorded.
    tunable
        An allocator setting, NAME=VALUE, by its glibc name; may be repeated.
    format
        The format of the file, if it cannot be found out.
    sites
        How many call sites to show.
    strict
        Tell what the C library does not notice, too: blocks used or freed after they were freed,
        accesses past their end, blocks never freed. The exit code is 1 if there are any.
    json
        Print JSON.
    """
    trace = read(file, format)
    with working("replaying ..."):
        found = examine(
            trace,
            allocator,
            touch=touch,
            tunables=settings(tunable),
            sites=sites,
            strict=strict,
        )
    if json:
        print_json(found.to_dict())
    else:
        print_report(console(), found)
    return 1 if strict and found.replay.errors else 0
