"""Address spaces against an oracle that knows single pages only."""

from __future__ import annotations

import copy
from dataclasses import replace
from itertools import pairwise
from random import Random
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
from pyalloc.kernel.limits import Limits
from pyalloc.kernel.pages import NoPages
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


class Cutting(AddressSpace):
    """Unmaps the long way: what goes becomes areas of its own first."""

    def shortens(self, *_: object) -> bool:
        """No range does."""
        return False


class Listener(NoPages):
    """A page layer that remembers what it was told to drop."""

    def __init__(self) -> None:
        self.heard: list[tuple[int, ...]] = []

    def unmap(self, *told: int) -> None:
        """Write it down."""
        self.heard.append(told)


class FewPromises(FreeCommit):
    """An account that makes no more promises than there are pages."""

    pages = 1 << 40

    def charge(self, pages: int) -> bool:
        """Promise them, or not."""
        return self.committed + pages <= self.pages and super().charge(pages)


def _spaces(kernel: str, arch: str, most: int) -> list[tuple[AddressSpace, Listener, FewPromises]]:
    """Return two like spaces, of which the second unmaps the long way."""
    profile = kernel_profile(kernel, arch)
    made = []
    for kind in (AddressSpace, Cutting):
        heard, commit = Listener(), FewPromises()
        space = kind(profile, default_layout(profile), pages=heard, commit=commit)
        space.profile = replace(profile, max_map_count=len(space) + most)
        space.limits = Limits(address_space=(space.total_vm + 4 * most) * PAGE)
        commit.pages = commit.committed + 3 * most
        made.append((space, heard, commit))
    return made


def _calls(
    random: Random, space: AddressSpace, file: OpenFile
) -> list[tuple[str, tuple[Any, ...]]]:
    """Return one call of each kind somewhere, most of it near the heap and what is mapped."""

    def at() -> int:
        return BASE + random.randrange(PAGES) * PAGE

    def size() -> int:
        return random.randrange(1, 8) * PAGE

    anonymous = int(MAP.PRIVATE | MAP.ANONYMOUS)
    edge = random.choice([vma.start for vma in space] + [vma.end for vma in space])
    return [
        ("mmap", (at(), size(), random.choice([0, 1, 3]), anonymous | FIXED)),
        ("mmap", (at(), size(), 3, int(MAP.SHARED) | FIXED, file, 0)),
        ("mmap", (at(), size(), 3, int(MAP.SHARED | MAP.ANONYMOUS) | FIXED)),
        ("mmap", (0, size(), 3, anonymous)),
        ("munmap", (at(), size())),
        ("munmap", (max(edge - random.randrange(2) * PAGE, 0), size())),
        ("brk", (space.start_brk + random.randrange(9 * PAGE),)),
        ("mprotect", (at(), size(), random.choice([0, 1, 3]))),
        ("prepare", (at(),)),
    ]


def _outcome(space: AddressSpace, name: str, arguments: tuple[Any, ...]) -> int | None:
    """Make a call and return its result, or its errno as a negative number."""
    if name == "prepare":
        vma = space.at(*arguments)
        if vma is not None and not vma.file:
            space.areas.prepare_anon(vma)
        return None
    try:
        result: int = getattr(space, name)(*arguments)
    except OSError as refusal:
        return -(refusal.errno or 0)
    return result


def _state(space: AddressSpace) -> list[Any]:
    """Return all that a later call may depend on."""
    trees: dict[int, int] = {}
    areas = [
        (
            *(vma.start, vma.end, vma.flags, vma.pgoff, vma.name),
            vma.file and vma.file.inode.path,
            [trees.setdefault(id(tree), len(trees)) for tree in vma.chain],
            [(tree.active, tree.linked, tree.children) for tree in vma.chain],
        )
        for vma in space
    ]
    totals = {k: v for k, v in vars(space).items() if isinstance(v, int)}
    return [areas, totals, space.placement.full, space.placement.cache, space.placement.hole]


@pytest.mark.parametrize(("kernel", "arch"), [("6.18", "x86_64"), ("6.12", "i386")])
@pytest.mark.parametrize("most", [6, 12, 1000])
def test_an_area_made_shorter_is_as_if_it_had_been_cut(kernel: str, arch: str, most: int) -> None:
    """Areas, sums, trees, what the page layer hears and every errno are the long way's."""
    random = Random(most)  # noqa: S311 - no secret
    one, other = _spaces(kernel, arch, most)
    files = [OpenFile(Inode("/file", bytes_size=64 * PAGE), writable=True) for _ in range(2)]
    for _ in range(1000):
        choice, state = random.randrange(9), random.getstate()
        results = []
        for (space, _, _), file in zip((one, other), files, strict=True):
            random.setstate(state)
            name, arguments = _calls(random, space, file)[choice]
            results.append(_outcome(space, name, arguments))
        assert results[0] == results[1], name
        assert _state(one[0]) == _state(other[0]), name
        assert one[1].heard == other[1].heard
        assert one[2].committed == other[2].committed
        assert files[0].inode.areas == files[1].inode.areas
    one[0].check()


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
