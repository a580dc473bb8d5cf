"""The address space a program starts with: from a maps text, or as exec would lay it out.

Sources: ``arch/x86/mm/mmap.c`` and ``fs/binfmt_elf.c`` of Linux 6.12, ``arch/i386/mm/mmap.c`` and
``fs/binfmt_elf.c`` of 2.6.11 and 2.6.18.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from pyalloc.errors import ArgumentError
from pyalloc.kernel.abi import (
    PER,
    VM_ACCESS,
    VM_ACCOUNT,
    VM_DONTDUMP,
    VM_DONTEXPAND,
    VM_EXEC,
    VM_GROWSDOWN,
    VM_IO,
    VM_MAY,
    VM_MAYEXEC,
    VM_MAYREAD,
    VM_MAYSHARE,
    VM_MAYWRITE,
    VM_PFNMAP,
    VM_READ,
    VM_SHARED,
    VM_WRITE,
)
from pyalloc.kernel.area import Vma
from pyalloc.kernel.files import Inode, OpenFile
from pyalloc.kernel.limits import INFINITY, Limits
from pyalloc.kernel.maps import Area, numbered_areas
from pyalloc.kernel.profiles import KernelProfile
from pyalloc.units import PAGE

_ELF32: Final = 0x08048000
_ELF64: Final = 0x400000
_THREE_GIB: Final = 0xC0000000
_STACK_TOP_MAX: Final = 0x7FFFFFFFF000


@dataclass(slots=True)
class Layout:
    """Where everything of a new address space is; all addresses in bytes.

    ``mmap_base`` is the upper end of the mapping area, ``legacy_base`` where bottom-up searches
    begin.  ``written`` lists the areas that already hold private pages.
    """

    task_size: int
    mmap_base: int
    legacy_base: int
    top_down: bool
    start_brk: int
    brk: int
    start_stack: int
    areas: list[Vma] = field(default_factory=list)
    written: list[Vma] = field(default_factory=list)
    start_code: int = 0
    end_code: int = 0
    start_data: int = 0
    end_data: int = 0
    gate: str = ""
    search: tuple[int, int] | None = None
    """2.6's free_area_cache and cached_hole_size; None for those of a new program."""
    read_implies_exec: bool = False
    """The personality of old programs: what may be read may be executed."""


