"""The log of this host's kernel, from now on (``/dev/kmsg``)."""

from __future__ import annotations

import os
from typing import Final, Self

from pyalloc.host.compile import HostError

_RECORD: Final = 8192


class KernelLog:
    """What the kernel logs while the block runs.

    Raises
    ------
    HostError
        This process may not read it.
    """

    def __init__(self) -> None:
        try:
            self._file = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
        except OSError as error:
            message = f"the kernel's log cannot be read here: /dev/kmsg: {error.strerror}"
            raise HostError(message) from None
        os.lseek(self._file, 0, os.SEEK_END)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)

    def lines(self) -> list[str]:
        """Return what was logged since the last call, without times."""
        found: list[str] = []
        while True:
            try:
                record = os.read(self._file, _RECORD).decode("utf-8", "replace")
            except BlockingIOError:
                return found
            except BrokenPipeError:  # records were overwritten before they were read
                continue
            found.append(record.partition(";")[2].split("\n", 1)[0])
