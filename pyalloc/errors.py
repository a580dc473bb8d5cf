"""Every error pyalloc raises; each is also the builtin its caller would expect."""

from __future__ import annotations

from typing import Any


class PyallocError(Exception):
    """Base of every error that pyalloc raises on purpose; it can come from a worker process."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle what it says and carries, whatever its class is made from."""
        return _again, (type(self), self.args, vars(self))


def _again(
    kind: type[PyallocError], args: tuple[Any, ...], carried: dict[str, Any]
) -> PyallocError:
    """Return an error as it was before it was pickled."""
    error = kind.__new__(kind, *args)
    vars(error).update(carried)
    return error


class ArgumentError(PyallocError, ValueError):
    """An argument lies outside its documented domain."""


class WrongType(PyallocError, TypeError):
    """An argument is of a type its parameter does not take; the text names both."""


class TraceError(PyallocError, ValueError):
    """A trace file or table cannot be read; the text says where and why."""


class ScenarioError(PyallocError, ValueError):
    """A scenario cannot be run; the text says where in the file, what is wrong, and what to do."""


class RecordError(PyallocError, RuntimeError):
    """A program cannot be recorded; the text says why and what to do."""


class WorkerError(PyallocError, RuntimeError):
    """The worker processes of a sweep cannot be started; the text says what to do."""


class HeapAbort(PyallocError, RuntimeError):
    """The simulated C library would have aborted; the text is its own message."""


class ProcessKilled(PyallocError, RuntimeError):
    """A call on a simulated process that is no longer alive."""


class MemoryFault(PyallocError, RuntimeError):
    """An access the hardware refuses.

    ``signal`` is SIGSEGV (11) or SIGBUS (7), ``address`` the first byte refused.  A SIGFPE (8) is
    glibc 2.3.3's malloc_trim before any other call: it divides by zero.
    """

    def __init__(self, signal: int, address: int) -> None:
        name = {7: "SIGBUS", 8: "SIGFPE", 11: "SIGSEGV"}.get(signal, f"signal {signal}")
        super().__init__(f"{name} at {address:#x}")
        self.signal = signal
        self.address = address


class EngineBusy(PyallocError, RuntimeError):
    """A machine was entered from two threads at once; one machine is one thread's."""


class EngineLimit(PyallocError, OverflowError):
    """The model itself, not the simulated machine, is at its limit."""


class EngineBug(PyallocError, AssertionError):
    """An invariant of the engine failed; please report it with the input that did it."""


class KernelPanic(PyallocError, RuntimeError):
    """The simulated kernel has no way on: memory is exhausted and nobody can be killed."""


class EndlessFault(PyallocError, MemoryError):
    """A page fault that is tried again for ever: its cgroup is full, and nobody may be killed.

    The kernel kills nobody else for it, and does not panic; the process makes no progress until
    somebody frees memory or raises the limit.  Then make the access, or the call that met it,
    again: it goes on from there.
    """
