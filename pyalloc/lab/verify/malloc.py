"""Random streams of calls on the host's glibc and on the model, compared call by call.

Streams of several threads are made one call at a time, in one order, by as many real threads.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from pyalloc.engine import allocator_names
from pyalloc.errors import ArgumentError
from pyalloc.host import glibc
from pyalloc.lab.replay import replay
from pyalloc.lab.shrink import BUDGET, shrink
from pyalloc.lab.verify import Progress, quiet
from pyalloc.lab.verify.twin import twin_machine
from pyalloc.machine import Replay
from pyalloc.nearest import nearest
from pyalloc.trace import NULL_BLOCK, Op, Trace
from pyalloc.trace.ops import ALLOCATES
from pyalloc.workload.spread import SpreadSpec
from pyalloc.workload.storm import ORDERS, StormSpec
from pyalloc.workload.streams import KINDS, SIZES, StreamSpec

Spec = StreamSpec | StormSpec | SpreadSpec
"""A stream that can be made."""

COMPARED: Final = ("address", "brk", "usable")
"""What is compared of every call: the pointer, the break after it, malloc_usable_size."""

PAGES: Final = ("minor_faults", "rss")
"""What is compared at the end: page faults since call 0, and bytes resident since then."""

_HUGE_PAGES: Final = Path("/sys/kernel/mm/transparent_hugepage/enabled")

ARCH: Final = {64: "x86_64", 32: "i386"}


class Call(NamedTuple):
    """One row of a stream."""

    op: int
    block: int
    size: int
    arg: int
    thread: int = 0


@dataclass(frozen=True, slots=True)
class Setting:
    """What a stream is run under: word size in bits, tunables, who writes to memory."""

    word: int = 64
    tunables: Mapping[str, int] = field(default_factory=dict)
    touch: str = "none"


@dataclass(frozen=True, slots=True)
class Difference:
    """The first thing in which two runs differ.

    ``what`` is one of :data:`COMPARED`, one of :data:`PAGES` (then ``row`` is the number of calls),
    or ``"end"``: one of them ended at ``row``, or with other words.
    """

    row: int
    what: str
    real: int | str
    model: int | str


@dataclass(frozen=True, slots=True)
class Finding:
    """A stream that differs: which one it was, where, and the shortest that still shows it."""

    stream: str
    setting: Setting
    calls: int
    difference: Difference
    shortest: tuple[Call, ...]
    shortest_difference: Difference

    def to_dict(self) -> dict[str, Any]:
        """Return the finding as JSON values."""
        return {
            "stream": self.stream,
            "word": self.setting.word,
            "tunables": dict(self.setting.tunables),
            "touch": self.setting.touch,
            "calls": self.calls,
            "difference": asdict(self.difference),
            "shortest": [call._asdict() | {"op": Op(call.op).name} for call in self.shortest],
            "shortest_difference": asdict(self.shortest_difference),
        }


@dataclass(frozen=True, slots=True)
class MallocVerdict:
    """What was run on the host's glibc, on which model, and how near it comes.

    ``streams`` of ``calls`` calls in all were compared until the first that differs;
    ``equal_calls`` of the calls are equal in everything compared.  ``pages`` says whether that is
    page faults and resident pages, too; it is not where the host gives out huge pages.
    """

    glibc: str
    allocator: str
    word: int
    streams: int
    calls: int
    equal_calls: int
    finding: Finding | None
    pages: bool = True

    @property
    def agrees(self) -> bool:
        """Whether no stream differs."""
        return self.finding is None

    def to_dict(self) -> dict[str, Any]:
        """Return the verdict as JSON values."""
        found = {name: getattr(self, name) for name in self.__slots__ if name != "finding"} | {
            "agrees": self.agrees
        }
        return found | {"finding": self.finding.to_dict() if self.finding else None}


# --- running both


def profile_for(version: str) -> str:
    """Return the allocator that stands for glibc ``version``: its own, or the newest before it."""
    known = {
        tuple(int(part) for part in name.removeprefix("glibc-").split(".")): name
        for name in allocator_names()
        if name.startswith("glibc-") and name[6:].replace(".", "").isdigit()
    }
    wanted = tuple(int(part) for part in version.split(".")[:3] if part.isdigit())
    before = [number for number in known if number <= wanted]
    return known[max(before) if before else min(known)]


def counts_pages(setting: Setting) -> bool:
    """Return whether this host gives out memory page by page, so that pages can be compared."""
    if setting.tunables.get("hugetlb"):
        return False
    with contextlib.suppress(OSError):
        return "[always]" not in _HUGE_PAGES.read_text(encoding="ascii")
    return True


def compare(real: glibc.HostRun, model: Replay, *, pages: bool = True) -> Difference | None:
    """Return the first difference of two runs of one stream."""
    rows = min(real.calls, model.summary.calls)
    found = [
        difference
        for name in COMPARED
        if (difference := _first(name, getattr(real, name)[:rows], getattr(model, name)[:rows]))
    ]
    if found:
        return min(found, key=lambda difference: difference.row)
    ends = _end_of_real(real), _end_of_model(model)
    if real.calls != model.summary.calls or ends[0] != ends[1]:
        return Difference(rows, "end", *ends)
    return _page_difference(real, model) if pages and not real.signal else None


def _page_difference(real: glibc.HostRun, model: Replay) -> Difference | None:
    pairs = (
        ("minor_faults", real.minor_faults, model.summary.minor_faults),
        ("rss", real.rss - real.rss0, model.summary.rss),
    )
    return next((Difference(real.calls, *pair) for pair in pairs if pair[1] != pair[2]), None)


def _first(
    name: str, real: npt.NDArray[np.uint64], model: npt.NDArray[np.uint64]
) -> Difference | None:
    differs = np.flatnonzero(real != model)
    if not differs.size:
        return None
    row = int(differs[0])
    return Difference(row, name, int(real[row]), int(model[row]))


def _end_of_real(real: glibc.HostRun) -> str:
    return f"signal {real.signal}: {real.message}" if real.signal else "ran to its end"


def _end_of_model(model: Replay) -> str:
    if not model.errors:
        return "ran to its end"
    error = model.errors[0]
    if error.kind == "abort":
        return f"signal 6: {error.message}"
    return "signal 11: " if error.kind == "fault" else error.message


def run_both(
    trace: Trace,
    setting: Setting,
    allocator: str,
    planted: Mapping[str, int] | None = None,
    *,
    statistics: bool = False,
) -> tuple[glibc.HostRun, Replay]:
    """Make the calls of ``trace`` on the host and on the model, from the same beginning.

    ``planted`` are settings of the model alone: a difference on purpose, to try the search with.
    ``statistics`` lets the host's library say at the end what it says of itself.
    """
    real = glibc.run(
        trace,
        touch=setting.touch,
        record=COMPARED,
        word=setting.word // 8,
        tunables=setting.tunables,
        statistics=statistics,
    )
    model = replay(
        trace,
        allocator,
        machine=twin_machine(ARCH[setting.word]),
        maps=real.maps,
        brk=real.brk0,
        tunables={**setting.tunables, **(planted or {})},
        touch=setting.touch,
        record=COMPARED,
        samples=0,
    )
    return real, model


# --- the search


def verify_malloc(
    specs: Iterable[Spec],
    setting: Setting | None = None,
    *,
    total: int = 0,
    allocator: str | None = None,
    planted: Mapping[str, int] | None = None,
    budget: int = BUDGET,
    progress: Progress = quiet,
) -> MallocVerdict:
    """Run streams on the host's glibc and on the model until one differs, and shrink that one.

    Parameters
    ----------
    specs
        The streams; see :func:`random_streams`.
    setting
        Word size, tunables, touches.
    total
        How many streams there are, for ``progress``.
    allocator
        The model; by default the one that stands for the host's glibc.
    planted
        Settings of the model alone.
    budget
        Runs at most for the shrinking.
    progress
        Told how far it is.

    Raises
    ------
    HostError
        This host has no compiler for that word size, or cannot run the library.
    """
    setting = setting or Setting()
    version = glibc.version(setting.word // 8)
    allocator = allocator or profile_for(version)
    pages = counts_pages(setting)
    verdict = MallocVerdict(version, allocator, setting.word, 0, 0, 0, None, pages)
    for spec in specs:
        trace = spec.make()
        difference = compare(*run_both(trace, setting, allocator, planted), pages=pages)
        equal = len(trace) if difference is None else difference.row
        verdict = replace(
            verdict,
            streams=verdict.streams + 1,
            calls=verdict.calls + len(trace),
            equal_calls=verdict.equal_calls + equal,
        )
        progress("comparing streams", verdict.streams, total)
        if difference is not None:
            search = _Shrinking(setting, allocator, planted, budget, progress)
            return replace(verdict, finding=search.finding(str(spec), trace, difference))
    return verdict


@dataclass(frozen=True, slots=True)
class _Shrinking:
    setting: Setting
    allocator: str
    planted: Mapping[str, int] | None
    budget: int
    progress: Progress

    def difference(self, calls: Sequence[Call]) -> Difference | None:
        both = run_both(trace_of(calls), self.setting, self.allocator, self.planted)
        return compare(*both, pages=counts_pages(self.setting))

    def finding(self, name: str, trace: Trace, difference: Difference) -> Finding:
        """Shrink to the fewest calls that differ in any way."""
        whole = calls_of(trace)
        calls = whole[: difference.row + 1]
        if self.difference(calls) is None:  # it takes what comes after it, too
            calls = whole

        def shows(part: Sequence[Call]) -> bool:
            return self.difference(part) is not None

        def tell(made: int, _left: int) -> None:
            self.progress("shrinking", made, self.budget)

        left = shrink(calls, shows, simpler=simpler, budget=self.budget, progress=tell)
        shortest = renumbered(left)
        last = self.difference(shortest) or difference
        return Finding(name, self.setting, len(trace), difference, shortest, last)


def simpler(call: Call) -> Iterator[Call]:
    """Yield plainer forms of a call: malloc for what is like it, less alignment, smaller sizes."""
    if call.op in ALLOCATES and call.op not in {Op.MALLOC, Op.REALLOC}:
        yield call._replace(op=Op.MALLOC, arg=0)
    for thread in range(call.op == Op.THREAD_EXIT, call.thread):
        yield call._replace(thread=thread)
    for name in ("arg", "size"):
        value = getattr(call, name)
        for smaller in _smaller(value):
            yield call._replace(**{name: smaller})


def _smaller(value: int) -> Iterator[int]:
    """Yield 0, half of ``value``, then ever less less than it."""
    step = value
    while step:
        yield value - step
        step //= 2


def renumbered(calls: Sequence[Call]) -> tuple[Call, ...]:
    """Return the calls with blocks numbered in the order in which they appear."""
    numbers: dict[int, int] = {NULL_BLOCK: NULL_BLOCK}
    for call in calls:
        numbers.setdefault(call.block, len(numbers) - 1)
    return tuple(call._replace(block=numbers[call.block]) for call in calls)


def calls_of(trace: Trace) -> list[Call]:
    """Return the rows of ``trace``."""
    columns = (trace.op, trace.block, trace.size, trace.arg, trace.thread)
    return [Call(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]


def trace_of(calls: Sequence[Call]) -> Trace:
    """Return rows as a trace."""
    op, block, size, arg, thread = zip(*calls, strict=True) if calls else [()] * 5
    return Trace.from_arrays(list(op), list(block), list(size), list(arg), list(thread))


STORM: Final = "storm"
"""The kind of stream that makes every call, at every border; see :mod:`pyalloc.workload.storm`."""

_STORMS: Final = 0.25
_ALL_CALLS: Final = 0.8


def random_streams(
    count: int,
    *,
    calls: int = 10_000,
    kinds: Sequence[str] = (),
    sizes: Sequence[str] = (),
    seed: int = 0,
    word: int = 64,
    threads: int = 1,
) -> Iterator[Spec]:
    """Yield ``count`` streams: lifetimes, size laws and blocks alive drawn from ``seed``.

    ``kinds`` and ``sizes`` are what is drawn from.  Kinds are those of
    :data:`~pyalloc.workload.streams.KINDS` and :data:`STORM`, by default all of them, with a storm
    for each fourth; sizes are by default all of :data:`~pyalloc.workload.streams.SIZES`.  ``word``
    is the pointer's bits, which decide what storms take for larger than any memory.  With more than
    one of ``threads``, each stream is spread over 2 to so many.
    """
    for spec in _streams(count, calls=calls, kinds=kinds, sizes=sizes, seed=seed, word=word):
        if threads == 1:
            yield spec
            continue
        if not 1 < threads < glibc.MOST_THREADS:
            message = f"threads must be 1 to {glibc.MOST_THREADS - 1} (got {threads})"
            raise ArgumentError(message)
        some = int(np.random.default_rng((spec.seed, threads)).integers(2, threads + 1))
        yield SpreadSpec(stream=spec, threads=some, seed=spec.seed)


def _streams(
    count: int, *, calls: int, kinds: Sequence[str], sizes: Sequence[str], seed: int, word: int
) -> Iterator[StreamSpec | StormSpec]:
    """Yield streams of one thread."""
    if count < 1 or calls < 1:
        message = f"at least one stream of one call is needed (got {count} of {calls})"
        raise ArgumentError(message)
    if strange := [kind for kind in kinds if kind not in {*KINDS, STORM}]:
        message = f"no kind of stream {strange[0]!r}{nearest(strange[0], [*KINDS, STORM])}"
        raise ArgumentError(message)
    rng = np.random.default_rng(seed)
    for number in range(count):
        kind = str(rng.choice(list(kinds or KINDS)))
        if not kinds and rng.random() < _STORMS:
            kind = STORM
        law, live = str(rng.choice(list(sizes or SIZES))), int(rng.choice([10, 100, 1000]))
        plain = rng.random() >= _ALL_CALLS
        if kind == STORM:
            yield StormSpec(
                order=str(rng.choice(ORDERS)),
                sizes=law,
                count=calls,
                live=live,
                seed=seed + number,
                word=word // 8,
                tuning=not plain,
            )
        else:
            yield StreamSpec(
                kind=kind,
                sizes=law,
                count=calls,
                live=live,
                seed=seed + number,
                calls="plain" if plain else "all",
            )
