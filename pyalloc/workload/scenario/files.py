"""Scenario files: reading one, finding those that come with the package."""

from __future__ import annotations

import copy
import re
import tomllib
from collections.abc import Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Final

from pyalloc.errors import ScenarioError
from pyalloc.workload.scenario.origin import Origin

_FOLDER: Final = "scenarios"
_AT: Final = re.compile(r"(.*) \(at line (\d+), column \d+\)")


def anchored(data: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return a copy of a scenario's data in which every path is absolute."""
    found = copy.deepcopy(dict(data))
    processes = found.get("process")
    for process in processes if isinstance(processes, list) else ():
        if not isinstance(process, dict):
            continue
        _anchor(process, "maps", folder)
        if isinstance(process.get("program"), dict):
            _anchor(process["program"], "trace", folder)
            _anchor_function(process["program"], folder)
    return found


def _anchor(table: dict[str, Any], key: str, folder: Path) -> None:
    if isinstance(table.get(key), str) and table[key]:
        table[key] = str((folder / table[key]).absolute())


def _anchor_function(table: dict[str, Any], folder: Path) -> None:
    """Name the file of a function's module, if there is one beside the scenario."""
    text = table.get("python")
    if not isinstance(text, str):
        return
    module, colon, name = text.rpartition(":")
    file = folder / (module if module.endswith(".py") else f"{module.replace('.', '/')}.py")
    if colon and (module.endswith(".py") or file.is_file()):
        table["python"] = f"{file.absolute()}:{name}"


def parse(text: str, origin: Origin) -> dict[str, Any]:
    """Return the data of a TOML text.

    Raises
    ------
    ScenarioError
        It is not TOML; the text says in which line.
    """
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        said = _AT.fullmatch(str(error))
        place, what = (f":{said[2]}", said[1]) if said else ("", str(error))
        message = f"{origin.name}{place}: not TOML: {what[:1].lower()}{what[1:]}"
        raise ScenarioError(message) from None


def shipped() -> dict[str, Traversable]:
    """Return the scenario files that come with the package, by name."""
    folder = files("pyalloc.workload") / _FOLDER
    found = [item for item in folder.iterdir() if item.name.endswith(".toml")]
    return {item.name.removesuffix(".toml"): item for item in sorted(found, key=lambda i: i.name)}
