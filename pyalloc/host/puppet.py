"""A process of this machine that makes the system calls it is told to.

A small C program without a C library (``csrc/puppet.c``), not randomised, whose every area but its
own text, data and stack stems from a call it was told to make: what the real kernel does to a
process can be looked at call by call.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import resource
import struct
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final, NamedTuple, Self

from pyalloc.errors import ArgumentError
from pyalloc.host import compile as _compile
from pyalloc.host.compile import HostError
from pyalloc.kernel.limits import INFINITY, Limits
from pyalloc.nearest import nearest
from pyalloc.units import PAGE

TOUCH: Final = 10000
FORK: Final = 10001
REAP: Final = 10002
MOVE: Final = 10003
NUMBERS: Final = {
    "x86_64": {
        "mmap": 9, "mprotect": 10, "munmap": 11, "brk": 12, "mremap": 25, "msync": 26,
        "madvise": 28, "mlock": 149, "munlock": 150, "mlockall": 151, "munlockall": 152,
        "mlock2": 325, "touch": TOUCH, "fork": FORK, "branch": FORK, "leave": FORK, "reap": REAP,
        "read": MOVE, "write": MOVE, "ftruncate": 77,
    },
    "i386": {
        "mmap": 192, "mprotect": 125, "munmap": 91, "brk": 45, "mremap": 163, "msync": 144,
        "madvise": 219, "mlock": 150, "munlock": 151, "mlockall": 152, "munlockall": 153,
        "mlock2": 376, "touch": TOUCH, "fork": FORK, "branch": FORK, "leave": FORK, "reap": REAP,
        "read": MOVE, "write": MOVE, "ftruncate": 194,
    },
}  # fmt: skip
"""System calls by architecture, and the puppet's own.

