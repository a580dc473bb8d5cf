"""``pyalloc convert``: any trace format to any other."""

from __future__ import annotations

from pathlib import Path

from pyalloc.cli.options import Flag, Format, OutputFormat, Target, check_free
from pyalloc.cli.output import console, print_json, working
from pyalloc.trace import read_trace


def convert(
    source: Path,
    target: Target,
    /,
    *,
    format: Format | None = None,  # noqa: A002
    to: OutputFormat | None = None,
    force: Flag = False,
    json: Flag = False,
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
        The format of the target; by default the one its name ends with, or else Parquet.
    force
        Overwrite the target if it exists.
    json
        Print what was written as JSON.
    """
    check_free(target, force=force, how="--force")
    with working("converting ..."):
        trace = read_trace(source, format)
        trace.write(target, to, overwrite=force)
    if json:
        print_json({"path": str(target), "calls": len(trace)})
    else:
        console().print(f"{target}: {len(trace):,} calls", markup=False, soft_wrap=True)
    return 0
