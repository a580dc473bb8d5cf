"""``pyalloc run``: record a command, replay it, report."""

from __future__ import annotations

import contextlib
import shlex
import tempfile
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from pyalloc.cli.options import AllocatorName, Flag, Natural, Output
from pyalloc.cli.output import console, print_json, stdout_to_stderr, working
from pyalloc.cli.subject import end_of, going_on
from pyalloc.errors import PyallocError
from pyalloc.lab.examine import Examination, examine
from pyalloc.report.examination import print_report
from pyalloc.report.listing import one_line, table_of
from pyalloc.trace.record import Recording
from pyalloc.trace.record import record as record_command
from pyalloc.units import format_size

Command = Annotated[
    str, Parameter(help="The command and its arguments.", allow_leading_hyphen=True, negative="")
]


def run(
    *command: Command,
    allocator: AllocatorName | None = None,
    output: Output | None = None,
    sites: Natural = 10,
    json: Flag = False,
) -> int:
    """Record a command, replay its every allocation, and report where the memory went.

    Parameters
    ----------
    command
        The command and its arguments, after --.
    allocator
        Replay on this allocator (see "pyalloc allocators"); by default the recorded C library.
    output
        Keep the trace in this file.
    sites
        How many call sites to show.
    json
        Print JSON; the command's own output goes to stderr.
    """
    with tempfile.TemporaryDirectory(prefix="pyalloc-") as folder:
        Path(folder).chmod(0o711)  # a process that changes its user goes on recording
        target = output or Path(folder) / "trace.parquet"
        with stdout_to_stderr() if json else contextlib.nullcontext():
            found = record_command(command, target)
        _report(found, allocator, sites, json=json)
    return 0


def _report(found: list[Recording], allocator: str | None, sites: int, *, json: bool) -> None:
    main = next((r for r in found if r.main), found[0])
    others = sorted((r for r in found if r is not main), key=lambda r: -r.calls)
    looked_at = others if json else others[:_MOST_LISTED]
    with working("replaying ..."):
        first = examine(main.trace(), allocator, sites=sites)
        rest = [(r, _try(r, allocator)) for r in looked_at]
    if json:
        print_json({**first.to_dict(), "processes": [_brief(r, e) for r, e in rest]})
        return
    out = console()
    for note in filter(None, (end_of(main), going_on(found))):
        out.print(f"note: {note}", style="yellow", markup=False)
    is_foreign = first.trace.info.foreign_malloc is not None
    if not (is_foreign and main.calls):  # then the report says so itself
        for warning in main.warnings:
            out.print(f"note: {warning}", style="yellow", markup=False)
    if main.calls or not is_foreign:
        print_report(out, first)
    if rest:
        out.print()
        out.print(_others(rest, len(others)))


def _try(recording: Recording, allocator: str | None) -> Examination | None:
    try:
        return examine(recording.trace(), allocator, sites=0, samples=100)
    except PyallocError:
        return None


def _brief(recording: Recording, found: Examination | None) -> dict[str, Any]:
    agreement = found.agreement if found else None
    return {
        "pid": recording.pid,
        "command": list(recording.command),
        "calls": recording.calls,
        "peak_requested": found.replay.summary.peak_requested if found else None,
        "peak_held": found.replay.summary.peak_held if found else None,
        "addresses_equal": agreement.complete if agreement else None,
    }


_MOST_LISTED = 12


def _others(rest: list[tuple[Recording, Examination | None]], count: int) -> Any:  # noqa: ANN401
    rows = []
    for recording, found in rest:
        summary = found.replay.summary if found else None
        agreement = found.agreement if found else None
        rows.append(
            (
                str(recording.pid),
                f"{recording.calls:,}",
                format_size(summary.peak_requested) if summary else "",
                format_size(summary.peak_held) if summary else "",
                "" if agreement is None else "yes" if agreement.complete else "no",
                one_line(shlex.join(recording.command)),
            )
        )
    if count > len(rest):
        rows.append(("", "", "", "", "", f"... and {count - len(rest)} with fewer calls"))
    names = ("pid", "calls", "peak asked", "peak held", "addresses equal", "command")
    return table_of(names, rows, cut=True)
