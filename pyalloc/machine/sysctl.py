"""``/proc/sys/vm`` of one machine: what its kernel lets an administrator read and set."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NoReturn

from pyalloc.errors import ArgumentError
from pyalloc.kernel.overcommit import OvercommitSettings
from pyalloc.kernel.paging import min_free_kbytes, watermarks
from pyalloc.kernel.sysctl import knobs, reserves_of
from pyalloc.nearest import nearest
from pyalloc.units import PAGE

if TYPE_CHECKING:
    from pyalloc.machine.machine import Machine

_EXCLUSIVE: Final = {
    "vm.overcommit_ratio": "vm.overcommit_kbytes",
    "vm.overcommit_kbytes": "vm.overcommit_ratio",
}
"""Writing one sets the other to 0."""
_OVERCOMMIT: Final = {f"vm.{name}": name for name in OvercommitSettings.__slots__}
_WATERMARKS: Final = ("vm.min_free_kbytes", "vm.watermark_scale_factor")


class Sysctl(MutableMapping[str, int]):
    """The sysctls of a machine by name, such as ``machine.sysctl["vm.swappiness"] = 10``.

    Raises
    ------
    ArgumentError
        This kernel has no such sysctl, or the value lies outside its domain.
    """

    __slots__ = ("_knobs", "_machine", "_values")

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._knobs = knobs(machine.profile)
        self._values = {name: knob.value for name, knob in self._knobs.items()}

    def start(self, total_pages: int) -> None:
        """Set what depends on how much memory there is, as the boot does."""
        reserves = reserves_of(total_pages * PAGE // 1024)
        rules = self._machine.paging
        for name, value in (
            ("vm.admin_reserve_kbytes", reserves.admin),
            ("vm.user_reserve_kbytes", reserves.user),
            ("vm.min_free_kbytes", min_free_kbytes(total_pages, rules)),
        ):
            if name in self._values:
                self._values[name] = value

    def put(self, name: str, value: int) -> None:
        """Set ``name`` without its effect on others; unknown ones of another era are left out."""
        if name in self._knobs:
            self._values[name] = self._checked(name, value)

    def __getitem__(self, name: str) -> int:
        if name not in self._values:
            self._refuse(name)
        return self._values[name]

    def __setitem__(self, name: str, value: int) -> None:
        self._values[name] = self._checked(name, value)
        other = _EXCLUSIVE.get(name)
        if other in self._values:
            self._values[other] = 0
        self.apply(name)

    def __delitem__(self, name: str) -> None:
        message = f"a sysctl cannot be taken away ({name})"
        raise ArgumentError(message)

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._values))

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return "\n".join(f"{name} = {value}" for name, value in self.items())

    def flag(self, name: str) -> int:
        """Return a value, 0 where this kernel has no such sysctl."""
        return self._values.get(name, 0)

    def overcommit(self) -> OvercommitSettings:
        """Return what the overcommit test looks at."""
        return OvercommitSettings(
            **{
                field: self._values[name]
                for name, field in _OVERCOMMIT.items()
                if name in self._values
            }
        )

    def apply(self, name: str) -> None:
        """Let the machine follow a new value."""
        machine = self._machine
        if name in _OVERCOMMIT:
            machine.overcommit = self.overcommit()
            machine.renew_leases()
        elif name == "vm.swappiness":
            machine.ram.configure(replace(machine.ram.settings, swappiness=self[name]))
        elif name == "vm.page-cluster":
            machine.ram.configure(replace(machine.ram.settings, page_cluster=self[name]))
        elif name in _WATERMARKS:
            marks = watermarks(
                machine.total_ram,
                machine.paging,
                self["vm.min_free_kbytes"],
                self.flag("vm.watermark_scale_factor"),
            )
            machine.ram.configure(
                replace(
                    machine.ram.settings,
                    watermark_min=marks.least,
                    watermark_low=marks.low,
                    watermark_high=marks.high,
                )
            )
            machine.lay_out_zones()

    def _checked(self, name: str, value: int) -> int:
        knob = self._knobs.get(name)
        if knob is None:
            self._refuse(name)
        if isinstance(value, bool) or not isinstance(value, int):
            message = f"{name} must be a whole number (got {value!r})"
            raise ArgumentError(message)
        if not knob.least <= value <= knob.most:
            message = f"{name} must be {knob.least} to {knob.most} (got {value})"
            raise ArgumentError(message)
        return value

    def _refuse(self, name: str) -> NoReturn:
        kernel = self._machine.profile.name
        message = f"Linux {kernel} has no sysctl {name!r} here{nearest(name, self._knobs)}"
        raise ArgumentError(message)
