"""Random system calls on a process of this host and on the model, compared call by call.

What is compared after each call: its result, errno or signal, the areas in ``/proc/PID/maps``, the
sizes in ``/proc/PID/status`` and the page faults; and at the end each area's fields in ``smaps``.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeVar

from pyalloc.errors import ArgumentError, TraceError
from pyalloc.host.kernel import HostKernel, disturbances, host_kernel, may_lock
from pyalloc.host.mapped import Files, mapped_files
from pyalloc.host.puppet import Start
from pyalloc.kernel.limits import INFINITY, Limits
from pyalloc.lab.shrink import BUDGET, shrink
from pyalloc.lab.verify import Progress, quiet
from pyalloc.lab.verify.twins import Difference, Twins
from pyalloc.nearest import nearest
from pyalloc.trace.files import replacing
from pyalloc.units import PAGE
from pyalloc.workload.syscalls import PROFILES, SystemCall, random_call, reached

FORMAT: Final = "pyalloc kernel case 1"
_ATTEMPTS: Final = 5
_REPETITIONS: Final = 2

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Spec:
    """A sequence: what it is about, for which start, how long, and the seed that chooses it."""

    profile: str
    start: Start
    calls: int
    seed: int

    def __str__(self) -> str:
        start = self.start
        what = [self.profile, start.arch, *["legacy"] * start.legacy]
        what += ["4 GiB"] * (start.word == 4 and not start.three_gib)
        return f"{' '.join(what)}, seed {self.seed}"


@dataclass(frozen=True, slots=True)
class Case:
    """Calls, and how the process that makes them starts; a file of its own."""

    start: Start
    calls: tuple[SystemCall, ...]
    name: str = ""
    difference: Difference | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the case as JSON values."""
        limits = {k: v for k, v in asdict(self.start.limits).items() if v != INFINITY}
        return {
            "format": FORMAT,
            "name": self.name,
            "start": asdict(self.start) | {"limits": limits},
            "calls": [[call.name, *call.args] for call in self.calls],
            "difference": asdict(self.difference) if self.difference else None,
        }

    def write(self, path: Path) -> None:
        """Write the case to a file that :func:`read_case` reads."""
        with replacing(path, overwrite=True) as file:
            file.write(json.dumps(self.to_dict(), indent=1).encode() + b"\n")


