"""The stress tests of the field, as sequences of calls.

Malloc implementations are compared by the programs below.  What matters of each is who allocates
what, in which order it is freed, and by whom; that is what these traces hold, by the rules of the
published sources, with the tables that threads keep of their blocks.  Time is not in them: threads
take turns, one call each, unless a test says how they wait for each other.  Random numbers come
from PCG64 in place of the originals' generators and tables; calls that do nothing (``free(NULL)``)
and what the main programs allocate for their own book-keeping are left out.

===================  =============================================================================
``larson``           a server: a thread replaces random blocks of its set, ends, and leaves the set
                     to a new thread (Larson and Krishnan, "Memory Allocation for Long-Running
                     Server Applications", ISMM 1998)
``sh6bench``         blocks of 1 to 1000 bytes, small ones most often, through a ring of which a
                     moving fifth survives each round; the rest is freed in order below it and in
                     reverse above it (MicroQuill SmartHeap benchmark 6)
``sh8bench``         the same with sizes from 8 to 168,524 bytes, 16 most often, while the main
                     thread makes blocks that the others free (benchmark 8)
``cache_scratch``    each thread frees an object that the main thread allocated, then allocates and
                     frees one of that size over and over (Hoard, passive false sharing)
``cache_thrash``     the same without that object (Hoard, active false sharing)
``xmalloc``          producers allocate batches, consumers free the newest first (Lever and Boreham,
                     "malloc() Performance in a Multithreaded Linux Environment", FREENIX 2000)
``threadtest``       each thread allocates many blocks of one size, frees them all, and again
                     (Hoard)
``mstress``          threads keep some blocks, free some at random, and swap some with other threads
                     through a table (mimalloc)
``rptest``           threads free and replace in strides through their sets, and hand sets of
                     blocks to each other to be freed (rpmalloc)
===================  =============================================================================
"""

from __future__ import annotations

from pyalloc.workload.hoard import cache_scratch, cache_thrash, threadtest
from pyalloc.workload.larson import larson
from pyalloc.workload.mstress import mstress
from pyalloc.workload.rptest import rptest
from pyalloc.workload.smartheap import sh6bench, sh8bench
from pyalloc.workload.xmalloc import xmalloc

__all__ = [
    "cache_scratch",
    "cache_thrash",
    "larson",
    "mstress",
    "rptest",
    "sh6bench",
    "sh8bench",
    "threadtest",
    "xmalloc",
]
