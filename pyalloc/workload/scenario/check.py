"""What a definition cannot say: names that meet, cgroups that nest, machines that can be built.

Everything a run would stumble over at its start is tried here, by making it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyalloc.errors import ArgumentError, ProcessKilled, PyallocError
from pyalloc.nearest import nearest
from pyalloc.workload.programs import ProgramError, program
from pyalloc.workload.scenario.convert import plain
from pyalloc.workload.scenario.origin import Origin
from pyalloc.workload.scenario.origin import Path as KeyPath
from pyalloc.workload.scenario.spec import CgroupSpec, ProcessSpec
from pyalloc.workload.scenario.stage import cgroups_on, machine_of, spawn

if TYPE_CHECKING:
    from pyalloc.machine import Cgroup, Machine
    from pyalloc.workload.scenario.scenario import Scenario

Problem = tuple[KeyPath, str]


def check(scenario: Scenario, origin: Origin) -> None:
    """Raise ScenarioError at the first thing for which ``scenario`` cannot be run."""
    for path, what in _problems(scenario):
        raise origin.error(path, what, plain(scenario))


def _problems(scenario: Scenario) -> Iterator[Problem]:
    """Yield problems in an order in which each is only looked for where those before are none."""
    for key, items in (
        ("cgroup", scenario.cgroups),
        ("file", scenario.files),
        ("process", scenario.processes),
    ):
        yield from _twice(key, [item.name for item in items])
    yield from _cgroup_problems(scenario.cgroups)
    yield from _reference_problems(scenario)
    for number, process in enumerate(scenario.processes):
        yield from _program_problems(number, process, scenario)
    yield from _trial(scenario)


def _twice(key: str, names: Sequence[str]) -> Iterator[Problem]:
    counts = Counter(names)
    for number, name in enumerate(names):
        if counts[name] > 1 and name in names[:number]:
            hint = "; for several alike write copies" if key == "process" else ""
            yield (key, number, "name"), f"there is a {key} {name} already{hint}"


def _cgroup_problems(cgroups: Sequence[CgroupSpec]) -> Iterator[Problem]:
    parents = {group.name: group.parent for group in cgroups}
    for number, group in enumerate(cgroups):
        if group.parent and group.parent not in parents:
            text = f"there is no cgroup {group.parent!r}{nearest(group.parent, parents)}"
            yield ("cgroup", number, "parent"), text
    for number, group in enumerate(cgroups):
        circle = [group.name]
        while (parent := parents.get(circle[-1])) and parent not in circle:
            circle.append(parent)
        if parent == group.name:
            text = f"it lies in itself: {' in '.join([*circle, parent])}"
            yield ("cgroup", number, "parent"), text


def _reference_problems(scenario: Scenario) -> Iterator[Problem]:
    groups = [group.name for group in scenario.cgroups]
    names = [process.name for process in scenario.processes]
    for number, process in enumerate(scenario.processes):
        yield from _named("cgroup", process.cgroup, groups, ("process", number, "cgroup"))
        if process.maps and not Path(process.maps).is_file():
            yield ("process", number, "maps"), f"there is no file {process.maps}"
        if process.layout == "prelinked" and scenario.machine.kernel[:4] != "2.6.":
            yield ("process", number, "layout"), "the article's layout is one of Linux 2.6 on i386"
        if process.brk is not None and not process.maps:
            yield ("process", number, "brk"), "a break needs the maps that it belongs to"
    for number, change in enumerate(scenario.changes):
        path = ("change", number)
        if bool(change.cgroup) == bool(change.process):
            yield path, "a change is about one cgroup or one process"
        yield from _named("cgroup", change.cgroup, groups, (*path, "cgroup"))
        yield from _named("process", change.process, names, (*path, "process"))
    for key in ("survive", "killed", "refused"):
        for number, name in enumerate(getattr(scenario.expect, key)):
            yield from _named("process", name, names, ("expect", key, number))


def _named(kind: str, name: str, known: Sequence[str], path: KeyPath) -> Iterator[Problem]:
    if name and name not in known:
        yield path, f"there is no {kind} {name!r}{nearest(name, known)}"


def _program_problems(number: int, process: ProcessSpec, scenario: Scenario) -> Iterator[Problem]:
    path: KeyPath = ("process", number, "program")
    try:
        found = program(process.program)
    except ProgramError as error:
        yield _in_program(path, process.program, error)
        return
    file = found.parameters.get("file")
    if isinstance(file, str) and file and file not in (names := [f.name for f in scenario.files]):
        where = (*path, "file") if isinstance(process.program, dict) else path
        yield where, f"there is no file {file!r}{nearest(file, names)}"


def _in_program(path: KeyPath, said: object, error: ProgramError) -> Problem:
    if isinstance(said, dict) and error.key:
        return (*path, error.key), str(error)
    named = error.key and str(error).startswith("must")
    return path, f"{error.key} {error}" if named else str(error)


def _trial(scenario: Scenario) -> Iterator[Problem]:
    """Make the machine, its cgroups and one process each."""
    machine = yield from _tried(("machine",), lambda: machine_of(scenario.machine))
    if machine is None:
        return
    groups = yield from _tried(("cgroup",), lambda: cgroups_on(machine, scenario.cgroups))
    if groups is None:
        return
    for number, process in enumerate(scenario.processes):
        yield from _tried(("process", number), lambda p=process: _spawn_on(machine, p, groups))


def _spawn_on(machine: Machine, process: ProcessSpec, groups: dict[str, Cgroup]) -> None:
    try:
        spawn(machine, process, groups).exit()
    except ProcessKilled:
        message = "the machine, or its cgroup, is too small for it to start; give it more memory"
        raise ArgumentError(message) from None


def _tried(path: KeyPath, make: Any) -> Any:  # noqa: ANN401 - what ``make`` returns
    try:
        return make()
    except (PyallocError, OSError, MemoryError) as error:
        yield path, str(error)
        return None
