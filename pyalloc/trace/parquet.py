"""The native file: Parquet, one column a column, the rest as JSON in the file's metadata."""

from __future__ import annotations

import json
from typing import IO, TYPE_CHECKING, Any, Final

import numpy as np
from arro3.core import Array, Table

from pyalloc.errors import TraceError
from pyalloc.trace.checked import MAGIC, read_checked, write_checked
from pyalloc.trace.info import TraceInfo
from pyalloc.trace.table import DTYPES, REQUIRED, Trace

if TYPE_CHECKING:
    from pathlib import Path

    from arro3.core import RecordBatchReader

__all__ = ["MAGIC", "VERSION", "read", "write"]

VERSION: Final = 1
"""Schema version: raised when an older reader would misread the file."""

_ROWS: Final = 1 << 20

_DELTA: Final = ("block", "size", "arg", "time", "address")
_DICTIONARY: Final = ("op", "thread", "site")


def _to_table(trace: Trace) -> Table:
    columns = {name: array for name, array in trace.columns.items() if trace.has(name)}
    if trace.address is not None:
        columns["address"] = trace.address
    return Table.from_arrays(
        [Array.from_numpy(np.ascontiguousarray(array)) for array in columns.values()],
        names=list(columns),
    )


def write(trace: Trace, file: IO[bytes]) -> None:
    """Write ``trace`` to ``file``, which must be seekable; raises OSError when the disk is full."""
    table = _to_table(trace)
    names = table.column_names
    write_checked(
        table,
        file,
        {"pyalloc:trace": json.dumps({"version": VERSION, "info": trace.info.to_json()})},
        column_encoding={name: "delta_binary_packed" for name in names if name in _DELTA},
        column_dictionary_enabled={name: name in _DICTIONARY for name in names},
        max_row_group_size=_ROWS,
        data_page_row_count_limit=1 << 17,
        write_batch_size=8192,
    )


def _metadata(reader: RecordBatchReader, path: str) -> dict[str, Any]:
    head: dict[str, Any] = json.loads(reader.schema.metadata_str.get("pyalloc:trace", "{}"))
    version = head.get("version")
    if not isinstance(version, int) or version > VERSION:
        message = (
            f"{path}: written by a later pyalloc (trace version {version}, "
            f"this one reads up to {VERSION}); upgrade pyalloc"
        )
        raise TraceError(message)
    return head


def _columns(table: Table, path: str) -> dict[str, Any]:
    columns = {}
    for name in table.column_names:
        if name not in DTYPES:
            continue
        chunks = [np.asarray(chunk.to_numpy()) for chunk in table[name].chunks]
        column = (
            chunks[0] if len(chunks) == 1 else np.concatenate([np.zeros(0, DTYPES[name]), *chunks])
        )
        if column.dtype != DTYPES[name]:
            message = f"{path}: column {name} has type {column.dtype}, not {DTYPES[name]}"
            raise TraceError(message)
        columns[name] = column
    for name in REQUIRED:
        if name not in columns:
            message = f"{path}: the column {name} is missing"
            raise TraceError(message)
    return columns


def read(path: Path) -> Trace:
    """Return the trace in the Parquet file ``path``."""
    reader = read_checked(path, "a pyalloc trace", _ROWS)
    head = _metadata(reader, str(path))
    columns = _columns(reader.read_all(), str(path))
    return Trace(columns, TraceInfo.from_json(head.get("info", {})))
