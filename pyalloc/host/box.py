"""A small machine inside this one: a memory cgroup with RAM and swap of its own.

Needs root and the memory controller, of either version of cgroups.  Swap is a file made for the
purpose where the machine has less than is asked for, or what it has is not wanted.  All of it is
taken back at the end (:mod:`pyalloc.host.undo`).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
import struct
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from pyalloc.host.cgroups import memory_mount
from pyalloc.host.compile import HostError
from pyalloc.host.system import system
from pyalloc.host.undo import Undertaker
from pyalloc.units import PAGE, format_size

_HEADER: Final = struct.Struct("<III")
_HEADER_AT: Final = 1024
_MAGIC: Final = b"SWAPSPACE2"
_SPARE: Final = 64 << 20
_FIRST: Final = 0x8000 | 0x7FFF  # SWAP_FLAG_PREFER, and the highest priority there is
_FOLDERS: Final = ("/var/tmp", tempfile.gettempdir())  # noqa: S108 - a name of its own in it


@contextlib.contextmanager
def box(
    ram: int, swap: int, inner: Sequence[int | None] = (), *, own_swap: bool = False
) -> Iterator[Path]:
    """Make a memory cgroup of ``ram`` bytes of memory and ``swap`` bytes of swap.

    Yields the ``cgroup.procs`` file by which a process joins it.  Of the cgroups in it, which are
    called 0, 1 and so on, ``inner`` has the limits in bytes, None for none.  With ``own_swap``
    there is a swap file even where the machine has swap, and pages go there before anywhere else.

    Raises
    ------
    HostError
        It cannot be made here; the text says why.
    """
    require_root()
    with Undertaker() as undertaker:
        if own_swap or sum(area.size - area.used for area in system().swaps) < swap:
            _add_swap(swap, _FIRST if own_swap else 0, undertaker)
        yield _make_group(ram, swap, inner, undertaker)


def require_root() -> None:
    """Raise HostError unless this is root, who alone can make a box."""
    if os.geteuid() != 0:
        message = "only root can make a memory cgroup with limits"
        raise HostError(message)


# --- the cgroup ------------------------------------------------------------------------------


def _make_group(ram: int, swap: int, inner: Sequence[int | None], undertaker: Undertaker) -> Path:
    mount = memory_mount()
    if mount is None:
        message = "no memory controller of cgroups is mounted here"
        raise HostError(message)
    version, point = mount
    folder = point / f"pyalloc-{os.getpid()}"
    procs = folder / "cgroup.procs"
    undertaker.rmdir(str(folder))
    for number in range(len(inner)):
        undertaker.rmdir(str(folder / str(number)))
        undertaker.kill(str(folder / str(number) / "cgroup.procs"))
    undertaker.kill(str(procs))
    limits = {"memory.limit_in_bytes": ram, "memory.memsw.limit_in_bytes": ram + swap}
    if version == 2:
        limits = {"memory.max": ram, "memory.swap.max": swap}
    try:
        folder.mkdir()
        for name, value in limits.items():
            (folder / name).write_text(str(value), encoding="ascii")
        _divide(folder, version, inner)
    except OSError as error:
        message = (
            f"no memory cgroup with limits can be made here: {error.filename}: {error.strerror}"
        )
        raise HostError(message) from None
    return procs


def _divide(folder: Path, version: int, inner: Sequence[int | None]) -> None:
    """Make the cgroups inside one."""
    if inner and version == 2:
        (folder / "cgroup.subtree_control").write_text("+memory", encoding="ascii")
    for number, limit in enumerate(inner):
        (folder / str(number)).mkdir()
        if limit is not None:
            name = "memory.max" if version == 2 else "memory.limit_in_bytes"
            (folder / str(number) / name).write_text(str(limit), encoding="ascii")


# --- swap ------------------------------------------------------------------------------------


def _add_swap(size: int, flags: int, undertaker: Undertaker) -> None:
    """Swap to a new file of ``size`` bytes; ``flags`` are swapon(2)'s."""
    reasons = []
    for folder in dict.fromkeys(_FOLDERS):
        path = Path(folder) / f"pyalloc-swap-{os.getpid()}"
        undertaker.unlink(str(path))
        undertaker.swapoff(str(path))
        try:
            _make_swap_file(path, size)
            _swap_on(path, flags)
        except OSError as error:
            reasons.append(f"{path}: {error.strerror}")
            path.unlink(missing_ok=True)
        else:
            return
    message = f"no swap of {format_size(size)} can be added here: {'; '.join(reasons)}"
    raise HostError(message)


def _make_swap_file(path: Path, size: int) -> None:
    """Make a file as mkswap(8) does: the last bytes of the first page say what it is."""
    if shutil.disk_usage(path.parent).free < size + _SPARE:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    pages = size // PAGE + 1
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "r+b") as file:
        os.posix_fallocate(fd, 0, pages * PAGE)
        file.seek(_HEADER_AT)
        file.write(_HEADER.pack(1, pages - 1, 0))
        file.seek(PAGE - len(_MAGIC))
        file.write(_MAGIC)
        file.flush()
        os.fsync(fd)


def _swap_on(path: Path, flags: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.swapon(os.fsencode(path), flags) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
