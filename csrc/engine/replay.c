/* SPDX-License-Identifier: MIT
 *
 * replay.c -- a whole trace on one heap, stopped where policy is needed, sampled on the way.
 *
 * Workload: a few hundred thousand to some hundred million rows, nearly all of them malloc and free
 * that an allocator's own loop serves; those never come here.  A row that does is
 * a call through the seam, then its bookkeeping, then the program's own accesses to its memory.
 * Each of the three may stop the replay, and each is resumed where it stopped:
 *
 *     REPLAY_ROWS --call--> REPLAY_CALL --result--> bookkeeping --> REPLAY_WRITE --> REPLAY_ROWS
 *            \----sbrk, mmap, munmap rows---> REPLAY_POLICY -----------------------------^
 *
 *     totals.requested == sum of the sizes of live blocks (checked by pa_replay_check), and of those
 *     whose number was taken by another block while they were live
 */
#include "replay.h"

#include <stdlib.h>
#include <string.h>

enum { PAGE_SHIFT = 12 };

/* ---- the block table -------------------------------------------------------------------------- */

static pa_block *block_of(pa_replay *r, size_t row)
{
    uint32_t number = r->in.block[row];
    return number == NULL_BLOCK ? NULL : &r->blocks.at[number];
}

static bool is_live(const pa_block *b)
{
    return b && block_is_live(b);
}

static void forget(pa_replay *r, pa_block *b)
{
    if (!is_live(b))
        return;
    r->totals.requested -= block_size(&r->blocks, b);
    r->totals.blocks--;
    b->place |= BLOCK_DEAD;
}

static void put_block(pa_replay *r, pa_block *b, uint64_t address, uint64_t size)
{
    if (!blocks_put(&r->blocks, b, address, size))
        r->heap->error = PA_ERR_HOST_NOMEM;
}

/* The row's block is now at `address`. */
static void take(pa_replay *r, size_t row, uint64_t address)
{
    pa_block *b = block_of(r, row);
    uint64_t size = r->in.size[row];
    if (b)
        put_block(r, b, address, size);
    r->totals.requested += size;
    r->totals.blocks++;
    replay_count(&r->totals, &r->requests_over_live, size);
}

/* ---- totals ----------------------------------------------------------------------------------- */

/* A / P of the requests while A was what it is, each as long as it is large. */
static void add_up_ratio(pa_replay *r)
{
    r->totals.ratio_sum += (double)r->totals.held * r->requests_over_live;
    r->requests_over_live = 0;
}

/* How much the allocator has from the kernel changes only with its system calls. */
static void read_held(pa_replay *r)
{
    if (!replay_kernel_called(r))
        return;
    add_up_ratio(r);
    r->kernel_calls = replay_count_kernel_calls(r);
    pa_heap_read_statistics(r->heap, &r->now);
    r->totals.held = r->now.bytes_system + r->now.bytes_mapped;
}

/* The row and the program's accesses in it are done. */
static void note(pa_replay *r, size_t row)
{
    pa_replay_totals *t = &r->totals;
    replay_note_requested(t, row, replay_pages(r));
    if (t->held <= t->held_peak)
        return;
    t->held_peak = t->held;
    t->held_peak_row = row;
    t->requested_at_held_peak = t->requested;
    r->peak = (pa_replay_peak){r->now, t->blocks, replay_pages(r)};
}

static void put(pa_replay *r, pa_sample_field field, uint64_t value)
{
    r->samples.values[(size_t)field * r->samples.room + r->totals.samples] = value;
}

static void put_free(pa_replay *r, const pa_heap_statistics *s)
{
    put(r, PA_SAMPLE_HEAP, s->bytes_system);
    put(r, PA_SAMPLE_MAPPED, s->bytes_mapped);
    put(r, PA_SAMPLE_TCACHE, s->bytes_tcache);
    put(r, PA_SAMPLE_FAST, s->bytes_fast);
    put(r, PA_SAMPLE_UNSORTED, s->bytes_unsorted);
    put(r, PA_SAMPLE_SMALL, s->bytes_small);
    put(r, PA_SAMPLE_LARGE, s->bytes_large);
    put(r, PA_SAMPLE_TOP, s->bytes_top);
    put(r, PA_SAMPLE_HOLE, s->bytes_largest_hole);
}

