"""The engine as Python sees it: one class a handle, one module a noun.

This package alone touches cffi's ``ffi`` and ``lib``, and takes both from its ``border``.
"""

from pyalloc.engine.allocators import allocator_changes, allocator_names
from pyalloc.engine.border import UNLIMITED
from pyalloc.engine.heap import Heap
from pyalloc.engine.heapdata import (
    CHUNK,
    CHUNK_STATES,
    NO_THREAD,
    ArenaView,
    HeapStatistics,
    Layout,
    MallInfo,
    Settings,
)
from pyalloc.engine.pages import PROTECTIONS, GuardedPage, Pages, View
from pyalloc.engine.places import fill_places
from pyalloc.engine.ram import RULES, SHAPES, Ram, RamSettings
from pyalloc.engine.replay import OUTPUTS, SAMPLE_FIELDS, TOUCH_MODES, ReplayRun
from pyalloc.engine.space import Space
from pyalloc.engine.stops import (
    PENDING,
    STOP_ABORT,
    STOP_BRK,
    STOP_FRAMES,
    STOP_MMAP,
    STOP_MPROTECT,
    STOP_MREMAP,
    STOP_MUNMAP,
    STOP_TOUCH,
    Stop,
)

__all__ = [
    "CHUNK",
    "CHUNK_STATES",
    "NO_THREAD",
    "OUTPUTS",
    "PENDING",
    "PROTECTIONS",
    "RULES",
    "SAMPLE_FIELDS",
    "SHAPES",
    "STOP_ABORT",
    "STOP_BRK",
    "STOP_FRAMES",
    "STOP_MMAP",
    "STOP_MPROTECT",
    "STOP_MREMAP",
    "STOP_MUNMAP",
    "STOP_TOUCH",
    "TOUCH_MODES",
    "UNLIMITED",
    "ArenaView",
    "GuardedPage",
    "Heap",
    "HeapStatistics",
    "Layout",
    "MallInfo",
    "Pages",
    "Ram",
    "RamSettings",
    "ReplayRun",
    "Settings",
    "Space",
    "Stop",
    "View",
    "allocator_changes",
    "allocator_names",
    "fill_places",
]
