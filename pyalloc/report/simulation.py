"""The report of ``pyalloc simulate``, for a terminal."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pyalloc.lab.simulation import OOM, RUNNING, Event, Outcome, Simulation
from pyalloc.machine import OomEvent
from pyalloc.report.badness import steps
from pyalloc.report.listing import table_of
from pyalloc.units import PAGE, format_duration, format_size
from pyalloc.workload.scenario import MachineSpec

_BARS: Final = " ▁▂▃▄▅▆▇█"
_WIDTH: Final = 60
_MOST_PROCESSES: Final = 16
_MOST_EVENTS: Final = 24
_MOST_CANDIDATES: Final = 5
_DRAWN: Final = 4
"""How many processes get a line of their own in the chart."""

Reals = npt.NDArray[np.float64]

_WORDS: Final = {OOM: "out of memory"}
_STYLES: Final = {
    OOM: "red",
    "panic": "red",
    "stuck": "red",
    "refused": "yellow",
    "limit": "yellow",
}


def render(found: Simulation) -> Group:
    """Return the whole report."""
    return Group(*_parts(found))


def _parts(found: Simulation) -> Iterator[RenderableType]:
    yield Text(found.scenario.title or "scenario", style="bold")
    yield Text(_machine_line(found.scenario.machine, found.seconds))
    if found.scenario.description:
        yield Text("")
        yield Text(" ".join(found.scenario.description.split()), style="dim")
    yield Text("")
    yield _processes(found.outcomes)
    if found.machine.cgroups:
        yield Text("")
        yield _cgroups(found)
    yield Text("")
    yield from _chart(found)
    yield Text("")
    yield from _events(found)
    for event in found.oom_events[:1]:
        yield Text("")
        yield from _choice(event)
    yield Text("")
    yield Text(_verdict(found))
    for sentence in found.unmet:
        yield Text(f"not as expected: {sentence}", style="red")


def _machine_line(machine: MachineSpec, seconds: float) -> str:
    swap = f"{_as_size(machine.swap)} swap" if machine.swap else "no swap"
    mode = f", overcommit_memory {machine.overcommit_memory}" if machine.overcommit_memory else ""
    return (
        f"Linux {machine.kernel} on {machine.arch}, {_as_size(machine.ram)} RAM, {swap}{mode};"
        f" {format_duration(seconds)} simulated"
    )


def _as_size(value: int | str) -> str:
    return format_size(value) if isinstance(value, int) else value


def _table(title: str, columns: Sequence[tuple[str, str]]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for name, side in columns:
        table.add_column(name, justify="right" if side == "right" else "left", no_wrap=True)
    return table


# --- processes and cgroups -------------------------------------------------------------------


def _processes(outcomes: Sequence[Outcome]) -> Table:
    sides = ("left", "right", "right", "left", "right", "right", "right", "right")
    names = ("Processes", "pid", "started", "ended", "peak RSS", "peak swap", "peak size", "NULL")
    table = _table("", list(zip(names, sides, strict=True)))
    whole = len(outcomes) <= _MOST_PROCESSES
    for name in dict.fromkeys(o.name for o in outcomes):
        alike = [o for o in outcomes if o.name == name]
        if whole or len(alike) == 1:
            for outcome in alike:
                table.add_row(outcome.label, str(outcome.pid), *_fate([outcome]))
        else:
            table.add_row(f"{name} x {len(alike):,}", "", *_fate(alike))
    return table


def _fate(alike: Sequence[Outcome]) -> Iterator[RenderableType]:
    """Yield the cells behind the name of one outcome, or of several in one row."""
    swap, failed = max(o.peak_swap for o in alike), sum(o.failed for o in alike)
    yield format_duration(min(o.started for o in alike))
    yield _end(alike[0]) if len(alike) == 1 else _ends(alike)
    yield format_size(max(o.peak_rss for o in alike))
    yield format_size(swap) if swap else ""
    yield format_size(max(o.peak_size for o in alike))
    yield f"{failed:,}" if failed else ""


def _ends(alike: Sequence[Outcome]) -> Text:
    counts = Counter(_WORDS.get(outcome.how, outcome.how) for outcome in alike)
    words = ", ".join(f"{count:,} {how}" for how, count in counts.most_common())
    return Text(words, style=_STYLES[OOM] if OOM in {o.how for o in alike} else "")


def _end(outcome: Outcome) -> Text:
    if outcome.ended is None:
        return Text(RUNNING)
    how = _WORDS.get(outcome.how, outcome.how)
    return Text(f"{format_duration(outcome.ended)}  {how}", style=_STYLES.get(outcome.how, ""))


def _cgroups(found: Simulation) -> Table:
    sides = ("left", "right", "right", "right", "right", "right")
    names = ("Cgroups", "memory.max", "peak", "swap.max", "reclaims at the limit", "kills")
    table = _table("", list(zip(names, sides, strict=True)))
    for group in found.machine.cgroups.values():
        c = group.counters()
        kills = sum(event.cgroup == group.path for event in found.oom_events)
        table.add_row(
            group.path,
            _limit(c["limit"]),
            format_size(c["usage_peak"] * PAGE),
            _limit(c["swap_limit"]),
            f"{c['limit_hits']:,}" if c["limit_hits"] else "",
            f"{kills:,}" if kills else "",
        )
    return table


def _limit(pages: int) -> str:
    return "" if pages >= 1 << 51 else format_size(pages * PAGE)


# --- the chart -------------------------------------------------------------------------------


class _Columns:
    """The timeline as numpy columns."""

    def __init__(self, found: Simulation) -> None:
        table = found.timeline
        self.time = np.array(table["time"].to_pylist(), float)
        self.kind = np.array(table["kind"].to_pylist(), object)
        self.name = np.array(table["name"].to_pylist(), object)
        self.memory = np.array(table["memory"].to_pylist(), float)
        self.swap = np.array(table["swap"].to_pylist(), float)
        samples = self.time[self.kind == "machine"]
        place = np.minimum((samples / max(found.seconds, 1e-9) * _WIDTH).astype(int), _WIDTH - 1)
        self._samples = [samples[place == i] for i in range(_WIDTH)]

    def line(self, kind: str, name: str, values: Reals) -> Reals:
        """Return the most of ``values`` in each place of a line; a sample holds until the next."""
        rows = np.flatnonzero((self.kind == kind) & (self.name == name))
        found = dict(zip(self.time[rows], values[rows], strict=True))
        most, held = np.zeros(_WIDTH), 0.0
        for place, times in enumerate(self._samples):
            most[place] = held
            for time in times:
                held = found.get(time, 0.0)
                most[place] = max(most[place], held)
        return most


def _bars(values: Reals, most: float) -> str:
    levels = np.ceil(values / most * 8).clip(0, 8).astype(int) if most else np.zeros(_WIDTH, int)
    return "".join(_BARS[level] for level in levels)


def _chart(found: Simulation) -> Iterator[RenderableType]:
    columns = _Columns(found)
    table = _table("Memory over time", [("", "left"), ("", "left"), ("", "left")])
    table.show_header = False
    for name, line, most, whole in _lines(found, columns):
        words = f"peak {format_size(float(line.max()))}" + (
            f" of {format_size(most)}" if whole else ""
        )
        table.add_row(name, Text(_bars(line, most), style="cyan"), words)
    table.add_row("", _marks(found), "x killed, 0 NULL")
    table.add_row("", "0" + format_duration(found.seconds).rjust(_WIDTH - 1), "")
    yield table


def _lines(found: Simulation, columns: _Columns) -> Iterator[tuple[str, Reals, float, bool]]:
    """Yield the lines of the chart: name, values, the most, and whether that is all there is."""
    machine = found.machine
    yield "RAM", columns.line("machine", "", columns.memory), machine.total_ram * PAGE, True
    if machine.total_swap:
        yield "swap", columns.line("machine", "", columns.swap), machine.total_swap * PAGE, True
    for group in machine.cgroups.values():
        limit = group.counters()["limit"] * PAGE
        if limit < 1 << 62:
            yield group.path, columns.line("cgroup", group.path, columns.memory), limit, True
    most = max((o.peak_rss for o in found.outcomes), default=0)
    for label in _largest(found.outcomes):
        yield label, columns.line("process", label, columns.memory), most, False


def _largest(outcomes: Iterable[Outcome]) -> list[str]:
    peaks: dict[str, int] = {}
    for outcome in outcomes:
        peaks[outcome.label] = max(peaks.get(outcome.label, 0), outcome.peak_rss)
    largest = sorted(peaks, key=lambda label: -peaks[label])[:_DRAWN]
    return [label for label in peaks if label in largest]


def _marks(found: Simulation) -> str:
    marks = [" "] * _WIDTH
    for kind, mark in (("refused", "0"), (OOM, "x")):
        for event in found.happened:
            if event.kind == kind:
                place = int(event.time / max(found.seconds, 1e-9) * _WIDTH)
                marks[min(place, _WIDTH - 1)] = mark
    return "".join(marks)


# --- events ----------------------------------------------------------------------------------


def _events(found: Simulation) -> Iterator[RenderableType]:
    events = [event for event in found.happened if event.kind != "start" or event.time > 0]
    runs = [list(run) for _, run in itertools.groupby(events, _alike)]
    half = _MOST_EVENTS // 2
    cut = len(runs) - _MOST_EVENTS
    table = _table("Events", [("time", "left"), ("process", "left"), ("what happened", "left")])
    table.columns[2].no_wrap, table.columns[2].overflow = False, "fold"
    for number, run in enumerate(runs):
        if number < half or number >= len(runs) - half or cut <= 0:
            table.add_row(*map(Text, _event_row(run)), style=_STYLES.get(run[0].kind, ""))
        elif number == half:
            table.add_row("", "", Text(f"... {cut:,} more", style="dim"))
    yield table


def _alike(event: Event) -> tuple[str, str, str]:
    """Return what events have in common that are told in one line."""
    return event.kind, event.process, re.sub(r"[\d,.]+", "#", event.text)


def _event_row(run: Sequence[Event]) -> tuple[str, str, str]:
    event = run[0]
    begins = event.kind == "start" and not event.text.startswith(("restart", "forked"))
    words = f"starts: {event.text}" if begins else event.text
    if len(run) > 1:
        words += f" ({len(run):,} times, to {format_duration(run[-1].time)})"
    return format_duration(event.time), event.process, words


# --- why -------------------------------------------------------------------------------------


def _choice(event: OomEvent) -> Iterator[RenderableType]:
    """Yield the candidates of one run of the OOM killer, and what their scores are made of."""
    scores = event.verdict.scores
    ranked = sorted(event.tasks, key=lambda task: _score(event, task.pid), reverse=True)
    where = f"cgroup {event.cgroup}" if event.cgroup else "the machine"
    yield Text(f"Why the first of them: {where} has {event.totalpages:,} pages", style="bold")
    table = Table(box=None, pad_edge=False)
    for name in ("pid", "process"):
        table.add_column(name, no_wrap=True)
    table.add_column("badness", justify="right", no_wrap=True)
    table.add_column("made of (pages)", overflow="fold")
    for task in ranked[:_MOST_CANDIDATES]:
        score = scores.get(task.pid)
        mark = " (killed)" if event.victim == task.pid else ""
        table.add_row(
            str(task.pid),
            f"{task.name}{mark}",
            "never" if score is None else f"{score:,}",
            steps(event.verdict.terms.get(task.pid, ())),
        )
    if len(ranked) > _MOST_CANDIDATES:
        table.add_row("", f"... {len(ranked) - _MOST_CANDIDATES:,} more", "", "")
    yield table


def _score(event: OomEvent, pid: int) -> int:
    score = event.verdict.scores.get(pid)
    return -(1 << 62) if score is None else score


def _verdict(found: Simulation) -> str:
    killed, refused = found.killed, [o for o in found.outcomes if o.failed]
    words = []
    if killed:
        first = next(event for event in found.happened if event.kind == OOM)
        names = ", ".join(dict.fromkeys(killed))
        times = f"{len(killed):,} times" if len(killed) > 1 else "once"
        words.append(
            f"The OOM killer struck {times}, first at {format_duration(first.time)}: {names}."
        )
    if refused:
        words.append(f"{', '.join(dict.fromkeys(o.label for o in refused))} met NULL.")
    if not words:
        words.append("Nobody was killed, and nobody was refused.")
    if found.scenario.expect != type(found.scenario.expect)() and not found.unmet:
        words.append("All is as the scenario expects.")
    return " ".join(words)


def listing(scenarios: dict[str, str]) -> Table:
    """Return the scenarios that come with the package, one a row."""
    return table_of(("name", "what it shows"), scenarios.items())
