"""What a scenario says: one definition, from which validation, JSON Schema and the docs come.

Values are kept as they were written (``"256M"``, ``"5min"``), so that a scenario goes back into a
file as it came out of it; whoever runs it turns them into numbers.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field

SIZE, DURATION = "size", "duration"

_SIZE_PATTERN = r"\d+(\.\d+)?\s*[KMGTkmgt]?(i?[Bb])?"
SIZE_SCHEMA = {
    "anyOf": [
        {"type": "integer", "minimum": 0},
        {"type": "string", "pattern": rf"^\s*{_SIZE_PATTERN}\s*$"},
    ]
}
_LIMIT_SCHEMA = {
    "anyOf": [
        {"type": "integer", "minimum": 0},
        {"type": "string", "pattern": rf"^\s*(max|{_SIZE_PATTERN})\s*$"},
    ]
}
_TIME_PATTERN = r"\d+(\.\d+)?\s*(us|ms|s|min|h|d)\s*"
DURATION_SCHEMA = {
    "anyOf": [
        {"type": "number", "minimum": 0},
        {"type": "string", "pattern": rf"^\s*(\d+(\.\d+)?\s*|({_TIME_PATTERN})+)$"},
    ]
}

Size = Annotated[int | str, Meta(extra={"unit": SIZE}, extra_json_schema=SIZE_SCHEMA)]
"""Bytes, or text such as ``"256M"`` (K, M, G, T are powers of 1024)."""

Limit = Annotated[
    int | str, Meta(extra={"unit": SIZE, "words": ("max",)}, extra_json_schema=_LIMIT_SCHEMA)
]
"""A :data:`Size`, or ``"max"`` for no limit."""

Duration = Annotated[
    int | float | str, Meta(extra={"unit": DURATION}, extra_json_schema=DURATION_SCHEMA)
]
"""Seconds, or text such as ``"90s"``, ``"5min"``, ``"2h"``, ``"1d"``."""

Name = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[^\s/\[\]]+$")]
"""A word without spaces, slashes and brackets."""

_Count = Annotated[int, Meta(ge=1)]


class Spec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of a scenario: immutable, its keys by name, no others."""


class MachineSpec(Spec, frozen=True, kw_only=True):
    """The machine; the keys are the arguments of :class:`pyalloc.Machine`."""

    ram: Annotated[Size, Meta(description="Memory of the machine.")] = "4G"
    swap: Annotated[Size, Meta(description="Swap space.")] = 0
    reserved: Annotated[
        Size, Meta(description="RAM that the kernel and everybody else hold, beyond reclaim.")
    ] = 0
    kernel: Annotated[
        Literal["2.6.11", "2.6.18", "6.12", "6.18"], Meta(description="The kernel generation.")
    ] = "6.18"
    arch: Annotated[
        Literal["i386", "i386-compat", "i386-pae", "i386-4g4g", "x86_64"],
        Meta(description="The architecture."),
    ] = "x86_64"
    cpus: Annotated[
        _Count, Meta(description="Processors; an allocator limits its arenas by them.")
    ] = 2
    overcommit_memory: Annotated[
        Literal[0, 1, 2],
        Meta(description="vm.overcommit_memory: 0 refuses the absurd, 1 nothing, 2 is strict."),
    ] = 0
    overcommit_ratio: Annotated[
        int, Meta(ge=0, description="vm.overcommit_ratio, percent of RAM in mode 2.")
    ] = 50
    overcommit_kbytes: Annotated[
        int, Meta(ge=0, description="vm.overcommit_kbytes; beats the ratio unless 0.")
    ] = 0
    admin_reserve_kbytes: Annotated[
        Annotated[int, Meta(ge=0)] | None,
        Meta(
            description="vm.admin_reserve_kbytes, kept for root in mode 2; by default 1/32 of RAM,"
            " at most 8 MB."
        ),
    ] = None
    user_reserve_kbytes: Annotated[
        Annotated[int, Meta(ge=0)] | None,
        Meta(
            description="vm.user_reserve_kbytes, kept for a user's shell in mode 2; by default 1/32"
            " of RAM, at most 128 MB."
        ),
    ] = None
    swappiness: Annotated[int, Meta(ge=0, le=200, description="vm.swappiness.")] = 60
    page_cluster: Annotated[
        int, Meta(ge=0, le=10, description="vm.page-cluster: swap is read 2 to its power pages.")
    ] = 3
    huge_pages: Annotated[
        bool, Meta(description="Whether madvise(MADV_HUGEPAGE) gets transparent huge pages.")
    ] = True
    disk: Annotated[
        Literal["virtio", "ssd", "hdd", "none"] | None,
        Meta(
            description="What time swap and files take: by default virtio (an ssd that says it"
            " rotates) for 6.18, ssd for 6.12 and hdd for 2.6; none: nothing takes time."
        ),
    ] = None
    read_ahead: Annotated[
        Size | None,
        Meta(
            description="How much of a file is read ahead at most: by default 8M for 6.18 and a"
            " disk that rotates, 1M for 6.12 and 128K for others."
        ),
    ] = None
    sysctl: Annotated[
        dict[str, int],
        Meta(description='More sysctls by name, such as { "vm.panic_on_oom" = 1 }.'),
    ] = {}
    oom_policy: Annotated[
        str, Meta(description="Who chooses the victim; by default the kernel itself.")
    ] = ""


