"""The system calls of a process.

Arguments are taken as registers take them: whole numbers of any size, negative ones in two's
complement, cut to the word of the process.  What the kernel refuses is :class:`OSError` with its
errno; what cannot be in a register at all is :class:`~pyalloc.errors.WrongType`.
"""

from __future__ import annotations

import errno
from operator import index
from typing import TYPE_CHECKING, Final

from pyalloc.arguments import registers
from pyalloc.kernel import mapping, protection, syncing
from pyalloc.kernel.abi import MADV, MAP, fail
from pyalloc.kernel.vma import AddressSpace
from pyalloc.machine.descriptors import FileCalls
from pyalloc.units import PAGE

if TYPE_CHECKING:
    from pyalloc.machine.heap import ProcessHeap

_ANONYMOUS: Final = int(MAP.ANONYMOUS)
_HUGEPAGE: Final = int(MADV.HUGEPAGE)
_OFFSET_32: Final = (1 << 44) - 1
"""What of an offset fits into the page number that a 32-bit program passes."""


class SystemCalls(FileCalls):
    """What a process asks the kernel for; the process itself is the subclass."""

    space: AddressSpace
    heap: ProcessHeap
    huge_advice: bool

    def _space(self) -> AddressSpace:
        """Return the address space, with what the heap has done since."""
        if not self.alive or self.machine.occupant is not None:
            self.require_alive()
        space, heap = self.space, self.heap
        if space.brk_value != heap.written_at or heap.heap.moved[0]:
            heap.sync()
        return space

    def _after(self, changed: int = 0) -> None:
        """Let time pass, and the heap and the machine know that areas may have changed.

        ``changed`` is an address below which none has.
        """
        machine, heap = self.machine, self.heap
        machine.ram.system_call()
        self.go_on()
        if changed < heap.far or heap.ground is not None:
            heap.lease()
        if machine.objects_changed:
            machine.drop_dead_objects()

    # --- mappings -----------------------------------------------------------------------

    def mmap(
        self, addr: int, length: int, prot: int, flags: int, fd: int = -1, offset: int = 0
    ) -> int:
        """Map memory and return its address, as ``mmap(2)``.

        Raises
        ------
        OSError
            With the kernel's errno: EBADF, EINVAL, ENOMEM, EOVERFLOW, EEXIST, EPERM, EAGAIN, EACCES
            or EOPNOTSUPP.
        """
        mask, space = self.mask, self._space()
        try:
            addr, length = index(addr) & mask, index(length) & mask
            prot, flags = index(prot) & mask, index(flags) & mask
            offset = index(offset) & (mask | _OFFSET_32)
        except TypeError:
            addr, length, prot, flags, offset = registers(
                mask, addr=addr, length=length, prot=prot, flags=flags, offset=offset
            )
        if type(fd) is not int:
            (fd,) = registers(-1, fd=fd)
        at, file = 0, None
        if not flags & _ANONYMOUS:
            if offset % PAGE:
                fail(errno.EINVAL)
            file = self._file(fd)
        try:
            at = mapping.mmap(space, addr, length, prot, flags, file, offset)
        finally:
            self._after(at)
        return at

    def munmap(self, addr: int, length: int) -> int:
        """Unmap a range and return 0, as ``munmap(2)``.

        Raises
        ------
        OSError
            With the kernel's errno: EINVAL or ENOMEM.
        """
        mask, space = self.mask, self._space()
        try:
            addr, length = index(addr) & mask, index(length) & mask
        except TypeError:
            addr, length = registers(mask, addr=addr, length=length)
        try:
            return space.munmap(addr, length)
        finally:
            self._after(addr)

    def mprotect(self, addr: int, length: int, prot: int) -> int:
        """Change the protection of a range and return 0, as ``mprotect(2)``.

        Raises
        ------
        OSError
            With the kernel's errno: EINVAL, ENOMEM or EACCES.
        """
        mask, space = self.mask, self._space()
        try:
            addr, length, prot = index(addr) & mask, index(length) & mask, index(prot) & mask
        except TypeError:
            addr, length, prot = registers(mask, addr=addr, length=length, prot=prot)
        try:
            return protection.mprotect(space, addr, length, prot)
        finally:
            self._after(addr)

    def mremap(self, addr: int, old: int, new: int, flags: int, new_addr: int = 0) -> int:
        """Resize or move a mapping and return its address, as ``mremap(2)``.

        Raises
        ------
        OSError
            With the kernel's errno: EINVAL, EFAULT, EAGAIN or ENOMEM.
        """
        mask, space = self.mask, self._space()
        try:
            addr, old, new = index(addr) & mask, index(old) & mask, index(new) & mask
            flags, new_addr = index(flags) & mask, index(new_addr) & mask
        except TypeError:
            addr, old, new, flags, new_addr = registers(
                mask, addr=addr, old=old, new=new, flags=flags, new_addr=new_addr
            )
        try:
            return space.mremap(addr, old, new, flags, new_addr)
        finally:
            self._after()

    def madvise(self, addr: int, length: int, advice: int) -> int:
        """Give advice and return 0, as ``madvise(2)``.

        Raises
        ------
        OSError
            With the kernel's errno: EINVAL, ENOMEM, EFAULT, EACCES, EAGAIN or EBADF.
        """
        mask, space = self.mask, self._space()
        try:
            addr, length, advice = index(addr) & mask, index(length) & mask, index(advice) & mask
        except TypeError:
            addr, length, advice = registers(mask, addr=addr, length=length, advice=advice)
        self.huge_advice |= advice == _HUGEPAGE
        try:
            return space.madvise(addr, length, advice)
        finally:
            self._after()

    # --- locking and writing back -------------------------------------------------------

    def mlock(self, addr: int, length: int, flags: int = 0) -> int:
        """Lock a range into memory and return 0, as ``mlock2(2)`` (MLOCK_ONFAULT is 1).

        Raises
        ------
        OSError
            With the kernel's errno: EPERM, EINVAL, ENOMEM or EAGAIN.
        """
        addr, length, flags = registers(self.mask, addr=addr, length=length, flags=flags)
        space = self._space()
        try:
            return space.mlock(addr, length, flags)
        finally:
            self._after()

    def munlock(self, addr: int, length: int) -> int:
        """Unlock a range and return 0, as ``munlock(2)``.

        Raises
        ------
        OSError
            With the kernel's errno: EINVAL or ENOMEM.
        """
        addr, length = registers(self.mask, addr=addr, length=length)
        space = self._space()
        try:
            return space.munlock(addr, length)
        finally:
            self._after()

    def mlockall(self, flags: int) -> int:
        """Lock everything (MCL_CURRENT 1, MCL_FUTURE 2) and return 0, as ``mlockall(2)``.

        Raises
        ------
        OSError
            With the kernel's errno: EINVAL, EPERM or ENOMEM.
        """
        (flags,) = registers(self.mask, flags=flags)
        space = self._space()
        try:
            return space.mlockall(flags)
        finally:
            self._after()

    def munlockall(self) -> int:
        """Unlock everything and return 0, as ``munlockall(2)``."""
        result = self._space().munlockall()
        self._after()
        return result

    def msync(self, addr: int, length: int, flags: int = 4) -> int:
        """Write mapped files' dirty pages back (MS_SYNC is 4) and return 0, as ``msync(2)``.

        Raises
        ------
        OSError
            With the kernel's errno: EINVAL, ENOMEM or EBUSY.
        """
        addr, length, flags = registers(self.mask, addr=addr, length=length, flags=flags)
        parts, error = syncing.msync(self._space(), addr, length, flags)
        for file, first, count in parts:
            self.machine.ram.clean_object(self.machine.object_of(file.inode), first, count)
        if error:
            fail(error)
        return 0

    # --- the break ----------------------------------------------------------------------

    def brk(self, addr: int) -> int:
        """Move the break and return it, as the raw system call: the old one is a refusal."""
        mask, space = self.mask, self._space()
        try:
            addr = index(addr) & mask
        except TypeError:
            (addr,) = registers(mask, addr=addr)
        brk = space.brk(addr)
        self.heap.moved_to(brk)
        self._after()
        return brk

    def sbrk(self, increment: int) -> int:
        """Move the break by ``increment`` bytes and return the old one, as ``sbrk(3)``.

        Below its start the break is not moved, which the library does not notice.

        Raises
        ------
        OSError
            ENOMEM: the break cannot go there.
        """
        (step,) = registers(self.mask, increment=increment)
        old = self._space().brk_value
        asked = (old + step) & self.mask
        wraps = (asked < old) != (step > self.mask >> 1)
        if step and (wraps or self.brk(asked) < asked):
            fail(errno.ENOMEM)
        return old
