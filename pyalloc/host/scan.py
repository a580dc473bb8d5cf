"""Scans of memory on this host: accesses to its pages in a given order, under a memory limit.

A small C program (``csrc/scan.c``) makes them, in a cgroup and with swap of its own
(:mod:`pyalloc.host.box`).  The kernel's settings that decide what a scan misses are set meanwhile,
for the whole host, and restored however this process ends.  One process makes scans at a time.
"""

from __future__ import annotations

import contextlib
import os
import signal
import struct
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from pyalloc.host import compile as _compile
from pyalloc.host.box import box, require_root
from pyalloc.host.compile import HostError
from pyalloc.host.disk import disk_folder, read_ahead_setting
from pyalloc.host.settings import Settings
from pyalloc.host.turn import turn
from pyalloc.host.undo import Undertaker
from pyalloc.units import PAGE

SWAP: Final = 256 << 20
"""Bytes of swap beside a limit, or four working sets if that is more: the kernel handles swap that
is half full in another way."""

READ_AHEAD: Final = 128 << 10
"""Bytes that the kernel reads ahead by default."""

_MB: Final = 1 << 20
_SYSCTLS: Final = Path("/proc/sys/vm")
_ORDER: Final = struct.Struct("<II")
_FOREIGN: Final = {
    Path("/sys/kernel/mm/lru_gen/enabled"): "the multi-generation LRU reclaims here",
    Path("/sys/module/zswap/parameters/enabled"): "zswap keeps what is swapped out in memory here",
}
_OFF: Final = {"N", "0", "0x0000"}

Order = npt.NDArray[np.integer[Any]]


class Rates(NamedTuple):
    """What one pass over a working set did, per access; ``read`` are pages of files."""

    minor: float
    major: float
    swapped_in: float
    read: float


@dataclass(frozen=True, slots=True)
class Passes:
    """The passes that a scan completed, and whether the OOM killer ended it."""

    rates: tuple[Rates, ...]
    killed: bool = False


