"""The few facts of an ELF file that decide whether its program can be recorded."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

PT_INTERP: Final = 3


@dataclass(frozen=True, slots=True)
class ElfHead:
    """Word size, processor (``EM_*``), and the dynamic loader the program asks for, if any."""

    bits: int
    machine: int
    interpreter: str | None


def read_head(file: Path) -> ElfHead | None:
    """Return the facts of ``file``, or ``None`` when it is no ELF file or cannot be read."""
    try:
        with file.open("rb") as stream:
            data = stream.read(64)
            if data[:4] != b"\x7fELF":
                return None
            wide = data[4] == 2
            order = "<" if data[5] == 1 else ">"
            machine = struct.unpack_from(order + "H", data, 18)[0]
            at = struct.unpack_from(order + ("Q" if wide else "I"), data, 32 if wide else 28)[0]
            size, count = struct.unpack_from(order + "HH", data, 54 if wide else 42)
            interpreter = None
            for i in range(count):
                stream.seek(at + i * size)
                segment = stream.read(size)
                if struct.unpack_from(order + "I", segment)[0] == PT_INTERP:
                    layout, where = ("QQQQ", 8) if wide else ("IIII", 4)
                    offset, _, _, length = struct.unpack_from(order + layout, segment, where)
                    stream.seek(offset)
                    interpreter = stream.read(length).rstrip(b"\0").decode(errors="replace")
            return ElfHead(64 if wide else 32, machine, interpreter)
    except (OSError, struct.error):
        return None
