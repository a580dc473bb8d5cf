"""The programs of the article "When Linux Runs Out of Memory" on this machine, for real.

A small 32-bit program (``csrc/article.c``) under a personality of 3 GB, as the article's machine
had; program B in a memory cgroup of that machine's RAM and swap.  What cannot be run is told with
the reason.
"""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pyalloc.host import compile as _compile
from pyalloc.host import proc
from pyalloc.host.box import box
from pyalloc.host.compile import HostError
from pyalloc.kernel.proctext import parse_fields

RAM: Final = 256 << 20
SWAP: Final = 888 << 20
"""The article's machine, in round numbers as it gives them."""

_REFUSALS: Final = {
    3: "the process may not join its cgroup",
    4: "its personality is refused here",
}
_EVERY: Final = 64  # blocks from one word of progress to the next

Progress = Callable[[str], None]


@dataclass(slots=True)
class ProgramRun:
    """What one program did.

    ``count`` blocks were given; ``error`` is errno at NULL, None if it was killed before;
    ``signal`` the name of what killed it.  ``shown`` holds the texts of ``/proc/self/status`` and
    ``maps``: before the first block, where the program was asked to show them, and at NULL.
    """

    count: int = 0
    error: int | None = None
    signal: str | None = None
    shown: list[dict[str, str]] = field(default_factory=list)
    words: dict[str, str] = field(default_factory=dict)

    def status(self, place: int = 1) -> proc.Fields:
        """Return the fields of a status that was shown; sizes in kB."""
        return parse_fields(self.shown[place]["/proc/self/status"])

    def maps(self, place: int = -1) -> str:
        """Return a map that was shown."""
        return self.shown[place]["/proc/self/maps"]


def run_program(
    what: str,
    *,
    stop: int = 0,
    procs: str = "-",
    gib: int = 3,
    progress: Progress | None = None,
) -> ProgramRun:
    """Run ``a`` (malloc), ``b`` (malloc and fill), ``c`` (calloc) or ``s`` (single calls).

    Parameters
    ----------
    what
        The program.
    stop
        After so many blocks it shows its status and map, too; 0: only before the first and at NULL.
    procs
        The cgroup.procs file of the cgroup it runs in; ``b`` without one would take all there is.
    gib
        The size of its address space, 3 or 4 GB.
    progress
        Called with a line of words now and then.

    Raises
    ------
    HostError
        It cannot be run here; the text says why.
    """
    if what == "b" and procs == "-":
        message = "program B runs in a cgroup only: it takes all the memory it can get"
        raise HostError(message)
    path = _compile.program("article", word=4, flags=("-no-pie",))
    command = [str(path), what, str(stop), procs, str(gib)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:  # noqa: S603
        assert child.stdout is not None  # noqa: S101 - it was asked for
        try:
            found = _read(iter(child.stdout), what, progress)
        except BaseException:
            child.kill()
            raise
    if child.returncode in _REFUSALS:
        raise HostError(_REFUSALS[child.returncode])
    if child.returncode < 0:
        found.signal = signal.Signals(-child.returncode).name
    return found


def _read(lines: Iterator[str], what: str, progress: Progress | None) -> ProgramRun:
    found = ProgramRun()
    for line in lines:
        text = line.rstrip("\n")
        if text.isdecimal():
            found.count = int(text)
            if progress is not None and found.count % _EVERY == 0:
                progress(f"this machine: program {what.upper()}, {found.count} MB")
        elif text.startswith("<"):
            _keep(found, text[1:], _block(lines))
        else:
            word, _, rest = text.partition(" ")
            found.words[word] = rest
    if "null" in found.words:
        found.error = int(found.words["null"])
    return found


def _block(lines: Iterator[str]) -> str:
    """Return the lines up to the closing one."""
    text = []
    for line in lines:
        if line == ">\n":
            break
        text.append(line)
    return "".join(text)


def _keep(found: ProgramRun, name: str, text: str) -> None:
    if name.endswith("status"):
        found.shown.append({})
    found.shown[-1][name] = text


@dataclass(frozen=True, slots=True)
class Measured:
    """What the article's programs did here.  Whatever is None has its reason in ``why_not``.

    ``a`` is program A with its status after the blocks the article shows it at, ``b`` program B in
    its cgroup, ``single`` the single calls.
    """

    a: ProgramRun | None = None
    b: ProgramRun | None = None
    single: ProgramRun | None = None
    why_not: Mapping[str, str] = field(default_factory=dict)


def measure(*, a_stop: int, b_stop: int, progress: Progress | None = None) -> Measured:
    """Run the article's programs on this machine as far as it allows.

    Parameters
    ----------
    a_stop, b_stop
        The blocks after which the article shows the status of A and B.
    progress
        Called with a line of words now and then.
    """
    found: dict[str, Any] = {}
    why_not: dict[str, str] = {}

    def attempt(name: str, run: Callable[[], ProgramRun]) -> None:
        if progress is not None:
            progress(f"this machine: {_TITLES[name]}")
        try:
            found[name] = run()
        except HostError as error:
            why_not[name] = str(error).replace("\n", " ")

    def boxed() -> ProgramRun:
        with box(RAM, SWAP) as procs:
            return run_program("b", stop=b_stop, procs=str(procs), progress=progress)

    attempt("single", lambda: run_program("s"))
    attempt("a", lambda: run_program("a", stop=a_stop))
    attempt("b", boxed)
    return Measured(**found, why_not=why_not)


_TITLES: Final = {"single": "single calls", "a": "program A", "b": "program B in a cgroup"}
