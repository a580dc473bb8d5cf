"""The address space a program has when its first instruction is about to run.

Without randomisation, as after ``setarch -R``.  The loader (ld.so) is mapped, the libraries it will
map are not.

Sources: ``fs/binfmt_elf.c`` and ``fs/exec.c`` of Linux 2.6.11, 2.6.18, 6.12, and a running 6.18.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from pyalloc.errors import ArgumentError
from pyalloc.kernel.abi import MAP, PER, VM_EXEC, VM_GROWSDOWN
from pyalloc.kernel.elf import Image, Segment
from pyalloc.kernel.files import Inode, OpenFile
from pyalloc.kernel.layout import Layout, default_layout, kernel_area, page_ceil
from pyalloc.kernel.limits import Limits
from pyalloc.kernel.profiles import KernelProfile
from pyalloc.kernel.vma import AddressSpace
from pyalloc.units import PAGE

_PRIVATE: Final = int(MAP.PRIVATE)
_FIXED: Final = int(MAP.PRIVATE | MAP.FIXED)
_ANONYMOUS: Final = int(MAP.PRIVATE | MAP.FIXED | MAP.ANONYMOUS)
_DATA: Final = 3


def exec_layout(
    profile: KernelProfile,
    image: Image,
    interpreter: Image | None = None,
    limits: Limits | None = None,
    *,
    personality: int = 0,
    argument_pages: int = 1,
) -> Layout:
    """Return the layout that exec gives the program of ``image``.

    Parameters
    ----------
    profile, limits, personality
        As of :func:`~pyalloc.kernel.layout.default_layout`.
    image, interpreter
        The program, and the loader it asks for.
    argument_pages
        Pages that arguments and environment take on the stack.

    Raises
    ------
    ArgumentError
        The program is of another word size, needs a loader that is not given, or cannot be mapped
        where it wants to be.
    """
    if (image.word == 8) != (profile.arch == "x86_64"):
        message = f"{image.path} is a program of {8 * image.word} bits; {profile.arch} is not"
        raise ArgumentError(message)
    if image.interpreter and interpreter is None:
        message = f"{image.path} needs its loader {image.interpreter}: give that, too"
        raise ArgumentError(message)
    space = AddressSpace(profile, _bare(profile, limits, personality, argument_pages, image))
    try:
        return _load(space, image, interpreter if image.interpreter else None)
    except OSError as error:
        message = f"{image.path}: exec cannot map it ({error.strerror})"
        raise ArgumentError(message) from None


def _load(space: AddressSpace, image: Image, loader: Image | None) -> Layout:
    """Map the program, its loader and what the kernel adds."""
    bias = _place(space, image, _base(space, image, loader), align_of(image))
    if loader is not None:
        _place(space, loader, 0, PAGE)
    _map_own_areas(space)
    return _finished(space, image, bias, loader)


def _bare(
    profile: KernelProfile, limits: Limits | None, personality: int, pages: int, image: Image
) -> Layout:
    """Return a space with nothing but a stack."""
    persona = personality | _implied(profile, image)
    layout = default_layout(profile, limits, personality=persona)
    stack = next(vma for vma in layout.areas if vma.flags & VM_GROWSDOWN)
    more = (pages - 1) * PAGE
    stack.start, stack.pgoff = stack.start - more, stack.pgoff - pages + 1
    if image.executable_stack or (image.executable_stack is None and image.word == 4):
        stack.flags |= VM_EXEC
    return replace(layout, areas=[stack], written=[stack])


def _implied(profile: KernelProfile, image: Image) -> int:
    """Return READ_IMPLIES_EXEC for programs from before PT_GNU_STACK."""
    old = image.executable_stack is None and image.word == 4
    asks = not profile.modern and bool(image.executable_stack)
    return int(PER.READ_IMPLIES_EXEC) if old or asks else 0


def _base(space: AddressSpace, image: Image, loader: Image | None) -> int:
    """Return where a program that may lie anywhere begins; 0 leaves it to the search."""
    if not image.movable:
        return image.segments[0].start
    if space.profile.modern and loader is None:
        return 0
    align = align_of(image)
    base = movable_base(space.profile, space.task_size)
    return (base // align * align if space.profile.modern else base // PAGE * PAGE) + (
        image.segments[0].start
    )


def align_of(image: Image) -> int:
    """Return the largest alignment that a segment asks for, at least a page."""
    return max([PAGE, *(segment.alignment for segment in image.segments)])


def movable_base(profile: KernelProfile, task_size: int) -> int:
    """Return ELF_ET_DYN_BASE: where programs begin that may lie anywhere.

    >>> from pyalloc.kernel.profiles import kernel_profile
    >>> hex(movable_base(kernel_profile("6.18", "i386"), 0xFFFFE000))
    '0x56555000'
    """
    if not profile.modern or profile.arch == "x86_64":
        return task_size // 3 * 2
    return page_ceil(task_size // 3) + 0x1000000 if profile.word == 8 else 0x400000


def _place(space: AddressSpace, image: Image, at: int, align: int) -> int:
    """Map the segments, the first one at ``at``; return what is added to their addresses.

    With ``at`` 0 the search for a hole decides, rounded down to ``align``.
    """
    major, minor = image.device
    inode = Inode(image.path, image.inode, major, minor, bytes_size=image.size)
    file = OpenFile(inode)
    first = image.segments[0]
    bias = at - first.start if at else None
    for segment in image.segments:
        if bias is None:
            bias = _search(space, image, file) // align * align - first.start
        _map(space, segment, file, bias)
    if not space.profile.modern:
        _map_rest(space, image, bias or 0)
    return bias or 0


def _search(space: AddressSpace, image: Image, file: OpenFile) -> int:
    """Let the search for a hole find room for the whole image; it is free again afterwards."""
    first = image.segments[0]
    span = image.span if space.profile.modern else first.file_bytes + first.address % PAGE
    offset = first.offset // PAGE * PAGE
    at = space.mmap(first.start, page_ceil(span), first.prot, _PRIVATE, file, offset)
    space.munmap(at, page_ceil(span))
    return at


def _map(space: AddressSpace, segment: Segment, file: OpenFile, bias: int) -> None:
    """Map what of a segment is in the file; 6.x gives it its zeros at once."""
    start, skew = bias + segment.start, segment.address % PAGE
    length = page_ceil(segment.file_bytes + skew)
    if not segment.file_bytes and space.profile.modern:
        length = 0
    if length:
        offset = segment.offset - skew
        space.mmap(start, length, segment.prot, _FIXED, file, offset)
    if space.profile.modern:
        end = bias + page_ceil(segment.address + segment.memory_bytes)
        if end > start + length:
            space.mmap(start + length, end - start - length, _DATA | segment.prot & 4, _ANONYMOUS)


def _map_rest(space: AddressSpace, image: Image, bias: int) -> None:
    """2.6 maps zeros once, from the end of all file contents to the end of all memory."""
    ends = [(s.address + s.file_bytes, s.address + s.memory_bytes) for s in image.segments]
    start, end = (bias + page_ceil(max(column)) for column in zip(*ends, strict=True))
    if end > start:
        space.mmap(start, end - start, _DATA, _ANONYMOUS)


def _map_own_areas(space: AddressSpace) -> None:
    """Map [vvar], [vdso] and the like: one search for all of them."""
    profile = space.profile
    length = sum(pages for _, pages in profile.vdso) * PAGE
    at = profile.vdso_at
    if length and not at:
        at = space.mmap(0, length, 1, _PRIVATE | int(MAP.ANONYMOUS))
        space.munmap(at, length)
    own = {vma.name: vma for vma in default_layout(profile).areas}
    for name, pages in profile.vdso:
        end = at + pages * PAGE
        vma = kernel_area(replace(own[name], start=at, end=end, pgoff=at // PAGE))
        space.areas.insert(vma)
        space.count(vma.flags, None, pages)
        at = end


def _finished(space: AddressSpace, image: Image, bias: int, loader: Image | None) -> Layout:
    """Return the layout with its break, code and data."""
    layout = space.layout()
    end = bias + page_ceil(max(s.address + s.memory_bytes for s in image.segments))
    if space.profile.name == "6.18" and image.movable and loader is None:
        end = page_ceil(movable_base(space.profile, space.task_size))
    code = [s for s in image.segments if s.prot & 4] or list(image.segments)
    data = max(image.segments, key=lambda s: s.address)
    layout.start_brk = layout.brk = end
    layout.start_code = bias + min(s.address for s in code)
    layout.end_code = bias + max(s.address + s.file_bytes for s in code)
    layout.start_data = bias + data.address
    layout.end_data = bias + max(s.address + s.file_bytes for s in image.segments)
    layout.search = None if space.profile.modern else layout.search
    return layout
