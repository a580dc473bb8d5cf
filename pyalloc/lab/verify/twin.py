"""A simulated machine like this host, as far as malloc can tell."""

from __future__ import annotations

import contextlib
import os
import platform
import re
from pathlib import Path
from typing import Final

from pyalloc.host import proc
from pyalloc.machine import Machine

_KERNELS: Final = {(6, 12): "6.12", (6, 18): "6.18"}


def kernel_for(release: str) -> str:
    """Return the kernel profile that stands for ``release``: the newest before it, or the oldest.

    >>> kernel_for("6.18.5-cloud-amd64")
    '6.18'
    >>> kernel_for("5.10.0")
    '6.12'
    """
    match = re.match(r"(\d+)\.(\d+)", release)
    version = (int(match[1]), int(match[2])) if match else (0, 0)
    return _KERNELS[max((known for known in _KERNELS if known <= version), default=min(_KERNELS))]


def twin_machine(arch: str) -> Machine:
    """Return a machine with this host's memory, swap, processors and overcommit policy.

    What is larger than the host's memory is refused there, and must be refused here.
    """
    meminfo = proc.meminfo()
    return Machine(
        ram=meminfo["MemTotal"] << 10,
        swap=meminfo["SwapTotal"] << 10,
        kernel=kernel_for(platform.release()),
        arch=arch,
        cpus=len(os.sched_getaffinity(0)) or 1,
        overcommit_memory=_sysctl("overcommit_memory", 0),
        overcommit_ratio=_sysctl("overcommit_ratio", 50),
        overcommit_kbytes=_sysctl("overcommit_kbytes", 0),
    )


def _sysctl(name: str, default: int) -> int:
    with contextlib.suppress(OSError, ValueError):
        return int(Path("/proc/sys/vm", name).read_text(encoding="ascii"))
    return default
