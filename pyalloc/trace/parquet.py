"""The native file: Parquet, one column a column, the rest as JSON in the file's metadata.

The Rust reader below arro3 aborts the whole process on some damaged files, so no byte reaches it
that is not the byte that was written: the footer holds a CRC-32 of the file (computed with its own
eight digits as ``????????``), and it is checked first.
"""

from __future__ import annotations

import json
import mmap
import re
import struct
import zlib
from typing import IO, TYPE_CHECKING, Any, Final, cast

import numpy as np
from arro3.core import Array, Table
from arro3.io import read_parquet, write_parquet

from pyalloc.errors import TraceError
from pyalloc.trace.info import TraceInfo
from pyalloc.trace.table import DTYPES, REQUIRED, Trace

if TYPE_CHECKING:
    from pathlib import Path

    from arro3.core import RecordBatchReader

MAGIC: Final = b"PAR1"
VERSION: Final = 1
"""Schema version: raised when an older reader would misread the file."""

_BLANK: Final = b"????????"
_CRC: Final = re.compile(rb"pyalloc:crc32=([0-9a-f]{8})")
_TAIL: Final = 8  # length of the footer, and the magic again
_CHUNK: Final = 1 << 22
_ROWS: Final = 1 << 20

_DELTA: Final = ("block", "size", "arg", "time", "address")
_DICTIONARY: Final = ("op", "thread", "site")


class _Sink:
    """A file for arro3 that never raises into it, and sums up what went through."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.crc = 0
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        """Write ``data``; after an error, only pretend to."""
        if self.error is None:
            try:
                self.file.write(data)
                self.crc = zlib.crc32(data, self.crc)
            except OSError as error:
                self.error = error
        return len(data)

    def flush(self) -> None:
        """Leave buffers alone: the owner of the file closes it."""

    def seek(self, offset: int, whence: int = 0) -> int:
        """Satisfy arro3, which asks for the method and never calls it."""
        return self.file.seek(offset, whence)


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
    sink = _Sink(file)
    table = _to_table(trace)
    names = table.column_names
    write_parquet(
        table,
        cast("IO[bytes]", sink),
        compression="zstd(1)",
        column_encoding={name: "delta_binary_packed" for name in names if name in _DELTA},
        column_dictionary_enabled={name: name in _DICTIONARY for name in names},
        max_row_group_size=_ROWS,
        data_page_row_count_limit=1 << 17,
        write_batch_size=8192,
        created_by="pyalloc",
        skip_arrow_metadata=True,
        key_value_metadata={
            "pyalloc:check": f"pyalloc:crc32={_BLANK.decode()}",
            "pyalloc:trace": json.dumps({"version": VERSION, "info": trace.info.to_json()}),
        },
    )
    if sink.error is not None:
        raise sink.error
    file.flush()
    _stamp(file, sink.crc)


def _footer(size: int, tail: bytes) -> int:
    """Return where the footer of a file of ``size`` bytes begins."""
    length = int(struct.unpack("<I", tail[:4])[0])
    return size - _TAIL - length


def _stamp(file: IO[bytes], crc: int) -> None:
    size = file.seek(-_TAIL, 2) + _TAIL
    start = _footer(size, file.read(_TAIL))
    file.seek(start)
    at = file.read(size - start).index(b"pyalloc:crc32=" + _BLANK) + len("pyalloc:crc32=")
    file.seek(start + at)
    file.write(f"{crc:08x}".encode())
    file.seek(0, 2)


def _checksum(data: mmap.mmap, digits_at: int) -> int:
    crc = 0
    for start in range(0, len(data), _CHUNK):
        piece = data[start : start + _CHUNK]
        low, high = max(digits_at, start), min(digits_at + len(_BLANK), start + len(piece))
        if low < high:
            blank = b"?" * (high - low)
            piece = piece[: low - start] + blank + piece[high - start :]
        crc = zlib.crc32(piece, crc)
    return crc


def _check_intact(data: mmap.mmap, path: str) -> None:
    if data[-4:] != MAGIC or len(data) < len(MAGIC) + _TAIL:
        message = f"{path}: truncated: the end of the Parquet file is missing"
        raise TraceError(message)
    start = _footer(len(data), data[-_TAIL:])
    if start < len(MAGIC):
        message = f"{path}: damaged: its footer is larger than the file"
        raise TraceError(message)
    found = _CRC.search(data, start)
    if not found:
        message = f"{path}: a Parquet file, but not a pyalloc trace (or a damaged one)"
        raise TraceError(message)
    if _checksum(data, found.start(1)) != int(found[1], 16):
        message = f"{path}: damaged: its checksum does not match"
        raise TraceError(message)


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
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        _check_intact(data, str(path))
    reader = read_parquet(str(path), batch_size=_ROWS)
    head = _metadata(reader, str(path))
    columns = _columns(reader.read_all(), str(path))
    return Trace(columns, TraceInfo.from_json(head.get("info", {})))
