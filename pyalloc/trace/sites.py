"""Call sites: which module and offset a call came from, and which function and line that is.

A site is kept as *module + offset in the file*, which survives address randomisation; names are
looked up only when somebody asks, through ``addr2line`` where it is installed and otherwise in the
symbol tables of the module itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pyalloc.trace import symbols

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True)
class Site:
    """One call site, in words."""

    module: str
    offset: int
    function: str | None = None
    file: str | None = None
    line: int | None = None

    def __str__(self) -> str:
        """Return ``function (file:line)``, or as much of it as is known."""
        if not self.module:
            return "(unknown)"
        base = self.module.rsplit("/", 1)[-1]
        where = self.file or base
        if self.file and self.line:
            where += f":{self.line}"
        if self.function:
            return f"{self.function} ({where})"
        return f"{base}+{self.offset:#x}"


def _empty(dtype: str) -> npt.NDArray[Any]:
    return np.zeros(0, dtype)


@dataclass(frozen=True, slots=True, eq=False)
class SiteTable:
    """All call sites of a trace.

    ``modules[module[i]]`` is the file that site ``i`` lies in, ``offset[i]`` the return address as
    an offset into that file.  Module 0 is the empty name: no file is known, and the offset is the
    bare address.
    """

    modules: tuple[str, ...] = ("",)
    module: npt.NDArray[np.uint32] = field(default_factory=lambda: _empty("u4"))
    offset: npt.NDArray[np.uint64] = field(default_factory=lambda: _empty("u8"))

    def __len__(self) -> int:
        """Return the number of sites."""
        return len(self.module)

    def __eq__(self, other: object) -> bool:
        """Compare all values."""
        if not isinstance(other, SiteTable):
            return NotImplemented
        return (
            self.modules == other.modules
            and np.array_equal(self.module, other.module)
            and np.array_equal(self.offset, other.offset)
        )

    def __hash__(self) -> int:
        """Agree with equality."""
        return hash((self.modules, self.offset.tobytes()))

    def __getitem__(self, site: int) -> Site:
        """Return site ``site`` without looking up its name."""
        if not 0 <= site < len(self):
            return Site("", 0)
        return Site(self.modules[int(self.module[site])], int(self.offset[site]))

    def resolve(self, sites: Iterable[int]) -> dict[int, Site]:
        """Return each of ``sites`` with its function, file and line, as far as these are known.

        Asking for many sites at once costs one look at each module.
        """
        found = {int(site): self[int(site)] for site in sites}
        by_module: dict[str, list[int]] = {}
        for number, site in found.items():
            if site.module.startswith("/"):
                by_module.setdefault(site.module, []).append(number)
        for module, numbers in by_module.items():
            # the return address is the instruction after the call
            names = symbols.lookup(module, [max(found[n].offset - 1, 0) for n in numbers])
            for number, name in zip(numbers, names, strict=True):
                found[number] = Site(
                    module, found[number].offset, name.function, name.file, name.line
                )
        return found

    def to_json(self) -> dict[str, Any]:
        """Return the table as JSON values."""
        return {
            "modules": list(self.modules),
            "module": self.module.tolist(),
            "offset": self.offset.tolist(),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> SiteTable:
        """Invert :meth:`to_json`."""
        return cls(
            tuple(data["modules"]),
            np.asarray(data["module"], np.uint32),
            np.asarray(data["offset"], np.uint64),
        )
