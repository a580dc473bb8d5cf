"""What a verification found, in words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pyalloc.lab.verify.kernel import Finding as KernelFinding
from pyalloc.lab.verify.kernel import KernelVerdict
from pyalloc.lab.verify.malloc import Call, Difference, Finding, MallocVerdict
from pyalloc.lab.verify.oom import OomVerdict
from pyalloc.lab.verify.reclaim import Comparison, ReclaimVerdict
from pyalloc.trace import NULL_BLOCK, Op
from pyalloc.trace.ops import ALIGNS
from pyalloc.trace.table import SIGNED


def malloc_lines(verdict: MallocVerdict) -> Iterator[str]:
    """Yield the lines of one word size."""
    yield (
        f"{verdict.word}-bit glibc {verdict.glibc} of this host, taken for {verdict.allocator}: "
        f"{verdict.streams:,} streams, {verdict.calls:,} calls"
    )
    if verdict.finding is None:
        also = "usable size, page fault and resident page" if verdict.pages else "usable size"
        yield f"  every address, break, {also} is equal"
        return
    yield from _finding_lines(verdict.finding)


def _finding_lines(finding: Finding) -> Iterator[str]:
    yield f"  {finding.stream}"
    yield f"  differs at call {finding.difference.row:,} of {finding.calls:,}"
    yield f"  the shortest that still differs, {len(finding.shortest)} calls:"
    threaded = any(call.thread for call in finding.shortest)
    for row, call in enumerate(finding.shortest):
        who = f"thread {call.thread}  " if threaded else ""
        yield f"    {row:>4}  {who}{call_text(call)}"
    yield f"  {difference_text(finding.shortest_difference)}"


_PLACES: Final = ("address", "brk")


def difference_text(difference: Difference) -> str:
    """Return a difference as one line."""
    real, model = (
        f"{value:#x}" if isinstance(value, int) and difference.what in _PLACES else str(value)
        for value in (difference.real, difference.model)
    )
    return f"call {difference.row}: {difference.what}: real {real}, model {model}"


_FORMS: Final = {
    Op.FREE: "free({block})",
    Op.REALLOC: "{block} = realloc({block}, {size})",
    Op.CALLOC: "{block} = calloc(1, {size})",
    Op.MALLOPT: "mallopt({arg}, {size})",
    Op.MALLOC_TRIM: "malloc_trim({size})",
    Op.SBRK: "sbrk({size})",
    Op.MMAP: "{block} = mmap({size})",
    Op.MUNMAP: "munmap({block}, {size})",
    Op.TOUCH: "touch({block} + {arg}, {size})",
    Op.THREAD_EXIT: "thread_exit()",
}


def call_text(call: Call) -> str:
    """Return a call as it is written in C; bN is block N."""
    op = Op(call.op)
    aligned = "{block} = {name}({arg}, {size})"
    form = _FORMS.get(op, aligned if op in ALIGNS else "{block} = {name}({size})")
    block = "NULL" if call.block == NULL_BLOCK else f"b{call.block}"
    size, arg = (_signed(call.size), _signed(call.arg)) if op in SIGNED else call[2:4]
    return form.format(block=block, name=op.name.lower(), size=size, arg=arg)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


# --- the kernel


def kernel_lines(verdict: KernelVerdict) -> Iterator[str]:
    """Yield the lines of one word size."""
    yield (
        f"{verdict.word}-bit processes on Linux {verdict.kernel}, taken for {verdict.model}: "
        f"{_counted(verdict.sequences, 'sequence')}, {_counted(verdict.calls, 'call')}"
    )
    if verdict.unsteady:
        sequences = _counted(verdict.unsteady, "sequence")
        yield f"  {sequences} differed once, and not when made again: chance of this kernel's own"
    if verdict.finding is None:
        yield "  every result, errno, signal, area, size, page fault and smaps field is equal"
        return
    yield from _kernel_finding_lines(verdict.finding)


def _kernel_finding_lines(finding: KernelFinding) -> Iterator[str]:
    calls, last = finding.shortest.calls, finding.shortest.difference or finding.difference
    yield f"  {finding.spec}" if finding.spec else "  the case"
    yield f"  differs at call {finding.difference.row:,} of {finding.calls:,}"
    yield f"  the shortest that still differs, {len(calls)} calls:"
    for row, call in enumerate(calls):
        yield f"    {row:>4}  {call}"
    yield f"  {last.call}: {last.what}: real {last.real or 'none'}, model {last.model or 'none'}"


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' * (count != 1)}"


def oom_lines(verdict: OomVerdict) -> Iterator[str]:
    """Yield what was found of the OOM killer."""
    yield (
        f"Linux {verdict.kernel} of this host, taken for {verdict.model}: {verdict.cases} cases of"
        f" a full cgroup, {verdict.kills} kills, {verdict.rows} lines of candidates"
    )
    if verdict.unsteady:
        yield f"  {verdict.unsteady} differed once, and not when run again"
    if verdict.difference is None or verdict.case is None:
        yield "  every victim, candidate and figure is equal"
        return
    found = verdict.difference
    yield f"  differs: {verdict.case}, at {found.step}"
    yield f"  {found.what}: real {found.real}, model {found.model}"


# --- reclaim

_SCAN: Final = "  {:>5} {:<5} {:<7} {:>4} {:>4} {:<6} {:>7} {:>10}  {:<14}  {:>6}  {}"
_HEAD: Final = (
    "seed", "mode", "pattern", "MB", "x", "access", "cluster", "swappiness", "misses here", "model",
    "",
)  # fmt: skip


def reclaim_lines(verdict: ReclaimVerdict) -> Iterator[str]:
    """Yield a line a scan, and what comes of them."""
    scans = _counted(len(verdict.comparisons), "scan")
    often = "once" if verdict.repeats == 1 else f"{verdict.repeats} times"
    yield (
        f"Linux {verdict.kernel} of this host, taken for {verdict.model}: {scans}, each made"
        f" {often}"
    )
    yield _SCAN.format(*_HEAD).rstrip()
    for one in verdict.comparisons:
        yield _comparison_line(one)
    yield from _reclaim_summary(verdict)


def _comparison_line(one: Comparison) -> str:
    scan = one.scan
    real = f"{min(one.rates):.3f}..{max(one.rates):.3f}" if one.rates else "killed"
    model = "killed" if one.rate is None else f"{one.rate:.3f}"
    return _SCAN.format(
        scan.seed,
        scan.mode,
        scan.pattern,
        scan.megabytes,
        f"{scan.factor:.2f}",
        "write" if scan.write else "read",
        scan.page_cluster,
        scan.swappiness,
        real,
        model,
        f"{one.answer} {one.off:.3f}" if one.off else one.answer,
    )


def _reclaim_summary(verdict: ReclaimVerdict) -> Iterator[str]:
    still_open = f", {verdict.count('open')} open" if verdict.count("open") else ""
    yield (
        f"  {verdict.count('within')} within {verdict.within:g} of an access,"
        f" {verdict.count('outside')} outside{still_open}"
    )
    if verdict.kills:
        runs = verdict.repeats * len(verdict.comparisons)
        yield f"  the OOM killer of this host ended {verdict.kills} of {runs}"
    distances = (f"{mode} {value:.3f}" for mode, value in verdict.distances().items())
    yield f"  mean distance: {', '.join(distances) or 'nothing to compare'}"
