"""heaptrack, raw and interpreted: one record a line, its kind first, numbers hexadecimal.

Raw files name pointers: ``+ SIZE TRACE POINTER`` and ``- POINTER``.  Interpreted files name an
*allocation info* (size and place): ``+ INFO`` and ``- INFO``, so which of several equal blocks is
given back is not known; the youngest is taken, and ``info.identity`` says ``"approximate"``.
Which function was called, its alignment and its thread are not in either.  Files that heaptrack
compressed (``.zst``, ``.gz``) must be unpacked first; ``.gz`` is unpacked here.
"""

from __future__ import annotations

import gzip
import re
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pyalloc.errors import TraceError
from pyalloc.trace.formats.events import Events
from pyalloc.trace.formats.text import Piece, pieces, separators
from pyalloc.trace.info import TraceInfo
from pyalloc.trace.ops import Op
from pyalloc.trace.sites import SiteTable

if TYPE_CHECKING:
    import numpy.typing as npt

    from pyalloc.trace.table import Trace

    I64 = npt.NDArray[np.int64]
    U64 = npt.NDArray[np.uint64]

NAME: Final = "heaptrack"

_ALLOC, _FREE, _FRAME, _TIME, _INFO = (ord(c) for c in "+-tca")
_WORDS: Final = tuple(ord(c) for c in "vxXmsi")
_IGNORED: Final = tuple(ord(c) for c in "IRAS#")
_HEAD: Final = re.compile(rb"v [0-9a-f]+ [0-9a-f]+\s")
_LAST_VERSION: Final = 3
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_GZIP: Final = b"\x1f\x8b"
_MS: Final = 1_000_000  # nanoseconds


def looks_like(head: bytes) -> bool:
    """Return whether a file that begins with ``head`` is of this format."""
    return bool(_HEAD.match(head)) or head.startswith((_GZIP, _ZSTD))


@dataclass(slots=True)
class _State:
    """What the lines so far have defined."""

    frames: list[U64] = field(default_factory=list)  # of each trace: its ip, or index of ip
    infos: list[tuple[U64, U64]] = field(default_factory=list)  # size and trace
    ips: list[tuple[int, int]] = field(default_factory=list)  # ip and module, when interpreted
    strings: list[str] = field(default_factory=lambda: [""])
    modules: list[tuple[int, int, str]] = field(default_factory=list)  # from, to, path
    command: tuple[str, ...] = ()
    executable: str = ""
    version: int = _LAST_VERSION
    time: int = 0
    interpreted: bool = False


def _sized(text: str) -> tuple[str, str]:
    """Take ``LENGTH STRING`` off the front of ``text``; lengths count bytes."""
    length, _, rest = text.partition(" ")
    raw = rest.encode("utf-8", "surrogateescape")
    size = int(length, 16)
    return raw[:size].decode("utf-8", "surrogateescape"), raw[size:].decode(
        "utf-8", "surrogateescape"
    ).strip()


def _module(rest: str, state: _State) -> None:
    path, words = _sized(rest) if state.version >= _LAST_VERSION else tuple(rest.split(" ", 1))
    if path == "-":
        state.modules.clear()
        return
    numbers = [int(word, 16) for word in words.split()]
    for at, size in zip(numbers[1::2], numbers[2::2], strict=False):
        where = state.executable if path == "x" else path
        state.modules.append((numbers[0] + at, numbers[0] + at + size, where))


def _read_word(kind: str, rest: str, state: _State) -> None:
    """Read one of the rare lines, by its first letter."""
    if kind == "v":
        state.version = int(rest.split()[1], 16)
        if state.version > _LAST_VERSION:
            message = f"file version {state.version} is later than {_LAST_VERSION}"
            raise ValueError(message)
    elif kind == "x":
        state.executable = _sized(rest)[0] if state.version >= _LAST_VERSION else rest
    elif kind == "X":
        state.command = tuple(rest.split())
    elif kind == "m":
        _module(rest, state)
    elif kind == "s":
        state.strings.append(_sized(rest)[0] if state.version >= _LAST_VERSION else rest)
    else:
        words = [int(word, 16) for word in rest.split()]
        state.ips.append((words[0], words[1] if len(words) > 1 else 0))
        state.interpreted = True


def _hex(piece: Piece, rows: I64, place: int) -> U64:
    piece.check(piece.count[rows] <= place, rows, "a number is missing")
    found = piece.hexadecimal(piece.first[rows] + place)
    piece.check(found.bad, rows, "not a hexadecimal number")
    return found.value


def _read_piece(piece: Piece, state: _State, events: Events) -> None:
    filled = np.flatnonzero(piece.count > 0)
    kind = np.zeros(len(piece), np.uint8)
    kind[filled] = piece.char(piece.first[filled])
    known = np.isin(kind, (0, _ALLOC, _FREE, _FRAME, _TIME, _INFO, *_WORDS, *_IGNORED))
    piece.check(~known, np.arange(len(piece)), "not a heaptrack record")
    for i in np.flatnonzero(np.isin(kind, _WORDS)).tolist():
        try:
            _read_word(chr(kind[i]), piece.line_text(i)[2:], state)
        except (ValueError, IndexError) as error:
            piece.fail(i, str(error))
    frames, infos = (np.flatnonzero(kind == letter) for letter in (_FRAME, _INFO))
    if len(frames):
        state.frames.append(_hex(piece, frames, 1))
    if len(infos):
        state.interpreted = True
        state.infos.append((_hex(piece, infos, 1), _hex(piece, infos, 2)))
    _read_events(piece, kind, state, events)


