"""Replays the recorded system-call sequences of ``tests/data/kernel`` on a machine."""

from __future__ import annotations

import errno
import gzip
import json
import os
from pathlib import Path
from typing import Any

from pyalloc.errors import MemoryFault
from pyalloc.host import proc
from pyalloc.kernel.limits import Limits
from pyalloc.kernel.maps import Area, parse_maps
from pyalloc.machine import Machine

DATA = Path(__file__).parent / "data" / "kernel"
PROT = {"none": 0, "r": 1, "w": 2, "rw": 3, "x": 4, "rx": 5, "wx": 6, "rwx": 7}
PAGE = 4096
KERNELS_OWN = {"[vvar]", "[vvar_vclock]", "[vdso]", "[vsyscall]", "prog"}
EXACT = ("VmPeak", "VmSize", "VmLck", "VmData", "VmStk", "RssAnon", "RssShmem", "VmPTE", "VmSwap")
"""Fields of status that are the model's own; the recording program's text is not in RssFile."""
SMAPS = ("Rss", "Anonymous", "Locked", "VmFlags")


def load(name: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Read a file of sequences: the full set where PYALLOC_TRUTH says so, else what ships."""
    full = os.environ.get("PYALLOC_TRUTH")
    path = Path(full) / "kernel" / name if full else DATA / name
    meta, *sequences = [
        json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()
    ]
    return meta, sequences


class Replay:
    """One recorded process, brought back to its first line of maps."""

    def __init__(self, sequence: dict[str, Any], meta: dict[str, Any]) -> None:
        self.machine = Machine(
            ram=meta["memtotal_kb"] << 10,
            swap=meta["swaptotal_kb"] << 10,
            kernel="6.18",
            arch=sequence["arch"],
        )
        limits = {{"as": "address_space"}.get(k, k): v for k, v in sequence["rlimits"].items()}
        self.process = self.machine.spawn(
            uid=0,
            maps="\n".join(map(self._maps_line, sequence["init_maps"])),
            brk=sequence["brk0"],
            rlimits=Limits(**limits),
        )
        files = {file["name"]: file["size"] for file in meta["files"].values()}
        made = {name: self.machine.file(name, size) for name, size in files.items()}
        modes = {"rdwr": "rw", "rdonly": "r"}
        self.descriptors = {
            int(fd): self.process.open(made[file["name"]], modes[file["mode"]])
            for fd, file in meta["files"].items()
        }
        self.objects: dict[int, str] = {}
        self.file_base = sequence["init_status"][meta["status_fields"].index("RssFile")]

    @staticmethod
    def _maps_line(short: str) -> str:
        bounds, perms, offset, *name = short.split()
        inode = "fe:00 1" if name == ["prog"] else "00:00 0"
        return f"{bounds} {perms} {int(offset, 16):08x} {inode} {' '.join(name)}"

    def call(self, op: dict[str, Any]) -> dict[str, Any]:
        """Make one recorded call and return its result in the recording's terms."""
        try:
            return self._call(**op)
        except OSError as error:
            return {"err": errno.errorcode[error.errno or 0]}

    def _call(self, op: str, **args: Any) -> dict[str, Any]:
        if op == "touch":
            return self._touch(args["addr"], args["n"], bool(args["w"]))
        if op == "fork":
            self.process = self.process.fork()
            return {"ret": 0}
        if op == "mmap":
            args["fd"] = self.descriptors.get(args["fd"], args["fd"])
        if "prot" in args:
            args["prot"] = PROT[args["prot"]]
        return {"ret": getattr(self.process, op)(*args.values())}

    def _touch(self, addr: int, count: int, write: bool) -> dict[str, Any]:
        try:
            self.process.touch(addr, count * PAGE, write)
        except MemoryFault as fault:
            return {"ret": (fault.address - addr) // PAGE, "sig": fault.signal}
        return {"ret": count, "sig": 0}

    def areas(self) -> list[tuple[str, proc.Fields]]:
        """Return the areas as the recording writes them, with their fields in smaps."""
        return [
            (self._line(area), fields)
            for area, fields in proc.parse_smaps(str(self.process.smaps()))
            if area.name not in KERNELS_OWN
        ]

    def _line(self, area: Area) -> str:
        name = area.name.removeprefix("/")
        if name.startswith("dev/zero"):
            name = self.objects.setdefault(area.inode, f"Z{len(self.objects)}")
        line = f"{area.start:x}-{area.end:x} {area.permissions} {area.offset:x}"
        return f"{line} {name}" if name else line

    def maps(self) -> list[str]:
        """Return the areas as the recording writes them."""
        return [
            self._line(area)
            for area in parse_maps(str(self.process.maps()))
            if area.name not in KERNELS_OWN
        ]


def first_difference(sequence: dict[str, Any], meta: dict[str, Any]) -> str | None:
    """Replay a sequence and describe the first step that comes out differently, if any."""
    replay = Replay(sequence, meta)
    for number, (op, result, *snapshots) in enumerate(sequence["steps"]):
        got = replay.call(op)
        if got != result:
            return f"step {number} {op}: got {got}, the kernel {result}"
        for snapshot in snapshots:
            maps = replay.maps()
            if maps != snapshot["maps"]:
                ours = [line for line in maps if line not in snapshot["maps"]]
                theirs = [line for line in snapshot["maps"] if line not in maps]
                return f"step {number} {op}: maps {ours}, the kernel's {theirs}"
            replay.process.check()
            status = dict(zip(meta["status_fields"], snapshot["st"], strict=True))
            different = _status_difference(replay, status)
            if different:
                return f"step {number} {op}: {different}"
    replay.machine.check()
    return _final_difference(replay, sequence)


def _status_difference(replay: Replay, theirs: dict[str, int]) -> str | None:
    ours = replay.process.status()
    for field in EXACT:
        if theirs[field] != ours[field]:
            return f"{field} {ours[field]}, the kernel's {theirs[field]}"
    own = theirs["RssFile"] - int(ours["RssFile"])
    if own not in {replay.file_base, PAGE >> 10}:  # a child has faulted one page in again
        return f"RssFile {ours['RssFile']}, the kernel's {theirs['RssFile']}"
    return None


def _final_difference(replay: Replay, sequence: dict[str, Any]) -> str | None:
    for (line, ours), (wanted, theirs) in zip(replay.areas(), sequence["final_smaps"], strict=True):
        if line != wanted:
            return f"at the end: {line}, the kernel's {wanted}"
        for field in SMAPS:
            value, want = ours[field], theirs.get(field, 0)
            if field == "VmFlags":
                want = str(want).replace(" sd", "")
            if value != want:
                return f"at the end: {line}: {field} {value}, the kernel's {want}"
    return None
