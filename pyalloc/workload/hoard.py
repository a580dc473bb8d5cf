"""Hoard's tests: false sharing of two kinds, and threads that fill and free."""

from __future__ import annotations

import numpy as np

from pyalloc.trace import Op, Trace
from pyalloc.workload.rows import Rows, frees, interleaved, joined, mallocs, rows, thread_exits
from pyalloc.workload.writer import check


def _again_and_again(thread: int, size: int, times: int, base: int) -> Rows:
    """Return malloc, free, malloc, free ... of one size."""
    op = np.tile(np.array([Op.MALLOC, Op.FREE], np.uint8), times)
    return rows(op, base + np.repeat(np.arange(times), 2), size * (op == Op.MALLOC), thread)


def cache_scratch(threads: int = 4, size: int = 8, repetitions: int = 10_000) -> Trace:
    """Return Hoard's cache-scratch: passive false sharing.

    Parameters
    ----------
    threads
        Threads, each of which is given a block by the main thread.
    size
        Bytes of every block.
    repetitions
        How often each thread allocates and frees; the original calls these iterations.
    """
    check(threads=threads, size=size, repetitions=repetitions)
    given = np.arange(threads)
    parts = [
        joined(
            [
                frees(given[i : i + 1], 1 + i),
                _again_and_again(1 + i, size, repetitions, threads + i * repetitions),
                thread_exits([1 + i]),
            ]
        )
        for i in range(threads)
    ]
    return joined([mallocs(given, size), interleaved(parts)]).trace("cache_scratch")


def cache_thrash(threads: int = 4, size: int = 8, repetitions: int = 10_000) -> Trace:
    """Return Hoard's cache-thrash: active false sharing.

    Parameters
    ----------
    threads
        Threads.
    size
        Bytes of every block.
    repetitions
        How often each thread allocates and frees; the original calls these iterations.
    """
    check(threads=threads, size=size, repetitions=repetitions)
    parts = [
        joined([_again_and_again(1 + i, size, repetitions, i * repetitions), thread_exits([1 + i])])
        for i in range(threads)
    ]
    return interleaved(parts).trace("cache_thrash")


def threadtest(
    threads: int = 4, iterations: int = 50, objects: int = 30_000, size: int = 8
) -> Trace:
    """Return Hoard's threadtest: each thread fills and frees, again and again.

    Parameters
    ----------
    threads
        Threads.
    iterations
        How often each of them allocates its objects and frees them all.
    objects
        Objects of an iteration, shared out among the threads; each keeps its own in a table.
    size
        Bytes of an object.
    """
    check(threads=threads, iterations=iterations, objects=objects, size=size)
    own = max(objects // threads, 1)
    each = iterations * own + 1  # blocks of a thread: its objects, and the table of them
    parts = []
    for i in range(threads):
        table = i * each + np.arange(1)
        block = (table + 1 + np.arange(iterations * own)).reshape(iterations, own)
        calls = np.repeat(np.array([[Op.MALLOC, Op.FREE]], np.uint8), iterations, axis=0)
        op = np.repeat(calls.reshape(-1), own)
        both = np.concatenate([block, block], axis=1).reshape(-1)
        work = rows(op, both, size * (op == Op.MALLOC), 1 + i)
        made = mallocs(table, 8 * own, 1 + i)
        parts.append(joined([made, work, frees(table, 1 + i), thread_exits([1 + i])]))
    return interleaved(parts).trace("threadtest")


__all__ = ["cache_scratch", "cache_thrash", "threadtest"]
