"""The text of ``/proc/PID/maps``, read: a real kernel's, a simulated one's, a recorder's.

Source: ``Documentation/filesystems/proc.rst`` of Linux 6.12.  Kernels before 2.6 and people who
quote a map leave columns out at the end of a line; those read as zero.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from pyalloc.errors import ArgumentError

_LINE: Final = re.compile(
    r"\s*([0-9a-f]+)-([0-9a-f]+) ([r-][w-][x-][ps])"
    r"(?: +([0-9a-f]+)(?: +([0-9a-f]+:[0-9a-f]+) +(\d+))?)?(?: +(\S.*?))?\s*"
)


@dataclass(frozen=True, slots=True)
class Area:
    """One line of ``/proc/PID/maps``: addresses and ``offset`` in bytes."""

    start: int
    end: int
    permissions: str
    offset: int
    device: str
    inode: int
    name: str

    @property
    def length(self) -> int:
        """Its size in bytes."""
        return self.end - self.start

    @property
    def executable(self) -> bool:
        """Whether it holds code."""
        return self.permissions[2] == "x"

    @property
    def promised(self) -> bool:
        """Whether a kernel promises its pages: it is private and may be written to."""
        return self.permissions[1] == "w" and self.permissions[3] == "p"


def area_of(line: str) -> Area | None:
    """Return the area that a line tells of; None if it is no such line.

    >>> area_of("08048000-08049000 r-xp 00000000 03:02 123 /bin/prog").name
    '/bin/prog'
    """
    match = _LINE.fullmatch(line)
    if match is None:
        return None
    start, end, permissions, offset, device, inode, name = match.groups()
    return Area(
        int(start, 16),
        int(end, 16),
        permissions,
        int(offset or "0", 16),
        device or "00:00",
        int(inode or 0),
        name or "",
    )


def numbered_areas(text: str) -> Iterator[tuple[int, Area]]:
    """Yield each area of a text and the number of its line, from 1 on; empty lines are none.

    Raises
    ------
    ArgumentError
        A line is not of that form; the text says which.
    """
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        area = area_of(line)
        if area is None:
            message = f"line {number} is not a line of /proc/PID/maps: {line.strip()[:80]!r}"
            raise ArgumentError(message)
        yield number, area


def parse_maps(text: str) -> tuple[Area, ...]:
    """Return the areas of a text.

    Raises
    ------
    ArgumentError
        A line is not of that form; the text says which.
    """
    return tuple(area for _, area in numbered_areas(text))


def whole_areas(text: str) -> Iterator[Area]:
    """Yield the areas of a text that may be cut short anywhere: those whose line is whole."""
    for line in text.split("\n")[:-1]:
        area = area_of(line)
        if area is not None:
            yield area
