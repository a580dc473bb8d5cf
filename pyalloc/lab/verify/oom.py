"""Random cases of the OOM killer in a memory cgroup of this host and on the model.

The same processes (:mod:`pyalloc.host.puppet`) take the same memory in both.  What is compared is
each kill: who, and in the kernel's report the table of all candidates, the constraint and the
victim's line, figure by figure.

Whoever asks for the page that is not there has as much as the others leave it, and that depends on
what the kernel itself needs just then: its own figures may be :data:`SLACK` pages off, and as many
more as earlier victims had page tables, which are freed some time later.  Where those were so many
that they decide whether one more dies, the case ends there.  All are told to stay on one processor,
as the model has them.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

from pyalloc.errors import ArgumentError, EndlessFault, ProcessKilled
from pyalloc.host.box import box
from pyalloc.host.compile import HostError
from pyalloc.host.kernel import HostKernel, host_kernel
from pyalloc.host.kmsg import KernelLog
from pyalloc.host.puppet import Puppet, Start
from pyalloc.host.turn import turn
from pyalloc.kernel.abi import MADV, MAP, PROT
from pyalloc.lab.verify import Progress, quiet
from pyalloc.lab.verify.mirror import mirror
from pyalloc.machine import Cgroup, Machine
from pyalloc.units import PAGE
from pyalloc.workload.oomcases import OomCase, Step, random_case

SLACK: Final = 96
"""Pages: three batches of a counter."""

_TABLE: Final = 512
_ATTEMPTS: Final = 3
_REPORTS: Final = 10
_INTERVAL: Final = 5.2  # seconds in which the kernel prints no more reports than that
_BOTH: Final = PROT.READ | PROT.WRITE
_OWN: Final = MAP.PRIVATE | MAP.ANONYMOUS
_FIGURES: Final = (
    "total_vm", "rss", "rss_anon", "rss_file", "rss_shmem", "pgtables_bytes", "swapents",
    "oom_score_adj",
)  # fmt: skip
_ROW: Final = re.compile(r"\[ *(\d+)\] +\d+ +\d+((?: +-?\d+){8}) ")
_KILLED: Final = re.compile(r"Killed process (\d+) \(\S+\) (.*)")


class Row(NamedTuple):
    """One candidate: its place in the case, and the figures of its line."""

    who: str
    figures: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Kill:
    """One run of the OOM killer; ``rows`` is empty where the kernel printed no report."""

    rows: tuple[Row, ...]
    scope: str
    victim: str
    line: str

    def tables(self) -> int:
        """Return how many page tables the victim had."""
        rows = [row for row in self.rows if row.who == self.victim]
        return sum(row.figures[_FIGURES.index("pgtables_bytes")] // PAGE for row in rows)


@dataclass(frozen=True, slots=True)
class Difference:
    """The first thing in which the two differ, and in whose step."""

    step: str
    what: str
    real: str
    model: str


@dataclass(frozen=True, slots=True)
class OomVerdict:
    """What was run on this host's kernel, on which model, and the first difference.

    ``unsteady`` cases differed once, and not when run again: a victim that is still exiting holds
    memory, and whether others wait for it is a matter of time.
    """

    kernel: str
    model: str
    cases: int
    kills: int
    rows: int
    unsteady: int = 0
    case: OomCase | None = None
    difference: Difference | None = None

    @property
    def agrees(self) -> bool:
        """Whether no case differs."""
        return self.difference is None

    def to_dict(self) -> dict[str, Any]:
        """Return the verdict as JSON values."""
        found = {name: getattr(self, name) for name in self.__slots__}
        found["case"] = asdict(self.case) if self.case else None
        found["difference"] = asdict(self.difference) if self.difference else None
        return found | {"agrees": self.agrees}


class _Died(Exception):
    """Whoever acts was killed."""


Call = Callable[..., int]


def act(call: Call, step: Step) -> None:
    """Do one step by calls such as ``call("mmap", ...)``."""
    kind, pages = step
    if kind == "break":
        start = call("brk", 0)
        call("brk", start + pages * PAGE)
        call("touch", start, pages, 1)
    elif kind == "untouched":
        call("mmap", 0, 10 * pages * PAGE, _BOTH, _OWN | MAP.NORESERVE, -1, 0)
    elif kind == "sparse":
        start = call("mmap", 0, pages * _TABLE * PAGE, _BOTH, _OWN | MAP.NORESERVE, -1, 0)
        for block in range(pages):
            call("touch", start + block * _TABLE * PAGE, 1, 1)
    elif kind == "fork":
        start = call("mmap", 0, (pages + 1) * PAGE, _BOTH, _OWN, -1, 0)
        call("touch", start, pages + 1, 1)
        call("leave")
        call("touch", start, pages + 1, 1)
    else:
        flags = MAP.SHARED | MAP.ANONYMOUS if kind == "shared" else _OWN
        start = call("mmap", 0, pages * PAGE, _BOTH, flags, -1, 0)
        call("touch", start, pages, int(kind != "read"))
        if kind == "free":
            call("madvise", start, pages * PAGE, MADV.FREE)
        if kind == "lock":
            call("mlock", start, pages * PAGE)


class _Actors:
    """The real process of a case and the model's."""

    def __init__(self, machine: Machine, procs: Path, cgroup: Cgroup, adj: int) -> None:
        self.machine = machine
        self.puppet = Puppet(Start(procs=str(procs)))
        adjustment = Path(f"/proc/{self.puppet.pid}/oom_score_adj")
        adjustment.write_text(str(adj), encoding="ascii")
        self.process = machine.spawn(
            "puppet",
            uid=0,
            maps=self.puppet.read("maps"),
            brk=self.puppet.call("brk", 0).value,
            cgroup=cgroup,
            oom_score_adj=adj,
        )
        mirror(self.puppet, self.process)
        self.real_pids, self.model_pids = [self.puppet.pid], [self.process.pid]

    def real(self, name: str, *args: int) -> int:
        """Make a call on this host."""
        try:
            value = self.puppet.call(name, *args).value
        except HostError:
            raise _Died from None
        if name == "leave":
            children = Path(f"/proc/{self.puppet.pid}/task/{self.puppet.pid}/children")
            pids = [int(pid) for pid in children.read_text(encoding="ascii").split()]
            self.real_pids += [pid for pid in pids if pid not in self.real_pids]
        return value

    def model(self, name: str, *args: int) -> int:
        """Make it on the model."""
        process = self.process
        try:
            if name == "touch":
                process.touch(args[0], args[1] * PAGE, write=bool(args[2]))
                return args[1]
            if name == "leave":
                child = process.fork()
                self.model_pids.append(child.pid)
                self._settle()
                return 0
            return int(getattr(process, name)(*args) or 0)
        except ProcessKilled:
            raise _Died from None

    def _settle(self) -> None:
        """Touch what the real process touches after a fork."""
        space = self.process.space
        low = min(vma.start for vma in space)
        for vma in space.areas.covering(low, space.start_brk):
            end = min(vma.end, space.start_brk)
            self.process.touch(vma.start, end - vma.start, write=vma.file is None)
        for page in self.puppet.stack_pages:
            self.process.touch(page, 1)

    def close(self) -> None:
        """End the real one."""
        self.puppet.close()


