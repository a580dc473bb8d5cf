"""Live ``/proc`` as plain records: what this machine's kernel says of itself and its processes.

Numbers are as the file has them: kB in ``status``, ``smaps`` and ``meminfo``, pages in ``statm``.
The parsers take the text of any machine, also a simulated one's.

Source: ``Documentation/filesystems/proc.rst`` of Linux 6.12.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from pyalloc.errors import PyallocError
from pyalloc.kernel.maps import Area, area_of, parse_maps
from pyalloc.kernel.oom import Task
from pyalloc.kernel.proctext import ProcText, parse_fields, parse_proc
from pyalloc.units import PAGE

Pid = int | Literal["self"]
Fields = dict[str, int | str]

_PAGES_A_KB: Final = PAGE >> 10
_CAP_SYS_ADMIN: Final = 21
_CAP_SYS_RAWIO: Final = 17


class NoSuchProcess(PyallocError, ProcessLookupError):
    """There is no such process, or it ended while it was looked at."""

    @classmethod
    def of(cls, pid: Pid) -> NoSuchProcess:
        """Return the error about process ``pid``."""
        return cls(f"there is no process {pid}, or it has just ended")


class Statm(NamedTuple):
    """``/proc/PID/statm``, in pages; ``lib`` and ``dirty`` have been 0 since Linux 2.6."""

    size: int
    resident: int
    shared: int
    text: int
    lib: int
    data: int
    dirty: int


# --- texts


def parse_smaps(text: str) -> tuple[tuple[Area, Fields], ...]:
    """Return each area of the text of a ``/proc/PID/smaps`` with its fields."""
    found: list[tuple[Area, list[str]]] = []
    for line in text.splitlines():
        area = area_of(line)
        if area is not None:
            found.append((area, []))
        elif found:
            found[-1][1].append(line)
    return tuple((area, parse_fields("\n".join(lines))) for area, lines in found)


# --- this machine


def read(pid: Pid, name: str) -> str:
    """Return the text of a file of process ``pid``.

    Raises
    ------
    NoSuchProcess
        It does not exist.
    PermissionError
        It is another user's.
    """
    try:
        return Path("/proc", str(pid), name).read_text(encoding="utf-8", errors="surrogateescape")
    except (FileNotFoundError, ProcessLookupError):
        raise NoSuchProcess.of(pid) from None


def read_proc(name: str, pid: Pid = "self") -> ProcText[Any]:
    """Return a file of this machine's ``/proc`` as a simulated machine's calls return theirs.

    Parameters
    ----------
    name
        ``"maps"``, ``"smaps"``, ``"smaps_rollup"``, ``"status"``, ``"statm"`` of process ``pid``;
        ``"meminfo"`` or ``"vmstat"`` of the machine.
    pid
        A process, by default this one.

    Raises
    ------
    ArgumentError
        There is no reader of that name.
    NoSuchProcess
        The process does not exist.
    PermissionError
        It is another user's.
    """
    if name in ("meminfo", "vmstat"):
        return parse_proc(name, Path("/proc", name).read_text(encoding="utf-8"))
    return parse_proc(name, read(pid, name))


def maps(pid: Pid = "self") -> tuple[Area, ...]:
    """Return the areas of process ``pid``; none for a kernel thread.

    Raises
    ------
    NoSuchProcess
        It does not exist.
    PermissionError
        It is another user's.
    """
    return parse_maps(read(pid, "maps"))


def smaps(pid: Pid = "self") -> tuple[tuple[Area, Fields], ...]:
    """Return the areas of process ``pid``, each with its fields; raises as :func:`maps`."""
    return parse_smaps(read(pid, "smaps"))


def status(pid: Pid = "self") -> Fields:
    """Return ``/proc/PID/status``; sizes in kB."""
    return parse_fields(read(pid, "status"))


def statm(pid: Pid = "self") -> Statm:
    """Return ``/proc/PID/statm``, in pages."""
    return Statm(*map(int, read(pid, "statm").split()))


def soft_limits(pid: Pid, names: Mapping[str, str]) -> dict[str, int | None]:
    """Return soft limits of ``/proc/PID/limits`` by what ``names`` calls them; None: no limit."""
    found: dict[str, int | None] = {}
    for line in read(pid, "limits").splitlines():
        for title, name in names.items():
            if line.startswith(title):
                soft = line[len(title) :].split()[0]
                found[name] = None if soft == "unlimited" else int(soft)
    return found


def oom_score(pid: Pid = "self") -> int:
    """Return the badness the kernel shows, 0 to 2000."""
    return int(read(pid, "oom_score"))


def meminfo() -> dict[str, int]:
    """Return ``/proc/meminfo``, in kB (``HugePages_*`` are counts)."""
    fields = parse_fields(Path("/proc/meminfo").read_text(encoding="utf-8"))
    return {name: value for name, value in fields.items() if isinstance(value, int)}


def pids() -> list[int]:
    """Return the processes there are, by number."""
    names = (path.name for path in Path("/proc").iterdir())
    return sorted(int(name) for name in names if name.isdecimal())


# --- as the OOM killer sees them


class _Stat(NamedTuple):
    parent: int
    cpu_time: float
    nice: int
    start: float


def _stat(pid: Pid) -> _Stat:
    """Return what only ``/proc/PID/stat`` has; times in seconds."""
    fields = read(pid, "stat").rpartition(")")[2].split()  # the name may hold anything
    tick = os.sysconf("SC_CLK_TCK")
    used = (int(fields[11]) + int(fields[12])) / tick
    return _Stat(int(fields[1]), used, int(fields[16]), int(fields[19]) / tick)


def _uptime() -> float:
    return float(Path("/proc/uptime").read_text(encoding="ascii").split()[0])


def _in_pages(fields: Mapping[str, int | str], name: str) -> int:
    return int(fields.get(name, 0)) // _PAGES_A_KB


def _capable(fields: Mapping[str, int | str]) -> tuple[bool, bool]:
    effective = int(str(fields.get("CapEff", 0)), 16)
    return bool(effective >> _CAP_SYS_ADMIN & 1), bool(effective >> _CAP_SYS_RAWIO & 1)


def _task(pid: int, uptime: float) -> tuple[Task, int]:
    """Return the process without its children, and its parent."""
    fields, stat = status(pid), _stat(pid)
    task = Task(
        pid=pid,
        name=str(fields["Name"]),
        uid=int(str(fields["Uid"]).split()[1]),
        total_vm=_in_pages(fields, "VmSize"),
        rss=_in_pages(fields, "VmRSS"),
        swapents=_in_pages(fields, "VmSwap"),
        pgtables_bytes=int(fields.get("VmPTE", 0)) << 10,
        oom_score_adj=int(read(pid, "oom_score_adj")),
        nice=stat.nice,
        cpu_time=stat.cpu_time,
        run_time=max(uptime - stat.start, 0.0),
        capable=_capable(fields),
        kernel_thread="VmSize" not in fields and not str(fields.get("State", "")).startswith("Z"),
    )
    return task, stat.parent


def _all_tasks() -> Iterator[tuple[Task, int]]:
    uptime = _uptime()
    for pid in pids():
        try:
            yield _task(pid, uptime)
        except NoSuchProcess:
            continue  # it ended since its number was read


def tasks() -> list[Task]:
    """Return every process of this machine as an OOM policy takes it, in order of number.

    A policy can be asked of them whom it would kill now; nothing is locked meanwhile, so the
    numbers are of slightly different moments.
    """
    found = list(_all_tasks())
    children: dict[int, list[int]] = {}
    for task, parent in found:
        children.setdefault(parent, []).append(task.pid)
    return [replace(task, children=tuple(children.get(task.pid, ()))) for task, _ in found]
