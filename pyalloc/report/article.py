"""The article's figures, as a table with notes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pyalloc.lab.article import MAP, Figure


class _Notes:
    """Numbers for reasons, each told once below the table."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def mark(self, text: str) -> str:
        """Return the number of a reason in brackets."""
        if not text:
            return "(not explained)"
        if text not in self.texts:
            self.texts.append(text)
        return f"({self.texts.index(text) + 1})"


def render(figures: Sequence[Figure], *, measured: bool = True) -> Group:
    """Return one row a figure, and why what differs does; ``measured`` shows this machine's."""
    return Group(*_parts(figures, measured=measured))


def _parts(figures: Sequence[Figure], *, measured: bool) -> Iterator[RenderableType]:
    notes = _Notes()
    table = Table(box=None, pad_edge=False)
    table.add_column("figure", no_wrap=True, overflow="ellipsis")
    for name in ("printed", "simulated", "", *(("this machine", "") if measured else ())):
        width = max(len(name), 9) if name else 6
        table.add_column(name, justify="right" if name else "left", no_wrap=True, min_width=width)
    for figure in figures:
        table.add_row(
            Text(figure.name),
            str(figure.printed),
            str(figure.simulated),
            _mark(figure.verdict, figure.why, notes),
            *(_measured_cells(figure, notes) if measured else ()),
        )
    yield table
    yield Text("")
    for number, text in enumerate(notes.texts, 1):
        yield Text(f"({number}) {text}", style="dim")
    yield Text("")
    yield Text(_sum(figures))


def _measured_cells(figure: Figure, notes: _Notes) -> Iterator[RenderableType]:
    yield "" if figure.measured is None else str(figure.measured)
    yield _mark(_of_measured(figure), figure.why_measured, notes)


def _of_measured(figure: Figure) -> str:
    if figure.measured is None:
        return "not measured"
    return "equal" if figure.measured_equal else "different"


def _mark(verdict: str, why: str, notes: _Notes) -> Text:
    if verdict == "equal":
        return Text("=", style="green")
    sign = {"different": "\u2260", "not derivable": "?", "not measured": "-"}[verdict]
    return Text(f"{sign} {notes.mark(why)}", style="yellow")


def _sum(figures: Sequence[Figure]) -> str:
    equal = sum(figure.verdict == "equal" for figure in figures)
    unknown = sum(figure.verdict == "not derivable" for figure in figures)
    words = f"{equal} of {len(figures)} figures are simulated as printed"
    if unknown:
        words += f", {unknown} depend on what the article does not tell (?)"
    measured = [figure for figure in figures if figure.measured is not None]
    if measured:
        same = sum(bool(figure.measured_equal) for figure in measured)
        words += f"; of {len(measured)} measured here {same} are equal"
    return f"{words}."


def map_table(lines: Sequence[str]) -> Table:
    """Return program A's final map: the article's lines, and the simulated ones beside them."""
    table = Table(box=None, pad_edge=False)
    table.add_column("article", no_wrap=True)
    table.add_column("")
    table.add_column("simulated", no_wrap=True, overflow="ellipsis")
    for number in range(max(len(MAP), len(lines))):
        printed = MAP[number] if number < len(MAP) else ""
        ours = lines[number] if number < len(lines) else ""
        same = bool(printed) and ours.startswith(printed)
        mark = Text("=", style="green") if same else Text("\u2260", style="yellow")
        table.add_row(Text(printed), mark, Text(" ".join(ours.split())))
    return table
