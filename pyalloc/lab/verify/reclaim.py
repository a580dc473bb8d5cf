"""Random scans of memory on this host and on the model: how often each misses.

Both access the same pages in the same order under the same limit, with as much swap.  What a scan
misses hangs on when a write to the disk is done and where a sweep stops, so the real kernel itself
differs from one time to the next: each scan is made several times on this host, and the model is
held to be as the kernel where it lies among these, or close to one of them.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from statistics import mean
from typing import Any, Final, Literal

from pyalloc.errors import ArgumentError
from pyalloc.host.kernel import HostKernel, host_kernel
from pyalloc.host.scan import READ_AHEAD, Bed, Passes, scanner
from pyalloc.lab.verify import Progress, quiet
from pyalloc.lab.verify.scans import ModelScan
from pyalloc.machine import Machine
from pyalloc.workload.scans import Choices, Scan, random_scan

MEASURES: Final = {
    "anon": "swapped_in",
    "anon0": "major",
    "shm": "swapped_in",
    "fread": "read",
    "fmap": "read",
    "fmapr": "major",
}
"""What of :class:`~pyalloc.host.scan.Rates` is compared, by what is scanned."""

WITHIN: Final = 0.05
"""How far the model may be off, per access."""

Answer = Literal["within", "outside", "open"]
Real = Callable[[Scan], Passes]


@dataclass(frozen=True, slots=True)
class Comparison:
    """A scan, each time it was made on this host, and on the model."""

    scan: Scan
    real: tuple[Passes, ...]
    model: Passes
    within: float = WITHIN

    @property
    def measure(self) -> str:
        """What is compared."""
        return MEASURES[self.scan.mode]

    @property
    def rates(self) -> tuple[float, ...]:
        """Per access, each time on this host that came as far as a second pass."""
        found = (_rate(passes, self.measure) for passes in self.real)
        return tuple(rate for rate in found if rate is not None)

    @property
    def rate(self) -> float | None:
        """The same of the model."""
        return _rate(self.model, self.measure)

    @property
    def kills(self) -> int:
        """How often the OOM killer ended it on this host."""
        return sum(passes.killed for passes in self.real)

    @property
    def distance(self) -> float | None:
        """How far the model is from the mean of this host."""
        return None if self.rate is None or not self.rates else abs(self.rate - mean(self.rates))

    @property
    def off(self) -> float:
        """How far outside of what it may be the model is: 0 is inside.

        Who reads ahead may read many pages per access: then it is a share of those.
        """
        if self.rate is None or not self.rates:
            return 0.0
        allowed = self.within * max(1.0, mean(self.rates))
        low, high = min(self.rates) - allowed, max(self.rates) + allowed
        return max(low - self.rate, self.rate - high, 0.0)

    @property
    def answer(self) -> Answer:
        """Whether the model is as the kernel; open where the kernel killed each time."""
        if not self.rates:
            return "within" if self.rate is None else "open"
        return "outside" if self.rate is None or self.off else "within"

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values, pass by pass."""
        return {
            "scan": asdict(self.scan),
            "measure": self.measure,
            "real": list(self.rates),
            "model": self.rate,
            "kills": self.kills,
            "answer": self.answer,
            "off": self.off,
            "real_passes": [[rates._asdict() for rates in one.rates] for one in self.real],
            "model_passes": [rates._asdict() for rates in self.model.rates],
        }


def _rate(passes: Passes, measure: str) -> float | None:
    """Return the mean of all passes but the first, which fills; None if there are none."""
    later = [getattr(rates, measure) for rates in passes.rates[1:]]
    return mean(later) if later else None