def read_case(path: Path) -> Case:
    """Return the case in a file.

    Raises
    ------
    TraceError
        It is no such file; the text says why.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["format"] != FORMAT:
            message = f"{path}: its format is {data['format']!r}, not {FORMAT!r}"
            raise TraceError(message)
        start = Start(**(data["start"] | {"limits": Limits(**data["start"]["limits"])}))
        calls = tuple(SystemCall(str(name), tuple(map(int, args))) for name, *args in data["calls"])
    except (ValueError, KeyError, TypeError, UnicodeDecodeError) as error:
        if isinstance(error, TraceError):
            raise
        message = f"{path}: not a case of pyalloc verify kernel ({type(error).__name__}: {error})"
        raise TraceError(message) from None
    return Case(start, calls, str(data.get("name", "")))


@dataclass(frozen=True, slots=True)
class Finding:
    """A sequence that differs, and the shortest that still does."""

    spec: str
    calls: int
    difference: Difference
    shortest: Case

    def to_dict(self) -> dict[str, Any]:
        """Return the finding as JSON values."""
        return {
            "sequence": self.spec,
            "calls": self.calls,
            "difference": asdict(self.difference),
            "shortest": self.shortest.to_dict(),
        }


@dataclass(frozen=True, slots=True)
class KernelVerdict:
    """What was run on this host's kernel, on which model, and the first difference.

    ``unsteady`` sequences differed once, and in no repetition: the kernel keeps pages back in
    batches of each processor, and what else the machine does moves them on; or they differed while
    somebody else had given the machine more swap, or less.
    """

    kernel: str
    model: str
    word: int
    sequences: int
    calls: int
    finding: Finding | None
    unsteady: int = 0

    @property
    def agrees(self) -> bool:
        """Whether no sequence differs."""
        return self.finding is None

    def to_dict(self) -> dict[str, Any]:
        """Return the verdict as JSON values."""
        found = {name: getattr(self, name) for name in self.__slots__ if name != "finding"}
        found["agrees"] = self.agrees
        return found | {"finding": self.finding.to_dict() if self.finding else None}


# --- the search


def run_calls(
    case: Case, host: HostKernel, files: Files, choose: Callable[[Twins], SystemCall] | None = None
) -> tuple[list[SystemCall], Difference | None]:
    """Make the calls of ``case`` on both, and whatever ``choose`` adds; return the calls made.

    A call that would hit the memory the real process lives on is left out.
    """
    made: list[SystemCall] = []
    with Twins(case.start, host, files) as twins:
        for call in _calls(case, twins, choose):
            if any(twins.is_own(low, high) for low, high in reached(call, twins.space)):
                continue
            made.append(call)
            found = twins.difference(len(made) - 1, call)
            if found:
                return made, found
        twins.model.machine.check()
        return made, twins.last_difference(len(made) - 1)


def _calls(
    case: Case, twins: Twins, choose: Callable[[Twins], SystemCall] | None
) -> Iterator[SystemCall]:
    yield from case.calls
    while choose is not None:
        try:
            yield choose(twins)
        except StopIteration:
            return


def run_spec(spec: Spec, host: HostKernel, files: Files) -> tuple[Case, Difference | None]:
    """Make the sequence ``spec`` names, chosen as it goes, on both."""
    rng = random.Random(f"{spec.profile} {spec.seed}")  # noqa: S311
    taste = PROFILES[spec.profile]
    left = iter(range(spec.calls))

    def choose(twins: Twins) -> SystemCall:
        next(left)
        return random_call(rng, taste, twins)

    calls, found = run_calls(Case(spec.start, ()), host, files, choose)
    return Case(spec.start, tuple(calls), str(spec), found), found


def run_undisturbed(spec: Spec, host: HostKernel, files: Files) -> tuple[Case, Difference | None]:
    """Make the sequence, and again if it differs while the kernel moved pages about by itself."""
    return _undisturbed(lambda: run_spec(spec, host, files))


def _undisturbed(run: Callable[[], tuple[T, Difference | None]]) -> tuple[T, Difference | None]:
    for _ in range(_ATTEMPTS):
        before = disturbances()
        made, found = run()
        if found is None or disturbances() == before:
            break
    return made, found


def comes_again(spec: Spec, host: HostKernel, files: Files) -> bool:
    """Whether a sequence that differed does so again."""
    return any(run_undisturbed(spec, host, files)[1] for _ in range(_REPETITIONS))


def verify_kernel(
    specs: Sequence[Spec],
    *,
    word: int = 64,
    host: HostKernel | None = None,
    budget: int = BUDGET,
    progress: Progress = quiet,
) -> KernelVerdict:
    """Run sequences on this host's kernel and on the model until one differs; shrink that one.

    Parameters
    ----------
    specs
        The sequences; see :func:`random_specs`.
    word
        Bits of the processes; only what the verdict says.
    host
        What the model takes for this host; a wrong one plants a difference.
    budget
        Runs at most for the shrinking.
    progress
        Told how far it is.

    Raises
    ------
    HostError
        This host cannot run them; the text says why.
    """
    host, swap = host or host_kernel(), disturbances()[1]
    verdict = KernelVerdict(host.release, host.model, word, 0, 0, None)
    with mapped_files() as files:
        for spec in specs:
            case, found = run_undisturbed(spec, host, files)
            verdict = replace(
                verdict,
                sequences=verdict.sequences + 1,
                calls=verdict.calls + len(case.calls),
            )
            progress("comparing sequences", verdict.sequences, len(specs))
            if found and not (comes_again(spec, host, files) and disturbances()[1] == swap):
                verdict = replace(verdict, unsteady=verdict.unsteady + 1)
            elif found:
                shortest = _shortest(case, host, files, budget, progress)
                finding = Finding(str(spec), len(case.calls), found, shortest)
                return replace(verdict, finding=finding)
    return verdict


def _shortest(case: Case, host: HostKernel, files: Files, budget: int, progress: Progress) -> Case:
    """Return the fewest calls that show the same kind of difference."""
    kind = _kind(case.difference)

    def attempt(calls: Sequence[SystemCall]) -> Difference | None:
        return run_calls(replace(case, calls=tuple(calls)), host, files)[1]

    def shows(calls: Sequence[SystemCall]) -> bool:
        return _kind(attempt(calls)) == kind

    def tell(made: int, _left: int) -> None:
        progress("shrinking", made, budget)

    try:
        calls = shrink(case.calls, shows, simpler=simpler, budget=budget, progress=tell)
    except ArgumentError:
        calls = list(case.calls)  # it came once only: shown as it was
    return replace(case, calls=tuple(calls), difference=attempt(calls) or case.difference)


def _kind(difference: Difference | None) -> str:
    """Return what differs, without where."""
    return difference.what.split()[0].rstrip(",") if difference else ""


def verify_case(case: Case, host: HostKernel | None = None) -> KernelVerdict:
    """Run one case on both again."""
    host = host or host_kernel()
    with mapped_files() as files:
        made, found = _undisturbed(lambda: run_calls(case, host, files))
    verdict = KernelVerdict(host.release, host.model, 8 * case.start.word, 1, len(made), None)
    if found:
        finding = Finding(case.name, len(made), found, replace(case, difference=found))
        return replace(verdict, finding=finding)
    return verdict


def simpler(call: SystemCall) -> Iterator[SystemCall]:
    """Yield plainer forms of a call: shorter by pages, fewer flags, fewer touches."""
    places = {"mmap": (1, 3, 5), "mremap": (1, 2), "touch": (1,), "brk": ()}
    for place in places.get(call.name, (1,)[: len(call.args) - 1]):
        value = call.args[place]
        for smaller in _smaller(value, flags=call.name == "mmap" and place == 3):
            yield call._replace(args=(*call.args[:place], smaller, *call.args[place + 1 :]))


def _smaller(value: int, *, flags: bool) -> Iterator[int]:
    if flags:
        yield from (value & ~bit for bit in (1 << n for n in range(6, 21)) if value & bit)
        return
    for candidate in (0, 1, PAGE, 2 * PAGE, value // 2 // PAGE * PAGE, value // 2, value - PAGE):
        if 0 <= candidate < value:
            yield candidate


def random_specs(
    count: int,
    *,
    calls: int = 100,
    word: int = 64,
    profiles: Sequence[str] = (),
    seed: int = 0,
) -> list[Spec]:
    """Return ``count`` sequences, profile by profile, with starts drawn from ``seed``.

    Raises
    ------
    ArgumentError
        There is no such profile, or nothing to do.
    """
    if count < 1 or calls < 1:
        message = f"at least one sequence of one call is needed (got {count} of {calls})"
        raise ArgumentError(message)
    for name in profiles:
        if name not in PROFILES:
            message = f"no profile {name!r}{nearest(name, PROFILES)}"
            raise ArgumentError(message)
    names = list(profiles or PROFILES)
    return [
        Spec(names[i % len(names)], _start(names[i % len(names)], word, seed + i), calls, seed + i)
        for i in range(count)
    ]


def _start(profile: str, word: int, seed: int) -> Start:
    rng = random.Random(f"start {profile} {seed}")  # noqa: S311
    limits = Limits(ipc_lock=may_lock())
    if profile == "limit":
        limit = rng.choice([8, 16, 32, 64, 200]) << 20
        whole = rng.random() < 0.5
        limits = replace(limits, address_space=limit) if whole else replace(limits, data=limit >> 2)
    if profile in ("lock", "wild") and rng.random() < 0.7:
        memlock = rng.choice([0, 64 << 10, 512 << 10, 8 << 20])
        limits = replace(limits, memlock=memlock, ipc_lock=False)
    if rng.random() < 0.1:
        limits = replace(limits, stack=rng.choice([64 << 10, 1 << 20, 256 << 20]))
    arch = "x86_64" if word == 64 else "i386"
    return Start(arch, rng.random() < 0.15, rng.random() < 0.7, limits)
