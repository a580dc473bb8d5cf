"""Where results are kept: a folder of Parquet files, one for each batch as it comes.

    DIR/_sweep.json             the plan, so that only the same sweep goes on there
    DIR/part-000000.parquet     rows, each file complete when its name appears

Any Parquet reader takes the folder as one table (``DIR/*.parquet``).  A point that was run again
has a row in a later file; the last one counts.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Final, Self

import numpy as np
import numpy.typing as npt
from arro3.core import Table

from pyalloc.errors import ArgumentError
from pyalloc.lab.sweep.plan import Plan
from pyalloc.trace.checked import read_checked, write_checked
from pyalloc.trace.files import replacing

_PLAN: Final = "_sweep.json"
_VERSION: Final = 1


class Store:
    """The folder of one sweep; inside a ``with`` nobody else may work on it.

    Raises
    ------
    ArgumentError
        Another sweep is kept there, or something else, or somebody is at work on it now.
    """

    def __init__(self, folder: Path, plan: Plan) -> None:
        self.folder = folder
        self.plan = plan
        folder.mkdir(parents=True, exist_ok=True)
        self._claim()

    def __enter__(self) -> Self:
        self._lock = _locked(self.folder / _PLAN)
        self._next = 1 + max((_number(path) for path in self._parts()), default=-1)
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.close()

    def _claim(self) -> None:
        file = self.folder / _PLAN
        mine = {"version": _VERSION, **self.plan.to_json()}
        if file.exists():
            try:
                there = json.loads(file.read_text(encoding="utf-8"))
            except ValueError:
                there = None
            if there != json.loads(json.dumps(mine)):
                message = f"{self.folder} holds another sweep; choose another folder"
                raise ArgumentError(message)
            return
        if any(self.folder.iterdir()):
            message = f"{self.folder} is no sweep, and not empty; choose another folder"
            raise ArgumentError(message)
        with replacing(file, overwrite=False) as out:
            out.write(json.dumps(mine, indent=1).encode())

    def _parts(self) -> list[Path]:
        return sorted(self.folder.glob("part-*.parquet"), key=_number)

    def append(self, tables: Sequence[Table]) -> None:
        """Keep the rows of tables; they are there when this returns, or not at all."""
        if not tables:
            return
        batches = [batch for table in tables for batch in table.to_batches()]
        path = self.folder / f"part-{self._next:06d}.parquet"
        self._next += 1
        with replacing(path, overwrite=False) as file:
            write_checked(Table.from_batches(batches).combine_chunks(), file, {})
            os.fsync(file.fileno())

    def tables(self) -> Iterable[Table]:
        """Yield what is kept, in the order in which it came."""
        for path in self._parts():
            yield read_checked(path, "a part of a sweep").read_all()

    def done(self, *, failed: bool = True) -> npt.NDArray[np.bool_]:
        """Return which points are kept; ``failed`` counts those with an error, too."""
        found = np.zeros(len(self.plan), bool)
        for table in self.tables():
            points = np.concatenate([np.asarray(c.to_numpy()) for c in table["point"].chunks])
            good = np.array([e is None for e in table["error"].to_pylist()], bool)
            found[points] = good | failed
        return found


def _locked(file: Path) -> IO[bytes]:
    """Return an open file that says for as long as it is open that a process works here."""
    lock = file.open("rb")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        message = f"{file.parent}: another process is at work on this sweep; wait for it to end"
        raise ArgumentError(message) from None
    return lock


def _number(path: Path) -> int:
    digits = path.stem.removeprefix("part-")
    return int(digits) if digits.isdecimal() else -1
