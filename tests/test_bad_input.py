"""What no program would pass: the kernel's errno, or an error that names the argument."""

from __future__ import annotations

import contextlib
import functools
import itertools
import random
import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_host import can_build
from test_verify_kernel import can_verify

import pyalloc as pa
from pyalloc.host.kernel import host_kernel, may_lock
from pyalloc.host.mapped import mapped_files
from pyalloc.host.puppet import Start
from pyalloc.lab.verify.twins import Twins
from pyalloc.workload.syscalls import SystemCall, reached

PAGE = 4096
NO_INTS = (None, 1.5, "x", b"x", [1], {}, object(), float("nan"), np.float64(2))

CALLS: Mapping[str, Mapping[str, Any]] = {
    "malloc": {"size": 10},
    "calloc": {"count": 1, "size": 10},
    "realloc": {"address": 0, "size": 10},
    "free": {"address": 0},
    "memalign": {"alignment": 16, "size": 10},
    "posix_memalign": {"alignment": 16, "size": 10},
    "aligned_alloc": {"alignment": 16, "size": 16},
    "valloc": {"size": 1},
    "pvalloc": {"size": 1},
    "malloc_trim": {"pad": 0},
    "mallopt": {"parameter": -1, "value": 0},
    "usable_size": {"address": 0},
    "fill": {"size": 10},
    "malloc_each": {"sizes": [10]},
    "fill_each": {"sizes": [10]},
    "free_each": {"addresses": [0]},
    "set_thread": {"thread": 0},
    "mmap": {"addr": 0, "length": PAGE, "prot": 3, "flags": 0x22, "fd": -1, "offset": 0},
    "munmap": {"addr": 0, "length": PAGE},
    "mprotect": {"addr": 0, "length": PAGE, "prot": 3},
    "mremap": {"addr": 0, "old": PAGE, "new": PAGE, "flags": 0, "new_addr": 0},
    "brk": {"addr": 0},
    "sbrk": {"increment": 0},
    "madvise": {"addr": 0, "length": PAGE, "advice": 4},
    "mlock": {"addr": 0, "length": PAGE, "flags": 0},
    "munlock": {"addr": 0, "length": PAGE},
    "mlockall": {"flags": 1},
    "msync": {"addr": 0, "length": PAGE, "flags": 4},
    "rseq": {"addr": 0, "length": 32, "flags": 0, "sig": 7},
    "touch": {"addr": 0, "length": PAGE, "write": True},
    "touch_pages": {"addr": 0, "pages": [0], "write": True},
    "close": {"fd": 3},
    "read": {"fd": 3, "length": 10, "offset": 0},
    "write": {"fd": 3, "length": 10, "offset": 0},
    "ftruncate": {"fd": 3, "length": PAGE},
    "exit": {"code": 0},
    "die": {"number": 9},
}


def seen(process: pa.Process) -> tuple[str, ...]:
    """Return all that shows of a process and its machine."""
    machine = process.machine
    texts = (process.maps(), process.smaps(), process.status(), machine.meminfo(), machine.vmstat())
    return (*map(str, texts), str(machine.clock), str(sorted(process.files)))


def busy() -> pa.Process:
    machine = pa.Machine(ram="64M", kernel="6.18", arch="x86_64")
    process = machine.spawn("busy", uid=0)
    process.open(machine.file("/file", size=40960), "rw")
    process.touch(process.malloc(20000), 20000)
    return process


@pytest.mark.parametrize(("name", "argument"), [(n, a) for n, kw in CALLS.items() for a in kw])
def test_a_wrong_type_is_named_and_changes_nothing(name: str, argument: str) -> None:
    """Of every argument of every call: a TypeError that names it."""
    process = busy()
    before = seen(process)
    wrong = NO_INTS if argument not in ("pages", "sizes", "addresses") else NO_INTS[1:4]
    for value in wrong:
        with pytest.raises(TypeError, match=rf"\b{argument}\b") as caught:
            getattr(process, name)(*(CALLS[name] | {argument: value}).values())
        assert isinstance(caught.value, pa.PyallocError)
        assert seen(process) == before
    process.machine.check()


