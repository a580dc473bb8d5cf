"""pyalloc: a Linux memory machine you can script."""

from __future__ import annotations

from pyalloc.errors import (
    ArgumentError,
    EngineBug,
    EngineBusy,
    EngineLimit,
    HeapAbort,
    KernelPanic,
    MemoryFault,
    ProcessKilled,
    PyallocError,
    RecordError,
    TraceError,
)
from pyalloc.kernel.abi import MADV, MAP, MREMAP, PROT
from pyalloc.kernel.limits import Limits
from pyalloc.kernel.oom import Task, oom_policy
from pyalloc.lab.allocators import Allocator, allocators
from pyalloc.lab.examine import Examination, examine
from pyalloc.lab.replay import Agreement, agreement, replay
from pyalloc.machine import (
    Cgroup,
    File,
    Machine,
    OomEvent,
    Process,
    Replay,
    ReplayError,
    ReplaySummary,
)
from pyalloc.trace import NULL_BLOCK, Op, Trace, TraceInfo, read_trace
from pyalloc.trace.record import Recording, record
from pyalloc.workload.catalogue import WORKLOADS, workload

__all__ = [
    "MADV",
    "MAP",
    "MREMAP",
    "NULL_BLOCK",
    "PROT",
    "WORKLOADS",
    "Agreement",
    "Allocator",
    "ArgumentError",
    "Cgroup",
    "EngineBug",
    "EngineBusy",
    "EngineLimit",
    "Examination",
    "File",
    "HeapAbort",
    "KernelPanic",
    "Limits",
    "Machine",
    "MemoryFault",
    "OomEvent",
    "Op",
    "Process",
    "ProcessKilled",
    "PyallocError",
    "RecordError",
    "Recording",
    "Replay",
    "ReplayError",
    "ReplaySummary",
    "Task",
    "Trace",
    "TraceError",
    "TraceInfo",
    "agreement",
    "allocators",
    "examine",
    "oom_policy",
    "read_trace",
    "record",
    "replay",
    "workload",
]
