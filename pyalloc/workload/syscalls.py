"""Random system calls on an address space, chosen so that they meet.

Calls that name addresses at random would nearly all miss; these aim at the areas there are, at
their ends and just beside them, and at lengths that end where areas end.  A *profile* says what a
sequence is about.

============  =====================================================================================
profile       what it makes most of
============  =====================================================================================
``dense``     small mappings at fixed places in 2 MB: merging and splitting
``free``      mappings wherever the kernel puts them, and hints
``mixed``     both, in sizes up to some MB
``limit``     the same under RLIMIT_AS and RLIMIT_DATA, which change
``lock``      mlock, mlockall, MAP_LOCKED, mostly without the right to ignore RLIMIT_MEMLOCK
``av``        writes and protections, page by page: who shares anonymous trees with whom
``fork``      children, and what they and their parent write afterwards
``big``       mappings of hundreds of MB in a 32-bit space, up to its end
``file``      private and shared mappings of files, msync, discarding
``cache``     the same while the files are read, written and cut by system calls
``huge``      mappings of 2 MB and their neighbours, MADV_HUGEPAGE, moves by whole tables
``stack``     MAP_GROWSDOWN, PROT_GROWSDOWN, the stack's growth, guard gaps and what stands in them
``heap``      the break, and mappings in its way
``remap``     mremap of all kinds, across areas of files and shared memory, in parents and children
``wild``      arguments no program would pass: lengths of 0 and 2^64 - 1, unaligned addresses
============  =====================================================================================
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

from pyalloc.kernel.abi import MADV, MAP, MREMAP, PROT, VM_GROWSDOWN, VM_PFNMAP, VM_SPECIAL
from pyalloc.kernel.area import Vma
from pyalloc.kernel.limits import INFINITY
from pyalloc.kernel.placement import HUGE
from pyalloc.kernel.vma import AddressSpace
from pyalloc.units import PAGE

ARENA: Final = 0x10000000
"""Where fixed mappings are put."""

RLIMITS: Final = ("address_space", "data", "stack", "memlock")
"""What the first argument of ``setrlimit`` counts; the second is the new limit."""

Weights = Mapping[str, float]


class SystemCall(NamedTuple):
    """One call: its name and its arguments; the offset of ``mmap`` is in bytes."""

    name: str
    args: tuple[int, ...]

    def __str__(self) -> str:
        shown = ", ".join(f"{arg:#x}" if abs(arg) > 9 else str(arg) for arg in self.args)
        return f"{self.name}({shown})"


class Ground(Protocol):
    """The process that calls are chosen for."""

    @property
    def space(self) -> AddressSpace:
        """Its address space, as it is now."""

    @property
    def descriptors(self) -> Sequence[int]:
        """Its open files."""

    def is_own(self, start: int, end: int) -> bool:
        """Whether a range holds memory that must not change, or the process would die."""


_CALLS: Final = {
    "mmap": 26.0, "munmap": 12, "mprotect": 16, "mremap": 14, "brk": 5, "madvise": 6, "touch": 24,
    "mlock": 0.6, "munlock": 0.4, "fork": 0.3,
}  # fmt: skip
_LENGTHS: Final = {"few": 60.0, "some": 30, "odd": 4, "huge": 3, "nothing": 1, "rest": 25}


_EXTRAS: Final[Mapping[int, float]] = {
    int(MAP.NORESERVE): 0.12,
    int(MAP.POPULATE): 0.05,
    int(MAP.GROWSDOWN): 0.04,
    int(MAP.STACK): 0.03,
    int(MAP.MAP_32BIT): 0.02,
    int(MAP.LOCKED): 0.005,
}
"""Further flags of mmap, and how often each is set."""

_ADVICE: Final[Weights] = {
    "DONTNEED": 12, "FREE": 3, "WILLNEED": 1, "NORMAL": 1, "RANDOM": 1, "SEQUENTIAL": 1,
    "REMOVE": 1, "DONTFORK": 2, "DOFORK": 2, "HUGEPAGE": 1, "NOHUGEPAGE": 1, "DONTDUMP": 1,
    "DODUMP": 1, "WIPEONFORK": 1, "KEEPONFORK": 1, "COLD": 1, "PAGEOUT": 0.3,
    "POPULATE_READ": 2, "POPULATE_WRITE": 2, "DONTNEED_LOCKED": 1, "GUARD_INSTALL": 1,
    "GUARD_REMOVE": 1, "COLLAPSE": 0.3,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Taste:
    """What a profile likes: weights of calls, of lengths, of advice, and shares."""

    calls: Weights = field(default_factory=lambda: _CALLS)
    lengths: Weights = field(default_factory=lambda: _LENGTHS)
    arena_pages: int = 512
    fixed: float = 0.5
    """Share of mappings that name their place."""
    hints: float = 0.1
    files: float = 0.2
    shared: float = 0.25
    flags: Mapping[int, float] = field(default_factory=lambda: _EXTRAS)
    advice: Weights = field(default_factory=lambda: _ADVICE)
    wild: float = 0.0
    """Share of arguments that are nonsense."""
    growing: float = 0.0
    """Share of touches below the stack."""
    at_break: float = 0.02
    """Share of addresses near the break."""
    at_guard: float = 0.01
    """Share of addresses in or near a guard gap."""
    grows_down: float = 0.02
    """Share of changes of protection with PROT_GROWSDOWN."""
    limits: tuple[str, ...] = ("address_space", "data", "stack")
    """The limits that ``setrlimit`` changes."""


def _calls(**changes: float) -> Weights:
    return {**_CALLS, **changes}


PROFILES: Final[Mapping[str, Taste]] = {
    "dense": Taste(fixed=0.9, files=0.15),
    "free": Taste(fixed=0.15, hints=0.35),
    "mixed": Taste(lengths={**_LENGTHS, "many": 25}, arena_pages=4096),
    "limit": Taste(calls=_calls(setrlimit=3), lengths={**_LENGTHS, "many": 20}, at_break=0.05),
    "lock": Taste(
        calls=_calls(
            mlock=14, munlock=9, mlock2=3, mlockall=2, munlockall=1.5, madvise=9, setrlimit=1
        ),
        flags={**_EXTRAS, int(MAP.LOCKED): 0.2},
        limits=("memlock",),
    ),
    "av": Taste(
        calls=_calls(mprotect=30, touch=45, fork=1.5, branch=1, reap=0.5),
        lengths={"few": 80, "rest": 25},
        arena_pages=48,
        fixed=0.9,
        files=0.05,
        shared=0.05,
    ),
    "fork": Taste(
        calls=_calls(fork=3, branch=8, reap=5, touch=50),
        lengths={"few": 70, "some": 15, "rest": 25},
        arena_pages=64,
        fixed=0.8,
    ),
    "big": Taste(lengths={"few": 20, "many": 20, "vast": 40, "rest": 20}, fixed=0.2, hints=0.2),
    "file": Taste(
        calls=_calls(msync=8, touch=50, madvise=14, branch=2, reap=2, fork=1),
        files=0.85,
        shared=0.5,
        arena_pages=256,
    ),
    "cache": Taste(
        calls=_calls(read=8, write=8, ftruncate=6, msync=5, touch=50, branch=2, reap=2, fork=1),
        files=0.85,
        shared=0.5,
        arena_pages=256,
    ),
    "huge": Taste(
        calls=_calls(touch=40, madvise=16, mremap=18, branch=2, reap=2, fork=1),
        lengths={"few": 10, "some": 10, "huge": 60, "odd": 3, "rest": 25},
        arena_pages=8192,
        fixed=0.4,
        files=0.05,
        advice={**_ADVICE, "HUGEPAGE": 25, "NOHUGEPAGE": 5},
    ),
    "stack": Taste(
        calls=_calls(touch=60, setrlimit=1),
        flags={**_EXTRAS, int(MAP.GROWSDOWN): 0.4},
        growing=0.3,
        files=0.05,
        shared=0.05,
        at_guard=0.2,
        grows_down=0.25,
        limits=("stack",),
    ),
    "heap": Taste(
        calls=_calls(brk=40, fork=1, mlockall=0.5, munlockall=0.5, setrlimit=1),
        at_break=0.4,
        files=0.1,
        shared=0.1,
        limits=("data", "address_space"),
    ),
    "remap": Taste(
        calls=_calls(mremap=50, touch=30, fork=1, branch=1, reap=1, mlock=1, munlock=1),
        arena_pages=128,
        fixed=0.8,
        files=0.5,
        shared=0.5,
    ),
    "wild": Taste(calls=_calls(msync=4, mlock2=2, mlockall=2, munlockall=1), wild=0.2),
}
"""What sequences can be about."""


def random_call(rng: random.Random, taste: Taste, ground: Ground) -> SystemCall:
    """Return a call that leaves the caller's own memory alone."""
    names = list(taste.calls)
    weights = list(taste.calls.values())
    while True:
        name = rng.choices(names, weights)[0]
        call = SystemCall(name, _CHOICES[name](_Choice(rng, taste, ground)))
        if _is_costly(call, ground.space):
            continue
        if not any(ground.is_own(start, end) for start, end in reached(call, ground.space)):
            return call


