"""What can be varied: the allocator, its settings, the machine, and the program, each by its name.

======================  ======================================================================
replay                  ``allocator``, ``arch``, ``touch``, ``cpus``
settings                the names behind ``glibc.malloc.``: ``mmap_threshold``, ``arena_max``, ...
machine                 what :class:`pyalloc.Machine` takes: ``ram``, ``swap``, ``kernel``, ...
workload                what the workload takes: ``seed``, ``live``, ``sizes``, ``threads``, ...
======================  ======================================================================

Values are written as text as on the command line, or given as they are:

=================  ===========================================================================
``64K,128K,1M``    these
``1..10``          from 1 to 10; ``1..10..3`` in steps of 3; ``64K..1M*2`` each twice the last
``16K~1M``         anything in between (designs by draw only); ``16K~1M:log`` by its logarithm
=================  ===========================================================================
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from pyalloc.errors import ArgumentError
from pyalloc.machine import Machine
from pyalloc.machine.tunables import TUNABLES
from pyalloc.nearest import near_word
from pyalloc.units import parse_size
from pyalloc.workload.catalogue import Workload

Value = int | float | str | bool

REPLAY: Final = ("allocator", "arch", "touch", "cpus")
_TEXT: Final = ("allocator", "arch", "touch", "kernel", "policy", "disk")
_SIZES: Final = ("ram", "swap", "reserved")
_MOST_OF_A_RANGE: Final = 10_000_000
_SHORTEST_RUN: Final = 3
_RANGE: Final = re.compile(r"([^.~*]+(?:\.\d+)?)\.\.([^.~*]+(?:\.\d+)?)(?:(\.\.|\*)(.+))?")
_BETWEEN: Final = re.compile(r"([^~]+)~([^~:]+)(:log)?")
_TRUTH: Final = {"true": True, "yes": True, "false": False, "no": False}


@cache
def machine_parameters() -> Mapping[str, Any]:
    """Return what a machine takes, with its defaults; what a replay takes is not among it."""
    found = inspect.signature(Machine.__init__).parameters.values()
    return {p.name: p.default for p in found if p.name not in ("self", "seed", *REPLAY)}


@dataclass(frozen=True, slots=True)
class Between:
    """Any number from ``low`` to ``high``, both included."""

    low: float
    high: float
    log: bool
    whole: bool

    def at(self, part: float) -> Value:
        """Return the number at ``part`` (0 to 1) of the way."""
        if self.log:
            number = float(self.low * (self.high / self.low) ** part)
        else:
            number = self.low + (self.high - self.low) * part
        return round(number) if self.whole else number


@dataclass(frozen=True, slots=True)
class Axis:
    """A parameter and the values it takes."""

    name: str
    values: tuple[Value, ...] | range | Between

    def __len__(self) -> int:
        """Return the number of values."""
        return 0 if isinstance(self.values, Between) else len(self.values)

    def at(self, part: float) -> Value:
        """Return the value at ``part`` (0 to 1) of the axis."""
        if isinstance(self.values, Between):
            return self.values.at(part)
        return self.values[min(int(part * len(self.values)), len(self.values) - 1)]

    def to_json(self) -> Any:  # noqa: ANN401
        """Return the values as JSON, for comparing."""
        if isinstance(self.values, Between):
            return {"from": self.values.low, "to": self.values.high, "log": self.values.log}
        run = _as_range(self.values)
        if run is not None:
            return {"from": run.start, "to": run[-1], "step": run.step}
        return list(self.values)


def _as_range(values: tuple[Value, ...] | range) -> range | None:
    """Return whole numbers in equal steps as a range, however they were given."""
    if len(values) < _SHORTEST_RUN or not all(type(v) is int for v in values[:_SHORTEST_RUN]):
        return None
    if isinstance(values, range):
        return values
    if not all(type(v) is int for v in values):
        return None
    first, *rest = values
    step = int(rest[0]) - int(first)
    found = range(int(first), int(rest[-1]) + (1 if step > 0 else -1), step)
    return found if list(found) == list(values) else None


def belongs_to(name: str, workloads: Iterable[Workload]) -> str:
    """Return ``"replay"``, ``"setting"``, ``"machine"`` or ``"workload"``.

    Raises
    ------
    ArgumentError
        Nothing has such a parameter; the text names the nearest that something has.
    """
    if name in REPLAY:
        return "replay"
    if any(name in w.parameters for w in workloads):
        return "workload"
    if name in TUNABLES:
        return "setting"
    if name in machine_parameters():
        return "machine"
    known = {*REPLAY, *TUNABLES, *machine_parameters()}
    known.update(*(w.parameters for w in workloads))
    message = f"nothing has a parameter {name!r}{near_word(name, known)}"
    raise ArgumentError(message)


def _kind(name: str, workloads: Iterable[Workload]) -> type:
    """Return the type of a parameter's values; sizes are whole numbers, too."""
    where = belongs_to(name, workloads)
    if where == "setting":
        return int
    if where == "replay":
        return int if name == "cpus" else str
    if where == "machine":
        if name in _SIZES:
            return int
        return str if name in _TEXT else type(machine_parameters()[name])
    return next(type(w.parameters[name]) for w in workloads if name in w.parameters)


