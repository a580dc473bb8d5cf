"""A program with its parameters, and how one is found by what a scenario says.

===============================  =================================================================
``"leak:size=1M,every=10s"``     a program of the library, or a workload, by name
``{name = "leak", size = "1M"}``  the same as a table
``{trace = "web.parquet"}``      a recorded trace, at the pace at which it was recorded
``{python = "web.py:main"}``     a generator function of a file or an importable module
===============================  =================================================================

Other packages add theirs under the entry point group ``pyalloc.programs``.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from pyalloc.errors import PyallocError
from pyalloc.nearest import nearest
from pyalloc.trace import Trace, read_trace
from pyalloc.workload.catalogue import WORKLOADS
from pyalloc.workload.programs.job import Job
from pyalloc.workload.programs.library import LIBRARY
from pyalloc.workload.programs.parameters import (
    Parameter,
    ProgramError,
    Run,
    parameters_of,
    required,
)
from pyalloc.workload.programs.replayed import replayed

ENTRY_POINTS: Final = "pyalloc.programs"
_SOURCES: Final = ("name", "trace", "python")


@dataclass(frozen=True, slots=True)
class Program:
    """What a process does: a generator function and its parameters.

    Called with a job it begins; see :mod:`pyalloc.workload.programs` for how one is written.
    ``said`` are its parameters as they were written.
    """

    name: str
    run: Run
    parameters: Mapping[str, Any] = field(default_factory=dict)
    said: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, job: Job) -> Iterator[float]:
        """Begin it on ``job``."""
        return self.run(job, **self.parameters)

    def __str__(self) -> str:
        rest = ",".join(f"{name}={value}" for name, value in self.said.items())
        return f"{self.name}:{rest}" if rest else self.name


def _bound(name: str, run: Run, given: Mapping[str, Any]) -> Program:
    known = parameters_of(run)
    takes_any = any(p.kind is p.VAR_KEYWORD for p in inspect.signature(run).parameters.values())
    values = {}
    for key, value in given.items():
        if key not in known and not takes_any:
            message = f"program {name} has no parameter {key!r}{nearest(key, known)}"
            raise ProgramError(message, key)
        values[key] = known[key].parse(value) if key in known else value
    for key in required(run):
        if key not in values:
            message = f"program {name} needs the parameter {key!r}"
            raise ProgramError(message)
    return Program(name, run, values, dict(given))


# --- by name ---------------------------------------------------------------------------------


class _Programs(Mapping[str, Run]):
    """Every program by its name: the library's, and plug-ins'."""

    def __getitem__(self, name: str) -> Run:
        if name in LIBRARY:
            return LIBRARY[name]
        return _plugins()[name]

    def __iter__(self) -> Iterator[str]:
        yield from LIBRARY
        yield from _plugins()

    def __len__(self) -> int:
        return sum(1 for _ in self)


@lru_cache(maxsize=1)
def _plugins() -> dict[str, Run]:
    return {entry.name: entry.load() for entry in entry_points(group=ENTRY_POINTS)}


PROGRAMS: Final[Mapping[str, Run]] = _Programs()
"""The programs there are by name, workloads aside (see :data:`pyalloc.WORKLOADS`)."""


def program(said: str | Mapping[str, Any] | Run, folder: Path | None = None) -> Program:
    """Return the program that a scenario names.

    Parameters
    ----------
    said
        ``"NAME"``, ``"NAME:KEY=VALUE,..."``, a table of ``name``, ``trace`` or ``python`` and
        parameters, or a generator function.
    folder
        Where files are looked for whose path is relative.

    Raises
    ------
    ProgramError
        There is no such program, file or parameter, or a value does not fit.
    """
    if callable(said):
        if isinstance(said, Program):
            return said
        return _bound(getattr(said, "__name__", "program"), said, {})
    given = dict(_as_table(said))
    written = dict(given)
    sources = [key for key in _SOURCES if key in given]
    if len(sources) != 1:
        message = "a program is a table with one of name, trace and python" + (
            f", not {' and '.join(sources)}" if sources else ""
        )
        raise ProgramError(message)
    source = given.pop(sources[0])
    if not isinstance(source, str):
        message = f"must be text (got {source!r})"
        raise ProgramError(message, sources[0])
    make = {"name": _named, "trace": _traced, "python": _imported}[sources[0]]
    written.pop(sources[0])
    return replace(make(source, given, folder or Path()), said=written)


def _as_table(said: object) -> Mapping[str, Any]:
    if isinstance(said, Mapping):
        return said
    if isinstance(said, str):
        return _split(said)
    message = f"a program is text or a table (got {said!r})"
    raise ProgramError(message)


def _split(text: str) -> dict[str, Any]:
    name, _, rest = text.partition(":")
    given: dict[str, Any] = {"name": name}
    for part in filter(None, rest.split(",")):
        key, equals, value = part.partition("=")
        if not (key and equals and value):
            message = f"a program is written NAME:KEY=VALUE,... (got {text!r})"
            raise ProgramError(message)
        given[key.strip()] = value.strip()
    return given


def _named(name: str, given: dict[str, Any], folder: Path) -> Program:  # noqa: ARG001
    if name in PROGRAMS:
        return _bound(name, PROGRAMS[name], given)
    if name not in WORKLOADS:
        known = [*PROGRAMS, *WORKLOADS]
        message = f"no program {name!r}{nearest(name, known)}"
        raise ProgramError(message, "name")
    pace = {key: given.pop(key) for key in list(given) if key in _pace()}
    try:
        trace = _workload_trace(name, tuple(sorted(given.items())))
    except PyallocError as error:
        wrong = next((key for key in given if repr(key) in str(error)), "")
        message = str(error)
        raise ProgramError(message, wrong) from None
    return _bound(name, partial(replayed, trace=trace), pace)


def _pace() -> dict[str, Parameter]:
    """Return the parameters that say how a trace is run."""
    return {name: p for name, p in parameters_of(replayed).items() if name != "trace"}


@lru_cache(maxsize=64)
def _workload_trace(name: str, parameters: tuple[tuple[str, Any], ...]) -> Trace:
    return WORKLOADS[name].make(**dict(parameters))


def _traced(path: str, given: dict[str, Any], folder: Path) -> Program:
    file = folder / path
    if not file.is_file():
        message = f"there is no file {file}{_beside(file)}"
        raise ProgramError(message, "trace")
    form = given.pop("format", None)
    try:
        trace = _file_trace(file, file.stat().st_mtime_ns, form)
    except (PyallocError, OSError) as error:
        message = f"{file}: {error}"
        raise ProgramError(message, "trace") from None
    return _bound(file.name, partial(replayed, trace=trace), given)


@lru_cache(maxsize=16)
def _file_trace(path: Path, changed: int, form: str | None) -> Trace:  # noqa: ARG001 - a key
    return read_trace(path, form)


def _beside(file: Path) -> str:
    folder = file.parent
    return nearest(file.name, (p.name for p in folder.iterdir())) if folder.is_dir() else ""


# --- functions -------------------------------------------------------------------------------


def _imported(text: str, given: dict[str, Any], folder: Path) -> Program:
    module_name, colon, name = text.rpartition(":")
    if not (colon and module_name and name):
        message = f"a function is written MODULE:FUNCTION or FILE.py:FUNCTION (got {text!r})"
        raise ProgramError(message, "python")
    module = _module(module_name, folder)
    run = getattr(module, name, None)
    if not callable(run):
        known = [n for n, v in vars(module).items() if inspect.isgeneratorfunction(v)]
        message = f"{module_name} has no function {name!r}{nearest(name, known)}"
        raise ProgramError(message, "python")
    return _bound(name, run, given)


def _module(name: str, folder: Path) -> ModuleType:
    file = folder / (name if name.endswith(".py") else f"{name.replace('.', '/')}.py")
    try:
        if file.is_file():
            return _file_module(file.resolve())
        if name.endswith(".py"):
            message = f"there is no file {file}{_beside(file)}"
            raise ProgramError(message, "python")
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        message = f"cannot import {name}: {error}"
        raise ProgramError(message, "python") from None


def _file_module(file: Path) -> ModuleType:
    """Return the module of a file, the same one for the same file."""
    name = f"pyalloc_program_{file.stem}_{zlib.crc32(str(file).encode()):x}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        message = f"{file} is not a Python file"
        raise ProgramError(message, "python")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
