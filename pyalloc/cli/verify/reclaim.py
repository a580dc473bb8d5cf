"""``pyalloc verify reclaim``: what the model's reclaim misses against this host's."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from cyclopts import Parameter

from pyalloc.cli.options import (
    Count,
    Factor,
    Flag,
    Megabytes,
    PageCluster,
    Passes,
    Seed,
    Share,
    Swappiness,
)
from pyalloc.cli.output import console, print_json, progressing
from pyalloc.host.scan import READ_AHEAD
from pyalloc.lab.verify.reclaim import WITHIN, ReclaimVerdict, verify_reclaim
from pyalloc.report.verify import reclaim_lines
from pyalloc.workload.scans import Choices

Mode = Literal["anon", "anon0", "shm", "fread", "fmap", "fmapr"]
Pattern = Literal["seq", "rand", "back", "hotcold", "zipf"]


def reclaim(
    *,
    scans: Count = 20,
    repeats: Count = 3,
    passes: Passes = 6,
    mode: Annotated[list[Mode] | None, Parameter(negative="")] = None,
    pattern: Annotated[list[Pattern] | None, Parameter(negative="")] = None,
    limit: Megabytes | None = None,
    factor: Factor | None = None,
    access: Literal["read", "write"] | None = None,
    page_cluster: PageCluster | None = None,
    swappiness: Swappiness | None = None,
    read_ahead: Count = READ_AHEAD >> 10,
    within: Share = WITHIN,
    seed: Seed = 0,
    json: Flag = False,
) -> int:
    """Scan memory under a limit on this host and on the model, and compare how often each misses.

    Both access the same pages in the same order, pass by pass; the first pass fills memory.  Of the
    others the mean is compared: pages swapped in (anon, shm), major faults (anon0, fmapr) or pages
    read from a file (fread, fmap), per access.  What is not given is drawn.  Needs root;
    vm.swappiness, vm.page-cluster and the disk's read-ahead are changed meanwhile.

    Parameters
    ----------
    scans
        How many scans.
    repeats
        How often each is made on this host, which differs from one time to the next.
    passes
        How often each goes over its pages.
    mode
        What is scanned: private memory, zeros in it (anon0), shared memory, a file that is read,
        mapped, or mapped with MADV_RANDOM (fmapr); may be repeated; by default each.
    pattern
        The order of pages; may be repeated; by default each.
    limit
        The cgroup's limit in MB; by default 16 to 48.
    factor
        The memory that is scanned, in limits; by default 0.5 to 2.
    access
        Whether pages are read or written; by default either.  With fread they are only read.
    page_cluster
        vm.page-cluster; by default 0 or 3.
    swappiness
        vm.swappiness; by default mostly 60, also 1, 10, 100 and 200.
    read_ahead
        KB of a file that are read ahead at most; with many more, a mapped file takes minutes.
    within
        How far off all that was seen on this host the model may be, per access; where more than a
        page per access is read, per page that is read.
    seed
        Another seed, other scans.
    json
        Print JSON, pass by pass.
    """
    verdict = check(
        scans=scans,
        seed=seed,
        repeats=repeats,
        passes=passes,
        read_ahead=read_ahead << 10,
        within=within,
        choices=_choices(
            mode=mode,
            pattern=pattern,
            megabytes=limit,
            factor=factor,
            write=access and access == "write",
            page_cluster=page_cluster,
            swappiness=swappiness,
        ),
    )
    if json:
        print_json({"reclaim": verdict.to_dict()})
    else:
        show(verdict)
    return 0 if verdict.agrees else 1


def _choices(**fixed: Any) -> Choices:  # noqa: ANN401 - values of the fields' own types
    """Return what scans may be, with what is given held fixed."""
    given = {name: value for name, value in fixed.items() if value is not None}
    lists = {name: v if isinstance(v, list) else [v] for name, v in given.items()}
    return Choices()._replace(**lists)


def check(*, scans: int = 20, seed: int = 0, **options: Any) -> ReclaimVerdict:  # noqa: ANN401 - verify_reclaim's
    """Verify, with a progress bar."""
    with progressing() as progress:
        return verify_reclaim(scans, seed=seed, progress=progress, **options)


def show(verdict: Any) -> None:  # noqa: ANN401 - the verdict of check()
    """Print a verdict."""
    out = console()
    for line in reclaim_lines(verdict):
        out.print(line, soft_wrap=True, markup=False)
