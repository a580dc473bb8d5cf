"""A ``/proc`` file: its text, and a mapping of the fields in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar

V = TypeVar("V")


class ProcText(Mapping[str, V], Generic[V]):
    r"""What one read of a ``/proc`` file gives.

    ``str()`` is the text, to the byte; as a mapping it gives each field its value, numbers as
    ints in the unit the file has (kB where it says kB).

    Examples
    --------
    >>> text = ProcText("VmRSS:\\t    1620 kB\\n", {"VmRSS": 1620})
    >>> text["VmRSS"], str(text)
    (1620, 'VmRSS:\\t    1620 kB\\n')
    """

    __slots__ = ("_fields", "_text")

    def __init__(self, text: str, fields: Mapping[str, V]) -> None:
        self._text = text
        self._fields = dict(fields)

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return self._text

    def __getitem__(self, field: str) -> V:
        return self._fields[field]

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)
