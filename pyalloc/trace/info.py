"""What is known of a trace beside its rows: where it comes from and what the real run measured.

Everything here is plain data that goes through JSON unchanged, because it travels in the metadata
of the trace file.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field, fields
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pyalloc.trace.sites import SiteTable

U64 = npt.NDArray[np.uint64]

_SAMPLE_COLUMNS: Final = ("row", "time", "rss", "minflt", "majflt")


def _pack(values: npt.NDArray[Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(values, "<u8").tobytes()).decode()


def _unpack(text: str) -> U64:
    return np.frombuffer(base64.b64decode(text), "<u8")


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """What the kernel said from time to time while the real program ran.

    ``row`` is the number of calls made before the sample, ``time`` nanoseconds since the start of
    the recording, ``rss`` bytes (``/proc/self/statm``); ``minflt`` and ``majflt`` count faults
    since the process began (``getrusage``).
    """

    row: U64
    time: U64
    rss: U64
    minflt: U64
    majflt: U64

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.row)

    def __eq__(self, other: object) -> bool:
        """Compare all values."""
        if not isinstance(other, Samples):
            return NotImplemented
        return all(
            np.array_equal(getattr(self, name), getattr(other, name)) for name in _SAMPLE_COLUMNS
        )

    def __hash__(self) -> int:
        """Agree with equality."""
        return hash(self.rss.tobytes())

    def to_json(self) -> dict[str, str]:
        """Return the columns as base64 of little-endian 64-bit numbers."""
        return {name: _pack(getattr(self, name)) for name in _SAMPLE_COLUMNS}

    @classmethod
    def from_json(cls, data: dict[str, str]) -> Samples:
        """Invert :meth:`to_json`."""
        return cls(*(_unpack(data[name]) for name in _SAMPLE_COLUMNS))


# Fields of an area begin with a capital, the next area with its hexadecimal start.
_HEAP_RSS: Final = re.compile(
    r"^[0-9a-f]+-.* \[heap\]\n(?:[A-Z].*\n)*?Rss: +(\d+) kB", re.MULTILINE
)


def bytes_in(status: str, name: str) -> int | None:
    """Return a size of a ``/proc/PID/status`` in bytes; None if it is not there.

    The text may be cut short anywhere: its process may have been killed meanwhile.
    """
    found = re.search(rf"^{name}:\s+(\d+) kB$", status, re.MULTILINE)
    return int(found[1]) << 10 if found else None


def heap_rss_in(smaps: str) -> int:
    """Return how many bytes of the areas named ``[heap]``, the break's, are in memory."""
    return 1024 * sum(int(area[1]) for area in _HEAP_RSS.finditer(smaps))


@dataclass(frozen=True, slots=True)
class Measured:
    """What the kernel measured in the real run; ``None`` where the run ended too abruptly to ask.

    ``peak_rss`` (VmHWM), ``vm_peak``, ``final_rss`` and ``final_vm`` are bytes; when the process
    ended too abruptly for a last look, ``peak_rss`` and the faults are those of the last sample.
    ``recorder_rss`` and ``recorder_minflt`` are the parts of ``final_rss`` and ``minflt`` that
    the recorder's own memory accounts for, ``recorder_anon`` what of it is of no file;
    ``heap_rss`` is what of ``final_rss`` lies between the start of the break and the break.
    ``status``, ``maps`` and ``smaps_rollup`` are the texts of ``/proc/self`` when the process
    ended.
    """

    peak_rss: int | None = None
    vm_peak: int | None = None
    final_rss: int | None = None
    final_vm: int | None = None
    heap_rss: int | None = None
    recorder_rss: int | None = None
    recorder_anon: int | None = None
    recorder_minflt: int | None = None
    minflt: int | None = None
    majflt: int | None = None
    elapsed_ns: int | None = None
    status: str | None = None
    maps: str | None = None
    smaps_rollup: str | None = None
    samples: Samples | None = None

    @property
    def program_peak(self) -> int | None:
        """The most that was resident, less the recorder's own; bytes."""
        return self._less_recorder(self.peak_rss)

    @property
    def program_final(self) -> int | None:
        """What was resident at the end, less the recorder's own; bytes."""
        return self._less_recorder(self.final_rss)

    def _less_recorder(self, rss: int | None) -> int | None:
        return None if rss is None else max(rss - (self.recorder_rss or 0), 0)

    def in_status(self, name: str) -> int | None:
        """Return a size of ``status`` in bytes; None if it is not there."""
        return bytes_in(self.status or "", name)

    def to_json(self) -> dict[str, Any]:
        """Return the fields that are known."""
        known = {f.name: getattr(self, f.name) for f in fields(self)}
        if self.samples is not None:
            known["samples"] = self.samples.to_json()
        return {name: value for name, value in known.items() if value is not None}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Measured:
        """Invert :meth:`to_json`; fields of a later version are ignored."""
        known = {f.name: data[f.name] for f in fields(cls) if f.name in data}
        if "samples" in known:
            known["samples"] = Samples.from_json(known["samples"])
        return cls(**known)


