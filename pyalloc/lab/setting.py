"""A setting of the allocator: what is changed against the run as it was, and how to say so.

A setting speaks the environment's language, because that is what can be set without touching the
program; the simulated library reads it as the real one does (elf/dl-tunables.c and arena.c of
glibc), so that a line which a generation ignores is ignored here, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import log2
from typing import Final

from pyalloc.engine import Heap
from pyalloc.errors import ArgumentError
from pyalloc.machine.tunables import TUNABLES as TUNABLE_NAMES
from pyalloc.nearest import nearest
from pyalloc.units import parse_size

TUNABLES: Final = "GLIBC_TUNABLES"
_PREFIX: Final = "glibc.malloc."
_OTHERS: Final = ("allocator", "trim_calls", "trim_bytes")
_SIZES: Final = frozenset({"mmap_threshold", "trim_threshold", "top_pad", "tcache_max"})
_DEFAULTS: Final = {
    "mmap_threshold": 128 << 10,
    "trim_threshold": 128 << 10,
    "top_pad": 128 << 10,
    "tcache_count": 7,
    "mxfast": 128,
}
_VARIABLES: Final = {
    "mmap_threshold": "MALLOC_MMAP_THRESHOLD_",
    "trim_threshold": "MALLOC_TRIM_THRESHOLD_",
    "top_pad": "MALLOC_TOP_PAD_",
    "mmap_max": "MALLOC_MMAP_MAX_",
    "arena_max": "MALLOC_ARENA_MAX",
    "arena_test": "MALLOC_ARENA_TEST",
}
"""What a library before 2.26 reads in place of ``GLIBC_TUNABLES``."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A change of how a trace is allocated.

    Attributes
    ----------
    tunables
        Values by the names behind ``glibc.malloc.``.
    allocator
        Another allocator than the trace's; None is that one.
    trim_calls, trim_bytes
        ``malloc_trim(0)`` after so many calls, or so many bytes allocated; 0 is never.
    """

    tunables: tuple[tuple[str, int], ...] = ()
    allocator: str | None = None
    trim_calls: int = 0
    trim_bytes: int = 0
    name: str = field(init=False, compare=False, default="")

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", " ".join(self._words()) or "default")

    def _words(self) -> list[str]:
        words = [f"{name}={short_value(name, value)}" for name, value in self.tunables]
        if self.trim_calls:
            words.append(f"malloc_trim/{self.trim_calls:,} calls")
        if self.trim_bytes:
            words.append(f"malloc_trim/{short_size(self.trim_bytes)}B")
        if self.allocator:
            words.append(self.allocator)
        return words

    @property
    def is_default(self) -> bool:
        """Whether it changes nothing."""
        return self == Setting()

    @property
    def is_environment(self) -> bool:
        """Whether the environment alone can make it: the program and its library stay."""
        return not (self.allocator or self.trim_calls or self.trim_bytes)

    @property
    def distance(self) -> float:
        """How far its values are from the library's own, in powers of two: to choose by."""
        return sum(abs(log2(max(v, 1) / _DEFAULTS.get(n, 1 << 10))) for n, v in self.tunables)

    def joined(self, other: Setting) -> Setting:
        """Return both changes at once; ``other`` has the last word."""
        return Setting(
            tuple({**dict(self.tunables), **dict(other.tunables)}.items()),
            other.allocator or self.allocator,
            other.trim_calls or self.trim_calls,
            other.trim_bytes or self.trim_bytes,
        )

    def environment(self, base: Mapping[str, str], version: tuple[int, ...]) -> dict[str, str]:
        """Return the variables that steer malloc, ``base`` being those there are already."""
        env = dict(base)
        if version >= (2, 26):
            if self.tunables:
                env[TUNABLES] = _merged(env.get(TUNABLES, ""), self.tunables)
            return env
        for name, value in self.tunables:
            if name in _VARIABLES:
                env[_VARIABLES[name]] = str(value)
        return env

    def line(self, base: Mapping[str, str], version: tuple[int, ...]) -> str:
        """Return what to put in front of the command, or to do in its place."""
        env = self.environment(base, version)
        parts = [f"{name}={value}" for name, value in env.items() if base.get(name) != value]
        if self.trim_calls:
            parts.append(f"(call malloc_trim(0) every {self.trim_calls:,} malloc or free calls)")
        if self.trim_bytes:
            parts.append(f"(call malloc_trim(0) every {short_size(self.trim_bytes)}B allocated)")
        if self.allocator:
            parts.append(f"(run on {self.allocator})")
        return " ".join(parts)

    @classmethod
    def parse(cls, text: str) -> Setting:
        """Return the setting that ``text`` names: ``"mmap_threshold=64K arena_max=1"``.

        Words are ``NAME=VALUE`` (``glibc.malloc.`` may stand before the name), ``trim_calls=N``,
        ``trim_bytes=SIZE``, ``allocator=NAME`` or ``default``.
        """
        made = cls()
        for word in text.replace(":", " ").split():
            name, equals, value = word.partition("=")
            if word == "default":
                continue
            if not (equals and value):
                message = f"a setting is written NAME=VALUE (got {word!r})"
                raise ArgumentError(message)
            made = made.joined(_one(name.removeprefix(_PREFIX), value))
        return made


