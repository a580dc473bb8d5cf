"""``pyalloc verify``: the model against the glibc and the kernel of this host.

One file a part of the machine; to add one, write ``cli/verify/PART.py`` with a command, a
``check()`` that needs no arguments and a ``show()`` for its verdict, and give it a row below.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from cyclopts import App, Parameter

from pyalloc.cli.help import Formatter, page_text, told_default
from pyalloc.cli.options import Flag
from pyalloc.cli.output import console, print_json
from pyalloc.cli.verify import kernel, malloc, oom, reclaim
from pyalloc.host.compile import HostError
from pyalloc.lab.verify import Verdict


class Part(NamedTuple):
    """A part of the machine that can be verified: how, and how its verdict is printed."""

    check: Callable[[], Verdict]
    show: Callable[[Any], None]


PARTS: Final[dict[str, Part]] = {
    "malloc": Part(malloc.check, malloc.show),
    "kernel": Part(kernel.check, kernel.show),
    "oom": Part(oom.check, oom.show),
    "reclaim": Part(reclaim.check, reclaim.show),
}

verify = App(
    name="verify",
    help="The model against the glibc and the kernel of this host.",
    help_format="plaintext",
    help_formatter=Formatter(),
    default_parameter=Parameter(show_default=told_default),
    result_action="return_value",
)
for _part in (malloc.malloc, kernel.kernel, oom.oom, reclaim.reclaim):
    verify.command(_part, help=page_text(_part))


@verify.default
def everything(*, json: Flag = False) -> int:
    """Verify every part of the machine that can be verified here, with the defaults of each.

    Parameters
    ----------
    json
        Print JSON.
    """
    found: dict[str, Any] = {}
    agrees = True
    for name, part in PARTS.items():
        try:
            verdict = part.check()
        except HostError as error:
            found[name] = {"impossible": str(error)}
            if not json:
                console().print(f"{name}: cannot be verified here: {error}", soft_wrap=True)
            continue
        agrees &= verdict.agrees
        found[name] = verdict.to_dict()
        if not json:
            part.show(verdict)
    if json:
        print_json(found)
    return 0 if agrees else 1
