"""What exec reads of an ELF file: its segments, its loader, whether its stack is to be executed.

Source: ``fs/binfmt_elf.c`` of Linux 6.12, the System V ABI.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, NamedTuple

from pyalloc.errors import ArgumentError
from pyalloc.kernel.abi import PROT
from pyalloc.units import PAGE

_PT_LOAD, _PT_INTERP, _PT_GNU_STACK = 1, 3, 0x6474E551
_ET_EXEC, _ET_DYN = 2, 3
_MACHINES: Final = {3: 4, 62: 8}
"""``EM_386`` and ``EM_X86_64``, with the bytes of their words."""

_ENTRY: Final = {32: ("IIIIIIII", (0, 6, 1, 2, 4, 5, 7)), 64: ("IIQQQQQQ", (0, 1, 2, 3, 5, 6, 7))}
"""A program header by word size: its layout, and where the fields of :class:`Entry` are in it."""


class Entry(NamedTuple):
    """One program header (``Elf_Phdr``)."""

    kind: int
    flags: int
    offset: int
    address: int
    file_bytes: int
    memory_bytes: int
    alignment: int


@dataclass(frozen=True, slots=True)
class Headers:
    """What the headers of an ELF file of any processor say.

    ``kind`` is ``e_type``, ``machine`` is ``e_machine``; ``interpreter`` is the loader that the
    program asks for, None if it is linked statically.
    """

    bits: int
    kind: int
    machine: int
    entries: tuple[Entry, ...]
    interpreter: str | None


def read_headers(path: str | Path) -> Headers | None:
    """Return what the headers of the file at ``path`` say; None if it is no ELF file.

    Raises
    ------
    OSError
        It cannot be read.
    ArgumentError
        Its headers cannot be what they say; the text says why.
    """
    with Path(path).open("rb") as file:
        try:
            return _headers(path, file)
        except (struct.error, IndexError):
            message = f"{path}: the file ends within its headers"
            raise ArgumentError(message) from None


def _headers(path: str | Path, file: IO[bytes]) -> Headers | None:
    data = file.read(64)
    if data[:4] != b"\x7fELF":
        return None
    wide, order = data[4] == 2, "<" if data[5] == 1 else ">"
    kind, machine = struct.unpack_from(f"{order}HH", data, 16)
    (table,) = struct.unpack_from(f"{order}{'Q' if wide else 'I'}", data, 32 if wide else 28)
    size, count = struct.unpack_from(f"{order}HH", data, 54 if wide else 42)
    layout, places = _ENTRY[64 if wide else 32]
    if count and size != struct.calcsize(order + layout):
        message = f"{path}: its program headers have no size that ELF knows ({size} bytes)"
        raise ArgumentError(message)
    rows = struct.iter_unpack(order + layout, _at(file, table, size * count))
    entries = tuple(Entry(*(row[place] for place in places)) for row in rows)
    named = next((entry for entry in entries if entry.kind == _PT_INTERP), None)
    name = _at(file, named.offset, named.file_bytes).partition(b"\0")[0] if named else None
    interpreter = None if name is None else name.decode(errors="surrogateescape")
    return Headers(64 if wide else 32, kind, machine, entries, interpreter)


def _at(file: IO[bytes], offset: int, size: int) -> bytes:
    """Return so many bytes of a file from an offset on, which must be there."""
    if offset + size > os.fstat(file.fileno()).st_size:
        message = "beyond its end"
        raise IndexError(message)
    file.seek(offset)
    return file.read(size)


@dataclass(frozen=True, slots=True)
class Segment:
    """One PT_LOAD: addresses and sizes in bytes, ``prot`` as ``mmap`` takes it."""

    address: int
    offset: int
    file_bytes: int
    memory_bytes: int
    prot: int
    alignment: int

    @property
    def start(self) -> int:
        """The page it begins in."""
        return self.address // PAGE * PAGE


@dataclass(frozen=True, slots=True)
class Image:
    """A program, or a loader, as exec sees it.

    ``movable`` is ET_DYN: it may be put anywhere.  ``executable_stack`` is what it asks for by
    PT_GNU_STACK, None if it says nothing.
    """

    path: str
    size: int
    word: int
    movable: bool
    segments: tuple[Segment, ...]
    interpreter: str | None = None
    executable_stack: bool | None = None
    device: tuple[int, int] = (0, 0)
    inode: int = 1

    @property
    def span(self) -> int:
        """Bytes from the first page to the end of the last segment."""
        return self.segments[-1].address + self.segments[-1].memory_bytes - self.segments[0].start


def read_image(path: str | Path) -> Image:
    """Return what exec sees of the file at ``path``.

    Raises
    ------
    ArgumentError
        It cannot be read, or is no program for i386 or x86-64; the text says why.
    """
    try:
        about, headers = Path(path).stat(), read_headers(path)
    except OSError as error:
        message = f"{path}: {error.strerror}"
        raise ArgumentError(message) from None
    except ValueError as error:  # a name no file can have
        if isinstance(error, ArgumentError):
            raise
        message = f"{path!r}: {error}"
        raise ArgumentError(message) from None
    return _image(str(path), headers, about)


def _image(path: str, headers: Headers | None, about: os.stat_result) -> Image:
    if (
        headers is None
        or headers.kind not in (_ET_EXEC, _ET_DYN)
        or headers.bits // 8 != _MACHINES.get(headers.machine)
    ):
        message = f"{path}: not an ELF program for i386 or x86-64"
        raise ArgumentError(message)
    loads = [entry for entry in headers.entries if entry.kind == _PT_LOAD]
    if not loads:
        message = f"{path}: it has nothing to load"
        raise ArgumentError(message)
    stacks = [bool(entry.flags & 1) for entry in headers.entries if entry.kind == _PT_GNU_STACK]
    return Image(
        path=os.path.realpath(path),
        size=about.st_size,
        word=headers.bits // 8,
        movable=headers.kind == _ET_DYN,
        segments=tuple(_segment(entry) for entry in loads),
        interpreter=headers.interpreter,
        executable_stack=stacks[-1] if stacks else None,
        device=(os.major(about.st_dev), os.minor(about.st_dev)),
        inode=about.st_ino,
    )


def _segment(entry: Entry) -> Segment:
    rights = ((4, PROT.READ), (2, PROT.WRITE), (1, PROT.EXEC))  # PF_R, PF_W, PF_X
    prot = sum(int(right) for flag, right in rights if entry.flags & flag)
    return Segment(
        entry.address, entry.offset, entry.file_bytes, entry.memory_bytes, prot, entry.alignment
    )
