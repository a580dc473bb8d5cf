"""Makes random calls on a real process of this machine and on the model, side by side."""

from __future__ import annotations

import ctypes
import errno
import os
import random
import re
import resource
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from vmareplay import Heuristic

from pyalloc.errors import MemoryFault
from pyalloc.kernel.abi import VM_SPECIAL
from pyalloc.kernel.area import Vma
from pyalloc.kernel.files import Inode, OpenFile
from pyalloc.kernel.layout import layout_from_maps
from pyalloc.kernel.limits import Limits
from pyalloc.kernel.procfs import flag_names, maps_text
from pyalloc.kernel.profiles import kernel_profile
from pyalloc.kernel.vma import AddressSpace

PAGE: Final = 4096
ARENA: Final = 0x10000000
ARENA_PAGES: Final = 512
SOURCE: Final = Path(__file__).parent / "data" / "kernel" / "vma_executor.c"
NUMBERS: Final = {
    "x86_64": {
        "mmap": 9, "mprotect": 10, "munmap": 11, "brk": 12, "mremap": 25,
        "madvise": 28, "mlock": 149, "munlock": 150,
    },
    "i386": {
        "mmap": 192, "mprotect": 125, "munmap": 91, "brk": 45, "mremap": 163,
        "madvise": 219, "mlock": 150, "munlock": 151,
    },
}  # fmt: skip
TOUCH, FORK = 10000, 10001
NO_RANDOMIZE, COMPAT_LAYOUT, LIMIT_3GB, LINUX32 = 0x0040000, 0x0200000, 0x8000000, 8

Call = tuple[Any, ...]


