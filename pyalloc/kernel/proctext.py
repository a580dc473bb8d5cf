"""A ``/proc`` file: its text, and a mapping of the fields in it.

What is read of a simulated process and of a real one are the same objects: :func:`parse_proc` makes
of a text what the simulation's own calls return.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, Generic, TypeVar

from pyalloc.errors import ArgumentError
from pyalloc.kernel.maps import area_of
from pyalloc.nearest import near_word, nearest

V = TypeVar("V")


class ProcText(Mapping[str, V], Generic[V]):
    r"""What one read of a ``/proc`` file gives.

    ``str()`` is the text, to the byte; as a mapping it gives each field its value, numbers as
    ints in the unit the file has (kB where it says kB).

    Examples
    --------
    >>> text = ProcText("VmRSS:\\t    1620 kB\\n", {"VmRSS": 1620})
    >>> text["VmRSS"], str(text)
    (1620, 'VmRSS:\\t    1620 kB\\n')
    """

    __slots__ = ("_fields", "_text")

    def __init__(self, text: str, fields: Mapping[str, V]) -> None:
        self._text = text
        self._fields = dict(fields)

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return self._text

    def __getitem__(self, field: str) -> V:
        if field not in self._fields:
            message = f"no field {field!r} here{near_word(str(field), map(str, self._fields))}"
            raise KeyError(message)
        return self._fields[field]

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)


STATM: Final = ("size", "resident", "shared", "text", "lib", "data", "dt")
"""The numbers of ``/proc/PID/statm``, in pages."""

_KB: Final = re.compile(r" *(\d+) kB")


def number(value: str) -> int | str:
    """Return a number as an int; masks and the like, which begin with zeros, stay text."""
    return int(value) if value.isdecimal() and (len(value) == 1 or value[0] != "0") else value


def _maps(text: str) -> dict[str, str]:
    return dict(line.split(" ", 1) for line in text.splitlines())


def _value(value: str) -> int | str:
    match = _KB.fullmatch(value)
    return int(match[1]) if match else number(value)


def _status(text: str) -> dict[str, int | str]:
    rows = (line.split(":\t", 1) for line in text.splitlines())
    return {name: _value(value) for name, value in rows}


def parse_fields(text: str) -> dict[str, int | str]:
    """Return the fields of lines ``Name: value``; a number, of kB, too, as an int."""
    rows = (line.partition(":") for line in text.splitlines())
    return {name: _value(value.strip()) for name, colon, value in rows if colon}


def _smaps(text: str) -> dict[str, dict[str, int | str]]:
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if area_of(line):
            rows = found[line.partition(" ")[0]] = []
        else:
            rows.append(line)
    return {span: parse_fields("\n".join(rows)) for span, rows in found.items()}


def _rollup(text: str) -> dict[str, int | str]:
    return parse_fields(text.partition("\n")[2])


def _statm(text: str) -> dict[str, int]:
    return dict(zip(STATM, map(int, text.split()), strict=True))


def _counts(text: str) -> dict[str, int]:
    return {name: int(value) for name, value in map(str.split, text.splitlines())}


_READERS: Final[Mapping[str, Callable[[str], Mapping[str, Any]]]] = {
    "maps": _maps,
    "smaps": _smaps,
    "smaps_rollup": _rollup,
    "status": _status,
    "statm": _statm,
    "meminfo": parse_fields,
    "vmstat": _counts,
}


def parse_proc(name: str, text: str) -> ProcText[Any]:
    r"""Return the text of a ``/proc`` file as the simulation's own calls return theirs.

    Parameters
    ----------
    name
        ``"maps"``, ``"smaps"``, ``"smaps_rollup"``, ``"status"``, ``"statm"``, ``"meminfo"`` or
        ``"vmstat"``.
    text
        The file, whole, of any kernel.

    Raises
    ------
    ArgumentError
        There is no reader of that name, or the text is no such file.

    Examples
    --------
    >>> parse_proc("status", "Name:\tcat\nVmRSS:\t    1620 kB\n")["VmRSS"]
    1620
    """
    if name not in _READERS:
        message = f"no reader of /proc file {name!r}{nearest(name, _READERS)}"
        raise ArgumentError(message)
    try:
        return ProcText(text, _READERS[name](text))
    except ValueError as error:
        message = f"this is no text of a /proc {name}: {error}"
        raise ArgumentError(message) from None
