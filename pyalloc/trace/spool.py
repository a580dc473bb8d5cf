"""From the recorder's raw files to traces (csrc/recorder/spool.h has the layout)."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from pyalloc.errors import TraceError
from pyalloc.kernel.maps import Area, whole_areas
from pyalloc.trace.blocks import assign_blocks
from pyalloc.trace.info import Measured, Samples, TraceInfo, bytes_in, heap_rss_in
from pyalloc.trace.ops import ALIGNS, ALLOCATES, Op
from pyalloc.trace.sites import SiteTable
from pyalloc.trace.table import Trace

if TYPE_CHECKING:
    from pathlib import Path

    I64 = npt.NDArray[np.int64]
    U64 = npt.NDArray[np.uint64]

MAGIC: Final = b"PYALLOC\x01"
VERSION: Final = 3
RING_HEADER: Final = 4096

RECORD: Final = np.dtype(
    [
        ("time", "<u8"),
        ("site", "<u8"),
        ("size", "<u8"),
        ("arg", "<u8"),
        ("ret", "<u8"),
        ("thread", "<u4"),
        ("op", "u1"),
        ("state", "u1"),
        ("spare", "<u2"),
    ]
)
HEADER: Final = np.dtype(
    [
        ("magic", "S8"),
        ("version", "<u4"),
        ("record_size", "<u4"),
        ("pid", "<u4"),
        ("parent_pid", "<u4"),
        ("flags", "<u4"),
        ("error", "<u4"),
        ("cpus", "<u4"),
        ("page_size", "<u4"),
        ("start_ns", "<u8"),
        ("brk_start", "<u8"),
        ("first", "<u8"),
        ("flushed", "<u8"),
        ("next", "<u8"),
        ("inherited", "<u8"),
        ("own_pages", "<u8"),
        ("own_anon", "<u8"),
        ("parent", "S64"),
        ("glibc", "S16"),
        ("word", "<u8"),
    ]
)
BLOB: Final = np.dtype([("tag", "S4"), ("serial", "<u4"), ("row", "<u8"), ("size", "<u8")])

FINISHED: Final = 1
EXECED: Final = 2
FORKED: Final = 4
TRUNCATED: Final = 8
DISTURBED: Final = 16
FOREIGN: Final = 32
PASSED_BY: Final = 64

_SUFFIXES: Final = (".ring", ".raw", ".aux")

SAMPLE: Final = 128
DONE: Final = 2

_ALLOCATES: Final = np.isin(np.arange(256), sorted(ALLOCATES))
_HAS_ARG: Final = np.isin(np.arange(256), [*ALIGNS, Op.MALLOPT])  # elsewhere it is a pointer


@dataclass(frozen=True, slots=True)
class Text:
    """One text the recorder took down, and how many records had been begun by then."""

    tag: str
    row: int
    data: bytes


class Raw:
    """One raw recording: ``NAME.ring`` and its companions, of one process image.

    Raises
    ------
    TraceError
        The file is not a raw recording, or of a later version.
    """

    def __init__(self, directory: Path, name: str) -> None:
        self.name = name
        self.path = directory / f"{name}.ring"
        head = np.fromfile(self.path, HEADER, 1)
        if head.size == 0 or bytes(head["magic"][0]) != MAGIC:
            message = f"{self.path}: the process ended before its recording began"
            raise TraceError(message)
        if int(head["version"][0]) != VERSION or int(head["record_size"][0]) != RECORD.itemsize:
            message = f"{self.path}: written by another version of the recorder"
            raise TraceError(message)
        self.header: dict[str, Any] = {
            field: head[field][0].item() for field in HEADER.names or () if field != "magic"
        }
        self.texts = _read_texts(directory / f"{name}.aux")

    @cached_property
    def records(self) -> npt.NDArray[Any]:
        """The records that were begun."""
        head = self.header
        ring = np.fromfile(
            self.path, RECORD, max(head["next"] - head["first"], 0), offset=RING_HEADER
        )
        kept = ring[max(head["flushed"] - head["first"], 0) :]
        if head["flushed"] == 0:
            return kept
        file = self.path.with_suffix(".raw")
        flushed = np.memmap(file, RECORD, "r", shape=(head["flushed"],))
        return np.concatenate([flushed, kept])

    @property
    def bytes_on_disk(self) -> int:
        """Size of its files."""
        return sum(file.stat().st_size for file in self._files())

    def remove(self) -> None:
        """Delete its files."""
        for file in self._files():
            file.unlink()

    def _files(self) -> list[Path]:
        return [f for f in (self.path.with_suffix(s) for s in _SUFFIXES) if f.exists()]

    @property
    def flags(self) -> int:
        """FINISHED, EXECED, ..."""
        return int(self.header["flags"])

    @property
    def calls(self) -> int:
        """Calls this process image made itself."""
        return int((self.records["op"] < SAMPLE).sum())

    def text(self, tag: str) -> str | None:
        """Return the last text of that kind."""
        found = [text.data for text in self.texts if text.tag == tag]
        return found[-1].decode(errors="surrogateescape") if found else None

    @property
    def command(self) -> tuple[str, ...]:
        """The command line."""
        return tuple((self.text("CMDL") or "").rstrip("\0").split("\0"))

    @property
    def arch(self) -> str:
        """Architecture of the program: the host's, or its 32-bit half."""
        return "i386" if self.header["word"] == 4 else os.uname().machine

    @property
    def foreign_malloc(self) -> str | None:
        """File of the malloc that served the program, if it was not glibc's.

        One in the program's own file may hand its calls on to the recorder; only if none came is
        it known to serve them by itself.
        """
        if self.flags & FOREIGN or (self.flags & PASSED_BY and not self.calls):
            return self.text("MLIB")
        return None

    @property
    def parent(self) -> str | None:
        """Name of the recording this process was forked from."""
        return self.header["parent"].decode() if self.flags & FORKED else None


