"""What exec reads of an ELF file: its segments, its loader, whether its stack is to be executed.

Source: ``fs/binfmt_elf.c`` of Linux 6.12, the System V ABI.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from pyalloc.errors import ArgumentError
from pyalloc.kernel.abi import PROT
from pyalloc.units import PAGE

_PT_LOAD, _PT_INTERP, _PT_GNU_STACK = 1, 3, 0x6474E551
_ET_EXEC, _ET_DYN = 2, 3
_MACHINES: Final = {3: 4, 62: 8}
"""``EM_386`` and ``EM_X86_64``, with the bytes of their words."""


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
        about, data = Path(path).stat(), Path(path).read_bytes()
        image = _image(os.path.realpath(path), data)
        device = (os.major(about.st_dev), os.minor(about.st_dev))
        return replace(image, device=device, inode=about.st_ino)
    except OSError as error:
        message = f"{path}: {error.strerror}"
        raise ArgumentError(message) from None
    except ValueError as error:  # a name no file can have
        if isinstance(error, ArgumentError):
            raise
        message = f"{path!r}: {error}"
        raise ArgumentError(message) from None
    except (struct.error, IndexError):
        message = f"{path}: the file ends within its headers"
        raise ArgumentError(message) from None


def _image(path: str, data: bytes) -> Image:
    kind, machine = struct.unpack_from("<HH", data, 16)
    if data[:4] != b"\x7fELF" or kind not in (_ET_EXEC, _ET_DYN) or machine not in _MACHINES:
        message = f"{path}: not an ELF program for i386 or x86-64"
        raise ArgumentError(message)
    word = _MACHINES[machine]
    wide = word == 8
    (table,) = struct.unpack_from("<Q" if wide else "<I", data, 32 if wide else 28)
    size, count = struct.unpack_from("<HH", data, 54 if wide else 42)
    if size != (56 if wide else 32):
        message = f"{path}: its program headers have no size that ELF knows ({size} bytes)"
        raise ArgumentError(message)
    segments: list[Segment] = []
    interpreter = stack = None
    for at in range(table, table + size * count, size):
        if wide:
            form, flags, offset, address, _, file_bytes, memory_bytes, alignment = (
                struct.unpack_from("<IIQQQQQQ", data, at)
            )
        else:
            form, offset, address, _, file_bytes, memory_bytes, flags, alignment = (
                struct.unpack_from("<IIIIIIII", data, at)
            )
        if form == _PT_LOAD:
            prot = _prot(flags)
            segments.append(Segment(address, offset, file_bytes, memory_bytes, prot, alignment))
        elif form == _PT_INTERP:
            name = data[offset : offset + file_bytes].partition(b"\0")[0]
            interpreter = name.decode(errors="surrogateescape")
        elif form == _PT_GNU_STACK:
            stack = bool(flags & 1)
    if not segments:
        message = f"{path}: it has nothing to load"
        raise ArgumentError(message)
    movable = kind == _ET_DYN
    return Image(path, len(data), word, movable, tuple(segments), interpreter, stack)


def _prot(flags: int) -> int:
    """Return PF_R, PF_W and PF_X as protections."""
    rights = ((4, PROT.READ), (2, PROT.WRITE), (1, PROT.EXEC))
    return sum(int(prot) for flag, prot in rights if flags & flag)
