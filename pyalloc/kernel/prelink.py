"""A dynamic program of 2006 as exec and ld.so leave it, just before its first ``malloc``.

Libraries are prelinked to low addresses; the shell that started it lets reading imply executing.
What stands on no file was mapped by calls, in the order ld.so makes them, because 2.6 remembers
where it looked last.

Source: the map the article prints; ``fs/binfmt_elf.c`` and ``mm/mmap.c`` of Linux 2.6.18;
prelink(8).
"""

from __future__ import annotations

from typing import Final

from pyalloc.kernel.abi import MAP, PROT
from pyalloc.kernel.files import Inode, OpenFile
from pyalloc.kernel.layout import Layout, kernel_area, layout_from_maps
from pyalloc.kernel.profiles import KernelProfile
from pyalloc.kernel.vma import AddressSpace
from pyalloc.units import PAGE

_BASE: Final = 0xB7F76000
_STACK_TOP: Final = 0xBF822000
_LIBC_BSS: Final = 0x4CF000
_CACHE_PAGES: Final = 18
_MAPS: Final = """\
0039d000-003b2000 r-xp 00000000 fd:00 1          /lib/ld-2.3.5.so
003b2000-003b3000 r-xp 00014000 fd:00 1          /lib/ld-2.3.5.so
003b3000-003b4000 rwxp 00015000 fd:00 1          /lib/ld-2.3.5.so
003b6000-004cb000 r-xp 00000000 fd:00 2          /lib/libc-2.3.5.so
004cb000-004cd000 r-xp 00115000 fd:00 2          /lib/libc-2.3.5.so
004cd000-004cf000 rwxp 00117000 fd:00 2          /lib/libc-2.3.5.so
08048000-08049000 r-xp 00000000 fd:00 3          {program}
08049000-0804a000 rwxp 00000000 fd:00 3          {program}
{stack:08x}-bf822000 rw-p {offset:08x} 00:00 0          [stack]
"""


def prelinked_layout(
    profile: KernelProfile, program: str = "/fragment", stack_pages: int = 22
) -> Layout:
    """Return the layout of the article's program on a 2.6 kernel for i386.

    ``stack_pages`` is 21 if the arguments fit into one page, 22 if they take two.
    """
    stack = _STACK_TOP - stack_pages * PAGE
    text = _MAPS.format(program=program, stack=stack, offset=stack)
    layout = layout_from_maps(text, profile, brk=0x0804A000, top_down=True)
    layout.mmap_base = _BASE
    layout.start_code, layout.end_code = 0x08048000, 0x08049000
    layout.start_data, layout.end_data = 0x08049000, 0x0804A000
    layout.read_implies_exec = True
    space = AddressSpace(profile, layout)
    _load(space)
    return space.layout()


def _load(space: AddressSpace) -> None:
    """Make the calls of exec and ld.so that leave their choice of place to the kernel."""
    data = int(PROT.READ | PROT.WRITE)
    private = int(MAP.PRIVATE | MAP.ANONYMOUS)
    for name, pages in space.profile.vdso:
        address = space.mmap(0, pages * PAGE, int(PROT.READ | PROT.EXEC), private)
        vma = space.at(address)
        if vma is not None:
            vma.name = name
            kernel_area(vma)
    space.mmap(0, PAGE, data, private)
    cache = OpenFile(Inode("/etc/ld.so.cache", bytes_size=_CACHE_PAGES * PAGE))
    listed = space.mmap(0, _CACHE_PAGES * PAGE, int(PROT.READ), int(MAP.PRIVATE), cache)
    space.mmap(_LIBC_BSS, 2 * PAGE, data, private | MAP.FIXED)
    space.mmap(0, PAGE, data, private)
    space.munmap(listed, _CACHE_PAGES * PAGE)
