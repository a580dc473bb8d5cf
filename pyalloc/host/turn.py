"""Taking turns with whoever else changes this host for an experiment: its settings, its swap."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_LOCK: Final = Path("/proc/sys/vm/swappiness")  # it is there for everybody, and never replaced


@contextlib.contextmanager
def turn() -> Iterator[int]:
    """Wait for one's turn, which ends with the block.

    Yields the lock's descriptor, by which a process started meanwhile can hold it longer.
    """
    descriptor = os.open(_LOCK, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)
