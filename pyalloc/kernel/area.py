"""One virtual memory area: a range of pages with one set of rights on one object."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

from pyalloc.kernel import anon
from pyalloc.kernel.abi import VM_DONTEXPAND, VM_MAYSHARE, VM_SHARED, VM_SPECIAL
from pyalloc.kernel.anon import AnonVma
from pyalloc.kernel.files import OpenFile
from pyalloc.units import PAGE


@dataclass(eq=False, slots=True)
class Vma:
    """A ``vm_area_struct``: bytes from ``start`` up to ``end``, both page-aligned.

    ``flags`` are the kernel's VM flags and ``pgoff`` the page offset into ``file`` (or, for an
    anonymous area, the page number of its first address when it was mapped).  ``name`` is set for
    areas that the kernel names itself, such as ``[vdso]``.  ``prev`` and ``next`` are its
    neighbours in its list, ``block`` is where that keeps it.
    """

    start: int
    end: int
    flags: int
    pgoff: int
    file: OpenFile | None = None
    name: str | None = None
    anon_vma: AnonVma | None = None
    chain: tuple[AnonVma, ...] = ()
    prev: Vma | None = field(default=None, repr=False)
    next: Vma | None = field(default=None, repr=False)
    block: Any = field(default=None, repr=False)

    def __deepcopy__(self, memo: dict[int, Any]) -> Vma:
        """Return the twin, in no list yet; machines have many areas, and are copied often."""
        file = self.file
        if file is not None:
            file = memo.get(id(file)) or copy.deepcopy(file, memo)
        twin = Vma(self.start, self.end, self.flags, self.pgoff, file, self.name)
        memo[id(self)] = twin
        if self.anon_vma is not None:
            twin.anon_vma = anon.copied(self.anon_vma, memo)
            twin.chain = tuple([anon.copied(tree, memo) for tree in self.chain])
        return twin

    @property
    def pages(self) -> int:
        """Its length in pages."""
        return (self.end - self.start) // PAGE

    @property
    def private(self) -> bool:
        """Whether a write goes to a page of its own."""
        return not self.flags & VM_SHARED

    @property
    def anonymous(self) -> bool:
        """Whether it has no object behind it at all."""
        return self.file is None and not self.flags & VM_SPECIAL

    @property
    def kernels_own(self) -> bool:
        """Whether the kernel put it there and keeps it whole: [vdso] and the like."""
        return self.file is None and bool(self.flags & VM_DONTEXPAND)

    @property
    def permissions(self) -> str:
        """The four letters of ``/proc/PID/maps``."""
        flags = self.flags
        return (
            ("r" if flags & 1 else "-")
            + ("w" if flags & 2 else "-")
            + ("x" if flags & 4 else "-")
            + ("s" if flags & VM_MAYSHARE else "p")
        )

    @property
    def object_end(self) -> int:
        """The address where its object ends and SIGBUS begins; ``end`` if it does not."""
        if self.file is None:
            return self.end
        inside = self.file.inode.pages - self.pgoff
        return min(self.start + max(inside, 0) * PAGE, self.end)
