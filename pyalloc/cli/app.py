"""The application: its commands, and the one place where errors become a line and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import version

from cyclopts import App, CycloptsError

from pyalloc.cli import allocators, article, convert, record, replay, run, verify
from pyalloc.cli.output import fail
from pyalloc.errors import PyallocError

BAD_INPUT = 2

app = App(
    name="pyalloc",
    help="A Linux memory machine you can script: malloc to OOM kill, exact and fast.",
    version=lambda: version("pyalloc"),
    help_format="plaintext",
    result_action="return_value",
)
app.command(run.run)
app.command(record.record)
app.command(replay.replay)
app.command(convert.convert)
app.command(allocators.allocators)
app.command(article.article)
app.command(verify.app)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    try:
        code = app(
            None if arguments is None else list(arguments),
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
