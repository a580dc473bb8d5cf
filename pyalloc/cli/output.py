"""What every command prints with: a console, JSON, progress, a line of error."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


def console() -> Console:
    """Return the console of standard output, 100 columns wide where it is not a terminal."""
    out = Console(highlight=False)
    return out if out.is_terminal else Console(highlight=False, width=100)


def print_json(value: Any) -> None:  # noqa: ANN401
    """Print ``value`` as JSON."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def fail(message: str, hint: str = "") -> int:
    """Print one line of error and return the exit code of bad input."""
    sys.stderr.write(f"pyalloc: {message}{f' (see {hint})' if hint else ''}\n")
    return 2


@contextlib.contextmanager
def working(what: str) -> Iterator[None]:
    """Show on stderr that work goes on, if that is a terminal."""
    err = Console(stderr=True, highlight=False)
    if not err.is_terminal:
        yield
        return
    with err.status(what):
        yield


@contextlib.contextmanager
def telling() -> Iterator[Callable[[str], None]]:
    """Show on stderr what is being done, if that is a terminal; yields what to tell it with."""
    err = Console(stderr=True, highlight=False)
    if not err.is_terminal:
        yield lambda _: None
        return
    with err.status("") as status:
        yield lambda words: status.update(f"{words} ...")


@contextlib.contextmanager
def progressing() -> Iterator[Callable[[str, int, int], None]]:
    """Show a bar on stderr, if that is a terminal; yields what to tell: what, done, of how many."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    err = Console(stderr=True, highlight=False)
    bar = Progress(*columns, TimeRemainingColumn(), console=err, transient=True)
    bar.disable = not err.is_terminal
    with bar:
        task = bar.add_task("", total=None)

        def tell(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total or None)

        yield tell


@contextlib.contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """Let a child's output go to stderr, so that standard output is ours alone."""
    sys.stdout.flush()
    saved = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)
