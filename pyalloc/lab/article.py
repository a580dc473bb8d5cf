"""Every figure of the article: what it prints, what the simulation gives, what this machine does.

"When Linux Runs Out of Memory", M. Santosa, 2006.  The article's machine is simulated; the same
programs are run on this machine as far as it allows (:mod:`pyalloc.host.article`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from pyalloc.host import article as host
from pyalloc.host import glibc, proc
from pyalloc.host.article import Measured, ProgramRun
from pyalloc.host.compile import HostError
from pyalloc.lab.replay import replay
from pyalloc.machine import Machine, Process
from pyalloc.units import PAGE
from pyalloc.workload import article
from pyalloc.workload.catalogue import workload

Value = int | str
Progress = Callable[[str], None]

A_BLOCKS: Final = 3055
"""The blocks after which the article shows program A's status."""

B_BLOCKS: Final = 1042
"""The blocks after which it shows program B's."""

MAP: Final = (
    "0009a000-0039d000 rwxp 0009a000 00:00 0",
    "0039d000-003b2000 r-xp",
    "003b2000-003b3000 r-xp",
    "003b3000-003b4000 rwxp",
    "003b6000-004cb000 r-xp",
    "004cb000-004cd000 r-xp",
    "004cd000-004cf000 rwxp",
    "004cf000-004d1000 rwxp 004cf000 00:00 0",
    "005ce000-08048000 rwxp 005ce000 00:00 0",
    "08048000-08049000 r-xp",
    "08049000-0804a000 rwxp",
    "0806d000-b7f62000 rwxp 0806d000 00:00 0",
    "b7f73000-b7f75000 rwxp b7f73000 00:00 0",
    "b7f75000-b7f76000 r-xp b7f75000 00:00 0",
    "b7f76000-bf7ee000 rwxp b7f76000 00:00 0",
    "bf80d000-bf822000 rw-p",
    "bf822000-bff29000 rwxp bf822000 00:00 0",
)
"""The article's map at program A's end.  Of files, names and inodes are those of its disk."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure: what the article prints, what is simulated, what was measured on this machine.

    ``why`` says in a line why the simulated one differs, ``why_measured`` why the measured one does
    or why there is none.  ``derivable`` is False where the article does not say what the figure
    depends on; then ``simulated`` is what the model gives for some such machine.
    """

    name: str
    printed: Value
    simulated: Value
    measured: Value | None = None
    why: str = ""
    why_measured: str = ""
    derivable: bool = True

    @property
    def equal(self) -> bool:
        """Whether printed and simulated are the same."""
        return self.printed == self.simulated

    @property
    def measured_equal(self) -> bool | None:
        """Whether printed and measured are the same; None if it was not measured."""
        return None if self.measured is None else self.printed == self.measured

    @property
    def verdict(self) -> str:
        """What the simulated figure is to the printed one."""
        if not self.derivable:
            return "not derivable"
        return "equal" if self.equal else "different"


class _Here:
    """What this machine gave, by the name of a figure, and why it differs or is missing."""

    def __init__(self, values: Mapping[str, Value], missing: Mapping[str, str]) -> None:
        self._values = values
        self._missing = missing

    def figure(
        self,
        name: str,
        printed: Value,
        simulated: Value,
        why: str = "",
        *,
        derivable: bool = True,
    ) -> Figure:
        """Return the figure with what was measured of it."""
        measured = self._values.get(name)
        reason = _WHY_HERE.get(name, "")
        if measured is None:
            reason = next((w for part, w in self._missing.items() if _is_of(name, part)), reason)
        elif measured == printed:
            reason = ""
        why = "" if derivable and printed == simulated else why
        return Figure(name, printed, simulated, measured, why, reason, derivable)


_PARTS: Final[Mapping[str, tuple[str, ...]]] = {
    "a": ("A: ",),
    "b": ("B: ",),
    "single": ("malloc(4097)", "M_MMAP"),
    "fragmented": ("fragmented",),
}


def _is_of(name: str, part: str) -> bool:
    """Return whether a figure comes of that part of the measurements."""
    return name.startswith(_PARTS[part])


def figures(progress: Progress | None = None, *, on_host: bool = True) -> list[Figure]:
    """Run the article's programs, simulated and on this machine, and return every figure.

    Parameters
    ----------
    progress
        Called with a line of words before each step.
    on_host
        Whether to run them on this machine, too.
    """
    tell = progress or (lambda _: None)
    here = _measured(tell) if on_host else _Here({}, dict.fromkeys(_PARTS, "not asked for"))
    found: list[Figure] = []
    for words, part in _FIGURES.items():
        tell(f"simulated: {words}")
        found += part(here)
    return found


# --- program A -------------------------------------------------------------------------------


