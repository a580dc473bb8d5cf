"""The numbers programs and kernel exchange: protections, mapping flags, advice, area flags.

Source: ``include/uapi/asm-generic/mman-common.h``, ``arch/x86/include/uapi/asm/mman.h``,
``include/uapi/linux/personality.h`` and ``include/linux/mm.h`` of Linux 6.12.  Area flags are plain
ints: they are compared on every merge.
"""

from __future__ import annotations

import os
from enum import IntEnum, IntFlag
from typing import Final, NoReturn


class PROT(IntFlag):
    """Protections of ``mmap`` and ``mprotect``."""

    NONE = 0
    READ = 1
    WRITE = 2
    EXEC = 4
    SEM = 8
    GROWSDOWN = 0x01000000
    GROWSUP = 0x02000000


class MAP(IntFlag):
    """Flags of ``mmap``."""

    SHARED = 0x01
    PRIVATE = 0x02
    SHARED_VALIDATE = 0x03
    DROPPABLE = 0x08
    TYPE = 0x0F
    FIXED = 0x10
    ANONYMOUS = 0x20
    MAP_32BIT = 0x40
    ABOVE4G = 0x80
    GROWSDOWN = 0x0100
    DENYWRITE = 0x0800
    EXECUTABLE = 0x1000
    LOCKED = 0x2000
    NORESERVE = 0x4000
    POPULATE = 0x8000
    NONBLOCK = 0x10000
    STACK = 0x20000
    HUGETLB = 0x40000
    SYNC = 0x80000
    FIXED_NOREPLACE = 0x100000


class MREMAP(IntFlag):
    """Flags of ``mremap``."""

    MAYMOVE = 1
    FIXED = 2
    DONTUNMAP = 4


class MADV(IntEnum):
    """Advice of ``madvise``."""

    NORMAL = 0
    RANDOM = 1
    SEQUENTIAL = 2
    WILLNEED = 3
    DONTNEED = 4
    FREE = 8
    REMOVE = 9
    DONTFORK = 10
    DOFORK = 11
    MERGEABLE = 12
    UNMERGEABLE = 13
    HUGEPAGE = 14
    NOHUGEPAGE = 15
    DONTDUMP = 16
    DODUMP = 17
    WIPEONFORK = 18
    KEEPONFORK = 19
    COLD = 20
    PAGEOUT = 21
    POPULATE_READ = 22
    POPULATE_WRITE = 23
    DONTNEED_LOCKED = 24
    COLLAPSE = 25
    GUARD_INSTALL = 102
    GUARD_REMOVE = 103


class PER(IntFlag):
    """What ``personality(2)`` and ``setarch`` change about an address space."""

    ADDR_COMPAT_LAYOUT = 0x0200000
    READ_IMPLIES_EXEC = 0x0400000
    ADDR_LIMIT_3GB = 0x8000000


VM_READ: Final = 0x1
VM_WRITE: Final = 0x2
VM_EXEC: Final = 0x4
VM_SHARED: Final = 0x8
VM_MAYREAD: Final = 0x10
VM_MAYWRITE: Final = 0x20
VM_MAYEXEC: Final = 0x40
VM_MAYSHARE: Final = 0x80
VM_GROWSDOWN: Final = 0x100
VM_PFNMAP: Final = 0x400
VM_MAYBE_GUARD: Final = 0x800
VM_LOCKED: Final = 0x2000
VM_IO: Final = 0x4000
VM_SEQ_READ: Final = 0x8000
VM_RAND_READ: Final = 0x10000
VM_DONTCOPY: Final = 0x20000
VM_DONTEXPAND: Final = 0x40000
VM_LOCKONFAULT: Final = 0x80000
VM_ACCOUNT: Final = 0x100000
VM_NORESERVE: Final = 0x200000
VM_HUGETLB: Final = 0x400000
VM_SYNC: Final = 0x800000
VM_WIPEONFORK: Final = 0x2000000
VM_DONTDUMP: Final = 0x4000000
VM_MIXEDMAP: Final = 0x10000000
VM_HUGEPAGE: Final = 0x20000000
VM_NOHUGEPAGE: Final = 0x40000000
VM_MERGEABLE: Final = 0x80000000
VM_DROPPABLE: Final = 1 << 40

VM_ACCESS: Final = VM_READ | VM_WRITE | VM_EXEC
VM_MAY: Final = VM_MAYREAD | VM_MAYWRITE | VM_MAYEXEC
VM_SPECIAL: Final = VM_IO | VM_DONTEXPAND | VM_PFNMAP | VM_MIXEDMAP
VM_IS_DATA: Final = VM_WRITE | VM_SHARED | VM_GROWSDOWN
VM_IS_CODE: Final = VM_WRITE | VM_EXEC | VM_GROWSDOWN
"""An area is data or code if of these it has VM_WRITE or VM_EXEC alone (``is_data_mapping``)."""
VM_DATA: Final = VM_READ | VM_WRITE | VM_MAY
"""What the break and a writable private anonymous mapping have."""


def fail(number: int) -> NoReturn:
    """Raise the OSError of an errno, as a system call that returns it."""
    raise OSError(number, os.strerror(number))
