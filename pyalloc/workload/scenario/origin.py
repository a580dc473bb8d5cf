"""Where in a scenario's text a key stands, so that an error can say so.

:mod:`tomllib` tells lines of syntax errors only; here the text is read once more, for its keys.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pyalloc.errors import ScenarioError

Path = tuple[str | int, ...]
"""A key path: names of keys, and numbers in arrays."""

_KEY: Final = r"""(?:[A-Za-z0-9_-]+|"(?:[^"\\]|\\.)*"|'[^']*')"""
_KEYS: Final = rf"{_KEY}(?:\s*\.\s*{_KEY})*"
_TABLE: Final = re.compile(rf"\s*(\[\[?)\s*({_KEYS})\s*\]")
_PAIR: Final = re.compile(rf"\s*({_KEYS})\s*=(.*)", re.DOTALL)
_TOKEN: Final = re.compile(
    r"""\"\"\"|'''|"(?:[^"\\]|\\.)*"|'[^']*'|\#.*|[\[\]{}]""",
)


def _names(keys: str) -> Path:
    return tuple(key.strip("\"'") for key in re.findall(_KEY, keys))


class _Depth:
    """Whether a line begins inside a value that started on a line before."""

    def __init__(self) -> None:
        self.quote = ""
        self.brackets = 0

    def __bool__(self) -> bool:
        return bool(self.quote) or self.brackets > 0

    def feed(self, text: str) -> None:
        while text:
            if self.quote:
                _, found, text = text.partition(self.quote)
                self.quote = "" if found else self.quote
                continue
            token = _TOKEN.search(text)
            if not token:
                return
            text = text[token.end() :]
            if token[0] in {'"""', "'''"}:
                self.quote = token[0]
            elif token[0] in "[{":
                self.brackets += 1
            elif token[0] in "]}":
                self.brackets -= 1


def _lines_of(text: str) -> Iterator[tuple[Path, int]]:
    """Yield the path of each table and key, with the number of its line."""
    table: Path = ()
    counts: dict[Path, int] = {}
    depth = _Depth()
    for number, line in enumerate(text.splitlines(), 1):
        if depth:
            depth.feed(line)
        elif head := _TABLE.match(line):
            table = _names(head[2])
            if head[1] == "[[":
                counts[table] = counts.get(table, -1) + 1
                table = (*table, counts[table])
            elif table[:1] in counts and len(table) > 1:  # a table of the array's last element
                table = (table[0], counts[table[:1]], *table[1:])
            yield table, number
        elif pair := _PAIR.match(line):
            yield (*table, *_names(pair[1])), number
            depth.feed(pair[2])


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a scenario comes from: the name of its file, and its text; both may be empty."""

    name: str = ""
    text: str = field(default="", repr=False)

    def line(self, path: Path) -> int | None:
        """Return the number of the line of ``path``, or of the nearest key around it."""
        found: dict[Path, int] = {}
        for key, number in _lines_of(self.text):
            for length in range(len(key), 0, -1):
                found.setdefault(key[:length], number)
        return next((found[path[:n]] for n in range(len(path), 0, -1) if path[:n] in found), None)

    def error(self, path: Path, what: str, data: Mapping[str, Any] | None = None) -> ScenarioError:
        """Return the error that says where ``path`` is, and ``what`` is wrong there."""
        line = self.line(path)
        place = (
            f"{self.name}:{line}: " if self.name and line else f"{self.name}: " * bool(self.name)
        )
        key = spelled(path, data)
        return ScenarioError(f"{place}{key}: {what}" if key else f"{place}{what}")


def spelled(path: Path, data: Mapping[str, Any] | None = None) -> str:
    """Return a path as text; elements of arrays go by their name where they have one.

    >>> spelled(("process", 1, "start"), {"process": [{}, {"name": "web"}]})
    'process web: start'
    """
    words: list[str] = []
    at: Any = data
    for part in path:
        at = _inside(at, part)
        if isinstance(part, str):
            words.append(part)
        else:
            name = at.get("name") if isinstance(at, Mapping) else None
            words[-1] += f" {name}" if isinstance(name, str) else f" number {part + 1}"
    return _join(words)


def _join(words: list[str]) -> str:
    head = words[0] if words else ""
    return ": ".join(filter(None, [head, ".".join(words[1:])])) if " " in head else ".".join(words)


def _inside(at: Any, part: str | int) -> Any:  # noqa: ANN401 - data as a file has it
    try:
        return at[part]
    except (TypeError, KeyError, IndexError):
        return None
