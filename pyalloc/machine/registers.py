"""Arguments of system calls, taken as registers take them."""

from __future__ import annotations

import operator

from pyalloc.errors import WrongType


def registers(mask: int, **values: object) -> tuple[int, ...]:
    """Return values as registers hold them.

    Raises
    ------
    WrongType
        One is no whole number; the text names it.
    """
    found = []
    for name, value in values.items():
        try:
            found.append(operator.index(value) & mask)  # type: ignore[arg-type]  # it may be anything
        except TypeError:
            message = f"{name} must be an int (got {value!r}, a {type(value).__name__})"
            raise WrongType(message) from None
    return tuple(found)
