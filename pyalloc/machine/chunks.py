"""The chunks of a heap as columns: one row a chunk, one numpy array a column."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final, NamedTuple, Self, TypeVar

import numpy as np
import numpy.typing as npt
from arro3.core import Array, DataType, Table

from pyalloc import engine

U64 = npt.NDArray[np.uint64]
Mask = npt.NDArray[np.bool_] | npt.NDArray[np.intp] | slice

UNKNOWN: Final = -1
"""A requested size, a block, or a thread that is not known, or that there is none of."""


class ChunkState(IntEnum):
    """What a chunk is.

    TCACHE to LARGE are free and on a list of that kind; TOP is the free end of an arena, MAPPED a
    mapping of its own, FENCE the end of a stretch of memory, OWN the library's own (a tcache).
    """

    USED = 0
    TCACHE = 1
    FAST = 2
    UNSORTED = 3
    SMALL = 4
    LARGE = 5
    TOP = 6
    MAPPED = 7
    FENCE = 8
    OWN = 9

    @property
    def is_free(self) -> bool:
        """Whether the library may give it to the program."""
        return ChunkState.TCACHE <= self <= ChunkState.TOP


class Chunk(NamedTuple):
    """One chunk.

    ``address`` is that of the user's memory, ``size`` the bytes of the whole chunk with its header;
    ``requested`` the bytes the program asked for and ``block`` its number in a trace, where known
    (else -1).  ``thread`` is the one whose tcache holds it (else -1), ``bin`` the number of its
    list among those of its kind.
    """

    address: int
    size: int
    arena: int
    state: ChunkState
    bin: int
    thread: int
    requested: int
    block: int


@dataclass(frozen=True, slots=True, eq=False)
class KnownBlocks:
    """What a replay knows of the blocks that are allocated: sorted by address."""

    address: U64
    size: U64
    number: npt.NDArray[np.int64]

    @classmethod
    def of(cls, address: U64, size: U64) -> KnownBlocks:
        """Take the table of a replay: one entry a block, size 2^64-1 where it is not allocated."""
        number = np.flatnonzero((size != np.uint64(2**64 - 1)) & (address != 0))
        order = np.argsort(address[number], kind="stable")
        number = number[order]
        return cls(address[number], size[number], number.astype(np.int64))

    def look_up(
        self, address: U64, wanted: npt.NDArray[np.bool_]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return requested size and number of the block at each address that is ``wanted``."""
        size, number = (np.full(len(address), UNKNOWN, np.int64) for _ in range(2))
        if len(self.address):
            at = np.minimum(np.searchsorted(self.address, address), len(self.address) - 1)
            found = wanted & (self.address[at] == address)
            size[found] = self.size[at[found]].astype(np.int64)
            number[found] = self.number[at[found]]
        return size, number


C = TypeVar("C", bound="Chunks")


