"""Which settings are worth a trial: one knob at a time, then the useful ones together.

Values are chosen by what the default run did: a threshold beyond every request, or an arena limit
beyond the arenas there are, decides nothing and is not tried.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Final

from pyalloc.engine import allocator_names
from pyalloc.lab.setting import Setting, is_known, version_of
from pyalloc.lab.trial import Outcome, Trials
from pyalloc.trace import Op

KIB: Final = 1 << 10
MIB: Final = 1 << 20

_MMAP: Final = (32 * KIB, 64 * KIB, 128 * KIB, 256 * KIB, MIB, 4 * MIB, 32 * MIB, 1 << 30)
_TRIM: Final = (64 * KIB, 128 * KIB, MIB, 16 * MIB, 256 * MIB)
_TOP_PAD: Final = (0, MIB, 16 * MIB)
_ARENAS: Final = (1, 2, 4, 8)
_TCACHE: Final = (0, 2, 32)
_LEAST_MAPPED: Final = 16 * KIB
_MOST_PAIRS: Final = 10
_THRESHOLD: Final = 128 * KIB
_DYNAMIC: Final = ("MMAP_THRESHOLD", "TRIM_THRESHOLD", "TOP_PAD", "MMAP_MAX")


def single_settings(trials: Trials, default: Outcome) -> list[Setting]:
    """Return settings that turn one knob each, all of which the library knows."""
    found = [
        *_knob("mmap_threshold", _mmap_thresholds(trials)),
        *_knob("trim_threshold", (v for v in _TRIM if v <= 2 * max(default.peak_held, MIB))),
        *_knob("top_pad", (v for v in _TOP_PAD if v <= max(default.peak_held, MIB))),
        *_knob("arena_max", (v for v in _ARENAS if v < default.arenas)),
        *_knob("tcache_count", _TCACHE),
        *_knob("mxfast", (0,)),
        *_trims(len(trials.trace), default),
        *_generations(trials.allocator),
    ]
    return [s for s in found if is_known(s, trials.allocator, trials.word)]


def _knob(name: str, values: Iterable[int]) -> list[Setting]:
    return [Setting(((name, value),)) for value in values]


def _mmap_thresholds(trials: Trials) -> list[int]:
    op, size = trials.trace.op, trials.trace.size
    asked = size[(op <= Op.PVALLOC) & (op != Op.FREE)]
    largest = int(asked.max()) if asked.size else 0
    return [v for v in _MMAP if largest >= _LEAST_MAPPED and v // 4 <= largest]


def _trims(calls: int, default: Outcome) -> list[Setting]:
    """Return malloc_trim a hundred times, ten times, and by bytes allocated."""
    steps = [_round(calls / times) for times in (100, 10)]
    found = [Setting(trim_calls=step) for step in steps if step >= 10]
    spent = _round_size(default.peak_requested)
    return [*found, Setting(trim_bytes=max(spent, MIB))] if calls else found


def _round(number: float) -> int:
    """Return 1, 2 or 5 times a power of ten near ``number``."""
    power = 10 ** max(len(str(int(number))) - 1, 0)
    return int(next(m * power for m in (5, 2, 1) if m * power <= max(number, power)))


def _round_size(size: int) -> int:
    return 1 << max(size.bit_length() - 1, 0)


def _generations(own: str) -> list[Setting]:
    """Return the generations that a distribution of today may have, but for the trace's own."""
    wanted = ("glibc-2.31", "glibc-2.41", "glibc-2.43pre")
    names = allocator_names()
    return [Setting(allocator=n) for n in wanted if n in names and n != own and version_of(own)]


# --- what needs no trial


def is_inert(setting: Setting, trials: Trials, default: Outcome) -> bool:
    """Return whether ``setting`` provably changes nothing of the default run.

    The default run notes how near its settings came to deciding otherwise; a value that decides
    every one of those questions alike gives the same run, call by call.
    """
    if not setting.is_environment or setting.is_default:
        return setting.is_default
    plain = not trials.has_mallopt and default.threshold_moves == 0
    plain &= not any(name in text.upper() for text in _spoken(trials) for name in _DYNAMIC)
    return all(_decides_alike(name, value, default, plain) for name, value in setting.tunables)


def _spoken(trials: Trials) -> list[str]:
    return [f"{name}={text}" for name, text in trials.base.items()]


def _decides_alike(name: str, value: int, default: Outcome, plain: bool) -> bool:
    if name == "arena_max":
        return value >= default.arenas
    if name == "mmap_threshold":
        return plain and (value == _THRESHOLD or default.largest_asked < min(value, _THRESHOLD))
    if name == "trim_threshold":
        trimmed = default.top_trimmed or 1 << 63
        return plain and default.top_kept < value <= trimmed
    return name == "top_pad" and plain and value == _THRESHOLD


# --- together


def combined_settings(useful: Sequence[Setting], tried: Iterable[Setting]) -> list[Setting]:
    """Return the pairs of ``useful`` settings of different knobs, the most useful first.

    ``useful`` is ordered, best first.
    """
    known = set(tried)
    pairs = (a.joined(b) for a, b in combinations(useful, 2) if _knobs(a).isdisjoint(_knobs(b)))
    return list(dict.fromkeys(p for p in pairs if p not in known))[:_MOST_PAIRS]


def extended_settings(
    best: Setting, useful: Sequence[Setting], tried: Iterable[Setting]
) -> list[Setting]:
    """Return ``best`` with one more of the ``useful`` settings each."""
    known = set(tried)
    more = (best.joined(u) for u in useful if _knobs(best).isdisjoint(_knobs(u)))
    return [s for s in dict.fromkeys(more) if s not in known]


def _knobs(setting: Setting) -> set[str]:
    knobs = {name for name, _ in setting.tunables}
    if setting.trim_calls or setting.trim_bytes:
        knobs.add("malloc_trim")
    if setting.allocator:
        knobs.add("allocator")
    return knobs
