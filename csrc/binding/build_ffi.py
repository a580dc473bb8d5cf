"""Describe the extension to cffi; run by CMake through ``cffi-gen-src``.

The public header is the only source of the declarations: the text between its cdef
markers is what cffi sees, so the binding cannot drift from the C code.
"""

from pathlib import Path

from cffi import FFI

HEADER = Path(__file__).parents[1] / "include" / "pyalloc" / "pyalloc.h"


def public_declarations(header: Path) -> str:
    """Return the text between the cdef markers of ``header``."""
    text = header.read_text(encoding="utf-8")
    _, begin, rest = text.partition("/* cdef: begin */")
    body, end, _ = rest.partition("/* cdef: end */")
    if not (begin and end):
        message = f"{header}: cdef markers not found"
        raise SystemExit(message)
    return body


ffibuilder = FFI()
ffibuilder.cdef(public_declarations(HEADER))
ffibuilder.set_source("pyalloc._engine", '#include "pyalloc/pyalloc.h"')
