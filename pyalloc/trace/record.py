"""Run a command and take down every call it makes to malloc and its family.

The recorder is a library for LD_PRELOAD (csrc/recorder).  It cannot be loaded into a program
without a dynamic loader, or into one that runs with more rights than its caller; those are refused
before anything runs.  There is one for 64 bits and, where the compiler can make it, one for 32; the
program's own loader chooses between them.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import errno
import importlib.util
import os
import shutil
import signal
import stat
import subprocess
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from pyalloc.errors import ArgumentError, RecordError
from pyalloc.kernel.elf import Headers, read_headers
from pyalloc.trace import files, spool

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pyalloc.trace.table import Trace

LIBRARIES: Final = {64: "_recorder.so", 32: "_recorder32.so"}
"""The recorder's files by word size in bits."""

_PLATFORMS: Final = {64: ("x86_64", "haswell", "xeon_phi"), 32: ("i386", "i486", "i586", "i686")}
"""What loaders put for ``$PLATFORM``: the kernel's AT_PLATFORM, or a name for the processor."""

_AT_PLATFORM: Final = 15
_ROOM: Final = 1 << 21  # bytes: header, first windows and texts of one process
_BYTES_A_ROW: Final = 24  # of a trace file, generously
_SCRIPTS: Final = 4  # interpreters of interpreters the kernel follows
_NOT_FOUND: Final = 127
_NOT_RUN: Final = 126


@dataclass(frozen=True, slots=True)
class Recording:
    """One recorded process image, and the file its trace is in.

    ``exit_code`` and ``signal`` are known of the command itself, not of its children.  ``main``
    marks the program the user asked for, ``running`` a process that outlives it and its recording.
    """

    path: Path
    pid: int
    parent_pid: int
    command: tuple[str, ...]
    calls: int
    main: bool
    forked: bool
    exit_code: int | None = None
    signal: int | None = None
    truncated: str | None = None
    running: bool = False
    warnings: tuple[str, ...] = ()

    def trace(self) -> Trace:
        """Return the trace."""
        return files.read_trace(self.path)


class CannotRun(RecordError):
    """The command cannot be started; ``exit_code`` is what a shell would return (127 or 126)."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


# --- before


def _find(command: str, path: str) -> Path:
    if "/" in command:
        candidates = [command]
    else:
        candidates = [os.path.join(folder or ".", command) for folder in path.split(":")]  # noqa: PTH118
    reason = errno.ENOENT
    for candidate in candidates:
        file = Path(candidate)
        try:
            is_directory = stat.S_ISDIR(file.stat().st_mode)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                reason = error.errno or errno.EACCES
            continue
        if is_directory or not os.access(file, os.X_OK):
            reason = errno.EACCES
            continue
        return file
    text = "command not found" if reason == errno.ENOENT else os.strerror(reason)
    if reason == errno.ENOENT and "/" in command:
        text = os.strerror(reason)
    message = f"{command}: {text}"
    raise CannotRun(message, _NOT_FOUND if reason == errno.ENOENT else _NOT_RUN)


def _interpreter(file: Path) -> Path:
    """Return the program that runs ``file``: itself, or what its ``#!`` line names."""
    for _ in range(_SCRIPTS):
        try:
            with file.open("rb") as stream:
                line = stream.readline(256)
        except OSError:
            return file  # may be run, not read: the kernel can judge it
        if not line.startswith(b"#!"):
            return file
        words = line[2:].split()
        if not words:
            return file
        file = _find(os.fsdecode(words[0]), "")
    return file


def _gains_rights(file: Path) -> str | None:
    status = file.stat()
    if status.st_mode & stat.S_ISUID and status.st_uid != os.geteuid():
        return "setuid"
    if (
        status.st_mode & stat.S_ISGID
        and status.st_mode & stat.S_IXGRP
        and status.st_gid != os.getegid()
    ):
        return "setgid"
    with contextlib.suppress(OSError):
        if os.geteuid() != 0 and os.getxattr(file, "security.capability"):
            return "privileged (file capabilities)"
    return None


