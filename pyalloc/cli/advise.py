"""``pyalloc advise``: what other settings of the allocator would make of a program."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal

from cyclopts import Parameter

from pyalloc.cli.options import (
    AllocatorName,
    Count,
    Flag,
    Format,
    Output,
    Seconds,
    Settings,
    Share,
    Target,
)
from pyalloc.cli.output import console, print_json, progressing, working
from pyalloc.cli.subject import Subject, Words, print_notes, subject
from pyalloc.errors import ArgumentError
from pyalloc.lab.advise import Advice
from pyalloc.lab.advise import advise as advise_trace
from pyalloc.lab.advise.verify import Verification
from pyalloc.lab.advise.verify import verify as verify_advice
from pyalloc.report.advice import plot as plot_advice
from pyalloc.report.advice import render, verification
from pyalloc.trace.files import replacing

_MORE_RECORDINGS: Final = 2


def advise(
    *words: Words,
    setting: Settings | None = None,
    memory: Literal["peak", "end"] = "peak",
    slower: Share = 0.1,
    allocator: AllocatorName | None = None,
    touch: Literal["none", "write", "recorded"] | None = None,
    verify: Flag = False,
    runs: Count = 3,
    timeout: Seconds = 600,
    plot: Target | None = None,
    output: Output | None = None,
    format: Format | None = None,  # noqa: A002
    every: Annotated[bool, Parameter(name=["--all"], negative="")] = False,
    json: Flag = False,
) -> int:
    """Try the settings of the allocator on a program's own calls and say which one to set.

    pyalloc advise FILE, or pyalloc advise -- CMD...: each knob alone, the useful ones together.

    Parameters
    ----------
    setting
        Try this in place of the search: "mmap_threshold=64K arena_max=1"; may be repeated.
    memory
        What is to be small: resident memory at its peak or at the end.
    slower
        Work that may be added, as a part of the time the program took.
    allocator
        What stands for the default; by default the recorded C library.
    touch
        What the program does to its memory: write every block, nothing, or as recorded.
    verify
        Run the program as it is, under the default and under the best setting, and compare. A
        program of several threads is recorded three times, and the median taken.
    runs
        Real runs of each with --verify.
    timeout
        Seconds for each of them.
    plot
        Write memory against work as a picture (SVG).
    output
        Keep the recording in this file.
    format
        The format of the file, if it cannot be found out.
    every
        List every trial.
    json
        Print JSON; the command's own output goes to stderr.
    """
    _check(plot)
    again = _MORE_RECORDINGS if verify else 0
    with subject(words, format=format, output=output, quiet=json, again=again) as about:
        with progressing() as tell:
            found = advise_trace(
                about.trace,
                setting,
                allocator=allocator,
                memory=memory,
                slower=slower,
                touch=touch,
                tell=tell,
            )
        checked = _verified(found, about, runs, timeout) if verify else None
    if plot is not None:
        with replacing(plot, overwrite=True) as file:
            file.write(plot_advice(found).encode())
    if json:
        print_json(found.to_dict() | ({"verification": checked.to_dict()} if checked else {}))
    else:
        _print(found, about, checked, every=every)
    return 1 if checked and not checked.holds else 0


def _check(plot: Path | None) -> None:
    if plot is not None and plot.suffix != ".svg":
        message = f"a plot is written as SVG: give it a name that ends with .svg (got {plot})"
        raise ArgumentError(message)


def _verified(found: Advice, about: Subject, runs: int, timeout: float) -> Verification:
    if not about.command:
        message = "which command is to be run? Give it behind --"
        raise ArgumentError(message)
    with working("running the program ..."):
        return verify_advice(found, about.command, runs=runs, timeout=timeout)


def _print(found: Advice, about: Subject, checked: Verification | None, *, every: bool) -> None:
    out = console()
    print_notes(out, about)
    out.print(render(found, every=every))
    if checked is not None:
        out.print(verification(checked))
