"""A command under a limit of this machine: ``ulimit -v``, or a memory cgroup of its own."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from pyalloc.host.box import box
from pyalloc.host.compile import HostError
from pyalloc.host.measure import CommandError, CommandTimeout, Measurement, measure

_WHY_NOT: Final = {
    "ram": "RAM cannot be taken away from a running machine: verify a cgroup in its place",
    "swap": "swap cannot be taken away from this machine alone: verify a cgroup with swap",
    "ratio": "overcommit_ratio would change for every process of this machine",
}


def run_limited(
    command: Sequence[str],
    env: Mapping[str, str] | None,
    of: str,
    value: int,
    *,
    swap: int = 0,
    timeout: float | None = None,
) -> Measurement | None:
    """Run ``command`` under a limit.

    Parameters
    ----------
    command, env, timeout
        As for :func:`pyalloc.host.measure.measure`.
    of
        ``"as"`` (RLIMIT_AS) or ``"cgroup"``.
    value, swap
        The limit in bytes, and the swap that a cgroup has beside it.

    Returns
    -------
    Measurement or None
        None if not even exec succeeds.

    Raises
    ------
    HostError
        There can be no such limit here; the text says why.
    CommandTimeout
        The command was not done in time.
    """
    with _prepared(of, value, swap) as prepare:
        try:
            return measure(command, env, timeout=timeout, prepare=prepare)
        except CommandTimeout:
            raise
        except CommandError:
            return None


@contextlib.contextmanager
def _prepared(of: str, value: int, swap: int) -> Iterator[Callable[[], None]]:
    """Yield what puts the process that calls it under the limit."""
    if of in _WHY_NOT:
        raise HostError(_WHY_NOT[of])
    if of == "as":
        yield lambda: resource.setrlimit(resource.RLIMIT_AS, (value, value))
        return
    with box(value, swap) as procs:
        yield lambda: _join(str(procs))


def _join(procs: str) -> None:
    file = os.open(procs, os.O_WRONLY)
    os.write(file, b"0")
    os.close(file)
