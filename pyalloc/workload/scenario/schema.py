"""The JSON Schema of a scenario file, for editors, and the table of its keys, for people.

Both come from the definition that validates (:mod:`pyalloc.workload.scenario.spec`) and from the
programs there are, with their parameters and what their docstrings say of them.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any, Final, get_args

import msgspec
from msgspec import NODEFAULT, Meta, Struct
from msgspec.structs import FieldInfo

from pyalloc.workload.catalogue import WORKLOADS
from pyalloc.workload.programs import PROGRAMS, Parameter, parameters_of
from pyalloc.workload.programs.parameters import shown
from pyalloc.workload.programs.replayed import replayed
from pyalloc.workload.programs.units import DURATION, SIZE
from pyalloc.workload.scenario.convert import default_of, fields_of, struct_in, unit_meta
from pyalloc.workload.scenario.scenario import Scenario
from pyalloc.workload.scenario.spec import DURATION_SCHEMA, SIZE_SCHEMA

DRAFT: Final = "https://json-schema.org/draft/2020-12/schema"

_TYPES: Final = {bool: "boolean", int: "integer", float: "number", str: "string"}
_UNITS: Final = {SIZE: SIZE_SCHEMA, DURATION: DURATION_SCHEMA}


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a scenario."""
    schema = msgspec.json.schema(Scenario)
    parts = schema["$defs"]
    for part in _structs():
        _add_units(part, parts[part.__name__])
    parts["ProcessSpec"]["properties"]["program"] |= _program_schema()
    return {
        "$schema": DRAFT,
        **parts.pop("Scenario"),
        "title": "pyalloc scenario",
        "$defs": parts,
    }


def _structs() -> Iterator[type[Struct]]:
    yield Scenario
    for field in fields_of(Scenario).values():
        part = struct_in(field.type)
        if part is not None:
            yield part


def _add_units(part: type[Struct], schema: dict[str, Any]) -> None:
    """Say of each field with a unit how it is written."""
    schema["description"] = _plain_words((inspect.getdoc(part) or "").partition("\n\n")[0])
    for name, field in fields_of(part).items():
        meta = unit_meta(field)
        if meta is not None and meta.extra_json_schema:
            found = schema["properties"][name]
            nullable = [{"type": "null"}] if {"type": "null"} in found.get("anyOf", ()) else []
            found["anyOf"] = [*meta.extra_json_schema["anyOf"], *nullable]


def _program_schema() -> dict[str, Any]:
    pace = _parameters(replayed, "trace")
    tables = [_table("name", name, _parameters(run), _line(run)) for name, run in PROGRAMS.items()]
    for name, workload in WORKLOADS.items():
        own = {key: Parameter(key, default) for key, default in workload.parameters.items()}
        tables.append(_table("name", name, own | pace, workload.description))
    own = {"format": Parameter("format", "", description="The trace's format."), **pace}
    tables.append(_table("trace", None, own, "A recorded trace, at the pace it was recorded at."))
    tables.append(
        {
            "type": "object",
            "description": "A generator function of a file or module.",
            "properties": {"python": {"type": "string", "pattern": "^.+:.+$"}},
            "required": ["python"],
        }
    )
    names = "|".join([*PROGRAMS, *WORKLOADS])
    return {"anyOf": [{"type": "string", "pattern": rf"^({names})(:.*)?$"}, *tables]}


def _parameters(run: Callable[..., Any], *without: str) -> dict[str, Parameter]:
    return {name: p for name, p in parameters_of(run).items() if name not in without}


def _line(run: Callable[..., Any]) -> str:
    """Return the first sentence of a docstring."""
    return (inspect.getdoc(run) or "").partition("\n\n")[0].replace("\n", " ")


def _table(
    key: str, value: str | None, parameters: dict[str, Parameter], line: str
) -> dict[str, Any]:
    own = {"type": "string"} if value is None else {"const": value}
    return {
        "type": "object",
        "description": line,
        "properties": {key: own, **{name: _value(p) for name, p in parameters.items()}},
        "required": [key],
        "additionalProperties": False,
    }


def _value(parameter: Parameter) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if parameter.description:
        found["description"] = parameter.description
    if parameter.unit:
        return found | _UNITS[parameter.unit]
    kind = _TYPES.get(type(parameter.default))
    if kind in {"integer", "number"}:  # sizes and the like are whole numbers that take a unit
        return found | {"type": [kind, "string"]}
    return found | ({"type": kind} if kind else {})


# --- for people ------------------------------------------------------------------------------


def key_tables() -> Iterator[tuple[str, str, list[tuple[str, str, str]]]]:
    """Yield the tables of a file: heading, words, and rows of key, default, description."""
    yield "Top level", "", _rows(Scenario)
    for key, field in fields_of(Scenario).items():
        part = struct_in(field.type)
        if part is not None:
            heading = f"[[{key}]]" if "tuple" in str(field.type) else f"[{key}]"
            yield heading, _plain_words(inspect.getdoc(part) or ""), _rows(part)


def _plain_words(text: str) -> str:
    """Return a docstring's words without its markup."""
    return re.sub(r":\w+:`~?([^`]*)`", r"\1", text).replace("``", "").replace("\n", " ")


def _rows(part: type[Struct]) -> list[tuple[str, str, str]]:
    return [
        (name, _default(field), _words(field))
        for name, field in fields_of(part).items()
        if struct_in(field.type) is None
    ]


def _default(field: FieldInfo) -> str:
    value = default_of(field)
    if value is NODEFAULT:
        return "needed"
    if value in ("", None, (), {}):
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _words(field: FieldInfo) -> str:
    """Return a field's description, and the words it may be."""
    metas = [part for part in get_args(field.type) if isinstance(part, Meta)]
    words = next((meta.description for meta in metas if meta.description), "")
    choices = get_args(get_args(field.type)[0]) if get_args(field.type) else ()
    if choices and all(isinstance(choice, str) for choice in choices):
        words += f" One of {', '.join(c for c in choices if c)}."
    return words


def program_table() -> list[tuple[str, str, list[tuple[str, str, str]]]]:
    """Return the programs: name, what it does, and rows of parameter, default, description."""
    return [
        (
            name,
            _line(run),
            [(p.name, shown(p), p.description) for p in parameters_of(run).values()],
        )
        for name, run in PROGRAMS.items()
    ]


def pace_rows() -> list[tuple[str, str, str]]:
    """Return the parameters of every trace and workload as a program."""
    return [(p.name, shown(p), p.description) for p in _parameters(replayed, "trace").values()]


def markdown() -> str:
    """Return the tables of keys and programs as Markdown, as docs/scenarios.md has them."""
    lines: list[str] = []
    for heading, words, rows in key_tables():
        lines += [f"### {heading}", "", *([words, ""] if words else []), *_markdown(rows, "key")]
    lines += ["### Programs", ""]
    for name, line, rows in program_table():
        lines += [f"**`{name}`** {line}", "", *_markdown(rows, "parameter")]
    lines += ["Workloads and traces take besides their own parameters:", ""]
    lines += _markdown(pace_rows(), "parameter")
    return "\n".join(lines)


def _markdown(rows: list[tuple[str, str, str]], head: str) -> list[str]:
    table = [f"| {head} | default | |", "|---|---|---|"]
    table += [
        f"| `{key}` | {f'`{value}`' if value else ''} | {text} |" for key, value, text in rows
    ]
    return [*table, ""]