@dataclass(frozen=True, slots=True)
class TraceInfo:
    """Everything about a trace that is not a row.

    Attributes
    ----------
    source
        ``"recorder"``, ``"arrays"``, or the name of the format it was read from.
    command
        The command line of the process.
    pid, parent_pid
        Its process number and its parent's, as the real kernel gave them.
    exit_code, signal
        How the real process ended, when that is known: one of the two is set.
    glibc, arch, kernel
        What it ran on: ``"2.36"``, ``"x86_64"``, ``"6.18.44"``.
    cpus
        Processors the process could see; glibc limits the number of its arenas by it.
    tunables
        The environment variables that steer malloc (``GLIBC_TUNABLES``, ``MALLOC_*``).
    foreign_malloc
        The file of the malloc that served the program, when it was not the C library's: its
        addresses and its memory are another allocator's.
    brk_start, maps
        The break and the text of ``/proc/self/maps`` before the first call.
    limits
        The text of ``/proc/self/limits`` at that moment.
    inherited_rows
        Rows at the front that the parent made before it forked this process.
    truncated
        Why the recording stops before the program did; ``None`` when it does not.
    unknown_frees
        Row to address: blocks given back that the trace never saw allocated.
    unfinished
        Rows that never returned (the process died inside them).
    identity
        ``"exact"``, or ``"approximate"`` for formats that do not say which block is freed.
    sites
        Where the calls came from; ``trace.site`` indexes it.  Site 0 is unknown.
    measured
        What the kernel measured in the real run.
    """

    source: str = "arrays"
    command: tuple[str, ...] = ()
    pid: int | None = None
    parent_pid: int | None = None
    exit_code: int | None = None
    signal: int | None = None
    glibc: str | None = None
    arch: str | None = None
    kernel: str | None = None
    cpus: int | None = None
    tunables: dict[str, str] = field(default_factory=dict)
    foreign_malloc: str | None = None
    brk_start: int | None = None
    maps: str | None = None
    limits: str | None = None
    inherited_rows: int = 0
    truncated: str | None = None
    unknown_frees: dict[int, int] = field(default_factory=dict)
    unfinished: tuple[int, ...] = ()
    identity: str = "exact"
    sites: SiteTable = field(default_factory=SiteTable)
    measured: Measured | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the fields that are known, as JSON values."""
        known = {f.name: getattr(self, f.name) for f in fields(self)}
        known["unknown_frees"] = {str(row): at for row, at in self.unknown_frees.items()}
        known["sites"] = self.sites.to_json() if len(self.sites) else None
        known["measured"] = self.measured.to_json() if self.measured else None
        return {name: value for name, value in known.items() if value not in (None, {}, (), [])}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> TraceInfo:
        """Invert :meth:`to_json`; fields of a later version are ignored."""
        known = {f.name: data[f.name] for f in fields(cls) if f.name in data}
        for name in ("command", "unfinished"):
            if name in known:
                known[name] = tuple(known[name])
        if "unknown_frees" in known:
            known["unknown_frees"] = {int(row): at for row, at in known["unknown_frees"].items()}
        if "sites" in known:
            known["sites"] = SiteTable.from_json(known["sites"])
        if "measured" in known:
            known["measured"] = Measured.from_json(known["measured"])
        return cls(**known)
