"""What things cost in simulated time: the stated model behind ``Machine.clock``.

A machine adds these up as it works; no clock of the host is read, so a run takes the same time on
every machine.  A program's own computing is not modelled: :meth:`Process.compute
<pyalloc.Process.compute>` and :meth:`Machine.advance <pyalloc.Machine.advance>` add it.

One disk holds swap and files.  A request waits for its turn, then takes ``seek`` if it does not
begin where the last one ended, ``transfer`` for each page, and its latency on top, in which the
next one is already served.  Who reads waits; writes go on by themselves, and whoever needs their
memory waits for them.

``virtio`` is what a virtual machine has: as quick as the host's ``ssd``, but it says that it
rotates, and the kernel treats it as a disk with a head: swap is read by place, files far ahead.
Requests that overlap are answered together, when the last of them is done.

Sources: ``ssd`` was measured on a virtual machine (Linux 6.18, 2 CPUs, virtio disk, tracepoints
``block_rq_issue`` and ``block_rq_complete``, ``mm_vmscan_lru_shrink_inactive``, and loops over
memory); ``hdd`` is a 7200 rpm ATA
disk of 2004 (8.5 ms average seek, 4.16 ms half a turn, 58 MB/s) on a processor of that time, after
D. Bovet and M. Cesati, "Understanding the Linux Kernel", 3rd ed. (2005), ch. 14, and the
data sheet of the Barracuda 7200.7.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Final

from pyalloc.arguments import truth, words
from pyalloc.errors import ArgumentError
from pyalloc.nearest import nearest


@dataclass(frozen=True, slots=True)
class Costs:
    """What things cost, in nanoseconds.

    Parameters
    ----------
    access
        Touching a page that needs no fault.
    fault
        A page fault, without clearing, copying or waiting for the disk.
    clear, copy
        One page.
    dirty
        The first write to a mapped page of a file, beside the fault.
    scan, unmap
        Reclaim looks at one page; takes one page away from its mappers, into swap.
    rotational
        Whether the disk says that it rotates, though it need not seek.
    batches
        Whether the disk tells of the reads it has done only when it has nothing left to do.
    read_latency, write_latency, seek, transfer
        Of the disk; ``transfer`` is one page.
    system_call
        Entering and leaving the kernel, and what the call itself does.
    """

    access: int = 0
    fault: int = 0
    clear: int = 0
    copy: int = 0
    dirty: int = 0
    scan: int = 0
    unmap: int = 0
    read_latency: int = 0
    write_latency: int = 0
    seek: int = 0
    transfer: int = 0
    system_call: int = 0
    rotational: bool = False
    batches: bool = False

    def __post_init__(self) -> None:
        truth(self.rotational, "rotational")
        truth(self.batches, "batches")
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, int) or not 0 <= value < 1 << 40:
                message = f"{field.name} must be whole nanoseconds below 2^40 (got {value!r})"
                raise ArgumentError(message)

    @property
    def rotates(self) -> bool:
        """Whether the kernel takes the disk for one with a head: swap is then read by place."""
        return self.rotational or self.seek > 0

    def times(self) -> dict[str, int]:
        """Return what takes time, by name, in nanoseconds, and whether the disk batches."""
        return {name: int(value) for name, value in asdict(self).items() if name != "rotational"}


SSD: Final = Costs(
    access=12,
    fault=1000,
    clear=450,
    copy=350,
    dirty=1000,
    scan=450,
    unmap=3600,
    read_latency=45_000,
    write_latency=60_000,
    transfer=2_400,
    system_call=300,
)
VIRTIO: Final = replace(SSD, rotational=True, batches=True)
HDD: Final = Costs(
    access=30,
    fault=2000,
    clear=1200,
    copy=1600,
    dirty=3000,
    scan=800,
    unmap=5000,
    read_latency=200_000,
    write_latency=200_000,
    seek=12_600_000,
    transfer=70_000,
    system_call=500,
)
FREE: Final = Costs()
DISKS: Final[Mapping[str, Costs]] = {"ssd": SSD, "virtio": VIRTIO, "hdd": HDD, "none": FREE}
"""Cost models by name; with ``none`` nothing takes time."""


def costs_of(disk: str | Costs) -> Costs:
    """Return a cost model by its name, or the one given.

    >>> costs_of("ssd").rotates
    False
    """
    if isinstance(disk, Costs):
        return disk
    if words(disk, "disk") in DISKS:
        return DISKS[disk]
    message = f"no disk {disk!r}{nearest(disk, DISKS)}"
    raise ArgumentError(message)
