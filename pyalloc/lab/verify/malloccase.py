"""A stream of calls that differed once, in a file, and what is run under: a case to try again."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from pyalloc.errors import TraceError
from pyalloc.host import glibc
from pyalloc.lab.verify.malloc import (
    ARCH,
    Call,
    Difference,
    Finding,
    MallocVerdict,
    Setting,
    compare,
    counts_pages,
    profile_for,
    run_both,
    trace_of,
)
from pyalloc.trace import NULL_BLOCK, Op
from pyalloc.trace.files import replacing

FORMAT: Final = "pyalloc malloc case 1"


@dataclass(frozen=True, slots=True)
class Case:
    """Calls, and the setting they are made under."""

    setting: Setting
    calls: tuple[Call, ...]
    name: str = ""
    difference: Difference | None = None

    @classmethod
    def of(cls, finding: Finding) -> Case:
        """Return the shortest stream of a finding."""
        return cls(finding.setting, finding.shortest, finding.stream, finding.shortest_difference)

    def to_dict(self) -> dict[str, Any]:
        """Return the case as JSON values."""
        return {
            "format": FORMAT,
            "name": self.name,
            "setting": asdict(self.setting),
            "calls": [
                [Op(call.op).name, None if call.block == NULL_BLOCK else call.block, *call[2:]]
                for call in self.calls
            ],
            "difference": asdict(self.difference) if self.difference else None,
        }

    def write(self, path: Path) -> None:
        """Write the case to a file that :func:`read_case` reads."""
        with replacing(path, overwrite=True) as file:
            file.write(_text(self.to_dict()).encode())


def _text(case: dict[str, Any]) -> str:
    """Return JSON with one call a line."""
    parts = {name: json.dumps(value) for name, value in case.items()}
    parts["calls"] = "[\n  " + ",\n  ".join(json.dumps(call) for call in case["calls"]) + "\n ]"
    return "{\n " + ",\n ".join(f'"{name}": {value}' for name, value in parts.items()) + "\n}\n"


def read_case(path: Path) -> Case:
    """Return the case in a file.

    Raises
    ------
    TraceError
        It cannot be read, or is no such file; the text says why.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["format"] != FORMAT:
            message = f"{path}: its format is {data['format']!r}, not {FORMAT!r}"
            raise TraceError(message)
        setting = Setting(**data["setting"])
        calls = tuple(_call(*row) for row in data["calls"])
        ARCH[setting.word], trace_of(calls)
    except OSError as error:
        message = f"{path}: {error.strerror}"
        raise TraceError(message) from None
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        if isinstance(error, TraceError) and str(path) in str(error):
            raise
        message = f"{path}: not a case of pyalloc verify malloc ({type(error).__name__}: {error})"
        raise TraceError(message) from None
    return Case(setting, calls, str(data.get("name", "")))


def _call(op: str, block: int | None, size: int, arg: int, thread: int = 0) -> Call:
    number = NULL_BLOCK if block is None else int(block)
    return Call(Op[op], number, int(size), int(arg), int(thread))


def verify_case(case: Case, allocator: str | None = None) -> MallocVerdict:
    """Run a case on this host's glibc and on the model."""
    version = glibc.version(case.setting.word // 8)
    allocator = allocator or profile_for(version)
    pages = counts_pages(case.setting)
    both = run_both(trace_of(case.calls), case.setting, allocator)
    found = compare(*both, pages=pages)
    finding = None
    if found:
        finding = Finding(case.name, case.setting, len(case.calls), found, case.calls, found)
    equal = found.row if found else len(case.calls)
    word = case.setting.word
    return MallocVerdict(version, allocator, word, 1, len(case.calls), equal, finding, pages)
