"""``pyalloc verify malloc``: the model against the glibc of this host."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from pyalloc.cli.options import Count, Flag, Seed, Target, Tunables, settings
from pyalloc.cli.output import console, print_json, progressing
from pyalloc.errors import ArgumentError
from pyalloc.lab.verify.malloc import MallocVerdict, Setting, random_streams, verify_malloc
from pyalloc.lab.verify.malloccase import Case, read_case, verify_case
from pyalloc.machine.tunables import number_of
from pyalloc.report.verify import malloc_lines

Word = Literal[64, 32]


def malloc(
    *,
    streams: Count = 100,
    calls: Count = 10_000,
    word: Annotated[list[Word] | None, Parameter(negative="")] = None,
    kind: Annotated[list[str] | None, Parameter(negative="")] = None,
    sizes: Annotated[list[str] | None, Parameter(negative="")] = None,
    touch: Literal["none", "write"] = "none",
    threads: Count = 1,
    seed: Seed = 0,
    tunable: Tunables | None = None,
    case: Path | None = None,
    save: Target | None = None,
    json: Flag = False,
) -> int:
    """Run random streams of calls on the real C library and on the model, and compare each call.

    Each pointer, each usable size, the break after each call, page faults, resident pages and the
    library's last words must be equal.  The first stream that differs is shrunk, and saved as a
    case.

    Parameters
    ----------
    streams
        How many streams, for each word size.
    calls
        How many calls each has.
    word
        64 or 32 bits; may be repeated; by default 64.
    kind
        How blocks live (see "pyalloc workload"), or storm; may be repeated; by default each.
    sizes
        A law of sizes, such as mixed, 1-4000 or pareto:1.2:16-1M; may be repeated.
    touch
        What is done to blocks: nothing, or each is written.
    threads
        Spread each stream over 2 to so many threads that take turns.
    seed
        Another seed, other streams.
    tunable
        A setting of both libraries, NAME=VALUE, by its glibc name; may be repeated.
    case
        A saved case to run in place of random streams.
    save
        The file for a stream that differs; by default malloc-case-WORD-SEED.json.
    json
        Print JSON.
    """
    if case is not None:
        found = [verify_case(read_case(case))]
    else:
        tunables = {name: number_of(name, v) for name, v in (settings(tunable) or {}).items()}
        found = [
            check(
                Setting(bits, tunables, touch),
                streams=streams,
                calls=calls,
                seed=seed,
                kinds=kind or (),
                sizes=sizes or (),
                threads=threads,
            )
            for bits in word or [64]
        ]
        _save(found, save, seed)
    if json:
        print_json({"malloc": [verdict.to_dict() for verdict in found]})
    else:
        for verdict in found:
            show(verdict)
    return 0 if all(verdict.agrees for verdict in found) else 1


def check(
    setting: Setting | None = None,
    *,
    streams: int = 100,
    calls: int = 10_000,
    seed: int = 0,
    kinds: Sequence[str] = (),
    sizes: Sequence[str] = (),
    threads: int = 1,
) -> MallocVerdict:
    """Verify one word size, with a progress bar."""
    setting = setting or Setting()
    specs = random_streams(
        streams,
        calls=calls,
        kinds=kinds,
        sizes=sizes,
        seed=seed,
        word=setting.word,
        threads=threads,
    )
    with progressing() as progress:
        return verify_malloc(specs, setting, total=streams, progress=progress)


def _save(verdicts: Sequence[MallocVerdict], path: Path | None, seed: int) -> None:
    for verdict in verdicts:
        if verdict.finding is None:
            continue
        name = path or Path(f"malloc-case-{verdict.word}-{seed}.json")
        try:
            Case.of(verdict.finding).write(name)
        except OSError as error:
            message = f"{name}: {error.strerror}"
            raise ArgumentError(message) from None
        sys.stderr.write(f"saved: {name}\n")


def show(verdict: Any) -> None:  # noqa: ANN401 - a verdict of check()
    """Print a verdict."""
    out = console()
    for line in malloc_lines(verdict):
        out.print(line, soft_wrap=True, markup=False)
