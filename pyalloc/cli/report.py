"""``pyalloc report``: one page about a trace, to look at and to keep."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from pyalloc.cli.output import console, working
from pyalloc.cli.replay import settings
from pyalloc.errors import ArgumentError
from pyalloc.lab.examine import examine
from pyalloc.report.page import render_page
from pyalloc.report.perfetto import perfetto_json
from pyalloc.trace import read_trace

_WRITERS = {"html": render_page, "perfetto": perfetto_json}
_SUFFIX = {"html": ".html", "perfetto": ".json"}


def report(
    trace: Path,
    *,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    to: Literal["html", "perfetto"] = "html",
    allocator: str | None = None,
    touch: Literal["none", "write", "recorded"] = "write",
    tunable: Annotated[list[str] | None, Parameter(negative="")] = None,
    sites: int = 40,
    force: Annotated[bool, Parameter(name=["--force", "-f"], negative="")] = False,
) -> int:
    """Replay a recorded trace and write a page about it: over time, page by page, by call site.

    Parameters
    ----------
    trace
        A trace file of any format that "pyalloc convert" reads.
    output
        The file to write; by default beside the trace.
    to
        html: one page that needs nothing else. perfetto: counter tracks for ui.perfetto.dev.
    allocator
        Replay on this allocator (see "pyalloc allocators"); by default the recorded C library.
    touch
        What the program does to its memory: write every block, nothing, or as recorded.
    tunable
        An allocator setting, NAME=VALUE, by its glibc name; may be repeated.
    sites
        How many call sites to show.
    force
        Write over a file that is there.
    """
    target = output or trace.with_suffix(_SUFFIX[to])
    if target.exists() and not force:
        message = f"{target} is there already; choose another name with -o, or --force"
        raise ArgumentError(message)
    with working("replaying ..."):
        found = examine(
            read_trace(trace), allocator, touch=touch, tunables=settings(tunable), sites=sites
        )
        target.write_text(_WRITERS[to](found), encoding="utf-8")
    console().print(f"wrote {target}", markup=False, soft_wrap=True)
    return 0
