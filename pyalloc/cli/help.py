"""The pages of ``--help``: each parameter's text flows, and a default is shown where it tells."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from attrs import evolve
from cyclopts.help import DefaultFormatter, HelpEntry, HelpPanel
from cyclopts.help.inline_text import InlineText
from rich.console import Console, ConsoleOptions
from rich.text import Text


def flowing(text: str) -> str:
    """Return a text whose paragraphs are one line each, for whoever prints it to fold."""
    return "\n\n".join(" ".join(part.split()) for part in text.strip().split("\n\n"))


def told_default(value: Any) -> str | None:  # noqa: ANN401 - of any option
    """Return what help says of a default: nothing of one that says nothing."""
    return None if value is None or value is False or value in ("", ()) else str(value)


def page_text(command: Callable[..., Any]) -> str:
    """Return what a command's docstring says above its parameters."""
    return flowing((inspect.getdoc(command) or "").partition("\nParameters\n---")[0])


class Formatter(DefaultFormatter):
    """Prints a panel with texts that flow: docstrings break their lines where the source does."""

    def __call__(self, console: Console, options: ConsoleOptions, panel: HelpPanel) -> None:
        """Print one panel."""
        entries = [_flowing_entry(entry) for entry in panel.entries]
        super().__call__(console, options, panel.copy(entries=entries))


def _flowing_entry(entry: HelpEntry) -> HelpEntry:
    text = entry.description
    if isinstance(text, InlineText) and isinstance(text.primary_renderable, Text):
        text = InlineText(Text(flowing(text.primary_renderable.plain)))
    # cyclopts writes the options nobody has foreseen as --[KEYWORD]
    names = tuple(name.replace("[KEYWORD]", "PARAMETER") for name in entry.positive_names)
    changed: HelpEntry = evolve(entry, description=text, positive_names=names)
    return changed
