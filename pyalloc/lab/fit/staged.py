"""A scenario with one of its keys changed, and whether those survive who must."""

from __future__ import annotations

from pyalloc.errors import ScenarioError
from pyalloc.lab.fit.search import SURVIVED, Verdict, failed
from pyalloc.lab.simulate import simulate
from pyalloc.lab.simulation import OOM, Event, Simulation
from pyalloc.workload.scenario import Scenario

_BAD = frozenset({OOM, "refused", "signal", "panic"})


def try_scenario(scenario: Scenario, key: str, value: int, names: tuple[str, ...]) -> Verdict:
    """Run ``scenario`` with ``key`` at ``value``; those of ``names`` must survive.

    ``key`` must be one that the scenario has room for; a value with which it cannot be run is one
    that is too small.
    """
    labels = {
        spec.name if spec.copies == 1 else f"{spec.name}-{copy + 1}"
        for spec in scenario.processes
        if spec.name in names
        for copy in range(spec.copies)
    }

    def is_lost(event: Event) -> bool:
        return event.kind == "panic" or (event.process in labels and event.kind in _BAD)

    try:
        changed = scenario.vary({key: value})
    except ScenarioError as error:  # the key is known to be one: it is the value that does not do
        return failed(f"it cannot even start: {error}")
    return judged(simulate(changed, samples=1, enough=is_lost), names)


def judged(found: Simulation, names: tuple[str, ...]) -> Verdict:
    """Return whether all of ``names`` survived, and what befell the first that did not."""
    labels = {o.label for o in found.outcomes if o.name in names}
    lost = {o.label for o in found.outcomes if o.label in labels and _is_lost(o.how, o.failed)}
    if not lost and not any(event.kind == "panic" for event in found.happened):
        return SURVIVED
    for event in found.happened:
        if event.kind == "panic" or (event.process in lost and event.kind in _BAD):
            return failed(f"{event.process}: {event.text} (at {event.time:.1f} s)".strip())
    return failed(f"{', '.join(sorted(lost))} did not survive")


def _is_lost(how: str, failed: int) -> bool:
    return failed > 0 or not (how == "running" or how.startswith("exit"))
