"""Replay: one process, one heap, a whole trace."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pyalloc.arguments import instance, mapping, words
from pyalloc.errors import ArgumentError
from pyalloc.kernel.layout import layout_from_maps
from pyalloc.kernel.limits import Limits
from pyalloc.lab.setting import apply_environment
from pyalloc.lab.strict import missed
from pyalloc.machine import Machine, Process, Replay
from pyalloc.machine.tunables import tune
from pyalloc.trace import Trace, require_trace

_BIG = "256G"


def machine_for(trace: Trace, arch: str | None = None) -> Machine:
    """Return a machine like the one ``trace`` was recorded on, with memory for everything."""
    return big_machine(arch or trace.info.arch or "x86_64", trace.info.cpus or 1)


def big_machine(arch: str, cpus: int) -> Machine:
    """Return a machine of today with memory for everything."""
    return Machine(ram=_BIG, swap=0, kernel="6.18", arch=arch, cpus=cpus)


def process_for(
    trace: Trace,
    machine: Machine,
    *,
    allocator: str,
    maps: str | None = None,
    brk: int | None = None,
    tunables: Mapping[str, int | str] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Process:
    """Start the process that ``trace`` is replayed on.

    Without ``maps`` it begins with the address space of the recording, if there is one and it is of
    the machine's architecture, and has its RLIMIT_AS and RLIMIT_DATA.  Its malloc is steered by the
    recording's ``GLIBC_TUNABLES`` and ``MALLOC_*``, or by ``environment``, and by ``tunables``
    after that.  What the program held before is not in memory: pages are counted from the first
    call on.
    """
    info = trace.info
    if maps is None and info.maps is not None and info.arch == machine.profile.arch:
        maps, brk = info.maps, info.brk_start if brk is None else brk
    if brk is not None and maps is None:
        message = "brk needs maps: the text of /proc/PID/maps that it belongs to"
        raise ArgumentError(message)
    name = info.command[0].rsplit("/", 1)[-1][:15] if info.command else "prog"
    layout = layout_from_maps(maps, machine.profile, brk=brk) if maps is not None else None
    limits = Limits.parse(info.limits) if info.limits and maps == info.maps else None
    process = machine.spawn(name, allocator=allocator, layout=layout, rlimits=limits)
    variables = info.tunables if environment is None else environment
    apply_environment(process.heap.heap, variables)
    tune(process.heap.heap, tunables or {})
    return process


def replay(
    trace: Trace,
    allocator: str = "glibc-2.36",
    arch: str | None = None,
    machine: Machine | None = None,
    maps: str | None = None,
    brk: int | None = None,
    tunables: Mapping[str, int | str] | None = None,
    touch: str = "none",
    record: Sequence[str] = ("address",),
    samples: int = 1000,
    *,
    strict: bool = False,
) -> Replay:
    """Make every call of ``trace`` on a simulated process.

    Parameters
    ----------
    trace
        The calls.
    allocator
        A name from :func:`pyalloc.allocators`.
    arch
        ``"x86_64"`` or ``"i386"``; by default that of the recording, else x86-64.
    machine
        Where the process runs; by default a machine with memory for everything.
    maps, brk
        The address space before the first call: given both, addresses are absolute and equal the
        real ones.  By default those of the recording.
    tunables
        Allocator settings by their glibc names, beside what steered malloc in the recording.
    touch
        What the program does to its memory: ``"none"``, ``"write"`` (each block is written when
        allocated) or ``"recorded"`` (TOUCH rows).  The allocator's own accesses are always made.
    record
        Columns to keep, one value a call: ``"address"``, ``"usable"``, ``"brk"``.
    samples
        Rows of the timeline.
    strict
        Let ``errors`` tell, too, what the library does not notice: blocks that are used or freed
        after they were freed, TOUCH rows past the end of their block, blocks that are never freed.

    Returns
    -------
    Replay
        Addresses, timeline, summary and errors.

    Raises
    ------
    ArgumentError
        An unknown allocator, tunable, column or touch mode.
    """
    require_trace(trace)
    if machine is not None:
        instance(machine, "machine", Machine)
    if maps is not None:
        words(maps, "maps")
    mapping(tunables or {}, "tunables")
    machine = machine or machine_for(trace, arch)
    process = process_for(
        trace, machine, allocator=allocator, maps=maps, brk=brk, tunables=tunables
    )
    if strict and "address" not in record:
        record = (*record, "address")
    result = process.replay(trace, touch=touch, record=record, samples=samples)
    if strict:
        ended = result.errors
        unnoticed = missed(trace, result.address, result.summary.calls, ended=bool(ended))
        result.errors = (*unnoticed, *ended)
    return result