class CgroupSpec(Spec, frozen=True, kw_only=True):
    """A memory cgroup; limits count page tables, too."""

    name: Annotated[Name, Meta(description="Its name, by which others refer to it.")]
    parent: Annotated[str, Meta(description="The cgroup it lies in; none: the root.")] = ""
    memory_max: Annotated[Limit, Meta(description="memory.max.")] = "max"
    memory_high: Annotated[
        Limit,
        Meta(description="memory.high: beyond it whoever takes pages must reclaim, and wait."),
    ] = "max"
    swap_max: Annotated[Limit, Meta(description="memory.swap.max.")] = "max"
    oom_group: Annotated[
        bool, Meta(description="memory.oom.group: whether the OOM killer ends all of it at once.")
    ] = False


class FileSpec(Spec, frozen=True, kw_only=True):
    """A file that programs read, write and map."""

    name: Annotated[Name, Meta(description="Its name, by which programs refer to it.")]
    size: Annotated[Size, Meta(description="Its length.")] = 0
    cached: Annotated[
        bool, Meta(description="Whether all of it is in the page cache to begin with.")
    ] = False
    tmpfs: Annotated[bool, Meta(description="Whether it lives in memory and swap only.")] = False


class ProcessSpec(Spec, frozen=True, kw_only=True):
    """A process, or several alike."""

    name: Annotated[Name, Meta(description="Its name; copies get -1, -2 ... behind it.")]
    program: Annotated[
        Any,
        Meta(
            description="What it does: NAME, NAME:KEY=VALUE,... or a table of name (or trace, or"
            " python) and parameters."
        ),
    ]
    start: Annotated[Duration, Meta(description="When it starts.")] = 0
    stop: Annotated[
        Duration | None, Meta(description="When it gets SIGTERM; by default never.")
    ] = None
    copies: Annotated[_Count, Meta(description="How many of them.")] = 1
    every: Annotated[Duration, Meta(description="Time from one copy's start to the next's.")] = 0
    restart: Annotated[
        Literal["never", "on-failure", "always"],
        Meta(description="Whether it is started again when it ends, or when it ends badly."),
    ] = "never"
    restart_delay: Annotated[Duration, Meta(description="Time before it is started again.")] = "1s"
    restart_limit: Annotated[int, Meta(ge=0, description="How often it is started again.")] = 10
    cgroup: Annotated[str, Meta(description="The cgroup it belongs to; none: the root.")] = ""
    uid: Annotated[int, Meta(ge=0, description="Its user; 0 is root.")] = 1000
    nice: Annotated[int, Meta(ge=-20, le=19, description="Its niceness.")] = 0
    oom_score_adj: Annotated[
        int, Meta(ge=-1000, le=1000, description="What the OOM killer of 6.x adds to its score.")
    ] = 0
    oom_adj: Annotated[
        int, Meta(ge=-17, le=15, description="What the OOM killer of 2.6 shifts its score by.")
    ] = 0
    allocator: Annotated[
        str, Meta(description="The allocator; by default the C library of the kernel's time.")
    ] = ""
    tunables: Annotated[
        dict[str, int | str], Meta(description="Allocator settings by their glibc names.")
    ] = field(default_factory=dict)
    rlimit_as: Annotated[
        Limit, Meta(description="RLIMIT_AS, what ulimit -v sets: its address space.")
    ] = "max"
    rlimit_data: Annotated[Limit, Meta(description="RLIMIT_DATA, what ulimit -d sets.")] = "max"
    rlimit_stack: Annotated[Limit, Meta(description="RLIMIT_STACK, what ulimit -s sets.")] = "8M"
    rlimit_memlock: Annotated[
        Limit, Meta(description="RLIMIT_MEMLOCK, what ulimit -l sets; root needs none.")
    ] = "8M"
    layout: Annotated[
        Literal["small", "prelinked"],
        Meta(description="Its address space: a small static program, or the article's (i386)."),
    ] = "small"
    maps: Annotated[
        str, Meta(description="A file with the text of a /proc/PID/maps, in place of a layout.")
    ] = ""
    brk: Annotated[
        Annotated[int, Meta(ge=0)] | None, Meta(description="The break that belongs to maps.")
    ] = None


class ChangeSpec(Spec, frozen=True, kw_only=True):
    """Something an administrator does while the scenario runs."""

    at: Annotated[Duration, Meta(description="When.")]
    cgroup: Annotated[str, Meta(description="The cgroup whose limits change.")] = ""
    memory_max: Annotated[Limit | None, Meta(description="Its new memory.max.")] = None
    memory_high: Annotated[Limit | None, Meta(description="Its new memory.high.")] = None
    swap_max: Annotated[Limit | None, Meta(description="Its new memory.swap.max.")] = None
    process: Annotated[str, Meta(description="The process, all its copies, that it is about.")] = ""
    oom_score_adj: Annotated[
        Annotated[int, Meta(ge=-1000, le=1000)] | None, Meta(description="Its new oom_score_adj.")
    ] = None
    signal: Annotated[
        Literal["", "SIGTERM", "SIGKILL"], Meta(description="What ends the process.")
    ] = ""


class ExpectSpec(Spec, frozen=True, kw_only=True):
    """What should come of it, each a list of processes; if it does not, the answer is no."""

    survive: Annotated[
        tuple[str, ...], Meta(description="Never killed, and none of their requests refused.")
    ] = ()
    killed: Annotated[
        tuple[str, ...], Meta(description="Killed by the OOM killer, a copy of them at least.")
    ] = ()
    refused: Annotated[tuple[str, ...], Meta(description="Met NULL, a copy of them at least.")] = ()
