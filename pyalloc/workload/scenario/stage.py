"""Making what a scenario says: its machine, cgroups, files and processes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from pyalloc.kernel.layout import Layout
from pyalloc.kernel.limits import INFINITY, Limits
from pyalloc.kernel.prelink import prelinked_layout
from pyalloc.machine import Cgroup, File, Machine, Process
from pyalloc.units import parse_size
from pyalloc.workload.scenario.spec import CgroupSpec, FileSpec, MachineSpec, ProcessSpec


def machine_of(spec: MachineSpec, seed: int = 0) -> Machine:
    """Return the machine."""
    given: dict[str, Any] = msgspec.structs.asdict(spec)
    policy = given.pop("oom_policy") or None
    return Machine(**given, policy=policy, seed=seed)


def cgroups_on(machine: Machine, specs: Sequence[CgroupSpec]) -> dict[str, Cgroup]:
    """Make the cgroups, parents first, and return them by name."""
    made: dict[str, Cgroup] = {}
    while len(made) < len(specs):
        for spec in specs:
            if spec.name not in made and (not spec.parent or spec.parent in made):
                parent = made[spec.parent] if spec.parent else None
                made[spec.name] = machine.cgroup(
                    spec.name,
                    spec.memory_max,
                    spec.swap_max,
                    parent=parent,
                    memory_high=spec.memory_high,
                    oom_group=spec.oom_group,
                )
    return made


def files_on(machine: Machine, specs: Sequence[FileSpec]) -> dict[str, File]:
    """Make the files and return them by name."""
    return {
        spec.name: machine.file(spec.name, spec.size, cached=spec.cached, tmpfs=spec.tmpfs)
        for spec in specs
    }


def spawn(machine: Machine, spec: ProcessSpec, cgroups: dict[str, Cgroup]) -> Process:
    """Start one process of ``spec``."""
    return machine.spawn(
        spec.name[:15],
        allocator=spec.allocator or None,
        uid=spec.uid,
        nice=spec.nice,
        oom_score_adj=spec.oom_score_adj,
        oom_adj=spec.oom_adj,
        rlimits=_limits(spec),
        cgroup=cgroups.get(spec.cgroup),
        maps=Path(spec.maps).read_text(encoding="utf-8") if spec.maps else None,
        brk=spec.brk,
        tunables=spec.tunables or None,
        layout=_layout(machine, spec),
    )


def _layout(machine: Machine, spec: ProcessSpec) -> Layout | None:
    if spec.layout == "small" or spec.maps:
        return None
    return prelinked_layout(machine.profile, f"/{spec.name}")


def _limits(spec: ProcessSpec) -> Limits:
    return Limits(
        address_space=_bytes(spec.rlimit_as),
        data=_bytes(spec.rlimit_data),
        stack=_bytes(spec.rlimit_stack),
        memlock=_bytes(spec.rlimit_memlock),
        ipc_lock=spec.uid == 0,
    )


def _bytes(limit: int | str) -> int:
    return INFINITY if limit == "max" else parse_size(limit)
