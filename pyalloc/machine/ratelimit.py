"""How often the kernel says the same: ten times in five seconds (``lib/ratelimit.c``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pyalloc.machine.machine import Machine

_BURST: Final = 10
_INTERVAL: Final = 5.0


class RateLimit:
    """One message of the kernel that is printed with ``printk_ratelimited``."""

    __slots__ = ("begin", "missed", "printed", "where")

    def __init__(self, where: str) -> None:
        self.where = where
        self.begin: float | None = None
        self.printed = self.missed = 0

    def passes(self, machine: Machine) -> bool:
        """Return whether the message may be printed now."""
        now = machine.clock
        if self.begin is None or now > self.begin + _INTERVAL:
            if self.missed:
                machine.log(f"{self.where}: {self.missed} callbacks suppressed")
            self.begin, self.printed, self.missed = now, 0, 0
        if self.printed < _BURST:
            self.printed += 1
            return True
        self.missed += 1
        return False

    def log(self, machine: Machine, text: str) -> None:
        """Print ``text`` if it may be printed."""
        if self.passes(machine):
            machine.log(text)
