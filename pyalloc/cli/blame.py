"""``pyalloc blame``: which call sites keep free memory from going back."""

from __future__ import annotations

from typing import Final, Literal

from pyalloc.cli.options import AllocatorName, Flag, Format, Natural, Output
from pyalloc.cli.output import console, print_json, working
from pyalloc.cli.subject import Words, print_notes, subject
from pyalloc.errors import ArgumentError
from pyalloc.lab.blame import At
from pyalloc.lab.blame import blame as blame_trace
from pyalloc.report.blame import render

_MOMENTS: Final[tuple[Literal["waste", "peak", "end"], ...]] = ("waste", "peak", "end")


def blame(
    *words: Words,
    at: str = "waste",
    sites: Natural = 12,
    tries: Natural | None = None,
    allocator: AllocatorName | None = None,
    touch: Literal["none", "write", "recorded"] | None = None,
    output: Output | None = None,
    format: Format | None = None,  # noqa: A002
    json: Flag = False,
) -> int:
    """Say which call sites keep free memory from going back, and what moving them would save.

    pyalloc blame FILE, or pyalloc blame -- CMD... The saving is tried by replay, not estimated.

    Parameters
    ----------
    at
        When: "waste" (most memory lies free), "peak" of the heap, "end", or a number of calls.
    sites
        How many call sites to list.
    tries
        How many of the worst to try elsewhere; by default 3, of very many calls 2.
    allocator
        Replay on this allocator; by default the recorded C library.
    touch
        What the program does to its memory: write every block, nothing, or as recorded.
    output
        Keep the recording in this file.
    format
        The format of the file, if it cannot be found out.
    json
        Print JSON; the command's own output goes to stderr.
    """
    moment = moment_of(at)
    with subject(words, format=format, output=output, quiet=json) as about:
        with working("replaying ..."):
            found = blame_trace(
                about.trace,
                moment,
                allocator=allocator,
                touch=touch,
                tried=tries,
                listed=sites,
            )
        if json:
            print_json(found.to_dict())
            return 0
        out = console()
        print_notes(out, about)
        out.print(render(found))
    return 0


def moment_of(text: str) -> At:
    """Return a moment as it is written: by name, or a number of calls."""
    for name in _MOMENTS:
        if text == name:
            return name
    number = text.replace(",", "").replace("_", "")
    if not number.isdecimal():
        message = f"a moment is {', '.join(_MOMENTS)} or a number of calls (got {text!r})"
        raise ArgumentError(message)
    return int(number)
