"""Workloads by name: ``"larson"``, ``"fifo:sizes=1-128,live=5000"``, ``"fragmented1:size=64K"``.

A workload is a name and its parameters, written behind a colon.  Every kind of stream, every
stress test, the article's loops and the adversaries have one.  Where a program is wanted, a trace
file or a workload will do (:func:`trace_of`).
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from pyalloc.errors import ArgumentError
from pyalloc.nearest import near_word, nearest
from pyalloc.trace import Trace, read_trace
from pyalloc.units import parse_size
from pyalloc.workload import adversary, loops, stress
from pyalloc.workload.streams import KINDS, StreamSpec, stream

_TRUE: Final = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclass(frozen=True, slots=True)
class Workload:
    """A workload: its name, what makes it, its parameters with their defaults, and one line.

    ``meanings`` says what each parameter is.
    """

    name: str
    maker: Callable[..., Trace]
    parameters: Mapping[str, Any]
    description: str
    meanings: Mapping[str, str]

    def make(self, **parameters: Any) -> Trace:  # noqa: ANN401 - as the maker takes them
        """Return the trace.

        Raises
        ------
        ArgumentError
            An unknown parameter, or a value outside its domain.
        """
        return self.maker(**self.settings(parameters))

    def settings(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Return ``parameters`` as the maker takes them; raises as :meth:`make` does.

        A seed is taken by every workload; where nothing is random it changes nothing.
        """
        for name in parameters:
            if name not in self.parameters and name != "seed":
                hint = nearest(name, self.parameters)
                message = f"workload {self.name} has no parameter {name!r}{hint}"
                raise ArgumentError(message)
        taken = {name: value for name, value in parameters.items() if name in self.parameters}
        return {name: self._value(name, value) for name, value in taken.items()}

    def _value(self, name: str, value: Any) -> Any:  # noqa: ANN401
        """Return ``value`` as the type of the parameter's default, if it is text."""
        default = self.parameters[name]
        if not isinstance(value, str) or isinstance(default, str):
            return value
        try:
            if isinstance(default, bool):
                return _TRUE[value.lower()]
            return float(value) if isinstance(default, float) else parse_size(value, name)
        except (KeyError, ValueError):
            kinds = {bool: "true or false", float: "a number"}
            kind = kinds.get(type(default), "a whole number from 0 up, such as 5000 or 64K")
            message = f"{name} of workload {self.name} must be {kind} (got {value!r})"
            raise ArgumentError(message) from None


def _workload(
    name: str, maker: Callable[..., Trace], description: str = "", explained_by: object = None
) -> Workload:
    signature = inspect.signature(maker)
    parameters = {
        p.name: p.default
        for p in signature.parameters.values()
        if p.default is not inspect.Parameter.empty and p.name != "kind"
    }
    text = inspect.getdoc(explained_by or maker) or ""
    line = description or text.partition("\n")[0].removeprefix("Return ").rstrip(".")
    meanings = _meanings(text)
    return Workload(name, maker, parameters, line, {n: meanings.get(n, "") for n in parameters})


_ENTRY: Final = re.compile(r"^(\w[\w, ]*)\n((?: {4}.*\n?)+)", re.MULTILINE)


def _meanings(docstring: str) -> dict[str, str]:
    """Return what a docstring in numpy's style says of each parameter or attribute."""
    found = {}
    for names, text in _ENTRY.findall(docstring):
        for name in names.split(","):
            found[name.strip()] = _plain(" ".join(text.split()))
    return found


def _plain(text: str) -> str:
    """Return text without the markup of docstrings."""
    text = re.sub(r" \(see :mod:.*?\)", "", text)
    return re.sub(r":\w+:`(.*?)`", r"\1", text).replace("``", "")


def litter(
    of: str = "bursts:count=100000;live=1000",
    occupancy: float = 0.95,
    multiplier: float = 1.0,
    *,
    shuffle: bool = True,
    seed: int = 0,
) -> Trace:
    """Return a program on a heap that was littered before its first call.

    Parameters
    ----------
    of
        The program: a trace file or a workload (semicolons between its parameters).
    occupancy
        Share of the litter that stays, for good.
    multiplier
        Litter blocks, as a multiple of the most that the program has live.
    shuffle
        Free at random places; without it, every k-th block in the order of allocation.
    seed
        Seed of the generator.
    """
    return adversary.litter(
        trace_of(of.replace(";", ",")), occupancy, multiplier, shuffle=shuffle, seed=seed
    )


