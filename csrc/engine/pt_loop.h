/* SPDX-License-Identifier: MIT
 *
 * pt_loop.h -- ptmalloc's own loop over a trace: malloc and free of one thread, without detours.
 *
 * Workload: nine calls of ten are a malloc or free of the first thread in the main arena, and most
 * of those end in its tcache.  These are done here in line (take_cached, give_cached); what needs
 * more goes straight to pt_int_malloc and pt_int_free; and what is not plain at all (no tcache yet,
 * mappings, other arenas, other calls) goes the long way through replay_row().
 *
 * A replay knows the future: while a row runs, what later rows will read is fetched.  And nobody
 * looks at its totals in between: mallocs are entered in a ledger, which is added up some hundred at
 * a time, and before anything on which the totals depend may change.
 *
 *     totals are those before row `books.first`; the rows from there on are in the books
 *
 * A template: who includes it defines PT_LOOP, the name of the loop, and may define PT_RULES.
 */
#define PT_CALM
#define PT_PART static inline

#include "pt_calls.h"
#include "pt_malloc.h"
#include "replay.h"

enum { AHEAD_BLOCK = 24, AHEAD_CHUNK = 10, MOST_BYTES = 1 << 30, LEDGER_ROOM = 256 };

/* A malloc whose figures are not in the totals yet. */
typedef struct entry {
    uint64_t requested; /* by the program, this block counted */
    uint32_t bytes;
    uint32_t row; /* from the ledger's first */
} entry;

typedef struct ledger {
    size_t first;
    uint64_t requested; /* now */
    uint32_t count;
    entry mallocs[LEDGER_ROOM];
} ledger;

/* What the rows of a stretch have in common. */
typedef struct stretch {
    pa_replay *r;
    pt *h;
    pt_tcache *tc;
    pa_unit low, span; /* chunks [low, low + span) are in the main heap */
    uint32_t cached; /* chunk sizes below this have a small bin in the tcache: units */
    bool writes; /* the program writes its blocks, and that may fault */
    bool columns; /* of addresses or breaks are wanted */
    ledger books;
} stretch;

/* What became of a row: LONG_WAY has changed nothing; after UNSETTLED, which has done its
 * bookkeeping, things may not be as they were. */
typedef enum outcome { DONE, UNSETTLED, LONG_WAY, STOPPED } outcome;

/* ---- bookkeeping ------------------------------------------------------------------------------ */

/* The totals are right before row `first`. */
static inline void open_books(stretch *s, size_t first)
{
    s->books.first = first;
    s->books.requested = s->r->totals.requested;
    s->books.count = 0;
}

/* Add the rows before `end` to the totals.  Those that are no mallocs were frees. */
static __attribute__((noinline)) void close_books(stretch *s, size_t end)
{
    pa_replay *r = s->r;
    pa_replay_totals t = r->totals;
    double over_live = r->requests_over_live;
    const uint64_t pages = replay_pages(r), blocks = t.blocks;
    for (uint64_t i = 0; i < s->books.count; i++) {
        const entry *e = &s->books.mallocs[i];
        t.requested = e->requested;
        t.blocks = blocks + 2 * (i + 1) - (e->row + 1);
        replay_count(&t, &over_live, e->bytes);
        replay_note_requested(&t, s->books.first + e->row, pages);
    }
    t.requested = s->books.requested;
    t.blocks = blocks + 2 * s->books.count - (end - s->books.first);
    r->totals = t;
    r->requests_over_live = over_live;
    open_books(s, end);
}

/* A call had effects, or gave `result` without a chunk: that is looked at the long way. */
static outcome settle(stretch *s, size_t row, uint64_t result)
{
    close_books(s, row);
    bool done = replay_settle(s->r, row, result);
    open_books(s, row + 1);
    return done ? UNSETTLED : STOPPED;
}

/* got: 0 for a free. */
static __attribute__((noinline)) void fill_columns(const stretch *s, size_t row, pa_unit got)
{
    const pa_replay *r = s->r;
    if (r->out.address)
        r->out.address[row] = got ? mem_of(s->h, got) : 0;
    if (r->out.brk)
        r->out.brk[row] = s->h->base.brk;
}

/* May the program's writing to its block fault?  Most blocks lie in one page. */
static inline bool is_cold(const stretch *s, pa_unit c, uint32_t bytes)
{
    const pa_mm *mm = s->h->base.mm;
    uint64_t address = mem_of(s->h, c), last = (address + bytes - 1) >> 12;
    address >>= 12;
    if (address == last)
        return !mm_is_hot(mm, last);
    return bytes && !mm_are_hot(mm, address, last - address + 1);
}