static void put_pages(pa_replay *r)
{
    pa_mm_counters c = {0};
    uint64_t peak = 0;
    if (r->heap->mm) {
        pa_mm_read(r->heap->mm, &c);
        peak = mm_take_recent_peak(r->heap->mm);
    }
    put(r, PA_SAMPLE_RSS, (c.anon + c.file + c.shmem) << PAGE_SHIFT);
    put(r, PA_SAMPLE_SWAP, c.swap << PAGE_SHIFT);
    put(r, PA_SAMPLE_MINOR, c.minor_faults);
    put(r, PA_SAMPLE_MAJOR, c.major_faults);
    put(r, PA_SAMPLE_RSS_PEAK, peak << PAGE_SHIFT);
}

static void sample(pa_replay *r)
{
    if (r->totals.samples >= r->samples.room)
        return;
    pa_heap_statistics s;
    pa_heap_read_statistics(r->heap, &s);
    put(r, PA_SAMPLE_CALLS, r->row);
    put(r, PA_SAMPLE_ALLOCATED, r->totals.allocated);
    put(r, PA_SAMPLE_REQUESTED, r->totals.requested);
    put(r, PA_SAMPLE_BLOCKS, r->totals.blocks);
    put_free(r, &s);
    put_pages(r);
    r->totals.samples++;
}

/* ---- the program's own accesses --------------------------------------------------------------- */

static bool access_pages(pa_replay *r)
{
    while (r->touch_left) {
        uint64_t done = 0;
        int s = pa_mm_touch_anon(r->heap->mm, r->touch_vpn, r->touch_left, true, &done);
        r->touch_vpn += done;
        r->touch_left -= done;
        if (s == PA_EXHAUSTED) {
            r->stop = (pa_stop){.reason = PA_STOP_FRAMES,
                                .address = r->touch_vpn << PAGE_SHIFT,
                                .length = r->touch_left << PAGE_SHIFT};
            r->state = REPLAY_WRITE;
            return false;
        }
        if (s != PA_OK) {
            r->heap->error = s;
            r->touch_left = 0;
        }
    }
    r->state = REPLAY_ROWS;
    return true;
}

bool replay_write(pa_replay *r, uint64_t address, uint64_t bytes)
{
    if (!r->heap->mm || !bytes)
        return true;
    r->touch_vpn = address >> PAGE_SHIFT;
    r->touch_left = ((address + bytes - 1) >> PAGE_SHIFT) - r->touch_vpn + 1;
    return access_pages(r);
}

/* A TOUCH row: arg bytes into its block, size bytes long. */
static bool touch_row(pa_replay *r, size_t row)
{
    const pa_block *b = block_of(r, row);
    uint64_t at = r->in.arg ? r->in.arg[row] : 0, bytes = r->in.size[row];
    if (r->touch != PA_TOUCH_RECORDED || !is_live(b) || at >= block_size(&r->blocks, b))
        return true;
    uint64_t rest = block_size(&r->blocks, b) - at;
    return replay_write(r, block_address(&r->blocks, b) + at, bytes < rest ? bytes : rest);
}

/* ---- finishing a row -------------------------------------------------------------------------- */

static bool returns_block(uint32_t op)
{
    return op <= PA_OP_PVALLOC && op != PA_OP_FREE;
}

bool replay_got(pa_replay *r, size_t row, uint64_t address)
{
    if (r->out.address)
        r->out.address[row] = address;
    if (r->out.usable)
        r->out.usable[row] = pa_heap_usable_size(r->heap, address);
    return r->touch != PA_TOUCH_WRITE || replay_write(r, address, r->in.size[row]);
}

/* NULL came back: a realloc to 0 freed its block, any other request failed. */
static void got_null(pa_replay *r, size_t row)
{
    pa_block *b = block_of(r, row);
    if (r->in.op[row] != PA_OP_REALLOC) {
        r->totals.failed++;
        if (b)
            blocks_clear(&r->blocks, b);
    } else if (!r->in.size[row] && is_live(b)) {
        forget(r, b);
    } else {
        r->totals.failed++;
    }
}

