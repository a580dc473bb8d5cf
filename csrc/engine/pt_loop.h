/* SPDX-License-Identifier: MIT
 *
 * pt_loop.h -- ptmalloc's own loop over a trace: malloc and free of one thread, without detours.
 *
 * Workload: nine calls of ten are a malloc or free of the first thread in the main arena, and most
 * of those end in its tcache.  Whether the next row is a malloc or a free no processor can guess,
 * and a wrong guess costs more than the call; but the one takes a chunk off a list and the other
 * puts one on it, with the same loads and the same stores.  So both are one step (cache_step) that
 * asks nothing but whether the tcache can serve the row.  What it cannot serve goes straight to
 * pt_int_malloc and pt_merge_free, and what is not plain at all (no tcache yet, mappings, other
 * arenas, other calls) goes the long way through replay_row().
 *
 * A replay knows the future: while a row runs, what later rows will read is fetched.
 *
 * A template: who includes it defines PT_LOOP, the name of the loop, and may define PT_RULES.
 */
#define PT_CALM
#define PT_PART static inline

#include "pt_malloc.h"
#include "replay.h"

enum { AHEAD_BLOCK = 24, AHEAD_CHUNK = 10, MOST_BYTES = 1 << 30 };

/* What the rows of a stretch have in common. */
typedef struct stretch {
    pa_replay *r;
    pt *h;
    pt_tcache *tc;
    uint32_t low, span; /* live blocks at places [low, low + span) are in the main heap */
    bool extras; /* something is to be done beside keeping the books */
} stretch;

/* What became of a row: LONG_WAY has changed nothing; after UNSETTLED, which has done its
 * bookkeeping, things may not be as they were. */
typedef enum outcome { DONE, UNSETTLED, LONG_WAY, STOPPED } outcome;

/* ---- the table of blocks, where a place is a chunk --------------------------------------------- */

static inline stretch begin(pa_replay *r)
{
    pt *h = (pt *)r->heap;
    uint64_t low = (h->base.brk_start - h->sh.origin) >> unit_shift(h);
    uint64_t past = (h->base.brk - h->sh.origin) >> unit_shift(h);
    h->base.thread = 0;
    h->op = (pt_op){.kind = PA_OP_MALLOC, .phase = PH_BLOCK};
    return (stretch){
        .r = r,
        .h = h,
        .tc = &h->threads[0].tcache,
        .low = (uint32_t)low,
        .span = past < BLOCK_DEAD ? (uint32_t)(past - low) : 0,
        .extras = r->out.address || r->out.brk || (r->touch == PA_TOUCH_WRITE && h->base.mm),
    };
}

static inline bool is_in_heap(const stretch *s, const pa_block *b)
{
    return b->place - s->low < s->span;
}

/* While a row runs, the entry of a block and the header of a chunk that later rows will use are
 * fetched; where an entry is dead or far it does not matter what is. */
static inline __attribute__((always_inline)) void fetch(const stretch *s, size_t row)
{
    const uint32_t *number = s->r->in.block + row;
    const pa_blocks *blocks = &s->r->blocks;
    uint32_t near = number[AHEAD_CHUNK];
    __builtin_prefetch(&blocks->at[number[AHEAD_BLOCK]], 1);
    near = near < blocks->count ? near : 0;
    __builtin_prefetch(at(s->h, blocks->at[near].place), 1);
}

/* ---- bookkeeping ------------------------------------------------------------------------------ */

/* All ones or all zeros: what is chosen by such a mask is chosen without a branch. */
typedef uint64_t mask;

static inline mask mask_of(bool yes)
{
    return -(mask)yes;
}

static inline uint64_t choose(mask m, uint64_t a, uint64_t b)
{
    return b ^ ((a ^ b) & m);
}

/* What some replays want besides: columns, and the program's writing to its block. */
static __attribute__((noinline)) outcome do_extras(const stretch *s, size_t row, mask frees,
                                                   pa_unit c)
{
    pa_replay *r = s->r;
    uint64_t address = mem_of(s->h, c), bytes = r->in.size[row];
    if (r->out.address)
        r->out.address[row] = address & ~frees;
    if (r->out.brk)
        r->out.brk[row] = s->h->base.brk;
    if (r->touch != PA_TOUCH_WRITE || !replay_may_fault(r, address, bytes & ~frees))
        return DONE;
    return replay_write(r, address, bytes) ? UNSETTLED : STOPPED;
}

/* The row's chunk is c: of a free or a malloc. */
static inline outcome book(const stretch *s, size_t row, mask frees, pa_block *b, pa_unit c)
{
    pa_replay *r = s->r;
    pa_replay_totals *t = &r->totals;
    uint64_t bytes = r->in.size[row], granted = bytes & ~frees;
    t->allocated += granted;
    t->requested += choose(frees, -(uint64_t)b->size, bytes);
    t->blocks += 1 | frees;
    if (t->blocks > t->blocks_peak)
        t->blocks_peak = t->blocks;
    r->requests_over_live += replay_share(granted, t->requested);
    *b = (pa_block){c | (BLOCK_DEAD & (uint32_t)frees), (uint32_t)bytes};
    outcome done = s->extras ? do_extras(s, row, frees, c) : DONE;
    if (done != STOPPED)
        replay_note_requested(r, row);
    return done;
}

/* ---- the tcache ------------------------------------------------------------------------------- */

