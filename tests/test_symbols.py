"""Names of call sites: from debug information, from symbols, or honestly none."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pyalloc.trace import symbols
from pyalloc.trace.sites import Site

SOURCE = """
#include <stdlib.h>
__attribute__((noinline)) void *outer(int n) { return malloc(n + 1); }
static __attribute__((noinline)) void *inner(int n) { return outer(n) ? malloc(n + 2) : 0; }
int main(int argc, char **argv) { (void)argv; return inner(argc) == 0; }
"""

needs_compiler = pytest.mark.skipif(
    not (shutil.which("cc") and shutil.which("nm") and shutil.which("strip")),
    reason="no C compiler with binutils",
)


@pytest.fixture
def program(tmp_path: Path) -> Path:
    source, program = tmp_path / "sites.c", tmp_path / "sites"
    source.write_text(SOURCE, encoding="utf-8")
    subprocess.run(
        ["cc", "-g", "-O1", "-rdynamic", str(source), "-o", str(program)], check=True, timeout=60
    )
    return program


def addresses(program: Path) -> dict[str, int]:
    listing = subprocess.run(["nm", str(program)], check=True, capture_output=True, text=True)
    found = re.findall(r"^([0-9a-f]+) [tT] (inner|outer)$", listing.stdout, re.MULTILINE)
    return {name: int(value, 16) + 1 for value, name in found}


@needs_compiler
def test_debug_information_gives_function_and_line(program: Path) -> None:
    """With -g a site has its function, file and line."""
    at = addresses(program)
    (name,) = symbols.lookup(str(program), [at["inner"]])
    assert name.function == "inner"
    assert name.file is not None
    assert name.file.endswith("sites.c")
    assert name.line == 4


@needs_compiler
def test_a_stripped_program_names_only_what_it_exports(program: Path) -> None:
    """An exported function keeps its name; a static one does not borrow its neighbour's."""
    at = addresses(program)
    subprocess.run(["strip", str(program)], check=True)
    outer, inner = symbols.lookup(str(program), [at["outer"], at["inner"]])
    assert outer.function == "outer"
    assert inner.function is None


def test_what_is_no_program_has_no_names(tmp_path: Path) -> None:
    """A missing or foreign file gives unknown names, not an error."""
    foreign = tmp_path / "x"
    foreign.write_bytes(b"\x7fELF\x02garbage")
    for path in (str(foreign), str(tmp_path / "missing")):
        assert symbols.lookup(path, [1, 2]) == [symbols.Name(), symbols.Name()]


@pytest.mark.parametrize(
    ("known", "text"),
    [
        ({}, "libm.so+0x10"),
        ({"function": "f"}, "f (libm.so)"),
        ({"function": "f", "file": "m.c"}, "f (m.c)"),
        ({"function": "f", "file": "m.c", "line": 7}, "f (m.c:7)"),
    ],
)
def test_a_site_is_told_as_far_as_it_is_known(known: dict[str, Any], text: str) -> None:
    """A symbol table names the file and no line."""
    assert str(Site("/usr/lib/libm.so", 16, **known)) == text
