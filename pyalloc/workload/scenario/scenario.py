"""A scenario: a machine, what runs on it, and for how long, as a value."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, field

from pyalloc.workload.scenario.check import check
from pyalloc.workload.scenario.convert import convert, plain
from pyalloc.workload.scenario.files import anchored
from pyalloc.workload.scenario.origin import Origin
from pyalloc.workload.scenario.spec import (
    CgroupSpec,
    ChangeSpec,
    Duration,
    ExpectSpec,
    FileSpec,
    MachineSpec,
    ProcessSpec,
    Spec,
)
from pyalloc.workload.scenario.vary import varied


class Scenario(Spec, frozen=True, kw_only=True):
    """A machine, what runs on it, and for how long: a value, to be varied and run.

    Run it with :func:`pyalloc.simulate`.

    Attributes
    ----------
    title, description
        What it is about.
    seed
        Seed of every random number in it; the same seed gives the same events.
    duration
        When it stops if its programs have not ended before.
    machine, cgroups, files, processes, changes, expect
        Its parts; in a file they are ``[machine]``, ``[[cgroup]]``, ``[[file]]``, ``[[process]]``,
        ``[[change]]`` and ``[expect]``.

    Examples
    --------
    >>> import pyalloc as pa
    >>> one = pa.Scenario.from_dict({"process": [{"name": "a", "program": "leak:size=1M"}]})
    >>> one.vary({"machine.ram": "64M", "process.a.rlimit_as": "32M"}).machine.ram
    '64M'
    """

    title: Annotated[str, Meta(description="One line.")] = ""
    description: Annotated[str, Meta(description="What it shows, in some sentences.")] = ""
    seed: Annotated[int, Meta(ge=0, description="Seed of every random number in it.")] = 0
    duration: Annotated[
        Duration, Meta(description="When it stops if its programs have not ended before.")
    ] = "1h"
    machine: Annotated[MachineSpec, Meta(description="The machine.")] = MachineSpec()
    cgroups: Annotated[
        tuple[CgroupSpec, ...], Meta(description="Memory cgroups, one a [[cgroup]].")
    ] = field(default=(), name="cgroup")
    files: Annotated[tuple[FileSpec, ...], Meta(description="Files, one a [[file]].")] = field(
        default=(), name="file"
    )
    processes: Annotated[
        tuple[ProcessSpec, ...],
        Meta(min_length=1, description="Processes, one a [[process]], in order of their numbers."),
    ] = field(name="process")
    changes: Annotated[
        tuple[ChangeSpec, ...], Meta(description="What changes meanwhile, one a [[change]].")
    ] = field(default=(), name="change")
    expect: Annotated[ExpectSpec, Meta(description="What should come of it.")] = ExpectSpec()

    @classmethod
    def from_dict(
        cls, data: Mapping[str, Any], *, folder: str | Path = "", origin: Origin | None = None
    ) -> Scenario:
        """Return the scenario of plain data, keys as in a file, checked.

        Parameters
        ----------
        data
            What a file would hold: numbers, texts, lists and dicts.
        folder
            What relative paths in it are relative to; by default the working directory.
        origin
            Where it comes from, for errors.

        Raises
        ------
        ScenarioError
            It cannot be run; the text says where it is wrong.
        """
        origin = origin or Origin()
        found = convert(anchored(data, Path(folder)), cls, origin)
        check(found, origin)
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data, without what has its default."""
        found: dict[str, Any] = plain(self)
        return found

    def vary(self, changes: Mapping[str, Any]) -> Scenario:
        """Return the scenario with some keys changed, checked.

        Parameters
        ----------
        changes
            New values by key path: ``"machine.ram"``, ``"cgroup.web.memory_max"``,
            ``"process.worker.program.size"``; elements of lists go by their name.

        Raises
        ------
        ScenarioError
            There is no such key, or its value does not fit.
        """
        return Scenario.from_dict(varied(self.to_dict(), changes))

    def check(self) -> None:
        """Raise ScenarioError unless it can be run."""
        Scenario.from_dict(self.to_dict())
