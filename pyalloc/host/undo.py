"""Taking back what was done to the machine, however this process ends.

An undertaker, a small process of its own session, waits until this one closes a pipe to it, which
happens at the end, on Ctrl-C, and when this process is killed; then it undoes what it was told.
So there is one way back, whatever happens.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Final, Self

_UNDERTAKER: Final = """
import ctypes, json, os, signal, sys, time

for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)

def kill(path):
    with open(path) as members:
        for pid in members.read().split():
            os.kill(int(pid), signal.SIGKILL)

def rmdir(path):
    for _ in range(200):
        try:
            return os.rmdir(path)
        except FileNotFoundError:
            return
        except OSError:
            time.sleep(0.05)

def swapoff(path):
    ctypes.CDLL(None).swapoff(path.encode())

def unlink(path):
    os.unlink(path)

def write(path, text):
    with open(path, "w") as file:
        file.write(text)

steps = [json.loads(line) for line in sys.stdin]
for verb, *args in reversed(steps):
    try:
        globals()[verb](*args)
    except OSError:
        pass
"""


class Undertaker:
    """Undoes what it is told when the block ends, or the process does.

    Steps are undone last one first.  Tell of a step *before* it is taken: what was not done is
    undone without harm.  ``held`` are descriptors that stay open until all is undone, such as a
    lock's.
    """

    def __init__(self, held: Sequence[int] = ()) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - our own code
            [sys.executable, "-S", "-E", "-c", _UNDERTAKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=held,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let everything be undone, and wait for it."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()

    def kill(self, procs: str) -> None:
        """Kill the processes that ``procs``, a cgroup.procs file, lists."""
        self._tell("kill", procs)

    def rmdir(self, path: str) -> None:
        """Remove a folder that holds nothing, such as a cgroup."""
        self._tell("rmdir", path)

    def swapoff(self, path: str) -> None:
        """Stop swapping to a file."""
        self._tell("swapoff", path)

    def unlink(self, path: str) -> None:
        """Remove a file."""
        self._tell("unlink", path)

    def write(self, path: str, text: str) -> None:
        """Write ``text`` to a file that is there, such as a setting's."""
        self._tell("write", path, text)

    def _tell(self, verb: str, *args: str) -> None:
        if self._process.stdin is None:
            return
        self._process.stdin.write(json.dumps([verb, *args]) + "\n")
        self._process.stdin.flush()
