"""The README and docs/ are true: what they print is printed, what they name is there, code runs."""

from __future__ import annotations

import json
import os
import re
import shlex
from pathlib import Path

import pytest

import pyalloc as pa
from pyalloc.cli import main

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", *sorted((ROOT / "docs").glob("*.md"))]
SAME_EVERYWHERE = ("pyalloc simulate leak-beside-a-database",)
"""Commands whose output does not depend on this machine."""


def blocks(kind: str) -> list[tuple[Path, str]]:
    fence = re.compile(rf"^```{kind}\n(.*?)^```", re.DOTALL | re.MULTILINE)
    return [(page, text) for page in PAGES for text in fence.findall(page.read_text("utf-8"))]


def printed(command: str) -> list[tuple[Path, list[str]]]:
    """Return the lines that follow a command in the docs."""
    found = []
    for page, text in (*blocks("text"), *blocks("console")):
        first, *rest = text.splitlines()
        if first == f"$ {command}":
            found.append((page, rest))
    return found


@pytest.mark.parametrize("command", SAME_EVERYWHERE)
def test_what_is_printed_there_is_printed_here(
    command: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Line by line; a line of dots stands for lines left out."""
    assert printed(command), "no page prints it"
    main(shlex.split(command)[1:])
    lines = capfd.readouterr().out.splitlines()
    for page, expected in printed(command):
        at = 0
        for line in expected:
            if line == "...":
                continue
            assert line in lines[at:], f"{page.name}: {line!r} is not printed"
            at = lines.index(line, at) + 1


@pytest.mark.parametrize(("page", "code"), blocks("python"), ids=lambda v: getattr(v, "name", ""))
def test_code_runs_as_it_stands(
    page: Path, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pa.workload("random", count=2000, live=100).write("program.parquet")
    exec(compile(code, page.name, "exec"), {"__name__": "example"})  # noqa: S102 - our own docs


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_a_page_names_is_there(page: Path) -> None:
    text = page.read_text("utf-8")
    links = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    assert [link for link in links if not (page.parent / link).exists()] == []
    paths = re.findall(r"`((?:pyalloc|csrc|docs|tests|benchmarks)/[\w./-]+)`", text)
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_the_walk_down_names_files_that_are_there() -> None:
    """docs/life-of-a-malloc.md names C files by their last word."""
    text = (ROOT / "docs" / "life-of-a-malloc.md").read_text("utf-8")
    files = re.findall(r"`([a-z_0-9]+\.[ch])`", text)
    assert len(files) > 8
    assert [name for name in files if not any((ROOT / "csrc").rglob(name))] == []


def test_every_command_is_in_the_readme() -> None:
    from pyalloc.cli.app import VERBS  # noqa: PLC0415

    text = (ROOT / "README.md").read_text("utf-8")
    assert [verb for verb in VERBS if not re.search(rf"\b{verb}\b", text)] == []


# --- JSON --------------------------------------------------------------------------------------

JSON = {
    "run": "run --json -- true",
    "record": "record --json -o new.parquet -- true",
    "replay": "replay t.parquet --json",
    "compare": "compare t.parquet --allocator best-fit --json",
    "advise": "advise t.parquet -s arena_max=1 --json",
    "fit": "fit t.parquet -l cgroup --json",
    "fit --at": "fit t.parquet -l cgroup --at 8M --json",
    "blame": "blame t.parquet --json",
    "leaks": "leaks t.parquet --json",
    "explain": "explain t.parquet --at 3 --json",
    "report": "report t.parquet --json",
    "convert": "convert t.parquet t.rep --json",
    "order": "order t.parquet --order lifo --repeats 2 --search 0 --json",
    "sweep": "sweep lifo:count=100 --seed 1..2 --workers 1 --json",
    "workload": "workload --json",
    "workload NAME": "workload lifo --json",
    "workload NAME -o": "workload lifo:count=100 -o new2.parquet --json",
    "host": "host --json",
    "simulate": "simulate fork-bomb --until 1s --json",
    "simulate --list": "simulate --list --json",
    "simulate --check": "simulate fork-bomb --check --json",
    "article --map": "article --map --json",
    "allocators": "allocators --json",
}
DOCS = ROOT / "docs" / "json.md"
BEGIN = "<!-- keys: begin; made by tests/test_docs.py with PYALLOC_WRITE_DOCS=1 -->\n"
END = "<!-- keys: end -->\n"


def row(name: str, value: object) -> str:
    kind = "a list of" if isinstance(value, list) else ""
    one = value[0] if isinstance(value, list) else value
    assert isinstance(one, dict)
    keys = ", ".join(f"`{key}`" for key in one)
    return f"| `{name}` | {kind} | {keys} |"


def test_json_is_valid_and_has_the_keys_that_docs_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Of every command; new keys are written down, and none disappears unseen."""
    monkeypatch.chdir(tmp_path)
    pa.workload("random", count=2000, live=100).write("t.parquet")
    rows = []
    for name, command in JSON.items():
        capfd.readouterr()
        assert main(shlex.split(command)) in (0, 1), command
        rows.append(row(name, json.loads(capfd.readouterr().out)))
    table = "".join(f"{line}\n" for line in ("| command | | keys |", "|---|---|---|", *rows))
    text = DOCS.read_text("utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    made = f"{before}{BEGIN}\n{table}\n{END}{after}"
    if os.environ.get("PYALLOC_WRITE_DOCS"):
        DOCS.write_text(made, "utf-8")
    assert text == made
