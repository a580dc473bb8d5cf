"""The application: its commands, and the one place where errors become a line and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import version

from cyclopts import App, CycloptsError

from pyalloc.cli.dashes import note_arguments
from pyalloc.cli.output import fail
from pyalloc.errors import PyallocError

VERBS = {
    "run": "Record a command, replay its every allocation, and report where the memory went.",
    "record": "Record a command's calls of malloc and its kin.",
    "replay": "Replay a recorded trace on a simulated machine and report.",
    "compare": "Runs side by side: two recordings, or one under several settings.",
    "advise": "Which settings of the allocator would save memory or work, and what to set.",
    "fit": "The smallest limit with which a program or a scenario survives, and who dies below.",
    "blame": "Which call sites keep free memory from going back, and what moving them saves.",
    "leaks": "Leak or fragmentation: what is never freed, by call site, and what grows.",
    "explain": "One call in words: which way the allocator went, what it cost.",
    "report": "Write a page about a trace: over time, page by page, by call site.",
    "convert": "Turn a trace of any format into any other.",
    "order": "What a program would hold if it made its calls in another order.",
    "sweep": "An experiment at every point of a plan, over any parameter.",
    "workload": "List the workloads, explain one, or write its trace.",
    "host": "This machine: what is left before which limit, who would be killed now and why.",
    "simulate": "Rehearse a machine: its containers and processes, and who dies, from a file.",
    "article": "The figures of the article, printed and simulated.",
    "verify": "The model against the glibc and the kernel of this host.",
    "allocators": "List the allocators a trace can be replayed on.",
}
"""The commands and what the help says of them: ``pyalloc/cli/VERB.py`` defines ``VERB``."""

app = App(
    name="pyalloc",
    help="A Linux memory machine you can script: malloc to OOM kill, exact and fast.",
    version=lambda: version("pyalloc"),
    help_format="plaintext",
    result_action="return_value",
)
for _place, (_verb, _help) in enumerate(VERBS.items()):
    # by name, so that it is imported when it is used: a command pays for no other
    app.command(f"pyalloc.cli.{_verb}:{_verb}", name=_verb, help=_help, sort_key=_place)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    note_arguments(words)
    try:
        code = app(
            words,
            exit_on_error=False,
            print_error=False,
        )
    except CycloptsError as error:
        return fail(f"{error}".replace("\n", " "), hint="pyalloc --help")
    except PyallocError as error:
        return fail(str(error))
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except OSError as error:
        return fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except KeyboardInterrupt:
        return 130
    return code if isinstance(code, int) else 0
