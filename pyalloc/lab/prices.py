"""What the work of an allocator costs: a stated model, in nanoseconds.

The prices are round figures of a current x86-64 server, measured with one thread: a page costs its
fault, its clearing and its return; system calls are those of small arguments.  They are there to
rank settings against each other, not to tell the time; give your own where yours differ.
"""

from __future__ import annotations

from dataclasses import dataclass

from pyalloc.lab.trial import Outcome


@dataclass(frozen=True, slots=True)
class Prices:
    """Nanoseconds for each of the things an allocator makes a machine do.

    ``call`` is a malloc or free that the tcache serves, ``arena_call`` what one costs more that
    goes past it, ``step`` a chunk that it looks at there.
    """

    call: float = 10
    arena_call: float = 30
    step: float = 5
    fault: float = 700
    brk: float = 700
    mmap: float = 900
    munmap: float = 900
    mremap: float = 700
    mprotect: float = 600
    madvise: float = 500

    def work(self, outcome: Outcome) -> float:
        """Return the nanoseconds of all the work of a trial."""
        return (
            self.call * outcome.calls
            + self.arena_call * outcome.arena_calls
            + self.step * outcome.steps
            + self.fault * outcome.faults
            + self.brk * outcome.brk
            + self.mmap * outcome.mmap
            + self.munmap * outcome.munmap
            + self.mremap * outcome.mremap
            + self.mprotect * outcome.mprotect
            + self.madvise * outcome.madvise
        )
