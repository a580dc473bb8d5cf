"""``pyalloc fit``: the smallest limit under which a program or a scenario survives."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

from cyclopts import Parameter

from pyalloc.cli.dashes import split
from pyalloc.cli.options import AllocatorName, Flag, Format, Output, Seconds, Size
from pyalloc.cli.output import console, print_json, progressing
from pyalloc.cli.subject import Subject, Words, print_notes, subject
from pyalloc.errors import ArgumentError
from pyalloc.lab.fit import (
    Fit,
    NeverEnough,
    Traced,
    Verdict,
    check_limit,
    must_survive,
    survives,
)
from pyalloc.lab.fit import fit as fit_limit
from pyalloc.lab.fit.verify import Verification
from pyalloc.lab.fit.verify import verify as verify_fits
from pyalloc.nearest import near_word
from pyalloc.report.fit import answer, render, verification
from pyalloc.trace import Trace
from pyalloc.workload.catalogue import names_workload
from pyalloc.workload.scenario import Scenario, load_scenario, scenarios

_ALIASES: Final = {"ulimit": "as", "rlimit_as": "as", "ulimit-v": "as", "memory": "cgroup"}
_NO_MACHINE: Final = (None, "0", "0")


def fit(
    *words: Words,
    limit: Annotated[list[str] | None, Parameter(name=["--limit", "-l"], negative="")] = None,
    at: str | None = None,
    ram: Size | None = None,
    swap: Size = "0",
    reserved: Size = "0",
    survive: Annotated[list[str] | None, Parameter(negative="")] = None,
    allocator: AllocatorName | None = None,
    verify: Flag = False,
    timeout: Seconds = 600,
    output: Output | None = None,
    format: Format | None = None,  # noqa: A002
    json: Flag = False,
) -> int:
    """Find the smallest limit with which a program survives, and what happens just below it.

    pyalloc fit FILE, pyalloc fit SCENARIO.toml, or pyalloc fit -- CMD...  Exits with 1 if no limit
    is enough, the one of --at is not, or --verify finds one too small.

    Parameters
    ----------
    limit
        as (ulimit -v), cgroup, ram, swap or ratio (overcommit mode 2); of a scenario also the key
        of any size in it, such as cgroup.web.memory_max. May be repeated; by default those that
        make sense.
    at
        Only say whether this limit is enough.
    ram
        RAM of the machine, where its swap or its ratio is sought.
    swap
        Swap beside the RAM or the cgroup.
    reserved
        What of the RAM the kernel and other programs hold.
    survive
        Processes of a scenario that must survive; by default those it expects to, else all.
    allocator
        Replay on this allocator; by default the recorded C library.
    verify
        Run the program under each limit and near it, where this machine allows it.
    timeout
        Seconds for each real run.
    output
        Keep the recording in this file.
    format
        The format of the file, if it cannot be found out.
    json
        Print JSON; the command's own output goes to stderr.
    """
    machine: dict[str, Any] = {"ram": ram, "swap": swap, "reserved": reserved}
    scenario = _scenario(words)
    if scenario is not None:
        _check_scenario_options(machine, verify=verify)
        names = tuple(survive or ())
        if at is not None:
            of = _the_one(limit or ["ram"])
            verdict = survives(scenario, of, at, survive=names)
            return _answer(verdict, of, at, must_survive(scenario, names), json=json)
        found = _found(scenario, limit or ["ram"], {"survive": names})
        return _print(found, scenario, None, (), json=json)
    if survive:
        message = "--survive names processes of a scenario; a trace has one"
        raise ArgumentError(message)
    limits = [_ALIASES.get(name, name) for name in limit or _default_limits(ram)]
    for name in limits:
        check_limit(name, at if limit else None)
    with subject(words, format=format, output=output, quiet=json) as about:
        traced = Traced(about.trace, allocator)
        if at is not None:
            of = _the_one(limits if limit else ["cgroup"])
            return _answer(survives(traced, of, at, **machine), of, at, (), json=json)
        found = _found(traced, limits, machine)
        checked = _verified(found, about, timeout) if verify else []
        return _print(found, about.trace, about, checked, json=json)


def _scenario(words: Sequence[str]) -> Scenario | None:
    """Return the scenario that the words name, if they do."""
    file, _ = split(words)
    if file is None:
        return None
    is_there, known = os.path.lexists(file), scenarios()
    if file.endswith(".toml") or (file in known and not is_there):
        return load_scenario(file)
    if not is_there and not names_workload(file) and near_word(file, known):
        message = f"no file, no workload and no scenario {file!r}{near_word(file, known)}"
        raise ArgumentError(message)
    return None


def _check_scenario_options(machine: Mapping[str, Any], *, verify: bool) -> None:
    if verify:
        message = "a scenario's machine is not there: only a command can be verified"
        raise ArgumentError(message)
    if (machine["ram"], machine["swap"], machine["reserved"]) != _NO_MACHINE:
        message = "a scenario says itself what machine it has: no --ram, --swap or --reserved"
        raise ArgumentError(message)


def _default_limits(ram: str | None) -> list[str]:
    return ["as", "cgroup", "ram"] if ram is None else ["swap", "ratio"]


def _the_one(limits: Sequence[str]) -> str:
    if len(limits) != 1:
        message = "--at asks about one limit: give one --limit"
        raise ArgumentError(message)
    return limits[0]


def _answer(
    verdict: Verdict, of: str, value: str, survivors: tuple[str, ...], *, json: bool
) -> int:
    if json:
        print_json({"of": of, "value": value, **verdict._asdict(), "survivors": survivors})
    else:
        console().print(answer(verdict, of, value, survivors), markup=False)
    return 0 if verdict.survived else 1


def _found(
    what: Traced | Scenario, limits: Sequence[str], options: Mapping[str, Any]
) -> list[Fit] | str:
    """Return the limits, or why none is enough."""
    with progressing() as tell:
        try:
            return [fit_limit(what, of, tell=tell, **options) for of in limits]
        except NeverEnough as error:
            return str(error)


def _verified(found: list[Fit] | str, about: Subject, timeout: float) -> list[Verification]:
    if isinstance(found, str):
        return []
    tunables = about.trace.info.tunables
    with progressing() as tell:
        return verify_fits(found, about.command, tunables=tunables, timeout=timeout, tell=tell)


def _print(
    found: list[Fit] | str,
    what: Trace | Scenario,
    about: Subject | None,
    checked: Sequence[Verification],
    *,
    json: bool,
) -> int:
    if isinstance(found, str):
        if json:
            print_json({"fits": [], "never": found})
        else:
            console().print(found, markup=False)
        return 1
    if json:
        print_json(
            {
                "fits": [one.to_dict() for one in found],
                "verification": [one.to_dict() for one in checked],
            }
        )
    else:
        out = console()
        if about is not None:
            print_notes(out, about)
        out.print(render(found, what))
        if checked:
            out.print(verification(checked))
    return 1 if any(one.holds is False for one in checked) else 0
