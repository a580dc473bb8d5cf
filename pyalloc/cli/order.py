"""``pyalloc order``: what a program would hold if it made its calls in another order."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
from cyclopts import Parameter

from pyalloc.cli.dashes import split
from pyalloc.cli.options import (
    AllocatorName,
    Count,
    Flag,
    Format,
    Natural,
    Output,
    Seed,
    Target,
    Tunables,
    check_free,
    settings,
)
from pyalloc.cli.output import console, print_json, progressing
from pyalloc.cli.subject import Words, subject
from pyalloc.errors import ArgumentError
from pyalloc.lab.order import MOVES, find_moves
from pyalloc.lab.order import order as study_orders
from pyalloc.report.listing import table_of
from pyalloc.report.order import render
from pyalloc.trace import Trace
from pyalloc.workload.catalogue import names_workload

_DIGITS: Final = 19  # of a number of 63 bits
_BY: Final = {"peak": "peak_held", "end": "held", "resident": "peak_rss", "mean": "jw1"}


def order(
    *words: Words,
    order: Annotated[list[str] | None, Parameter(negative="")] = None,
    by: Literal["peak", "end", "resident", "mean"] = "peak",
    window: int | None = None,
    repeats: Count = 5,
    search: Natural = 50,
    allocator: AllocatorName | None = None,
    arch: Literal["x86_64", "i386"] | None = None,
    touch: Literal["none", "write", "recorded"] | None = None,
    tunable: Tunables | None = None,
    seed: Seed = 0,
    best: Target | None = None,
    output: Output | None = None,
    format: Format | None = None,  # noqa: A002
    list: Flag = False,  # noqa: A002
    json: Flag = False,
) -> int:
    """Replay a program's calls in other legal orders and say what each would save.

    pyalloc order FILE, or pyalloc order -- CMD...: last in first out, grouped by size, and so on.

    Parameters
    ----------
    order
        Only this one: a name of --list, A+B for both, or a file of row numbers; may be repeated.
    by
        What is to be small: bytes held at the peak or at the end, resident ones, or their mean.
    window
        Calls inside which a call may move; by default a tenth of the trace.
    repeats
        Runs to take the mean of, the program itself and its neighbours; of a workload, seeds.
    search
        Replays to spend on the best order, and as many on the worst; 0 is none.
    allocator
        Replay on this allocator; by default the recorded C library.
    arch
        Replay on this architecture; by default the recorded one.
    touch
        What the program does to its memory: write every block, nothing, or as recorded.
    tunable
        An allocator setting, NAME=VALUE, by its glibc name; may be repeated.
    seed
        Seed of everything that is drawn.
    best
        Write the trace in the best order to this file.
    output
        Keep the recording in this file.
    format
        The format of the file, if it cannot be found out.
    list
        List the orders there are.
    json
        Print JSON; the command's own output goes to stderr.
    """
    if list:
        return _list(json=json)
    given = _orders(order)
    check_free(best)
    with _about(words, format, output, quiet=json) as (about, notes), progressing() as tell:
        found = study_orders(
            about,
            given,
            allocator=allocator,
            arch=arch,
            tunables=settings(tunable),
            touch=touch,
            window=window,
            repeats=repeats,
            search=search,
            by=_BY[by],
            seed=seed,
            tell=tell,
        )
    if best is not None:
        found.reordered(found.best().name).write(best, overwrite=False)
    if json:
        print_json(found.to_dict())
        return 0
    out = console()
    for note in notes:
        out.print(f"note: {note}", style="yellow", markup=False)
    out.print(render(found))
    return 0


@contextlib.contextmanager
def _about(
    words: Sequence[str],
    format: str | None,  # noqa: A002
    output: Path | None,
    *,
    quiet: bool,
) -> Iterator[tuple[Trace | str, tuple[str, ...]]]:
    """Yield what it is about: a workload by name, so that it can have seeds, or a trace."""
    file, _ = split(words) if words else (None, ())
    if file is not None and names_workload(file) and not Path(file).exists():
        yield file, ()
        return
    with subject(words, format=format, output=output, quiet=quiet) as about:
        yield about.trace, about.notes


def _orders(given: Sequence[str] | None) -> Any:  # noqa: ANN401 - as the study takes them
    if not given:
        return None
    files = [name for name in given if Path(name).exists()]
    if not files:
        for name in given:
            find_moves(name)
        return given
    if len(files) < len(given):
        message = "give either names of orders or files with row numbers, not both"
        raise ArgumentError(message)
    return {name: _rows(Path(name)) for name in files}


def _rows(file: Path) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    words = file.read_text(encoding="utf-8", errors="replace").split()
    for number, word in enumerate(words, 1):
        if not (word.isdecimal() and word.isascii() and len(word) < _DIGITS):
            message = f"{file}: an order is a list of row numbers (word {number} is {word[:20]!r})"
            raise ArgumentError(message)
    return np.array(words, np.int64)


def _list(*, json: bool) -> int:
    if json:
        print_json({name: move.description for name, move in MOVES.items()})
    else:
        rows = ((name, move.description) for name, move in MOVES.items())
        console().print(table_of(("order", ""), rows))
    return 0
