"""What a command is about: a trace file, a workload by name, or a command to record first.

``pyalloc advise FILE`` and ``pyalloc advise -- CMD...`` are told apart by the ``--``.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import numpy as np
from cyclopts import Parameter
from rich.console import Console

from pyalloc.cli.dashes import split
from pyalloc.cli.output import stdout_to_stderr, working
from pyalloc.trace import Trace, read_trace
from pyalloc.trace.record import Recording
from pyalloc.trace.record import record as record_command
from pyalloc.workload.catalogue import trace_of

Words = Annotated[
    str,
    Parameter(
        help="A trace FILE (or a workload's name); or, after --, a command to record.",
        allow_leading_hyphen=True,
        negative="",
        name="FILE|-- CMD",
    ),
]

_MUCH: Final = 2


@dataclass(frozen=True, slots=True)
class Subject:
    """A trace, the command that it is of (empty if that is not known), and what to say of it."""

    trace: Trace
    command: tuple[str, ...]
    notes: tuple[str, ...] = ()


@contextlib.contextmanager
def subject(
    words: Sequence[str],
    *,
    format: str | None = None,  # noqa: A002
    output: Path | None = None,
    quiet: bool = False,
    again: int = 0,
) -> Iterator[Subject]:
    """Yield what ``words`` are about, recording the command if no file is given.

    ``output`` keeps the recording; ``quiet`` keeps the command's output away from ours.  A program
    of several threads is recorded ``again`` so many times, and the run with the median peak taken:
    how its threads overlap is chance.
    """
    file, command = split(words)
    if file is not None:
        trace = read(file, format)
        yield Subject(trace, command or trace.info.command, tuple(_of_another_malloc(trace)))
        return
    with tempfile.TemporaryDirectory(prefix="pyalloc-") as folder:
        target = output or Path(folder) / "trace.parquet"
        with stdout_to_stderr() if quiet else contextlib.nullcontext():
            found = record_command(command, target)
            main = next((r for r in found if r.main), found[0])
            with working("reading the recording ..."):
                trace = main.trace()
            notes = list(_notes(main, found))
            if again and count_threads(trace) > 1:
                trace = _median(trace, main.path, command, again)
                notes.append(f"threads overlap by chance: the median of {again + 1} recordings")
        yield Subject(trace, command, tuple(notes))


def count_threads(trace: Trace) -> int:
    """Return how many threads make the calls."""
    return int(np.unique(trace.thread).size)


def _median(first: Trace, kept: Path, command: Sequence[str], again: int) -> Trace:
    """Record ``again`` and return the trace with the median peak, which is kept, too."""
    with tempfile.TemporaryDirectory(prefix="pyalloc-") as folder:
        others = [
            next(r for r in record_command(command, Path(folder) / f"{i}.parquet") if r.main)
            for i in range(again)
        ]
        traces = [(first, kept), *((r.trace(), r.path) for r in others)]
        traces.sort(key=lambda pair: _measured_peak(pair[0]))
        trace, path = traces[len(traces) // 2]
        if path != kept:
            shutil.copyfile(path, kept)
    return trace


def _measured_peak(trace: Trace) -> int:
    measured = trace.info.measured
    return (measured.program_peak or 0) if measured else 0


def read(file: str, format: str | None = None) -> Trace:  # noqa: A002
    """Return the trace in a file (of a format), or of a workload."""
    with working("reading ..."):
        return read_trace(file, format) if format else trace_of(file)


def _of_another_malloc(trace: Trace) -> Iterator[str]:
    file = trace.info.foreign_malloc
    if file is not None:
        yield f"malloc was that of {file}: what follows is what glibc would make of its calls"


def going_on(found: Sequence[Recording]) -> str | None:
    """Say which processes outlive the command; only what they did until its end is known."""
    pids = sorted({r.pid for r in found if r.running})
    if not pids:
        return None
    which = ("process " if len(pids) == 1 else "processes ") + ", ".join(map(str, pids))
    return f"still running when the command had ended, and not recorded from then on: {which}"


def end_of(main: Recording) -> str | None:
    """Say how the command ended, if not well."""
    if main.signal is not None:
        try:
            name = signal.Signals(main.signal).name
        except ValueError:
            name = str(main.signal)
        return f"the command was ended by signal {name}"
    return f"the command ended with exit code {main.exit_code}" if main.exit_code else None


def _notes(main: Recording, found: Sequence[Recording]) -> Iterator[str]:
    yield from main.warnings
    if end := end_of(main):
        yield end
    if main.truncated:
        yield f"the recording is cut short: {main.truncated}"
    if still := going_on(found):
        yield still
    others = [r for r in found if r is not main]
    if others:
        busiest = max(others, key=lambda r: r.calls)
        if busiest.calls > _MUCH * main.calls:
            yield (
                f"process {busiest.pid} ({' '.join(busiest.command)}) made {busiest.calls:,} calls,"
                f" this one {main.calls:,}: record with -o and give its file to look at it"
            )


def print_notes(out: Console, about: Subject) -> None:
    """Print what is to be said of the recording."""
    for note in about.notes:
        out.print(f"note: {note}", style="yellow", markup=False)
