"""Reading and writing trace files, whatever their format."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import tempfile
from pathlib import Path
from typing import IO, TYPE_CHECKING

from pyalloc.errors import ArgumentError, TraceError
from pyalloc.nearest import nearest
from pyalloc.trace import formats, parquet

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyalloc.trace.table import Trace

NATIVE = "parquet"


def read_trace(path: str | os.PathLike[str], format: str | None = None) -> Trace:  # noqa: A002
    """Return the trace in file ``path``.

    Parameters
    ----------
    path
        A file that pyalloc or another tool wrote.
    format
        Name of the format, one of :func:`pyalloc.trace.formats.names`; found out from the content
        when not given.

    Raises
    ------
    TraceError
        The file is empty, truncated, damaged, foreign or of a later version; the text says which,
        and for text formats at which line.
    OSError
        The file cannot be opened.
    """
    file = Path(path)
    if format is not None and format not in names():
        message = f"no trace format {format!r}{nearest(format, names())}"
        raise ArgumentError(message)
    with file.open("rb") as stream:
        head = stream.read(formats.SNIFF_BYTES)
    if not head:
        message = f"{path}: the file is empty"
        raise TraceError(message)
    chosen = format or (NATIVE if head.startswith(parquet.MAGIC) else formats.sniff(head))
    if chosen is None:
        message = f"{path}: not a trace in any known format ({', '.join(names())})"
        raise TraceError(message)
    if chosen != NATIVE:
        return formats.read(file, chosen)
    if not head.startswith(parquet.MAGIC):
        message = f"{path}: not a Parquet file"
        raise TraceError(message)
    return parquet.read(file)


def names() -> list[str]:
    """Return the names of all formats that can be read."""
    return [NATIVE, *formats.names()]


def writable() -> list[str]:
    """Return the names of all formats that can be written."""
    return [NATIVE, *formats.writable()]


def write_trace(
    trace: Trace,
    path: str | os.PathLike[str],
    format: str | None = None,  # noqa: A002
    *,
    overwrite: bool = True,
) -> None:
    """Write ``trace`` to ``path``; see :meth:`Trace.write`."""
    chosen = format or _format_of(Path(path))
    if chosen not in writable():
        message = f"cannot write format {chosen!r}{nearest(chosen, writable())}"
        raise ArgumentError(message)
    with replacing(Path(path), overwrite=overwrite) as file:
        if chosen == NATIVE:
            parquet.write(trace, file)
        else:
            formats.write(trace, file, chosen)


def _format_of(path: Path) -> str:
    """Return the format that a file's name ends with, pyalloc's own if it ends otherwise."""
    suffix = path.suffix.removeprefix(".")
    return suffix if suffix in formats.writable() else NATIVE


@contextlib.contextmanager
def replacing(path: Path, *, overwrite: bool) -> Iterator[IO[bytes]]:
    """Yield a file that takes the name ``path`` when all went well, and else disappears."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if path.exists() and not path.is_file():
        with _copied_to(path) as file:
            yield file
        return
    if not overwrite and path.exists():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    target = path.resolve()
    part = target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}.part")
    try:
        with part.open("x+b") as file:
            yield file
        part.replace(target)
    except OSError as error:
        if error.filename in (None, str(part)):  # the name the user knows
            raise OSError(error.errno, error.strerror or str(error), str(path)) from error
        raise
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def _copied_to(device: Path) -> Iterator[IO[bytes]]:
    """Yield a file whose content goes to a pipe or device when all went well."""
    with tempfile.TemporaryFile() as file:
        yield file
        file.seek(0)
        with device.open("wb") as out:
            shutil.copyfileobj(file, out)