def _read_texts(path: Path) -> list[Text]:
    data = path.read_bytes() if path.exists() else b""
    pieces: dict[tuple[str, int, int], list[bytes]] = {}
    at = 0
    while at + BLOB.itemsize <= len(data):
        blob = np.frombuffer(data, BLOB, 1, at)[0]
        at += BLOB.itemsize
        key = (blob["tag"].decode("ascii", "replace"), int(blob["serial"]), int(blob["row"]))
        pieces.setdefault(key, []).append(data[at : at + int(blob["size"])])
        at += int(blob["size"])
    return [Text(tag, row, b"".join(parts)) for (tag, _, row), parts in pieces.items()]


# --- call sites


def _code(maps: bytes) -> list[Area]:
    return [area for area in whole_areas(os.fsdecode(maps)) if area.executable]


def _locate(address: int, row: int, maps: list[tuple[int, list[Area]]]) -> tuple[str, int]:
    """Return module and offset by the last map taken before ``row``, or by any other."""
    earlier = [code for at, code in reversed(maps) if at <= row]
    later = [code for at, code in maps if at > row]
    for code in (*earlier, *later):
        for area in code:
            if area.start <= address < area.end:
                return area.name, address - area.start + area.offset
    return "", address


def site_table(
    site: U64, maps: list[tuple[int, bytes]]
) -> tuple[SiteTable, npt.NDArray[np.uint32]]:
    """Return the table of call sites in order of appearance, and the column that indexes it."""
    address = np.unique(site)
    index = np.searchsorted(address, site)
    first = np.zeros(len(address), np.int64)
    first[index[::-1]] = np.arange(len(site))[::-1]  # the last write wins: the first appearance
    order = np.argsort(first, kind="stable")
    order = order[address[order] != 0]  # site 0: unknown
    number = np.zeros(len(address), np.uint32)
    number[order] = np.arange(1, len(order) + 1)
    code = [(row, _code(text)) for row, text in maps]
    modules: dict[str, int] = {"": 0}
    module, offset = [0], [0]
    for i in order:
        path, at = _locate(int(address[i]), int(first[i]), code)
        module.append(modules.setdefault(path, len(modules)))
        offset.append(at)
    table = SiteTable(tuple(modules), np.array(module, np.uint32), np.array(offset, np.uint64))
    return table, number[index]


