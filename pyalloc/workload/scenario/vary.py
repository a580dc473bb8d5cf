"""Changes to plain data by key path: ``process.worker.program.size``."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from pyalloc.errors import ScenarioError
from pyalloc.nearest import nearest


def varied(data: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of ``data`` with the keys of ``changes`` set.

    Raises
    ------
    ScenarioError
        A list has no element of the name that a path gives.
    """
    found = copy.deepcopy(dict(data))
    for path, value in changes.items():
        _set(found, path, value)
    return found


def _set(data: dict[str, Any], path: str, value: Any) -> None:  # noqa: ANN401
    at, rest = data, path
    while True:
        key, dot, rest = rest.partition(".")
        if not dot:
            at[key] = value
            return
        inner = at.setdefault(key, {})
        if isinstance(inner, list):
            inner, rest = _element(inner, key, rest, path)
            if not rest:
                message = f"{path}: what of {key} is to change?"
                raise ScenarioError(message)
        if isinstance(inner, str) and key == "program":
            inner = at[key] = _as_table(inner)
        at = inner


def _element(items: list[Any], key: str, rest: str, path: str) -> tuple[Any, str]:
    """Return the element whose name ``rest`` begins with, and what follows."""
    for item in sorted(items, key=lambda item: -len(item.get("name", ""))):
        name = item.get("name", "")
        if name and (rest == name or rest.startswith(f"{name}.")):
            return item, rest[len(name) + 1 :]
    names = [item.get("name", "") for item in items]
    message = f"{path}: there is no {key} of that name{nearest(rest.partition('.')[0], names)}"
    raise ScenarioError(message)


def _as_table(text: str) -> dict[str, Any]:
    name, _, rest = text.partition(":")
    pairs = (part.partition("=") for part in filter(None, rest.split(",")))
    return {"name": name, **{key.strip(): value.strip() for key, _, value in pairs}}