static bool finish(pa_replay *r, size_t row, uint64_t result)
{
    uint32_t op = r->in.op[row];
    r->state = REPLAY_ROWS;
    read_held(r);
    if (op == PA_OP_FREE || (op == PA_OP_REALLOC && result))
        forget(r, block_of(r, row));
    if (returns_block(op) && result)
        take(r, row, result);
    else if (returns_block(op))
        got_null(r, row);
    if (r->out.brk)
        r->out.brk[row] = r->heap->brk;
    if (returns_block(op) && result && !replay_got(r, row, result))
        return false;
    note(r, row);
    return true;
}

/* ---- the long way ----------------------------------------------------------------------------- */

static bool stopped(pa_replay *r)
{
    r->stop = r->heap->stop;
    r->state = r->stop.reason == PA_STOP_ABORT ? REPLAY_DEAD : REPLAY_CALL;
    return false;
}

bool replay_settle(pa_replay *r, size_t row, uint64_t result)
{
    bool waits = result == PENDING && r->heap->state != HEAP_IDLE; /* malloc_trim's 1 is a result */
    return waits ? stopped(r) : finish(r, row, result);
}

static bool ask_policy(pa_replay *r, size_t row)
{
    const pa_block *b = block_of(r, row);
    r->stop = (pa_stop){.reason = PA_STOP_TOUCH,
                        .prot = r->in.op[row],
                        .address = b ? block_address(&r->blocks, b) : 0,
                        .length = r->in.size[row]};
    r->state = REPLAY_POLICY;
    return false;
}

/* Policy has performed the row. */
static bool answered(pa_replay *r)
{
    pa_block *b = block_of(r, r->row);
    r->state = REPLAY_ROWS;
    if (b && r->in.op[r->row] == PA_OP_MMAP) {
        put_block(r, b, r->stop.answer, 0);
        b->place |= BLOCK_DEAD;
    }
    if (r->out.brk)
        r->out.brk[r->row] = r->heap->brk;
    return true;
}

/* The block whose pointer the call passes: none for a realloc of one that is not allocated. */
static uint64_t pointer_of(const pa_replay *r, uint32_t op, const pa_block *b)
{
    bool passes = b && (op == PA_OP_FREE || (op == PA_OP_REALLOC && is_live(b)));
    return passes ? block_address(&r->blocks, b) : 0;
}

static uint64_t call_heap(pa_heap *heap, const pa_call *call)
{
    heap->thread = call->thread;
    return heap->vt->call(heap, call);
}

bool replay_row(pa_replay *r)
{
    size_t row = r->row;
    uint32_t op = r->in.op[row];
    if (op == PA_OP_TOUCH)
        return touch_row(r, row);
    if (op >= PA_OP_SBRK && op <= PA_OP_MUNMAP)
        return ask_policy(r, row);
    const pa_block *b = block_of(r, row);
    pa_call call = {.op = op,
                    .known = is_live(b),
                    .thread = r->in.thread ? r->in.thread[row] : 0,
                    .pointer = pointer_of(r, op, b),
                    .size = r->in.size[row],
                    .arg = r->in.arg ? r->in.arg[row] : 0};
    return replay_settle(r, row, call_heap(r->heap, &call));
}

/* ---- running ---------------------------------------------------------------------------------- */

/* Go on with the row that stopped.  False: it stopped again. */
static bool go_on(pa_replay *r)
{
    bool done = false;
    switch (r->state) {
    case REPLAY_ROWS:
        return true;
    case REPLAY_CALL:
        done = replay_settle(r, r->row, pa_heap_resume(r->heap));
        break;
    case REPLAY_POLICY:
        done = answered(r);
        break;
    case REPLAY_WRITE:
        done = access_pages(r);
        if (done)
            note(r, r->row);
        break;
    case REPLAY_DEAD:
        break;
    }
    r->row += done;
    return done;
}

/* The next of the rows asked for that is not behind us. */
static size_t next_wanted(pa_replay *r)
{
    const pa_samples *s = &r->samples;
    while (r->next_sample < s->count_rows && s->rows[r->next_sample] <= r->row)
        r->next_sample++;
    return r->next_sample < s->count_rows ? (size_t)s->rows[r->next_sample] : r->in.count;
}

