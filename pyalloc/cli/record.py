"""``pyalloc record``: run a command and keep its trace."""

from __future__ import annotations

from typing import Literal

from pyalloc.cli.options import Flag, Output
from pyalloc.cli.output import console, print_json, stdout_to_stderr
from pyalloc.cli.run import Command
from pyalloc.cli.subject import going_on
from pyalloc.report.listing import recordings
from pyalloc.trace.record import record as record_command


def record(
    *command: Command,
    output: Output,
    children: Literal["all", "none"] = "all",
    force: Flag = False,
    json: Flag = False,
) -> int:
    """Run a command and take down every call to malloc and its family.

    Parameters
    ----------
    command
        The command and its arguments, after --.
    output
        The file for the trace; child processes get files beside it.
    children
        "none" records only the command's own process.
    force
        Overwrite files that exist.
    json
        Print what was recorded as JSON; the command's own output goes to stderr.
    """
    if json:
        with stdout_to_stderr():
            found = record_command(command, output, children=children, force=force)
        print_json(
            [
                {
                    "path": str(r.path),
                    "pid": r.pid,
                    "parent_pid": r.parent_pid,
                    "command": list(r.command),
                    "calls": r.calls,
                    "main": r.main,
                    "exit_code": r.exit_code,
                    "signal": r.signal,
                    "truncated": r.truncated,
                    "running": r.running,
                    "warnings": list(r.warnings),
                }
                for r in found
            ]
        )
        return 0
    found = record_command(command, output, children=children, force=force)
    out = console()
    out.print(recordings(found))
    for recording in found:
        for warning in recording.warnings:
            out.print(f"note: {recording.path}: {warning}", style="yellow", markup=False)
    if still := going_on(found):
        out.print(f"note: {still}", style="yellow", markup=False)
    return 0