static inline outcome book_malloc(stretch *s, size_t row, pa_block *b, pa_unit c)
{
    ledger *l = &s->books;
    uint32_t bytes = (uint32_t)s->r->in.size[row];
    if (s->writes && is_cold(s, c, bytes))
        return settle(s, row, mem_of(s->h, c));
    if (s->columns)
        fill_columns(s, row, c);
    *b = (pa_block){c, bytes};
    l->requested += bytes;
    l->mallocs[l->count++] = (entry){l->requested, bytes, (uint32_t)(row - l->first)};
    if (l->count == LEDGER_ROOM)
        close_books(s, row + 1);
    return DONE;
}

static inline outcome book_free(stretch *s, size_t row, pa_block *b)
{
    s->books.requested -= b->size;
    b->place |= BLOCK_DEAD;
    if (s->columns)
        fill_columns(s, row, 0);
    return DONE;
}

/* ---- a stretch of rows ------------------------------------------------------------------------ */

/* Chunk sizes from MIN_UNITS up to, but not, this are in one of the tcache's small bins. */
static inline uint32_t cached_units(const pt *h)
{
    uint64_t small = MIN_UNITS + ((uint64_t)TCACHE_SMALL << align_units_log(h));
    uint64_t limit = (h->mp.tcache_limit + bytes_of(h, 1) - 1) >> unit_shift(h);
    limit = limit < small ? limit : small;
    return limit < MIN_UNITS ? MIN_UNITS : (uint32_t)limit;
}

static void begin(stretch *s, pa_replay *r)
{
    pt *h = (pt *)r->heap;
    uint64_t low = (h->base.brk_start - h->sh.origin) >> unit_shift(h);
    uint64_t past = (h->base.brk - h->sh.origin) >> unit_shift(h);
    h->base.thread = 0;
    h->op = (pt_op){.kind = PA_OP_MALLOC, .phase = PH_BLOCK};
    s->r = r;
    s->h = h;
    s->tc = &h->threads[0].tcache;
    s->low = (pa_unit)low;
    s->span = past < BLOCK_DEAD ? (pa_unit)(past - low) : 0;
    s->cached = cached_units(h);
    s->writes = r->touch == PA_TOUCH_WRITE && h->base.mm;
    s->columns = r->out.address || r->out.brk;
    open_books(s, r->row);
}

/* Books are closed; what waits for an answer goes on as the call it is. */
static void end(stretch *s, size_t row, outcome last)
{
    if (s->books.first <= row)
        close_books(s, row);
    s->r->row = row;
    if (last != STOPPED)
        s->h->op.phase = PH_IDLE;
}

/* A live block whose place is a chunk of the main heap. */
static inline bool is_in_heap(const stretch *s, const pa_block *b)
{
    return b->place - s->low < s->span;
}

/* While a row runs, the entry of a block and the header of a chunk that later rows will use are
 * fetched; of dead and far ones it does not matter what is.  (A call of a function that does no more
 * than this is left out by gcc, so it must not be a call.) */
static inline __attribute__((always_inline)) void fetch(const stretch *s, size_t row)
{
    const uint32_t *number = s->r->in.block + row;
    const pa_blocks *blocks = &s->r->blocks;
    __builtin_prefetch(&blocks->at[number[AHEAD_BLOCK] & blocks->mask], 1);
    __builtin_prefetch(at(s->h, blocks->at[number[AHEAD_CHUNK] & blocks->mask].place), 1);
}

/* ---- the tcache ------------------------------------------------------------------------------- */

/* The first chunk of the bin, or 0. */
static inline pa_unit take_cached(stretch *s, uint64_t units)
{
    pt_tcache *tc = s->tc;
    uint64_t bin = units - MIN_UNITS;
    if (bin >= s->cached - MIN_UNITS)
        return 0;
    bin >>= align_units_log(s->h);
    pa_unit c = tc->entry[bin];
    if (!c)
        return 0;
    pt_chunk *p = at(s->h, c);
    tc->entry[bin] = p->fd;
    tc->count[bin]--;
    p->bk = 0;
    return c;
}

