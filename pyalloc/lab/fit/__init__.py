"""Fit: the smallest limit under which a program, or a whole scenario, survives.

Each try is a run on a machine of its own; the search is :mod:`pyalloc.lab.fit.search`.  A program
that is refused memory is taken not to survive: what it would do about a NULL is not in its trace.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from pyalloc.errors import ArgumentError
from pyalloc.lab.fit.search import Found, NeverEnough, Tell, Verdict, smallest
from pyalloc.lab.fit.staged import try_scenario
from pyalloc.lab.fit.traced import Program, Traced
from pyalloc.machine import Machine
from pyalloc.nearest import nearest
from pyalloc.trace import Trace, require_trace
from pyalloc.units import PAGE, format_size, parse_size
from pyalloc.workload.scenario import Scenario

__all__ = [
    "LIMITS",
    "Fit",
    "NeverEnough",
    "Program",
    "Traced",
    "Verdict",
    "check_limit",
    "fit",
    "must_survive",
    "survives",
]

LIMITS: Final[Mapping[str, str]] = {
    "as": "ulimit -v",
    "cgroup": "memory cgroup",
    "ram": "RAM",
    "swap": "swap",
    "ratio": "overcommit_ratio (mode 2)",
}
"""What can be fitted, in words."""

_MOST_RATIO: Final = 10_000
_MOST_OF_A_MACHINE: Final = 1 << 36
_FIRST_RATIO: Final = 50
_STEPS: Final = {"ratio": 1, "swap": 64 << 10}
_FIRST_GUESS: Final = 64 << 20


@dataclass(frozen=True)
class Fit:
    """The smallest limit that is survived.

    Attributes
    ----------
    of, name
        Which limit: one of :data:`LIMITS`, or the key of a scenario.
    value
        The limit in bytes; percent for a ratio.
    below, below_value
        What happens just below it, and at which value; None where nothing is too small.
    row, site
        The call that fails there, for a trace, and where in the program it is.
    fixed
        The limits that were held fixed: bytes.
    probes
        What was tried, and whether it was survived.
    least
        The smallest value that is survived at all; less than ``value`` where something between them
        is not.
    program
        What the limit has to hold beside the heap, for a trace.
    survivors
        The processes that have to survive, of a scenario.
    """

    of: str
    name: str
    value: int
    below: str | None
    below_value: int | None
    row: int | None
    site: str | None
    fixed: dict[str, int]
    probes: tuple[tuple[int, bool], ...]
    least: int
    program: Program | None = None
    survivors: tuple[str, ...] = ()

    def words(self, value: int) -> str:
        """Return a value of this limit in words."""
        return f"{value} %" if self.is_ratio else format_size(value)

    @property
    def is_ratio(self) -> bool:
        """Whether the value is a percentage."""
        return self.of == "ratio" or self.of.endswith("_ratio")

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        found = asdict(self)
        found["probes"] = [{"value": value, "survived": ok} for value, ok in self.probes]
        return found


def fit(
    what: Trace | Traced | Scenario,
    of: str = "cgroup",
    *,
    ram: int | str | None = None,
    swap: int | str = 0,
    reserved: int | str = 0,
    survive: tuple[str, ...] = (),
    allocator: str | None = None,
    tell: Tell | None = None,
) -> Fit:
    """Return the smallest limit with which ``what`` survives.

    Parameters
    ----------
    what
        A trace (:class:`Traced` saves work where it is asked several times), or a scenario.
    of
        Of a trace one of :data:`LIMITS`; of a scenario the key of a size or a ratio, such as
        ``"machine.ram"`` or ``"cgroup.web.memory_max"``, or ``"ram"``, ``"swap"``, ``"ratio"``.
    ram, swap, reserved
        The rest of the machine that a trace runs on: RAM (needed for ``swap`` and ``ratio``), swap,
        what of the RAM the kernel and others hold.
    survive
        Processes of a scenario that must survive; by default those it expects to, else all.
    allocator
        As in :func:`pyalloc.replay`, for a trace.
    tell
        Called with what is done and how many tries there were.

    Raises
    ------
    ArgumentError
        There is no such limit, or something is missing.
    NeverEnough
        No limit is large enough.
    """
    if isinstance(what, Scenario):
        return _fit_scenario(what, of, survive, tell)
    check_limit(of)
    return _fit_trace(_traced(what, allocator), of, _fixed(of, ram, swap, reserved), tell)


def survives(
    what: Trace | Traced | Scenario,
    of: str,
    value: int | str,
    *,
    ram: int | str | None = None,
    swap: int | str = 0,
    reserved: int | str = 0,
    survive: tuple[str, ...] = (),
    allocator: str | None = None,
) -> Verdict:
    """Return whether ``what`` survives a given limit, in place of a search.

    Parameters are those of :func:`fit`; ``value`` is the limit.

    Raises
    ------
    ArgumentError
        The limit is below what exec itself needs, or as :func:`fit` says.
    """
    if isinstance(what, Scenario):
        key = _key_of(what, of)
        limit = _value(key, value)
        return try_scenario(what, key, limit, must_survive(what, survive))
    check_limit(of)
    limit, traced = _value(of, value), _traced(what, allocator)
    need = traced.program.own_space
    if of == "as" and limit < need:
        message = (
            f"a limit of {format_size(limit)} is below what exec itself needs:"
            f" the program's own areas are {format_size(need)}"
        )
        raise ArgumentError(message)
    verdict = _attempt(traced, of, _fixed(of, ram, swap, reserved), limit)
    site = traced.site(verdict.row)
    return verdict._replace(what=f"{verdict.what}, from {site}") if site else verdict


def _value(of: str, value: int | str) -> int:
    if not of.endswith("ratio"):
        return parse_size(value, "limit")
    text = str(value).removesuffix("%").strip()
    if not text.isdecimal():
        message = f"a ratio is a whole number of percent (got {value!r})"
        raise ArgumentError(message)
    return int(text)


# --- traces


def check_limit(of: str, value: int | str | None = None) -> None:
    """Raise ArgumentError unless a trace can be fitted to this limit, and to this value of it."""
    if of not in LIMITS:
        message = f"no limit {of!r}{nearest(of, LIMITS)}"
        raise ArgumentError(message)
    if value is not None:
        _value(of, value)


def _traced(what: Trace | Traced, allocator: str | None) -> Traced:
    return what if isinstance(what, Traced) else Traced(require_trace(what), allocator)


def _fixed(of: str, ram: int | str | None, swap: int | str, reserved: int | str) -> dict[str, int]:
    fixed = {"reserved": parse_size(reserved, "reserved")}
    if of != "swap":
        fixed["swap"] = parse_size(swap, "swap")
    if of in ("swap", "ratio"):
        if ram is None:
            message = f"how much RAM has the machine whose {LIMITS[of]} is sought? Give ram"
            raise ArgumentError(message)
        fixed["ram"] = parse_size(ram, "ram")
        if fixed["ram"] <= fixed["reserved"]:
            message = f"ram must be more than what is reserved of it (got {ram}, {reserved})"
            raise ArgumentError(message)
    Machine(fixed.get("ram", "16G"), fixed.get("swap", 0), "6.18", "x86_64")  # or it says why not
    return fixed


def _attempt(traced: Traced, of: str, fixed: dict[str, int], value: int) -> Verdict:
    swap, reserved = fixed.get("swap", 0), fixed["reserved"]
    match of:
        case "as":
            return traced.under_address_space(value)
        case "cgroup":
            return traced.under_cgroup(value, swap)
        case "ram":
            return traced.on_machine(value, swap, reserved, None)
        case "swap":
            return traced.on_machine(fixed["ram"], value, reserved, None)
        case _:
            return traced.on_machine(fixed["ram"], swap, reserved, value)


def _fit_trace(traced: Traced, of: str, fixed: dict[str, int], tell: Tell | None) -> Fit:
    found = smallest(
        lambda value: _attempt(traced, of, fixed, value),
        start=_guess(traced, of, fixed),
        step=_STEPS.get(of, PAGE),
        most=_MOST_RATIO if of == "ratio" else None,
        enough=traced.peak_space if of == "as" else None,
        tell=tell,
    )
    return _made(found, of, LIMITS[of], fixed, traced)


def _guess(traced: Traced, of: str, fixed: dict[str, int]) -> int:
    program = traced.program
    if of == "ratio":
        return _FIRST_RATIO
    if of == "as":
        return traced.outcome.peak_held + program.own_space + program.more_space
    resident = traced.outcome.peak_rss + program.anonymous + fixed["reserved"]
    return max(resident - fixed.get("ram", 0), PAGE)


def _made(
    found: Found,
    of: str,
    name: str,
    fixed: dict[str, int],
    traced: Traced | None = None,
    survivors: tuple[str, ...] = (),
) -> Fit:
    below = found.below
    row = below.row if below else None
    return Fit(
        of=of,
        name=name,
        value=found.value,
        below=below.what if below else None,
        below_value=found.below_value,
        row=row,
        site=traced.site(row) if traced else None,
        fixed=fixed,
        probes=found.probes,
        least=found.least,
        program=traced.program if traced else None,
        survivors=survivors,
    )


# --- scenarios

_KEYS: Final = {"ram": "machine.ram", "swap": "machine.swap", "ratio": "machine.overcommit_ratio"}


def _fit_scenario(scenario: Scenario, of: str, survive: tuple[str, ...], tell: Tell | None) -> Fit:
    key, names = _key_of(scenario, of), must_survive(scenario, survive)
    is_ratio = key.endswith("_ratio")
    found = smallest(
        lambda value: try_scenario(scenario, key, value, names),
        start=_FIRST_RATIO if is_ratio else _present(scenario, key),
        step=1 if is_ratio else 64 << 10,
        within=0.0 if is_ratio else 0.005,
        most=_MOST_RATIO if is_ratio else _MOST_OF_A_MACHINE,
        tell=tell,
    )
    return _made(found, key, key, {}, survivors=names)


def _present(scenario: Scenario, key: str) -> int:
    """Return what a key of a scenario is now, where that is a size."""
    at: Any = scenario.to_dict()
    for name in key.split("."):
        if isinstance(at, list):
            at = next((item for item in at if item.get("name") == name), None)
        else:
            at = at.get(name) if isinstance(at, dict) else None
    try:
        return max(parse_size(at, key), 64 << 10) if isinstance(at, int | str) else _FIRST_GUESS
    except ArgumentError:
        return _FIRST_GUESS  # "max"


def must_survive(scenario: Scenario, survive: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of the processes that must survive."""
    names = tuple(p.name for p in scenario.processes)
    for name in survive:
        if name not in names:
            message = f"the scenario has no process {name}{nearest(name, names)}"
            raise ArgumentError(message)
    return survive or scenario.expect.survive or names


def _key_of(scenario: Scenario, of: str) -> str:
    """Return the key of a scenario that a limit means, and that takes a size or a ratio."""
    key = _named_key(scenario, of)
    scenario.vary({key: _FIRST_RATIO if key.endswith("_ratio") else _present(scenario, key)})
    return key


def _named_key(scenario: Scenario, of: str) -> str:
    if of in _KEYS:
        return _KEYS[of]
    if of == "cgroup":
        if len(scenario.cgroups) == 1:
            return f"cgroup.{scenario.cgroups[0].name}.memory_max"
        names = ", ".join(f"cgroup.{g.name}.memory_max" for g in scenario.cgroups) or "none"
        message = f"which cgroup? The scenario has {names}"
        raise ArgumentError(message)
    if of == "as":
        if len(scenario.processes) == 1:
            return f"process.{scenario.processes[0].name}.rlimit_as"
        names = ", ".join(f"process.{p.name}.rlimit_as" for p in scenario.processes)
        message = f"whose address space? The scenario has {names}"
        raise ArgumentError(message)
    return of
