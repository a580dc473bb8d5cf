"""Live memory cgroups, version 1 and 2: how far the nearest limit is.

A process's memory is charged to its cgroup and to all above it, so the smallest room along that
path counts.

Sources: ``Documentation/admin-guide/cgroup-v2.rst`` and ``cgroup-v1/memory.rst`` of Linux 6.12.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, NamedTuple

from pyalloc.host import proc
from pyalloc.units import PAGE

_NO_LIMIT: Final = 1 << 62  # version 1 says LONG_MAX in whole pages


@dataclass(frozen=True, slots=True)
class CgroupLevel:
    """One memory cgroup of a path; bytes, None for no limit or for what is not told.

    ``swap_limit`` is the swap it may use: version 1's memory+swap limit less the memory limit.
    ``file`` is the page cache in ``usage``, most of which reclaim could drop; ``kills`` counts the
    OOM killer's victims.
    """

    version: Literal[1, 2]
    path: str
    folder: str
    usage: int
    limit: int | None
    swap: int | None
    swap_limit: int | None
    file: int | None
    kills: int | None
    swappiness: int | None = None

    @property
    def left(self) -> int | None:
        """Bytes up to its limit."""
        return None if self.limit is None else max(self.limit - self.usage, 0)

    def totalpages(self, total_swap: int) -> int:
        """Return what badness is measured against here; ``total_swap`` in pages."""
        swap = total_swap if self.swap_limit is None else min(self.swap_limit // PAGE, total_swap)
        if self.swappiness == 0:
            swap = 0
        return max((self.limit or 0) // PAGE + swap, 1)


class _Mount(NamedTuple):
    version: Literal[1, 2]
    root: str
    point: Path


def _mounts() -> Iterator[_Mount]:
    """Yield where memory cgroups can be read."""
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if kind[0] == "cgroup" and "memory" in kind[2].split(","):
            yield _Mount(1, fields[3], Path(fields[4]))
        elif kind[0] == "cgroup2":
            yield _Mount(2, fields[3], Path(fields[4]))


def memory_mount() -> tuple[int, Path] | None:
    """Return the version of memory cgroups here, and where their root is mounted."""
    for mount in sorted(_mounts()):
        if mount.version == 1 or "memory" in _controllers(mount.point):
            return mount.version, mount.point
    return None


def _controllers(folder: Path) -> list[str]:
    try:
        return (folder / "cgroup.subtree_control").read_text(encoding="ascii").split()
    except OSError:
        return []


def _paths(pid: proc.Pid) -> dict[int, str]:
    """Return the process's path in each version's hierarchy."""
    found: dict[int, str] = {}
    for line in proc.read(pid, "cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            found[2] = path
        elif "memory" in controllers.split(","):
            found[1] = path
    return found


def path_of(pid: proc.Pid = "self") -> str:
    """Return the path of the process's memory cgroup; ``/`` is the root.

    Raises
    ------
    NoSuchProcess
        It does not exist.
    """
    paths = _paths(pid)
    return paths.get(1) or paths.get(2) or "/"


def levels(pid: proc.Pid = "self") -> tuple[CgroupLevel, ...]:
    """Return the memory cgroups that the process is charged to, its own first.

    Those without the memory controller, and the root, which has no limit, are left out.

    Raises
    ------
    NoSuchProcess
        It does not exist.
    """
    paths = _paths(pid)
    for mount in sorted(_mounts()):
        path = paths.get(mount.version)
        if path is not None and (found := tuple(_levels(mount, path))):
            return found
    return ()


def _levels(mount: _Mount, path: str) -> Iterator[CgroupLevel]:
    inside = path.removeprefix(mount.root) if mount.root != "/" else path
    parts = [part for part in inside.split("/") if part and part != ".."]
    for length in range(len(parts), -1, -1):
        folder = mount.point.joinpath(*parts[:length])
        name = "/" + "/".join(parts[:length])
        with contextlib.suppress(OSError):
            yield _level_1(folder, name) if mount.version == 1 else _level_2(folder, name)


def _number(folder: Path, name: str) -> int | None:
    """Return the number in a file; None for ``max``, and where there is no such file."""
    try:
        text = (folder / name).read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.lstrip("-").isdecimal() else None


def _field(folder: Path, file: str, name: str) -> int | None:
    with contextlib.suppress(OSError):
        for line in (folder / file).read_text(encoding="ascii").splitlines():
            key, _, value = line.partition(" ")
            if key == name:
                return int(value)
    return None


def _limit(value: int | None) -> int | None:
    return None if value is None or value >= _NO_LIMIT else value


def _needed(folder: Path, name: str) -> int:
    return int((folder / name).read_text(encoding="ascii"))


def _level_1(folder: Path, path: str) -> CgroupLevel:
    usage = _needed(folder, "memory.usage_in_bytes")
    limit = _limit(_number(folder, "memory.limit_in_bytes"))
    both = _limit(_number(folder, "memory.memsw.limit_in_bytes"))
    both_used = _number(folder, "memory.memsw.usage_in_bytes")
    return CgroupLevel(
        version=1,
        path=path,
        folder=str(folder),
        usage=usage,
        limit=limit,
        swap=None if both_used is None else max(both_used - usage, 0),
        swap_limit=None if both is None or limit is None else max(both - limit, 0),
        file=_field(folder, "memory.stat", "total_cache"),
        kills=_field(folder, "memory.oom_control", "oom_kill"),
        swappiness=_number(folder, "memory.swappiness"),
    )


def _level_2(folder: Path, path: str) -> CgroupLevel:
    return CgroupLevel(
        version=2,
        path=path,
        folder=str(folder),
        usage=_needed(folder, "memory.current"),
        limit=_number(folder, "memory.max"),
        swap=_number(folder, "memory.swap.current"),
        swap_limit=_number(folder, "memory.swap.max"),
        file=_field(folder, "memory.stat", "file"),
        kills=_field(folder, "memory.events", "oom_kill"),
    )


def nearest(found: tuple[CgroupLevel, ...]) -> CgroupLevel | None:
    """Return the level with the least room up to its limit; None if none has a limit."""
    limited = [level for level in found if level.left is not None]
    return min(limited, key=lambda level: level.left or 0, default=None)
