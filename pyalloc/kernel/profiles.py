"""Kernel generations as data: constants, and the few rules that differ.

A profile is one generation on one architecture, by what a program gets of the address space:

===============  ===========================================================  ==========
``i386``         a 32-bit kernel of 2.6, its own split                        3 GiB
``i386`` (6.x)   a 32-bit program on a 64-bit kernel                          4 GiB - 8 KiB
``i386-compat``  the same, by a name that 2.6 has, too                        4 GiB - 8 KiB
``i386-pae``     a 32-bit kernel with three levels of page tables             3 GiB
``i386-4g4g``    2.6 with the 4G/4G patch and PAE, as Red Hat's hugemem       4080 MiB
``x86_64``       a 64-bit kernel with four levels of page tables              128 TiB
===============  ===========================================================  ==========

Sources: Linux 2.6.11, 2.6.18 and 6.12 (``mm/mmap.c``, ``mm/vma.c``, ``fs/proc/task_mmu.c``,
``include/asm-i386``, ``include/asm-x86_64``, ``arch/x86_64/ia32``, ``arch/x86/include/asm``), boot
logs of hugemem kernels (3936 MB of low memory), and the behaviour of a running 6.18.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from pyalloc.errors import ArgumentError
from pyalloc.units import PAGE

_MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class KernelProfile:
    """The address-space policy of one kernel generation on one architecture; bytes throughout."""

    name: str
    arch: str

    # the space
    task_size: int
    word: int
    """Bytes of a long in the kernel; sets the columns of ``/proc/PID/maps``."""
    levels: int
    table_span: int
    """What one page of page-table entries maps."""
    stack_gap_low: int = 128 * _MIB
    mmap_min_addr: int = 0x10000
    """The lowest address a search or a hint leads to, and a stack grows to."""
    fixed_min_addr: int = PAGE
    """The lowest address a program without CAP_SYS_RAWIO may name (vm.mmap_min_addr)."""
    stack_guard_gap: int = 256 * PAGE
    stack_random: int = 0
    """Largest random shift of the stack's top; mmap_base leaves room for it."""
    max_map_count: int = 65530
    top_down: bool = True

    # rules
    modern: bool = True
    """The code paths of 6.x; False for 2.6."""
    placement: str = "gaps"
    """``gaps`` (stateless), ``cache`` (2.6.11) or ``cache+hole`` (2.6.18)."""
    anon_rule: str = "source"
    """Which anon_vma may merge: ``either`` (2.6), ``target`` (to 6.15), ``source`` (from 6.16)."""
    thp_align: bool = False
    """Hintless anonymous mappings of whole huge pages, and large files, are aligned to 2 MiB."""
    empty_mmap_succeeds: bool = False
    flags_merge: bool = True
    """mlock and madvise join areas again (from 2.6.12)."""
    data_limit_first: bool = True
    """brk looks at RLIMIT_DATA before anything else (from 2.6.12)."""
    multi_move: bool = False
    """``mremap`` moves several areas in one call (from 6.17)."""
    extra_stack_pages: int = 32
    vdso: tuple[tuple[str, int], ...] = (("[vvar]", 4), ("[vdso]", 2))
    """The areas the kernel maps for itself, from low to high, with their pages."""
    vdso_at: int = 0
    """Where they begin; 0: wherever the search for a hole leads."""
    vdso_shown: bool = True
    """Maps has their names."""
    low_memory: int = 896 * _MIB
    """What a 32-bit kernel maps of RAM; the rest is high memory."""
    memlock: int = 8 * _MIB
    """RLIMIT_MEMLOCK of a program nobody set limits for."""
    gate: str = ""
    """The last line of every maps text, for a page that is not an area."""

    # texts
    maps_labels: str = "overlap"
    """When an area is [heap]: ``none``, ``cover`` (2.6.18) or ``overlap`` (6.x)."""
    anon_offset_shown: bool = False
    smaps: bool = True
    peaks_shown: bool = True
    """VmPeak and VmHWM in status, AnonPages in meminfo (from 2.6.15)."""
    balloon_shown: bool = False
    """The Balloon line of meminfo (6.18)."""
    vmalloc_total: int = 0x1FFFFFFFFFFF
    """VmallocTotal in bytes."""


_VSYSCALL: Final = (
    "ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]"
)

