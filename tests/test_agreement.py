"""How simulated addresses are held against recorded ones."""

from __future__ import annotations

import shutil
import subprocess

import numpy as np
import pytest

import pyalloc as pa
from pyalloc.trace.record import record

BIG = 1 << 26
THREADS = r"""
#include <pthread.h>
#include <stdlib.h>
static pthread_barrier_t third;
static void *work(void *seed)
{
    unsigned s = (unsigned)(size_t)seed;
    void *held[64] = {0};
    for (int i = 0; i < 6000; i++) {
        if (i == 2000 || i == 4000) pthread_barrier_wait(&third);
        unsigned k = rand_r(&s) % 64;
        free(held[k]);
        held[k] = malloc(rand_r(&s) % 3000);
    }
    return malloc(300000);
}
int main(void)
{
    pthread_t thread[3];
    pthread_barrier_init(&third, 0, 3);
    for (size_t i = 0; i < 3; i++) pthread_create(&thread[i], 0, work, (void *)(i + 1));
    for (int i = 0; i < 3; i++) pthread_join(thread[i], 0);
    return 0;
}
"""


@pytest.fixture(scope="module")
def threaded(tmp_path_factory: pytest.TempPathFactory) -> pa.Trace:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    folder = tmp_path_factory.mktemp("threads")
    (folder / "t.c").write_text(THREADS)
    subprocess.run([compiler, "-pthread", "t.c", "-o", "t"], cwd=folder, check=True)
    [recording] = record([str(folder / "t")], folder / "trace")
    return recording.trace()


def replayed(trace: pa.Trace) -> pa.Replay:
    return pa.replay(trace, record=("address", "usable"))


def moved(trace: pa.Trace, address: np.ndarray) -> pa.Trace:
    columns = {name: getattr(trace, name) for name in ("op", "block", "size", "thread")}
    return pa.Trace({**columns, "address": address}, trace.info)


def test_threads_agree_inside_their_heaps(threaded: pa.Trace) -> None:
    """Each block of a thread has its place in the heap, wherever the kernel put that heap."""
    elsewhere = threaded.address.copy()
    elsewhere[(threaded.thread > 0) & (elsewhere > 0)] -= np.uint64(5 * BIG)
    found = pa.agreement(moved(threaded, elsewhere), replayed(threaded))
    assert found is not None
    assert found.complete
    assert found.in_heaps > 10_000
    assert found.mapped >= 3
    assert found.agreeing == found.compared


def test_one_byte_off_in_a_heap_is_told(threaded: pa.Trace) -> None:
    """At the very call, although the block lies where no break is."""
    result = replayed(threaded)
    inside = np.flatnonzero((threaded.thread > 0) & (threaded.op == pa.Op.MALLOC))
    row = int(inside[len(inside) // 2])
    address = threaded.address.copy()
    address[row] += 16
    found = pa.agreement(moved(threaded, address), result)
    assert found is not None
    assert found.first == row
    assert found.simulated != found.recorded == address[row]


def test_the_wrong_arena_is_told_though_the_place_in_it_is_right(threaded: pa.Trace) -> None:
    """Two heaps for one at a time are no counterparts."""
    result = replayed(threaded)
    address = threaded.address.copy()
    heaps, counts = np.unique(address // BIG, return_counts=True)
    one, other = heaps[np.argsort(counts)[-2:]]
    inside = np.flatnonzero(address // BIG == one)
    row = int(inside[len(inside) // 2])
    address[row] = address[row] % BIG + other * BIG
    found = pa.agreement(moved(threaded, address), result)
    assert found is not None
    assert not found.complete
    assert found.agreeing < found.compared
