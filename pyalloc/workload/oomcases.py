"""Random cases of the OOM killer: a memory cgroup, processes in it, and what memory they take."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final, NamedTuple


class Step(NamedTuple):
    """What a process does: a kind of :data:`KINDS`, and how many pages it is about."""

    kind: str
    pages: int


KINDS: Final = {
    "anon": "private memory, written",
    "untouched": "ten times as many pages that are only promised",
    "read": "private memory, only read: the page of zeros",
    "shared": "shared memory, written",
    "free": "private memory, given up with MADV_FREE",
    "sparse": "a page in each of so many blocks of 2 MB",
    "fork": "a child, and so many pages written by its parent then",
    "lock": "private memory, locked",
    "break": "the heap, grown and written",
}
"""What processes do."""

_WEIGHTS: Final = (6, 1, 1, 2, 1, 1, 2, 1, 2)
_MB: Final = 256  # pages


@dataclass(frozen=True, slots=True)
class OomProcess:
    """A process: its ``oom_score_adj``, the cgroup it is in (of those inside) and its steps."""

    adj: int
    group: int | None
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class OomCase:
    """A cgroup of ``limit`` pages, the limits of those inside it, and processes in order.

    They act one after the other; the last one wants about as much as there is.
    """

    seed: int
    limit: int
    inner: tuple[int | None, ...]
    processes: tuple[OomProcess, ...]

    def __str__(self) -> str:
        inside = f", {len(self.inner)} cgroups inside" if self.inner else ""
        return f"seed {self.seed}: {self.limit // _MB} MB{inside}, {len(self.processes)} processes"


def random_case(seed: int, *, negative: bool = False) -> OomCase:
    """Return the case of a seed.

    Parameters
    ----------
    seed
        Another seed, another case.
    negative
        Adjustments below 0, too, -1000 among them; the last process has none.
    """
    rng = random.Random(f"oom {seed}")  # noqa: S311
    limit = rng.choice((24, 40, 60, 80)) * _MB
    inner: tuple[int | None, ...] = ()
    if rng.random() < 0.35:
        inner = tuple(rng.choice((None, limit * 3 // 4)) for _ in range(rng.randint(1, 3)))
    count = rng.randint(1, 6)
    share = int(limit * rng.choice((0.5, 0.7, 0.9)) / count)
    processes = [_process(rng, share, inner, negative=negative) for _ in range(count)]
    wanted = Step(
        rng.choice(("anon", "anon", "anon", "shared")), int(limit * rng.uniform(0.3, 1.1))
    )
    last = OomProcess(rng.choice((0, 0, 400, rng.randint(0, 1000))), _group(rng, inner), (wanted,))
    return OomCase(seed, limit, inner, (*processes, last))


def _group(rng: random.Random, inner: tuple[int | None, ...]) -> int | None:
    return rng.randrange(len(inner)) if inner else None


def _process(
    rng: random.Random, share: int, inner: tuple[int | None, ...], *, negative: bool
) -> OomProcess:
    adj = rng.choice((0, 0, 0, 100, 500, 1000, rng.randint(0, 1000)))
    if negative and rng.random() < 0.3:
        adj = rng.choice((-1000, -500, rng.randint(-999, -1)))
    steps, left = [], int(share * rng.uniform(0.3, 1.2))
    for _ in range(rng.randint(1, 4)):
        if left <= 0:
            break
        (kind,) = rng.choices(list(KINDS), _WEIGHTS)
        pages = max(1, int(left * rng.uniform(0.1, 0.9)))
        if kind == "sparse":
            pages = min(pages // 2, 2000) + 1
        elif kind == "fork":
            pages = rng.choice((0, pages // 4))
        steps.append(Step(kind, pages))
        left -= pages
    return OomProcess(adj, _group(rng, inner), tuple(steps))