def build(directory: Path, arch: str) -> Path | None:
    """Compile the executor; None where this machine cannot."""
    program = directory / f"executor-{arch}"
    flags = ["-O1", "-nostdlib", "-static", "-no-pie", "-fno-pic", "-fno-stack-protector"]
    flags += [
        "-fomit-frame-pointer",
        "-fcf-protection=none",
        "-m64" if arch == "x86_64" else "-m32",
    ]
    command = ["gcc", *flags, str(SOURCE), "-o", str(program)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return program


class Real:
    """A process of this machine that does what it is told."""

    def __init__(self, program: Path, arch: str, files: list[Path], *, legacy: bool) -> None:
        self.arch = arch
        modes = (os.O_RDWR, os.O_RDONLY, os.O_RDWR)
        opened = [os.open(path, mode) for path, mode in zip(files, modes, strict=True)]
        self.process = subprocess.Popen(
            [str(program)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            close_fds=False,
            env={},
            preexec_fn=self._preparation(opened, legacy=legacy),  # noqa: PLW1509
        )
        for descriptor in opened:
            os.close(descriptor)
        self.pid = self.process.pid
        self.raw(NUMBERS[arch]["brk"], 0)

    def _preparation(self, opened: list[int], *, legacy: bool) -> Callable[[], None]:
        persona = NO_RANDOMIZE | (COMPAT_LAYOUT if legacy else 0)
        persona |= LIMIT_3GB | LINUX32 if self.arch == "i386" else 0
        libc = ctypes.CDLL(None)

        def prepare() -> None:
            libc.personality(persona)
            resource.setrlimit(resource.RLIMIT_STACK, (8 << 20, resource.RLIM_INFINITY))
            for number, descriptor in enumerate(opened, 10):
                os.dup2(descriptor, number)

        return prepare

    def raw(self, number: int, *args: int) -> tuple[int, int]:
        padded = [arg & (1 << 64) - 1 for arg in (number, *args, *[0] * (6 - len(args)))]
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(struct.pack("<7Q", *padded))
        data = b""
        while len(data) < 16:
            more = stdout.read(16 - len(data))
            assert more, "the executor died"
            data += more
        result, signal = struct.unpack("<qq", data)
        return result, signal

    def call(self, name: str, *args: int) -> Call:
        if name == "touch":
            return self.raw(TOUCH, *args)
        if name == "fork":
            self.pid = self.raw(FORK)[0]
            return ("ret", 0)
        if name == "mmap" and self.arch == "i386":
            args = (*args[:5], args[5] // PAGE)
        result, _ = self.raw(NUMBERS[self.arch][name], *args)
        if -4096 < result < 0:
            return ("err", errno.errorcode[-result])
        return ("ret", result & (1 << 32) - 1 if self.arch == "i386" else result)

    def read(self, name: str) -> str:
        return Path(f"/proc/{self.pid}/{name}").read_text(encoding="utf-8")

    def close(self) -> None:
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()
        self.process.wait()


class Model:
    """The same process in the simulator, started from the real one's maps."""

    def __init__(self, real: Real, files: list[Path], kernel: str, *, legacy: bool) -> None:
        profile = kernel_profile(kernel, real.arch)
        brk = real.call("brk", 0)[1]
        layout = layout_from_maps(real.read("maps"), profile, brk=brk, top_down=not legacy)
        soft = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
        capable = re.search(r"CapEff:\s*([0-9a-f]+)", Path("/proc/self/status").read_text())
        may_lock = capable is not None and bool(int(capable[1], 16) >> 14 & 1)
        unlimited = soft == resource.RLIM_INFINITY
        limits = Limits(memlock=1 << 63 if unlimited else soft, ipc_lock=may_lock)
        counts = dict(re.findall(r"(\w+):\s+(\d+) kB", Path("/proc/meminfo").read_text()))
        machine = (int(counts["MemTotal"]) + int(counts["SwapTotal"])) // 4
        self.space = AddressSpace(profile, layout, limits, commit=Heuristic(machine))
        self.first = min(vma.start for vma in self.space)
        inodes = {path: Inode(str(path), bytes_size=path.stat().st_size) for path in files}
        self.files = {
            number: OpenFile(inodes[path], writable=number != 11)
            for number, path in enumerate(files, 10)
        }

    def call(self, name: str, *args: int) -> Call:
        try:
            return self._call(name, *args)
        except OSError as error:
            return ("err", errno.errorcode[error.errno or 0])

    def _call(self, name: str, *args: int) -> Call:
        if name == "touch":
            return self._touch(*args)
        if name == "fork":
            self.space = self.space.fork()
            return ("ret", 0)
        if name == "mmap":
            addr, length, prot, flags, fd, offset = args
            file = None if flags & 0x20 else self.files[fd]
            return ("ret", self.space.mmap(addr, length, prot, flags, file, offset))
        return ("ret", getattr(self.space, name)(*args))

    def _touch(self, addr: int, count: int, write: int) -> Call:
        for done in range(count):
            try:
                self.space.fault(addr + done * PAGE, bool(write))
            except MemoryFault as fault:
                return (done, fault.signal)
        return (count, 0)


# --- comparing ---------------------------------------------------------------------------------


def shape(text: str) -> list[tuple[str, ...]]:
    """Return maps without what the model cannot know: inode numbers and their order."""
    rows, objects = [], {}
    for line in text.splitlines():
        bounds, perms, offset, _, inode, *name = line.split(None, 5)
        label = name[0].strip() if name else ""
        if label.startswith("/dev/zero"):
            label = f"object {objects.setdefault(inode, len(objects))}"
        rows.append((bounds, perms, offset, label))
    return rows


def difference(real: Real, model: Model) -> str | None:
    """Describe how the two processes differ, None if they do not."""
    space = model.space
    theirs, ours = shape(real.read("maps")), shape(maps_text(space))
    if theirs != ours:
        return f"maps {sorted(set(ours) - set(theirs))}, real {sorted(set(theirs) - set(ours))}"
    status = dict(re.findall(r"(Vm\w+):\s+(\d+) kB", real.read("status")))
    pairs = {
        "VmPeak": space.peak_vm,
        "VmSize": space.total_vm,
        "VmLck": space.locked_vm,
        "VmData": space.data_vm,
        "VmStk": space.stack_vm,
    }
    for name, value in pairs.items():
        if int(status[name]) != value * 4:
            return f"{name} {value * 4}, real {status[name]}"
    return None


def flag_difference(real: Real, model: Model) -> str | None:
    """Describe the first area whose flags differ."""
    lines = re.findall(r"(?m)^VmFlags: (.*)$", real.read("smaps"))
    for vma, line in zip(model.space, lines, strict=False):
        theirs, ours = set(line.split()) - {"sd"}, set(flag_names(vma.flags).split())
        if theirs != ours:
            return f"{vma.start:x}: flags {sorted(ours)}, real {sorted(theirs)}"
    return None


def run(program: Path, arch: str, kernel: str, seed: int, files: list[Path]) -> str | None:
    """Make sixty random calls on both and describe the first difference, None if there is none."""
    rng = random.Random(f"{arch}-{seed}")  # noqa: S311
    legacy = rng.random() < 0.15
    real = Real(program, arch, files, legacy=legacy)
    try:
        model = Model(real, files, kernel, legacy=legacy)
        for _ in range(60):
            call = choose(rng, model)
            theirs, ours = real.call(*call), model.call(*call)
            model.space.check()
            found = f"{ours}, real {theirs}" if ours != theirs else difference(real, model)
            if found:
                return f"{arch} seed {seed}: {call}: {found}"
        return flag_difference(real, model)
    finally:
        real.close()


# --- choosing ----------------------------------------------------------------------------------

_KINDS: Final = {
    "mmap": 26, "munmap": 12, "mprotect": 16, "mremap": 14, "brk": 5, "madvise": 6,
    "touch": 24, "mlock": 2, "munlock": 1, "fork": 1,
}  # fmt: skip
_ADVICE: Final = (0, 1, 2, 3, 4, 4, 8, 9, 10, 11, 14, 15, 16, 17, 18, 19, 20, 22, 23, 99)


def choose(rng: random.Random, model: Model) -> Call:
    """Return a call that leaves the executor's own text, data and stack alone."""
    while True:
        name = rng.choices(list(_KINDS), list(_KINDS.values()))[0]
        call = _CHOICES[name](rng, model)
        if all(_harmless(model, name, addr, length) for addr, length in _ranges(call)):
            return call


def _ranges(call: Call) -> list[tuple[int, int]]:
    name, *args = call
    if name in {"brk", "fork"} or (name == "mmap" and not args[3] & 0x10):
        return []
    if name == "touch":
        return [(args[0], args[1] * PAGE)]
    if name == "mremap":
        target = [(args[4], args[2])] if args[3] & 6 else []
        return [(args[0], max(args[1], args[2])), *target]
    return [(args[0], args[1])]


def _harmless(model: Model, name: str, addr: int, length: int) -> bool:
    space = model.space
    end = addr + length + PAGE
    if addr < space.start_brk and end > model.first:
        return False
    if name == "touch":
        return not any(vma.flags & VM_SPECIAL for vma in space.areas.covering(addr, end))
    stack = space.find(space.start_stack)
    return stack is None or end < stack.start - 64 * PAGE


def _areas(model: Model) -> list[Vma]:
    space = model.space
    return [
        vma
        for vma in space
        if not vma.flags & VM_SPECIAL and vma.end > space.start_brk and vma.end < space.start_stack
    ]


def _address(rng: random.Random, model: Model) -> int:
    areas = _areas(model)
    if areas and rng.random() < 0.7:
        vma = rng.choice(areas)
        inside = min(vma.pages, 2000)
        return vma.start + rng.choice([0, 0, 0, 1, inside, rng.randrange(inside + 1)]) * PAGE
    return ARENA + rng.randrange(ARENA_PAGES) * PAGE


def _length(rng: random.Random, model: Model, addr: int) -> int:
    vma = model.space.at(addr)
    if vma is not None and rng.random() < 0.25:
        return vma.end - addr
    kind = rng.random()
    if kind < 0.6:
        return rng.randrange(1, 9) * PAGE
    if kind < 0.92:
        return rng.randrange(1, 65) * PAGE
    return rng.choice([rng.randrange(1, 40000), 2 << 20, 4 << 20, 6 << 20, 0])


_EXTRAS: Final = {0x4000: 0.12, 0x8000: 0.05, 0x100: 0.05, 0x20000: 0.03, 0x40: 0.02}
"""Further flags of mmap, and how often each is set."""


def _mmap(rng: random.Random, model: Model) -> Call:
    flags = rng.choices([2, 1, 3, 0], [70, 24, 3, 1])[0]
    anonymous = rng.random() < 0.75
    flags |= 0x20 if anonymous else 0
    place = rng.choices([0, 0x10, 0x100000, 1], [40, 40, 10, 10])[0]
    addr = _address(rng, model) if place else 0
    flags |= place & ~1
    for flag, chance in (
        (0x4000, 0.12),
        (0x8000, 0.05),
        (0x100, 0.05),
        (0x20000, 0.03),
        (0x40, 0.02),
    ):
        flags |= flag if rng.random() < chance else 0
    prot = rng.choices(range(8), [10, 14, 4, 50, 4, 10, 2, 8])[0]
    fd, offset = (-1, 0) if anonymous else (rng.choice([10, 11, 12]), rng.randrange(64) * PAGE)
    return ("mmap", addr, _length(rng, model, addr), prot, flags, fd, offset)


def _mremap(rng: random.Random, model: Model) -> Call:
    addr = _address(rng, model)
    flags = rng.choices([0, 1, 3, 7, 5, 2, 8], [20, 50, 30, 6, 4, 1, 1])[0]
    old = _length(rng, model, addr) if rng.random() > 0.05 else 0
    new = rng.choice([old, _length(rng, model, 0), old + rng.randrange(1, 20) * PAGE])
    return ("mremap", addr, old, new, flags, _address(rng, model) if flags & 6 else 0)


def _brk(rng: random.Random, model: Model) -> Call:
    step = rng.choice([PAGE, 100, 16 * PAGE, PAGE * rng.randrange(1, 100)])
    return ("brk", model.space.brk_value + rng.choice([1, 1, 1, -1]) * step)


def _ranged(name: str, last: Callable[[random.Random], tuple[int, ...]]) -> Callable[..., Call]:
    def chosen(rng: random.Random, model: Model) -> Call:
        addr = _address(rng, model)
        return (name, addr, _length(rng, model, addr), *last(rng))

    return chosen


def _touch(rng: random.Random, model: Model) -> Call:
    return ("touch", _address(rng, model), rng.choice([1, 1, 2, 3, 8, 40]), rng.choice([1, 1, 0]))


_CHOICES: Final[dict[str, Callable[..., Call]]] = {
    "mmap": _mmap,
    "munmap": _ranged("munmap", lambda _: ()),
    "mprotect": _ranged("mprotect", lambda rng: (rng.choice([0, 1, 3, 3, 3, 5, 7]),)),
    "mremap": _mremap,
    "brk": _brk,
    "madvise": _ranged("madvise", lambda rng: (rng.choice(_ADVICE),)),
    "touch": _touch,
    "mlock": _ranged("mlock", lambda _: ()),
    "munlock": _ranged("munlock", lambda _: ()),
    "fork": lambda *_: ("fork",),
}