@dataclass(frozen=True, slots=True)
class ReclaimVerdict:
    """What was scanned on this host's kernel, and on which model."""

    kernel: str
    model: str
    repeats: int
    within: float
    comparisons: tuple[Comparison, ...] = ()

    @property
    def agrees(self) -> bool:
        """Whether no scan is outside."""
        return not self.count("outside")

    @property
    def kills(self) -> int:
        """How many scans the OOM killer ended on this host."""
        return sum(one.kills for one in self.comparisons)

    def count(self, answer: Answer) -> int:
        """Return how many scans have that answer."""
        return sum(one.answer == answer for one in self.comparisons)

    def distances(self) -> dict[str, float]:
        """Return how far the model is from the means of this host, on average, by mode."""
        found: dict[str, list[float]] = {mode: [] for mode in MEASURES}
        for one in self.comparisons:
            if one.distance is not None:
                found[one.scan.mode].append(one.distance)
        return {mode: mean(each) for mode, each in found.items() if each}

    def to_dict(self) -> dict[str, Any]:
        """Return the verdict as JSON values."""
        return {
            "kernel": self.kernel,
            "model": self.model,
            "repeats": self.repeats,
            "allowed": self.within,
            "scans": len(self.comparisons),
            "within": self.count("within"),
            "outside": self.count("outside"),
            "open": self.count("open"),
            "kills": self.kills,
            "distances": self.distances(),
            "comparisons": [one.to_dict() for one in self.comparisons],
            "agrees": self.agrees,
        }


# --- both sides ------------------------------------------------------------------------------


def bed_of(scan: Scan, read_ahead: int = READ_AHEAD) -> Bed:
    """Return where a scan takes place."""
    return Bed(
        scan.mode,
        scan.pages,
        scan.megabytes << 20,
        swappiness=scan.swappiness,
        page_cluster=scan.page_cluster,
        read_ahead=read_ahead,
    )


@contextlib.contextmanager
def _this_host(read_ahead: int) -> Iterator[Real]:
    """Yield what makes a scan on this host."""
    with scanner() as here:
        yield lambda scan: here.scan(bed_of(scan, read_ahead), scan.orders())


def model_passes(scan: Scan, host: HostKernel, read_ahead: int = READ_AHEAD) -> Passes:
    """Make a scan on the model."""
    bed = bed_of(scan, read_ahead)
    machine = Machine(
        ram=host.ram,
        swap=bed.bytes_swap,
        kernel=host.model,
        arch="x86_64",
        cpus=os.cpu_count() or 1,
        swappiness=bed.swappiness,
        page_cluster=bed.page_cluster,
        huge_pages=False,
        read_ahead=bed.read_ahead,
    )
    with machine:
        limit = machine.cgroup("scan", memory_max=bed.limit)
        return ModelScan(bed, machine, limit).scan(scan.orders())


def verify_reclaim(
    count: int,
    *,
    seed: int = 0,
    repeats: int = 3,
    passes: int = 6,
    choices: Choices | None = None,
    read_ahead: int = READ_AHEAD,
    within: float = WITHIN,
    host: HostKernel | None = None,
    real: Real | None = None,
    progress: Progress = quiet,
) -> ReclaimVerdict:
    """Make ``count`` random scans, each ``repeats`` times on this host and once on the model.

    ``real`` makes them in place of this host.

    Raises
    ------
    ArgumentError
        There is nothing to do, or nothing to compare.
    HostError
        This host cannot make them; the text says why.
    """
    if min(count, repeats) < 1 or passes < 2:
        message = (
            "at least one scan, one repeat and two passes are needed "
            f"(got {count}, {repeats} and {passes})"
        )
        raise ArgumentError(message)
    host = host or host_kernel()
    found = []
    with contextlib.nullcontext(real) if real else _this_host(read_ahead) as make:
        for number in range(count):
            scan = random_scan(seed + number, choices, passes=passes)
            times = tuple(make(scan) for _ in range(repeats))
            found.append(Comparison(scan, times, model_passes(scan, host, read_ahead), within))
            progress("scanning memory", len(found), count)
    return ReclaimVerdict(host.release, host.model, repeats, within, tuple(found))
