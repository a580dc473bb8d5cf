"""The loops of the article "When Linux Runs Out of Memory" (M. Santosa, 2006), as calls.

``loop_malloc``, ``loop_calloc`` and ``loop_memset`` are its first programs: megabytes until no more
come.  A trace cannot know when that is, so it asks for a given number; replayed on a machine that
has less, it fails or is killed where the program would.

``fragmented1`` and ``fragmented2`` are the article's pair on fragmentation: both request the same
total and give the same part of it back, the first one is left with 319,858,832 wasted bytes, the
second one with 2,089,200, 153 times less.  Their sources are not known.  What is written here fits
that description on glibc 2.3.3, i386; *wasted* is what the heap holds beyond what the program still
uses.  The two make the same requests and free the same blocks:

* each large block has a small one of 4 bytes beside it (a pointer to it, say), which stays; in the
  end all large ones are freed;
* ``fragmented1`` allocates pairs, large and small in turn, so that a small block lies behind each
  hole, and frees in the order of allocation;
* ``fragmented2`` allocates the small ones first and frees last in, first out, so that each free
  meets the top of the heap, which is given back.

Large blocks of 1948 bytes (chunks of 1952) and a total that makes 162,900 pairs were chosen because
they come within 0.04 % of both figures.  With blocks of 128 KiB and more, past M_MMAP_THRESHOLD,
the first program wastes no more than the second: every block is a mapping of its own.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from pyalloc.errors import ArgumentError
from pyalloc.trace import Op, Trace
from pyalloc.workload.rows import Rows, frees, joined, mallocs, rows

MEGABYTE: Final = 1 << 20

FRAGMENTED_SIZE: Final = 1948
FRAGMENTED_SMALL: Final = 4
FRAGMENTED_TOTAL: Final = 162_900 * (FRAGMENTED_SIZE + FRAGMENTED_SMALL)

_LARGE_SITE: Final = 1
_SMALL_SITE: Final = 2


def _check_count(count: int) -> None:
    if not 0 <= count < 1 << 31:
        message = f"count must be 0 to 2147483647 (got {count!r})"
        raise ArgumentError(message)


def loop_malloc(count: int = 4096, size: int = MEGABYTE) -> Trace:
    """Return requests of a megabyte that are neither used nor freed.

    Parameters
    ----------
    count, size
        Requests, and bytes of each.
    """
    _check_count(count)
    return mallocs(np.arange(count), size).trace("loop_malloc")


def loop_calloc(count: int = 4096, size: int = MEGABYTE) -> Trace:
    """Return the same requests through calloc.

    Parameters
    ----------
    count, size
        Requests, and bytes of each.
    """
    _check_count(count)
    return rows(Op.CALLOC, np.arange(count), size).trace("loop_calloc")


def loop_memset(count: int = 4096, size: int = MEGABYTE) -> Trace:
    """Return the same requests, each block filled (TOUCH rows: replay with "recorded").

    Parameters
    ----------
    count, size
        Requests, and bytes of each.
    """
    _check_count(count)
    block = np.repeat(np.arange(count), 2)
    op = np.tile(np.array([Op.MALLOC, Op.TOUCH], np.uint8), count)
    return rows(op, block, size).trace("loop_memset")


def _pairs(size: int, small: int, total: int) -> int:
    if size < 1 or small < 1:
        message = f"size and small must be at least 1 byte (got {size!r} and {small!r})"
        raise ArgumentError(message)
    count = total // (size + small)
    _check_count(count)
    return count


def fragmented1(
    size: int = FRAGMENTED_SIZE,
    total: int = FRAGMENTED_TOTAL,
    small: int = FRAGMENTED_SMALL,
) -> Trace:
    """Return the program that wastes: large and small blocks in turn, the large ones freed.

    Parameters
    ----------
    size, small
        Bytes of a large block and of the small one beside it.
    total
        Bytes requested in all.
    """
    pairs = np.arange(_pairs(size, small, total))
    large, kept = 2 * pairs, 2 * pairs + 1
    made = joined([_made(large, size, _LARGE_SITE), _made(kept, small, _SMALL_SITE)])
    return joined([made.sorted(made.block), frees(large)]).trace("fragmented1")


def fragmented2(
    size: int = FRAGMENTED_SIZE,
    total: int = FRAGMENTED_TOTAL,
    small: int = FRAGMENTED_SMALL,
) -> Trace:
    """Return the program that does not: small blocks first, then large ones, freed in reverse.

    Parameters
    ----------
    size, small
        Bytes of a large block and of the small one beside it.
    total
        Bytes requested in all.
    """
    pairs = np.arange(_pairs(size, small, total))
    kept, large = pairs, len(pairs) + pairs
    return joined(
        [_made(kept, small, _SMALL_SITE), _made(large, size, _LARGE_SITE), frees(large[::-1])]
    ).trace("fragmented2")


def _made(block: np.ndarray[tuple[int], np.dtype[np.int64]], size: int, site: int) -> Rows:
    return mallocs(block, size, site=site)
