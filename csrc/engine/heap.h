/* SPDX-License-Identifier: MIT
 *
 * heap.h -- the seam behind which every allocator stands.
 *
 * An allocator is a struct that begins with pa_heap and a table of functions (pa_allocator).  It
 * computes placement only.  What it needs of the kernel it asks through heap_sbrk(), heap_ask():
 * either the answer is there at once (the break may move freely inside its lease), or the call
 * returns PA_PENDING, policy answers, and the allocator's resume() goes on where it stopped.
 * What it does to its pages it writes down (heap_touch, heap_discard, heap_unmap) in the order in
 * which it happens; the log is applied to the mm when the call ends, before a question is asked,
 * or when it is full.  So page faults never stop an allocator half-way.
 *
 *     brk_start <= lease_low <= brk <= lease_high     while a lease is given
 */
#ifndef PA_HEAP_H
#define PA_HEAP_H

#include "mm.h"

/* One call of the malloc interface, numbered as pyalloc.Op and as the trace columns. */
typedef enum pa_op {
    PA_OP_MALLOC = 0,
    PA_OP_CALLOC,
    PA_OP_REALLOC,
    PA_OP_FREE,
    PA_OP_MEMALIGN,
    PA_OP_POSIX_MEMALIGN,
    PA_OP_ALIGNED_ALLOC,
    PA_OP_VALLOC,
    PA_OP_PVALLOC,
    PA_OP_MALLOC_TRIM,
    PA_OP_MALLOPT,
    PA_OP_SBRK,
    PA_OP_MMAP,
    PA_OP_MUNMAP,
    PA_OP_TOUCH,
    PA_OP_THREAD_EXIT,
    PA_OP_COUNT
} pa_op;

#endif
