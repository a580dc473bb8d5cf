"""Settings of this host's kernel, changed for a while."""

from __future__ import annotations

from pathlib import Path

from pyalloc.host.compile import HostError
from pyalloc.host.undo import Undertaker


class Settings:
    """Files with a number in each, as in ``/proc/sys``, that an undertaker restores."""

    def __init__(self, undertaker: Undertaker) -> None:
        self._undertaker = undertaker
        self._known: set[Path] = set()

    def set(self, path: Path, value: int) -> None:
        """Write a setting; the first time, have it restored at the end.

        Raises
        ------
        HostError
            It may not be set, or is not there.
        """
        try:
            if path not in self._known:
                self._undertaker.write(str(path), path.read_text(encoding="ascii"))
                self._known.add(path)
            path.write_text(str(value), encoding="ascii")
        except OSError as error:
            message = f"{path} cannot be set to {value} here: {error.strerror}"
            raise HostError(message) from None