# --- one process


@dataclass(frozen=True, slots=True)
class _Past:
    """The records that made a process what it is: its ancestors' up to each fork, and its own."""

    records: npt.NDArray[Any]
    maps: list[tuple[int, bytes]]
    root: Raw
    inherited: int
    cut: bool


def _past(raw: Raw, family: dict[str, Raw]) -> _Past:
    maps = [(text.row, text.data) for text in raw.texts if text.tag in ("MAPS", "MODS")]
    parent = family.get(raw.parent) if raw.parent else None
    if parent is None:
        return _Past(raw.records, maps, raw, 0, cut=raw.parent is not None)
    before = _past(parent, family)
    start = len(before.records) - len(parent.records) + int(raw.header["inherited"])
    inherited = before.records[:start]
    own = np.array(raw.records)
    own["time"] += raw.header["start_ns"] - before.root.header["start_ns"]
    return _Past(
        np.concatenate([inherited, own]),
        [m for m in before.maps if m[0] <= start] + [(start + row, text) for row, text in maps],
        before.root,
        start,
        before.cut,
    )


def _with_exits_last(rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return ``rows`` with each end of a thread behind the last calls of that thread.

    The recorder notes the end in the last hook there is.  What the library itself still frees for
    the thread follows at once, with the lock held, and before the thread's cache is emptied.
    """
    for at in np.flatnonzero(rows["op"] == Op.THREAD_EXIT):
        end = at + 1
        while end < len(rows) and rows["thread"][end] == rows["thread"][at]:
            end += 1
        time = rows["time"][end - 1]
        rows[at:end] = np.roll(rows[at:end], -1)
        rows["time"][end - 1] = time
    return rows


def _own_faults(raw: Raw, family: dict[str, Raw]) -> int:
    """Return how many of the process's minor faults are the recorder's.

    They are its pages, here and in the programs the process was before, and one more a fork: after
    it the page with the recorder's counters, shared with the child, is copied at the next call.
    """
    pid, begin = raw.header["pid"], raw.header["start_ns"]
    images = [r for r in family.values() if r.header["pid"] == pid]
    names = {r.name for r in images if r.header["start_ns"] <= begin}
    pages = sum(int(r.header["own_pages"]) for r in images if r.name in names)
    return pages + sum(other.parent in names for other in family.values())


def _measured(raw: Raw, past: _Past, own_faults: int) -> Measured:
    records, page = past.records, int(raw.header["page_size"])
    is_sample = records["op"] == SAMPLE
    row = np.cumsum(~is_sample)[is_sample].astype(np.uint64)
    own = np.flatnonzero(is_sample) >= past.inherited
    taken = records[is_sample]
    rss = taken["ret"] * np.uint64(page)
    samples = Samples(
        row[own],
        taken["time"][own].copy(),
        rss[own],
        taken["size"][own].copy(),
        taken["arg"][own].copy(),
    )
    last = taken[own][-1:]
    status = raw.text("STAT")
    figures: dict[str, Any] = {}
    if len(last):
        figures = {
            "minflt": int(last["size"][0]),
            "majflt": int(last["arg"][0]),
            "peak_rss": int(rss[own].max()),
            "elapsed_ns": int(records["time"][-1]) - int(records["time"][past.inherited]),
        }
    if status is not None:
        figures |= {
            "peak_rss": bytes_in(status, "VmHWM"),
            "vm_peak": bytes_in(status, "VmPeak"),
            "final_rss": bytes_in(status, "VmRSS"),
            "final_vm": bytes_in(status, "VmSize"),
            "recorder_rss": int(raw.header["own_pages"]) * page,
            "recorder_anon": int(raw.header["own_anon"]) * page,
            "recorder_minflt": own_faults,
        }
    areas = raw.text("SMAP")
    return Measured(
        **figures,
        heap_rss=heap_rss_in(areas) if areas is not None else None,
        status=status,
        maps=raw.text("MAPF"),
        smaps_rollup=raw.text("ROLL"),
        samples=samples,
    )


def _why_truncated(raw: Raw, past: _Past) -> str | None:
    if past.cut:
        return "the recording of the parent process is missing"
    if raw.flags & TRUNCATED:
        why = f"{os.strerror(raw.header['error'])} while recording"
        forbidden = raw.header["error"] in (errno.ENOSYS, errno.EPERM)
        return f"{why} (a seccomp filter?)" if forbidden else why
    return None


def _tunables(raw: Raw) -> dict[str, str]:
    pairs = (t.data.decode(errors="replace").partition("=") for t in raw.texts if t.tag == "TUNE")
    return {name: value for name, _, value in pairs}


def _info(
    raw: Raw,
    past: _Past,
    family: dict[str, Raw],
    **found: Any,  # noqa: ANN401 - fields of TraceInfo
) -> TraceInfo:
    head, root = raw.header, past.root
    return TraceInfo(
        source="recorder",
        command=raw.command,
        pid=head["pid"],
        parent_pid=head["parent_pid"],
        glibc=head["glibc"].decode(),
        arch=raw.arch,
        kernel=os.uname().release,
        cpus=head["cpus"],
        tunables=_tunables(root),
        brk_start=root.header["brk_start"],
        maps=root.text("MAPS"),
        limits=root.text("LIMI"),
        truncated=_why_truncated(raw, past),
        foreign_malloc=root.foreign_malloc,
        measured=_measured(raw, past, _own_faults(raw, family)),
        **found,
    )


def _maps_by_row(past: _Past, is_call: npt.NDArray[np.bool_]) -> list[tuple[int, bytes]]:
    """Return the maps with the number of calls, not records, that came before them."""
    calls_before = np.concatenate([[0], np.cumsum(is_call)])
    return [(int(calls_before[min(at, len(is_call))]), text) for at, text in past.maps]


def to_trace(raw: Raw, family: dict[str, Raw]) -> Trace:
    """Return the trace of ``raw``; a forked process begins with its parent's past.

    ``family`` holds all raw recordings of the run by name.
    """
    past = _past(raw, family)
    is_call = past.records["op"] < SAMPLE
    rows = _with_exits_last(past.records[is_call])
    done = rows["state"] == DONE
    op, old = rows["op"].copy(), rows["arg"].copy()
    ret = np.where(done & _ALLOCATES[op], rows["ret"], np.uint64(0))
    blocks = assign_blocks(op, old, ret)
    sites, site = site_table(rows["site"].copy(), _maps_by_row(past, is_call))
    columns = {
        "op": op,
        "block": blocks.block,
        "size": rows["size"].copy(),
        "arg": np.where(_HAS_ARG[op], old, np.uint64(0)),
        "thread": rows["thread"].copy(),
        "site": site,
        "time": rows["time"].copy(),
        "address": ret,
    }
    info = _info(
        raw,
        past,
        family,
        inherited_rows=int(is_call[: past.inherited].sum()),
        unknown_frees={int(i): int(old[i]) for i in blocks.unknown},
        unfinished=tuple(np.flatnonzero(~done).tolist()),
        sites=sites,
    )
    return Trace(columns, info)


def load(directory: Path) -> dict[str, Raw]:
    """Return every raw recording in ``directory`` that began, oldest first."""
    found = []
    for path in directory.glob("*.ring"):
        try:
            found.append(Raw(directory, path.name.removesuffix(".ring")))
        except TraceError:
            continue  # killed before its header was whole: nothing was recorded
    found.sort(key=lambda raw: (raw.header["start_ns"], raw.name))
    return {raw.name: raw for raw in found}