def _is_costly(call: SystemCall, space: AddressSpace) -> bool:
    """Return whether a call would have the kernel write to more pages than is worth the time."""
    name, args = call
    if name == "mlockall":
        return space.total_vm > _MOST_FILLED // PAGE
    if name == "mmap":
        fills = args[3] & (MAP.POPULATE | MAP.LOCKED) or space.lock_future
    elif name == "mremap":
        fills = 1
    else:
        fills = name in {"mlock", "mlock2"} or (name == "madvise" and args[2] in _FILLING)
    length = args[2] if name == "mremap" else args[1] if len(args) > 1 else 0
    return bool(fills) and _MOST_FILLED < length < 1 << 47


def reached(call: SystemCall, space: AddressSpace) -> list[tuple[int, int]]:
    """Return the ranges that a call may change, wide enough."""
    mask = (1 << (64 if space.profile.arch == "x86_64" else 32)) - 1
    name, args = call.name, [arg & mask for arg in call.args]
    if name in _ELSEWHERE or (name == "mmap" and not args[3] & _FIXED):
        return []
    if name == "touch":
        return [_touched(args[0], args[1] * PAGE, space)]
    if name == "mremap":
        target = [_range(args[4], args[2])] if args[3] & _TO_TARGET else []
        return [_range(args[0], max(args[1], args[2])), *target]
    if name == "mprotect" and args[2] & PROT.GROWSDOWN:
        vma = space.find(args[0])
        args[0] = min(args[0], vma.start if vma else args[0])
    return [_range(args[0], args[1])]


