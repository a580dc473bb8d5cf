"""The report of ``pyalloc fit``: what each limit must be, what happens below, what was real."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from typing import Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pyalloc.lab.fit import LIMITS, Fit, Verdict
from pyalloc.lab.fit.verify import TOLERANCE, Verification
from pyalloc.report.examination import short_site
from pyalloc.report.listing import one_line
from pyalloc.trace import Trace
from pyalloc.units import format_size
from pyalloc.workload.scenario import Scenario

_MUCH_UNWRITTEN: Final = 512 << 10


def render(found: Sequence[Fit], what: Trace | Scenario) -> Group:
    """Return the whole report."""
    return Group(*_parts(found, what))


def _parts(found: Sequence[Fit], what: Trace | Scenario) -> Iterator[RenderableType]:
    yield Text(_title(what), style="bold", overflow="ellipsis", no_wrap=True)
    program = found[0].program
    if program is not None and not program.measured:
        words = (
            "The rest of the process was not measured: these limits hold its heap, and what any"
            " program has."
        )
        yield Text(words, style="yellow")
    yield Text("")
    yield _table(found)
    yield Text("")
    if survivors := found[0].survivors:
        yield Text(f"Must survive: {', '.join(survivors)}.")
    for one in found:
        yield from _words(one)
    if program is not None and program.unwritten > _MUCH_UNWRITTEN:
        yield Text(
            "Blocks are taken to be written whole. The recorded run left so much alone that"
            f" {format_size(program.unwritten)} less memory would have done."
        )
    if isinstance(what, Trace):
        yield Text(
            "A call that gets NULL is taken for the end: what the program would do is not known."
        )


def _title(what: Trace | Scenario) -> str:
    if isinstance(what, Scenario):
        return what.title or "scenario"
    return f"{one_line(shlex.join(what.info.command)) or 'trace'}  ({len(what):,} calls)"


def _table(found: Sequence[Fit]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("limit", no_wrap=True)
    table.add_column("smallest", justify="right", no_wrap=True, style="bold")
    table.add_column("just below it", overflow="fold")
    for one in found:
        table.add_row(Text(_name(one)), Text(one.words(one.value)), Text(below_words(one)))
    return table


def _name(one: Fit) -> str:
    swap = one.fixed.get("swap", 0)
    words = f" + {format_size(swap)} swap" if swap and one.of in ("cgroup", "ram") else ""
    ram = one.fixed.get("ram", 0)
    beside = f", {format_size(ram)} RAM" if ram else ""
    return f"{one.name}{words}{beside}"


def below_words(one: Fit) -> str:
    """Say what happens just below a limit."""
    if one.below is None:
        return "survives with none at all" if one.value == 0 else "survives with less, too"
    site = f", from {short_site(one.site)}" if one.site else ""
    return f"{one.below}{site}"


def _words(one: Fit) -> Iterator[Text]:
    yield Text(f"  {_line(one)}", style="bold")
    if one.least < one.value:
        yield Text(
            f"{one.name}: {one.words(one.least)} would do, too, but not all that is between: with"
            " more room it reserves more, and then lacks the rest."
        )


def _line(one: Fit) -> str:
    """Return the very line to set."""
    match one.of:
        case "as":
            return f"ulimit -v {-(-one.value // 1024)}"
        case "cgroup":
            return f"memory.max = {one.value}"
        case "ratio":
            return f"vm.overcommit_ratio = {one.value}"
    return f"{one.name} = {one.value}" if one.is_ratio else f"{one.name} = {one.value >> 10}K"


def answer(verdict: Verdict, of: str, value: str, survivors: Sequence[str] = ()) -> str:
    """Say whether a given limit is enough, for ``survivors`` where it is a scenario's."""
    name = LIMITS.get(of, of)
    if verdict.survived:
        who = ", ".join(survivors) or "it"
        return f"{name} {value}: {who} survive{'s' * (len(survivors) < 2)}."
    return f"{name} {value} is too small: {verdict.what}."


def verification(found: Sequence[Verification]) -> Group:
    """Return predicted beside real."""
    return Group(*_verification(found))


def _verification(found: Sequence[Verification]) -> Iterator[RenderableType]:
    yield Text("")
    yield Text("Predicted and real", style="bold")
    table = Table(box=None, pad_edge=False)
    for name in ("limit", "under", "", "the program"):
        table.add_column(name, justify="left" if name in ("limit", "the program") else "right")
    for one in found:
        for i, run in enumerate(one.runs):
            share = 100 * (run.value / one.fit.value - 1)
            table.add_row(
                Text(_name(one.fit) if i == 0 else ""),
                Text(f"{run.value >> 10:,} KiB"),
                Text(f"{share:+.2f} %" if i else "found"),
                Text("survives" if run.survived else run.end, style="" if run.survived else "red"),
            )
        if one.why_not:
            table.add_row(
                Text(_name(one.fit)), Text(""), Text(""), Text(f"not tried: {one.why_not}")
            )
    yield table
    yield Text("")
    yield Text(_verdict(found))


def _verdict(found: Sequence[Verification]) -> str:
    tried = [one for one in found if one.holds is not None]
    bad = [one.fit.name for one in tried if not one.holds]
    if not tried:
        return "None of these limits can be tried here."
    if bad:
        return f"Too small in reality: {', '.join(bad)}."
    share = f"{100 * TOLERANCE:.0f} %"
    return f"The program survives under each limit tried, or within {share} above it."