def _read_events(piece: Piece, kind: npt.NDArray[np.uint8], state: _State, events: Events) -> None:
    rows = np.flatnonzero((kind == _ALLOC) | (kind == _FREE))
    gives = kind[rows] == _ALLOC
    clock = np.flatnonzero(kind == _TIME)
    times = np.concatenate([[state.time], _hex(piece, clock, 1).astype(np.int64)])
    state.time = int(times[-1])
    time = times[np.searchsorted(clock, rows)] * _MS
    op = np.where(gives, int(Op.MALLOC), int(Op.FREE))
    if state.interpreted:
        events.add(op=op, time=time, size=_hex(piece, rows, 1))
        return
    columns = {name: np.zeros(len(rows), np.uint64) for name in ("size", "site", "ret", "old")}
    for place, name in enumerate(("size", "site", "ret"), 1):
        columns[name][gives] = _hex(piece, rows[gives], place)
    columns["old"][~gives] = _hex(piece, rows[~gives], 1)
    events.add(op=op, time=time, **columns)


def _resolve_infos(events: Events, state: _State, path: Path) -> Events:
    """Replace allocation infos by sizes and by pointers made up to pair the blocks."""
    op, info = events.column("op"), events.column("size").astype(np.int64)
    size = np.concatenate([np.zeros(0, np.uint64), *(a for a, _ in state.infos)])
    trace = np.concatenate([np.zeros(0, np.uint64), *(b for _, b in state.infos)])
    if len(info) and int(info.max()) >= len(size):
        message = f"{path}: damaged: allocation info {int(info.max()):x} is never defined"
        raise TraceError(message)
    gives = op == Op.MALLOC
    pointer = _pair(info, gives)
    result = Events()
    result.add(
        op=op,
        time=events.column("time"),
        size=np.where(gives, size[info], np.uint64(0)),
        site=np.where(gives, trace[info], np.uint64(0)),
        ret=np.where(gives, pointer, 0),
        old=np.where(gives, 0, pointer),
    )
    return result


def _pair(info: I64, gives: npt.NDArray[np.bool_]) -> I64:
    """Return a number for each row: a free has that of the youngest block of its info."""
    n = len(info)
    order = np.argsort(info, kind="stable")
    change = np.where(gives[order], 1, -1)
    depth = np.cumsum(change)
    start = np.ones(n, bool)
    start[1:] = info[order][1:] != info[order][:-1]
    base = np.maximum.accumulate(np.where(start, np.arange(n), 0)) if n else np.zeros(0, np.int64)
    depth -= (depth - change)[base]  # depth inside the info; a free closes depth + 1
    level = np.where(change > 0, depth, depth + 1)
    by_level = np.lexsort((np.arange(n), level, info[order]))
    rows = order[by_level]
    opens = np.where(gives[rows], np.arange(n), -1)
    opener = np.maximum.accumulate(opens) if n else opens
    pointer = np.empty(n, np.int64)
    pointer[rows] = (rows[np.maximum(opener, 0)] + 1) * 16
    return pointer


def _sites(events: Events, state: _State) -> tuple[SiteTable, npt.NDArray[np.uint32]]:
    """Return the call sites, and the column that indexes them."""
    trace = events.column("site").astype(np.int64)
    frames = np.concatenate([np.zeros(1, np.uint64), *state.frames])
    trace = np.where(trace < len(frames), trace, 0)
    used, index = np.unique(frames[trace], return_inverse=True)
    modules: dict[str, int] = {"": 0}
    module, offset = [0], [0]
    number = np.zeros(len(used), np.uint32)
    for i, ip in enumerate(used.tolist()):
        if ip == 0:
            continue
        path, at = _place(ip, state)
        number[i] = len(module)
        module.append(modules.setdefault(path, len(modules)))
        offset.append(at)
    table = SiteTable(tuple(modules), np.array(module, np.uint32), np.array(offset, np.uint64))
    return table, number[index]


def _place(ip: int, state: _State) -> tuple[str, int]:
    if state.interpreted:
        address, name = state.ips[ip - 1] if ip <= len(state.ips) else (0, 0)
        return (state.strings[name] if name < len(state.strings) else "", address)
    for low, high, path in reversed(state.modules):
        if low <= ip < high:
            base = min(start for start, _, other in state.modules if other == path)
            return path, ip - base
    return "", ip


def _parse(path: Path, shown: Path) -> Trace:
    state, events = _State(), Events()
    for piece in pieces(path, separators(b"")):
        piece.path = shown
        _read_piece(piece, state, events)
    if state.interpreted:
        events = _resolve_infos(events, state, shown)
    table, site = _sites(events, state)
    columns: dict[str, Any] = {n: events.column(n) for n in ("op", "size", "old", "ret", "time")}
    result = Events()
    result.add(**columns, site=site)
    info = TraceInfo(
        source=NAME,
        command=state.command,
        identity="approximate" if state.interpreted else "exact",
        sites=table,
    )
    return result.to_trace(info, addresses=not state.interpreted)


def read(path: Path) -> Trace:
    """Return the trace in ``path``."""
    with path.open("rb") as file:
        magic = file.read(4)
    if magic == _ZSTD:
        message = f"{path}: compressed with zstd: unpack it first (zstd -d {path.name})"
        raise TraceError(message)
    if not magic.startswith(_GZIP):
        return _parse(path, path)
    with tempfile.NamedTemporaryFile() as unpacked:
        try:
            with gzip.open(path) as packed:
                shutil.copyfileobj(packed, unpacked)
        except (EOFError, OSError) as error:
            message = f"{path}: damaged gzip file: {error}"
            raise TraceError(message) from None
        unpacked.flush()
        return _parse(Path(unpacked.name), path)
