"""``pyalloc explain``: one call of a trace in words."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Parameter

from pyalloc.cli.options import AllocatorName, Count, Flag, Format, Natural, Output
from pyalloc.cli.output import console, print_json, working
from pyalloc.cli.subject import Words, print_notes, subject
from pyalloc.errors import ArgumentError
from pyalloc.lab.explain import explain_calls


def explain(
    *words: Words,
    at: Annotated[Natural, Parameter(name=["--at", "--call"])],
    count: Count = 1,
    allocator: AllocatorName | None = None,
    touch: Literal["none", "write", "recorded"] | None = None,
    output: Output | None = None,
    format: Format | None = None,  # noqa: A002
    json: Flag = False,
) -> int:
    """Explain one call: which way the allocator went, what it cost, how the heap lies afterwards.

    pyalloc explain FILE --at CALL, or pyalloc explain --at CALL -- CMD...

    Parameters
    ----------
    at
        The call's number, from 0.
    count
        Explain so many calls from there on.
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
    if count < 1:
        message = f"count must be at least 1 (got {count})"
        raise ArgumentError(message)
    with subject(words, format=format, output=output, quiet=json) as about:
        with working("replaying ..."):
            found = explain_calls(about.trace, at, count, allocator=allocator, touch=touch)
        if json:
            print_json([one.to_dict() for one in found])
            return 0
        out = console()
        print_notes(out, about)
        for number, one in enumerate(found):
            if number:
                out.print()
            out.print(str(one), markup=False)
    return 0
