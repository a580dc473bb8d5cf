"""The report of ``pyalloc advise``: what each setting comes to, what to set, what reality said."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from typing import Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pyalloc.lab.advise import Advice, Trial
from pyalloc.lab.advise.verify import TOLERANCE, Verification
from pyalloc.report.listing import one_line, title_of
from pyalloc.report.scatter import Point, scatter_svg
from pyalloc.units import format_size

_MOST_ROWS: Final = 22
_STEP: Final = 0.005


def render(advice: Advice, *, every: bool = False) -> Group:
    """Return the whole report; ``every`` lists each trial."""
    return Group(*_parts(advice, every=every))


def _parts(advice: Advice, *, every: bool) -> Iterator[RenderableType]:
    info = advice.trace.info
    title = title_of(info)
    yield Text(
        f"{title}  ({len(advice.trace):,} calls, {advice.allocator})",
        style="bold",
        overflow="ellipsis",
        no_wrap=True,
    )
    if advice.rest is None:
        yield Text("Memory is that of the heap alone: the rest of the process was not measured.")
    else:
        yield Text(
            f"Memory is the whole process's: the heap of each setting and"
            f" {format_size(advice.rest.final_rest)} beside it at the end, as measured."
        )
    base = ", ".join(f"{name}={value}" for name, value in info.tunables.items())
    if base:
        yield Text(f"The default is what the environment sets already: {base}")
    yield Text("")
    yield _table(advice, list(advice.trials) if every else shown(advice))
    yield Text("* nothing else is better in both memory and work", style="dim")
    yield Text("")
    yield Text(verdict(advice))
    if advice.best is not advice.default:
        yield Text(f"\n  {advice.best.line}\n", style="bold", overflow="fold")
        if any(name == "arena_max" for name, _ in advice.best.setting.tunables):
            yield Text("Threads will share arenas: that they wait for each other is not modelled.")


def shown(advice: Advice) -> list[Trial]:
    """Return the trials worth a line: each knob's best, the front, and combinations that add."""
    keep: dict[int, Trial] = {id(advice.default): advice.default, id(advice.best): advice.best}
    memory = advice.memory
    last = None
    for trial in advice.front:
        gain = 1.0 if last is None else 1 - trial.work / max(last.work, 1)
        if gain >= _STEP:
            keep[id(trial)] = last = trial
    alike: dict[tuple[int, int, int, int], Trial] = {}
    by_simplicity = sorted(
        advice.trials, key=lambda t: (len(t.setting.tunables), t.setting.distance)
    )
    for trial in by_simplicity:
        o = trial.outcome
        alike.setdefault((trial.peak, trial.end, o.faults, o.system_calls), trial)
    single = [t for t in alike.values() if len(t.setting.name.split()) < 3 and not t.same]
    for trial in sorted(single, key=lambda t: t.memory(memory)):
        if len(keep) < _MOST_ROWS:
            keep[id(trial)] = trial
    return [t for t in advice.trials if id(t) in keep]


def _table(advice: Advice, trials: Sequence[Trial]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("setting", overflow="ellipsis", no_wrap=True, max_width=44)
    for name in ("peak", "end", "faults", "sys calls", "work"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("")
    front = {id(t) for t in advice.front}
    for trial in trials:
        chosen = trial is advice.best
        table.add_row(
            Text(trial.setting.name),
            Text(format_size(trial.peak)),
            Text(format_size(trial.end)),
            Text(f"{trial.outcome.faults:,}"),
            Text(f"{trial.outcome.system_calls:,}"),
            Text(_time(trial.work)),
            Text(_mark(trial, advice, on_front=id(trial) in front)),
            style="bold" if chosen else "",
        )
    return table


def _mark(trial: Trial, advice: Advice, *, on_front: bool) -> str:
    if trial.outcome.error:
        return f"dies: {trial.outcome.error}"
    words = []
    if trial is advice.best:
        words.append("best")
    if trial.same and trial is not advice.default:
        words.append("as default")
    elif on_front:
        words.append("*")
    if trial.outcome.failed > advice.default.outcome.failed:
        words.append("more NULLs")
    return " ".join(words)


def _time(nanoseconds: float) -> str:
    for unit, size in (("s", 1e9), ("ms", 1e6)):
        if nanoseconds >= size:
            return f"{nanoseconds / size:.1f} {unit}"
    return f"{nanoseconds / 1e3:.0f} us"


def verdict(advice: Advice) -> str:
    """Say in a sentence or two what to do."""
    where = "at its peak" if advice.memory == "peak" else "at its end"
    default, best = advice.default, advice.best
    base = default.memory(advice.memory)
    if best is default:
        words = f"Keep the default: no setting saves 2 % {where} at the price allowed."
        cheapest = advice.trials[0]
        saved = base - cheapest.memory(advice.memory)
        if saved > base * 0.02:
            words += (
                f" {cheapest.setting.name} would save {format_size(saved)} for"
                f" {_time(cheapest.work - default.work)} more work (--slower)."
            )
        return words
    share = 100 * advice.saved / base
    more = best.work - default.work
    price = f"{_time(abs(more))} {'more' if more > 0 else 'less'} work"
    return f"Set this to save {format_size(advice.saved)} {where} ({share:.0f} %) for {price}:"


def verification(found: Verification) -> Group:
    """Return predicted beside measured."""
    table = Table(title="Predicted and measured", title_justify="left", title_style="bold")
    table.box = None
    table.pad_edge = False
    table.add_column("setting", overflow="ellipsis", no_wrap=True, max_width=44)
    for name in ("peak", "measured", "", "end", "measured", "CPU"):
        table.add_column(name, justify="right", no_wrap=True)
    for check in found.checks:
        cpu = sorted(run.cpu_seconds for run in check.runs)[len(check.runs) // 2]
        table.add_row(
            Text(check.trial.setting.name),
            Text(format_size(check.predicted_peak)),
            Text(_range([run.peak_rss for run in check.runs])),
            Text(f"{100 * check.error:+.1f} %"),
            Text(format_size(check.predicted_end)),
            Text(_range([run.final_rss for run in check.runs])),
            Text(f"{cpu:.2f} s"),
        )
    count = len(found.checks[0].runs)
    words = (
        f"Each peak is within {100 * TOLERANCE:.0f} % of the median of {count} real runs."
        if found.holds
        else f"A peak is more than {100 * TOLERANCE:.0f} % from the median of {count} real runs."
    )
    return Group(Text(""), table, Text(""), Text(words))


def _range(values: Sequence[int]) -> str:
    low, high = format_size(min(values)), format_size(max(values))
    if low == high:
        return low
    number, _, unit = low.partition(" ")
    return f"{number}-{high}" if high.endswith(unit) else f"{low}-{high}"


def plot(advice: Advice) -> str:
    """Return memory against work of every trial as SVG."""
    front = {id(t) for t in advice.front}

    def kind(trial: Trial) -> str:
        if trial is advice.default or trial is advice.best:
            return "mark"
        return "front" if id(trial) in front else "point"

    points = [
        Point(t.work, t.memory(advice.memory), t.setting.name, kind(t))
        for t in advice.trials
        if not t.outcome.error and (not t.same or t is advice.default)
    ]
    where = "peak" if advice.memory == "peak" else "end"
    what = "process" if advice.rest else "heap"
    return scatter_svg(
        points,
        f"{one_line(shlex.join(advice.trace.info.command)) or 'trace'}: {len(points)} settings",
        "work of allocator and kernel, by stated prices",
        f"resident memory of the {what} at the {where}",
        _time,
        format_size,
    )