_X86_64: Final = KernelProfile(
    name="6.18",
    arch="x86_64",
    task_size=0x7FFFFFFFF000,
    word=8,
    levels=4,
    table_span=2 * _MIB,
    stack_random=0x3FFFFF * PAGE,
    thp_align=True,
    multi_move=True,
    vdso=(("[vvar]", 4), ("[vvar_vclock]", 2), ("[vdso]", 2)),
    balloon_shown=True,
    gate=_VSYSCALL,
)
_COMPAT: Final = replace(
    _X86_64,
    arch="i386",
    task_size=0xFFFFE000,
    stack_random=0x7FF * PAGE,
    thp_align=False,
    gate="",
)
_COMPAT_BY_NAME: Final = replace(_COMPAT, arch="i386-compat")
_PAE: Final = replace(_COMPAT, arch="i386-pae", task_size=0xC0000000, word=4, levels=3)
_OLD: Final = KernelProfile(
    name="2.6.18",
    arch="i386",
    task_size=0xC0000000,
    word=4,
    levels=2,
    table_span=4 * _MIB,
    mmap_min_addr=0,
    fixed_min_addr=0,
    stack_guard_gap=0,
    max_map_count=65536,
    modern=False,
    placement="cache+hole",
    anon_rule="either",
    extra_stack_pages=20,
    vdso=(("[vdso]", 1),),
    maps_labels="cover",
    anon_offset_shown=True,
    vmalloc_total=112 * _MIB,
    memlock=8 * PAGE,
)
_OLD_PAE: Final = replace(_OLD, arch="i386-pae", levels=3, table_span=2 * _MIB)
_OLD_4G: Final = replace(
    _OLD_PAE,
    arch="i386-4g4g",
    task_size=0xFF000000,
    low_memory=3936 * _MIB,
)
_OLD_64: Final = replace(
    _OLD,
    arch="x86_64",
    task_size=0x7FFFFFFFF000,
    word=8,
    levels=4,
    table_span=2 * _MIB,
    top_down=False,
    vdso=(),
    gate="ffffffffff600000-ffffffffffe00000 ---p 00000000 00:00 0                  [vdso]",
)
_OLD_COMPAT: Final = replace(
    _OLD_64,
    arch="i386-compat",
    task_size=0xFFFFE000,
    top_down=True,
    extra_stack_pages=0,
    vdso=(("[vdso]", 1),),
    vdso_at=0xFFFFE000,
    vdso_shown=False,
    gate="",
)


def _generation(name: str, *profiles: KernelProfile, **changes: object) -> list[KernelProfile]:
    return [replace(profile, name=name, **changes) for profile in profiles]  # type: ignore[arg-type]


_FIRST: Final = "ffffe000-fffff000 ---p 00000000 00:00 0 "
_ALL: Final = [
    *_generation("6.18", _X86_64, _COMPAT, _COMPAT_BY_NAME, _PAE),
    *_generation(
        "6.12",
        _X86_64,
        _COMPAT,
        _COMPAT_BY_NAME,
        _PAE,
        anon_rule="target",
        multi_move=False,
        balloon_shown=False,
        vdso=(("[vvar]", 4), ("[vdso]", 2)),
    ),
    *_generation("2.6.18", _OLD, _OLD_PAE, _OLD_4G, _OLD_COMPAT, _OLD_64),
    *_generation(
        "2.6.11",
        *(replace(profile, gate=_FIRST) for profile in (_OLD, _OLD_PAE, _OLD_4G)),
        replace(_OLD_COMPAT, top_down=False, vdso_at=0, gate=_FIRST),
        replace(
            _OLD_64, task_size=1 << 47, gate=_OLD_64.gate.removesuffix("[vdso]").rstrip() + " "
        ),
        placement="cache",
        vdso=(),
        empty_mmap_succeeds=True,
        flags_merge=False,
        data_limit_first=False,
        maps_labels="none",
        smaps=False,
        peaks_shown=False,
    ),
]
PROFILES: Final = {(profile.name, profile.arch): profile for profile in _ALL}
KERNELS: Final = ("2.6.11", "2.6.18", "6.12", "6.18")
ARCHES: Final = ("i386", "i386-compat", "i386-pae", "i386-4g4g", "x86_64")


def kernel_profile(name: str, arch: str = "x86_64") -> KernelProfile:
    """Return the profile of kernel ``name`` on ``arch``.

    Raises
    ------
    ArgumentError
        There is none; the text lists what there is.

    Examples
    --------
    >>> hex(kernel_profile("2.6.18", "i386").task_size)
    '0xc0000000'
    """
    try:
        return PROFILES[name, arch]
    except KeyError:
        message = (
            f"no kernel {name!r} on {arch!r}; kernels are {', '.join(KERNELS)},"
            f" architectures {', '.join(ARCHES)}"
        )
        raise ArgumentError(message) from None
