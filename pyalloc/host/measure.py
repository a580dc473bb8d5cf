"""Run a real program and measure its memory, to the page and without its help.

The program runs as it is, with nothing loaded into it.  It is traced only to be stopped for a
moment when it ends (``PTRACE_O_TRACEEXIT``, ptrace(2)): its memory is still there then, and
``/proc/PID/status`` says the most it ever had resident (VmHWM), which ``ru_maxrss`` does not: that
also counts the image that called exec.  Where there is no such moment (tracing is not allowed, or
the process is killed) the last of many looks at the status counts.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pyalloc.errors import ArgumentError, PyallocError
from pyalloc.host import proc

_TRACE_ME: Final = 0
_CONTINUE: Final = 7
_SET_OPTIONS: Final = 0x4200
_OPTIONS: Final = 0x10 | 0x40 | 0x100000  # PTRACE_O_: TRACEEXEC, TRACEEXIT, EXITKILL
_EVENT_EXIT: Final = 6
_LOOK_EVERY: Final = 0.002  # seconds

_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
_libc.ptrace.restype = ctypes.c_long


class CommandError(PyallocError, RuntimeError):
    """A command could not be started, or took too long."""


class CommandTimeout(CommandError, TimeoutError):
    """A command was not done in time, and was killed."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """One real run: bytes, page faults, seconds, and how it ended.

    ``peak_rss`` is VmHWM and ``final_rss`` VmRSS of the command's own process at its end,
    ``vm_peak`` the most it had mapped.  ``exact`` says that they were read at the very end.
    """

    peak_rss: int
    final_rss: int
    vm_peak: int
    minor_faults: int
    major_faults: int
    cpu_seconds: float
    elapsed: float
    exit_code: int | None
    signal: int | None
    exact: bool


def measure(
    command: Sequence[str],
    env: Mapping[str, str] | None = None,
    *,
    quiet: bool = True,
    timeout: float | None = None,
    prepare: Callable[[], None] | None = None,
) -> Measurement:
    """Run ``command`` to its end and return what the kernel says of it.

    Parameters
    ----------
    command, env
        As for :func:`pyalloc.record`.
    quiet
        Throw its output away, and give it no input.
    timeout
        Seconds after which it is killed.
    prepare
        Called in the child before the command is run (limits, cgroups).

    Raises
    ------
    CommandError
        It cannot be started.
    CommandTimeout
        It was not done in time.
    """
    if not command:
        message = "there is no command to run"
        raise ArgumentError(message)
    return _Run(command, env, quiet=quiet, prepare=prepare).to_end(timeout)


class _Run:
    """A child under way, traced by the thread that started it."""

    def __init__(
        self,
        command: Sequence[str],
        env: Mapping[str, str] | None,
        *,
        quiet: bool,
        prepare: Callable[[], None] | None,
    ) -> None:
        self.command = command
        self.began = time.monotonic()
        self.last: proc.Fields = {}
        self.exact = False
        self.noting = threading.Lock()  # of last and exact
        self.late = False
        self.done = threading.Event()
        untraced, tell = os.pipe()

        def before_exec() -> None:
            if prepare is not None:
                prepare()
            if _libc.ptrace(_TRACE_ME, 0, None, None) != 0:
                os.write(tell, b"x")

        place = subprocess.DEVNULL if quiet else None
        try:
            self.process = subprocess.Popen(  # noqa: S603 - the user's own command
                list(command),
                env=None if env is None else dict(env),
                stdin=place,
                stdout=place,
                stderr=place,
                preexec_fn=before_exec,  # noqa: PLW1509 - it only makes system calls
            )
        except (OSError, subprocess.SubprocessError) as error:
            os.close(tell)
            message = f"{command[0]}: {getattr(error, 'strerror', None) or error}"
            raise CommandError(message) from None
        else:
            os.close(tell)
            self.traced = not os.read(untraced, 1)
        finally:
            os.close(untraced)

    # --- looking

    def _look(self, *, at_end: bool = False) -> None:
        """Note what the process has; what was read before its end is not noted after it."""
        try:
            fields = proc.status(self.process.pid)
        except (proc.NoSuchProcess, OSError):
            return
        with self.noting:
            if "VmHWM" in fields and (at_end or not self.exact):
                self.last, self.exact = fields, at_end

    def _keep_looking(self) -> None:
        while not self.done.wait(_LOOK_EVERY):
            if not self.exact:
                self._look()

    # --- running

    def to_end(self, timeout: float | None) -> Measurement:
        """Wait for the end."""
        watch = threading.Thread(target=self._keep_looking, daemon=True)
        timer = threading.Timer(timeout or 0, self._give_up)
        watch.start()
        if timeout:
            timer.start()
        try:
            status, usage = self._wait()
        except BaseException:
            self.process.kill()
            self._wait()
            raise
        finally:
            timer.cancel()
            self.done.set()
            watch.join()
        if self.late:
            message = f"{self.command[0]}: was not done after {timeout:g} seconds, and was killed"
            raise CommandTimeout(message)
        return self._result(status, usage)

    def _give_up(self) -> None:
        self.late = True
        self.process.kill()

    def _wait(self) -> tuple[int, os.resource_usage]:  # type: ignore[name-defined]
        """Let the child run, passing signals on, until it has ended."""
        pid = self.process.pid
        first = self.traced
        while True:
            _, status, usage = os.wait4(pid, 0)
            if not os.WIFSTOPPED(status):
                self.process.returncode = os.waitstatus_to_exitcode(status)
                return status, usage
            event, number = status >> 16, os.WSTOPSIG(status)
            if first:
                _libc.ptrace(_SET_OPTIONS, pid, None, ctypes.c_void_p(_OPTIONS))
                first, event = False, 1
            elif event == _EVENT_EXIT:
                self._look(at_end=True)
            _libc.ptrace(_CONTINUE, pid, None, ctypes.c_void_p(0 if event else number))

    def _result(self, status: int, usage: os.resource_usage) -> Measurement:  # type: ignore[name-defined]
        def field(name: str) -> int:
            return int(self.last.get(name, 0)) << 10

        code = os.waitstatus_to_exitcode(status)
        return Measurement(
            peak_rss=field("VmHWM"),
            final_rss=field("VmRSS"),
            vm_peak=field("VmPeak"),
            minor_faults=usage.ru_minflt,
            major_faults=usage.ru_majflt,
            cpu_seconds=usage.ru_utime + usage.ru_stime,
            elapsed=time.monotonic() - self.began,
            exit_code=code if code >= 0 else None,
            signal=-code if code < 0 else None,
            exact=self.exact,
        )


def describe_end(run: Measurement) -> str:
    """Return how a run ended, in words; empty for success."""
    if run.signal is not None:
        return f"killed by {signal.Signals(run.signal).name}"
    return f"exit code {run.exit_code}" if run.exit_code else ""