def final_map() -> list[str]:
    """Return the lines of program A's map at its end, simulated."""
    a = article.process(article.machine(), "fragment", stack_pages=21)
    article.loop(a, write=False)
    return str(a.maps()).splitlines()


def _program_a(here: _Here) -> Iterator[Figure]:
    a = article.process(article.machine(), "fragment", stack_pages=21)
    blocks = article.loop(a, write=False)
    lines = str(a.maps()).splitlines()
    same = sum(ours.startswith(line) for ours, line in zip(lines, MAP, strict=False))
    yield here.figure("A: blocks of 1 MB until NULL", 3056, blocks)
    yield here.figure("A: lines of its final map", len(MAP), len(lines))
    yield here.figure("A: of them equal to the article's", len(MAP), same)


_SHIFTED: Final = "what else was in memory is known by its sum only"
_PAGES: Final = "a header page a block is exact; of program and libraries the article had 84 pages"


def _status(
    here: _Here, name: str, blocks: int, printed: Mapping[str, int], whys: Mapping[str, str]
) -> Iterator[Figure]:
    process = article.process(article.machine(), "fragment")
    article.loop(process, write=name == "B", blocks=blocks)
    status = process.status()
    for field, value in printed.items():
        title = f"{name}: {field} at {blocks} blocks, kB"
        derivable = whys.get(field) != _SHIFTED
        yield here.figure(title, value, status[field], whys.get(field, ""), derivable=derivable)


def _status_a(here: _Here) -> Iterator[Figure]:
    printed = {
        "VmSize": 3141876,
        "VmData": 3140564,
        "VmStk": 88,
        "VmExe": 4,
        "VmLib": 1204,
        "VmPTE": 3072,
        "VmRSS": 12556,
    }
    yield from _status(here, "A", A_BLOCKS, printed, {"VmRSS": _PAGES})


# --- program B -------------------------------------------------------------------------------


def _status_b(here: _Here) -> Iterator[Figure]:
    printed = {
        "VmSize": 1072512,
        "VmData": 1071200,
        "VmPTE": 1064,
        "VmRSS": 204692,
        "VmHWM": 234636,
    }
    whys = {"VmRSS": _SHIFTED, "VmHWM": _SHIFTED}
    yield from _status(here, "B", B_BLOCKS, printed, whys)


def _end_of_b(here: _Here) -> Iterator[Figure]:
    b = article.process(article.machine(), "fragment2")
    blocks = article.loop(b, write=True)
    yield here.figure("B: MB filled when it is killed", 1081, blocks, _SHIFTED)
    yield here.figure("B: killed by", "SIGTERM", _signal(b), "the kernel sends SIGKILL, always")


def _signal(process: Process) -> str:
    return "SIGKILL" if process.killed_by == "oom" else str(process.killed_by)


# --- single calls ----------------------------------------------------------------------------


def _single_calls(here: _Here) -> Iterator[Figure]:
    process = article.process(article.machine(), "small")
    block = process.malloc(4097)
    pages = (block + 4096) // PAGE - block // PAGE + 1
    chunk = process.usable_size(block) + 4
    yield here.figure("malloc(4097): pages", 2, pages)
    yield here.figure(
        "malloc(4097): bytes of the chunk",
        "4105 to 4109",
        chunk,
        "a chunk is a multiple of 8 bytes",
    )
    process.malloc(64 * 1024)  # now the top is too small for what follows
    calls = []
    for size in (128 * 1024, 128 * 1024 - 32):
        before = process.heap_statistics().count_mmap_calls
        process.malloc(size)
        calls.append(process.heap_statistics().count_mmap_calls - before)
    yield here.figure("M_MMAP_THRESHOLD, kB", 128, 128 if calls == [1, 0] else "another")


# --- the machine's words ---------------------------------------------------------------------


def _machine(here: _Here) -> Iterator[Figure]:
    strict = Machine(ram="256M", swap="256M", overcommit_memory=2, overcommit_ratio=50)
    limit = strict.meminfo()["CommitLimit"] // 1024
    yield here.figure("commit limit of its example, MB", 384, limit)
    yield here.figure(
        "dmesg: kB not available",
        8492,
        262080 - 255716,
        "the article adds code, data and init to the reserved pages they are part of",
    )
    free, buffers, cached, swap = 3668, 13640, 171788, 909676
    yield here.figure("free virtual memory, kB", 1098772, free + buffers + cached + swap)


# --- fragmentation ---------------------------------------------------------------------------


def _fragmentation(here: _Here) -> Iterator[Figure]:
    wasted = {}
    for name, printed in _WASTED.items():
        trace = workload(name)
        run = replay(trace, "glibc-2.3.3", "i386", record=(), samples=0).summary
        wasted[name] = run.held - run.requested
        yield here.figure(f"{name}: bytes wasted", printed, wasted[name], _SOURCES)
    factor = round(wasted["fragmented1"] / wasted["fragmented2"])
    yield here.figure("fragmented1 wastes more, times", 152, factor, _FACTOR)


