"""Scans under a memory limit on this host: the same passes that :class:`reclaimruns.Scan` makes."""

from __future__ import annotations

import os
import struct
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
from reclaimruns import PAGE, Pass, order_of

from pyalloc.host.box import box
from pyalloc.host.compile import HostError, compiler

SOURCE = Path(__file__).parent / "programs" / "scan.c"


def sysctl(name: str) -> int:
    """Return a setting of this host's memory management."""
    return int(Path(f"/proc/sys/vm/{name}").read_text(encoding="ascii"))


def built(folder: Path) -> Path:
    """Compile the program that scans."""
    program = folder / "scan"
    command = [str(compiler()), "-O1", "-D_GNU_SOURCE", "-o", str(program), str(SOURCE)]
    subprocess.run(command, check=True)
    return program


def written_file(folder: Path, pages: int) -> Path:
    """Make a file of so many pages that is on the disk, and not in memory."""
    path = folder / "data"
    with path.open("wb") as file:
        file.write(np.random.default_rng(3).bytes(pages * PAGE))
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return path


def counts(pid: int, group: Path) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the counters that a :class:`Pass` is made of, as far as others do not count with it.

    What was swapped in are the pages that came back to the cgroup.
    """
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    lines = (group / "memory.stat").read_text(encoding="ascii").splitlines()
    events = dict(line.split() for line in lines)
    numbers = fields[7], fields[9], events["workingset_refault_anon"], 0, 0
    return np.array(numbers, dtype=np.float64)


def live_passes(run: dict[str, Any], folder: Path) -> list[Pass]:
    """Make the passes of ``run`` in a cgroup of this host with as much swap as it needs.

    Raises
    ------
    HostError
        It cannot be done here, or the OOM killer ended it.
    """
    program = built(folder)
    pages, mode = run["ws_pages"], run["mode"]
    file = written_file(folder, pages) if mode == "fmapr" else folder
    order = os.memfd_create("order")
    os.truncate(order, pages * 4)
    try:
        with box(run["limit_mb"] << 20, 256 << 20) as procs:
            command = [str(program), mode, str(pages), str(file), str(order), str(procs)]
            with subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
                pass_fds=[order],
            ) as child:
                return _passes(run, child, order, procs.parent)
    finally:
        os.close(order)


def _passes(
    run: dict[str, Any], child: subprocess.Popen[bytes], order: int, group: Path
) -> list[Pass]:
    assert child.stdin is not None
    assert child.stdout is not None
    chance, rows = np.random.default_rng(1), []
    _await(child)
    for number in range(len(run["rows"])):
        pages = order_of(run, number, chance)
        fills = not number and not run["mode"].startswith("f")
        os.pwrite(order, pages.astype(np.uint32).tobytes(), 0)
        before = counts(child.pid, group)
        child.stdin.write(struct.pack("<II", len(pages), bool(run["write"]) or fills))
        _await(child)
        rows.append(Pass(*((counts(child.pid, group) - before) / len(pages)).tolist()))
    child.stdin.close()
    return rows


def _await(child: subprocess.Popen[bytes]) -> None:
    assert child.stdout is not None
    if not child.stdout.read(1):
        message = f"the scan ended early, with {child.wait()}"
        raise HostError(message)