class Chunks:
    """Chunks as columns; what :class:`Chunk` says of one, each column says of all.

    A mask, a slice or an array of row numbers selects: ``chunks[chunks.state == ChunkState.FAST]``.
    :meth:`to_arrow` is for polars, pandas, DuckDB and pyarrow; ``state`` is a word there, and what
    is not known is null.
    """

    def __init__(self, columns: Mapping[str, npt.NDArray[Any]]) -> None:
        self._columns = dict(columns)

    @classmethod
    def of(cls, rows: npt.NDArray[np.void], known: KnownBlocks | None = None) -> Self:
        """Take what the engine gives."""
        columns: dict[str, npt.NDArray[Any]] = {
            "address": rows["address"].copy(),
            "size": rows["size"].copy(),
            "arena": rows["arena"].copy(),
            "state": rows["state"].astype(np.uint8),
            "bin": rows["bin"].copy(),
            "thread": rows["thread"].astype(np.int64),
        }
        columns["thread"][rows["thread"] == engine.NO_THREAD] = UNKNOWN
        in_use = np.isin(columns["state"], (ChunkState.USED, ChunkState.MAPPED))
        none = KnownBlocks.of(np.zeros(0, np.uint64), np.zeros(0, np.uint64))
        columns["requested"], columns["block"] = (known or none).look_up(columns["address"], in_use)
        return cls(columns)

    @property
    def columns(self) -> Mapping[str, npt.NDArray[Any]]:
        """The columns by name."""
        return dict(self._columns)

    @property
    def address(self) -> U64:
        """Address of the user's memory."""
        return self._columns["address"]

    @property
    def size(self) -> U64:
        """Bytes of the chunk, header included."""
        return self._columns["size"]

    @property
    def arena(self) -> npt.NDArray[np.uint32]:
        """Number of the arena, in the order in which they were made."""
        return self._columns["arena"]

    @property
    def state(self) -> npt.NDArray[np.uint8]:
        """:class:`ChunkState`."""
        return self._columns["state"]

    @property
    def bin(self) -> npt.NDArray[np.uint16]:
        """Number of the list among those of its kind; 0 for a chunk that is on none."""
        return self._columns["bin"]

    @property
    def thread(self) -> npt.NDArray[np.int64]:
        """The thread whose tcache holds, or is, the chunk; -1 for all others."""
        return self._columns["thread"]

    @property
    def requested(self) -> npt.NDArray[np.int64]:
        """Bytes the program asked for; -1 where that is not known."""
        return self._columns["requested"]

    @property
    def block(self) -> npt.NDArray[np.int64]:
        """The block's number in the trace; -1 where that is not known."""
        return self._columns["block"]

    def __len__(self) -> int:
        return len(self._columns["address"])

    def __getitem__(self, rows: Mask) -> Self:
        """Return the selected rows."""
        return type(self)({name: column[rows] for name, column in self._columns.items()})

    def row(self, index: int) -> Chunk:
        """Return one chunk."""
        c = self._columns
        state = ChunkState(int(c["state"][index]))
        others = {name: int(c[name][index]) for name in Chunk._fields if name != "state"}
        return Chunk(state=state, **others)

    def __iter__(self) -> Iterator[Chunk]:
        for index in range(len(self)):
            yield self.row(index)

    def bytes_of(self, *states: ChunkState) -> int:
        """Return the bytes of all chunks in these states."""
        return int(self.size[np.isin(self.state, states)].sum())

    def to_arrow(self) -> Table:
        """Return an Arrow table (arro3)."""
        return Table.from_arrays(
            [_arrow(name, column) for name, column in self._columns.items()],
            names=list(self._columns),
        )

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Give the table to any Arrow library (the PyCapsule interface)."""
        return self.to_arrow().__arrow_c_stream__(requested_schema)

    def __repr__(self) -> str:
        counts = np.bincount(self.state, minlength=len(ChunkState))
        kinds = (f"{counts[s]:,} {s.name.lower()}" for s in ChunkState if counts[s])
        return f"<{type(self).__name__}: {len(self):,} ({', '.join(kinds)})>"


def _arrow(name: str, column: npt.NDArray[Any]) -> Array:
    if name == "state":
        names = [state.name.lower() for state in ChunkState]
        return Array([names[code] for code in column.tolist()], type=DataType.string())
    if name in {"thread", "requested", "block"}:
        values = [None if value == UNKNOWN else value for value in column.tolist()]
        return Array(values, type=DataType.int64())
    return Array.from_numpy(np.ascontiguousarray(column))


class FreeLists(Chunks):
    """Free chunks list by list, each list in its own order; ``position`` counts from its head.

    The tcache and the fastbins hand out position 0 next.  The unsorted list and the small bins are
    served from the last position on; a large bin is sorted by size, the largest first (in 2.3.3
    nearly so).
    """

    @classmethod
    def of(cls, rows: npt.NDArray[np.void], known: KnownBlocks | None = None) -> FreeLists:
        """Take what the engine gives."""
        del known  # nobody has asked for a free chunk
        found = super().of(rows)
        columns = {
            name: column
            for name, column in found.columns.items()
            if name not in {"requested", "block"}
        }
        columns["position"] = _positions(columns)
        return cls(columns)

    @property
    def position(self) -> npt.NDArray[np.int64]:
        """Place in the list, 0 at its head."""
        return self._columns["position"]

    def row(self, index: int) -> Chunk:
        """Return one chunk."""
        names = ("address", "size", "arena", "bin", "thread")
        values = {name: int(self._columns[name][index]) for name in names}
        state = ChunkState(int(self.state[index]))
        return Chunk(state=state, requested=UNKNOWN, block=UNKNOWN, **values)

    def by_list(self) -> Table:
        """Return an Arrow table of one row a list: its chunks, bytes, and smallest and largest."""
        starts = np.flatnonzero(self.position == 0)
        size = self.size
        counts = np.diff(starts, append=len(self))
        whole: dict[str, npt.NDArray[Any]] = {
            name: self._columns[name][starts] for name in ("arena", "state", "bin", "thread")
        }
        if len(starts):
            whole["count"] = counts
            whole["bytes"] = np.add.reduceat(size, starts)
            whole["smallest"] = np.minimum.reduceat(size, starts)
            whole["largest"] = np.maximum.reduceat(size, starts)
        else:
            none = np.zeros(0, np.uint64)
            whole |= dict.fromkeys(("count", "bytes", "smallest", "largest"), none)
        return Table.from_arrays(
            [_arrow(name, column) for name, column in whole.items()], names=list(whole)
        )


def _positions(columns: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.int64]:
    """Count rows from the beginning of each list; a tcache bin may mix arenas."""
    count = len(columns["address"])
    if not count:
        return np.zeros(0, np.int64)
    is_tcache = columns["state"] == ChunkState.TCACHE
    key = np.stack(
        [
            np.where(is_tcache, 0, columns["arena"]).astype(np.int64),
            columns["state"].astype(np.int64),
            columns["bin"].astype(np.int64),
            columns["thread"],
        ]
    )
    begins = np.ones(count, bool)
    begins[1:] = (key[:, 1:] != key[:, :-1]).any(axis=0)
    starts = np.maximum.accumulate(np.where(begins, np.arange(count), 0))
    return np.arange(count) - starts
