"""Who does the work: processes of our own, any executor, or a Dask cluster.

A point of a small sweep is half Python and half engine, so threads get in each other's way;
workers are processes.  They come from a fork server, which is clean whatever the caller's process
holds, and end with it, whatever ends it.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import forkserver
from typing import Any, Final

from pyalloc.errors import ArgumentError

_PRELOADED: Final = ["pyalloc.lab.sweep.point"]


def processors() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0))


def _end_with_parent() -> None:
    """Let this worker end when the process it works for does, even by SIGKILL."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _no_interrupts() -> Iterator[None]:
    """Let what starts meanwhile ignore SIGINT, which a terminal sends to all of us."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main one may say
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _safe_path() -> Iterator[None]:
    """Let a Python that starts meanwhile not look for modules in the current folder.

    The fork server is started by ``-c``, which puts that folder first: in a source tree it would
    preload sources that have no compiled engine instead of the package that is at work here.
    """
    before = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONSAFEPATH"]
        else:
            os.environ["PYTHONSAFEPATH"] = before


def processes(workers: int) -> ProcessPoolExecutor:
    """Return a pool of worker processes."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    with _safe_path(), _no_interrupts():
        forkserver.ensure_running()
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with_parent)


def width_of(executor: Executor) -> int:
    """Return how many jobs an executor does at a time, as far as it says."""
    width = getattr(executor, "_max_workers", None)
    return width if isinstance(width, int) and width > 0 else processors()


@contextmanager
def dask_executor(address: str) -> Iterator[tuple[Executor, int]]:
    """Yield an executor on the Dask cluster at ``address``, and how many jobs it does at a time.

    Raises
    ------
    ArgumentError
        Dask is not installed, or nothing answers there.
    """
    client = _client(address)
    try:
        threads = sum(client.nthreads().values())
        yield client.get_executor(pure=False), max(threads, 1)
    finally:
        client.close()


def _client(address: str) -> Any:  # noqa: ANN401 - an optional library's
    try:
        from distributed import Client  # noqa: PLC0415 - an extra
    except ImportError:
        message = "a Dask cluster needs the extra: pip install 'pyalloc[dask]'"
        raise ArgumentError(message) from None
    client: Any = Client  # without types, where it is there at all
    try:
        return client(address, timeout=10)
    except (OSError, ValueError) as error:
        message = f"no Dask scheduler answers at {address}: {error}"
        raise ArgumentError(message) from None
