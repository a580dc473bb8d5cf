"""A model begins as the real process has begun."""

from __future__ import annotations

from pyalloc.host.puppet import Puppet
from pyalloc.machine import Process


def mirror(real: Puppet, process: Process) -> None:
    """Have in the model's memory what the real process has in memory."""
    machine = process.machine
    for vma in list(process.space):
        if vma.kernels_own:
            continue
        if vma.file is not None:
            number = machine.object_of(vma.file.inode)
            machine.ram.load_object(0, number, 0, vma.file.inode.pages, 0)
        for page in real.present(vma.start, vma.end):
            process.touch(page, 1, write=vma.file is None)