/* The tcache bin of a chunk size; TCACHE_SMALL or more: none, or one of the large ones. */
static inline uint64_t bin_for(const pt *h, uint64_t units)
{
    uint64_t index = (units - MIN_UNITS) >> align_units_log(h);
    return bytes_of(h, units) < h->mp.tcache_limit ? index : TCACHE_SMALL;
}

/* A malloc takes the first entry of its bin, a free puts one in front.  Which chunk that is, or 0:
 * the tcache cannot do it, or a page may have to be touched, and nothing was changed. */
static inline pa_unit cache_step(const stretch *s, mask frees, const pa_block *b, uint64_t nb)
{
    pt *h = s->h;
    pt_tcache *tc = s->tc;
    const pa_unit page = PAGE_BYTES >> unit_shift(h);
    pa_unit given = b->place & (pa_unit)mask_of(is_in_heap(s, b)); /* 0 has size 0 */
    uint64_t bin = bin_for(h, choose(frees, size_of(h, given), nb));
    if (bin >= TCACHE_SMALL)
        return 0;
    pa_unit entry = tc->entry[bin], c = (pa_unit)choose(frees, given, entry);
    uint64_t room = choose(frees, h->mp.tcache_count - tc->count[bin], entry);
    if ((room == 0) | ((c + 1) % page == 0) | block_is_far(b))
        return 0;
    pt_chunk *p = at(h, c);
    pa_unit link = p->fd;
    p->fd = (pa_unit)choose(frees, entry, link);
    p->bk = TCACHE_KEY & (uint32_t)frees;
    tc->entry[bin] = (pa_unit)choose(frees, c, link);
    tc->count[bin] = (uint16_t)(tc->count[bin] - (1 | frees));
    return c;
}

/* ---- the arena -------------------------------------------------------------------------------- */

/* A call gave `result`, by which things changed outside the heap: the long way to keep the books. */
static outcome settle(const stretch *s, size_t row, uint64_t result)
{
    return replay_settle(s->r, row, result) ? UNSETTLED : STOPPED;
}

static bool is_settled(const stretch *s)
{
    return !s->h->base.count_effects && !replay_kernel_called(s->r);
}

static __attribute__((noinline)) outcome malloc_step(const stretch *s, size_t row, pa_block *b,
                                                     uint64_t nb)
{
    pt *h = s->h;
    uint64_t bytes = s->r->in.size[row];
    if (bytes >= MOST_BYTES || block_is_far(b))
        return LONG_WAY;
    h->op.bytes = bytes;
    h->op.nb = h->op.inner = nb;
    pa_unit c = pt_tcache_take(h, nb);
    c = c ? c : pt_int_malloc(h, &h->arenas[0], nb);
    if (c == REF_PENDING)
        return settle(s, row, PENDING);
    if (!c || c >= MAPPED_REF) /* another arena may be tried; a mapping has its own pointer */
        return settle(s, row, pt_finish_block(h, c));
    if (is_settled(s))
        return book(s, row, 0, b, c);
    return settle(s, row, heap_finish(&h->base, mem_of(h, c)));
}

static __attribute__((noinline)) outcome free_step(const stretch *s, size_t row, pa_block *b)
{
    pt *h = s->h;
    if (!is_in_heap(s, b))
        return LONG_WAY;
    pa_unit c = b->place;
    if (!pt_int_free(h, &h->arenas[0], c, false))
        return settle(s, row, PENDING);
    if (is_settled(s))
        return book(s, row, UINT64_MAX, b, c);
    return settle(s, row, heap_finish(&h->base, 0));
}

/* ---- rows ------------------------------------------------------------------------------------- */

static inline outcome do_row(const stretch *s, size_t row)
{
    const pa_columns *in = &s->r->in;
    uint32_t op = in->op[row], number = in->block[row];
    if ((op != PA_OP_MALLOC && op != PA_OP_FREE) || number == NULL_BLOCK)
        return LONG_WAY;
    mask frees = mask_of(op == PA_OP_FREE);
    pa_block *b = &s->r->blocks.at[number];
    uint64_t bytes = in->size[row];
    uint64_t nb = request_units(s->h, bytes < MOST_BYTES ? bytes : MOST_BYTES);
    pa_unit c = cache_step(s, frees, b, nb);
    if (c)
        return book(s, row, frees, b, c);
    return frees ? free_step(s, row, b) : malloc_step(s, row, b, nb);
}

/* Rows as far as they go without detours: DONE, LONG_WAY for the next one, or STOPPED. */
static outcome do_rows(pa_replay *r, size_t end)
{
    stretch s = begin(r);
    outcome last = DONE;
    size_t row = r->row;
    for (; row < end && last == DONE; row += last <= UNSETTLED) {
        if (row + AHEAD_BLOCK < r->in.count)
            fetch(&s, row);
        last = do_row(&s, row);
    }
    r->row = row;
    s.h->op.phase = last == STOPPED ? s.h->op.phase : PH_IDLE;
    return last;
}

bool PT_LOOP(pa_replay *r, size_t end)
{
    const pt *h = (const pt *)r->heap;
    const bool plain = !r->in.thread && !r->out.usable;
    while (r->row < end) {
        outcome last = LONG_WAY;
        if (plain && pt_is_calm(h))
            last = do_rows(r, end);
        if (last == STOPPED || (last == LONG_WAY && !replay_row(r)))
            return false;
        r->row += last == LONG_WAY;
    }
    return true;
}