def _touched(addr: int, length: int, space: AddressSpace) -> tuple[int, int]:
    """Return the range of a touch: everything, where what is there depends on the processor."""
    areas = space.areas.covering(addr, addr + length)
    if any(vma.flags & VM_PFNMAP for vma in areas):
        return 0, 1 << 64
    return _range(addr, length)


_ELSEWHERE: Final = frozenset(
    {"brk", "fork", "branch", "reap", "mlockall", "munlockall", "msync", "setrlimit"}
    | {"read", "write", "ftruncate"}
)
"""Calls that change no range they name."""
_MOST_FILLED: Final = 256 << 20
_FILLING: Final = {MADV.POPULATE_READ, MADV.POPULATE_WRITE, MADV.COLLAPSE}
_FIXED: Final = int(MAP.FIXED | MAP.FIXED_NOREPLACE)
_TO_TARGET: Final = int(MREMAP.FIXED | MREMAP.DONTUNMAP)


def _range(addr: int, length: int) -> tuple[int, int]:
    return addr // PAGE * PAGE - PAGE, addr + length + 2 * PAGE


@dataclass(frozen=True, slots=True)
class _Choice:
    """The parts of one call, each drawn by taste."""

    rng: random.Random
    taste: Taste
    ground: Ground

    def areas(self) -> list[Vma]:
        """Return the areas that calls are aimed at."""
        space = self.ground.space
        return [
            vma
            for vma in space
            if not vma.flags & VM_SPECIAL and not self.ground.is_own(vma.start, vma.end)
        ]

    def address(self) -> int:
        kind = self.rng.random()
        if kind < self.taste.wild:
            return self.rng.choice(_WILD_ADDRESSES) + self.rng.choice([0, 0, 1, -1, PAGE])
        if kind > 1 - self.taste.at_break:
            distance = self.rng.choice([-2, -1, 0, 1, 1, 2, 5, 40])
            return (self.ground.space.brk_value // PAGE + distance) * PAGE
        if kind < self.taste.wild + self.taste.at_guard:
            return self.at_guard()
        areas = self.areas()
        if areas and self.rng.random() < 0.7:
            vma = self.rng.choice(areas)
            inside = min(vma.pages, 2000)
            page = self.rng.choice([0, 0, 0, 1, inside, self.rng.randrange(inside + 1)])
            return vma.start + page * PAGE
        return ARENA + self.rng.randrange(self.taste.arena_pages) * PAGE

    def at_guard(self) -> int:
        """Return a place below an area that grows down."""
        growing = [vma.start for vma in self.ground.space if vma.flags & VM_GROWSDOWN]
        distance = self.rng.choice([0, 1, 2, 8, 100, 254, 255, 256, 257, 258, 270])
        return max((self.rng.choice(growing) if growing else ARENA) - distance * PAGE, 0)

    def length(self, addr: int) -> int:
        if self.rng.random() < self.taste.wild:
            return self.rng.choice(_WILD_LENGTHS)
        lengths = self.taste.lengths
        kind = self.rng.choices(list(lengths), list(lengths.values()))[0]
        vma = self.ground.space.at(addr)
        if kind == "rest" and vma is not None:
            return vma.end - addr
        return _LENGTH_KINDS.get(kind, _LENGTH_KINDS["few"])(self.rng)

    def flag(self, flag: int, chance: float) -> int:
        return flag if self.rng.random() < chance else 0

    # --- calls ----------------------------------------------------------------------------

    def mmap(self) -> tuple[int, ...]:
        rng, taste = self.rng, self.taste
        kind = MAP.SHARED if rng.random() < taste.shared else MAP.PRIVATE
        flags = int(rng.choices([kind, MAP.SHARED_VALIDATE, 0], [96, 3, 1])[0])
        file = rng.random() < taste.files
        flags |= 0 if file else int(MAP.ANONYMOUS)
        addr = 0
        if rng.random() < taste.fixed:
            addr = self.address()
            flags |= int(rng.choices([MAP.FIXED, MAP.FIXED_NOREPLACE], [4, 1])[0])
        elif rng.random() < taste.hints:
            addr = self.address() + rng.choice([0, 0, 0, 1, 2048])
        for flag, chance in taste.flags.items():
            flags |= self.flag(flag, chance)
        prot = rng.choices(range(8), [10, 14, 4, 50, 4, 10, 2, 8])[0]
        if rng.random() < taste.wild:
            flags ^= 1 << rng.randrange(32)
            prot ^= 1 << rng.randrange(32)
        if flags & (MAP.NORESERVE | _FIXED):  # whether these succeed depends on vm.nr_hugepages
            flags &= ~int(MAP.HUGETLB)
        fd, offset = -1, 0
        if file:
            fd, offset = rng.choice(self.ground.descriptors), rng.randrange(72) * PAGE
            if rng.random() < taste.wild:
                offset = rng.choice(_WILD_LENGTHS)
        return addr, self.length(addr), prot, flags, fd, offset

    def mremap(self) -> tuple[int, ...]:
        rng = self.rng
        addr = self.address()
        flags = rng.choices([0, 1, 3, 7, 5, 2, 8], [20, 50, 30, 6, 4, 1, 1])[0]
        old = self.length(addr) if rng.random() > 0.05 else 0
        new = rng.choice([old, self.length(0), old + rng.randrange(1, 20) * PAGE])
        target = self.address() if flags & _TO_TARGET else 0
        if target and rng.random() < 0.3:  # as far into its table as the source
            target = target // HUGE * HUGE + addr % HUGE
        return addr, old, new, flags, target

    def brk(self) -> tuple[int, ...]:
        rng, space = self.rng, self.ground.space
        if rng.random() < self.taste.wild:
            return (rng.choice(_WILD_ADDRESSES),)
        step = rng.choice([PAGE, 100, 16 * PAGE, PAGE * rng.randrange(1, 100)])
        return (max(space.brk_value + rng.choice([1, 1, 1, -1]) * step, 0),)

    def range(self) -> tuple[int, int]:
        addr = self.address()
        return addr, self.length(addr)

    def mprotect(self) -> tuple[int, ...]:
        prot = self.rng.choice([0, 1, 3, 3, 3, 3, 5, 7])
        prot |= self.flag(int(PROT.GROWSDOWN), self.taste.grows_down)
        if self.rng.random() < self.taste.wild:
            prot ^= 1 << self.rng.randrange(32)
        return (*self.range(), prot)

    def madvise(self) -> tuple[int, ...]:
        advice = self.taste.advice
        name = self.rng.choices(list(advice), list(advice.values()))[0]
        number = self.rng.randrange(110) if self.rng.random() < self.taste.wild else MADV[name]
        return (*self.range(), int(number))

    def touch(self) -> tuple[int, ...]:
        rng = self.rng
        count, write = rng.choice([1, 1, 2, 3, 8, 40, 600]), rng.choice([1, 1, 0])
        if rng.random() < self.taste.growing:
            stack = self.ground.space.find(self.ground.space.start_stack)
            base = stack.start if stack else 0
            at = base + rng.choice([-1, -1, -2, -5, -40, -300, -2040]) * PAGE
            return at, min(count, 40), write
        return self.address(), count, write

    def msync(self) -> tuple[int, ...]:
        return (*self.range(), self.rng.choice([4, 4, 4, 1, 2, 6, 0, 5, 8]))

    def extent(self) -> tuple[int, ...]:
        """Choose a file, how much of it, and from where on."""
        rng = self.rng
        at = rng.choice([rng.randrange(72) * PAGE, rng.randrange(72 * PAGE)])
        return rng.choice(self.ground.descriptors), min(self.length(0), 80 * PAGE), at

    def ftruncate(self) -> tuple[int, ...]:
        fd, _, size = self.extent()
        return fd, size

    def mlock2(self) -> tuple[int, ...]:
        return (*self.range(), self.rng.choice([0, 1, 1, 1, 2]))

    def mlockall(self) -> tuple[int, ...]:
        return (self.rng.choice([1, 2, 2, 3, 4, 5, 6, 7, 0, 8]),)

    def setrlimit(self) -> tuple[int, ...]:
        """Choose a limit and a value around what is in use, or none."""
        rng, space = self.rng, self.ground.space
        name = rng.choice(self.taste.limits)
        stack = space.find(space.start_stack)
        used = {
            "address_space": space.total_vm * PAGE,
            "data": space.data_vm * PAGE,
            "stack": stack.end - stack.start if stack else 0,
            "memlock": space.locked_vm * PAGE,
        }[name]
        more = rng.choice([0, 1, PAGE, 8 * PAGE, 100 * PAGE, 5 << 20, -PAGE, -used])
        value = max(used + more, 0)
        if rng.random() < 0.25 and name != "memlock":  # of which the hard limit is seldom none
            value = INFINITY
        return RLIMITS.index(name), value


_CHOICES: Final[Mapping[str, Callable[[_Choice], tuple[int, ...]]]] = {
    "mmap": _Choice.mmap,
    "munmap": _Choice.range,
    "mprotect": _Choice.mprotect,
    "mremap": _Choice.mremap,
    "brk": _Choice.brk,
    "madvise": _Choice.madvise,
    "touch": _Choice.touch,
    "mlock": _Choice.range,
    "munlock": _Choice.range,
    "mlock2": _Choice.mlock2,
    "read": _Choice.extent,
    "write": _Choice.extent,
    "ftruncate": _Choice.ftruncate,
    "mlockall": _Choice.mlockall,
    "setrlimit": _Choice.setrlimit,
    "munlockall": lambda _: (),
    "msync": _Choice.msync,
    "fork": lambda _: (),
    "branch": lambda _: (),
    "reap": lambda _: (),
}

_LENGTH_KINDS: Final[Mapping[str, Callable[[random.Random], int]]] = {
    "few": lambda rng: rng.randrange(1, 9) * PAGE,
    "some": lambda rng: rng.randrange(1, 65) * PAGE,
    "many": lambda rng: rng.randrange(65, 4096) * PAGE,
    "odd": lambda rng: rng.randrange(1, 40000),
    "huge": lambda rng: rng.randrange(1, 4) * HUGE + rng.choice([0, 0, 0, PAGE, -PAGE]),
    "vast": lambda rng: (1 << rng.randrange(24, 31)) + rng.choice([0, PAGE, 77 * PAGE]),
    "nothing": lambda _: 0,
}
_WILD_LENGTHS: Final = (
    0, 1, PAGE - 1, PAGE + 1, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, (1 << 32) - PAGE, 1 << 32,
    (1 << 47) - PAGE, 1 << 47, 1 << 52, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, (1 << 64) - PAGE,
    (1 << 64) - PAGE + 1,
)  # fmt: skip
_WILD_ADDRESSES: Final = (
    *_WILD_LENGTHS, 0x8048000, ARENA, 0x7FFFFFFFE000, 0xC0000000, 0xFFFFE000, 0xFFFFFFFFFF600000,
)  # fmt: skip
