"""Programs: what the processes of a scenario do.

A program is a generator function.  It is given a :class:`Job`, the process as its program sees it,
makes calls on it, and yields the seconds until it wants to go on::

    def leak(job, size: Bytes = 1 << 20, every: Seconds = 1.0):
        while job.fill(size):
            yield every

It ends when the function returns (an int is its exit code), when the process is killed, or when a
signal would have ended it.

=================================  ================================================================
:mod:`~pyalloc.workload.programs.job`      the process as its program sees it
:mod:`~pyalloc.workload.programs.library`  programs by name: services, leaks, the article's
:mod:`~pyalloc.workload.programs.replayed` a trace as a program, at the pace it was recorded
:mod:`~pyalloc.workload.programs.program`  a program with its parameters; finding one by name
=================================  ================================================================
"""

from __future__ import annotations

from pyalloc.workload.programs.job import Job, Stage
from pyalloc.workload.programs.parameters import Parameter, ProgramError, parameters_of
from pyalloc.workload.programs.program import PROGRAMS, Program, program
from pyalloc.workload.programs.units import Bytes, Seconds

__all__ = [
    "PROGRAMS",
    "Bytes",
    "Job",
    "Parameter",
    "Program",
    "ProgramError",
    "Seconds",
    "Stage",
    "parameters_of",
    "program",
]
