"""Address spaces against an oracle that knows single pages only."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pyalloc.errors import EngineBug, MemoryFault
from pyalloc.kernel.abi import MADV, MAP, MREMAP, VM_ACCOUNT, VM_SHARED
from pyalloc.kernel.area import Vma
from pyalloc.kernel.files import FreeCommit, Inode, OpenFile
from pyalloc.kernel.layout import default_layout
from pyalloc.kernel.profiles import kernel_profile
from pyalloc.kernel.vma import AddressSpace

PAGE = 4096
BASE = 0x10000000
PAGES = 48
FIXED = int(MAP.FIXED)
pages = st.integers(0, PAGES - 1)
lengths = st.integers(1, 12)
prots = st.sampled_from([0, 1, 3, 5, 7])


class Promises(FreeCommit):
    """An account whose balance must be the sum of what is promised."""


class Oracle(RuleBasedStateMachine):
    """What is at each page: rights, sharing, object, page of the object."""

    kernel = "6.18"
    arch = "x86_64"

    def __init__(self) -> None:
        super().__init__()
        profile = kernel_profile(self.kernel, self.arch)
        self.commit = Promises()
        self.space = AddressSpace(profile, default_layout(profile), commit=self.commit)
        self.start_vm = self.space.total_vm
        self.file = OpenFile(Inode("/file", bytes_size=64 * PAGE), writable=True)
        self.at: dict[int, tuple[int, bool, Any, int]] = {}

    # --- calls --------------------------------------------------------------------------

    @rule(start=pages, count=lengths, prot=prots, shared=st.booleans(), index=st.integers(-1, 9))
    def map(self, start: int, count: int, prot: int, shared: bool, index: int) -> None:
        flags = FIXED | int(MAP.SHARED if shared else MAP.PRIVATE)
        file = self.file if index >= 0 else None
        flags |= 0 if file else int(MAP.ANONYMOUS)
        self.map_at(BASE + start * PAGE, count, prot, flags, index)

    @rule(count=lengths, prot=prots)
    def map_anywhere(self, count: int, prot: int) -> None:
        self.map_at(0, count, prot, int(MAP.PRIVATE | MAP.ANONYMOUS), -1)

    def map_at(self, addr: int, count: int, prot: int, flags: int, index: int) -> None:
        file = self.file if index >= 0 else None
        offset = max(index, 0) * PAGE
        found = self.space.mmap(addr, count * PAGE, prot, flags, file, offset)
        first = found // PAGE
        if not flags & FIXED:
            assert not any(page in self.at for page in range(first, first + count))
        shared = bool(flags & MAP.SHARED)
        thing: Any = "anon"
        if file:
            thing = file
        elif shared:
            area = self.space.at(found)
            assert area is not None
            thing = area.file
        for n in range(count):
            number = max(index, 0) + n if thing != "anon" else 0
            self.at[first + n] = (prot, shared, thing, number)

    @rule(start=pages, count=lengths)
    def unmap(self, start: int, count: int) -> None:
        self.space.munmap(BASE + start * PAGE, count * PAGE)
        for page in self.span(start, count):
            self.at.pop(page, None)

    @rule(start=pages, count=lengths, prot=prots)
    def protect(self, start: int, count: int, prot: int) -> None:
        addr = BASE + start * PAGE
        whole = all(page in self.at for page in self.span(start, count))
        if whole:
            self.space.mprotect(addr, count * PAGE, prot)
        else:
            with pytest.raises(OSError, match="memory"):
                self.space.mprotect(addr, count * PAGE, prot)
        for page in self.span(start, count):
            if page not in self.at:
                break
            self.at[page] = (prot, *self.at[page][1:])

    @rule(start=pages, count=lengths, to=pages)
    def move(self, start: int, count: int, to: int) -> None:
        old, new = BASE + start * PAGE, BASE + to * PAGE
        held = self.space.at(old)
        if abs(start - to) < count or held is None or held.end < old + count * PAGE:
            return
        flags = int(MREMAP.MAYMOVE | MREMAP.FIXED)
        assert self.space.mremap(old, count * PAGE, count * PAGE, flags, new) == new
        moved = [self.at.pop(page) for page in self.span(start, count)]
        self.at.update(zip(self.span(to, count), moved, strict=True))

    @rule(start=pages, more=lengths)
    def grow(self, start: int, more: int) -> None:
        addr = BASE + start * PAGE
        held = self.space.at(addr)
        if held is None:
            return
        old = (held.end - addr) // PAGE
        if any(page in self.at for page in self.span(start + old, more)):
            return
        assert self.space.mremap(addr, old * PAGE, (old + more) * PAGE, 0) == addr
        last = self.at[(addr // PAGE) + old - 1]
        for n, page in enumerate(self.span(start + old, more), 1):
            self.at[page] = (*last[:3], last[3] + n if last[2] != "anon" else 0)

    @rule(start=pages, write=st.booleans())
    def touch(self, start: int, write: bool) -> None:
        addr = BASE + start * PAGE
        page = self.at.get(addr // PAGE)
        allowed = page is not None and bool(page[0] & (2 if write else 7))
        signal = 0
        try:
            self.space.fault(addr, write)
        except MemoryFault as fault:
            signal = fault.signal
        assert allowed == (signal != 11)

    @rule(start=pages, count=lengths, advice=st.sampled_from([MADV.RANDOM, MADV.NORMAL]))
    def advise(self, start: int, count: int, advice: int) -> None:
        if all(page in self.at for page in self.span(start, count)):
            self.space.madvise(BASE + start * PAGE, count * PAGE, advice)

    @rule()
    def copy(self) -> None:
        self.space, self.commit, self.file, self.at = copy.deepcopy(
            (self.space, self.commit, self.file, self.at)
        )

    @staticmethod
    def span(start: int, count: int) -> range:
        return range(BASE // PAGE + start, BASE // PAGE + start + count)

    # --- what must hold -----------------------------------------------------------------

    def mine(self) -> list[Vma]:
        return [
            vma for vma in self.space if vma.end - 1 in range(BASE, 1 << 62) and self.is_ours(vma)
        ]

    def is_ours(self, vma: Vma) -> bool:
        return vma.name is None and not vma.start <= self.space.start_stack <= vma.end

    @invariant()
    def areas_show_the_pages(self) -> None:
        shown = {}
        for vma in self.mine():
            for n in range(vma.pages):
                thing = vma.file if vma.file is not None else "anon"
                number = vma.pgoff + n if vma.file is not None else 0
                shown[vma.start // PAGE + n] = (
                    vma.flags & 7,
                    bool(vma.flags & VM_SHARED),
                    thing,
                    number,
                )
        assert shown == self.at

    @invariant()
    def sums_are_right(self) -> None:
        self.space.check()
        assert self.space.total_vm == self.start_vm + len(self.at)
        promised = sum(vma.pages for vma in self.space if vma.flags & VM_ACCOUNT)
        objects = {vma.file.inode for vma in self.space if vma.file is not None}
        promised += sum(inode.charged for inode in objects)
        assert self.commit.committed == promised
        for inode in objects:
            assert inode.areas == sum(
                vma.file is not None and vma.file.inode is inode for vma in self.space
            )

    @precondition(lambda self: self.space.profile.modern)
    @invariant()
    def what_could_merge_is_merged(self) -> None:
        for left, right in pairwise(self.mine()):
            alike = (
                left.end == right.start
                and left.flags == right.flags
                and left.file is right.file
                and left.pgoff + left.pages == right.pgoff
            )
            one, other = left.anon_vma, right.anon_vma
            assert not alike or (one is not None and other is not None and one is not other)


class OracleOld(Oracle):
    """The same under 2.6.18."""

    kernel = "2.6.18"
    arch = "i386"


class OracleFirst(Oracle):
    """The same under 2.6.11."""

    kernel = "2.6.11"
    arch = "i386"


for machine in (Oracle, OracleOld, OracleFirst):
    machine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)

TestModern = Oracle.TestCase
TestOld = OracleOld.TestCase
TestFirst = OracleFirst.TestCase


def test_check_notices_a_wrong_sum() -> None:
    """The invariants are not empty words."""
    profile = kernel_profile("6.12")
    space = AddressSpace(profile, default_layout(profile))
    space.data_vm += 1
    with pytest.raises(EngineBug):
        space.check()


def test_check_notices_a_wrong_order() -> None:
    """Nor is the order of areas."""
    profile = kernel_profile("6.12")
    space = AddressSpace(profile, default_layout(profile))
    first, second = list(space.areas)[:2]
    first.end = second.end
    with pytest.raises(EngineBug):
        space.check()
