"""The column table of calls: one row a call, one numpy array a column.

A trace is a value: its columns are read-only, slices share memory with their whole, and nothing
in it depends on who reads it.  Columns that were not given read as zeros.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final, NamedTuple, overload

import numpy as np
import numpy.typing as npt
from arro3.core import Array, Table

from pyalloc.errors import TraceError, WrongType
from pyalloc.trace import live as _live
from pyalloc.trace import summary as _summary
from pyalloc.trace.info import TraceInfo
from pyalloc.trace.ops import NULL_BLOCK, Op

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from pyalloc.trace.summary import SiteTotals, SizeHistogram, TraceSummary

DTYPES: Final[dict[str, np.dtype[Any]]] = {
    "op": np.dtype("u1"),
    "block": np.dtype("u4"),
    "size": np.dtype("u8"),
    "arg": np.dtype("u8"),
    "thread": np.dtype("u4"),
    "site": np.dtype("u4"),
    "time": np.dtype("u8"),
    "address": np.dtype("u8"),
}
"""Every column and its type, in file order."""

REQUIRED: Final = ("op", "block", "size")
ROW_NUMBERS: Final = ("block", "size", "arg", "thread", "site", "time")
SIGNED: Final = (Op.SBRK, Op.MALLOPT)  # their size is an int in C
_IS_SIGNED: Final = np.isin(np.arange(256), SIGNED)

Column = npt.NDArray[Any]


class Row(NamedTuple):
    """One call."""

    op: Op
    block: int
    size: int
    arg: int
    thread: int
    site: int
    time: int
    address: int | None


def _first(mask: npt.NDArray[np.bool_]) -> int:
    return int(np.argmax(mask))


def _integers(name: str, values: object) -> Column:
    try:
        array = np.asarray(values)
        if array.dtype.kind == "f" and not isinstance(values, np.ndarray):
            array = np.asarray(values, object)  # a list of numbers, some beyond int64
    except (ValueError, TypeError, OverflowError) as error:
        message = f"column {name} is not an array of integers: {error}"
        raise TraceError(message) from None
    if array.ndim != 1:
        message = f"column {name} must have one dimension (got shape {array.shape})"
        raise TraceError(message)
    if array.size == 0:
        return array.astype(DTYPES[name])
    if array.dtype == object:
        return _wide_integers(name, array)
    if array.dtype.kind not in "iu":
        message = f"column {name} must hold integers (got {array.dtype})"
        raise TraceError(message)
    return array


def _wide_integers(name: str, values: Column) -> Column:
    """Return Python integers, some of which may need the whole of 64 bits."""
    for row, value in enumerate(values):
        if not isinstance(value, int | np.integer):
            message = f"row {row}: column {name} must hold integers (got {value!r})"
            raise TraceError(message)
        if not 0 <= value < 1 << 64:
            message = f"row {row}: {name} {value} does not fit in {DTYPES[name]}"
            raise TraceError(message)
    return values.astype(np.uint64)


def _check_range(name: str, array: Column, may_be_negative: npt.NDArray[np.bool_] | None) -> None:
    limit = np.iinfo(DTYPES[name]).max
    if array.dtype.kind == "i":
        bad = array < 0
        if may_be_negative is not None:
            bad &= ~may_be_negative
        if bad.any():
            row = _first(bad)
            message = f"row {row}: {name} {array[row]} is negative"
            raise TraceError(message)
    if np.iinfo(array.dtype).max > limit and (bad := array > limit).any():
        row = _first(bad)
        message = f"row {row}: {name} {array[row]} does not fit in {DTYPES[name]}"
        raise TraceError(message)


def _column(
    name: str, values: object, may_be_negative: npt.NDArray[np.bool_] | None = None
) -> Column:
    array = _integers(name, values)
    if array.size and array.dtype != DTYPES[name]:
        _check_range(name, array, may_be_negative)
    return np.ascontiguousarray(array, DTYPES[name])


def _check_ops(op: Column) -> None:
    if op.size and int(op.max()) > max(Op):
        row = _first(op > max(Op))
        message = f"row {row}: op {op[row]} is not a pyalloc.Op (0 to {max(Op).value})"
        raise TraceError(message)


def _check_lengths(columns: Mapping[str, Column]) -> None:
    length = len(columns["op"])
    for name, array in columns.items():
        if len(array) != length:
            message = f"column {name} has {len(array)} rows, column op has {length}"
            raise TraceError(message)


def _read_only(array: Column) -> Column:
    view = array.view()
    view.flags.writeable = False
    return view


class Trace:
    """Calls of one process, in the order in which they happened.

    Make one with :meth:`from_arrays` or :func:`pyalloc.read_trace`.

    Parameters
    ----------
    columns
        Arrays by column name, of exactly the types in :data:`DTYPES`.
    info
        What is known beside the rows.

    Examples
    --------
    >>> import pyalloc as pa
    >>> t = pa.Trace.from_arrays([pa.Op.MALLOC, pa.Op.FREE], [0, 0], [100, 0])
    >>> t
    <Trace: 2 calls, 1 block, peak 100 B requested>
    >>> t.live_bytes()
    array([100,   0])
    """

    __slots__ = ("_columns", "info")

    def __init__(self, columns: Mapping[str, Column], info: TraceInfo | None = None) -> None:
        for name in REQUIRED:
            if name not in columns:
                message = f"a trace needs the column {name}"
                raise TraceError(message)
        _check_lengths(columns)
        self._columns = {name: _read_only(columns[name]) for name in DTYPES if name in columns}
        self.info = info or TraceInfo()

    @classmethod
    def from_arrays(
        cls,
        op: object,
        block: object,
        size: object,
        arg: object = None,
        thread: object = None,
        site: object = None,
        time: object = None,
        *,
        address: object = None,
        info: TraceInfo | None = None,
    ) -> Trace:
        """Return a trace of the given columns, one row a call.

        Arrays of the right type are used as they are, without a copy.

        Parameters
        ----------
        op
            :class:`pyalloc.Op` of each call.
        block
            Number of the object the call is about; ``0xFFFFFFFF`` is NULL.
        size
            Bytes: of the request, in total for CALLOC, the value for MALLOPT, the signed increment
            for SBRK.
        arg
            Alignment in bytes for the memalign family, parameter number for MALLOPT.
        thread
            Number of the calling thread; 0 is the main thread.
        site
            Number of the call site in ``info.sites``; 0 is unknown.
        time
            Nanoseconds since the start.
        address
            The pointer the real library returned, 0 for NULL and for other calls.
        info
            What is known beside the rows.

        Raises
        ------
        TraceError
            Some value is outside its domain; the text names the column and the row.
        """
        columns = {"op": _column("op", op)}
        _check_ops(columns["op"])
        signed = _IS_SIGNED[columns["op"]]
        given = {
            "block": block,
            "size": size,
            "arg": arg,
            "thread": thread,
            "site": site,
            "time": time,
            "address": address,
        }
        for name, values in given.items():
            if values is None and name not in REQUIRED:
                continue
            array = _integers(name, values)
            matches = len(array) == len(signed) and name in ("size", "arg")
            columns[name] = _column(name, array, signed if matches else None)
        return cls(columns, info)

    # --- columns

    def _get(self, name: str) -> Column:
        column = self._columns.get(name)
        if column is None:
            column = _read_only(np.zeros(len(self), DTYPES[name]))
            self._columns[name] = column
        return column

    def has(self, name: str) -> bool:
        """Return whether column ``name`` holds anything but the zeros of a column not given."""
        return name in self._columns and (name in REQUIRED or bool(self._columns[name].any()))

    @property
    def op(self) -> npt.NDArray[np.uint8]:
        """:class:`pyalloc.Op` of each call."""
        return self._columns["op"]

    @property
    def block(self) -> npt.NDArray[np.uint32]:
        """Number of the object each call is about; ``0xFFFFFFFF`` is NULL."""
        return self._columns["block"]

    @property
    def size(self) -> npt.NDArray[np.uint64]:
        """Bytes requested; see :meth:`from_arrays` for the calls that mean something else."""
        return self._columns["size"]

    @property
    def arg(self) -> npt.NDArray[np.uint64]:
        """Alignment in bytes, or the parameter number of MALLOPT."""
        return self._get("arg")

    @property
    def thread(self) -> npt.NDArray[np.uint32]:
        """Number of the calling thread; 0 is the main thread."""
        return self._get("thread")

    @property
    def site(self) -> npt.NDArray[np.uint32]:
        """Number of the call site in ``info.sites``; 0 is unknown."""
        return self._get("site")

    @property
    def time(self) -> npt.NDArray[np.uint64]:
        """Nanoseconds since the start of the recording."""
        return self._get("time")

    @property
    def address(self) -> npt.NDArray[np.uint64] | None:
        """The pointer the real library returned, or ``None`` for a trace that was not recorded."""
        return self._columns.get("address")

    @property
    def columns(self) -> dict[str, Column]:
        """The columns that exist, by name, in file order."""
        return {name: self._columns[name] for name in DTYPES if name in self._columns}

    @property
    def block_count(self) -> int:
        """One more than the highest block number in use."""
        named = self.block[self.block != NULL_BLOCK]
        return int(named.max()) + 1 if named.size else 0

    # --- as a sequence

    def __len__(self) -> int:
        """Return the number of calls."""
        return len(self._columns["op"])

    @overload
    def __getitem__(self, key: int) -> Row: ...
    @overload
    def __getitem__(self, key: slice | npt.NDArray[Any]) -> Trace: ...

    def __getitem__(self, key: int | slice | npt.NDArray[Any]) -> Row | Trace:
        """Return one row, or the trace of some rows (a slice shares memory)."""
        if isinstance(key, slice | np.ndarray):
            return Trace({name: a[key] for name, a in self._columns.items()}, self._info_of(key))
        return self._row(range(len(self))[key])

    def __iter__(self) -> Iterator[Row]:
        """Yield every row; slow, for looking at small traces."""
        return (self._row(i) for i in range(len(self)))

    def _row(self, i: int) -> Row:
        address = self.address
        values = {name: int(self._get(name)[i]) for name in ROW_NUMBERS}
        where = None if address is None else int(address[i])
        return Row(op=Op(self.op[i]), address=where, **values)

    def _info_of(self, key: slice | npt.NDArray[Any]) -> TraceInfo:
        """Return what stays true of some of the rows: the start state only at the start."""
        if not isinstance(key, slice):
            key = slice(1, None)
        start, stop, step = key.indices(len(self))
        if (start, step) == (0, 1) and stop == len(self):
            return self.info
        changes: dict[str, Any] = {"measured": None, "unknown_frees": {}, "unfinished": ()}
        changes["inherited_rows"] = 0
        if (start, step) != (0, 1):
            changes |= {"brk_start": None, "maps": None}
        else:
            frees = self.info.unknown_frees
            changes["unknown_frees"] = {row: at for row, at in frees.items() if row < stop}
            changes["inherited_rows"] = min(self.info.inherited_rows, stop)
        return dataclasses.replace(self.info, **changes)

    def __eq__(self, other: object) -> bool:
        """Compare every row and everything known beside them."""
        if not isinstance(other, Trace):
            return NotImplemented
        return (
            len(self) == len(other)
            and (self.address is None) == (other.address is None)
            and all(
                np.array_equal(self._get(name), other._get(name))  # noqa: SLF001 - the same class
                for name in self._columns.keys() | other._columns.keys()
            )
            and self.info == other.info
        )

    __hash__ = None  # type: ignore[assignment]  # compared by value, and large

    def __repr__(self) -> str:
        """Return one line for people."""
        return _summary.describe(self)

    # --- Arrow

    def to_arrow(self) -> Table:
        """Return the columns as an Arrow table (arro3), for polars, pandas, DuckDB, pyarrow."""
        columns = self.columns
        return Table.from_arrays(
            [Array.from_numpy(array) for array in columns.values()], names=list(columns)
        )

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Give the table to any Arrow library (the PyCapsule interface)."""
        return self.to_arrow().__arrow_c_stream__(requested_schema)

    # --- what is in it

    def live_bytes(self) -> npt.NDArray[np.int64]:
        """Return the bytes that are requested and not given back, after each row."""
        return _live.live_bytes(self)

    def live_blocks(self) -> npt.NDArray[np.int64]:
        """Return the number of blocks that are allocated, after each row."""
        return _live.live_blocks(self)

    def summary(self) -> TraceSummary:
        """Return the figures that describe the trace as a whole."""
        return _summary.summarise(self)

    def size_histogram(self) -> SizeHistogram:
        """Return how many blocks of which size were asked for, by powers of two."""
        return _summary.size_histogram(self)

    def by_site(self) -> SiteTotals:
        """Return totals of every call site, largest peak first."""
        return _summary.by_site(self)

    # --- files

    def write(
        self,
        path: str | Path,
        format: str | None = None,  # noqa: A002 - the word users expect
        *,
        overwrite: bool = True,
    ) -> None:
        """Write the trace to ``path``; without ``format``, in the one the name ends with.

        That is ``.mtrace``, ``.ltrace`` or ``.rep``; any other name gets pyalloc's own Parquet.

        The file appears under its name only when it is complete.

        Raises
        ------
        TraceError
            The format cannot hold this trace; the text names the first row it cannot hold.
        FileExistsError
            The file exists and ``overwrite`` is false.
        """
        from pyalloc.trace import files  # noqa: PLC0415 - readers know Trace, Trace not them

        files.write_trace(self, path, format, overwrite=overwrite)


def require_trace(value: object, name: str = "trace") -> Trace:
    """Return a trace; raises WrongType with where to get one if ``value`` is none."""
    if isinstance(value, Trace):
        return value
    message = (
        f"{name} must be a Trace (got {value!r:.60}, a {type(value).__name__}): pa.read_trace()"
        " reads a file, pa.workload() makes one, pa.record() records a program"
    )
    raise WrongType(message)
