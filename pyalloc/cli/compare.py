"""``pyalloc compare``: runs side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from pyalloc.cli.dashes import count_behind
from pyalloc.cli.options import Allocators, Flag, Format, Natural, Output, Percent, Settings
from pyalloc.cli.output import console, print_json, progressing
from pyalloc.cli.subject import read, subject
from pyalloc.errors import ArgumentError
from pyalloc.lab.compare import Comparison
from pyalloc.lab.compare import compare as compare_traces
from pyalloc.report.compare import render
from pyalloc.trace import Trace

Words = Annotated[
    str,
    Parameter(
        help="Trace FILEs (or workloads' names); after --, a command to record as the last.",
        allow_leading_hyphen=True,
        negative="",
        name="FILE...|-- CMD",
    ),
]
_FIGURES = {"asked": "peak_requested", "held": "peak_held", "resident": "peak_rss"}


def compare(
    *words: Words,
    setting: Settings | None = None,
    allocator: Allocators | None = None,
    touch: Literal["none", "write", "recorded"] | None = None,
    sites: Natural = 12,
    at_most: Percent | None = None,
    by: Literal["asked", "held", "resident"] = "resident",
    output: Output | None = None,
    format: Format | None = None,  # noqa: A002
    json: Flag = False,
) -> int:
    """Hold runs against the first of them: memory, fragmentation, work, call sites.

    pyalloc compare BEFORE AFTER; pyalloc compare BEFORE -- CMD...; or one trace under several
    settings, pyalloc compare FILE -s arena_max=1 --allocator glibc-2.12.

    Parameters
    ----------
    setting
        Run each trace under this, too: "mmap_threshold=64K arena_max=1"; may be repeated.
    allocator
        Run each trace on this allocator, too; may be repeated, or names with commas.
    touch
        What the programs do to their memory: write every block, nothing, or as recorded.
    sites
        How many call sites to list.
    at_most
        Exit with 1 if a run has more than so many percent more at its peak than the first.
    by
        What --at-most looks at: asked for, held by the heap, or resident.
    output
        Keep the recording in this file.
    format
        The format of the files, if it cannot be found out.
    json
        Print JSON; the command's own output goes to stderr.
    """
    names = [name for text in allocator or () for name in text.split(",") if name]
    tried = [*(setting or ()), *(f"allocator={name}" for name in names)]
    with _traces(words, format, output, quiet=json) as traces, progressing() as tell:
        found = compare_traces(
            traces, ["default", *tried] if tried else None, touch=touch, listed=sites, tell=tell
        )
    if json:
        print_json(found.to_dict())
    else:
        console().print(render(found))
    return 0 if at_most is None or _within(found, _FIGURES[by], at_most / 100) else 1


@contextmanager
def _traces(
    words: Sequence[str],
    format: str | None,  # noqa: A002
    output: Path | None,
    *,
    quiet: bool,
) -> Iterator[dict[str, Trace]]:
    """Yield the traces by their names."""
    behind = count_behind()
    files, command = words[: len(words) - behind], words[len(words) - behind :]
    if not files and not command:
        message = "give trace FILEs, or a command behind --"
        raise ArgumentError(message)
    found = {name: read(file, format) for name, file in zip(_names(files), files, strict=True)}
    if not command:
        yield found
        return
    with subject(command, output=output, quiet=quiet) as about:
        yield found | {"now": about.trace}


def _names(files: Sequence[str]) -> list[str]:
    """Return short names: what is behind the last slash, where that tells them apart."""
    short = [file.rsplit("/", 1)[-1].removesuffix(".parquet") for file in files]
    if len(set(short)) == len(files):
        return short
    return [f"{i + 1}:{name}" for i, name in enumerate(short)]


def _within(found: Comparison, name: str, share: float) -> bool:
    changes = (found.change(name, i) for i in range(1, len(found.runs)))
    return all(change is None or change <= share for change in changes)