def _check_recordable(file: Path) -> None:
    rights = _gains_rights(file)
    if rights:
        message = (
            f"{file}: cannot be recorded: it is {rights}, so the loader ignores LD_PRELOAD; "
            "record it as the user it runs as, or a copy without that bit"
        )
        raise RecordError(message)
    head = _headers(file)
    if head is None:
        return
    known = {bits: _headers(library) for bits, library in _libraries().items()}
    if head.bits == 32 and 32 not in known:
        message = (
            f"{file}: cannot be recorded: it is a 32-bit program, and this installation has no "
            "recorder for 32 bits; install a compiler that takes -m32, and pyalloc again"
        )
        raise RecordError(message)
    recorder = known.get(head.bits)
    if recorder is None or recorder.machine != head.machine:
        message = f"{file}: cannot be recorded: it is built for another processor"
        raise RecordError(message)
    _check_dynamic(file, head)


def _check_dynamic(file: Path, head: Headers) -> None:
    if file.resolve().name.startswith("ld-"):
        return  # the loader itself, which preloads for the program that it is told to run
    if head.interpreter is None:
        message = (
            f"{file}: cannot be recorded: it is statically linked, so nothing can be preloaded; "
            "link it dynamically (without -static)"
        )
        raise RecordError(message)
    if "musl" in head.interpreter:
        message = (
            f"{file}: cannot be recorded: it uses musl libc, and the recorder follows glibc; "
            "record a build for glibc"
        )
        raise RecordError(message)


def _headers(file: Path) -> Headers | None:
    """Return the headers of an ELF file; None if it is none, or not for us to judge."""
    try:
        return read_headers(file)
    except (OSError, ArgumentError):
        return None


def _libraries() -> dict[int, Path]:
    """Return the recorders there are, by word size in bits.

    Without a name for the platform a loader could not choose: then there is one.
    """
    spec = importlib.util.find_spec("pyalloc")
    places = [Path(place) for place in (spec and spec.submodule_search_locations) or ()]
    found = {
        bits: place / name
        for bits, name in LIBRARIES.items()
        for place in places
        if (place / name).is_file()
    }
    if _platform() not in _PLATFORMS[64]:
        found.pop(32, None)
    return found


def _platform() -> str | None:
    """Return what the kernel tells loaders the platform is called."""
    libc = ctypes.CDLL(None)
    libc.getauxval.restype = ctypes.c_ulong
    text = libc.getauxval(ctypes.c_ulong(_AT_PLATFORM))
    return ctypes.string_at(text).decode(errors="replace") if text else None


def _library() -> Path:
    found = _libraries()
    if 64 in found:
        return found[64]
    message = (
        f"the recorder ({LIBRARIES[64]}) is missing from this installation; install pyalloc again"
    )
    raise RecordError(message)


def _check_output(out: Path, *, force: bool) -> None:
    if out.is_dir():
        message = f"{out}: is a directory"
        raise RecordError(message)
    if out.exists() and not force:
        message = f"{out}: exists; choose another name, or force overwriting it"
        raise RecordError(message)


def _make_spool(out: Path) -> Path:
    try:
        place = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".spool", dir=out.parent))
    except OSError as error:
        message = f"{out}: cannot be written: {error.strerror}"
        raise RecordError(message) from None
    try:
        place.chmod(0o1777)  # a process that changes its user goes on recording
        probe = place / "probe"
        with probe.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, _ROOM)
        probe.unlink()
    except OSError as error:
        shutil.rmtree(place, ignore_errors=True)
        message = f"{out}: cannot record there: {error.strerror}"
        raise RecordError(message) from None
    return place.resolve()


# --- running


def _environment(
    env: Mapping[str, str] | None, place: Path, library: str, *, children: bool
) -> dict[str, str]:
    variables = dict(os.environ if env is None else env)
    before = variables.get("LD_PRELOAD", "")
    variables["LD_PRELOAD"] = f"{library}:{before}" if before else library
    variables["PYALLOC_SPOOL"] = ("+" if children else "-") + str(place)
    return variables


