"""Replays recorded system-call sequences on an address space."""

import contextlib
import errno
import gzip
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pyalloc.errors import MemoryFault
from pyalloc.kernel.abi import MAP, VM_ACCOUNT, VM_SPECIAL
from pyalloc.kernel.area import Vma
from pyalloc.kernel.files import FreeCommit, Inode, OpenFile
from pyalloc.kernel.layout import layout_from_maps
from pyalloc.kernel.limits import Limits
from pyalloc.kernel.profiles import kernel_profile
from pyalloc.kernel.vma import AddressSpace

DATA = Path(__file__).parent / "data" / "kernel"
PROT = {"none": 0, "r": 1, "w": 2, "rw": 3, "x": 4, "rx": 5, "wx": 6, "rwx": 7}
PAGE = 4096


def load(name: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Read a file of sequences: the full set where PYALLOC_TRUTH says so, else what ships."""
    full = os.environ.get("PYALLOC_TRUTH")
    path = Path(full) / "kernel" / name if full else DATA / name
    meta, *sequences = [
        json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()
    ]
    return meta, sequences


class Heuristic(FreeCommit):
    """Overcommit mode 0: only a request larger than the machine is refused."""

    def __init__(self, pages: int) -> None:
        super().__init__()
        self.pages = pages

    def charge(self, pages: int) -> bool:
        return pages <= self.pages and super().charge(pages)


class Replay:
    """One recorded process, brought back to its first line of maps."""

    def __init__(
        self, sequence: dict[str, Any], meta: dict[str, Any], kernel: str = "6.18"
    ) -> None:
        arch = sequence["id"].split("-")[0]
        profile = kernel_profile(kernel, arch)
        text = "\n".join(map(self._maps_line, sequence["init_maps"]))
        layout = layout_from_maps(
            text, profile, brk=sequence["brk0"], top_down=not sequence["legacy"]
        )
        limits = Limits(
            **{
                {"as": "address_space"}.get(name, name): value
                for name, value in sequence["rlimits"].items()
            }
        )
        self.commit = Heuristic((meta["memtotal_kb"] + meta["swaptotal_kb"]) // 4)
        self.space = AddressSpace(profile, layout, limits, commit=self.commit)
        inodes: dict[str, Inode] = {}
        self.files = {}
        for fd, file in meta["files"].items():
            name = file["name"]
            inodes.setdefault(name, Inode(name, bytes_size=file["size"]))
            self.files[int(fd)] = OpenFile(inodes[name], writable=file["mode"] == "rdwr")
        self.objects: dict[Inode, str] = {}

    @staticmethod
    def _maps_line(short: str) -> str:
        bounds, perms, offset, *name = short.split()
        inode = "fe:00 1" if name == ["prog"] else "00:00 0"
        return f"{bounds} {perms} {int(offset, 16):08x} {inode} {' '.join(name)}"

    def call(self, op: dict[str, Any]) -> dict[str, Any]:
        """Make one recorded call and return its result in the recording's terms."""
        try:
            return getattr(self, "_" + op["op"])(op)  # type: ignore[no-any-return]
        except OSError as error:
            return {"err": errno.errorcode[error.errno or 0]}

    def _mmap(self, op: dict[str, Any]) -> dict[str, Any]:
        file = None
        if not op["flags"] & MAP.ANONYMOUS:
            if op["fd"] not in self.files:
                raise OSError(errno.EBADF, "")
            file = self.files[op["fd"]]
        prot = PROT[op["prot"]]
        return {"ret": self.space.mmap(op["addr"], op["len"], prot, op["flags"], file, op["off"])}

    def _munmap(self, op: dict[str, Any]) -> dict[str, Any]:
        return {"ret": self.space.munmap(op["addr"], op["len"])}

    def _mprotect(self, op: dict[str, Any]) -> dict[str, Any]:
        return {"ret": self.space.mprotect(op["addr"], op["len"], PROT[op["prot"]])}

    def _mremap(self, op: dict[str, Any]) -> dict[str, Any]:
        args = (op["addr"], op["old"], op["new"], op["flags"], op["new_addr"])
        return {"ret": self.space.mremap(*args)}

    def _brk(self, op: dict[str, Any]) -> dict[str, Any]:
        return {"ret": self.space.brk(op["addr"])}

    def _madvise(self, op: dict[str, Any]) -> dict[str, Any]:
        return {"ret": self.space.madvise(op["addr"], op["len"], op["advice"])}

    def _mlock(self, op: dict[str, Any]) -> dict[str, Any]:
        return {"ret": self.space.mlock(op["addr"], op["len"])}

    def _munlock(self, op: dict[str, Any]) -> dict[str, Any]:
        return {"ret": self.space.munlock(op["addr"], op["len"])}

    def _fork(self, op: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG002
        self.space = self.space.fork()
        return {"ret": 0}

    def _touch(self, op: dict[str, Any]) -> dict[str, Any]:
        for done in range(op["n"]):
            try:
                self.space.fault(op["addr"] + done * PAGE, write=bool(op["w"]))
            except MemoryFault as fault:
                return {"ret": done, "sig": fault.signal}
        return {"ret": op["n"], "sig": 0}

    def _shown(self) -> Iterator[Vma]:
        for vma in self.space:
            if not vma.flags & VM_SPECIAL and self.space.label(vma) != "prog":
                yield vma

    def maps(self) -> list[str]:
        """Return the areas as the recording writes them."""
        return [self._line(vma) for vma in self._shown()]

    def accounted(self) -> list[bool]:
        """Return for each of them whether its pages are promised."""
        return [bool(vma.flags & VM_ACCOUNT) for vma in self._shown()]

    def _line(self, vma: Vma) -> str:
        label = self.space.label(vma)
        if vma.file is not None and vma.file.inode.shmem:
            inode = vma.file.inode
            label = self.objects.setdefault(inode, f"Z{len(self.objects)}")
        offset = vma.pgoff * PAGE if vma.file is not None else 0
        line = f"{vma.start:x}-{vma.end:x} {vma.permissions} {offset:x}"
        return f"{line} {label}" if label else line

    def status(self) -> dict[str, int]:
        """Return the sizes of ``/proc/PID/status`` that are the address space's own, in kB."""
        space = self.space
        text = 4
        return {
            "VmPeak": space.peak_vm * 4,
            "VmSize": space.total_vm * 4,
            "VmLck": space.locked_vm * 4,
            "VmData": space.data_vm * 4,
            "VmStk": space.stack_vm * 4,
            "VmExe": text,
            "VmLib": space.exec_vm * 4 - text,
        }


def first_difference(
    sequence: dict[str, Any], meta: dict[str, Any], *, check: bool = True
) -> str | None:
    """Replay a sequence and describe the first step that comes out differently, if any."""
    replay = Replay(sequence, meta)
    for number, (op, result, *snapshots) in enumerate(sequence["steps"]):
        got = replay.call(op)
        if check:
            replay.space.check()
        if got != result:
            return f"step {number} {op}: got {got}, the kernel {result}"
        for snapshot in snapshots:
            maps = replay.maps()
            if maps != snapshot["maps"]:
                ours = [line for line in maps if line not in snapshot["maps"]]
                theirs = [line for line in snapshot["maps"] if line not in maps]
                return f"step {number} {op}: maps {ours}, the kernel's {theirs}"
            status = dict(zip(meta["status_fields"], snapshot["st"], strict=True))
            for field, value in replay.status().items():
                if status[field] != value:
                    return f"step {number} {op}: {field} {value}, the kernel's {status[field]}"
    return _final_difference(replay, sequence)


def _final_difference(replay: Replay, sequence: dict[str, Any]) -> str | None:
    with contextlib.suppress(KeyError):
        lines = [line for line, _ in sequence["final_smaps"]]
        if replay.maps() != lines:
            return f"at the end: maps {replay.maps()}, the kernel's {lines}"
        flags = ["ac" in fields["VmFlags"].split() for _, fields in sequence["final_smaps"]]
        if replay.accounted() != flags:
            return f"at the end: accounted {replay.accounted()}, the kernel's {flags}"
    return None
