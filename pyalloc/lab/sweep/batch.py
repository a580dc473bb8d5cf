"""Rows on their way: the outcome of some points as a table, which is what is sent and what is kept.

A row has a hundred columns.  As a dictionary it costs the one process that gathers the rows of all
workers more than a small experiment costs the worker; as columns, made where the points were run,
it costs next to nothing.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from arro3.core import Array, DataType, Table
from arro3.io import read_ipc_stream, write_ipc_stream

from pyalloc.lab.sweep.parameters import Axis, Between
from pyalloc.lab.sweep.plan import Plan
from pyalloc.machine.metrics import FIGURES

Row = dict[str, Any]
Schema = Mapping[str, type]

_TYPES: Final = {
    int: DataType.int64(),
    float: DataType.float64(),
    bool: DataType.bool(),
    str: DataType.utf8(),
}


@dataclass(frozen=True, eq=False, slots=True)
class Batch:
    """The rows of some points, and the seconds that the points took."""

    table: Table
    seconds: float

    @classmethod
    def of(cls, rows: Sequence[Row], schema: Schema) -> Batch:
        """Return rows as a batch; what a row does not have is null."""
        return cls(table_of(rows, schema), sum(row["seconds"] for row in rows))

    def __len__(self) -> int:
        """Return the number of rows."""
        return int(self.table.num_rows)

    def __reduce__(self) -> tuple[Callable[[bytes, float], Batch], tuple[bytes, float]]:
        """Send a table as an Arrow stream: it does not pickle by itself."""
        stream = io.BytesIO()
        write_ipc_stream(self.table, stream)
        return _received, (stream.getvalue(), self.seconds)


def _received(stream: bytes, seconds: float) -> Batch:
    return Batch(read_ipc_stream(io.BytesIO(stream)).read_all(), seconds)


def schema_of(plan: Plan) -> Schema:
    """Return the columns of a sweep's table: point, parameters, figures, what went wrong."""
    axes = {each.name: _type_of(each) for each in plan.axes}
    return {
        "point": int,
        "program": str,
        **axes,
        **{name: kind for name, kind in FIGURES.items() if name not in axes},
        "ended": str,
        "ended_at": int,
        "error": str,
        "seconds": float,
    }


def _type_of(axis: Axis) -> type:
    if isinstance(axis.values, range):
        return int
    if isinstance(axis.values, Between):
        return int if axis.values.whole else float
    kinds = {type(value) for value in axis.values}
    if kinds == {int, float}:
        return float
    return kinds.pop() if len(kinds) == 1 else str


def table_of(rows: Sequence[Row], schema: Schema) -> Table:
    """Return rows as an Arrow table; what a row does not have is null."""
    columns = [
        Array([_as(kind, row.get(name)) for row in rows], type=_TYPES[kind])
        for name, kind in schema.items()
    ]
    return Table.from_arrays(columns, names=list(schema))


def _as(kind: type, value: Any) -> Any:  # noqa: ANN401
    return value if value is None or type(value) is kind else kind(value)
