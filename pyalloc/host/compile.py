"""Small C programs that come with the package as source, compiled when they are first needed.

A program is built for this machine by this machine's compiler and kept in a per-user cache, under
a name made of everything that decides it: source, flags and compiler.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import platform
import secrets
import shutil
import stat
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Final

from pyalloc.errors import ArgumentError, PyallocError

SOURCES: Final = Path(__file__).with_name("csrc")
FLAGS: Final = (
    "-O2",
    "-std=gnu11",
    "-fno-builtin",  # a malloc and its free must not be optimised away
    "-D_GNU_SOURCE",
    "-D_FILE_OFFSET_BITS=64",
    "-Wl,-z,now",
    "-pthread",
)
BARE: Final = (
    "-O1",
    "-std=gnu11",
    "-nostdlib",
    "-static",
    "-no-pie",
    "-fno-pic",
    "-fno-stack-protector",
    "-fomit-frame-pointer",
    "-fcf-protection=none",
    "-fno-asynchronous-unwind-tables",
)
"""For a program without a C library, whose memory is its own."""
COMPILERS: Final = ("cc", "gcc", "clang")
_REASON_LINES: Final = 5


class HostError(PyallocError, RuntimeError):
    """Something cannot be run or measured on this machine; the text says why and what to do."""


class CompilerMissing(HostError):
    """There is no C compiler, or it cannot build for the word size asked for."""


def compiler() -> Path:
    """Return the C compiler: ``$CC``, or the first of :data:`COMPILERS` in ``PATH``.

    Raises
    ------
    CompilerMissing
        There is none.
    """
    named = os.environ.get("CC")
    for name in (named,) if named else COMPILERS:
        if found := shutil.which(name):
            return Path(found).resolve()
    tried = f"$CC is {named!r}" if named else f"tried {', '.join(COMPILERS)}"
    message = (
        f"no C compiler found ({tried}); the real C library can only be watched by a small program "
        "built here: install gcc or clang, or set CC"
    )
    raise CompilerMissing(message)


def _is_private(folder: Path) -> bool:
    """Return whether nobody else can put a program into ``folder``."""
    status = folder.stat()
    return status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


@cache
def _temporary_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="pyalloc-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def cache_folder() -> Path:
    """Return the folder for compiled programs: ``pyalloc`` in ``$XDG_CACHE_HOME`` or ``~/.cache``.

    Where that cannot be made, or others may write to it, a folder for this process alone.
    """
    try:
        base = os.environ.get("XDG_CACHE_HOME")
        folder = (Path(base) if base else Path.home() / ".cache") / "pyalloc"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if _is_private(folder) and os.access(folder, os.W_OK | os.X_OK):
            return folder
    except (OSError, RuntimeError):  # RuntimeError: the user has no home
        pass
    return _temporary_folder()


def _identity(cc: Path, flags: tuple[str, ...], source: Path) -> str:
    headers = sorted(source.parent.glob("*.h"))
    text = b"\0".join(path.read_bytes() for path in (source, *headers))
    status = cc.stat()
    parts = [str(cc), str(status.st_mtime_ns), str(status.st_size), platform.machine(), *flags]
    return hashlib.sha256("\0".join(parts).encode() + b"\0" + text).hexdigest()[:24]


def _flags(word: int, *, bare: bool) -> tuple[str, ...]:
    if word not in (4, 8):
        message = f"word must be 4 or 8 bytes (got {word!r})"
        raise ArgumentError(message)
    own = 8 if platform.machine().endswith("64") else 4
    flags = BARE if bare else FLAGS
    return flags if word == own else (*flags, f"-m{8 * word}")


def _reason(cc: Path, text: str, word: int) -> str:
    lines = "\n".join(text.strip().splitlines()[:_REASON_LINES])
    message = f"{cc.name} cannot build a {8 * word}-bit program here:\n{lines}"
    if word == 4:
        message += "\nits 32-bit parts may be missing (gcc-multilib on Debian, glibc-devel.i686)"
    return message


def program(name: str, *, word: int = 8, bare: bool = False, flags: tuple[str, ...] = ()) -> Path:
    """Return the executable of ``csrc/NAME.c``, compiled if it was not already.

    Parameters
    ----------
    name
        Name of the source without ``.c``.
    word
        Bytes in a pointer: 8, or 4 for ``-m32``.
    bare
        It has no C library (:data:`BARE`).
    flags
        More flags for the compiler.

    Raises
    ------
    CompilerMissing
        There is no compiler, or none for that word size.
    """
    cc, flags = compiler(), (*_flags(word, bare=bare), *flags)
    source = SOURCES / f"{name}.c"
    target = cache_folder() / f"{name}-{_identity(cc, flags, source)}"
    if not target.exists():
        _build(cc, flags, source, target, word)
    return target


def _build(cc: Path, flags: tuple[str, ...], source: Path, target: Path, word: int) -> None:
    part = target.with_name(f"{target.name}.{secrets.token_hex(4)}.part")
    try:
        done = subprocess.run(  # noqa: S603
            [cc, *flags, source, "-o", part], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise CompilerMissing(_reason(cc, done.stderr, word))
        part.replace(target)  # in one step: another process may be doing the same
    finally:
        part.unlink(missing_ok=True)