@contextlib.contextmanager
def _loadable(libraries: Mapping[int, Path]) -> Iterator[str]:
    """Yield one name of the recorders for LD_PRELOAD, without a blank or a colon in it.

    If there are two, it is one in which each program's loader replaces ``$PLATFORM``.
    """
    only = str(libraries[64])
    if len(libraries) == 1 and not set(only) & set(" :"):
        yield only
        return
    with tempfile.TemporaryDirectory(prefix="pyalloc-") as folder:
        Path(folder).chmod(0o755)  # a process that changes its user starts programs, too
        if len(libraries) == 1:
            (Path(folder) / "recorder.so").symlink_to(only)
            yield f"{folder}/recorder.so"
            return
        for bits, library in libraries.items():
            for platform in _PLATFORMS[bits]:
                (Path(folder) / f"{platform}.so").symlink_to(library)
        yield f"{folder}/$PLATFORM.so"


@contextlib.contextmanager
def _leave_interrupts_to_the_command() -> Iterator[None]:
    """Ignore Ctrl-C here while the command, which gets it too, decides what it means."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGQUIT)}
    try:
        for number in kept:
            signal.signal(number, signal.SIG_IGN)
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def _run(command: Sequence[str], file: Path, env: dict[str, str]) -> tuple[int, int]:
    """Run the command to its end; return its process number and its wait status."""
    # a path has lost its "./", and a bare name would be looked for in PATH
    program = str(file) if "/" in str(file) else f"./{file}"
    try:
        process = subprocess.Popen(list(command), executable=program, env=env)  # noqa: S603
    except OSError as error:
        message = f"{command[0]}: {error.strerror}"
        code = _NOT_FOUND if error.errno == errno.ENOENT else _NOT_RUN
        raise CannotRun(message, code) from None
    with _leave_interrupts_to_the_command():
        _, status = os.waitpid(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.pid, process.returncode


# --- after


def _name_of(out: Path, raw: spool.Raw) -> Path:
    pid, image = raw.name.split(".")
    part = pid if image == "0" else f"{pid}-{image}"
    return out.with_name(f"{out.stem}.{part}{out.suffix}")


def _main_of(family: dict[str, spool.Raw], pid: int) -> str | None:
    """Return the last program the first process turned into."""
    images = [raw for raw in family.values() if raw.header["pid"] == pid]
    return images[-1].name if images else None


def _warnings(raw: spool.Raw) -> tuple[str, ...]:
    found = []
    file = raw.foreign_malloc
    if file is not None and raw.calls:
        found.append(f"malloc is that of {file}, not glibc's: addresses and memory are its own")
    elif file is not None:
        found.append(
            f"{file} has a malloc of its own, which LD_PRELOAD cannot come before: "
            "none of its calls was recorded"
        )
    if raw.flags & spool.DISTURBED:
        found.append("the recorder's memory is among the program's: mapped addresses are shifted")
    return tuple(found)


def _still_runs(raw: spool.Raw, pid: int) -> bool:
    if raw.flags & (spool.FINISHED | spool.EXECED) or raw.header["pid"] == pid:
        return False
    try:
        os.kill(raw.header["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _finish(trace: Trace, raw: spool.Raw, pid: int, code: int | None) -> Trace:
    """Add what only the parent knows."""
    info = trace.info
    if code is not None:
        exit_code, died_of = (code, None) if code >= 0 else (None, -code)
        info = dataclasses.replace(info, exit_code=exit_code, signal=died_of)
    if info.truncated is None and _still_runs(raw, pid):
        info = dataclasses.replace(info, truncated="it was still running when the recording ended")
    return type(trace)(trace.columns, info)


def _write(
    trace: Trace, path: Path, raw: spool.Raw, family: dict[str, spool.Raw], *, force: bool
) -> None:
    """Write ``trace``; on a full disk, in the room of the raw recording it was made from."""
    try:
        trace.write(path, overwrite=force)
    except OSError as error:
        is_parent = any(child.parent == raw.name for child in family.values())
        room_needed = _BYTES_A_ROW * len(trace) + (1 << 16)
        if error.errno != errno.ENOSPC or is_parent or raw.bytes_on_disk < room_needed:
            raise
        raw.remove()
        trace.write(path, overwrite=force)


def _convert(
    family: dict[str, spool.Raw], out: Path, pid: int, code: int, *, force: bool
) -> list[Recording]:
    main = _main_of(family, pid)
    done = []
    for raw in family.values():
        is_main = raw.name == main
        if not is_main and raw.calls == 0:
            continue
        path = out if is_main else _name_of(out, raw)
        trace = _finish(spool.to_trace(raw, family), raw, pid, code if is_main else None)
        _write(trace, path, raw, family, force=force)
        done.append(
            Recording(
                path=path,
                pid=raw.header["pid"],
                parent_pid=raw.header["parent_pid"],
                command=raw.command,
                calls=len(trace) - trace.info.inherited_rows,
                main=is_main,
                forked=bool(raw.flags & spool.FORKED),
                exit_code=trace.info.exit_code,
                signal=trace.info.signal,
                truncated=trace.info.truncated,
                running=_still_runs(raw, pid),
                warnings=_warnings(raw),
            )
        )
    return sorted(done, key=lambda recording: not recording.main)


def record(
    command: Sequence[str],
    out: str | os.PathLike[str],
    env: Mapping[str, str] | None = None,
    *,
    children: Literal["all", "none"] = "all",
    force: bool = False,
) -> list[Recording]:
    """Run ``command`` with its input and output untouched, and write its trace to ``out``.

    Parameters
    ----------
    command
        Program and arguments; the program is looked up in ``PATH``.
    out
        The file for the trace of the command itself.  Each child process, and each program a
        process was before it became another, gets a file beside it with its process number in the
        name.
    env
        The environment of the command; this process's when not given.
    children
        ``"none"`` records only the command's own process.
    force
        Overwrite files that exist.

    Returns
    -------
    list of Recording
        The command's own first, then the others in the order in which they began.  A child that
        was forked begins with its parent's calls up to the fork, so that each file can be replayed
        by itself.

    Raises
    ------
    CannotRun
        The command does not exist or may not be run.
    RecordError
        The program cannot be recorded, or the trace cannot be written; the text says why.
    """
    if not command:
        message = "there is no command to record"
        raise ArgumentError(message)
    if children not in ("all", "none"):
        message = f"children must be 'all' or 'none' (got {children!r})"
        raise ArgumentError(message)
    target = Path(out)
    path = (os.environ if env is None else env).get("PATH", os.defpath)
    program = _find(command[0], path)
    _check_recordable(_interpreter(program))
    _check_output(target, force=force)
    place = _make_spool(target)
    try:
        _library()
        with _loadable(_libraries()) as library:
            variables = _environment(env, place, library, children=children == "all")
            pid, code = _run(command, program, variables)
        return _collect(place, target, command, pid, code, force=force)
    except BaseException as error:
        if not isinstance(error, _Keep):
            shutil.rmtree(place, ignore_errors=True)
        raise


class _Keep(RecordError):
    """The raw recording stays where it is."""


def _collect(
    place: Path, out: Path, command: Sequence[str], pid: int, code: int, *, force: bool
) -> list[Recording]:
    family = spool.load(place)
    if _main_of(family, pid) is None:
        message = (
            f"{command[0]}: nothing was recorded: it never called the C library's malloc, "
            "or its environment was changed on the way"
        )
        raise RecordError(message)
    try:
        found = _convert(family, out, pid, code, force=force)
    except OSError as error:
        message = f"{out}: {error.strerror}; the raw recording is kept in {place}"
        raise _Keep(message) from None
    shutil.rmtree(place, ignore_errors=True)
    return found
