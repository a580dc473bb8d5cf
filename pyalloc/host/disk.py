"""Disks of this host: a folder that is on one, and how far it is read ahead."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Final

from pyalloc.host.compile import HostError

_ELSEWHERE: Final = ("/var/tmp", ".")  # noqa: S108 - whoever uses it makes names of its own


def disk_folder() -> Path:
    """Return a folder for temporary files that is on a disk: the usual one where it is.

    Raises
    ------
    HostError
        There is none.
    """
    usual = tempfile.gettempdir()
    for folder in map(Path, (usual, *_ELSEWHERE)):
        if os.major(folder.stat().st_dev):
            return folder
    message = (
        f"{usual} is not on a disk's file system, whose way with files the model knows; "
        "set TMPDIR to one that is"
    )
    raise HostError(message)


def read_ahead_setting(folder: Path) -> Path:
    """Return the file that says how many kB are read ahead at most of files in ``folder``."""
    device = folder.stat().st_dev
    block = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}").resolve()
    if (block / "partition").exists():
        block = block.parent
    return block / "bdi" / "read_ahead_kb"
