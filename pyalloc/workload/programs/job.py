"""A process as its program sees it: the calls it can make, chance, files, and the time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from pyalloc.errors import ArgumentError
from pyalloc.kernel.overcommit import NEVER
from pyalloc.machine import File, Machine, Process
from pyalloc.nearest import nearest
from pyalloc.units import PAGE, format_size

if TYPE_CHECKING:
    from pyalloc.workload.programs.program import Program


class Stage(Protocol):
    """Who runs the jobs."""

    @property
    def files(self) -> Mapping[str, File]:
        """The scenario's files by name."""

    def report(self, job: Job, kind: str, text: str, size: int = 0) -> None:
        """Take down an event of ``job``; ``size`` is in bytes."""

    def fork(self, job: Job, run: Callable[[Job], Iterator[float]]) -> Job:
        """Fork the job's process and let the child run."""


class Job:
    """One process at work.

    Every call of a :class:`pyalloc.Process` can be made on it; a request of the C library that
    comes back NULL is noted in the scenario's events.

    Attributes
    ----------
    process
        The process itself.
    label
        Its name in the scenario; copies have -1, -2 ... behind it.
    rng
        A :class:`numpy.random.Generator` of its own, seeded by the scenario.
    failed
        How many requests came back NULL.
    """

    def __init__(self, stage: Stage, process: Process, label: str, seed: tuple[int, ...]) -> None:
        self.process = process
        self.label = label
        self.seed = seed
        self.rng = np.random.default_rng(seed)
        self.failed = 0
        self.free = process.free
        self.free_each = process.free_each
        self.touch = process.touch
        self.touch_pages = process.touch_pages
        self._stage = stage
        self._refused = False

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - any call of Process
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.process, name)

    def __repr__(self) -> str:
        return f"<Job {self.label} of {self.process!r}>"

    @property
    def machine(self) -> Machine:
        """The machine it runs on."""
        return self.process.machine

    @property
    def now(self) -> float:
        """The simulated time in seconds."""
        return self.process.machine.clock

    # --- the C library ------------------------------------------------------------------

    def malloc(self, size: int) -> int:
        """Return the address of ``size`` new bytes; 0 is NULL."""
        return self._got(self.process.malloc(size), size)

    def calloc(self, count: int, size: int) -> int:
        """Return the address of ``count * size`` zeroed bytes; 0 is NULL."""
        return self._got(self.process.calloc(count, size), count * size)

    def realloc(self, address: int, size: int) -> int:
        """Resize a block and return its new address; 0 is NULL."""
        new = self.process.realloc(address, size)
        return self._got(new, size) if size else new

    def memalign(self, alignment: int, size: int) -> int:
        """Return the address of ``size`` bytes at a multiple of ``alignment``; 0 is NULL."""
        return self._got(self.process.memalign(alignment, size), size)

    def fill(self, size: int) -> int:
        """Return the address of ``size`` new bytes, all of them written; 0 is NULL."""
        return self._got(self.process.fill(size), size)

    def malloc_each(self, sizes: npt.ArrayLike) -> npt.NDArray[np.uint64]:
        """Return the addresses of new blocks, one after another; 0 is NULL."""
        return self._got_each(self.process.malloc_each(sizes), sizes)

    def fill_each(self, sizes: npt.ArrayLike) -> npt.NDArray[np.uint64]:
        """Return the addresses of new blocks, each written at once; 0 is NULL."""
        return self._got_each(self.process.fill_each(sizes), sizes)

    def _got_each(
        self, pointers: npt.NDArray[np.uint64], sizes: npt.ArrayLike
    ) -> npt.NDArray[np.uint64]:
        if not pointers.all():
            for pointer, size in zip(pointers.tolist(), np.asarray(sizes).tolist(), strict=True):
                self._got(pointer, size)
        elif len(pointers):
            self._refused = False
        return pointers

    def _got(self, pointer: int, size: int) -> int:
        if pointer:
            self._refused = False
        else:
            self.refuse(size)
        return pointer

    def refuse(self, size: int, times: int = 1) -> None:
        """Note that requests came back NULL; of a row of refusals the first is an event."""
        self.failed += times
        if not self._refused:
            self._refused = True
            self.report(
                "refused", f"malloc of {format_size(size)} gave NULL: {self._why(size)}", size
            )

    def _why(self, size: int) -> str:
        process, machine = self.process, self.machine
        pages = -(-size // PAGE) + 1  # the chunk's header takes it onto a page more
        limits, space = process.space.limits, process.space
        if space.total_vm + pages > limits.address_space // PAGE:
            return f"RLIMIT_AS is {format_size(limits.address_space)}"
        if space.profile.modern and space.data_vm + pages > limits.data // PAGE:
            return f"RLIMIT_DATA is {format_size(limits.data)}"
        if not machine.may_promise(process, pages):
            return self._promises()
        return "no room in the address space"

    def _promises(self) -> str:
        machine, mode = self.machine, self.machine.overcommit.overcommit_memory
        if mode != NEVER:
            return f"overcommit_memory is {mode}, and the machine never has that much"
        room = machine.promise_room(self.process, machine.total_ram + machine.total_swap)
        limit, most = machine.commit_limit() * PAGE, (machine.committed + room) * PAGE
        return (
            f"overcommit_memory is 2, {format_size(machine.committed * PAGE)} are promised, and of"
            f" CommitLimit {format_size(limit)} this process may go to {format_size(most)}"
        )

    # --- the scenario -------------------------------------------------------------------

    def report(self, kind: str, text: str, size: int = 0) -> None:
        """Put an event into the scenario's table; ``size`` is in bytes."""
        self._stage.report(self, kind, text, size)

    def note(self, text: str, size: int = 0) -> None:
        """Put a remark into the scenario's events."""
        self.report("note", text, size)

    def file(self, name: str) -> File:
        """Return a file of the scenario by its name.

        Raises
        ------
        ArgumentError
            There is none of that name.
        """
        files = self._stage.files
        if name not in files:
            message = f"the scenario has no file {name!r}{nearest(name, files)}"
            raise ArgumentError(message)
        return files[name]

    def fork(self, run: Program | Callable[[Job], Iterator[float]]) -> Job:
        """Fork the process; the child runs ``run``, a program or any generator of a job.

        Raises
        ------
        OSError
            ENOMEM: the machine may not promise the child's memory.
        """
        return self._stage.fork(self, run)