class _Stage:
    """A case on this host and on the model, while it runs."""

    def __init__(self, case: OomCase, host: HostKernel, procs: Path, log: KernelLog) -> None:
        self.case = case
        self.folder = procs.parent
        self.log = log
        self.machine = Machine(
            ram=host.ram,
            swap=host.swap,
            kernel=host.model,
            arch="x86_64",
            huge_pages=host.huge_pages,
            cpus=os.cpu_count() or 1,
        )
        self.top = self.machine.cgroup("top", memory_max=case.limit * PAGE, swap_max=0)
        self.inner = [
            self.machine.cgroup(str(n), memory_max=limit and limit * PAGE, parent=self.top)
            for n, limit in enumerate(case.inner)
        ]
        self.actors: list[_Actors] = []
        self.kills = self.rows = 0
        self.slack = SLACK
        self.is_open = False  # victims' page tables were enough for one kill more or less

    def run(self) -> Difference | None:
        """Play the case; return the first difference."""
        for number, planned in enumerate(self.case.processes):
            folder = self.folder if planned.group is None else self.folder / str(planned.group)
            group = self.top if planned.group is None else self.inner[planned.group]
            actors = _Actors(self.machine, folder / "cgroup.procs", group, planned.adj)
            self.actors.append(actors)
            self._calibrate(group)
            for step in planned.steps:
                found = self._compare(f"process {number}: {step.kind} {step.pages}", actors, step)
                if found or self.is_open or not actors.process.alive:
                    break
            if found or self.is_open:
                return found
        return None

    def _calibrate(self, group: Cgroup) -> None:
        """Have the model's kernel need as much for its processes as this one does."""
        with contextlib.suppress(OSError):
            stat = self.top.stat()
            more = _kernel_memory(self.folder) - stat["kernel"] // PAGE
            self.machine.ram.charge_kernel(group.number, more)

    def _compare(self, where: str, actors: _Actors, step: Step) -> Difference | None:
        before = len(self.machine.oom_events)
        lived = [_lives(actors.real, step), _lives(actors.model, step)]
        time.sleep(0.002)  # what the kernel logs last comes when it has killed
        real = list(_kills(self.log.lines(), self._names("real_pids")))
        texts = [event.report.splitlines() for event in self.machine.oom_events[before:]]
        model = [kill for text in texts for kill in _kills(text, self._names("model_pids"))]
        self.kills += len(real)
        self.rows += sum(len(kill.rows) for kill in real)
        asker = str(len(self.actors) - 1)
        for theirs, ours in zip(real, model, strict=False):
            for what, one, other in _differences(theirs, ours, asker, self.slack):
                return Difference(where, what, one, other)
            self.slack += theirs.tables()
        if len(real) != len(model) or lived[0] != lived[1]:
            self.is_open = self.slack > 2 * SLACK
        if self.is_open:
            return None
        if len(real) != len(model):
            return Difference(where, "kills", str(len(real)), str(len(model)))
        if lived[0] != lived[1]:
            return Difference(where, "it got its memory", str(lived[0]), str(lived[1]))
        return None

    def _names(self, kind: str) -> dict[int, str]:
        """Return each process's place in the case: ``2`` is the third, ``2.1`` its first child."""
        return {
            pid: f"{n}.{child}" if child else str(n)
            for n, actors in enumerate(self.actors)
            for child, pid in enumerate(getattr(actors, kind))
        }


