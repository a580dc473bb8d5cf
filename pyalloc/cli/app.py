"""The application: its commands, and the one place where errors become a line and an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Final, NamedTuple

from cyclopts import (
    App,
    CycloptsError,
    MissingArgumentError,
    Parameter,
    UnusedCliTokensError,
    ValidationError,
)

from pyalloc.cli.dashes import note_arguments
from pyalloc.cli.help import Formatter, page_text, told_default
from pyalloc.cli.output import console, discard_output, fail, naming_stdout, prepare_streams
from pyalloc.errors import PyallocError


class Verb(NamedTuple):
    """A command: what the list of commands says of it, and how it is called."""

    help: str
    usage: str


_OF_A_TRACE: Final = "[OPTIONS] FILE | -- COMMAND..."

VERBS: Final = {
    "run": Verb(
        "Record a command, replay its every allocation, and report where the memory went.",
        "[OPTIONS] -- COMMAND...",
    ),
    "record": Verb(
        "Record a command's calls of malloc and its kin.",
        "--output FILE [OPTIONS] -- COMMAND...",
    ),
    "replay": Verb("Replay a recorded trace on a simulated machine and report.", "[OPTIONS] FILE"),
    "compare": Verb(
        "Runs side by side: two recordings, or one under several settings.",
        "[OPTIONS] FILE... [-- COMMAND...]",
    ),
    "advise": Verb(
        "Which settings of the allocator would save memory or work, and what to set.",
        _OF_A_TRACE,
    ),
    "fit": Verb(
        "The smallest limit with which a program or a scenario survives, and who dies below.",
        "[OPTIONS] FILE | SCENARIO | -- COMMAND...",
    ),
    "blame": Verb(
        "Which call sites keep free memory from going back, and what moving them saves.",
        _OF_A_TRACE,
    ),
    "leaks": Verb(
        "Leak or fragmentation: what is never freed, by call site, and what grows.", _OF_A_TRACE
    ),
    "explain": Verb(
        "One call in words: which way the allocator went, what it cost.",
        "--at CALL [OPTIONS] FILE | -- COMMAND...",
    ),
    "report": Verb(
        "Write a page about a trace: over time, page by page, by call site.", _OF_A_TRACE
    ),
    "convert": Verb("Turn a trace of any format into any other.", "[OPTIONS] SOURCE TARGET"),
    "order": Verb("What a program would hold if it made its calls in another order.", _OF_A_TRACE),
    "sweep": Verb(
        "An experiment at every point of a plan, over any parameter.",
        "[OPTIONS] PROGRAM... [--PARAMETER VALUES]...",
    ),
    "workload": Verb("List the workloads, explain one, or write its trace.", "[OPTIONS] [NAME]"),
    "host": Verb(
        "This machine: what is left before which limit, who would be killed now and why.",
        "[OPTIONS]",
    ),
    "simulate": Verb(
        "Rehearse a machine: its containers and processes, and who dies, from a file.",
        "[OPTIONS] SCENARIO",
    ),
    "article": Verb("The figures of the article, printed and simulated.", "[OPTIONS]"),
    "verify": Verb("The model against the glibc and the kernel of this host.", ""),
    "allocators": Verb("List the allocators a trace can be replayed on.", "[OPTIONS]"),
}
"""The commands and what the help says of them: ``pyalloc/cli/VERB.py`` defines ``VERB``."""

app = App(
    name="pyalloc",
    help="A Linux memory machine you can script: malloc to OOM kill, exact and fast.",
    version=lambda: version("pyalloc"),
    help_format="plaintext",
    help_formatter=Formatter(),
    default_parameter=Parameter(show_default=told_default),
    result_action="return_value",
)
for _place, (_name, _verb) in enumerate(VERBS.items()):
    # by name, so that it is imported when it is used: a command pays for no other
    _usage = {"usage": f"Usage: pyalloc {_name} {_verb.usage}"} if _verb.usage else {}
    _where = f"pyalloc.cli.{_name}:{_name}"
    app.command(_where, name=_name, help=_verb.help, sort_key=_place, **_usage)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    note_arguments(words)
    prepare_streams()
    try:
        return _run(words)
    except CycloptsError as error:
        return fail(_said(error), hint=f"pyalloc {' '.join((*_chain(error), '--help'))}")
    except (PyallocError, OSError, UnicodeDecodeError) as error:
        return fail(_line(error))
    except KeyboardInterrupt:
        return 130


def _run(words: Sequence[str]) -> int:
    """Run a command and return its exit code; 0 if nobody wants to read its output any more."""
    try:
        _give_page_its_words(words)
        code = app(words, console=console(), exit_on_error=False, print_error=False)
        with naming_stdout():
            sys.stdout.flush()  # where nobody reads any more, it fails here and not at exit
    except BrokenPipeError:
        discard_output()
        return 0
    return code if isinstance(code, int) else 0


def _line(error: Exception) -> str:
    """Return what an error that is not the parser's says, in one line."""
    if isinstance(error, OSError) and error.strerror:
        where = (
            f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
        )
        return f"{where}{error.strerror}"
    text = f"not a text in UTF-8: {error}" if isinstance(error, UnicodeDecodeError) else str(error)
    return " ".join(text.split("\n"))


def _give_page_its_words(words: Sequence[str]) -> None:
    """Let a command's page say all that its docstring says; the list of commands has a line."""
    name = words[0] if words else ""
    if name in VERBS:
        page = app[name]
        page.help = page_text(page.default_command) if page.default_command else page.help


def _chain(error: CycloptsError) -> tuple[str, ...]:
    return tuple(error.command_chain or ())


def _said(error: CycloptsError) -> str:
    """Return what is wrong in one line, in our words where the parser's are its own affair."""
    command = " ".join(_chain(error))
    if isinstance(error, ValidationError) and error.exception_message:
        text = error.exception_message
        return f"{_option(error)} {text}" if text.startswith("must ") else text
    if isinstance(error, UnusedCliTokensError) and error.unused_tokens:
        return f"{command} takes no {error.unused_tokens[0]!r}".strip()
    if isinstance(error, MissingArgumentError) and error.argument is not None:
        return f"{command} needs {_option(error)}".strip()
    return " ".join(str(error).split())


def _option(error: CycloptsError) -> str:
    """Return the name of the option that an error is about, as it was written."""
    argument = error.argument
    if argument is None:
        return ""
    written = [token.keyword for token in argument.tokens if token.keyword]
    return written[-1] if written else str(argument.name)