``touch(addr, pages, write)`` accesses each page once.  After ``fork`` the child goes on and the
parent waits for its end; after ``branch`` the parent goes on and the child sleeps until ``reap``,
and after ``leave``, too, even if its parent is killed.
``read`` and ``write`` take a descriptor, a length of at most 512 kB and an offset.
"""

_STAYS: Final = {"fork": 0, "branch": 1, "leave": 2}

FIRST_FILE: Final = 10
"""The descriptor of the first file given to a puppet; the others follow."""

_ORDER: Final = struct.Struct("<7Q")
_ANSWER: Final = struct.Struct("<qq")
_NO_RANDOMIZE, _COMPAT_LAYOUT, _LIMIT_3GB, _LINUX32 = 0x0040000, 0x0200000, 0x8000000, 8
_PR_CAPBSET_DROP, _CAP_IPC_LOCK = 24, 14
_MAX_ERRNO: Final = 4095


@dataclass(frozen=True, slots=True)
class Start:
    """How a puppet starts.

    ``legacy`` is the bottom-up layout, ``three_gib`` the 3 GiB space of a 32-bit program;
    ``limits.ipc_lock`` False takes the capability away that lifts RLIMIT_MEMLOCK.  ``procs`` is the
    ``cgroup.procs`` file of a cgroup that it joins.
    """

    arch: str = "x86_64"
    legacy: bool = False
    three_gib: bool = True
    limits: Limits = field(default_factory=Limits)
    procs: str = ""

    @property
    def word(self) -> int:
        """Bytes in a pointer."""
        return 8 if self.arch == "x86_64" else 4

    def persona(self) -> int:
        """Return its personality(2)."""
        small = (_LINUX32 | (_LIMIT_3GB if self.three_gib else 0)) if self.word == 4 else 0
        return _NO_RANDOMIZE | (_COMPAT_LAYOUT if self.legacy else 0) | small


class Outcome(NamedTuple):
    """What a call came to: its value, or the name of its errno; for a touch also a signal."""

    value: int
    error: str = ""
    signal: int = 0

    def __str__(self) -> str:
        if self.error:
            return self.error
        return f"{self.value:#x}" + (f" and signal {self.signal}" if self.signal else "")


def error_name(number: int) -> str:
    """Return the name of an errno, or ``errno N`` for a number that has none."""
    return errno.errorcode.get(number, f"errno {number}")


class Puppet:
    """A process that does what it is told; a context manager that ends it.

    Attributes
    ----------
    pid
        The process that goes on; ``fork`` changes it.
    stack_page
        The address of the page its stack pointer is in.

    Raises
    ------
    CompilerMissing
        There is no compiler for that word size.
    HostError
        The kernel does not let it start.
    """

    def __init__(self, start: Start, files: Sequence[int] = ()) -> None:
        self.start = start
        program = _compile.program("puppet", word=start.word, bare=True)
        self._process = subprocess.Popen(  # noqa: S603
            [str(program)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            pass_fds=[*files, *range(FIRST_FILE, FIRST_FILE + len(files))],
            env={},
            preexec_fn=_preparation(start, files),  # noqa: PLW1509 - it has one thread by then
        )
        try:
            self.pid, self._sp = self._answer()
        except HostError:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def stack_pages(self) -> set[int]:
        """The pages of its stack that it uses itself."""
        return {at // PAGE * PAGE for at in (self._sp, self._sp - 2048)}

    def call(self, name: str, *args: int) -> Outcome:
        """Make one call of :data:`NUMBERS`, or ``setrlimit(which, soft)``.

        Arguments are taken as the registers take them.

        The offset of ``mmap`` is in bytes.
        """
        if name == "setrlimit":
            return self._limit(*args)
        number = NUMBERS[self.start.arch].get(name)
        if number is None:
            message = f"no call {name!r}{nearest(name, NUMBERS[self.start.arch])}"
            raise ArgumentError(message)
        if name == "mmap" and self.start.word == 4:
            if args[5] % PAGE:  # what the C library says before it asks for mmap2
                return Outcome(-1, "EINVAL")
            args = (*args[:5], args[5] // PAGE)
        if name in _STAYS:
            args = (_STAYS[name],)
        if name in ("read", "write"):
            args = (*args, int(name == "write"))
        value, extra = self._raw(number, args)
        if name in _STAYS and value > 0:
            self._sp = extra
            self.pid = value if name == "fork" else self.pid
            return Outcome(0)
        if name in ("touch", "reap"):
            return Outcome(value, signal=extra)
        return self._outcome(value)

    def _limit(self, which: int, value: int) -> Outcome:
        """Set a soft limit from outside, below the hard one."""
        soft, hard = resource.RLIM_INFINITY if value >= INFINITY else value, self.hard_limit(which)
        try:
            resource.prlimit(self.pid, which, (soft, hard))
        except (OSError, ValueError):  # Python's word for EINVAL
            return Outcome(-1, "EINVAL")
        return Outcome(0)

    def hard_limit(self, which: int) -> int:
        """Return a hard limit, as ``resource`` numbers it."""
        return resource.prlimit(self.pid, which)[1]

    def _outcome(self, value: int) -> Outcome:
        if -_MAX_ERRNO <= value < 0:
            return Outcome(-1, error_name(-value))
        return Outcome(value & ((1 << 8 * self.start.word) - 1))

    def _raw(self, number: int, args: Sequence[int]) -> tuple[int, int]:
        words = [word & (1 << 64) - 1 for word in (number, *args)]
        with contextlib.suppress(BrokenPipeError):
            self._pipe(self._process.stdin).write(_ORDER.pack(*words, *[0] * (7 - len(words))))
        return self._answer()

    def _answer(self) -> tuple[int, int]:
        data = b""
        while len(data) < _ANSWER.size:
            more = self._pipe(self._process.stdout).read(_ANSWER.size - len(data))
            if not more:
                message = "the process that makes the calls has died"
                raise HostError(message)
            data += more
        value, extra = _ANSWER.unpack(data)
        return value, extra & ((1 << 8 * self.start.word) - 1)

    @staticmethod
    def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
        if pipe is None:
            message = "the process that makes the calls was never started"
            raise HostError(message)
        return pipe

    def read(self, name: str) -> str:
        """Return the text of ``/proc/PID/NAME``."""
        return Path(f"/proc/{self.pid}/{name}").read_text(encoding="utf-8")

    def faults(self) -> tuple[int, int]:
        """Return its minor and major faults so far."""
        fields = self.read("stat").rpartition(")")[2].split()
        return int(fields[7]), int(fields[9])

    def present(self, start: int, end: int) -> list[int]:
        """Return the addresses of the pages of a range that are in memory."""
        with Path(f"/proc/{self.pid}/pagemap").open("rb", buffering=0) as pagemap:
            pagemap.seek(start // PAGE * 8)
            count = (end - start) // PAGE
            entries = struct.unpack(f"<{count}Q", pagemap.read(8 * count))
        return [start + i * PAGE for i, entry in enumerate(entries) if entry >> 63]

    def close(self) -> None:
        """End it."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        self._process.wait()


def _preparation(start: Start, files: Sequence[int]) -> Callable[[], None]:
    """Return what the child does before it becomes the puppet."""
    libc = ctypes.CDLL(None, use_errno=True)
    limits, persona = start.limits, start.persona()

    def prepare() -> None:
        if start.procs:
            Path(start.procs).write_text("0", encoding="ascii")
        libc.personality(persona)
        stack = limits.stack if limits.stack < INFINITY else resource.RLIM_INFINITY
        resource.setrlimit(resource.RLIMIT_STACK, (stack, resource.RLIM_INFINITY))
        if not limits.ipc_lock:
            libc.prctl(_PR_CAPBSET_DROP, _CAP_IPC_LOCK, 0, 0, 0)
            _limit(resource.RLIMIT_MEMLOCK, limits.memlock)
        high = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, 128) for descriptor in files]
        for number, descriptor in enumerate(high, FIRST_FILE):
            os.dup2(descriptor, number)  # not over one that is still to be moved
        _limit(resource.RLIMIT_DATA, limits.data)
        _limit(resource.RLIMIT_AS, limits.address_space)

    return prepare


def _limit(which: int, value: int) -> None:
    """Set a soft limit, as far as the hard one allows."""
    hard = resource.getrlimit(which)[1]
    if value < INFINITY and (hard == resource.RLIM_INFINITY or value <= hard):
        resource.setrlimit(which, (value, hard))