def _lives(call: Call, step: Step) -> bool:
    try:
        act(call, step)
    except (_Died, EndlessFault):
        return False
    return True


def _kernel_memory(folder: Path) -> int:
    """Return the pages of the kernel that a cgroup pays for."""
    old = folder / "memory.kmem.usage_in_bytes"
    if old.exists():
        return int(old.read_text(encoding="ascii")) // PAGE
    lines = (folder / "memory.stat").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("kernel ")) // PAGE


def _kills(lines: Sequence[str], names: dict[int, str]) -> Iterator[Kill]:
    """Yield what a log says of each run of the OOM killer that killed one of ``names``."""
    rows: list[Row] = []
    scope = ""
    for line in lines:
        if "invoked oom-killer" in line:
            rows = []
        elif row := _ROW.match(line):
            figures = tuple(int(word) for word in row[2].split())
            rows.append(Row(names.get(int(row[1]), row[1]), figures))
        elif line.startswith("oom-kill:"):
            scope = _scope(line)
        elif killed := _KILLED.search(line):
            if (who := names.get(int(killed[1]))) is not None:
                yield Kill(tuple(rows), scope, who, killed[2])
            rows, scope = [], ""


def _scope(line: str) -> str:
    """Return the constraint's line without what differs: the cgroup's name, the process's."""
    text = re.sub(r"=/(top|pyalloc-\d+)", "=/top", line)
    return re.sub(r"task=[^,]*,pid=\d+", "", text)


