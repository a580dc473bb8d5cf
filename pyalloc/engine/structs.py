"""C structs read as Python values: names beside numbers."""

from __future__ import annotations

import functools
import operator
from typing import TYPE_CHECKING, Any

from pyalloc.engine.border import CData, ffi
from pyalloc.errors import EngineBug

if TYPE_CHECKING:
    from collections.abc import Callable


def word_names(struct: str) -> tuple[str, ...]:
    """Return a name for each word of a struct that is made of uint64_t alone."""
    kind = ffi.typeof(struct)
    names: list[str] = []
    for name, member in kind.fields:
        if member.type.kind == "array":
            names += [f"{name}{i}" for i in range(member.type.length)]
        else:
            names.append(name)
    if ffi.sizeof(kind) != 8 * len(names):
        message = f"{struct} is not made of uint64_t alone"
        raise EngineBug(message)
    return tuple(names)


def words(struct: CData, names: tuple[str, ...]) -> dict[str, int]:
    """Return a struct of uint64_t by the names of its words, faster than field by field."""
    return dict(zip(names, ffi.unpack(ffi.cast("uint64_t *", struct), len(names)), strict=True))


def as_dict(struct: CData) -> dict[str, int]:
    """Return the numbers of the struct that a pointer points to, by their names."""
    names, read = _reader(ffi.typeof(struct))
    return dict(zip(names, map(int, read(struct)), strict=True))


@functools.cache
def _reader(pointer: CData) -> tuple[tuple[str, ...], Callable[[CData], Any]]:
    """Return the names of a struct's numbers, and what reads them all."""
    fields = pointer.item.fields
    names = tuple(name for name, field in fields if field.type.kind == "primitive")
    return names, operator.attrgetter(*names)