def _one(name: str, value: str) -> Setting:
    if name == "allocator":
        return Setting(allocator=value)
    if name not in (*TUNABLE_NAMES, *_OTHERS):
        message = f"there is no setting {name!r}{nearest(name, (*TUNABLE_NAMES, *_OTHERS))}"
        raise ArgumentError(message)
    number = parse_size(value, name)
    if name == "trim_calls":
        return Setting(trim_calls=number)
    if name == "trim_bytes":
        return Setting(trim_bytes=number)
    return Setting(((name, number),))


def _merged(text: str, tunables: tuple[tuple[str, int], ...]) -> str:
    """Return the text of GLIBC_TUNABLES with some of its values replaced or added."""
    pairs = dict(part.split("=", 1) for part in text.split(":") if "=" in part)
    pairs |= {_PREFIX + name: str(value) for name, value in tunables}
    return ":".join(f"{name}={value}" for name, value in pairs.items())


def short_size(size: int) -> str:
    """Return ``size`` as it can be written in a setting: ``128K``.

    >>> short_size(131072)
    '128K'
    """
    for unit in ("", "K", "M", "G"):
        if size % 1024 or not size:
            return f"{size}{unit}"
        size //= 1024
    return f"{size}T"


def short_value(name: str, value: int) -> str:
    """Return the value of a tunable, sizes in short."""
    return short_size(value) if name in _SIZES else str(value)


def version_of(allocator: str) -> tuple[int, ...]:
    """Return the version of a glibc as numbers; of other allocators ``()``.

    >>> version_of("glibc-2.43pre")
    (2, 43)
    """
    name, _, version = allocator.partition("-")
    if name != "glibc":
        return ()
    return tuple(int(part.removesuffix("pre")) for part in version.split("."))


def as_recorded(env: Mapping[str, str], base: Mapping[str, str]) -> dict[str, str]:
    """Return ``env`` with what steers malloc as it was in a recording, where ``base`` was set."""
    steers = {name for name in env if name == TUNABLES or name.startswith("MALLOC_")}
    return {name: value for name, value in env.items() if name not in steers} | dict(base)


def apply_environment(heap: Heap, env: Mapping[str, str]) -> None:
    """Let the library read its variables in its order; what it does not know it ignores."""
    for name in sorted(env, key=lambda name: (name != TUNABLES, name)):
        heap.environment(name, env[name])


def is_known(setting: Setting, allocator: str, word: int) -> bool:
    """Return whether the library takes every tunable of ``setting`` from its environment."""
    version = version_of(setting.allocator or allocator)
    for pair in setting.tunables:
        env = Setting((pair,)).environment({}, version)
        heap = Heap(setting.allocator or allocator, word, 1 << 24, 1)
        if not env or not all(heap.environment(name, text) for name, text in env.items()):
            return False
    return True
