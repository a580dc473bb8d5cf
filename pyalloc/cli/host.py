"""``pyalloc host``: the live machine, seen as the simulated ones are."""

from __future__ import annotations

from pyalloc.cli.options import Flag
from pyalloc.cli.output import console, print_json
from pyalloc.host.outlook import outlook
from pyalloc.report.host import render


def host(
    *,
    pid: int | None = None,
    policy: str | None = None,
    json: Flag = False,
) -> int:
    """Say what this machine has left before which limit, and who would be killed now and why.

    Parameters
    ----------
    pid
        Look at this process: its limits, its cgroups, its place among the OOM killer's candidates.
    policy
        Choose by these rules in place of the running kernel's: 2.6.11, 2.6.18, 6.12 or a plug-in.
    json
        Print JSON.
    """
    found = outlook(pid, policy=policy)
    if json:
        print_json(found.to_dict())
    else:
        console().print(render(found))
    return 0
