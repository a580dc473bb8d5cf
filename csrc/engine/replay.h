/* SPDX-License-Identifier: MIT
 *
 * replay.h -- a trace under way: what the loops of allocators and replay.c share.
 */
#ifndef PA_REPLAY_H
#define PA_REPLAY_H

#include "blocks.h"
#include "heap.h"

#define NULL_BLOCK UINT32_MAX

typedef enum replay_state {
    REPLAY_ROWS = 0, /* between two rows                                      */
    REPLAY_CALL,     /* the heap asked something during `row`                 */
    REPLAY_POLICY,   /* `row` is an SBRK, MMAP or MUNMAP that policy performs */
    REPLAY_WRITE,    /* the program's own accesses of `row` found no frame    */
    REPLAY_DEAD
} replay_state;

struct pa_replay {
    pa_heap *heap;
    pa_columns in;
    pa_outputs out;
    pa_samples samples;
    pa_touch touch;
    replay_state state;
    pa_blocks blocks;
    size_t row; /* rows before it are done */
    size_t next_sample; /* of samples.rows */
    pa_stop stop;
    uint64_t touch_vpn, touch_left; /* pages still to be accessed by `row`   */
    uint64_t kernel_calls;          /* the heap's, when totals.held was read */
    pa_replay_totals totals;
    double requests_over_live; /* sum of bytes / P of the requests since totals.held changed */
    pa_heap_statistics now; /* when totals.held was read */
    pa_replay_peak peak;
};

/* Everything after which the heap may hold more or less than before. */
static inline uint64_t replay_count_kernel_calls(const pa_replay *r)
{
    return r->heap->count_brk_calls + r->heap->count_mmap_calls + r->heap->count_moves;
}

/* Has the heap called the kernel since totals.held was read? */
static inline bool replay_kernel_called(const pa_replay *r)
{
    return replay_count_kernel_calls(r) != r->kernel_calls;
}

/* Do row replay->row the long way.  False: stopped, see replay->stop. */
bool replay_row(pa_replay *replay);

/* The row's call gave `result`, or stopped.  False: stopped. */
bool replay_settle(pa_replay *replay, size_t row, uint64_t result);

/* The program writes its block.  False: stopped, no frame. */
bool replay_write(pa_replay *replay, uint64_t address, uint64_t bytes);

/* What every row that got a block does besides its bookkeeping.  False: stopped. */
bool replay_got(pa_replay *replay, size_t row, uint64_t address);

/* Pages of the process that cost memory or swap. */
static inline uint64_t replay_pages(const pa_replay *r)
{
    return r->heap->mm ? r->heap->mm->anon + r->heap->mm->swap : 0;
}

/* A request of `bytes` was granted, and is in t->requested and t->blocks.  Time passes by the bytes
 * that are requested; *over_live adds up what share each request has of what is live. */
static inline void replay_count(pa_replay_totals *t, double *over_live, uint64_t bytes)
{
    t->allocated += bytes;
    if (t->blocks > t->blocks_peak)
        t->blocks_peak = t->blocks;
    if (bytes)
        *over_live += (double)(int64_t)bytes / (double)(int64_t)t->requested;
}

/* The program may hold more than ever; the row and its accesses are done. */
static inline void replay_note_requested(pa_replay_totals *t, size_t row, uint64_t pages)
{
    if (t->requested <= t->requested_peak)
        return;
    t->requested_peak = t->requested;
    t->requested_peak_row = row;
    t->held_at_requested_peak = t->held;
    t->pages_at_requested_peak = pages;
}

#endif