def _differences(real: Kill, model: Kill, asker: str, slack: int) -> Iterator[tuple[str, str, str]]:
    who = (real.victim, model.victim)
    if who[0] != who[1] and not _is_close(real, who, asker, slack):
        yield "victim", *who
    if not real.rows or who[0] != who[1]:
        return
    order = [" ".join(row.who for row in kill.rows) for kill in (real, model)]
    if order[0] != order[1]:
        yield "candidates", order[0], order[1]
    for theirs, ours in zip(real.rows, model.rows, strict=False):
        for name, one, other in zip(_FIGURES, theirs.figures, ours.figures, strict=True):
            allowed = PAGE * (1 + slack // _TABLE) if name == "pgtables_bytes" else slack
            if abs(one - other) > (allowed if theirs.who == asker else 0):
                yield f"{name} of process {theirs.who}", str(one), str(other)
    if real.scope != model.scope:
        yield "constraint", real.scope, model.scope
    if who[0] != asker and real.line != model.line:
        yield "line of the victim", real.line, model.line


def _is_close(kill: Kill, who: tuple[str, str], asker: str, slack: int) -> bool:
    """Whether it was a close call between two, one of them the asker."""
    points = {}
    for row in kill.rows:
        figures = dict(zip(_FIGURES, row.figures, strict=True))
        tables = figures["pgtables_bytes"] // PAGE
        points[row.who] = figures["rss"] + figures["swapents"] + tables
    return asker in who and who[1] in points and abs(points[who[0]] - points[who[1]]) <= slack


# --- the search


@contextlib.contextmanager
def _one_processor() -> Iterator[None]:
    """Have processes that are started meanwhile stay on one processor."""
    usual = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(usual)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, usual)


def run_case(case: OomCase, host: HostKernel) -> tuple[Difference | None, int, int]:
    """Play a case on both; return the first difference, how many kills and table rows there were.

    Raises
    ------
    HostError
        It cannot be played here; the text says why.
    """
    inner = [limit and limit * PAGE for limit in case.inner]
    with _one_processor(), KernelLog() as log, box(case.limit * PAGE, 0, inner) as procs:
        stage = _Stage(case, host, procs, log)
        try:
            found = stage.run()
        finally:
            for actors in stage.actors:
                actors.close()
    return found, stage.kills, stage.rows


class _Pace:
    """Keeps below the number of reports that the kernel prints in a while."""

    def __init__(self) -> None:
        self.begin, self.reports = time.monotonic(), 0

    def wait(self, ahead: int = 4) -> None:
        if self.reports + ahead > _REPORTS:
            time.sleep(max(self.begin + _INTERVAL - time.monotonic(), 0))
        if time.monotonic() > self.begin + _INTERVAL:
            self.begin, self.reports = time.monotonic(), 0


def verify_oom(
    count: int, *, seed: int = 0, host: HostKernel | None = None, progress: Progress = quiet
) -> OomVerdict:
    """Play ``count`` random cases on both until one differs, and does so again.

    Waits while another process has swap of its own here, which decides who is killed.

    Raises
    ------
    ArgumentError
        There is nothing to do.
    HostError
        This host cannot play them; the text says why.
    """
    if count < 1:
        message = f"at least one case is needed (got {count})"
        raise ArgumentError(message)
    with turn():
        return _search(count, seed, host or host_kernel(), progress)


def _search(count: int, seed: int, host: HostKernel, progress: Progress) -> OomVerdict:
    negative = _may_lower()
    verdict = OomVerdict(host.release, host.model, 0, 0, 0)
    pace = _Pace()
    for number in range(count):
        case = random_case(seed + number, negative=negative)
        found = None
        for attempt in range(_ATTEMPTS):
            pace.wait()
            found, kills, rows = run_case(case, host)
            pace.reports += kills
            if found is None:
                verdict = replace(verdict, unsteady=verdict.unsteady + bool(attempt))
                break
        verdict = replace(
            verdict,
            cases=verdict.cases + 1,
            kills=verdict.kills + kills,
            rows=verdict.rows + rows,
        )
        progress("playing cases", verdict.cases, count)
        if found:
            return replace(verdict, case=case, difference=found)
    return verdict


def _may_lower() -> bool:
    """Whether this process may lower oom_score_adj (CAP_SYS_RESOURCE)."""
    own = Path("/proc/self/oom_score_adj")
    now = own.read_text(encoding="ascii")
    try:
        own.write_text(str(int(now) - 1), encoding="ascii")
    except OSError:
        return False
    own.write_text(now, encoding="ascii")
    return True