def axis(name: str, given: object, workloads: Iterable[Workload] = ()) -> Axis:
    """Return the axis of parameter ``name``.

    ``given`` is text as in the table above, a value, or some values.

    Raises
    ------
    ArgumentError
        Nothing has such a parameter, or a value is not one of it.
    """
    workloads = tuple(workloads)
    kind = _kind(name, workloads)
    texts = given.split(",") if isinstance(given, str) else _several(given)
    values: list[Value] = []
    for text in texts:
        part = text.strip() if isinstance(text, str) else text
        if isinstance(part, str) and kind in (int, float):
            if match := _BETWEEN.fullmatch(part):
                return Axis(name, _between(name, kind, match, len(texts)))
            if match := _RANGE.fullmatch(part):
                found = _range(name, kind, match)
                if isinstance(found, range) and len(texts) == 1:
                    return Axis(name, found)  # however long
                values += found
                continue
        values.append(_value(name, kind, part))
    if not values:
        message = f"parameter {name} has no values"
        raise ArgumentError(message)
    return Axis(name, tuple(dict.fromkeys(values)))


def _several(given: object) -> list[Any]:
    if isinstance(given, Iterable) and not isinstance(given, str | bytes | Mapping):
        return list(given)
    return [given]


def _value(name: str, kind: type, given: object) -> Value:
    """Return one value of the right type."""
    try:
        if kind is bool:
            return given if isinstance(given, bool) else _TRUTH[str(given).lower()]
        if kind is int and not isinstance(given, bool):
            return parse_size(given, name) if isinstance(given, str) else _whole(given)
        if kind is float and isinstance(given, str | int | float):
            return float(given)
        if kind is str and isinstance(given, str | int):
            return str(given)
    except (KeyError, ValueError, TypeError):
        pass
    message = f"{given!r} is no value of parameter {name}"
    raise ArgumentError(message)


def _whole(given: object) -> int:
    number = int(given)  # type: ignore[call-overload]  # what cannot be one raises
    if number != given:
        raise ValueError
    return int(number)


def _range(name: str, kind: type, match: re.Match[str]) -> Sequence[Value]:
    low, high = (float(_value(name, kind, match[i])) for i in (1, 2))
    if match[3] == "*":
        return _powers(name, kind, low, high, float(_value(name, float, match[4])))
    step = float(_value(name, kind, match[4])) if match[4] else 1.0
    if step <= 0 or high < low:
        message = f"{match[0]!r} is no range of parameter {name}: it is written LOW..HIGH..STEP"
        raise ArgumentError(message)
    if kind is int:
        return range(int(low), int(high) + 1, int(step))
    count = int((high - low) / step + 1e-9) + 1
    return [low + i * step for i in range(min(count, _MOST_OF_A_RANGE))]


def _powers(name: str, kind: type, low: float, high: float, factor: float) -> list[Value]:
    if not 0 < low <= high or factor <= 1:
        message = f"a range of {name} by a factor is written LOW..HIGH*FACTOR, from above 0"
        raise ArgumentError(message)
    found = []
    while low <= high * (1 + 1e-12):
        found.append(_exact(kind, low))
        low *= factor
    return found


def _exact(kind: type, number: float) -> Value:
    return round(number) if kind is int else number


def _between(name: str, kind: type, match: re.Match[str], parts: int) -> Between:
    low, high = (float(_value(name, kind, match[i])) for i in (1, 2))
    log = bool(match[3])
    if parts > 1 or high < low or (log and low <= 0):
        message = f"{match[0]!r} is no interval of {name}: it is written LOW~HIGH or LOW~HIGH:log"
        raise ArgumentError(message)
    return Between(low, high, log, whole=kind is int)
