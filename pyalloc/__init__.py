"""pyalloc: a Linux memory machine you can script."""

from typing import TYPE_CHECKING

from pyalloc.errors import (
    ArgumentError,
    EndlessFault,
    EngineBug,
    EngineBusy,
    EngineLimit,
    HeapAbort,
    KernelPanic,
    MemoryFault,
    ProcessKilled,
    PyallocError,
    RecordError,
    ScenarioError,
    TraceError,
    WorkerError,
    WrongType,
)
from pyalloc.host.outlook import Outlook, outlook
from pyalloc.host.proc import read_proc
from pyalloc.kernel.abi import MADV, MAP, MREMAP, PER, PROT
from pyalloc.kernel.costs import Costs
from pyalloc.kernel.limits import Limits
from pyalloc.kernel.oom import Task, oom_policy
from pyalloc.kernel.proctext import ProcText, parse_proc
from pyalloc.lab.advise import Advice, advise
from pyalloc.lab.agreement import Agreement, agreement
from pyalloc.lab.allocators import Allocator, allocators
from pyalloc.lab.blame import Blame, blame
from pyalloc.lab.compare import Comparison, compare
from pyalloc.lab.examine import Examination, examine
from pyalloc.lab.explain import CallExplanation, explain
from pyalloc.lab.fit import Fit, fit
from pyalloc.lab.leaks import Leaks, leaks
from pyalloc.lab.order import OrderResult, OrderStudy, order
from pyalloc.lab.replay import replay
from pyalloc.lab.setting import Setting
from pyalloc.lab.simulate import simulate
from pyalloc.lab.simulation import Event, Outcome, Simulation
from pyalloc.lab.sweep import Sweep, sweep
from pyalloc.machine import (
    Breakdown,
    Cgroup,
    Chunk,
    Chunks,
    ChunkState,
    Explanation,
    File,
    FreeLists,
    HeapView,
    Machine,
    OomEvent,
    Process,
    Replay,
    ReplayError,
    ReplaySummary,
)
from pyalloc.nearest import near_word as _near_word
from pyalloc.trace import NULL_BLOCK, Op, Trace, TraceInfo, read_trace
from pyalloc.trace.record import Recording, record
from pyalloc.workload.catalogue import WORKLOADS, workload
from pyalloc.workload.programs import PROGRAMS, Bytes, Job, Program, Seconds
from pyalloc.workload.scenario import (
    CgroupSpec,
    ChangeSpec,
    ExpectSpec,
    FileSpec,
    MachineSpec,
    ProcessSpec,
    Scenario,
    load_scenario,
    scenarios,
)

__all__ = [
    "MADV",
    "MAP",
    "MREMAP",
    "NULL_BLOCK",
    "PER",
    "PROGRAMS",
    "PROT",
    "WORKLOADS",
    "Advice",
    "Agreement",
    "Allocator",
    "ArgumentError",
    "Blame",
    "Breakdown",
    "Bytes",
    "CallExplanation",
    "Cgroup",
    "CgroupSpec",
    "ChangeSpec",
    "Chunk",
    "ChunkState",
    "Chunks",
    "Comparison",
    "Costs",
    "EndlessFault",
    "EngineBug",
    "EngineBusy",
    "EngineLimit",
    "Event",
    "Examination",
    "ExpectSpec",
    "Explanation",
    "File",
    "FileSpec",
    "Fit",
    "FreeLists",
    "HeapAbort",
    "HeapView",
    "Job",
    "KernelPanic",
    "Leaks",
    "Limits",
    "Machine",
    "MachineSpec",
    "MemoryFault",
    "OomEvent",
    "Op",
    "OrderResult",
    "OrderStudy",
    "Outcome",
    "Outlook",
    "ProcText",
    "Process",
    "ProcessKilled",
    "ProcessSpec",
    "Program",
    "PyallocError",
    "RecordError",
    "Recording",
    "Replay",
    "ReplayError",
    "ReplaySummary",
    "Scenario",
    "ScenarioError",
    "Seconds",
    "Setting",
    "Simulation",
    "Sweep",
    "Task",
    "Trace",
    "TraceError",
    "TraceInfo",
    "WorkerError",
    "WrongType",
    "advise",
    "agreement",
    "allocators",
    "blame",
    "compare",
    "examine",
    "explain",
    "fit",
    "leaks",
    "load_scenario",
    "oom_policy",
    "order",
    "outlook",
    "parse_proc",
    "read_proc",
    "read_trace",
    "record",
    "replay",
    "scenarios",
    "simulate",
    "sweep",
    "workload",
]

if TYPE_CHECKING:
    __version__: str
else:

    def __getattr__(name: str) -> str:
        """Look up the version when it is asked for: that takes longer than to import an engine."""
        if name != "__version__":
            message = f"module {__name__!r} has no attribute {name!r}{_near_word(name, __all__)}"
            raise AttributeError(message)
        from importlib.metadata import version  # noqa: PLC0415

        return version(__name__)


def __dir__() -> list[str]:
    """Name what is meant to be used; the rooms it comes from are modules of their own."""
    return sorted([*__all__, "__version__", "__doc__"])
