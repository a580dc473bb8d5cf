"""What chunks, and the lists they are on, are called."""

from __future__ import annotations

from typing import Final

from pyalloc.machine.chunks import Chunk, ChunkState


def rank(index: int, length: int) -> str:
    """Return a place in a list in words, such as ``2nd of 5``."""
    number = index + 1
    ending = {1: "st", 2: "nd", 3: "rd"}.get(number % 10 if number % 100 not in {11, 12, 13} else 0)
    return f"{number}{ending or 'th'} of {length}"


STATES: Final = {
    ChunkState.USED: "in use",
    ChunkState.MAPPED: "in use, a mapping of its own, which free() gives back at once",
    ChunkState.TOP: "the top, the free end of the arena, from which chunks are cut",
    ChunkState.FENCE: "a fence, which ends a stretch of memory and is never handed out",
    ChunkState.OWN: "the library's own, the tcache",
}
"""What chunks on no list are."""


def list_name(chunk: Chunk) -> str:
    """Return what the list a free chunk is on is called."""
    match chunk.state:
        case ChunkState.TCACHE:
            return f"the tcache of thread {chunk.thread} (bin {chunk.bin})"
        case ChunkState.FAST:
            return f"fastbin {chunk.bin}"
        case ChunkState.UNSORTED:
            return "the unsorted list"
        case ChunkState.SMALL:
            return f"small bin {chunk.bin}"
        case ChunkState.LARGE:
            return f"large bin {chunk.bin}"
        case _:
            return "no list"


def within(chunk: Chunk) -> str:
    """Return where a free chunk is: in which bin, or on the unsorted list."""
    return f"{'on' if chunk.state == ChunkState.UNSORTED else 'in'} {list_name(chunk)}"


def into(chunk: Chunk) -> str:
    """Return where a chunk is put that has become free."""
    return f"{'on' if chunk.state == ChunkState.UNSORTED else 'into'} {list_name(chunk)}"


def brief(chunk: Chunk) -> str:
    """Return a chunk in a few words."""
    size = f"{chunk.size:,} bytes at {chunk.address:#x}"
    match chunk.state:
        case ChunkState.USED | ChunkState.MAPPED:
            return f"{size}, in use"
        case ChunkState.TOP:
            return f"the top, {size}"
        case ChunkState.FENCE:
            return f"a fence at {chunk.address:#x}"
        case ChunkState.OWN:
            return f"{size}, the library's own"
        case _:
            return f"{size}, free {within(chunk)}"