_KINDS: Final = {
    "random": "a stream of mallocs and frees: each free takes any live block",
    "lifo": "the same calls, each free takes the youngest",
    "fifo": "the same calls, each free takes the oldest",
    "largest": "the same calls, each free takes the largest",
    "smallest": "the same calls, each free takes the smallest",
    "exponential": "exponential lifetimes",
    "generational": "nine blocks in ten die young",
    "bursts": "requests of which most blocks die at the end, some live on",
    "phases": "phases of which few blocks survive, scattered",
    "sorted": "the same, made in the order in which they die",
    "comb": "rounds of doubled sizes, every other block dies",
    "pins": "large blocks with small ones between them that outlive them",
}
_MAKERS: Final[tuple[Callable[..., Trace], ...]] = (
    loops.loop_malloc,
    loops.loop_calloc,
    loops.loop_memset,
    loops.fragmented1,
    loops.fragmented2,
    *(getattr(stress, name) for name in stress.__all__),
    adversary.robson,
    adversary.mesh_fragmenter,
    litter,
)

WORKLOADS: Final[dict[str, Workload]] = {
    **{kind: _workload(kind, partial(stream, kind), _KINDS[kind], StreamSpec) for kind in KINDS},
    **{maker.__name__: _workload(maker.__name__, maker) for maker in _MAKERS},
}
"""Every workload by its name."""


def find_workload(name: str) -> Workload:
    """Return the workload of that name.

    Raises
    ------
    ArgumentError
        There is none; the text names the nearest.
    """
    if name not in WORKLOADS:
        message = f"no workload {name!r}{_nearest(name)}"
        raise ArgumentError(message)
    return WORKLOADS[name]


def _nearest(name: str) -> str:
    return near_word(name, WORKLOADS) or '; "pyalloc workload" lists them'


def names_workload(text: str) -> bool:
    """Return whether ``text`` begins with the name of a workload."""
    return text.partition(":")[0] in WORKLOADS


def trace_of(text: str | os.PathLike[str]) -> Trace:
    """Return the trace in a file, or of a workload; a file of that name wins.

    Raises
    ------
    ArgumentError
        Neither a file nor a workload; the text names the nearest workload.
    TraceError
        The file is no trace.
    """
    if not isinstance(text, str) or (text and Path(text).exists()):
        return read_trace(text)
    name = text.partition(":")[0]
    if name in WORKLOADS:
        return workload(text)
    if not set("/.") & set(name):
        message = f"no file and no workload {text!r}{_nearest(name)}"
        raise ArgumentError(message)
    return read_trace(text)


def parse_workload(text: str) -> tuple[Workload, dict[str, str]]:
    """Return the workload and the parameters that ``NAME[:KEY=VALUE,...]`` names."""
    name, _, rest = text.partition(":")
    found = find_workload(name)
    parameters: dict[str, str] = {}
    for part in filter(None, rest.split(",")):
        key, equals, value = part.partition("=")
        if not (key and equals and value):
            message = f"a workload is written NAME:KEY=VALUE,... (got {text!r})"
            raise ArgumentError(message)
        parameters[key.strip()] = value.strip()
    return found, parameters


def workload(text: str, **parameters: Any) -> Trace:  # noqa: ANN401 - as the maker takes them
    """Return the trace of a workload.

    Parameters
    ----------
    text
        ``NAME[:KEY=VALUE,...]``; see :data:`WORKLOADS`.
    parameters
        More parameters; they win over those in the text.

    Examples
    --------
    >>> import pyalloc as pa
    >>> pa.workload("lifo:count=1000,live=100", sizes="1-128")
    <Trace: 1,000 calls, 551 blocks, peak 7.8 KiB requested>
    """
    found, written = parse_workload(text)
    made = found.make(**{**written, **parameters})
    given = "".join(f",{name}={value}" for name, value in parameters.items())
    source = text + (given if ":" in text else given.replace(",", ":", 1))
    return Trace(made.columns, replace(made.info, source=source))
