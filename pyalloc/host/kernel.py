"""What a model must know of this host's kernel to do what it does."""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pyalloc.host import proc
from pyalloc.host.compile import HostError

_CAP_IPC_LOCK: Final = 14
_CAP_SYS_RAWIO: Final = 17


@dataclass(frozen=True, slots=True)
class HostKernel:
    """What the model must know of this host."""

    release: str
    model: str
    ram: int
    swap: int
    huge_pages: bool
    exact_rss: bool
    """Whether status shows resident pages as they are; 6.2 to 6.15 show them to within 32 a CPU."""


def host_kernel() -> HostKernel:
    """Return what the model must know of this host.

    Raises
    ------
    HostError
        It is no Linux on x86-64 of a generation there is a profile for, or promises are judged by
        what other processes were promised.
    """
    release = platform.release()
    numbers = [int(part) for part in re.findall(r"\d+", release)[:2]]
    if platform.system() != "Linux" or platform.machine() != "x86_64" or numbers < [6, 12]:
        message = (
            f"there is no profile for {platform.system()} {release} on {platform.machine()}: "
            "Linux 6.12 or newer on x86-64 is needed"
        )
        raise HostError(message)
    mode = Path("/proc/sys/vm/overcommit_memory").read_text(encoding="ascii").strip()
    if mode == "2":
        message = "vm.overcommit_memory is 2: the kernel's answers depend on other processes"
        raise HostError(message)
    counts = proc.meminfo()
    huge = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    return HostKernel(
        release,
        "6.18" if numbers >= [6, 17] else "6.12",
        counts["MemTotal"] << 10,
        counts["SwapTotal"] << 10,
        huge.exists() and "[never]" not in huge.read_text(encoding="ascii"),
        numbers >= [6, 16],
    )


DISTURBING: Final = (
    "thp_collapse_alloc",
    "thp_fault_fallback",
    "pgsteal_kswapd",
    "pgsteal_direct",
    "pswpout",
)
"""Events of ``/proc/vmstat`` that change a process's pages without its doing."""


def disturbances() -> tuple[int, int]:
    """Return how often the kernel changed processes' pages by itself, and how much swap it has.

    Whatever is compared while one of the two changes is to be compared again.
    """
    text = Path("/proc/vmstat").read_text(encoding="ascii")
    lines = [line for line in text.splitlines() if line.startswith(DISTURBING)]
    return sum(int(line.split()[1]) for line in lines), proc.meminfo()["SwapTotal"]


def may_lock() -> bool:
    """Return whether this process may lock memory without a limit (CAP_IPC_LOCK)."""
    return _has_capability(_CAP_IPC_LOCK)


def may_map_low() -> bool:
    """Return whether this process may map what lies below vm.mmap_min_addr (CAP_SYS_RAWIO)."""
    return _has_capability(_CAP_SYS_RAWIO)


def _has_capability(number: int) -> bool:
    effective = str(proc.status().get("CapEff", "0"))
    return bool(int(effective, 16) >> number & 1)
