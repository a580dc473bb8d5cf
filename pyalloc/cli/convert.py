"""``pyalloc convert``: any trace format to any other."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from pyalloc.cli.output import console, working
from pyalloc.trace import read_trace


def convert(
    source: Path,
    target: Path,
    *,
    format: str | None = None,  # noqa: A002
    to: str | None = None,
    force: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Convert a trace from any format to any other.

    Parameters
    ----------
    source
        The file to read.
    target
        The file to write.
    format
        The format of the source, if it cannot be found out.
    to
        The format of the target; by default the one its name ends with.
    force
        Overwrite the target if it exists.
    """
    with working("converting ..."):
        trace = read_trace(source, format)
        trace.write(target, to, overwrite=force)
    console().print(f"{target}: {len(trace):,} calls")
    return 0
