/* SPDX-License-Identifier: MIT
 *
 * replay_loop.h -- the loop over rows: a template that an allocator includes with its fast paths.
 *
 * A replay knows the future.  While row i runs, the block-table entry of row i + LOOP_AHEAD and the
 * chunk that row i + LOOP_NEAR frees are fetched, so that neither waits for memory.  malloc and
 * free of live blocks take the fast path; all other rows, and what a fast path declines, go the
 * long way through replay_row().
 *
 *     LOOP                       name of the function to define
 *     LOOP_MALLOC(heap, bytes)   the pointer; 0: declined, and nothing was changed
 *     LOOP_FREE(heap, pointer)   true; false: declined, and nothing was changed
 *     LOOP_FETCH(heap, pointer)  prefetch what a free of it reads
 */
#include "replay.h"

enum { LOOP_AHEAD = 24, LOOP_NEAR = 10 };

static inline size_t loop_least(size_t a, size_t b)
{
    return a < b ? a : b;
}

static inline void loop_fetch(const pa_replay *r, size_t row, size_t last)
{
    uint32_t far = r->in.block[loop_least(row + LOOP_AHEAD, last)];
    uint32_t near = r->in.block[loop_least(row + LOOP_NEAR, last)];
    if (far < r->count_blocks)
        __builtin_prefetch(&r->blocks[far], 1);
    if (near < r->count_blocks)
        LOOP_FETCH(r->heap, r->blocks[near].address);
}

static inline bool loop_malloc(pa_replay *r, size_t row, replay_block *b)
{
    uint64_t size = r->in.size[row], address = LOOP_MALLOC(r->heap, size);
    if (!address)
        return false;
    pa_replay_totals *t = &r->totals;
    *b = (replay_block){address, size};
    t->allocated += size;
    t->requested += size;
    t->blocks++;
    if (t->blocks > t->blocks_peak)
        t->blocks_peak = t->blocks;
    if (t->requested > t->requested_peak)
        replay_new_peak(t, row);
    if (r->out.address)
        r->out.address[row] = address;
    return true;
}

static inline bool loop_free(pa_replay *r, replay_block *b)
{
    if (b->size == NOT_LIVE || !LOOP_FREE(r->heap, b->address))
        return false;
    r->totals.requested -= b->size;
    r->totals.blocks--;
    b->size = NOT_LIVE;
    return true;
}

/* Rows [r->row, end).  False: stopped at r->row. */
static bool LOOP(pa_replay *r, size_t end)
{
    const bool plain = !r->in.thread && !r->out.usable && !r->out.brk && r->touch != PA_TOUCH_WRITE;
    const size_t last = r->in.count - 1;
    for (size_t row = r->row; row < end; row++) {
        loop_fetch(r, row, last);
        uint32_t block = r->in.block[row];
        if (plain && block < r->count_blocks) {
            replay_block *b = &r->blocks[block];
            if (r->in.op[row] == PA_OP_MALLOC ? loop_malloc(r, row, b)
                                              : r->in.op[row] == PA_OP_FREE && loop_free(r, b))
                continue;
        }
        r->row = row;
        if (!replay_row(r))
            return false;
    }
    r->row = end;
    return true;
}
