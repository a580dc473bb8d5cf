"""Scenarios: a machine, its cgroups and processes, what they do and when, as a value or a file.

==============================================  =================================================
:mod:`~pyalloc.workload.scenario.spec`          the definition: keys, units, defaults
:mod:`~pyalloc.workload.scenario.scenario`      the value itself
:mod:`~pyalloc.workload.scenario.convert`       plain data against the definition
:mod:`~pyalloc.workload.scenario.check`         what the definition cannot say
:mod:`~pyalloc.workload.scenario.origin`        the place of a key in a file
:mod:`~pyalloc.workload.scenario.files`         files, and those that come with the package
:mod:`~pyalloc.workload.scenario.schema`        the JSON Schema for editors, the table of keys
:mod:`~pyalloc.workload.scenario.stage`         machine, cgroups and processes made from it
==============================================  =================================================
"""

from __future__ import annotations

from pyalloc.workload.scenario.load import load_scenario, scenarios, text_of
from pyalloc.workload.scenario.scenario import Scenario
from pyalloc.workload.scenario.spec import (
    CgroupSpec,
    ChangeSpec,
    ExpectSpec,
    FileSpec,
    MachineSpec,
    ProcessSpec,
)

__all__ = [
    "CgroupSpec",
    "ChangeSpec",
    "ExpectSpec",
    "FileSpec",
    "MachineSpec",
    "ProcessSpec",
    "Scenario",
    "load_scenario",
    "scenarios",
    "text_of",
]
