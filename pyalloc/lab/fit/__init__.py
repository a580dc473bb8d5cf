"""Fit: the smallest limit under which a program, or a whole scenario, survives.

Each try is a run on a machine of its own; the search is :mod:`pyalloc.lab.fit.search`.  A program
that is refused memory is taken not to survive: what it would do about a NULL is not in its trace.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from pyalloc.errors import ArgumentError
from pyalloc.lab.fit.search import Found, Tell, Verdict, smallest
from pyalloc.lab.fit.staged import try_scenario
from pyalloc.lab.fit.traced import Program, Traced
from pyalloc.trace import Trace
from pyalloc.units import PAGE, format_size, parse_size
from pyalloc.workload.scenario import Scenario

Of = Literal["as", "cgroup", "ram", "swap", "ratio"]

LIMITS: Final[Mapping[str, str]] = {
    "as": "ulimit -v",
    "cgroup": "memory cgroup",
    "ram": "RAM",
    "swap": "swap",
    "ratio": "overcommit_ratio (mode 2)",
}
"""What can be fitted, in words."""

_MOST_RATIO: Final = 10_000
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
    row
        The call that fails there, for a trace.
    fixed
        The limits that were held fixed: bytes.
    probes
        What was tried, and whether it was survived.
    least
        The smallest value that is survived at all; less than ``value`` where something between them
        is not.
    program
        What the limit has to hold beside the heap, for a trace.
    """

    of: str
    name: str
    value: int
    below: str | None
    below_value: int | None
    row: int | None
    fixed: dict[str, int]
    probes: tuple[tuple[int, bool], ...]
    least: int
    program: Program | None = None

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
    what: Trace | Scenario,
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
        A trace, or a scenario.
    of
        Of a trace one of :data:`LIMITS`; of a scenario the key of a size or a ratio, such as
        ``"machine.ram"`` or ``"cgroup.web.memory_max"``, or ``"ram"``, ``"swap"``, ``"ratio"``.
    ram, swap, reserved
        The rest of the machine that a trace runs on: RAM (needed for ``swap`` and ``ratio``), swap,
        RAM that others hold.
    survive
        Processes of a scenario that must survive; by default those it expects to, else all.
    allocator
        As in :func:`pyalloc.replay`, for a trace.
    tell
        Called with what is done and how many tries there were.

    Raises
    ------
    ArgumentError
        There is no such limit, something is missing, or no limit is large enough.
    """
    if isinstance(what, Scenario):
        return _fit_scenario(what, of, survive, tell)
    if of not in LIMITS:
        message = f"no limit {of!r}; a trace can be fitted to {', '.join(LIMITS)}"
        raise ArgumentError(message)
    return _fit_trace(Traced(what, allocator), of, _fixed(of, ram, swap, reserved), tell)


def check(
    what: Trace, of: str, value: int | str, *, swap: int | str = 0, allocator: str | None = None
) -> Verdict:
    """Return whether ``what`` survives a given limit, in place of a search.

    Raises
    ------
    ArgumentError
        The limit is below what exec itself needs.
    """
    traced = Traced(what, allocator)
    limit = parse_size(value, "limit")
    need = traced.program.own_space
    if of == "as" and limit < need:
        message = (
            f"a limit of {format_size(limit)} is below what exec itself needs:"
            f" the program's own areas are {format_size(need)}"
        )
        raise ArgumentError(message)
    return _attempt(traced, of, {"swap": parse_size(swap, "swap"), "reserved": 0}, limit)


# --- traces


def _fixed(of: str, ram: int | str | None, swap: int | str, reserved: int | str) -> dict[str, int]:
    fixed = {"reserved": parse_size(reserved, "reserved")}
    if of != "swap":
        fixed["swap"] = parse_size(swap, "swap")
    if of in ("swap", "ratio"):
        if ram is None:
            message = f"how much RAM has the machine whose {LIMITS[of]} is sought? Give ram"
            raise ArgumentError(message)
        fixed["ram"] = parse_size(ram, "ram")
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
    guess, enough = traced.outcome.peak_rss + traced.program.anonymous + PAGE, None
    if of == "as":
        program = traced.program
        guess = traced.outcome.peak_held + program.own_space + program.more_space
        enough = traced.peak_space
    found = smallest(
        lambda value: _attempt(traced, of, fixed, value),
        start=50 if of == "ratio" else guess,
        step=1 if of == "ratio" else PAGE,
        most=_MOST_RATIO if of == "ratio" else None,
        enough=enough,
        tell=tell,
    )
    return _made(found, of, LIMITS[of], fixed, traced.program)


def _made(
    found: Found,
    of: str,
    name: str,
    fixed: dict[str, int],
    program: Program | None = None,
) -> Fit:
    below = found.below
    return Fit(
        of=of,
        name=name,
        value=found.value,
        below=below.what if below else None,
        below_value=found.below_value,
        row=below.row if below else None,
        fixed=fixed,
        probes=found.probes,
        least=found.least,
        program=program,
    )


# --- scenarios

_KEYS: Final = {"ram": "machine.ram", "swap": "machine.swap", "ratio": "machine.overcommit_ratio"}


def _fit_scenario(scenario: Scenario, of: str, survive: tuple[str, ...], tell: Tell | None) -> Fit:
    key = _key_of(scenario, of)
    names = survive or scenario.expect.survive or tuple(p.name for p in scenario.processes)
    is_ratio = key.endswith("_ratio")
    found = smallest(
        lambda value: try_scenario(scenario, key, value, names),
        start=50 if is_ratio else _FIRST_GUESS,
        step=1 if is_ratio else 64 << 10,
        most=_MOST_RATIO if is_ratio else None,
        tell=tell,
    )
    return _made(found, key, key, {})


def _key_of(scenario: Scenario, of: str) -> str:
    """Return the key of a scenario that a limit means."""
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