def page_ceil(address: int) -> int:
    """Return ``address`` rounded up to a page."""
    return -(-address // PAGE) * PAGE


def mmap_base(
    profile: KernelProfile,
    limits: Limits,
    task_size: int | None = None,
    *,
    randomized: bool = False,
    shift: int = 0,
) -> int:
    """Return the top of the mapping area of a process whose stack may grow to its limit.

    ``randomized`` reserves the room a randomised stack top needs (6.x), ``shift`` is the random
    part of the base itself; both are 0 for a program run with ``setarch -R``.
    """
    top = profile.task_size if task_size is None else task_size
    gap = limits.stack
    if profile.modern:
        pad = profile.stack_guard_gap + (profile.stack_random if randomized else 0)
        gap = gap + pad if gap + pad < 1 << (8 * profile.word) else gap
    gap = max(profile.stack_gap_low, min(gap, top // 6 * 5))
    if not profile.modern:
        gap = gap // PAGE * PAGE
    return page_ceil(top - gap - shift)


# --- from text ---------------------------------------------------------------------------------


def layout_from_maps(
    text: str,
    profile: KernelProfile,
    *,
    brk: int | None = None,
    top_down: bool | None = None,
    limits: Limits | None = None,
) -> Layout:
    """Return the layout that a ``/proc/PID/maps`` text shows.

    What the text does not say is inferred: the top of the mapping area is the end of the highest
    area below the stack, the break ends the ``[heap]`` (or the last area of the program), and
    private writable areas have been written to, as have those a loader has made read-only again.

    Parameters
    ----------
    text
        The file, whole; areas in address order.
    profile
        The kernel that is to run the process.
    brk
        The break, if known; its page-rounded value is also where the heap starts if there is none.
    top_down
        False for the legacy layout; None lets the text decide.
    limits
        Only RLIMIT_STACK matters, and only for a text without areas below the stack.

    Raises
    ------
    ArgumentError
        A line is not a line of such a file; the text names its number.
    """
    areas, gate = _parse(text, profile)
    relocated = _relocated(areas)
    stack = _stack(areas, profile)
    task_size = _task_size(profile, areas)
    start_stack = stack.end - 8 if stack else task_size
    if stack:
        stack.flags |= VM_GROWSDOWN
        stack.name = None
        stack.pgoff = _stack_offset(profile, stack)
    below = [vma.end for vma in areas if vma is not stack and vma.end <= start_stack]
    top = max(below, default=0)
    if top_down is None:
        top_down = profile.top_down and not (task_size // 3 <= top < task_size // 2)
    base = top if top_down and top > task_size // 2 else 0
    start_brk, end_brk = _breaks(areas, brk)
    layout = Layout(
        task_size,
        base or mmap_base(profile, limits or Limits(), task_size),
        page_ceil(task_size // 3),
        top_down,
        start_brk,
        end_brk,
        start_stack,
        areas,
        gate=gate or profile.gate,
    )
    layout.written = [vma for vma in areas if _was_written(vma) or id(vma) in relocated]
    layout.read_implies_exec = not profile.modern and any(
        vma.anonymous and vma.private and vma.flags & VM_ACCESS == VM_ACCESS for vma in areas
    )
    _segments(layout)
    return layout


def _parse(text: str, profile: KernelProfile) -> tuple[list[Vma], str]:
    areas: list[Vma] = []
    files: dict[tuple[str, str, int], OpenFile] = {}
    gate = ""
    for number, area in numbered_areas(text):
        if area.start >= profile.task_size and area.start != profile.vdso_at:
            gate = text.splitlines()[number - 1]
            continue
        vma = _vma_of(area, files)
        if vma.start == profile.vdso_at:
            vma.name = "[vdso]"
            kernel_area(vma)
        if vma.file is None and profile.anon_offset_shown:
            vma.pgoff = area.offset // PAGE
        if vma.start >= vma.end or (vma.start | vma.end) % PAGE:
            message = f"line {number}: {area.start:x}-{area.end:x} is no range of pages"
            raise ArgumentError(message)
        if areas and vma.start < areas[-1].end:
            message = f"line {number}: {area.start:x} lies below the end of the line before"
            raise ArgumentError(message)
        if areas and _was_one(areas[-1], vma):
            areas[-1].flags |= VM_ACCOUNT
        areas.append(vma)
    return areas, gate


def _was_one(below: Vma, above: Vma) -> bool:
    """Whether an area was a part of the writable one after it, and is promised as that is.

    So the loader leaves what it has relocated (RELRO): mprotect() to read-only takes no promise of
    private pages of a file back.
    """
    return (
        below.end == above.start
        and below.file is not None
        and below.file is above.file
        and below.pgoff + (below.end - below.start) // PAGE == above.pgoff
        and bool(above.flags & VM_ACCOUNT)
        and not below.flags & VM_SHARED
    )


def _vma_of(area: Area, files: dict[tuple[str, str, int], OpenFile]) -> Vma:
    flags = VM_MAY
    for letter, bit in zip("rwx", (VM_READ, VM_WRITE, VM_EXEC), strict=True):
        flags |= bit if letter in area.permissions else 0
    shared = "s" in area.permissions
    if shared:
        flags |= VM_SHARED | VM_MAYSHARE
    elif flags & VM_WRITE:
        flags |= VM_ACCOUNT
    if not area.name or area.name.startswith("["):
        name = area.name or None
        return kernel_area(Vma(area.start, area.end, flags, area.start // PAGE, name=name))
    file = files.setdefault((area.name, area.device, area.inode), _file_of(area))
    inode = file.inode
    inode.bytes_size = max(inode.bytes_size, area.offset + area.length)
    return Vma(area.start, area.end, flags, area.offset // PAGE, file)


def _file_of(area: Area) -> OpenFile:
    name = area.name.removesuffix(" (deleted)")
    major, minor = (int(part, 16) for part in area.device.split(":"))
    inode = Inode(name, number=area.inode, major=major, minor=minor, deleted=name != area.name)
    return OpenFile(inode, writable="s" in area.permissions)


def _stack_offset(profile: KernelProfile, stack: Vma) -> int:
    """Return the page number a stack has: 6.x makes it at the end of all space and moves it down.

    Where that is another place than the program's end, the stack merges with no neighbour.
    """
    if profile.modern and profile.word == 8:
        return (_STACK_TOP_MAX - (stack.end - stack.start)) // PAGE
    return stack.pgoff


def _stack(areas: list[Vma], profile: KernelProfile) -> Vma | None:
    """Return the stack; a kernel without labels has it at the top of the space."""
    for vma in reversed(areas):
        if vma.name == "[stack]":
            return vma
    if areas and profile.maps_labels == "none":
        last = areas[-1]
        ends = {profile.task_size, task_size_of(profile, PER.ADDR_LIMIT_3GB)}
        return last if last.end in ends and last.file is None else None
    return None


def kernel_area(vma: Vma) -> Vma:
    """Give an area that the kernel itself installs the flags it has; others stay as they are.

    2.6 shows the page number that ``insert_vm_struct`` gives the vdso, which is that of its start.
    """
    if vma.name == "[vdso]":
        vma.flags = VM_READ | VM_EXEC | VM_MAYREAD | VM_MAYWRITE | VM_MAYEXEC | VM_DONTEXPAND
    elif vma.name and vma.name.startswith("[vvar"):
        vma.flags = VM_READ | VM_MAYREAD | VM_IO | VM_DONTEXPAND | VM_DONTDUMP | VM_PFNMAP
        vma.pgoff = 0
    return vma


def _task_size(profile: KernelProfile, areas: Iterable[Vma]) -> int:
    """Return the size of the space: a 32-bit program may have been given 3 GiB of it."""
    highest = max((vma.end for vma in areas), default=profile.task_size)
    if profile.task_size < 1 << 32 and highest <= _THREE_GIB:
        return min(_THREE_GIB, profile.task_size)
    return profile.task_size


def _program(areas: list[Vma], brk: int | None) -> OpenFile | None:
    """Return the program's file: the last one below the break, or the first there is.

    In the bottom-up layout ld.so lies below a program that can be anywhere.
    """
    files = [vma for vma in areas if vma.file is not None]
    below = [vma for vma in files if brk is not None and vma.end <= page_ceil(brk)]
    return next((vma.file for vma in below[::-1] + files), None)


def _breaks(areas: list[Vma], brk: int | None) -> tuple[int, int]:
    """Return where the heap starts and where the break is.

    Without a ``[heap]`` line the heap starts behind the program's last area.
    """
    heap = next((vma for vma in areas if vma.name == "[heap]"), None)
    if heap is not None:
        heap.name = None
        return heap.start, heap.end if brk is None else brk
    named = [i for i, vma in enumerate(areas) if vma.file is not None]
    last = named[0] if named else 0
    if named:
        program = _program(areas, brk)
        last = max(i for i in named if areas[i].file is program)
        while (
            last + 1 < len(areas)
            and areas[last + 1].start == areas[last].end
            and areas[last + 1].file is None
            and areas[last + 1].name is None
        ):
            last += 1
    end = areas[last].end if areas else 0
    start = page_ceil(brk) if brk is not None else end
    return start, start if brk is None else brk


def _relocated(areas: list[Vma]) -> set[int]:
    """Return the identities of the areas that the loader has written to (RELRO), promised by that.

    Such an area lies between what was always read-only and what is writable, and would have merged
    with the former if it had no pages of its own.
    """
    found = set()
    for before, vma, after in zip(areas, areas[1:], areas[2:], strict=False):
        near = before.file is vma.file is after.file and before.end == vma.start
        if (
            near
            and vma.file
            and before.flags == vma.flags == after.flags & ~(VM_WRITE | VM_ACCOUNT)
        ):
            vma.flags |= VM_ACCOUNT
            found.add(id(vma))
    return found


def _was_written(vma: Vma) -> bool:
    return bool(vma.flags & VM_WRITE) and vma.private


def _segments(layout: Layout) -> None:
    """Find the program's text and data: its first file's executable and writable areas."""
    program = _program(layout.areas, layout.start_brk)
    for vma in layout.areas:
        if program is None or vma.file is not program:
            continue
        if vma.flags & VM_EXEC and not layout.end_code:
            layout.start_code, layout.end_code = vma.start, vma.end
        if vma.flags & VM_WRITE:
            layout.start_data = layout.start_data or vma.start
            layout.end_data = vma.end


# --- built in ----------------------------------------------------------------------------------


def default_layout(
    profile: KernelProfile,
    limits: Limits | None = None,
    *,
    top_down: bool | None = None,
    personality: int = 0,
) -> Layout:
    """Return the layout of a small static program, not randomised.

    It has a page of text, one of data and one of bss; its stack and the kernel's own areas are
    those the profile prescribes.  ``personality`` is a sum of :class:`~pyalloc.kernel.abi.PER`.
    """
    limits = limits or Limits()
    down = _grows_down(profile, limits, personality) if top_down is None else top_down
    top = task_size_of(profile, personality)
    base, legacy = mmap_base(profile, limits, top), page_ceil(top // 3)
    file = OpenFile(Inode("/prog", number=1, bytes_size=2 * PAGE))
    start = _ELF64 if profile.arch == "x86_64" else _ELF32
    text = Vma(start, start + PAGE, VM_READ | VM_EXEC | VM_MAY, 0, file)
    rights = VM_READ | VM_WRITE | VM_MAY | VM_ACCOUNT
    data = Vma(text.end, text.end + PAGE, rights, 1, file)
    bss = Vma(data.end, data.end + PAGE, rights, data.end // PAGE)
    stack_start = top - (profile.extra_stack_pages + 1) * PAGE
    stack = Vma(stack_start, top, rights | VM_GROWSDOWN, stack_start // PAGE)
    stack.pgoff = _stack_offset(profile, stack)
    own = _own_areas(profile, base if down else legacy, down)
    return Layout(
        top,
        base,
        legacy,
        down,
        bss.end,
        bss.end,
        top - 8,
        sorted([text, data, bss, *own, stack], key=lambda vma: vma.start),
        [data, bss, stack],
        start_code=text.start,
        end_code=text.end,
        start_data=data.start,
        end_data=data.end,
        gate=profile.gate,
        read_implies_exec=bool(personality & PER.READ_IMPLIES_EXEC),
    )


def task_size_of(profile: KernelProfile, personality: int) -> int:
    """Return the end of the space: a 64-bit kernel gives 32-bit programs 3 GiB if they ask."""
    if personality & PER.ADDR_LIMIT_3GB and profile.word == 8 and profile.task_size < 1 << 32:
        return _THREE_GIB
    return profile.task_size


def _grows_down(profile: KernelProfile, limits: Limits, personality: int) -> bool:
    """Return whether mappings go down from below the stack; 2.6 asks how far that may grow."""
    if personality & PER.ADDR_COMPAT_LAYOUT or (not profile.modern and limits.stack == INFINITY):
        return False
    return profile.top_down


def _own_areas(profile: KernelProfile, at: int, down: bool) -> list[Vma]:
    """Return the kernel's own areas, ending or beginning at ``at``."""
    start = at - sum(pages for _, pages in profile.vdso) * PAGE if down else at
    start = profile.vdso_at or start
    areas = []
    for name, pages in profile.vdso:
        areas.append(kernel_area(Vma(start, start + pages * PAGE, 0, start // PAGE, name=name)))
        start += pages * PAGE
    return areas
