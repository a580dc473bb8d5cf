"""The report of ``pyalloc host``, for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pyalloc.host.cgroups import CgroupLevel
from pyalloc.host.outlook import Choice, Outlook, ProcessView, Room
from pyalloc.host.system import System
from pyalloc.kernel.overcommit import ALWAYS, GUESS, NEVER
from pyalloc.report.badness import steps
from pyalloc.units import PAGE, format_size

_MOST: Final = 10
_MODES: Final = {
    GUESS: "refuses what RAM and swap together could never hold, one request at a time",
    ALWAYS: "promises anything",
    NEVER: "promises up to CommitLimit, and no more",
}
_STATUS: Final = ("VmSize", "VmPeak", "VmRSS", "VmHWM", "RssAnon", "RssFile", "VmSwap", "VmPTE")


def render(found: Outlook) -> Group:
    """Return the whole report."""
    return Group(*_parts(found))


def _parts(found: Outlook) -> Iterator[RenderableType]:
    now = found.system
    yield Text(f"Linux {now.kernel} on {now.machine}, {now.libc}", style="bold")
    yield Text("")
    if found.view is not None:
        yield from _process(found.view)
        yield Text("")
    yield _memory(now)
    yield Text("")
    yield _promises(found)
    if found.levels:
        yield Text("")
        yield from _cgroups(found)
    for choice in filter(None, (found.cgroup, found.machine)):
        yield Text("")
        yield from _choice(choice, found)
    for note in filter(None, (now.oom_remark, *found.unread)):
        yield Text(f"note: {note}", style="yellow")


def _pairs(title: str, rows: Iterable[tuple[str, str, str]]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.show_header = False
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(style="dim", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def _memory(now: System) -> Table:
    kb = now.kb
    rows = [
        ("RAM", format_size(kb("MemTotal")), "MemTotal: without what the kernel keeps"),
        ("MemAvailable", format_size(kb("MemAvailable")), "what can be had without swapping"),
        (
            "free virtual memory",
            format_size(now.free_virtual),
            "as the article counts: MemFree + Buffers + Cached + SwapFree",
        ),
        ("AVPHYS", format_size(now.avphys), "what sysconf calls available: pages nobody uses"),
    ]
    for area in now.swaps:
        used = f"{format_size(area.used)} of it used, priority {area.priority}"
        rows.append((f"swap {area.name}", format_size(area.size), used))
    if not now.swaps:
        rows.append(("swap", "none", ""))
    rows.append(("huge pages", now.huge_pages, "transparent ones, for anonymous memory"))
    rows.append(("swappiness", str(now.sysctls.get("swappiness", "?")), "vm.swappiness"))
    return _pairs("Memory", rows)


def _promises(found: Outlook) -> Table:
    now = found.system
    mode = now.settings.overcommit_memory
    most = "any" if found.promise is None else format_size(found.promise)
    limit = now.commit_limit_pages * PAGE
    committed = now.kb("Committed_AS")
    rows = [
        ("overcommit_memory", str(mode), _MODES[mode]),
        ("Committed_AS", format_size(committed), "promised so far"),
        ("CommitLimit", format_size(limit), _limit_words(now, limit - committed)),
        ("largest request", most, f"that process {found.asked} could make now"),
    ]
    return _pairs("Promises", rows)


def _limit_words(now: System, left: int) -> str:
    settings = now.settings
    share = (
        f"{settings.overcommit_kbytes} kB"
        if settings.overcommit_kbytes
        else f"{settings.overcommit_ratio} % of RAM"
    )
    if settings.overcommit_memory != NEVER:
        return f"{share} + swap; it counts in mode 2 only"
    kept = f"; root is left {settings.admin_reserve_kbytes} kB more"
    return f"{share} + swap; {format_size(max(left, 0))} left{kept}"


# --- cgroups ---------------------------------------------------------------------------------


def _cgroups(found: Outlook) -> Iterator[RenderableType]:
    version = found.levels[0].version
    table = Table(box=None, pad_edge=False, title_justify="left", title_style="bold")
    table.title = f"Memory cgroups of process {found.asked} (version {version})"
    table.add_column("path", overflow="ellipsis", no_wrap=True, max_width=44)
    for name in ("usage", "of it cache", "limit", "left", "swap", "kills"):
        table.add_column(name, justify="right", no_wrap=True)
    for level in found.levels:
        style = "yellow" if level == found.nearest else ""
        table.add_row(level.path, *_level(level), style=style)
    yield table
    near = found.nearest
    if near is None:
        yield Text("None of them has a limit: the machine's memory is the only one.")
    else:
        yield Text(f"The nearest limit is {near.path}'s: {_size(near.left)} are left before it.")


def _level(level: CgroupLevel) -> Iterator[str]:
    yield format_size(level.usage)
    yield _size(level.file)
    yield "none" if level.limit is None else format_size(level.limit)
    yield _size(level.left)
    yield _size(level.swap)
    yield "" if not level.kills else f"{level.kills:,}"


def _size(value: int | None) -> str:
    return "" if value is None else format_size(value)


# --- the OOM killer --------------------------------------------------------------------------


def _choice(choice: Choice, found: Outlook) -> Iterator[RenderableType]:
    title = f"Who would be killed if {choice.where} were out of memory now"
    yield Text(f"{title} (rules of {found.policy}, {choice.totalpages:,} pages)", style="bold")
    table = Table(box=None, pad_edge=False)
    for name in ("pid", "process"):
        table.add_column(name, no_wrap=True)
    table.add_column("badness", justify="right", no_wrap=True)
    table.add_column("oom_score", justify="right", no_wrap=True)
    table.add_column("made of (pages)", overflow="fold")
    eligible = [c for c in choice.candidates if c.badness is not None]
    for candidate in eligible[:_MOST]:
        killed = candidate == choice.victim
        table.add_row(
            str(candidate.pid),
            Text(candidate.name),
            f"{candidate.badness:,}",
            str(candidate.oom_score),
            steps(candidate.terms),
            style="red" if killed else "",
        )
    yield table
    never = len(choice.candidates) - len(eligible)
    rest = len(eligible) - _MOST
    words = [f"{rest:,} more with less" if rest > 0 else "", f"{never:,} never" if never else ""]
    if any(words):
        yield Text(f"... {', '.join(filter(None, words))}", style="dim")
    if choice.victim is None:
        yield Text(f"Nobody: {choice.why}.")
    else:
        freed = format_size((choice.victim.rss + choice.victim.swap) * PAGE)
        name = f"{choice.victim.name} ({choice.victim.pid})"
        yield Text(f"{name} would be killed, for {choice.why}; it holds {freed}.")


# --- one process -----------------------------------------------------------------------------


def _process(view: ProcessView) -> Iterator[RenderableType]:
    rows = [(n, format_size(view.status[n] << 10), "") for n in _STATUS if n in view.status]
    yield _pairs(f"Process {view.pid}, {view.name}", rows)
    yield Text("")
    yield _pairs("Its limits", [_room(room) for room in view.limits])
    yield Text("")
    if view.rank is None:
        yield Text(f"It is never chosen by the OOM killer; oom_score shows {view.shown}.")
    else:
        ahead = "it would be killed next" if view.rank == 1 else f"{view.rank - 1} go before it"
        made = steps(view.candidate.terms) if view.candidate else ""
        yield Text(f"Among the OOM killer's candidates {ahead}: {made}; oom_score {view.shown}.")


def _room(room: Room) -> tuple[str, str, str]:
    if room.name == "max_map_count":
        left = "" if room.left is None else f"{room.used:,} areas, {room.left:,} left"
        return room.name, "" if room.limit is None else f"{room.limit:,}", left
    if room.limit is None:
        return room.name, "no limit", f"{format_size(room.used)} used"
    used, left = format_size(room.used), format_size(room.left or 0)
    return room.name, format_size(room.limit), f"{used} used, {left} left"
