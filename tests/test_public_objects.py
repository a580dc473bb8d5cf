"""What one meets in a Python session: names, representations, copies, pickles, other processes."""

from __future__ import annotations

import copy
import functools
import inspect
import multiprocessing
import pickle
from collections.abc import Callable

import pytest

import pyalloc as pa
from pyalloc.trace.record import CannotRun
from pyalloc.workload.programs.parameters import ProgramError

TRACE = pa.workload("random", count=3000, live=50)


def machine() -> pa.Machine:
    return pa.Machine(ram="64M", swap="32M", kernel="6.18", arch="x86_64")


OBJECTS: dict[str, Callable[[], object]] = {
    "machine": machine,
    "process": lambda: machine().spawn("worker"),
    "cgroup": lambda: machine().cgroup("web", memory_max="16M"),
    "file": lambda: machine().file("data", size=4096),
    "trace": lambda: TRACE,
    "replay": lambda: pa.replay(TRACE),
    "examination": lambda: pa.examine(TRACE),
    "leaks": lambda: pa.leaks(TRACE),
    "blame": lambda: pa.blame(TRACE),
    "order": lambda: pa.order(TRACE, ["lifo"], repeats=1, search=0),
    "advice": lambda: pa.advise(TRACE, ["arena_max=1"]),
    "comparison": lambda: pa.compare({"a": TRACE, "b": TRACE}),
    "sweep": lambda: pa.sweep("lifo:count=100", {"seed": [1, 2]}, workers=1),
    "outlook": pa.outlook,
    "simulation": lambda: pa.simulate("fork-bomb", until="1s"),
}
HERE_ONLY = ("machine", "process", "cgroup", "file", "simulation")


@pytest.mark.parametrize("name", OBJECTS)
def test_a_session_shows_an_object_in_a_line(name: str) -> None:
    """A screen of arrays helps nobody; an address in memory says nothing."""
    shown = repr(OBJECTS[name]())
    assert "\n" not in shown
    assert len(shown) < 200
    assert " object at 0x" not in shown
    assert shown.startswith("<")


@pytest.mark.parametrize("name", [name for name in OBJECTS if name not in HERE_ONLY])
def test_a_result_travels_to_another_process(name: str) -> None:
    """And it can be compared with what came back, which is another object."""
    found = OBJECTS[name]()
    again = pickle.loads(pickle.dumps(found))  # noqa: S301 - our own
    assert repr(again) == repr(found)
    assert found == found  # noqa: PLR0124 - a dataclass of arrays could not say
    assert (again == found) in (True, False)


@pytest.mark.parametrize("name", HERE_ONLY)
def test_what_lives_in_a_process_says_so(name: str) -> None:
    with pytest.raises(TypeError, match="cannot be pickled: send a trace or a scenario"):
        pickle.dumps(OBJECTS[name]())


def test_a_summary_is_the_same_on_the_other_side() -> None:
    """What ``pool.map(lambda trace: pa.replay(trace).summary)`` needs."""
    replay = pa.replay(TRACE)
    again = pickle.loads(pickle.dumps(replay))  # noqa: S301
    assert again.summary == replay.summary
    assert hash(again.summary) == hash(replay.summary)
    assert (again.address == replay.address).all()
    assert again.timeline.num_rows == replay.timeline.num_rows
    for name in ("process", "heap"):
        with pytest.raises(AttributeError, match="stayed where the replay was made"):
            getattr(again, name)


@pytest.mark.parametrize("make", [copy.copy, copy.deepcopy, pa.Machine.copy])
def test_every_way_to_copy_a_machine_gives_an_independent_one(
    make: Callable[[pa.Machine], pa.Machine],
) -> None:
    one = machine()
    block = one.spawn("p").malloc(1 << 20)
    two = make(one)
    (before,), (twin,) = one.processes.values(), two.processes.values()
    twin.touch(block, 1 << 20)
    assert twin.status()["VmRSS"] > before.status()["VmRSS"]
    one.check()
    two.check()


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_other_processes_replay_too(method: str) -> None:
    """With a function of the package: a worker need not find this file."""
    names = ["glibc-2.36", "best-fit"]
    replay = functools.partial(pa.replay, TRACE)
    with multiprocessing.get_context(method).Pool(2) as pool:
        found = pool.map(replay, names)
    assert [one.summary for one in found] == [replay(name).summary for name in names]


def test_the_package_names_what_is_meant_to_be_used() -> None:
    """Each with words of its own; what is mistyped is told the nearest."""
    assert set(pa.__all__) < set(dir(pa))
    assert "annotations" not in dir(pa)
    assert pa.__version__.count(".") == 2
    for name in pa.__all__:
        value = getattr(pa, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert (inspect.getdoc(value) or "").strip(), name
    with pytest.raises(AttributeError, match="did you mean Machine"):
        pa.Machin  # type: ignore[attr-defined]  # noqa: B018


def test_errors_come_from_other_processes_as_they_are() -> None:
    """With their class, their text, and all they carry."""
    errors: list[pa.PyallocError] = [
        pa.MemoryFault(7, 0x1234),
        CannotRun("no such command", 127),
        ProgramError("no such key", "size"),
        pa.ArgumentError("too small"),
    ]
    for error in errors:
        again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
        assert type(again) is type(error)
        assert str(again) == str(error)
        assert vars(again) == vars(error)
