"""``pyalloc verify malloc``: the model against the glibc of this host."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from cyclopts import Parameter

from pyalloc.cli.output import console, print_json, progressing
from pyalloc.cli.replay import settings
from pyalloc.lab.verify.malloc import MallocVerdict, Setting, random_streams, verify_malloc
from pyalloc.report.verify import malloc_lines

Word = Literal[64, 32]


def malloc(
    *,
    streams: int = 100,
    calls: int = 10_000,
    word: Annotated[list[Word] | None, Parameter(negative="")] = None,
    seed: int = 0,
    tunable: Annotated[list[str] | None, Parameter(negative="")] = None,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Run random streams of calls on the real C library and on the model, and compare each call.

    Parameters
    ----------
    streams
        How many streams, for each word size.
    calls
        How many calls each has.
    word
        64 or 32 bits; may be repeated; by default 64.
    seed
        Another seed, other streams.
    tunable
        A setting of both libraries, NAME=VALUE, by its glibc name; may be repeated.
    json
        Print JSON.
    """
    tunables = {name: int(value, 0) for name, value in (settings(tunable) or {}).items()}
    found = [
        check(Setting(bits, tunables), streams=streams, calls=calls, seed=seed)
        for bits in word or [64]
    ]
    if json:
        print_json({"malloc": [verdict.to_dict() for verdict in found]})
    else:
        for verdict in found:
            show(verdict)
    return 0 if all(verdict.agrees for verdict in found) else 1


def check(
    setting: Setting | None = None, *, streams: int = 100, calls: int = 10_000, seed: int = 0
) -> MallocVerdict:
    """Verify one word size, with a progress bar."""
    specs = random_streams(streams, calls=calls, seed=seed)
    with progressing() as progress:
        return verify_malloc(specs, setting, total=streams, progress=progress)


def show(verdict: Any) -> None:  # noqa: ANN401 - a verdict of check()
    """Print a verdict."""
    out = console()
    for line in malloc_lines(verdict):
        out.print(line, soft_wrap=True)
