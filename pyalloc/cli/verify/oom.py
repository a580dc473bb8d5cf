"""``pyalloc verify oom``: the model's OOM killer against this host's."""

from __future__ import annotations

from typing import Any

from pyalloc.cli.options import Count, Flag, Seed
from pyalloc.cli.output import console, print_json, progressing
from pyalloc.lab.verify.oom import OomVerdict, verify_oom
from pyalloc.report.verify import oom_lines


def oom(
    *,
    cases: Count = 20,
    seed: Seed = 0,
    json: Flag = False,
) -> int:
    """Fill a memory cgroup of this host and of the model, and compare whom the OOM killer kills.

    The same processes take the same memory in both.  Each kill's victim must be equal, and in the
    kernel's report the table of candidates, the constraint and the victim's figures.  Needs root.

    Parameters
    ----------
    cases
        How many cases.
    seed
        Another seed, other cases.
    json
        Print JSON.
    """
    verdict = check(cases=cases, seed=seed)
    if json:
        print_json({"oom": verdict.to_dict()})
    else:
        show(verdict)
    return 0 if verdict.agrees else 1


def check(*, cases: int = 20, seed: int = 0) -> OomVerdict:
    """Verify, with a progress bar."""
    with progressing() as progress:
        return verify_oom(cases, seed=seed, progress=progress)


def show(verdict: Any) -> None:  # noqa: ANN401 - the verdict of check()
    """Print a verdict."""
    out = console()
    for line in oom_lines(verdict):
        out.print(line, soft_wrap=True, markup=False)
