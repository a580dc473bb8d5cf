"""A stream's calls spread over threads: who makes which call, who frees whose block, who ends when.

Bursts of calls go to one thread and then to another, so that blocks are freed and resized by
threads that did not allocate them.  The first thread is the main one; others end now and then,
with what they allocated still alive, and new ones come in their place under the same number.

The same spec gives the same rows on every machine (PCG64).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from pyalloc.errors import ArgumentError
from pyalloc.trace import NULL_BLOCK, Op, Trace, TraceInfo

_SWITCH_SHARES: Final = (0.005, 0.05, 0.3)
_END_SHARES: Final = (0.0, 0.02, 0.2)
_TIRED: Final = 0.8  # of all threads: how many take part at a time


class Stream(Protocol):
    """What can be spread: a spec that makes a trace."""

    def make(self) -> Trace:
        """Return the trace."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpreadSpec:
    """A stream whose calls are made by several threads; equal specs give equal traces.

    Attributes
    ----------
    stream
        What is spread.
    threads
        Threads there are at most, the main one included.
    seed
        Seed of the generator that draws who calls.
    """

    stream: Stream
    threads: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        if self.threads < 1:
            message = f"threads must be 1 or more (got {self.threads})"
            raise ArgumentError(message)

    def make(self) -> Trace:
        """Return the trace: the stream's rows in their order, and ends of threads between them."""
        trace = self.stream.make()
        thread, ends = _callers(len(trace), self.threads, self.seed)
        columns: dict[str, npt.NDArray[Any]]
        columns = {"op": trace.op, "block": trace.block, "size": trace.size, "arg": trace.arg}
        filled = {"op": int(Op.THREAD_EXIT), "block": NULL_BLOCK}
        rows = {
            name: np.insert(values, ends, filled.get(name, 0)) for name, values in columns.items()
        }
        rows["thread"] = np.insert(thread, ends, thread[ends - 1])
        info = TraceInfo(source=trace.info.source)
        return Trace.from_arrays(**rows, info=info)


def _callers(
    count: int, threads: int, seed: int
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]:
    """Return who makes each of ``count`` calls, and before which calls the last caller ends."""
    rng = np.random.default_rng(seed)
    switch, end = rng.choice(_SWITCH_SHARES), rng.choice(_END_SHARES)
    starts = rng.random(count) < switch
    starts[:1] = True
    bursts = np.cumsum(starts) - 1
    some = rng.permutation(threads)[: max(int(threads * _TIRED), 2)]
    everybody = rng.random(bursts[-1] + 1 if count else 0) < 1 - _TIRED
    who = np.where(
        everybody, rng.integers(0, threads, len(everybody)), rng.choice(some, len(everybody))
    )
    thread = who[bursts].astype(np.uint32)
    begins = np.flatnonzero(starts)[1:]
    ends = begins[(thread[begins - 1] != 0) & (rng.random(len(begins)) < end)]
    return thread, ends.astype(np.int64)
