"""``pyalloc report``: one page about a trace, to look at and to keep."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final, Literal

from cyclopts import Parameter

from pyalloc.cli.dashes import split
from pyalloc.cli.options import (
    AllocatorName,
    Flag,
    Format,
    Natural,
    Output,
    Tunables,
    check_free,
    settings,
)
from pyalloc.cli.output import console, print_json, working
from pyalloc.cli.subject import Words, print_notes, subject
from pyalloc.errors import ArgumentError
from pyalloc.lab.examine import examine
from pyalloc.report.page import SAMPLES, render_page
from pyalloc.report.perfetto import perfetto_json
from pyalloc.trace.files import replacing

_WRITERS: Final = {"html": render_page, "perfetto": perfetto_json}
_SUFFIX: Final = {"html": ".html", "perfetto": ".json"}


def report(
    *words: Words,
    output: Output | None = None,
    to: Literal["html", "perfetto"] = "html",
    allocator: AllocatorName | None = None,
    touch: Literal["none", "write", "recorded"] = "write",
    tunable: Tunables | None = None,
    sites: Natural = 40,
    format: Format | None = None,  # noqa: A002
    force: Annotated[bool, Parameter(name=["--force", "-f"], negative="")] = False,
    json: Flag = False,
) -> int:
    """Replay a trace and write a page about it: over time, page by page, by call site.

    pyalloc report FILE, or pyalloc report -- CMD...

    Parameters
    ----------
    output
        The page to write; by default beside the trace, or in this folder.
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
    format
        The format of the file, if it cannot be found out.
    force
        Write over a file that is there.
    json
        Print what was written as JSON; the command's own output goes to stderr.
    """
    target = output or _page_of(words, _SUFFIX[to])
    check_free(target, force=force, how="--force")
    with subject(words, format=format, quiet=json) as about:
        with working("replaying ..."):
            found = examine(
                about.trace,
                allocator,
                touch=touch,
                tunables=settings(tunable),
                sites=sites,
                samples=SAMPLES,
            )
            page = _WRITERS[to](found).encode()
            with replacing(target, overwrite=force) as file:
                file.write(page)
        if json:
            print_json({"path": str(target), "calls": len(about.trace), "bytes": len(page)})
            return 0
        out = console()
        print_notes(out, about)
    out.print(f"wrote {target}", markup=False, soft_wrap=True)
    return 0


def _page_of(words: Sequence[str], suffix: str) -> Path:
    """Return the page's name if none is given: beside a trace, in this folder for the rest."""
    file, command = split(words)
    if file is None:
        return Path(Path(command[0]).name + suffix)
    if not Path(file).exists():
        return Path(file.partition(":")[0] + suffix)
    page = Path(file).with_suffix(suffix)
    if page == Path(file):
        message = f"{file} is the trace itself: give the page another name with -o"
        raise ArgumentError(message)
    return page
