"""``pyalloc replay``: replay a recorded trace and report."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Parameter

from pyalloc.cli.output import console, print_json, working
from pyalloc.errors import ArgumentError
from pyalloc.lab.examine import examine
from pyalloc.report.examination import print_report
from pyalloc.trace import read_trace
from pyalloc.workload.catalogue import trace_of


def settings(pairs: list[str] | None) -> dict[str, str] | None:
    """Return ``NAME=VALUE`` pairs as a mapping."""
    found = {}
    for pair in pairs or ():
        name, equals, value = pair.partition("=")
        if not (name and equals and value):
            message = f"a tunable is given as NAME=VALUE (got {pair!r})"
            raise ArgumentError(message)
        found[name] = value
    return found or None


def replay(
    trace: str,
    *,
    allocator: str | None = None,
    touch: Literal["none", "write", "recorded"] = "write",
    tunable: Annotated[list[str] | None, Parameter(negative="")] = None,
    format: str | None = None,  # noqa: A002
    sites: int = 10,
    strict: Annotated[bool, Parameter(negative="")] = False,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Replay a recorded trace on a simulated machine and report where the memory went.

    Parameters
    ----------
    trace
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
    with working("replaying ..."):
        found = examine(
            read_trace(trace, format) if format else trace_of(trace),
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
