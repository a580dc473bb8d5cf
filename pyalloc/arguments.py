"""Arguments of public calls, looked at before anything changes; an error names what is wrong."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt

from pyalloc.errors import ArgumentError, WrongType

T = TypeVar("T")
Number = TypeVar("Number", np.int64, np.uint64)
_LONG: Final = 80


def _wrong(name: str, wanted: str, value: object) -> WrongType:
    kind = type(value).__name__
    article = "an" if kind[:1].lower() in "aeiou" else "a"
    shown = repr(value) if len(repr(value)) < _LONG else f"{repr(value)[:_LONG]}..."
    return WrongType(f"{name} must be {wanted} (got {shown}, {article} {kind})")


def registers(mask: int, **values: object) -> tuple[int, ...]:
    """Return values as the registers of a processor hold them: cut to ``mask``.

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
            raise _wrong(name, "an int", value) from None
    return tuple(found)


def whole(value: object, name: str, least: int = 0, most: int | None = None) -> int:
    """Return a whole number between ``least`` and ``most``.

    Raises
    ------
    WrongType, ArgumentError
        It is none, or not between them; the text names it.
    """
    try:
        number = operator.index(value)  # type: ignore[arg-type]  # it may be anything
    except TypeError:
        raise _wrong(name, "an int", value) from None
    if number < least or (most is not None and number > most):
        bounds = f"{least} or more" if most is None else f"{least} to {most}"
        message = f"{name} must be {bounds} (got {value!r})"
        raise ArgumentError(message)
    return number


def truth(value: object, name: str) -> bool:
    """Return a flag as a bool; 0 and 1 are flags, too.

    Raises
    ------
    WrongType
        It is none; the text names it.
    """
    if type(value).__name__ in ("bool", "bool_"):  # numpy's, too, which have no index
        return bool(value)
    try:
        return bool(operator.index(value))  # type: ignore[arg-type]  # it may be anything
    except TypeError:
        raise _wrong(name, "True or False", value) from None


def words(value: object, name: str) -> str:
    """Return a text.

    Raises
    ------
    WrongType
        It is none; the text of the error names it.
    """
    if isinstance(value, str):
        return value
    raise _wrong(name, "a str", value)


def instance(value: object, name: str, kind: type[T]) -> T:
    """Return an object of a class.

    Raises
    ------
    WrongType
        It is of another; the text names it.
    """
    if isinstance(value, kind):
        return value
    raise _wrong(name, f"a {kind.__name__}", value)


def mapping(value: object, name: str) -> Mapping[Any, Any]:
    """Return a mapping, such as a dict.

    Raises
    ------
    WrongType
        It is none; the text names it.
    """
    if isinstance(value, Mapping):
        return value
    raise _wrong(name, "a mapping", value)


def numbers(values: npt.ArrayLike, name: str, kind: type[Number]) -> npt.NDArray[Number]:
    """Return a list of whole numbers as an array of its own; those below 0 wrap if need be.

    Raises
    ------
    WrongType, ArgumentError
        It is none; the text names it.
    """
    array = np.asarray(values)
    if array.ndim == 1 and (not array.size or array.dtype.kind in "iu"):
        return array.astype(kind)
    if not array.ndim:
        message = f"{name} must be a list of whole numbers (got {values!r})"
        raise WrongType(message)
    message = f"{name} must be a list of whole numbers (got {array.dtype} of {array.ndim} axes)"
    raise ArgumentError(message)
