"""``pyalloc leaks``: what is never freed, and whether it grows."""

from __future__ import annotations

from pyalloc.cli.options import AllocatorName, Flag, Format, Natural, Output
from pyalloc.cli.output import console, print_json, working
from pyalloc.cli.subject import Words, print_notes, subject
from pyalloc.lab.leaks import leaks as find_leaks
from pyalloc.report.leaks import render, verdict


def leaks(
    *words: Words,
    sites: Natural = 15,
    allocator: AllocatorName | None = None,
    output: Output | None = None,
    format: Format | None = None,  # noqa: A002
    json: Flag = False,
) -> int:
    """Tell a leak from fragmentation: what is never freed, by call site, and what grows.

    pyalloc leaks FILE, or pyalloc leaks -- CMD... The first line is the verdict.

    Parameters
    ----------
    sites
        How many call sites to list.
    allocator
        Replay on this allocator; by default the recorded C library.
    output
        Keep the recording in this file.
    format
        The format of the file, if it cannot be found out.
    json
        Print JSON; the command's own output goes to stderr.
    """
    with subject(words, format=format, output=output, quiet=json) as about:
        with working("replaying ..."):
            found = find_leaks(about.trace, allocator=allocator, listed=sites)
        if json:
            print_json({"verdict": verdict(found), **found.to_dict()})
            return 0
        out = console()
        print_notes(out, about)
        out.print(render(found))
    return 0