MADE: list[tuple[Callable[[pa.Machine], Callable[..., object]], Mapping[str, Any], Any]] = [
    (lambda _: pa.Machine, {}, {
        "ram": None, "swap": 1.5, "kernel": 6.18, "arch": 64, "cpus": "2", "overcommit_memory": "1",
        "overcommit_ratio": 1.5, "overcommit_kbytes": "9", "admin_reserve_kbytes": "x",
        "reserved": None, "swappiness": "60", "page_cluster": None, "huge_pages": "no",
        "policy": 3, "disk": 3, "read_ahead": [], "sysctl": 3, "seed": "x",
    }),
    (lambda machine: machine.spawn, {}, {
        "name": None, "allocator": 3, "uid": None, "nice": 1.5, "oom_score_adj": "0",
        "oom_adj": None, "rlimit_as": 1.5, "rlimits": {}, "cgroup": "web", "maps": ["a"],
        "brk": "x", "tunables": 3, "layout": "x", "personality": "x",
    }),
    (lambda machine: machine.cgroup, {"name": "web"}, {
        "name": 3, "memory_max": 1.5, "swap_max": [], "parent": "x", "memory_high": 1.5,
        "oom_group": "yes",
    }),
    (lambda machine: machine.file, {"name": "f"}, {
        "name": 3, "size": None, "cached": "no", "folio": 1.5, "tmpfs": [],
    }),
    (lambda machine: machine.advance, {}, {"seconds": "1"}),
    (lambda _: pa.Limits, {}, {
        "address_space": None, "data": "x", "stack": 1.5, "memlock": [], "ipc_lock": "no",
    }),
]  # fmt: skip


@pytest.mark.parametrize(
    ("make", "usual", "argument", "value"),
    [(make, usual, name, value) for make, usual, kw in MADE for name, value in kw.items()],
)
def test_machines_and_what_is_made_on_them_name_a_wrong_type(
    make: Callable[[pa.Machine], Callable[..., object]],
    usual: Mapping[str, Any],
    argument: str,
    value: object,
) -> None:
    """Nothing is made, and what there is stays as it is."""
    process = busy()
    before, count = seen(process), len(process.machine.processes)
    with pytest.raises(TypeError, match=rf"\b{argument}\b") as caught:
        make(process.machine)(**(dict(usual) | {argument: value}))
    assert isinstance(caught.value, pa.PyallocError)
    assert (seen(process), len(process.machine.processes)) == (before, count)


@pytest.mark.parametrize(
    ("argument", "value"),
    [("nice", 20), ("oom_adj", 16), ("oom_score_adj", 1001), ("uid", -1), ("brk", 1 << 70),
     ("tunables", {"nonsense": 1}), ("allocator", "tcmalloc-99"), ("maps", "nonsense")],
)  # fmt: skip
def test_a_process_that_cannot_be_is_not(argument: str, value: object) -> None:
    """Out of bounds is a ValueError; no memory stays taken, and no process is left behind."""
    process = busy()
    before = seen(process)
    with pytest.raises(pa.ArgumentError):
        process.machine.spawn(**{argument: value})  # type: ignore[arg-type]  # that is the test
    assert seen(process) == before
    process.machine.check()


def test_sizes_are_those_of_the_register() -> None:
    """-1 is SIZE_MAX, a product that does not fit is NULL, and numpy's numbers are numbers."""
    for arch, word in (("x86_64", 8), ("i386", 4)):
        process = pa.Machine(ram="1G", kernel="6.18", arch=arch).spawn("p")
        assert process.malloc(-1) == process.malloc((1 << 8 * word) - 1) == 0
        assert process.calloc(1 << 4 * word, 1 << 4 * word) == 0
        assert process.calloc(-1, 2) == process.calloc(2, -1) == process.calloc(-1, -1) == 0
        block = process.malloc(np.int64(100))
        assert process.usable_size(np.uint64(block)) >= 100
        process.touch(np.uint64(block), np.int32(100), np.bool_(True))  # noqa: FBT003 - the test
        assert process.realloc(np.uint64(block), np.uint8(50))


