"""``pyalloc simulate``: a scenario on a machine that is not there."""

from __future__ import annotations

import tomllib
from typing import Annotated, Any

from cyclopts import Parameter

from pyalloc.cli.options import Count, Flag, Seed, Target, check_free
from pyalloc.cli.output import console, print_json, progressing
from pyalloc.errors import ArgumentError
from pyalloc.lab.simulate import simulate as run_scenario
from pyalloc.report.simulation import listing, render
from pyalloc.units import format_duration, parse_duration
from pyalloc.workload.scenario import Scenario, load_scenario, scenarios, text_of
from pyalloc.workload.scenario.schema import json_schema

_WHICH = "which scenario? Give a file, or a name of pyalloc simulate --list"


def simulate(
    scenario: str = "",
    /,
    *,
    list: Flag = False,  # noqa: A002 - the option's name
    show: Flag = False,
    check: Flag = False,
    schema: Flag = False,
    set: Annotated[tuple[str, ...], Parameter(negative="")] = (),  # noqa: A002
    seed: Seed | None = None,
    until: str | None = None,
    events: Target | None = None,
    timeline: Target | None = None,
    samples: Count = 500,
    force: Flag = False,
    json: Flag = False,
) -> int:
    """Run a scenario: a machine, its cgroups and processes, what they do and when.

    Exits with 1 if what the scenario expects does not happen.

    Parameters
    ----------
    scenario
        A TOML file, or the name of a scenario that comes with pyalloc.
    list
        List the scenarios that come with pyalloc.
    show
        Print the scenario's file, to begin one's own with.
    check
        Only say whether the scenario can be run.
    schema
        Print the JSON Schema of scenario files, for editors.
    set
        Change a key of the scenario: KEY=VALUE, as process.web.copies=3; may be repeated.
    seed
        Seed of every random number, in place of the scenario's own.
    until
        Stop at this time, such as 10min, in place of the scenario's duration.
    events
        Write the events to this Parquet file.
    timeline
        Write the timeline to this Parquet file.
    samples
        How many samples the timeline has, up to twice as many.
    force
        Overwrite files that exist.
    json
        Print JSON.
    """
    if schema or list or show:
        return _tell(scenario, schema=schema, list=list, json=json)
    if not scenario:
        raise ArgumentError(_WHICH)
    one = load_scenario(scenario).vary(_changes(set)) if set else load_scenario(scenario)
    if check:
        return _tell_checked(scenario, one, json=json)
    for target in filter(None, (events, timeline)):
        check_free(target, force=force, how="--force")
    total = parse_duration(one.duration if until is None else until, "until")
    with progressing() as tell:

        def progress(part: float) -> None:
            words = f"{format_duration(part * total)} of {format_duration(total)}"
            tell(words, round(100 * part), 100)

        found = run_scenario(one, seed=seed, until=until, samples=samples, progress=progress)
    if events is not None:
        found.write_events(events)
    if timeline is not None:
        found.write_timeline(timeline)
    if json:
        print_json(found.to_dict())
    else:
        console().print(render(found))
    return 1 if found.unmet else 0


def _tell(scenario: str, *, schema: bool, list: bool, json: bool) -> int:  # noqa: A002
    """Print the schema, the list of scenarios, or the text of one."""
    if schema:
        print_json(json_schema())
    elif list and json:
        print_json([{"name": name, "title": title} for name, title in scenarios().items()])
    elif list:
        console().print(listing(scenarios()))
    elif scenario:
        console().out(text_of(scenario).rstrip(), highlight=False)
    else:
        raise ArgumentError(_WHICH)
    return 0


def _tell_checked(name: str, scenario: Scenario, *, json: bool) -> int:
    """Say that nothing is wrong with a scenario."""
    count = len(scenario.processes)
    if json:
        print_json({"scenario": name, "processes": count})
    else:
        console().print(f"{name}: {count} processes, nothing wrong", soft_wrap=True, markup=False)
    return 0


def _changes(pairs: tuple[str, ...]) -> dict[str, Any]:
    """Return KEY=VALUE pairs as a mapping; a value is TOML, or else text."""
    found: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not (key and equals and value):
            message = f"a change is written KEY=VALUE, as machine.ram=1G (got {pair!r})"
            raise ArgumentError(message)
        found[key.strip()] = _value(value.strip())
    return found


def _value(text: str) -> Any:  # noqa: ANN401 - whatever TOML may hold
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
