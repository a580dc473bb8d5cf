"""What every command prints with: a console, JSON, progress, a line of error."""

from __future__ import annotations

import codecs
import contextlib
import io
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from typing import IO, Any, Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_WIDTH: Final = 100


@contextlib.contextmanager
def naming_stdout() -> Iterator[None]:
    """Let an error of writing to standard output say that it is one: a full disk behind a >."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        discard_output()
        raise OSError(error.errno, error.strerror, "standard output") from error


def discard_output() -> None:
    """Let what is kept, and all that follows, go nowhere: else it fails once more at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Piped:
    """Standard output where it is no terminal: without the blanks that fill a table's lines."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def write(self, text: str) -> int:
        """Write a text of whole lines."""
        with naming_stdout():
            self._file.write(re.sub(r" +(?=\n)", "", text))
        return len(text)

    def flush(self) -> None:
        """Write what is kept."""
        with naming_stdout():
            self._file.flush()

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - all else is the file's
        return getattr(self._file, name)


class _Console(Console):
    """A console that leaves it to :func:`pyalloc.cli.app.main` what a closed pipe means."""

    def on_broken_pipe(self) -> None:
        """Raise what was raised."""
        raise  # noqa: PLE0704 - rich calls this where it handles the error


_NEAR: Final = {"…": "...", "±": "+-", "²": "^2", "\u00d7": "x", "µ": "u", "─": "-", "│": "|"}


def _nearest_characters(error: UnicodeError) -> tuple[str, int]:
    """Return what to write in place of characters that an encoding lacks: as near as can be."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_NEAR.get(c, "?") for c in error.object[error.start : error.end]), error.end


def prepare_streams() -> None:
    """Let nothing stop the output: a stream that is closed, a character its encoding lacks.

    A descriptor that is closed would be given to the next file that is opened, a recording, say.
    """
    for number, name in ((0, "stdin"), (1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            setattr(sys, name, os.fdopen(number, "w" if number else "r", encoding="utf-8"))
    codecs.register_error("pyalloc.nearest", _nearest_characters)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="pyalloc.nearest")


def console() -> Console:
    """Return the console of standard output, 100 columns wide where it is not a terminal."""
    out = _Console(highlight=False)
    if out.is_terminal:
        return out
    return _Console(highlight=False, width=_WIDTH, file=_Piped(sys.stdout))  # type: ignore[arg-type]  # it is one in all but name


def print_json(value: Any) -> None:  # noqa: ANN401
    """Print ``value`` as JSON."""
    with naming_stdout():
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
