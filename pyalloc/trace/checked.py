"""Parquet files that are read only if every byte is as it was written.

The Rust reader below arro3 aborts the whole process on some damaged files, so no byte reaches it
that is not the byte that was written: the footer holds a CRC-32 of the file (computed with its own
eight digits as ``????????``), and it is checked first.
"""

from __future__ import annotations

import mmap
import re
import struct
import zlib
from typing import IO, TYPE_CHECKING, Any, Final, cast

from arro3.io import read_parquet, write_parquet

from pyalloc.errors import TraceError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from arro3.core import RecordBatchReader, Table

MAGIC: Final = b"PAR1"

_BLANK: Final = b"????????"
_CRC: Final = re.compile(rb"pyalloc:crc32=([0-9a-f]{8})")
_TAIL: Final = 8  # length of the footer, and the magic again
_CHUNK: Final = 1 << 22


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


def write_checked(
    table: Table,
    file: IO[bytes],
    metadata: Mapping[str, str],
    **options: Any,  # noqa: ANN401 - as arro3's writer takes them
) -> None:
    """Write ``table`` to ``file``, which must be seekable; raises OSError when the disk is full."""
    sink = _Sink(file)
    write_parquet(
        table,
        cast("IO[bytes]", sink),
        compression="zstd(1)",
        created_by="pyalloc",
        skip_arrow_metadata=True,
        key_value_metadata={
            "pyalloc:check": f"pyalloc:crc32={_BLANK.decode()}",
            **metadata,
        },
        **options,
    )
    if sink.error is not None:
        raise sink.error
    file.flush()
    _stamp(file, sink.crc)


def read_checked(path: Path, what: str, batch_rows: int = 1 << 20) -> RecordBatchReader:
    """Return a reader of the file ``path``; TraceError if it is damaged, or not ``what``."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        _check_intact(data, str(path), what)
    return read_parquet(str(path), batch_size=batch_rows)


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


def _check_intact(data: mmap.mmap, path: str, what: str) -> None:
    if data[-4:] != MAGIC or len(data) < len(MAGIC) + _TAIL:
        message = f"{path}: truncated: the end of the Parquet file is missing"
        raise TraceError(message)
    start = _footer(len(data), data[-_TAIL:])
    if start < len(MAGIC):
        message = f"{path}: damaged: its footer is larger than the file"
        raise TraceError(message)
    found = _CRC.search(data, start)
    if not found:
        message = f"{path}: a Parquet file, but not {what} (or a damaged one)"
        raise TraceError(message)
    if _checksum(data, found.start(1)) != int(found[1], 16):
        message = f"{path}: damaged: its checksum does not match"
        raise TraceError(message)
