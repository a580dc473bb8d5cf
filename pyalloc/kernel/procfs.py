"""The memory texts of ``/proc``, as each kernel prints them.

Sources: ``fs/proc/task_mmu.c`` and ``fs/proc/meminfo.c`` of Linux 6.12; ``fs/proc/task_mmu.c`` and
``fs/proc/proc_misc.c`` of 2.6.11 and 2.6.18.
"""

from __future__ import annotations

from pyalloc.kernel.area import Vma
from pyalloc.kernel.vma import AddressSpace
from pyalloc.units import PAGE


def maps_line(space: AddressSpace, vma: Vma) -> str:
    """Return the line of ``vma`` in ``/proc/PID/maps``, without its newline."""
    file = vma.file
    offset = vma.pgoff * PAGE if file is not None or space.profile.anon_offset_shown else 0
    inode = file.inode if file is not None else None
    major, minor, number = (inode.major, inode.minor, inode.number) if inode else (0, 0, 0)
    line = (
        f"{vma.start:08x}-{vma.end:08x} {vma.permissions} {offset:08x}"
        f" {major:02x}:{minor:02x} {number} "
    )
    label = space.label(vma)
    return line.ljust(25 + 6 * space.profile.word) + label if label else line


def maps_text(space: AddressSpace) -> str:
    """Return the whole of ``/proc/PID/maps``."""
    lines = [maps_line(space, vma) for vma in space]
    if space.gate:
        lines.append(space.gate)
    return "".join(line + "\n" for line in lines)
