"""The kinds of options: what each may be, looked at before a command does anything.

A recording may take an hour, so a word that is wrong is told before it begins.  A check raises an
ArgumentError; a text that begins with "must" gets the option's name put in front.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final

from cyclopts import Parameter

from pyalloc.errors import ArgumentError
from pyalloc.lab.allocators import allocators
from pyalloc.lab.setting import Setting
from pyalloc.machine.tunables import number_of, unknown
from pyalloc.nearest import nearest
from pyalloc.trace import files
from pyalloc.units import parse_size

_WORD: Final = 1 << 64


def _must(words: str, holds: Callable[[Any], bool]) -> Parameter:
    """Return a parameter whose value must be as ``words`` say."""

    def check(_: Any, value: Any) -> None:  # noqa: ANN401 - of the option's own type
        if value is not None and not holds(value):
            message = f"must be {words} (got {value})"
            raise ArgumentError(message)

    return Parameter(validator=check)


def _each(check: Callable[[str], object]) -> Parameter:
    """Return a parameter, given once or more often, of whose every text ``check`` may complain."""

    def check_all(_: Any, value: str | list[str] | None) -> None:  # noqa: ANN401
        for text in [value] if isinstance(value, str) else value or ():
            check(text)

    return Parameter(validator=check_all, negative="")


def _allocator(name: str) -> None:
    known = [one.name for one in allocators()]
    for part in name.split(","):
        if part not in known:
            message = f"no allocator {part!r}{nearest(part, known)}"
            raise ArgumentError(message)


def _setting(text: str) -> None:
    setting = Setting.parse(text)
    if setting.allocator:
        _allocator(setting.allocator)


def settings(pairs: list[str] | None) -> dict[str, str] | None:
    """Return ``NAME=VALUE`` pairs as a mapping."""
    found = {}
    for pair in pairs or ():
        name, equals, value = pair.partition("=")
        if not (name and equals and value):
            message = f"a tunable is given as NAME=VALUE (got {pair!r})"
            raise ArgumentError(message)
        hint = unknown(name)
        if hint:
            message = f"there is no tunable {name!r}{hint}"
            raise ArgumentError(message)
        number_of(name, value)
        found[name] = value
    return found or None


def _readable(name: str) -> None:
    if name not in files.names():
        message = f"no trace format {name!r}{nearest(name, files.names())}"
        raise ArgumentError(message)


def _writable(name: str) -> None:
    if name not in files.writable():
        message = f"cannot write format {name!r}{nearest(name, files.writable())}"
        raise ArgumentError(message)


def _target(_: Any, path: Path | None) -> None:  # noqa: ANN401
    """Raise ArgumentError unless a file can be written there."""
    if path is None:
        return
    folder = path.parent
    if path.is_dir():
        message = f"cannot write {path}: it is a folder"
    elif not folder.is_dir():
        message = f"cannot write {path}: there is no folder {folder}"
    elif not os.access(path if path.exists() else folder, os.W_OK):
        message = f"cannot write {path}: {folder} may not be written to"
    else:
        return
    raise ArgumentError(message)


def check_free(path: Path | None, *, force: bool = False, how: str = "") -> None:
    """Raise ArgumentError if a file is there that may not be written over."""
    if path is not None and path.is_file() and not force:
        hint = f", or {how}" if how else ""
        message = f"{path} is there already: choose another name{hint}"
        raise ArgumentError(message)


Flag = Annotated[bool, Parameter(negative="")]

Count = Annotated[int, _must("1 or more", lambda n: n >= 1)]
Natural = Annotated[int, _must("0 or more", lambda n: n >= 0)]
Seed = Annotated[int, _must("0 or more, of at most 64 bits", lambda n: 0 <= n < _WORD)]
Share = Annotated[float, _must("a number, 0 or more", lambda x: 0 <= x < math.inf)]
Passes = Annotated[int, _must("2 or more", lambda n: n >= 2)]
Megabytes = Annotated[int, _must("4 to 1024", lambda n: 4 <= n <= 1024)]
Factor = Annotated[float, _must("0.1 to 4", lambda x: 0.1 <= x <= 4)]
PageCluster = Annotated[int, _must("0 to 31", lambda n: 0 <= n <= 31)]
Swappiness = Annotated[int, _must("0 to 200", lambda n: 0 <= n <= 200)]
Percent = Annotated[float, _must("a number", math.isfinite)]
Seconds = Annotated[float, _must("seconds, more than 0", lambda x: 0 < x < math.inf)]

Size = Annotated[str, _each(parse_size)]
AllocatorName = Annotated[str, _each(_allocator)]
Allocators = Annotated[list[str], _each(_allocator)]
Settings = Annotated[list[str], Parameter(name=["--setting", "-s"]), _each(_setting)]
Tunables = Annotated[list[str], _each(lambda pair: settings([pair]))]
Format = Annotated[str, _each(_readable)]
OutputFormat = Annotated[str, _each(_writable)]

Target = Annotated[Path, Parameter(validator=_target)]
Output = Annotated[Path, Parameter(name=["--output", "-o"], validator=_target)]
