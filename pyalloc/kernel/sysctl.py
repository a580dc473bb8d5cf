"""The sysctls under ``vm.`` that the machine follows: which kernel has them, and their domains.

Sources: ``kernel/sysctl.c`` of Linux 2.6.11 and 2.6.18, ``kernel/sysctl.c``, ``mm/util.c`` and
``mm/page_alloc.c`` of 6.12, ``Documentation/admin-guide/sysctl/vm.rst``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pyalloc.kernel.profiles import KernelProfile

_MOST: Final = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Knob:
    """One sysctl: its domain, and its value after the boot if it is the same everywhere."""

    name: str
    least: int = 0
    most: int = _MOST
    value: int = 0


_OF_ALL: Final = (
    Knob("vm.overcommit_memory", most=2),
    Knob("vm.overcommit_ratio", value=50),
    Knob("vm.swappiness", most=100, value=60),
    Knob("vm.page-cluster", most=31, value=3),
    Knob("vm.min_free_kbytes"),
)
_SINCE_2_6_18: Final = (Knob("vm.panic_on_oom", most=1),)
_MODERN: Final = (
    Knob("vm.swappiness", most=200, value=60),
    Knob("vm.overcommit_kbytes"),
    Knob("vm.admin_reserve_kbytes"),
    Knob("vm.user_reserve_kbytes"),
    Knob("vm.panic_on_oom", most=2),
    Knob("vm.oom_kill_allocating_task", most=_MOST),
    Knob("vm.oom_dump_tasks", most=_MOST, value=1),
    Knob("vm.watermark_scale_factor", least=1, most=3000, value=10),
)


def knobs(profile: KernelProfile) -> Mapping[str, Knob]:
    """Return the sysctls of a kernel generation by name.

    >>> from pyalloc.kernel.profiles import kernel_profile
    >>> "vm.panic_on_oom" in knobs(kernel_profile("2.6.11", "i386"))
    False
    """
    found = {knob.name: knob for knob in _OF_ALL}
    if profile.modern or profile.name == "2.6.18":
        found |= {knob.name: knob for knob in _SINCE_2_6_18}
    if profile.modern:
        found |= {knob.name: knob for knob in _MODERN}
    return found


@dataclass(frozen=True, slots=True)
class Reserves:
    """``vm.admin_reserve_kbytes`` and ``vm.user_reserve_kbytes`` after the boot.

    They are 1/32 of memory, up to 8 and 128 MB.
    """

    admin: int
    user: int


def reserves_of(total_kb: int) -> Reserves:
    """Return the reserves of a machine whose memory is ``total_kb``.

    >>> reserves_of(255944)
    Reserves(admin=7998, user=7998)
    """
    return Reserves(min(total_kb // 32, 8192), min(total_kb // 32, 131072))
