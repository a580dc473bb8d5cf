"""From an offset in an ELF file to a function name, and to a line where debug information exists.

Follows the ELF specification (gABI, chapters 4 and 5).  Only what a call site needs is read: the
program headers (file offset to virtual address) and the function symbols.
"""

from __future__ import annotations

import functools
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    import mmap
    from collections.abc import Sequence

    import numpy.typing as npt

PT_LOAD: Final = 1
SHT_SYMTAB: Final = 2
SHT_DYNSYM: Final = 11
STT_FUNC: Final = 2
STT_GNU_IFUNC: Final = 10

_TIMEOUT: Final = 60  # seconds; a debug build of a browser takes a few

_LAYOUT: Final[dict[int, dict[str, Any]]] = {
    1: {  # ELFCLASS32
        "ehdr": [
            ("phoff", 28, "u4"),
            ("shoff", 32, "u4"),
            ("phnum", 44, "u2"),
            ("shnum", 48, "u2"),
        ],
        "phdr": (
            32,
            {"type": (0, "u4"), "offset": (4, "u4"), "vaddr": (8, "u4"), "filesz": (16, "u4")},
        ),
        "shdr": (
            40,
            {"type": (4, "u4"), "offset": (16, "u4"), "size": (20, "u4"), "link": (24, "u4")},
        ),
        "sym": (16, {"name": (0, "u4"), "info": (12, "u1"), "value": (4, "u4"), "size": (8, "u4")}),
    },
    2: {  # ELFCLASS64
        "ehdr": [
            ("phoff", 32, "u8"),
            ("shoff", 40, "u8"),
            ("phnum", 56, "u2"),
            ("shnum", 60, "u2"),
        ],
        "phdr": (
            56,
            {"type": (0, "u4"), "offset": (8, "u8"), "vaddr": (16, "u8"), "filesz": (32, "u8")},
        ),
        "shdr": (
            64,
            {"type": (4, "u4"), "offset": (24, "u8"), "size": (32, "u8"), "link": (40, "u4")},
        ),
        "sym": (24, {"name": (0, "u4"), "info": (4, "u1"), "value": (8, "u8"), "size": (16, "u8")}),
    },
}


@dataclass(frozen=True, slots=True)
class Name:
    """What is known of one code address."""

    function: str | None = None
    file: str | None = None
    line: int | None = None


def _records(data: bytes | mmap.mmap, kind: tuple[int, dict[str, Any]], at: int, count: int) -> Any:  # noqa: ANN401 - a structured array
    size, layout = kind
    dtype = np.dtype(
        {
            "names": list(layout),
            "formats": ["<" + code for _, code in layout.values()],
            "offsets": [offset for offset, _ in layout.values()],
            "itemsize": size,
        }
    )
    return np.frombuffer(data, dtype, count, at)


@dataclass(frozen=True, slots=True)
class _Elf:
    """The parts of one ELF file that names come from."""

    segments: npt.NDArray[Any]
    start: npt.NDArray[np.uint64]
    end: npt.NDArray[np.uint64]
    names: list[str]

    def address_of(self, offset: int) -> int:
        """Return the link-time address of the byte at file offset ``offset``."""
        for segment in self.segments:
            if 0 <= offset - int(segment["offset"]) < int(segment["filesz"]):
                return offset - int(segment["offset"]) + int(segment["vaddr"])
        return offset

    def function_at(self, address: int) -> str | None:
        """Return the function that covers ``address``."""
        index = int(np.searchsorted(self.start, np.uint64(address), "right")) - 1
        if index < 0 or address >= int(self.end[index]):
            return None
        return self.names[index]


def _functions(
    data: bytes, layout: dict[str, Any], sections: npt.NDArray[np.void]
) -> list[tuple[int, int, str]]:
    found = []
    for section in sections:
        if section["type"] not in (SHT_SYMTAB, SHT_DYNSYM):
            continue
        count = int(section["size"]) // layout["sym"][0]
        table = _records(data, layout["sym"], int(section["offset"]), count)
        is_code = np.isin(table["info"] & 15, (STT_FUNC, STT_GNU_IFUNC)) & (table["value"] > 0)
        strings = int(sections[int(section["link"])]["offset"])
        for symbol in table[is_code]:
            at = strings + int(symbol["name"])
            name = data[at : data.index(b"\0", at)].decode(errors="replace")
            found.append((int(symbol["value"]), int(symbol["size"]), name))
    return found


def _parse(data: bytes) -> _Elf:
    layout = _LAYOUT[data[4]]
    head = {
        name: int(np.frombuffer(data, "<" + code, 1, at)[0]) for name, at, code in layout["ehdr"]
    }
    segments = _records(data, layout["phdr"], head["phoff"], head["phnum"])
    sections = _records(data, layout["shdr"], head["shoff"], head["shnum"])
    functions = sorted(set(_functions(data, layout, sections)))
    start = np.array([value for value, _, _ in functions], np.uint64)
    size = np.array([size for _, size, _ in functions], np.uint64)
    following = np.append(start[1:], start[-1:] + np.uint64(1))  # hand-written code has no size
    end = np.where(size > 0, start + size, following)
    return _Elf(segments[segments["type"] == PT_LOAD], start, end, [name for *_, name in functions])


@functools.lru_cache(maxsize=64)
def _load(path: str, _stamp: tuple[int, int]) -> _Elf | None:
    try:
        data = Path(path).read_bytes()
        return _parse(data) if data[:4] == b"\x7fELF" else None
    except (OSError, ValueError, KeyError, IndexError):
        return None


def _open(path: str) -> _Elf | None:
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return _load(path, (status.st_mtime_ns, status.st_size))


def _ask_addr2line(path: str, addresses: Sequence[int]) -> list[Name] | None:
    tool = shutil.which("addr2line")
    if tool is None:
        return None
    try:
        run = subprocess.run(  # noqa: S603 - a fixed tool on a file the user recorded
            [tool, "-f", "-C", "-e", path],
            input="".join(f"{address:#x}\n" for address in addresses),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = run.stdout.splitlines()
    if run.returncode != 0 or len(lines) != 2 * len(addresses):
        return None
    return [_read_pair(lines[i], lines[i + 1]) for i in range(0, len(lines), 2)]


def _read_pair(function: str, place: str) -> Name:
    file, _, line = place.partition(" (")[0].rpartition(":")
    known = file not in ("", "??")
    return Name(
        None if function == "??" else function,
        file if known else None,
        int(line) if known and line.isdigit() else None,
    )


def lookup(path: str, offsets: Sequence[int]) -> list[Name]:
    """Return what is known of the code at each file offset of ``path``; never raises."""
    elf = _open(path)
    if elf is None:
        return [Name() for _ in offsets]
    addresses = [elf.address_of(offset) for offset in offsets]
    answers = _ask_addr2line(path, addresses) or [Name() for _ in offsets]
    return [
        _trusted(answer, elf.function_at(address))
        for answer, address in zip(answers, addresses, strict=True)
    ]


def _trusted(answer: Name, covering: str | None) -> Name:
    """Return what may be believed of addr2line's ``answer``.

    Without debug information it names the nearest symbol below, however far away: in a stripped
    program that is some exported function.  Its (demangled) name counts only where a function
    covers the address.
    """
    if answer.file:
        return Name(answer.function or covering, answer.file, answer.line)
    return Name((answer.function or covering) if covering else None)
