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
 *     LOOP_MALLOC(heap, bytes)   the pointer; PENDING: stopped; 0: declined, nothing was changed
 *     LOOP_FREE(heap, pointer)   0; PENDING: stopped; LOOP_DECLINED: nothing was changed
 *     LOOP_FETCH(heap, pointer)  prefetch what a free of it reads
 */
#include "replay.h"

enum { LOOP_AHEAD = 24, LOOP_NEAR = 10 };

typedef enum loop_outcome { LOOP_DONE, LOOP_LONG_WAY, LOOP_STOPPED } loop_outcome;

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

static inline bool loop_writes(const pa_replay *r, uint64_t address, uint64_t size)
{
    pa_mm *mm = r->heap->mm;
    if (r->touch != PA_TOUCH_WRITE || !mm || !size)
        return false;
    uint64_t first = address >> 12, last = (address + size - 1) >> 12;
    return first != last || (!mm_is_hot(mm, first) && !mm_is_settled(mm, first));
}

static inline loop_outcome loop_malloc(pa_replay *r, size_t row, replay_block *b)
{
    uint64_t size = r->in.size[row];
    uint64_t address = LOOP_MALLOC(r->heap, size);
    if (!address)
        return LOOP_LONG_WAY;
    if (address == PENDING || replay_kernel_called(r))
        return replay_settle(r, row, address) ? LOOP_DONE : LOOP_STOPPED;
    *b = (replay_block){address, size + 1};
    replay_granted(r, size);
    if (r->out.address)
        r->out.address[row] = address;
    if (loop_writes(r, address, size) && !replay_write(r, address, size))
        return LOOP_STOPPED;
    replay_note_requested(r, row);
    return LOOP_DONE;
}

static inline loop_outcome loop_free(pa_replay *r, size_t row, replay_block *b)
{
    if (!b->live)
        return LOOP_LONG_WAY;
    uint64_t outcome = LOOP_FREE(r->heap, b->address);
    if (outcome == LOOP_DECLINED)
        return LOOP_LONG_WAY;
    if (outcome == PENDING || replay_kernel_called(r))
        return replay_settle(r, row, outcome) ? LOOP_DONE : LOOP_STOPPED;
    r->totals.requested -= size_of_block(b);
    r->totals.blocks--;
    b->live = 0;
    return LOOP_DONE;
}

/* Rows [r->row, end).  False: stopped at r->row. */
static bool LOOP(pa_replay *r, size_t end)
{
    const bool plain = !r->in.thread && !r->out.usable;
    const size_t last = r->in.count - 1;
    if (plain)
        r->heap->thread = 0;
    for (size_t row = r->row; row < end; row++) {
        loop_fetch(r, row, last);
        uint32_t block = r->in.block[row];
        loop_outcome outcome = LOOP_LONG_WAY;
        if (plain && block < r->count_blocks) {
            replay_block *b = &r->blocks[block];
            if (r->in.op[row] == PA_OP_MALLOC)
                outcome = loop_malloc(r, row, b);
            else if (r->in.op[row] == PA_OP_FREE)
                outcome = loop_free(r, row, b);
        }
        r->row = row;
        if (outcome == LOOP_STOPPED)
            return false;
        if (outcome == LOOP_LONG_WAY && !replay_row(r))
            return false;
        if (outcome == LOOP_DONE && r->out.brk)
            r->out.brk[row] = r->heap->brk;
    }
    r->row = end;
    return true;
}
