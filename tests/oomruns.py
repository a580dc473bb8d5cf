"""Recorded scenarios of the OOM killer, played on the model.

What the recording program was is known by its status: a small static program, randomised, which is
told what memory to take.  Here it starts from a map of that size.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import pyalloc as pa

PAGE, MB = 4096, 1 << 20
RW = pa.PROT.READ | pa.PROT.WRITE
PRIVATE, SHARED = pa.MAP.PRIVATE | pa.MAP.ANONYMOUS, pa.MAP.SHARED | pa.MAP.ANONYMOUS
TABLE = 2 * MB
KINDS = ("untouched", "touch", "ro", "shm", "free", "file", "fmap", "fpriv")

PROGRAM = """\
00400000-00401000 r--p 00000000 fe:00 7 /hog
0040f000-004c0000 r-xp 0000f000 fe:00 7 /hog
004c1000-004c2000 r--p 000c1000 fe:00 7 /hog
004d3000-004e7000 rw-p 000c2000 fe:00 7 /hog
004e7000-00503000 rw-p 00000000 00:00 0
01c00000-01c22000 rw-p 00000000 00:00 0 [heap]
7ff000007000-7ff000008000 rw-p 00000000 00:00 0
7ff000008000-7ff00000c000 r--p 00000000 00:00 0 [vvar]
7ff00000c000-7ff00000e000 r--p 00000000 00:00 0 [vvar_vclock]
7ff00000e000-7ff000010000 r-xp 00000000 00:00 0 [vdso]
7ffffffde000-7ffffffff000 rw-p 00000000 00:00 0 [stack]
"""
"""303 pages, of which 179 of the file get resident, and 13 of its own."""

TEXT = [(0x400000, 1), (0x40F000, 177), (0x4C1000, 1)]
OWN = [(0x4D3000, 4), (0x4E7000, 3), (0x1C00000, 2), (0x7FF000007000, 1), (0x7FFFFFFFC000, 3)]


class Run:
    """One scenario on the model."""

    def __init__(self, scenario: Mapping[str, Any]) -> None:
        self.scenario = scenario
        self.machine = pa.Machine(
            ram=scenario["memtotal_kb"] << 10,
            swap=scenario["swaptotal_kb"] << 10,
            kernel="6.18",
            arch="x86_64",
            cpus=2,
            swappiness=scenario["swappiness"],
            sysctl=scenario["sysctls"],
        )
        limit, both = scenario["limit_mb"], scenario["memsw_mb"]
        swap = (both - limit) * MB if both else None
        self.top = self.machine.cgroup("truth_oom", limit * MB, swap)
        self.below = {
            name: self.machine.cgroup(name, most and most * MB, parent=self.top)
            for name, most in (scenario["child_cg"] or {}).items()
        }
        self.names: dict[int, str] = {}
        for number, proc in enumerate(scenario["procs"]):
            self._start(number, proc)

    def _start(self, number: int, proc: Mapping[str, Any]) -> None:
        process = self.machine.spawn(
            proc["name"],
            uid=proc.get("uid", 0),
            nice=proc.get("nice", 0),
            oom_score_adj=proc.get("adj", 0),
            cgroup=self.below.get(proc.get("cg", ""), self.top),
            maps=PROGRAM,
            brk=0x1C22000,
        )
        self.names[process.pid] = f"{number}"
        with contextlib.suppress(pa.ProcessKilled):
            self._begin(process)
            self._memory(process, proc)
            self._multiply(number, process, proc)
            self._grow(process, proc)

    def _begin(self, process: pa.Process) -> None:
        inode = next(vma.file.inode for vma in process.space if vma.file)
        self.machine.ram.load_object(0, self.machine.object_of(inode), 0, inode.pages, 0)
        for start, pages in TEXT:
            process.touch(start, pages * PAGE, write=False)
        for start, pages in OWN:
            process.touch(start, pages * PAGE)

    def _take(self, process: pa.Process, size: int, flags: int, *, write: bool = True) -> int:
        address = process.mmap(0, size, RW, flags)
        process.touch(address, size, write=write)
        return address

    def _memory(self, process: pa.Process, proc: Mapping[str, Any]) -> None:
        """Take the memory that ``proc`` names, in megabytes."""
        sizes = {kind: proc.get(kind, 0) * MB for kind in KINDS}
        if size := sizes["untouched"]:
            process.mmap(0, size, RW, PRIVATE | pa.MAP.NORESERVE)
        if size := sizes["touch"]:
            address = self._take(process, size, PRIVATE)
            if proc.get("mlock"):
                process.mlock(address, size)
        if size := sizes["ro"]:
            self._take(process, size, PRIVATE, write=False)
        if size := sizes["shm"]:
            self._take(process, size, SHARED)
        if size := sizes["free"]:
            process.madvise(self._take(process, size, PRIVATE), size, pa.MADV.FREE)
        for kind in ("file", "fmap", "fpriv"):
            if size := sizes[kind]:
                self._file(process, kind, size)
        if proc.get("sparse"):
            self._sparse(process, proc["sparse"])

    def _sparse(self, process: pa.Process, blocks: int) -> None:
        address = process.mmap(0, blocks * TABLE, RW, PRIVATE | pa.MAP.NORESERVE)
        for block in range(blocks):
            process.touch(address + block * TABLE, 1)

    def _file(self, process: pa.Process, kind: str, size: int) -> None:
        """A file that the process writes first, so that its cgroup pays for the cache."""
        file = self.machine.file(f"/data{process.pid}", 0)
        fd = process.open(file, "rw")
        process.ftruncate(fd, size)
        process.write(fd, 0, size)
        self.machine.ram.clean_object(self.machine.object_of(file.inode), 0, size // PAGE)
        if kind == "file":
            return
        own = kind == "fpriv"
        flags = pa.MAP.PRIVATE if own else pa.MAP.SHARED
        address = process.mmap(0, size, RW if own else pa.PROT.READ, flags, fd)
        process.touch(address, size, write=own)

    def _multiply(self, number: int, process: pa.Process, proc: Mapping[str, Any]) -> None:
        for child in range(proc.get("children", 0)):
            kid = process.fork()
            kid.name = "kid"
            kid.oom_score_adj = proc.get("cadj", kid.oom_score_adj)
            self.names[kid.pid] = f"{number}.{child}"
            size = proc.get("ctouch", 0) * MB
            kid.touch(0x40F000, 34 * PAGE, write=False)
            if size:
                kid.touch(kid.mmap(0, size, RW, PRIVATE), size)

    def _grow(self, process: pa.Process, proc: Mapping[str, Any]) -> None:
        for kind, flags in (("grow", PRIVATE), ("sgrow", SHARED)):
            if kind in proc:
                size = proc[kind] * MB
                process.touch(process.mmap(0, size, RW, flags), size)

    @property
    def finished(self) -> bool:
        """Whether whoever was started last is alive."""
        return list(self.machine.processes.values())[-1].alive

    def lines(self) -> list[str]:
        """Return what the log says of each victim, from its size on."""
        reports = (event.report for event in self.machine.oom_events)
        found = (line for text in reports for line in text.splitlines() if "Killed" in line)
        return [line.split(") ", 1)[1] for line in found]

    @property
    def victims(self) -> list[str]:
        """Who was killed, in order, as a place in ``procs`` and of their children."""
        return [self.names[pid] for event in self.machine.oom_events for pid in event.killed]


def recorded_victims(scenario: Mapping[str, Any]) -> list[str]:
    """Return the same of the recording."""
    names = {proc["pid"]: str(n) for n, proc in enumerate(scenario["procs"])}
    for pid, status in sorted((int(p), s) for p, s in scenario["before"].items()):
        if pid not in names:
            parent = names[status["PPid"]]
            order = sum(name.startswith(f"{parent}.") for name in names.values())
            names[pid] = f"{parent}.{order}"
    return [names.get(kill["pid"], str(kill["pid"])) for kill in scenario["kills"]]