@dataclass(frozen=True, slots=True)
class Bed:
    """Where a scan takes place; ``mode`` is as in ``csrc/scan.c``, ``limit`` in bytes."""

    mode: str
    pages: int
    limit: int
    swappiness: int = 60
    page_cluster: int = 3
    read_ahead: int = READ_AHEAD

    @property
    def on_file(self) -> bool:
        """Whether the pages are a file's."""
        return self.mode.startswith("f")

    @property
    def bytes_file(self) -> int:
        """The file's size: whole megabytes, and one more that only read-ahead reaches."""
        return (-(-self.pages * PAGE // _MB) + 1) * _MB

    @property
    def bytes_swap(self) -> int:
        """The swap there is."""
        return max(SWAP, 4 * self.pages * PAGE)


# --- before and after ------------------------------------------------------------------------


@contextlib.contextmanager
def scanner() -> Iterator[Scanner]:
    """Prepare this host for scans, and leave it as it was; waits while another process scans.

    Raises
    ------
    HostError
        It cannot make any; the text says why.
    """
    require_root()
    _refuse_foreign_reclaim()
    program = _compile.program("scan")
    with turn() as lock, Undertaker(held=[lock]) as undertaker:
        yield Scanner(program, undertaker)


def _refuse_foreign_reclaim() -> None:
    """Refuse to compare a kernel that reclaims by other rules than the model has."""
    for path, what in _FOREIGN.items():
        if path.exists() and path.read_text(encoding="ascii").strip() not in _OFF:
            message = f"{what}, which the model does not know (echo 0 >{path} ends it)"
            raise HostError(message)


# --- scans -----------------------------------------------------------------------------------


class Scanner:
    """Makes scans on this host; made by :func:`scanner`."""

    def __init__(self, program: Path, undertaker: Undertaker) -> None:
        self._program = program
        self._undertaker = undertaker
        self._settings = Settings(undertaker)
        self._file = Path()
        self._file_size = 0

    def scan(self, bed: Bed, passes: Iterable[tuple[Order, bool]]) -> Passes:
        """Make passes, each an order of pages and whether they are written.

        Raises
        ------
        HostError
            It cannot be done here, or ended for another reason than the OOM killer.
        """
        self._set(bed)
        with (
            box(bed.limit, bed.bytes_swap, own_swap=True) as procs,
            _order_file(bed.pages) as order,
            _started(self._command(bed, order, procs), order) as child,
        ):
            return _Run(child, order, procs.parent).make(passes)

    def _set(self, bed: Bed) -> None:
        self._settings.set(_SYSCTLS / "swappiness", bed.swappiness)
        self._settings.set(_SYSCTLS / "page-cluster", bed.page_cluster)
        if bed.on_file:
            self._settings.set(read_ahead_setting(disk_folder()), bed.read_ahead >> 10)
            self._prepare_file(bed.bytes_file)

    def _command(self, bed: Bed, order: int, procs: Path) -> list[str]:
        return [str(self._program), bed.mode, *map(str, (bed.pages, self._file, order, procs))]

    def _prepare_file(self, size: int) -> None:
        """Have a file of ``size`` bytes that is on the disk, and not in memory."""
        if size != self._file_size:
            self._file = disk_folder() / f"pyalloc-scan-{os.getpid()}"
            self._undertaker.unlink(str(self._file))
            _write_file(self._file, size)
            self._file_size = size
        with self._file.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _write_file(path: Path, size: int) -> None:
    path.unlink(missing_ok=True)
    data = np.random.default_rng(3).bytes(_MB)
    with path.open("xb") as file:
        for _ in range(size // _MB):
            file.write(data)


@contextlib.contextmanager
def _order_file(pages: int) -> Iterator[int]:
    """Yield the descriptor of memory in which the order of a pass is told."""
    order = os.memfd_create("order")
    try:
        os.truncate(order, pages * 4)
        yield order
    finally:
        os.close(order)


@contextlib.contextmanager
def _started(command: list[str], order: int) -> Iterator[subprocess.Popen[bytes]]:
    """Start the program; whatever happens, it ends with the block, and Ctrl-C is not for it."""
    with subprocess.Popen(  # noqa: S603
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
        pass_fds=[order],
        process_group=0,
    ) as child:
        try:
            yield child
        finally:
            child.kill()


class _Ended(Exception):
    """The program is no more."""


class _Run:
    """One scan, while it is made."""

    def __init__(self, child: subprocess.Popen[bytes], order: int, group: Path) -> None:
        self.child = child
        self.order = order
        self.group = group

    def make(self, passes: Iterable[tuple[Order, bool]]) -> Passes:
        """Make the passes, as far as it gets."""
        rates = []
        try:
            self._await()
            for order, write in passes:
                rates.append(self._pass(order, write=write))
        except (_Ended, BrokenPipeError):
            return Passes(tuple(rates), killed=self._was_killed())
        return Passes(tuple(rates))

    def _pass(self, order: Order, *, write: bool) -> Rates:
        os.pwrite(self.order, order.astype(np.uint32).tobytes(), 0)
        before = self._counters()
        if self.child.stdin is not None:
            self.child.stdin.write(_ORDER.pack(len(order), write))
        self._await()
        return Rates(*((self._counters() - before) / len(order)).tolist())

    def _await(self) -> None:
        if self.child.stdout is None or not self.child.stdout.read(1):
            raise _Ended

    def _counters(self) -> npt.NDArray[np.float64]:
        """Return what :class:`Rates` are made of."""
        pid = self.child.pid
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        events = _fields(self.group / "memory.stat")
        came_back = events.get("pswpin", events["workingset_refault_anon"])
        read = _fields(Path(f"/proc/{pid}/io"))["read_bytes:"] // PAGE
        return np.array((fields[7], fields[9], came_back, read), dtype=np.float64)

    def _was_killed(self) -> bool:
        """Return True if the OOM killer did it.

        Raises
        ------
        HostError
            It was not.
        """
        status = self.child.wait()
        old = self.group / "memory.oom_control"
        events = _fields(old if old.exists() else self.group / "memory.events")
        if status == -signal.SIGKILL and events["oom_kill"]:
            return True
        message = f"the program that scans memory ended early, with {status}"
        raise HostError(message)


def _fields(path: Path) -> dict[str, int]:
    """Return the numbers of a file with a name and a number a line."""
    words = map(str.split, path.read_text(encoding="ascii").splitlines())
    return {name: int(value) for name, value in words}
