"""Lines that look like calls: ``NAME(ARGUMENTS) = RESULT``, as valgrind and ltrace print them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from pyalloc.trace.formats.events import rows as rows_of
from pyalloc.trace.formats.text import Piece, key_of
from pyalloc.trace.ops import Op

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from pyalloc.trace.formats.events import Column

    I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Call:
    """How to read the tokens after a function's name.

    ``size``, ``arg`` and ``old`` are places of tokens after the name; two places of ``size`` are
    multiplied.  ``result`` is the place of the pointer that came back, ``None`` for none, and
    ``tokens`` how many there are in all, the name included.
    """

    op: Op
    tokens: int
    size: tuple[int, ...] = ()
    arg: int | None = None
    old: int | None = None
    result: int | None = None


def _product(a: npt.NDArray[np.uint64], b: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    top = np.uint64(0xFFFFFFFFFFFFFFFF)
    safe = np.where(b > 0, b, np.uint64(1))
    return np.where((b > 0) & (a > top // safe), top, a * b)


class Reader:
    """Reads lines whose names are in ``grammar``; other names are left out."""

    def __init__(self, grammar: Mapping[bytes, tuple[Call, ...]]) -> None:
        self._calls: Final = {int(key_of(name)): calls for name, calls in grammar.items()}

    def is_known(self, key: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        """Return which names are in the grammar."""
        return np.isin(key, np.array(list(self._calls), np.uint64))

    def read(
        self, piece: Piece, rows: I64, name: I64, threads: npt.NDArray[np.uint32]
    ) -> dict[str, Column]:
        """Read lines ``rows`` of ``piece``, whose names are the tokens ``name``."""
        n = len(rows)
        columns = {k: np.zeros(n, np.uint64) for k in ("size", "arg", "old", "ret")}
        op = np.full(n, 255, np.uint8)
        after = piece.first[rows] + piece.count[rows] - name
        keys = piece.key(name)
        for key in np.unique(keys).tolist():
            for call in self._calls[key]:
                some = np.flatnonzero((keys == np.uint64(key)) & (after == call.tokens))
                if len(some):
                    op[some] = call.op
                    self._fill(piece, rows[some], name[some], call, columns, some)
        piece.check(op == 255, rows, "not a complete call")
        return rows_of(op=op, thread=threads, **columns)

    @staticmethod
    def _fill(
        piece: Piece,
        rows: I64,
        name: I64,
        call: Call,
        columns: dict[str, npt.NDArray[np.uint64]],
        some: I64,
    ) -> None:
        def number(place: int) -> npt.NDArray[np.uint64]:
            found = piece.number(name + place)
            piece.check(found.bad, rows, "not a number in a call")
            return found.value

        if call.size:
            size = number(call.size[0])
            for place in call.size[1:]:
                size = _product(size, number(place))
            columns["size"][some] = size
        for column, at in (("arg", call.arg), ("old", call.old), ("ret", call.result)):
            if at is not None:
                columns[column][some] = number(at)
