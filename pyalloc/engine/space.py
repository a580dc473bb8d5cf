"""The address space of a process that has a machine to itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyalloc.engine.border import UNLIMITED, check, ffi, lib
from pyalloc.engine.replay import ReplayRun
from pyalloc.engine.stops import PENDING
from pyalloc.engine.structs import as_dict
from pyalloc.errors import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Sequence


class Space:
    """The address space of a process that has a machine to itself; nothing in it is refused.

    Parameters
    ----------
    holes
        Where mappings may lie: starts and ends, ascending; the break grows in one of them.
    base
        Mappings go below it (mmap_base) as long as there is room.
    aligns_huge
        Mappings of whole huge pages are aligned to them.
    """

    __slots__ = ("_handle",)

    def __init__(
        self, holes: Sequence[tuple[int, int]], base: int, *, aligns_huge: bool = False
    ) -> None:
        bounds = ffi.new("uint64_t[]", [bound for hole in holes for bound in hole])
        handle = lib.pa_space_new(bounds, len(holes), base, aligns_huge)
        if handle == ffi.NULL:
            message = f"these are no holes of an address space: {list(holes)}"
            raise ArgumentError(message)
        self._handle = ffi.gc(handle, lib.pa_space_drop)

    def run(self, replay: ReplayRun, end: int | None = None) -> bool:
        """Run a replay, or its rows before ``end``; return False where it died (see ``stop``)."""
        last = UNLIMITED if end is None else end
        status = lib.pa_space_run_to(self._handle, replay.handle, last)
        if status == PENDING:
            return False
        check(status, "replaying a trace")
        return True

    def counters(self) -> dict[str, int]:
        """Return how many system calls there were, by the names of ``pa_space_counters``."""
        counters = ffi.new("pa_space_counters *")
        lib.pa_space_read(self._handle, counters)
        return as_dict(counters)