@pytest.mark.parametrize("thread", [1 << 22, (1 << 32) - 1])
def test_a_thread_beyond_all_that_linux_counts_is_refused(thread: int) -> None:
    """By the call, and by a replay of a trace that has one; up to there it is a thread."""
    process = busy()
    with pytest.raises(pa.ArgumentError, match="thread must be 0 to 4194303"):
        process.set_thread(thread)
    trace = pa.Trace.from_arrays([pa.Op.MALLOC] * 2, [0, 1], [10, 20], thread=[0, thread])
    with pytest.raises(pa.EngineLimit):
        pa.replay(trace)


# --- the kernel's errno ------------------------------------------------------------------------

BASE = 0x10000000
ADDRESSES = [
    0, 1, PAGE - 1, PAGE, BASE, BASE + PAGE, BASE + 1, BASE + 5 * PAGE, BASE + 10 * PAGE,
    BASE + 20 * PAGE, 1 << 31, 0xC0000000, 0xFFFFE000, 0xFFFFF000, 1 << 32, 0x7FFFFFFFE000,
    (1 << 47) - PAGE, 1 << 47, 1 << 63, 0xFFFFFFFFFF600000, (1 << 64) - PAGE, (1 << 64) - 1,
]  # fmt: skip
LENGTHS = [
    0, 1, PAGE - 1, PAGE, PAGE + 1, 12 * PAGE, (1 << 31) - 1, 1 << 31, (1 << 32) - PAGE,
    (1 << 32) - 1, 1 << 32, (1 << 47) - PAGE, 1 << 47, 1 << 52, 1 << 63, (1 << 64) - PAGE,
    (1 << 64) - PAGE + 1, (1 << 64) - 1,
]  # fmt: skip
MAPPED = (
    ("mmap", BASE, 8 * PAGE, 3, 0x32, -1, 0),
    ("mmap", BASE + 10 * PAGE, 4 * PAGE, 1, 0x32, -1, 0),
    ("touch", BASE, 3, 1),
)


def wild_calls(descriptors: list[int], seed: int, count: int) -> list[SystemCall]:
    """Return calls with arguments of every kind of nonsense."""
    calls: list[tuple[Any, ...]] = []
    for addr, length in itertools.product(ADDRESSES, LENGTHS):
        calls += [(name, addr, length) for name in ("munmap", "mlock", "munlock")]
        calls += [("mprotect", addr, length, prot) for prot in (0, 3, 8, 1 << 24, 1 << 31)]
        calls += [("madvise", addr, length, advice) for advice in (-1, 0, 3, 4, 8, 9, 10, 22, 99)]
        calls += [("msync", addr, length, flags) for flags in (0, 1, 2, 4, 5, 8)]
        calls += [
            ("mremap", addr, length, new, flags, BASE + 40 * PAGE)
            for new in (0, 1, 5 * PAGE, 1 << 47, (1 << 64) - 1)
            for flags in (0, 1, 2, 3, 5, 8)
        ]
        calls += [
            ("mmap", addr, length, 3, flags, fd, offset)
            for flags in (0, 1, 2, 3, 0x12, 0x22, 0x32, 0x100022)
            for fd in (-1, *descriptors, 99)
            for offset in (0, 1, (1 << 64) - PAGE)
        ]
    for bit in range(32):
        calls += [("mmap", 0, PAGE, 1 << bit, 0x22, -1, 0), ("mmap", 0, PAGE, 3, 1 << bit, -1, 0)]
        calls += [("mprotect", BASE, PAGE, 3 | 1 << bit), ("mlockall", 1 << bit)]
        calls += [("mlock2", BASE, PAGE, 1 << bit), ("mremap", BASE, PAGE, PAGE, 1 << bit, 0)]
    calls += [("brk", addr) for addr in ADDRESSES]
    random.Random(seed).shuffle(calls)  # noqa: S311 - no secret
    return [SystemCall(name, tuple(args)) for name, *args in calls[:count]]


