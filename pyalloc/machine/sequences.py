"""Restartable sequences: a few bytes of a thread that the kernel keeps up to date."""

from __future__ import annotations

import errno
from typing import Final, NamedTuple

from pyalloc.arguments import registers
from pyalloc.errors import ArgumentError
from pyalloc.kernel.abi import fail
from pyalloc.kernel.area import Vma
from pyalloc.machine.syscalls import SystemCalls
from pyalloc.units import PAGE

_BYTES: Final = 32
"""Of the area as it was at first; it is aligned to as many."""
_UNREGISTER: Final = 1
_INT: Final = 0xFFFFFFFF


class Sequences(NamedTuple):
    """An area that was registered, in bytes; ``sig`` must be repeated to end it."""

    addr: int
    length: int
    sig: int


class SequenceCalls(SystemCalls):
    """The system call that registers it."""

    def rseq(self, addr: int, length: int = _BYTES, flags: int = 0, sig: int = 0) -> int:
        """Register the thread's area of restartable sequences and return 0, as ``rseq(2)``.

        From then on the kernel reads and writes it whenever the process goes on after it waited for
        the disk, or was in the kernel for a tick (4 ms): its page never rests (kernel/rseq.c of
        Linux 6.18).  glibc registers one since 2.35; what :meth:`~pyalloc.Machine.spawn` starts has
        none until it calls this.  RSEQ_FLAG_UNREGISTER (1) ends it; a child has its parent's.

        Parameters
        ----------
        addr, length
            The area, in bytes: in private memory without a file.
        sig
            A number that unregistering must repeat.

        Raises
        ------
        OSError
            With the kernel's errno: EINVAL, EBUSY, EPERM or EFAULT; ENOSYS on 2.6.
        MemoryFault
            The area cannot be written: the kernel takes it, and the program dies of it.
        ArgumentError
            It lies in a file or in shared memory: its use is not modelled.
        """
        addr, length, flags, sig = registers(
            self.mask, addr=addr, length=length, flags=flags, sig=sig
        )
        area = Sequences(addr, length & _INT, sig & _INT)
        if not self._space().profile.modern:
            fail(errno.ENOSYS)
        if flags & _INT:
            self._unregister(area, flags & _INT)
        else:
            self._register(area)
        self._after()
        return 0

    def inherit_sequences(self, parent: SequenceCalls) -> None:
        """Have the area of the parent, and as little as it if that is gone."""
        self.sequences = parent.sequences
        self.pages.table.inherit_rseq(parent.pages.table)

    def _register(self, area: Sequences) -> None:
        if self.sequences is not None:
            self._refuse_another(self.sequences, area)
        if area.length < _BYTES or area.addr % _BYTES:
            fail(errno.EINVAL)
        self.pages.access(self._ground_of(area), area.addr // PAGE, 1, write=True)
        self.pages.table.set_rseq(area.addr // PAGE, registered=True)
        self.sequences = area

    def _refuse_another(self, has: Sequences, area: Sequences) -> None:
        if (has.addr, has.length) != (area.addr, area.length):
            fail(errno.EINVAL)
        fail(errno.EBUSY if has.sig == area.sig else errno.EPERM)

    def _ground_of(self, area: Sequences) -> Vma:
        """Return where it lies."""
        space = self._space()
        vma = space.find(area.addr)
        if vma is None or vma.start > area.addr:
            fail(errno.EFAULT)
        if vma.file is not None or not vma.private:
            message = f"rseq: {area.addr:#x} must lie in private memory without a file"
            raise ArgumentError(message)
        return space.fault(area.addr, write=True)

    def _unregister(self, area: Sequences, flags: int) -> None:
        has = self.sequences
        if flags != _UNREGISTER or has is None or has[:2] != area[:2]:
            fail(errno.EINVAL)
        if has.sig != area.sig:
            fail(errno.EPERM)
        self.pages.table.set_rseq(0, registered=False)
        self.sequences = None