/* False: there is no room for it. */
static inline bool give_cached(stretch *s, pa_unit c, uint64_t units)
{
    pt_tcache *tc = s->tc;
    uint64_t bin = units - MIN_UNITS;
    if (bin >= s->cached - MIN_UNITS)
        return false;
    bin >>= align_units_log(s->h);
    if (tc->count[bin] >= s->h->mp.tcache_count)
        return false;
    pt_chunk *p = at(s->h, c);
    p->fd = tc->entry[bin];
    p->bk = TCACHE_KEY;
    touch_behind(s->h, c, 1);
    tc->entry[bin] = c;
    tc->count[bin]++;
    return true;
}

/* ---- the arena -------------------------------------------------------------------------------- */

static inline bool had_effects(const stretch *s)
{
    return s->h->base.count_effects || replay_kernel_called(s->r);
}

static __attribute__((noinline)) outcome malloc_step(stretch *s, size_t row, pa_block *b,
                                                     uint64_t nb)
{
    pt *h = s->h;
    h->op.bytes = s->r->in.size[row];
    h->op.nb = h->op.inner = nb;
    pa_unit c = pt_int_malloc(h, &h->arenas[0], nb);
    if (c == REF_PENDING)
        return settle(s, row, PENDING);
    if (!c || c >= MAPPED_REF) /* another arena may be tried; a mapping has its own pointer */
        return settle(s, row, pt_run(h, c));
    if (had_effects(s))
        return settle(s, row, heap_finish(&h->base, mem_of(h, c)));
    return book_malloc(s, row, b, c);
}

static __attribute__((noinline)) outcome free_step(stretch *s, size_t row, pa_block *b)
{
    pt *h = s->h;
    if (!pt_int_free(h, &h->arenas[0], b->place, false))
        return settle(s, row, PENDING);
    if (had_effects(s))
        return settle(s, row, heap_finish(&h->base, 0));
    return book_free(s, row, b);
}

/* ---- rows ------------------------------------------------------------------------------------- */

/* Requests that a larger bin of the tcache may serve are not plain. */
static inline outcome do_malloc(stretch *s, size_t row, pa_block *b)
{
    uint64_t bytes = s->r->in.size[row];
    if (bytes >= MOST_BYTES || block_is_far(b))
        return LONG_WAY;
    uint64_t nb = request_units(s->h, bytes);
    pa_unit c = take_cached(s, nb);
    if (c)
        return book_malloc(s, row, b, c);
    if (nb >= s->cached && bytes_of(s->h, nb) < s->h->mp.tcache_limit)
        return LONG_WAY;
    return malloc_step(s, row, b, nb);
}

static inline outcome do_free(stretch *s, size_t row, pa_block *b)
{
    pt *h = s->h;
    if (!is_in_heap(s, b))
        return LONG_WAY;
    uint64_t units = size_of(h, b->place);
    if (!give_cached(s, b->place, units)) {
        if (units > h->max_fast)
            return free_step(s, row, b);
        h->base.count_arena_calls++;
        push_fast(h, &h->arenas[0], b->place);
    }
    return h->base.count_effects ? settle(s, row, heap_finish(&h->base, 0)) : book_free(s, row, b);
}

static inline outcome do_row(stretch *s, size_t row)
{
    const pa_columns *in = &s->r->in;
    uint32_t op = in->op[row], number = in->block[row];
    pa_block *b = &s->r->blocks.at[number];
    if (number == NULL_BLOCK)
        return LONG_WAY;
    if (op == PA_OP_MALLOC)
        return do_malloc(s, row, b);
    return op == PA_OP_FREE ? do_free(s, row, b) : LONG_WAY;
}

/* Rows before `end` as far as they go without detours: DONE, LONG_WAY for the next one, or
 * STOPPED. */
static outcome do_rows(pa_replay *r, size_t last_row)
{
    stretch s;
    outcome last = DONE;
    size_t row = r->row, fetched = r->in.count - AHEAD_BLOCK;
    fetched = fetched < last_row ? fetched : last_row;
    begin(&s, r);
    while (row < last_row && last == DONE) {
        if (row < fetched)
            fetch(&s, row);
        last = do_row(&s, row);
        row += last <= UNSETTLED;
    }
    end(&s, row, last);
    return last;
}

bool PT_LOOP(pa_replay *r, size_t last_row)
{
    const pt *h = (const pt *)r->heap;
    const bool plain = !r->in.thread && !r->out.usable && r->in.count >= AHEAD_BLOCK;
    while (r->row < last_row) {
        outcome last = LONG_WAY;
        if (plain && pt_is_calm(h))
            last = do_rows(r, last_row);
        if (last == STOPPED || (last == LONG_WAY && !replay_row(r)))
            return false;
        r->row += last == LONG_WAY;
    }
    return true;
}