def is_known_to_vary(call: SystemCall) -> bool:
    """Whether the answer hangs on what else this host has: huge pages set aside."""
    return call.name == "mmap" and bool(call.args[3] & 0x40000)


@pytest.mark.skipif(not can_verify(), reason="no profile of this host's kernel")
@pytest.mark.parametrize("word", [64, 32])
def test_wild_arguments_get_this_kernel_s_errno(word: int) -> None:
    """Result, errno, areas, sizes and faults after each of a thousand such calls."""
    if not can_build(word // 8):
        pytest.skip("no compiler for this word size")
    start = Start("x86_64" if word == 64 else "i386", limits=pa.Limits(ipc_lock=may_lock()))
    made = 0
    with mapped_files() as files, contextlib.ExitStack() as stack:
        twins = stack.enter_context(Twins(start, host_kernel(), files))
        for call in wild_calls(twins.descriptors[:2], seed=word, count=1000):
            if made % 50 == 0:
                stack.close()
                twins = stack.enter_context(Twins(start, host_kernel(), files))
                for name, *args in MAPPED:
                    assert twins.difference(0, SystemCall(str(name), tuple(map(int, args)))) is None
            ranges = reached(call, twins.space)
            if is_known_to_vary(call) or any(twins.is_own(low, high) for low, high in ranges):
                continue
            assert twins.difference(made, call) is None
            made += 1
    assert made > 700


NUMBERS = st.sampled_from(ADDRESSES + LENGTHS) | st.integers(-(1 << 65), 1 << 65)
OVERFLOWING = {"memalign", "posix_memalign", "aligned_alloc", "valloc", "pvalloc"}
"""Before 2.18 these add to a size without a look, and damage the heap (CVE-2013-4332)."""
MAY_CHANGE = {"mprotect", "madvise", "mmap", "mremap", "munmap", "mlock", "munlock", "mlockall"}


@settings(max_examples=60, deadline=None)
@given(
    kernel=st.sampled_from(["2.6.11", "2.6.18", "6.12", "6.18"]),
    arch=st.sampled_from(["i386", "i386-pae", "i386-compat", "x86_64"]),
    calls=st.lists(st.tuples(st.sampled_from(sorted(set(CALLS) - {"exit", "die"})),
                             st.lists(NUMBERS, min_size=6, max_size=6)), max_size=25),
)  # fmt: skip
def test_no_number_breaks_a_machine(
    kernel: str, arch: str, calls: list[tuple[str, list[int]]]
) -> None:
    """In no era: a result, an errno, a signal or an abort; and every invariant holds afterwards."""
    machine = pa.Machine(ram="16M", swap="16M", kernel=kernel, arch=arch)
    process = machine.spawn("p", uid=0)
    process.open(machine.file("/file", size=40960), "rw")
    for name, numbers in calls:
        if name in OVERFLOWING and kernel.startswith("2.6"):
            continue
        arguments = list(CALLS[name])
        values: list[Any] = numbers[: len(arguments)]
        if name in ("touch", "touch_pages"):
            values = [numbers[0], abs(numbers[1]) % (64 * PAGE), bool(numbers[2] & 1)]
            values[1] = [values[1] // PAGE] if name == "touch_pages" else values[1]
        if name == "set_thread":
            values[0] %= 5000
        if name.endswith("_each"):
            values = [[number % (1 << 64) for number in numbers]]
        before = (str(process.maps()), str(process.status()))
        try:
            getattr(process, name)(*values)
        except pa.ProcessKilled:
            break
        except (OSError, pa.ArgumentError):
            assert name in MAY_CHANGE or (str(process.maps()), str(process.status())) == before
        except (pa.MemoryFault, pa.HeapAbort):
            if not process.alive:
                break
    machine.check()


# --- what every study takes --------------------------------------------------------------------

STUDIES: dict[str, Callable[[Any], object]] = {
    "replay": pa.replay,
    "examine": pa.examine,
    "leaks": pa.leaks,
    "blame": pa.blame,
    "advise": pa.advise,
    "fit": pa.fit,
    "explain": lambda trace: pa.explain(trace, 0),
}
SMALL = pa.workload("random", count=500, live=50)


@pytest.mark.parametrize("study", STUDIES)
@pytest.mark.parametrize("value", [None, "lifo", 3, [1, 2]])
def test_what_is_no_trace_is_told_where_to_get_one(study: str, value: object) -> None:
    with pytest.raises(pa.WrongType, match=r"must be a Trace \(got .*read_trace"):
        STUDIES[study](value)


@pytest.mark.parametrize("wrong", [
    {"samples": 1.5}, {"samples": "x"}, {"record": None}, {"tunables": [1]}, {"maps": 3},
    {"machine": 3}, {"allocator": 3},
])  # fmt: skip
def test_arguments_of_a_replay_are_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(pa.WrongType, match=next(iter(wrong))):
        pa.replay(SMALL, **wrong)


def test_a_sample_more_than_there_are_calls_costs_nothing() -> None:
    """Nor is one column a list of its letters."""
    assert pa.replay(SMALL, samples=1 << 50, record="address").timeline.num_rows == 500


@pytest.mark.parametrize("call", [
    lambda: pa.blame(SMALL, listed=-1), lambda: pa.blame(SMALL, tried=-1),
    lambda: pa.leaks(SMALL, listed=-1), lambda: pa.advise(SMALL, [], slower=float("nan")),
    lambda: pa.advise(SMALL, ["arena_max=1"], touch="x"), lambda: pa.examine(SMALL, sites=-1),
    lambda: pa.order(SMALL, ["lifo"], seed=-1), lambda: pa.replay(SMALL).sampled("hep"),
])  # fmt: skip
def test_numbers_and_names_out_of_bounds_are_told(call: Callable[[], object]) -> None:
    with pytest.raises(pa.ArgumentError):
        call()


def test_names_that_are_nearly_right_are_told() -> None:
    replay = pa.replay(SMALL)
    with pytest.raises(AttributeError, match="did you mean summary"):
        _ = replay.sumary
    with pytest.raises(KeyError, match="did you mean VmRSS"):
        replay.process.status()["VmRss"]


def test_a_cgroup_is_one_and_of_this_machine() -> None:
    machine, other = (pa.Machine(ram="64M", kernel="6.18", arch="x86_64") for _ in range(2))
    group = machine.cgroup("web")
    for name in ("web", "", "a/b"):
        with pytest.raises(pa.ArgumentError, match="cgroup"):
            machine.cgroup(name)
    assert machine.cgroup("web", parent=group).path == "/web/web"
    with pytest.raises(pa.ArgumentError, match="another machine's"):
        other.spawn("p", cgroup=group)
    with pytest.raises(pa.ArgumentError, match="another machine's"):
        other.cgroup("x", parent=group)


def test_a_machine_on_which_a_trace_runs_is_closed_to_other_threads() -> None:
    """The engine runs a trace without Python's lock: who comes meanwhile is told so."""
    machine = pa.Machine(ram="1G", kernel="6.18", arch="x86_64")
    one, two = machine.spawn("one"), machine.spawn("two")
    block = two.malloc(1 << 20)  # on leased ground, where a touch needs no look at the areas
    told: list[str] = []

    def visit(_: object) -> None:
        with contextlib.suppress(pa.EngineBusy):
            one.malloc(10)
            told.append("malloc")
        touch = functools.partial(two.touch, block, 1 << 20)
        for call in (lambda: two.brk(0), touch, machine.copy, lambda: two.replay(SMALL)):
            with contextlib.suppress(pa.EngineBusy):
                call()
                told.append(str(call))

    with machine.entered(one):
        visitor = threading.Thread(target=visit, args=(None,))
        visitor.start()
        visitor.join()
        assert told == []
        assert one.malloc(10)  # this thread's own
        assert one.replay(SMALL).summary.calls == 500
    assert two.replay(SMALL).summary.calls == 500
    visit(None)
    assert len(told) == 5
    machine.check()
