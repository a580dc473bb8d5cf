"""Looking into a heap: chunks, lists, arenas, and what the library says of itself.

Everything here reads and nothing changes: the next call of the program returns what it would have
returned.
"""

from __future__ import annotations

import errno
import os
from dataclasses import astuple
from typing import TYPE_CHECKING, Final

from pyalloc import engine
from pyalloc.arguments import registers
from pyalloc.errors import ArgumentError
from pyalloc.machine import malloctext
from pyalloc.machine.chunks import Chunks, ChunkState, FreeLists, KnownBlocks
from pyalloc.machine.drawing import draw
from pyalloc.machine.explain import Explanation, explain

if TYPE_CHECKING:
    from pyalloc.machine.process import Process

_MALLINFO2: Final = 233
_MALLOC_INFO: Final = 210
_ANY: Final = -1  # a mask that lets every number through


class HeapView:
    """A process's heap to look at.

    Attributes
    ----------
    process
        Whose heap it is.
    heap
        The engine's handle.
    """

    def __init__(self, process: Process, heap: engine.Heap, known: KnownBlocks | None) -> None:
        self.process = process
        self.heap = heap
        self.known = known

    @property
    def word(self) -> int:
        """Bytes of a pointer; a chunk's header is two of them."""
        return 8 if self.process.machine.profile.arch == "x86_64" else 4

    # --- what the library does not show

    def chunks(self) -> Chunks:
        """Return every chunk in address order, as columns."""
        return Chunks.of(self.heap.chunks(), self.known)

    def bins(self) -> FreeLists:
        """Return the free chunks of the arenas: fastbins, unsorted list, small and large bins.

        They come list by list, each from its head on; :meth:`FreeLists.by_list` sums them up.
        """
        lists = self.heap.lists()
        return FreeLists.of(lists[lists["state"] != ChunkState.TCACHE])

    def tcache(self, thread: int | None = None) -> FreeLists:
        """Return the chunks in the tcaches, of all threads or of one, bin by bin."""
        lists = self.heap.lists()
        lists = lists[lists["state"] == ChunkState.TCACHE]
        return FreeLists.of(lists if thread is None else lists[lists["thread"] == thread])

    def arenas(self) -> list[engine.ArenaView]:
        """Return the arenas, in the order in which the library goes through them."""
        return self.heap.arenas()

    def settings(self) -> engine.Settings:
        """Return the settings in force now: thresholds, limits, what has changed them.

        Raises
        ------
        ArgumentError
            The allocator is not a glibc.
        """
        self._library("settings")
        return self.heap.settings()

    def explain(self, address: int) -> Explanation:
        """Say what lies at ``address``, why it is still there, and what becomes of it.

        ``str()`` of what is returned is the whole in words; its fields are the parts.

        Raises
        ------
        ArgumentError, WrongType
            It is no address of any machine.
        """
        return explain(self, *registers(_ANY, address=address))

    def draw(
        self, start: int | None = None, end: int | None = None, *, width: int = 100, rows: int = 24
    ) -> str:
        """Draw a region of the heap, by default all of it, as text of at most ``width`` columns.

        Each cell stands for the same number of bytes, as few as let the region fit in ``rows``
        lines; the drawing says how many, and what the letters mean.

        Raises
        ------
        ArgumentError, WrongType
            There is no such region, or it cannot be drawn that small.
        """
        width, rows = registers(_ANY, width=width, rows=rows)
        low = None if start is None else registers(_ANY, start=start)[0]
        high = None if end is None else registers(_ANY, end=end)[0]
        return draw(self, low, high, width=width, rows=rows)

    # --- what the library says

    def mallinfo2(self) -> engine.MallInfo:
        """Return what ``mallinfo2()`` does (2.33 and later).

        Raises
        ------
        ArgumentError
            The simulated library has no such call.
        """
        self._since(_MALLINFO2, "mallinfo2")
        return self.heap.mallinfo()

    def mallinfo(self) -> engine.MallInfo:
        """Return what ``mallinfo()`` does: C ints, negative once a sum passes 2 GiB."""
        self._library("mallinfo")
        wrapped = ((value + (1 << 31)) % (1 << 32) - (1 << 31) for value in astuple(self._info()))
        return engine.MallInfo(*wrapped)

    def malloc_stats(self) -> str:
        """Return what ``malloc_stats()`` prints on stderr, byte for byte."""
        return malloctext.malloc_stats(self._readings("malloc_stats"))

    def malloc_info(self, options: int = 0) -> str:
        """Return the XML that ``malloc_info()`` writes, byte for byte (2.10 and later).

        Raises
        ------
        OSError
            EINVAL: ``options`` is not 0.
        ArgumentError
            The simulated library has no such call.
        """
        self._since(_MALLOC_INFO, "malloc_info")
        if options:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return malloctext.malloc_info(self._readings("malloc_info"))

    def _info(self) -> engine.MallInfo:
        return self.heap.mallinfo()

    def _readings(self, call: str) -> malloctext.Readings:
        settings = self._library(call)
        arenas = self.heap.arenas()
        return malloctext.Readings(
            version=settings.version,
            word=settings.word,
            align=settings.align,
            arenas=arenas,
            infos=[self.heap.mallinfo(number) for number in range(len(arenas))],
            statistics=self.heap.statistics(),
            lists=self.heap.lists(),
        )

    def _library(self, call: str) -> engine.Settings:
        try:
            return self.heap.settings()
        except ArgumentError:
            message = f"{self.process.allocator} is not a glibc: it has no {call}"
            raise ArgumentError(message) from None

    def _since(self, version: int, call: str) -> None:
        if self._library(call).version < version:
            message = (
                f"{self.process.allocator} has no {call}; it came with glibc "
                f"{version // 100}.{version % 100}"
            )
            raise ArgumentError(message)