static size_t next_pause(pa_replay *r, size_t end)
{
    size_t every = r->samples.every, next = end;
    if (r->samples.rows)
        next = next_wanted(r);
    else if (every)
        next = (r->row / every + 1) * every;
    return next < end ? next : end;
}

static bool sample_is_due(const pa_replay *r)
{
    const pa_samples *s = &r->samples;
    if (s->rows)
        return r->next_sample < s->count_rows && s->rows[r->next_sample] == r->row;
    return s->every && r->row && (r->row % s->every == 0 || r->row == r->in.count);
}

/* Rows before `end`, none of them by a loop of the allocator's own. */
static bool run_rows(pa_replay *r, size_t end)
{
    for (; r->row < end; r->row++) {
        if (!replay_row(r))
            return false;
    }
    return true;
}

/* The next rows before `end` up to a sample, the sample included.  False: stopped. */
static bool run_stretch(pa_replay *r, size_t end)
{
    size_t pause = next_pause(r, end);
    bool (*loop)(pa_replay *, size_t) = r->heap->vt->loop;
    if (!(loop ? loop : run_rows)(r, pause))
        return false;
    if (sample_is_due(r))
        sample(r);
    return true;
}

int pa_replay_run_to(pa_replay *r, uint64_t end)
{
    if (end > r->in.count)
        end = r->in.count;
    bool resumed = r->state != REPLAY_ROWS;
    if (!go_on(r))
        return r->heap->error != PA_OK ? (int)r->heap->error : PA_PENDING;
    if (resumed && sample_is_due(r))
        sample(r);
    while (r->row < end && r->heap->error == PA_OK) {
        if (!run_stretch(r, end))
            return PA_PENDING;
    }
    if (r->heap->vt->rest)
        r->heap->vt->rest(r->heap);
    return (int)r->heap->error;
}

int pa_replay_run(pa_replay *r)
{
    return pa_replay_run_to(r, r->in.count);
}

/* ---- life and looking ------------------------------------------------------------------------- */

pa_replay *pa_replay_new(pa_heap *heap, const pa_columns *in, const pa_outputs *out,
                         const pa_samples *samples, int touch)
{
    pa_replay *r = calloc(1, sizeof *r);
    if (!r)
        return NULL;
    r->heap = heap;
    r->in = *in;
    r->out = *out;
    r->samples = *samples;
    r->touch = (pa_touch)touch;
    if (!blocks_init(&r->blocks, in->block, in->count, heap->places_from, heap->places_shift)) {
        free(r);
        return NULL;
    }
    r->kernel_calls = UINT64_MAX;
    read_held(r);
    note(r, 0);
    return r;
}

void pa_replay_drop(pa_replay *r)
{
    if (r) {
        blocks_drop(&r->blocks);
        free(r);
    }
}

const pa_stop *pa_replay_stop(const pa_replay *r)
{
    return &r->stop;
}

void pa_replay_answer(pa_replay *r, uint64_t answer)
{
    r->stop.answer = answer;
    if (r->state == REPLAY_CALL)
        pa_heap_answer(r->heap, answer);
}

void pa_replay_read_totals(const pa_replay *r, pa_replay_totals *out)
{
    *out = r->totals;
    out->calls = r->row;
    out->ratio_sum += (double)out->held * r->requests_over_live;
    if (out->requested > out->requested_peak) { /* killed while it wrote its newest block */
        out->requested_peak = out->requested;
        out->requested_peak_row = r->row;
        out->held_at_requested_peak = out->held;
        out->pages_at_requested_peak = replay_pages(r);
    }
}

void pa_replay_read_peak(const pa_replay *r, pa_replay_peak *out)
{
    *out = r->peak;
}

size_t pa_replay_count_blocks(const pa_replay *r)
{
    return r->blocks.count;
}

void pa_replay_read_blocks(const pa_replay *r, uint64_t *address, uint64_t *size)
{
    for (size_t i = 0; i < r->blocks.count; i++) {
        const pa_block *b = &r->blocks.at[i];
        address[i] = block_address(&r->blocks, b);
        size[i] = block_is_live(b) ? block_size(&r->blocks, b) : UINT64_MAX;
    }
}