_WASTED: Final = {"fragmented1": 319858832, "fragmented2": 2089200}
_SOURCES: Final = "the sources are not known; a program that fits the description"
_FACTOR: Final = "319858832 / 2089200 is 153.1"

_FIGURES: Final[Mapping[str, Callable[[_Here], Iterator[Figure]]]] = {
    "program A to NULL": _program_a,
    "program A's status": _status_a,
    "program B's status": _status_b,
    "program B to the kill": _end_of_b,
    "single calls": _single_calls,
    "the machine's words": _machine,
    "fragmented1 and fragmented2": _fragmentation,
}


# --- this machine ----------------------------------------------------------------------------


def _measured(tell: Progress) -> _Here:
    found = host.measure(a_stop=A_BLOCKS, b_stop=B_BLOCKS, progress=tell)
    missing = dict(found.why_not)
    values = dict(_values(found))
    tell("this machine: fragmented1 and fragmented2")
    try:
        values |= _fragmentation_here()
    except HostError as error:
        missing["fragmented"] = str(error).replace("\n", " ")
    return _Here(values, missing)


def _values(found: Measured) -> Iterator[tuple[str, Value]]:
    if found.a is not None:
        yield "A: blocks of 1 MB until NULL", found.a.count
        yield "A: lines of its final map", len(found.a.maps().splitlines())
        yield from _status_here("A", A_BLOCKS, found.a)
    if found.b is not None:
        yield from _status_here("B", B_BLOCKS, found.b)
        yield "B: MB filled when it is killed", found.b.count
        yield "B: killed by", found.b.signal or f"nobody (errno {found.b.error})"
    if found.single is not None:
        usable = int(found.single.words["usable"])
        yield "malloc(4097): pages", -(-(usable + 4) // PAGE)
        yield "malloc(4097): bytes of the chunk", usable + 4
        threshold = 128 if found.single.words["mapped"] == "1 0" else "another"
        yield "M_MMAP_THRESHOLD, kB", threshold
    yield "commit limit of its example, MB", proc.meminfo()["CommitLimit"] // 1024


def _status_here(name: str, blocks: int, run: ProgramRun) -> Iterator[tuple[str, Value]]:
    if len(run.shown) < 2:
        return
    for field, value in run.status().items():
        if field.startswith("Vm"):
            yield f"{name}: {field} at {blocks} blocks, kB", value


def _fragmentation_here() -> dict[str, Value]:
    wasted = {}
    for name in _WASTED:
        trace = workload(name)
        run = glibc.run(trace, word=4, record=("brk",))
        end = run.brk0 if run.brk is None else int(run.brk[-1])
        wasted[name] = end - run.brk0 - int(trace.live_bytes()[-1])
    return {
        **{f"{name}: bytes wasted": value for name, value in wasted.items()},
        "fragmented1 wastes more, times": round(wasted["fragmented1"] / wasted["fragmented2"]),
    }


_LIBRARIES: Final = "today's libraries lie in one piece below mmap_base, not prelinked below 8 MB"
_OWN: Final = "another program and C library; its blocks cost the same 1028 kB each"
_TABLES: Final = "a page table of a 64-bit kernel spans 2 MB, and all levels count"
_ALONE: Final = "a cgroup counts what is in it, and nothing else is"
_OTHER: Final = "another machine's"

_WHY_HERE: Final = {
    "A: blocks of 1 MB until NULL": _LIBRARIES,
    "A: lines of its final map": _LIBRARIES,
    "A: of them equal to the article's": "addresses are this machine's own",
    "B: MB filled when it is killed": _ALONE,
    "B: killed by": "the kernel sends SIGKILL, always",
    "malloc(4097): bytes of the chunk": "since glibc 2.26 a chunk is a multiple of 16 bytes",
    "commit limit of its example, MB": "this machine's, by the same formula",
    "dmesg: kB not available": _OTHER,
    "free virtual memory, kB": "another machine's: see pyalloc host",
    **{f"{name}: bytes wasted": _SOURCES for name in _WASTED},
    "fragmented1 wastes more, times": _FACTOR,
    **{
        f"{name}: {field} at {blocks} blocks, kB": why
        for name, blocks in (("A", A_BLOCKS), ("B", B_BLOCKS))
        for field, why in (
            ("VmSize", _OWN),
            ("VmData", _OWN),
            ("VmLib", _OWN),
            ("VmStk", "exec leaves room for 128 kB below the arguments, not for 80"),
            ("VmPTE", _TABLES),
            ("VmRSS", _OWN if name == "A" else _ALONE),
            ("VmHWM", _ALONE),
        )
    },
}
"""Why a figure of this machine differs from the article's."""
