"""The report of ``pyalloc run`` and ``pyalloc replay``, for a terminal."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from pyalloc.lab.agreement import Agreement
from pyalloc.lab.examine import Examination
from pyalloc.machine import Breakdown, ReplayError
from pyalloc.report.listing import title_of
from pyalloc.report.metrics import fragmentation
from pyalloc.units import format_size

_SHOWN_OF_A_KIND = 5
_KINDS = (
    ("headers", "header", "the size field of each block"),
    ("alignment", "alignment", "what rounding adds to them"),
    ("the library's own", "own", "caches, arenas"),
    ("free: tcache", "tcache", "kept by threads for the same sizes"),
    ("free: fastbins", "fast", "small chunks, not yet merged"),
    ("free: unsorted", "unsorted", "freed lately, not yet sorted"),
    ("free: small bins", "small", "holes below 1 KiB"),
    ("free: large bins", "large", "larger holes between blocks in use"),
    ("free: top", "top", "the end of the heap"),
)


def render(found: Examination) -> Group:
    """Return the whole report."""
    return Group(*_parts(found))


def print_report(console: Console, found: Examination) -> None:
    """Print the whole report."""
    console.print(render(found))


def _parts(found: Examination) -> Iterator[RenderableType]:
    yield Text(_title(found), style="bold", overflow="ellipsis", no_wrap=True)
    yield Text(agreement_words(found))
    for line in error_lines(found.replay.errors):
        yield Text(line, style="red")
    if found.trace.info.truncated:
        yield Text(f"the recording is cut short: {found.trace.info.truncated}", style="yellow")
    yield Text("")
    yield _memory(found)
    for line in untouched_words(found):
        yield Text(line, style="dim")
    if not len(found.trace):
        return
    yield Text("")
    yield _where(found)
    yield Text("")
    yield fragmentation(found)
    if found.sites:
        yield Text("")
        yield _sites(found)
    yield Text("")
    yield Text(verdict(found))


def error_lines(errors: Sequence[ReplayError]) -> Iterator[str]:
    """Yield what ended the run, and the first of what a strict one found."""
    missed = [error for error in errors if not error.ends]
    if missed:
        kinds = Counter(error.kind for error in missed)
        counts = ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common())
        yield f"unnoticed by the library: {counts}"
    for error in _first_of_each_kind(missed):
        yield f"  call {error.row}: {error.message}"
    for error in errors:
        if error.ends:
            yield f"stopped at call {error.row}: {error.message}"


def _first_of_each_kind(errors: Sequence[ReplayError]) -> Iterator[ReplayError]:
    seen: Counter[str] = Counter()
    for error in errors:
        seen[error.kind] += 1
        if seen[error.kind] <= _SHOWN_OF_A_KIND:
            yield error


def _title(found: Examination) -> str:
    return f"{title_of(found.trace.info)}  ({len(found.trace):,} calls, {found.allocator})"


def agreement_words(found: Examination) -> str:
    """Say how far the simulated addresses equal the recorded ones."""
    a = found.agreement
    foreign = found.trace.info.foreign_malloc
    if foreign is not None and not len(found.trace):
        return f"The program has a malloc of its own, in {foreign}: none of its calls was recorded."
    if a is None and foreign is not None:
        return (
            f"The program's malloc was that of {foreign}, not glibc's: what follows is what "
            f"{found.allocator} makes of its calls."
        )
    if a is None:
        return "The trace has no recorded addresses to compare with."
    if not a.compared:
        return "No call returned a block."
    if a.first is None:
        return f"All {a.compared:,} simulated addresses equal the recorded ones{_elsewhere(a)}."
    return (
        f"Simulated and recorded addresses part at call {a.first:,}: {a.simulated:#x} simulated,"
        f" {a.recorded:#x} recorded ({a.agreeing:,} of {a.compared:,} agree)."
    )


def _elsewhere(a: Agreement) -> str:
    words = []
    if a.in_heaps:
        words.append(f"{a.in_heaps:,} by their place in a thread's heap")
    if a.mapped:
        words.append(f"{a.mapped:,} in mappings of their own, equal as such")
    return f" ({'; '.join(words)})" if words else ""


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right", no_wrap=True)
    return table


def _rows(table: Table, rows: Iterable[tuple[str, ...]]) -> Table:
    for row in rows:
        table.add_row(*row)
    return table


def _size(value: int | None) -> str:
    return "" if value is None else format_size(value)


def _memory(found: Examination) -> Table:
    s, real = found.replay.summary, found.measured
    table = _table("Memory", "", "peak", "at the end", "measured peak", "measured end")
    peak = real.program_peak if real else None
    end = real.program_final if real else None
    faults = real.minflt - (real.recorder_minflt or 0) if real and real.minflt else None
    return _rows(
        table,
        [
            ("asked for by the program", _size(s.peak_requested), _size(s.requested), "", ""),
            ("held by the heap", _size(s.peak_held), _size(s.held), "", ""),
            (
                "resident (real: libraries too)",
                _size(s.peak_rss),
                _size(s.rss),
                _size(peak),
                _size(end),
            ),
            (
                "of it in the break's area",
                "",
                _size(found.heap_rss),
                "",
                _size(real.heap_rss if real else None),
            ),
            (
                "minor faults (real: libraries too)",
                "",
                f"{s.minor_faults:,}",
                "",
                "" if faults is None else f"{faults:,}",
            ),
        ],
    )


def untouched_words(found: Examination) -> Iterator[str]:
    """Say how much the real program left unwritten, where both runs have the same heap."""
    real, model = found.measured, found.heap_rss
    if real is None or real.heap_rss is None or model is None:
        return
    if found.agreement is None or not found.agreement.complete:
        return
    if real.heap_rss == model:
        yield "In the break's area the pages in memory are as many as the kernel counted."
    elif real.heap_rss < model:
        size = format_size(model - real.heap_rss)
        yield f"Simulated blocks are written whole; the program left {size} of the heap untouched."


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else ""


def _where(found: Examination) -> Table:
    peak, end = found.peak, found.end
    table = _table("Where it sits", "", "peak", "", "at the end", "", "")
    table.columns[-1].justify = "left"
    table.columns[-1].style = "dim"

    def row(name: str, attribute: str, remark: str) -> tuple[str, ...]:
        a, b = getattr(peak, attribute), getattr(end, attribute)
        return (name, _size(a), _share(a, peak.held), _size(b), _share(b, end.held), remark)

    _rows(table, [row("blocks in use", "requested", "as asked for")])
    _rows(table, (row(*kind) for kind in _KINDS if _any(peak, end, kind[1])))
    _rows(table, [row("held, in all", "held", "from the kernel")])
    return _rows(table, [row("of it never touched", "untouched", "costs no memory")])


def _any(peak: Breakdown, end: Breakdown, attribute: str) -> bool:
    return bool(getattr(peak, attribute) or getattr(end, attribute))


def _sites(found: Examination) -> Table:
    table = _table("Call sites", "by bytes live at the peak", "calls", "bytes", "at peak", "at end")
    table.columns[0].overflow = "ellipsis"
    table.columns[0].max_width = 58
    return _rows(
        table,
        (
            (
                short_site(s.site),
                f"{s.calls:,}",
                _size(s.bytes),
                _size(s.bytes_at_peak),
                _size(s.bytes_at_end),
            )
            for s in found.sites
        ),
    )


def short_site(site: str) -> str:
    """Return a site with the file's name in place of its path."""
    return re.sub(r"\((?:[^()]*/)?([^/()]+)\)$", r"(\1)", site)


def verdict(found: Examination) -> str:
    """Say where the memory is at the end and what would give it back."""
    end = found.end
    if not end.held:
        return "Nothing is held at the end."
    words = [f"At the end {format_size(end.requested)} of {format_size(end.held)} held is in use."]
    if found.trim is not None:
        words.append(f"malloc_trim(0) would give back {format_size(max(found.trim.gain, 0))}.")
    between = end.free - end.top
    if between > end.held // 4:
        words.append(f"{format_size(between)} lie free between blocks in use: fragmentation.")
    elif end.top > end.held // 2:
        words.append(f"{format_size(end.top)} lie free at the top of the heap.")
    elif end.requested > found.replay.summary.peak_requested * 0.9:
        words.append("The program still holds nearly all it ever asked for.")
    return " ".join(words)
