"""What the readers of pointer traces have in common: columns of pointers become a trace."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pyalloc.trace.blocks import assign_blocks
from pyalloc.trace.info import TraceInfo
from pyalloc.trace.ops import ALLOCATES
from pyalloc.trace.table import Trace

Column = npt.NDArray[Any]

_TYPES: Final = {
    "op": "u1",
    "size": "u8",
    "arg": "u8",
    "old": "u8",
    "ret": "u8",
    "thread": "u4",
    "site": "u4",
    "time": "u8",
}
_ALLOCATES: Final = np.isin(np.arange(256), sorted(ALLOCATES))


def rows(**columns: Column) -> dict[str, Column]:
    """Return the columns of some rows, with zeros for those not given."""
    n = len(columns["op"])
    return {
        name: np.asarray(columns.get(name, np.zeros(n, kind)), kind)
        for name, kind in _TYPES.items()
    }


NO_ROWS: Final = rows(op=np.zeros(0, np.uint8))


@dataclass(slots=True)
class Events:
    """Columns that grow piece by piece: what went in (``old``) and what came out (``ret``)."""

    parts: list[dict[str, Column]] = field(default_factory=list)

    def add(self, **columns: Column) -> None:
        """Add the rows of one piece; ``op`` is required, others are zeros when not given."""
        self.parts.append(rows(**columns))

    def column(self, name: str) -> Column:
        """Return one column, whole."""
        empty = np.zeros(0, _TYPES[name])
        return np.concatenate([empty, *(part[name] for part in self.parts)])

    def to_trace(self, info: TraceInfo, *, addresses: bool = True) -> Trace:
        """Return the trace; ``addresses`` says whether they are those of a real glibc."""
        op, old, ret = self.column("op"), self.column("old"), self.column("ret")
        blocks = assign_blocks(op, old, ret)
        columns = {
            name: self.column(name) for name in ("op", "size", "arg", "thread", "site", "time")
        }
        columns = {n: c for n, c in columns.items() if n in ("op", "size") or c.any()}
        columns["block"] = blocks.block
        if addresses:
            columns["address"] = np.where(_ALLOCATES[op], ret, np.uint64(0))
        unknown = {int(i): int(old[i]) for i in blocks.unknown}
        return Trace(columns, replace(info, unknown_frees=unknown))
