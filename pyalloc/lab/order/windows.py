"""Windows: how far a call may move."""

from __future__ import annotations

import numpy as np

from pyalloc.errors import ArgumentError
from pyalloc.lab.order.calls import OTHER, Calls, Rows

TENTHS = 10


def windows(calls: Calls, size: int | None = None) -> Rows:
    """Return where each window begins: of ``size`` calls, by default a tenth of the trace.

    A window goes on to the end of the run of allocations or frees in which it would end, so that
    nothing that happens in one go is cut.
    """
    size = max(calls.count // TENTHS, 1) if size is None else size
    if size < 2:
        message = f"a window has 2 calls or more (got {size!r})"
        raise ArgumentError(message)
    kind = calls.kind
    goes_on = np.zeros(calls.count + 1, bool)
    goes_on[1:-1] = (kind[1:] == kind[:-1]) & (kind[1:] != OTHER)
    borders = np.flatnonzero(~goes_on)  # 0 and the end among them
    starts, at = [0], 0
    while at + size < calls.count:
        at = int(borders[np.searchsorted(borders, at + size)])
        if at < calls.count:
            starts.append(at)
    return np.array(starts)
