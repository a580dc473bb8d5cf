"""Machine and Process: the two objects a user holds."""

from __future__ import annotations

from pyalloc.machine.cgroup import Cgroup
from pyalloc.machine.chunks import Chunk, Chunks, ChunkState, FreeLists
from pyalloc.machine.explain import Explanation
from pyalloc.machine.files import File
from pyalloc.machine.heapview import HeapView
from pyalloc.machine.machine import Machine
from pyalloc.machine.metrics import Breakdown, ReplaySummary
from pyalloc.machine.oom import OomEvent
from pyalloc.machine.process import Process
from pyalloc.machine.replay import Replay, ReplayError

__all__ = [
    "Breakdown",
    "Cgroup",
    "Chunk",
    "ChunkState",
    "Chunks",
    "Explanation",
    "File",
    "FreeLists",
    "HeapView",
    "Machine",
    "OomEvent",
    "Process",
    "Replay",
    "ReplayError",
    "ReplaySummary",
]
