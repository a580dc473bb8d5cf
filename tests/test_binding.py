"""The compiled module and the public header say the same."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from pyalloc import _engine

ROOT = Path(__file__).parents[1]
HEADER = ROOT / "csrc" / "include" / "pyalloc" / "pyalloc.h"


@pytest.fixture(scope="module")
def build_ffi() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "build_ffi", ROOT / "csrc" / "binding" / "build_ffi.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def declared_functions(header: Path) -> set[str]:
    text = re.sub(r"/\*.*?\*/", " ", header.read_text(encoding="utf-8"), flags=re.DOTALL)
    return set(re.findall(r"\b(pa_\w+)\s*\([^;{]*\)\s*;", text))


def test_every_declared_function_is_in_the_module() -> None:
    """The header promises nothing that the compiled module lacks."""
    missing = declared_functions(HEADER) - set(dir(_engine.lib))
    assert not missing


def test_the_module_has_no_function_of_its_own() -> None:
    """The header is the only source: nothing is bound that it does not declare."""
    bound = {
        name
        for name in dir(_engine.lib)
        if name.startswith("pa_") and callable(getattr(_engine.lib, name))
    }
    assert bound == declared_functions(HEADER)


def test_the_cdef_is_the_header_text(build_ffi: ModuleType) -> None:
    """What cffi was given stands in the header, letter by letter."""
    assert build_ffi.public_declarations(HEADER) in HEADER.read_text(encoding="utf-8")


def test_a_header_without_markers_is_refused(build_ffi: ModuleType, tmp_path: Path) -> None:
    """A lost marker stops the build instead of binding nothing."""
    header = tmp_path / "x.h"
    header.write_text("int f(void);")
    with pytest.raises(SystemExit, match="markers not found"):
        build_ffi.public_declarations(header)


def test_the_module_exports_only_its_init_function() -> None:
    """Engine symbols stay inside: they cannot clash with another library's."""
    out = subprocess.run(
        ["nm", "-D", "--defined-only", str(_engine.__file__)],
        capture_output=True,
        text=True,
        check=False,
    )
    if out.returncode:
        pytest.skip("nm is not installed")
    names = {line.split()[-1] for line in out.stdout.splitlines()}
    assert names == {"PyInit__engine"}


def importers(of: str) -> set[str]:
    """Return the files of the package that have an import in which the word ``of`` stands."""
    statement = re.compile(rf"^\s*(from|import)\b[^\n]*\b{of}\b", re.MULTILINE)
    package = ROOT / "pyalloc"
    return {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if statement.search(path.read_text(encoding="utf-8"))
    }


def test_only_one_python_package_touches_the_binding() -> None:
    """ffi and lib are imported by one module, and taken from it by its neighbours only."""
    assert importers("_engine") == {"engine/border.py"}
    users = importers("(ffi|lib)")
    assert "engine/heap.py" in users
    assert {name.partition("/")[0] for name in users} == {"engine"}


def test_import_is_quiet_and_works_from_anywhere(tmp_path: Path) -> None:
    """Importing prints nothing and needs no particular folder."""
    out = subprocess.run(
        [sys.executable, "-W", "error", "-c", "import pyalloc"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert out.stdout + out.stderr == ""
