"""The parameters of a program: found in its signature and docstring, read from text."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Final, get_type_hints

from pyalloc.errors import ArgumentError
from pyalloc.units import format_size, parse_duration, parse_size
from pyalloc.workload.programs.units import DURATION, ENDLESS, FOREVER, SIZE

Run = Callable[..., Iterator[float]]

_TRUE: Final = {"true": True, "yes": True, "false": False, "no": False}


class ProgramError(ArgumentError):
    """A program cannot be had; ``key`` is the part of what the scenario says that is wrong."""

    def __init__(self, message: str, key: str = "") -> None:
        super().__init__(message)
        self.key = key


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a program: its default, its unit (or the type of the default), its words."""

    name: str
    default: Any
    unit: str = ""
    description: str = ""

    def parse(self, value: Any) -> Any:  # noqa: ANN401 - as a file has it
        """Return ``value`` as the program takes it."""
        try:
            return self._parse(value)
        except (ValueError, TypeError, KeyError):
            message = f"must be {self.wanted} (got {value!r})"
            raise ProgramError(message, self.name) from None

    def _parse(self, value: Any) -> Any:  # noqa: ANN401
        if self.unit == SIZE:
            return parse_size(value)
        if self.unit == DURATION:
            return parse_duration(value)
        if isinstance(self.default, bool):
            return value if isinstance(value, bool) else _TRUE[value.lower()]
        if isinstance(self.default, int):
            return self._whole(value)
        if isinstance(self.default, float):
            return float(value)
        if isinstance(self.default, str) and not isinstance(value, str):
            raise TypeError
        return value

    def _whole(self, value: Any) -> int:  # noqa: ANN401
        number = parse_size(value) if isinstance(value, str) else value
        if isinstance(number, bool) or not isinstance(number, int):
            raise TypeError
        return number

    @property
    def wanted(self) -> str:
        """What it may be, in words."""
        if self.unit == SIZE:
            return "a number of bytes or text such as '256M'"
        if self.unit == DURATION:
            return "a number of seconds or text such as '90s', '5min' or '2h'"
        kinds = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
        return kinds.get(type(self.default), "another value")


def _described(run: Run) -> dict[str, str]:
    """Return what a docstring's section of parameters says of each."""
    found: dict[str, str] = {}
    _, _, section = inspect.cleandoc(run.__doc__ or "").partition("Parameters\n----------\n")
    names: list[str] = []
    for line in section.splitlines():
        if line[:1].strip():
            if line.startswith("---"):
                break
            names = [name.strip() for name in line.split(",")]
        for name in names if line[:1].isspace() else ():
            found[name] = f"{found.get(name, '')} {line.strip()}".strip()
    return found


def _unit_of(hint: object) -> str:
    return next((part for part in getattr(hint, "__metadata__", ()) if isinstance(part, str)), "")


def _hint(run: Run, name: str) -> object:
    """Return a parameter's annotation; None if it names what is not there at run time."""
    function = getattr(run, "func", run)
    note = inspect.get_annotations(function).get(name)
    try:
        space = getattr(function, "__globals__", {})
        found = get_type_hints(
            SimpleNamespace(__annotations__={name: note}), space, include_extras=True
        )
    except (NameError, TypeError, SyntaxError):
        return None
    return found.get(name)


def parameters_of(run: Run) -> dict[str, Parameter]:
    """Return the parameters of a program besides its job."""
    described = _described(run)
    return {
        p.name: Parameter(
            p.name,
            None if p.default is p.empty else p.default,
            _unit_of(_hint(run, p.name)),
            described.get(p.name, ""),
        )
        for p in _named(run)
    }


def _named(run: Run) -> list[inspect.Parameter]:
    """Return the parameters behind the first that can be given by name."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    listed = list(inspect.signature(run).parameters.values())[1:]
    return [p for p in listed if p.kind in kinds]


def required(run: Run) -> list[str]:
    """Return the parameters without a default."""
    return [p.name for p in _named(run) if p.default is p.empty]


def shown(parameter: Parameter) -> str:
    """Return a parameter's default as a scenario would write it."""
    value = parameter.default
    if value in (FOREVER, ENDLESS):
        return "no end"
    if parameter.unit == SIZE and value:
        return format_size(value).replace(".0 ", "").replace(" ", "").removesuffix("iB")
    if parameter.unit == DURATION:
        return f"{value:g}s"
    return str(value)
