/* SPDX-License-Identifier: MIT
 *
 * pt_calls.c -- the public calls of ptmalloc, each as steps that may wait for policy.
 *
 * A call that allocates goes through up to four phases: find the thread's arena (PH_ARENA), make its
 * tcache (PH_TCACHE), take the block (PH_BLOCK), try another arena (PH_RETRY).  run() goes on from
 * whichever phase the answer belongs to, so nothing is done twice.
 */
#include "pt.h"

#include <stdlib.h>
#include <string.h>

static uint64_t run(pt *h, pa_unit c);
static uint64_t pt_usable(const pa_heap *heap, uint64_t mem);

static pt_thread *self(pt *h)
{
    return &h->threads[h->op.thread];
}

static uint64_t done(pt *h, uint64_t result)
{
    h->op.phase = PH_IDLE;
    return h->base.count_effects ? heap_finish(&h->base, result) : result;
}

static uint64_t aborted(void)
{
    return PENDING;
}

/* ---- allocation ---------------------------------------------------------------------------------- */

static bool wants_tcache(pt *h)
{
    if (!pt_tcache_unborn(h))
        return false;
    bool family = h->op.kind == PA_OP_MEMALIGN;
    switch (h->pf->birth) {
    case BIRTH_CALL:
        return !family;
    case BIRTH_SMALL_MALLOC:
        return h->op.kind != PA_OP_REALLOC && pt_tcache_serves(h, h->op.nb);
    case BIRTH_FREE:
        return h->op.kind == PA_OP_FREE && h->mp.tcache_count;
    case BIRTH_NEVER:
        break;
    }
    return false;
}

/* The user's pointer for what int_malloc gave: a chunk or a mapped chunk. */
static uint64_t pointer_of(pt *h, pa_unit c)
{
    if (!c)
        return 0;
    return c >= MAPPED_REF ? pt_mapped_mem(h, mapped_ref(h, c)) : mem_of(h, c);
}

static uint64_t free_chunk(pt *h, pa_unit c);
static uint64_t realloc_chunk(pt *h, pa_unit c);
static uint64_t finish_memalign(pt *h, pa_unit c);
static uint64_t finish_realloc(pt *h, pa_unit c);

static uint64_t finish(pt *h, pa_unit c)
{
    if (h->op.kind == PA_OP_MEMALIGN)
        return finish_memalign(h, c);
    if (h->op.kind == PA_OP_REALLOC && h->op.pointer)
        return finish_realloc(h, c);
    if (h->op.kind == PA_OP_CALLOC && c && c < MAPPED_REF && h->base.mm) {
        /* Clearing touches what the kernel has not just cleared: never past the old top's pages. */
        heap_touch_range(&h->base, mem_of(h, c), h->op.bytes);
    }
    return done(h, pointer_of(h, c));
}

static int32_t arena_limit(const pt *h)
{
    if (h->mp.arena_max)
        return (int32_t)h->mp.arena_max;
    if (h->count_arenas <= h->mp.arena_test)
        return INT32_MAX;
    return (int32_t)(h->count_cpus * (h->pf->word == 8 ? 8 : 2));
}

/* What new_heap() is asked for when an arena is founded: heap_info, malloc_state, alignment. */
static uint64_t first_heap_bytes(const pt *h)
{
    return h->pf->word == 8 ? 0x8d0 : 0x478;
}

static pa_unit begin_new_arena(pt *h)
{
    pt_arena *a;
    if (!pt_add_arena(h, &a))
        return 0;
    h->op.phase = PH_ARENA;
    h->op.arena = a->index;
    return pt_new_heap(h, a, first_heap_bytes(h));
}

/* arena_get(): the thread's own, a free one, a new one, or the next in turn. */
static bool choose_arena(pt *h, pa_unit *pending)
{
    pt_thread *t = self(h);
    if (t->arena >= 0) {
        h->op.arena = (uint32_t)t->arena;
        return true;
    }
    if (h->op.thread == 0) {
        t->arena = 0;
        h->arenas[0].attached++;
    } else if (h->free_arena >= 0) {
        t->arena = h->free_arena;
        h->free_arena = h->arenas[t->arena].next_free;
        h->arenas[t->arena].next_free = -1;
        h->arenas[t->arena].attached++;
    } else if ((int32_t)h->count_arenas < arena_limit(h)) {
        *pending = begin_new_arena(h);
        return false;
    } else {
        t->arena = (int32_t)h->next_to_use;
        h->next_to_use = h->arenas[t->arena].next;
        h->arenas[t->arena].attached++;
    }
    h->op.arena = (uint32_t)t->arena;
    return true;
}

/* A new arena's heap was mapped (c: its top) or refused (0). */
static void attach_new_arena(pt *h, pa_unit c)
{
    uint32_t index = h->count_arenas - 1;
    if (!c) {
        h->count_arenas--;
        self(h)->arena = 0;
    } else { /* new arenas are linked right after the main one */
        h->arenas[index].next = h->arenas[0].next;
        h->arenas[0].next = index;
        h->arenas[index].attached++;
        self(h)->arena = (int32_t)index;
    }
    h->op.arena = (uint32_t)self(h)->arena;
}

static pa_unit take_block(pt *h)
{
    h->op.phase = PH_BLOCK;
    if (h->op.hopeless)
        return 0;
    bool cache =
        h->op.kind == PA_OP_MALLOC || (h->op.kind == PA_OP_CALLOC && h->pf->calloc_uses_tcache);
    pa_unit c = cache ? pt_tcache_take(h, h->op.nb) : 0;
    return c ? c : pt_int_malloc(h, &h->arenas[h->op.arena], h->op.inner);
}

/* A failed request is tried once more in another arena; up to 2.26 one is made for it. */
static bool retry_elsewhere(pt *h, pa_unit *c)
{
    if (h->op.retried || (!h->threaded && !h->pf->retries_alone))
        return false;
    h->op.retried = true;
    h->op.phase = PH_RETRY;
    if (!h->op.arena && h->count_arenas == 1) {
        if (!h->pf->retries_alone)
            return false;
        *c = begin_new_arena(h);
        return true;
    }
    h->op.arena = h->op.arena ? 0 : h->arenas[0].next;
    *c = h->op.hopeless ? 0 : pt_int_malloc(h, &h->arenas[h->op.arena], h->op.inner);
    return true;
}

/* Go on with what the phase under way produced. */
static uint64_t run(pt *h, pa_unit c)
{
    for (;;) {
        if (c == REF_PENDING)
            return PENDING;
        switch (h->op.phase) {
        case PH_IDLE:
            if (!choose_arena(h, &c))
                continue;
            if (wants_tcache(h)) {
                h->op.phase = PH_TCACHE;
                self(h)->tcache.dead = h->pf->birth == BIRTH_FREE; /* it is tried once only */
                c = pt_int_malloc(h, &h->arenas[h->op.arena],
                                  request_units(h, h->pf->tcache_bytes));
                continue;
            }
            c = take_block(h);
            continue;
        case PH_ARENA:
            attach_new_arena(h, c);
            h->op.phase = h->op.retried ? PH_RETRY : PH_IDLE;
            c = 0;
            if (h->op.retried && h->op.arena && !h->op.hopeless)
                c = pt_int_malloc(h, &h->arenas[h->op.arena], h->op.inner);
            continue;
        case PH_TCACHE:
            pt_tcache_install(h, c);
            if (h->op.kind == PA_OP_FREE)
                return free_chunk(h, chunk_of(h, h->op.pointer));
            if (h->op.kind == PA_OP_REALLOC && h->op.old)
                return realloc_chunk(h, h->op.old);
            c = take_block(h);
            continue;
        case PH_BLOCK:
            if (!c && retry_elsewhere(h, &c))
                continue;
            return finish(h, c);
        case PH_RETRY:
            return finish(h, c);
        case PH_MREMAP:
            return finish(h, c);
        }
    }
}

static uint64_t allocate(pt *h, uint32_t kind, uint64_t bytes, uint64_t align)
{
    bool fits = request_fits(h, bytes);
    if (!fits && !h->pf->retries_alone)
        return done(h, 0);
    h->op = (pt_op){.kind = kind,
                    .thread = h->base.thread,
                    .bytes = bytes,
                    .align = align,
                    .hopeless = !fits,
                    .nb = fits ? request_units(h, bytes) : MIN_UNITS};
    h->op.inner = h->op.nb;
    return run(h, 0);
}

/* ---- memalign ------------------------------------------------------------------------------------ */

static uint64_t align_up(uint64_t n, uint64_t to)
{
    return (n + to - 1) & ~(to - 1);
}

/* A mapped block keeps its mapping; only its header moves up. */
static uint64_t align_mapped(pt *h, pt_mapped *m)
{
    uint64_t mem = pt_mapped_mem(h, m), spot = align_up(mem, h->op.align);
    if (spot != mem && spot - mem < bytes_of(h, MIN_UNITS) && h->pf->version < 243)
        spot += h->op.align;
    if (spot != mem)
        pt_move_mapped(h, m, m->base, m->total, m->front + spot - mem);
    return done(h, pt_mapped_mem(h, m));
}

static bool free_leader(pt *h, pt_arena *a, pa_unit c)
{
    if (h->pf->memalign == MEMALIGN_MERGE)
        return pt_merge_free(h, a, c);
    return pt_int_free(h, a, c, true);
}

/* 2.39 and later give the tail back whenever it can be merged, whatever its size. */
static bool free_tail(pt *h, pt_arena *a, pa_unit c)
{
    uint64_t size = size_of(h, c), nb = h->op.nb, rest = size - nb;
    uint32_t flag = at(h, c)->size & N_ARENA;
    pa_unit next = next_of(h, c);
    bool give = size > nb + MIN_UNITS;
    if (h->pf->memalign == MEMALIGN_MERGE)
        give = rest >= MIN_UNITS || (rest && h->pf->version < 243 &&
                                     (next == a->top || !prev_in_use(h, next_of(h, next))));
    if (!give)
        return true;
    pa_unit tail = c + (pa_unit)nb;
    set_head(h, tail, rest, P_INUSE | flag);
    set_head(h, c, nb, (at(h, c)->size & (P_INUSE | N_ARENA)));
    if (h->pf->memalign == MEMALIGN_MERGE)
        return pt_merge_free(h, a, tail);
    return pt_int_free(h, a, tail, true);
}

static uint64_t finish_memalign(pt *h, pa_unit c)
{
    if (!c)
        return done(h, 0);
    if (c >= MAPPED_REF)
        return align_mapped(h, mapped_ref(h, c));
    pt_arena *a = &h->arenas[h->op.arena];
    uint64_t mem = mem_of(h, c);
    if (mem & (h->op.align - 1)) {
        pa_unit spot = c + (pa_unit)((align_up(mem, h->op.align) - mem) >> h->unit_shift);
        if (spot - c < MIN_UNITS)
            spot += (pa_unit)(h->op.align >> h->unit_shift);
        uint64_t lead = spot - c, size = size_of(h, c);
        uint32_t flag = at(h, c)->size & N_ARENA;
        set_head(h, spot, size - lead, P_INUSE | flag);
        set_in_use(h, spot, size - lead);
        set_head(h, c, lead, (at(h, c)->size & (P_INUSE | N_ARENA)));
        if (!free_leader(h, a, c))
            return aborted();
        c = spot;
    }
    if (!free_tail(h, a, c))
        return aborted();
    return done(h, mem_of(h, c));
}

static uint64_t memalign(pt *h, uint64_t align, uint64_t bytes)
{
    uint64_t mask = h->pf->word == 8 ? UINT64_MAX : UINT32_MAX;
    if (align <= h->pf->align)
        return allocate(h, PA_OP_MALLOC, bytes, 0);
    if (align > mask / 2 + 1)
        return done(h, 0);
    uint64_t power = (uint64_t)h->pf->align * 2;
    if (align < bytes_of(h, MIN_UNITS))
        align = bytes_of(h, MIN_UNITS);
    if (align & (align - 1)) {
        while (power < align)
            power <<= 1;
        align = power;
    }
    uint64_t least = bytes_of(h, MIN_UNITS);
    if (!request_fits(h, bytes) || bytes > mask - align - least)
        return done(h, 0);
    h->op = (pt_op){.kind = PA_OP_MEMALIGN,
                    .thread = h->base.thread,
                    .bytes = bytes,
                    .align = align,
                    .nb = request_units(h, bytes)};
    uint64_t inner = bytes_of(h, h->op.nb) + align + least;
    h->op.hopeless = !request_fits(h, inner);
    h->op.inner = h->op.hopeless ? 0 : request_units(h, inner);
    pa_unit cached =
        h->pf->memalign == MEMALIGN_MERGE ? pt_tcache_take_aligned(h, h->op.nb, align) : 0;
    return cached ? done(h, mem_of(h, cached)) : run(h, 0);
}

/* ---- free ---------------------------------------------------------------------------------------- */

/* Is this address inside memory that chunks may be in? */
static bool is_heap(const pt *h, uint64_t mem)
{
    if (mem >= h->base.brk_start && mem < h->base.brk)
        return true;
    for (uint32_t i = 0; i < h->sh.count_segments; i++)
        if (mem - h->sh.segments[i].base < h->sh.segments[i].length)
            return true;
    return false;
}

static uint64_t free_unknown(pt *h, uint64_t mem)
{
    bool aligned = !(mem & (h->pf->align - 1));
    return heap_abort(&h->base, h->pf->version >= 204 && !aligned && is_heap(h, mem)
                                    ? "free(): invalid pointer"
                                    : NULL);
}

static bool birth_by_free(pt *h, pa_unit c)
{
    if (h->pf->birth == BIRTH_CALL)
        return true;
    return h->pf->birth == BIRTH_FREE && pt_tcache_serves(h, size_of(h, c));
}

static uint64_t free_chunk(pt *h, pa_unit c)
{
    if (!pt_int_free(h, pt_arena_of(h, c), c, false))
        return aborted();
    return done(h, 0);
}

static uint64_t pt_free(pt *h, uint64_t mem)
{
    if (!mem)
        return 0;
    pt_mapped *m = pt_mapped_at(h, mem);
    if (m) {
        pt_free_mapped(h, m);
        return done(h, 0);
    }
    if (!is_heap(h, mem) || mem & (h->pf->align - 1))
        return free_unknown(h, mem);
    pa_unit c = chunk_of(h, mem);
    if (pt_tcache_unborn(h) && birth_by_free(h, c)) {
        h->op = (pt_op){.kind = PA_OP_FREE, .thread = h->base.thread, .pointer = mem};
        return run(h, 0);
    }
    return free_chunk(h, c);
}

/* ---- realloc -------------------------------------------------------------------------------------- */

/* Cut what is more than nb off c, which is in use. */
static uint64_t shrink_to(pt *h, pt_arena *a, pa_unit c, uint64_t size, uint64_t nb)
{
    uint32_t flags = at(h, c)->size & (P_INUSE | N_ARENA);
    if (size - nb < MIN_UNITS) {
        set_head(h, c, size, flags);
        set_in_use(h, c, size);
        return done(h, mem_of(h, c));
    }
    pa_unit rest = c + (pa_unit)nb;
    set_head(h, c, nb, flags);
    set_head(h, rest, size - nb, P_INUSE | (flags & N_ARENA));
    set_in_use(h, rest, size - nb);
    if (!pt_int_free(h, a, rest, true))
        return aborted();
    return done(h, mem_of(h, c));
}

/* The block that a growing realloc got: join it, or copy into it and free the old one. */
static uint64_t finish_realloc(pt *h, pa_unit c)
{
    pa_unit old = h->op.old;
    if (!c)
        return done(h, 0);
    if (!old) { /* the old block was a mapping */
        pt_mapped *m = pt_mapped_at(h, h->op.pointer);
        heap_touch_range(&h->base, pointer_of(h, c), h->op.bytes);
        pt_free_mapped(h, m);
        return done(h, pointer_of(h, c));
    }
    pt_arena *a = pt_arena_of(h, old);
    uint64_t size = size_of(h, old);
    if (c == next_of(h, old))
        return shrink_to(h, a, old, size + size_of(h, c), h->op.nb);
    heap_touch_range(&h->base, pointer_of(h, c), bytes_of(h, size) - h->pf->word);
    if (!pt_int_free(h, a, old, true))
        return aborted();
    return done(h, pointer_of(h, c));
}

static uint64_t realloc_chunk(pt *h, pa_unit c)
{
    pt_arena *a = pt_arena_of(h, c);
    uint64_t size = size_of(h, c), nb = h->op.nb;
    pa_unit next = next_of(h, c);
    if (size >= nb)
        return shrink_to(h, a, c, size, nb);
    uint64_t more = size_of(h, next);
    if (next == a->top) {
        if (size + more >= nb + MIN_UNITS) {
            set_head(h, c, nb, at(h, c)->size & (P_INUSE | N_ARENA));
            a->top = c + (pa_unit)nb;
            set_head(h, a->top, size + more - nb, P_INUSE);
            return done(h, mem_of(h, c));
        }
    } else if (!prev_in_use(h, next + (pa_unit)more) && size + more >= nb) {
        const char *fault = pt_unlink(h, a, next);
        if (fault)
            return heap_abort(&h->base, fault);
        return shrink_to(h, a, c, size + more, nb);
    }
    h->op.old = c;
    h->op.arena = a->index;
    uint64_t bytes = bytes_of(h, nb) - (h->pf->align - 1);
    h->op.inner = request_units(h, bytes);
    h->op.phase = PH_BLOCK;
    return run(h, pt_int_malloc(h, a, h->op.inner));
}

/* A mapping is remapped whatever the sizes. */
static uint64_t realloc_mapped(pt *h, pt_mapped *m)
{
    uint64_t extra = h->pf->version >= 243 ? 2 * h->pf->word : h->pf->word;
    uint64_t total = align_up(bytes_of(h, h->op.nb) + m->front + extra, PAGE_BYTES);
    if (total == m->total)
        return done(h, h->op.pointer);
    h->op.phase = PH_MREMAP;
    h->op.inner = total;
    h->op.old = 0;
    return heap_ask(&h->base, PA_STOP_MREMAP, m->base, total, m->total, 0);
}

static uint64_t end_mremap(pt *h)
{
    pt_mapped *m = pt_mapped_at(h, h->op.pointer);
    uint64_t base = h->base.stop.answer;
    if (base) {
        pt_move_mapped(h, m, base, h->op.inner, m->front);
        return done(h, pt_mapped_mem(h, m));
    }
    uint64_t kept = m->total - m->front - h->pf->word;
    bool keeps = h->pf->version >= 243 ? h->op.bytes <= pt_usable(&h->base, h->op.pointer)
                                       : kept >= bytes_of(h, h->op.nb);
    if (keeps)
        return done(h, h->op.pointer);
    h->op.inner = h->op.nb;
    h->op.phase = PH_IDLE;
    return run(h, 0);
}

/* Since 2.38 a request that all but fills its block leaves it as it is. */
static bool keeps_block(const pt *h, bool mapped, uint64_t bytes, uint64_t usable)
{
    if (h->pf->version < 238 || bytes > usable)
        return false;
    uint64_t slack = usable - bytes;
    return slack < 2 * h->pf->word || (mapped && slack <= PAGE_BYTES && h->pf->version < 243);
}

static uint64_t pt_realloc(pt *h, uint64_t mem, uint64_t bytes)
{
    if (!mem)
        return allocate(h, PA_OP_MALLOC, bytes, 0);
    if (!bytes)
        return pt_free(h, mem);
    pt_mapped *m = pt_mapped_at(h, mem);
    if (!m && (!is_heap(h, mem) || mem & (h->pf->align - 1)))
        return heap_abort(&h->base, h->pf->version >= 204 && mem & (h->pf->align - 1)
                                        ? "realloc(): invalid pointer"
                                        : NULL);
    if (keeps_block(h, m != NULL, bytes, pt_usable(&h->base, mem)))
        return done(h, mem);
    if (!request_fits(h, bytes))
        return done(h, 0);
    h->op = (pt_op){.kind = PA_OP_REALLOC,
                    .thread = h->base.thread,
                    .pointer = mem,
                    .bytes = bytes,
                    .nb = request_units(h, bytes)};
    if (m)
        return realloc_mapped(h, m);
    h->op.old = chunk_of(h, mem);
    if (h->pf->birth != BIRTH_CALL || !pt_tcache_unborn(h))
        return realloc_chunk(h, h->op.old);
    return run(h, 0);
}

/* ---- settings ------------------------------------------------------------------------------------ */

static void set_threshold(pt *h, uint64_t *what, uint64_t value)
{
    *what = value;
    h->mp.no_dynamic = true;
}

static bool set_max_fast(pt *h, uint64_t value)
{
    const pt_profile *pf = h->pf;
    if (!pf->has_fastbins)
        return true;
    if (value > pf->fast_setting)
        return false;
    if (pf->version < 204)
        h->max_fast = value ? request_units(h, value) : 1;
    else if (pf->version >= 232 ? value <= pf->align - 1 - pf->word : !value)
        h->max_fast = 1;
    else
        h->max_fast = ((value + pf->word) & ~(uint64_t)(pf->align - 1)) >> h->unit_shift;
    return true;
}

static bool set_mmap_threshold(pt *h, uint64_t value)
{
    uint64_t most = h->pf->version < 206 ? 512u << 10 : pt_heap_max(h) / 2;
    if (h->pf->version < 235 && value > most)
        return false;
    set_threshold(h, &h->mp.mmap_threshold, value);
    return true;
}

static uint64_t pt_mallopt(pt *h, int32_t parameter, int32_t value)
{
    uint64_t wide = h->pf->word == 8 ? (uint64_t)(int64_t)value : (uint32_t)value;
    if (h->pf->version < 243 && !pt_consolidate(h, &h->arenas[0]))
        return aborted();
    bool ok = true;
    switch (parameter) {
    case 1:
        ok = set_max_fast(h, wide);
        break;
    case -1:
        set_threshold(h, &h->mp.trim_threshold, wide);
        break;
    case -2:
        set_threshold(h, &h->mp.top_pad, wide);
        break;
    case -3:
        ok = set_mmap_threshold(h, wide);
        break;
    case -4:
        set_threshold(h, &h->mp.n_mmaps_max, (uint64_t)(int64_t)value);
        break;
    case -7:
        if (h->pf->version >= 210 && value > 0)
            h->mp.arena_test = wide;
        break;
    case -8:
        if (h->pf->version >= 210 && value > 0)
            h->mp.arena_max = wide;
        break;
    default:
        break;
    }
    return done(h, ok);
}

typedef struct setting {
    const char *name;
    int32_t parameter;
} setting;

/* Up to 2.41 the largest request; then the smallest chunk that is too large, since 2.43 plus 1. */
static bool set_tcache_max(pt *h, uint64_t value)
{
    const uint64_t largest = h->pf->version >= 242 ? 4u << 20 : h->pf->tcache_limit;
    if (!h->pf->tcache_bytes || value > largest)
        return false;
    uint64_t nb = request_units(h, value), index = (nb - MIN_UNITS) >> h->align_units_log;
    if (index >= TCACHE_SMALL && h->pf->version < 242)
        return false;
    if (index < TCACHE_SMALL)
        h->mp.tcache_bins = (uint32_t)index + 1;
    h->mp.tcache_limit = bytes_of(h, nb) + (h->pf->version == 242 ? 0 : 1);
    return true;
}

static pa_status pt_tunable(pa_heap *heap, const char *name, uint64_t value)
{
    static const setting settings[] = {
        {"mxfast", 1},    {"trim_threshold", -1}, {"top_pad", -2},   {"mmap_threshold", -3},
        {"mmap_max", -4}, {"arena_test", -7},     {"arena_max", -8},
    };
    pt *h = (pt *)heap;
    if (strcmp(name, "tcache_count") == 0 && value <= UINT16_MAX) {
        h->mp.tcache_count = (uint32_t)value;
    } else if (strcmp(name, "tcache_max") == 0) {
        return set_tcache_max(h, value) ? PA_OK : PA_ERR_INVALID;
    } else if (strcmp(name, "tcache_unsorted_limit") == 0) {
        h->mp.tcache_unsorted_limit = value;
    } else if (strcmp(name, "perturb") == 0 || strcmp(name, "check") == 0) {
        return PA_OK; /* neither moves an address */
    } else {
        for (size_t i = 0; i < sizeof settings / sizeof settings[0]; i++) {
            if (strcmp(name, settings[i].name) != 0)
                continue;
            switch (settings[i].parameter) {
            case 1:
                return set_max_fast(h, value) ? PA_OK : PA_ERR_INVALID;
            case -1:
                set_threshold(h, &h->mp.trim_threshold, value);
                return PA_OK;
            case -2:
                set_threshold(h, &h->mp.top_pad, value);
                return PA_OK;
            case -3:
                return set_mmap_threshold(h, value) ? PA_OK : PA_ERR_INVALID;
            case -4:
                set_threshold(h, &h->mp.n_mmaps_max, value);
                return PA_OK;
            case -7:
                h->mp.arena_test = value;
                return PA_OK;
            default:
                h->mp.arena_max = value;
                return PA_OK;
            }
        }
        return PA_ERR_INVALID;
    }
    return PA_OK;
}

/* ---- threads end --------------------------------------------------------------------------------- */

/* tcache_thread_shutdown() and arena detachment. */
static uint64_t thread_exit(pt *h)
{
    pt_thread *t = self(h);
    pt_tcache tc = t->tcache;
    t->tcache = (pt_tcache){.dead = true};
    for (uint32_t i = 0; tc.alive && i < TCACHE_BINS; i++) {
        for (pa_unit c = tc.entry[i], next; c; c = next) {
            next = at(h, c)->fd;
            at(h, c)->bk = 0;
            if (!pt_int_free(h, pt_arena_of(h, c), c, false))
                return aborted();
        }
    }
    if (tc.alive && tc.home >= MAPPED_REF)
        pt_free_mapped(h, mapped_ref(h, tc.home));
    else if (tc.alive && !pt_int_free(h, pt_arena_of(h, tc.home), tc.home, false))
        return aborted();
    if (t->arena >= 0) {
        pt_arena *a = &h->arenas[t->arena];
        if (a->attached && --a->attached == 0) {
            a->next_free = h->free_arena;
            h->free_arena = (int32_t)a->index;
        }
    }
    *t = (pt_thread){.arena = -1};
    return done(h, 0);
}

/* ---- the seam ------------------------------------------------------------------------------------ */

static uint64_t sbrk_by_somebody(pt *h, uint64_t delta)
{
    uint64_t mask = h->pf->word == 8 ? UINT64_MAX : UINT32_MAX, old = h->base.brk;
    uint64_t wanted = (old + delta) & mask;
    h->op = (pt_op){.kind = PA_OP_SBRK, .thread = h->base.thread, .pointer = old};
    if (heap_move_break(&h->base, wanted))
        return done(h, old);
    return heap_ask(&h->base, PA_STOP_BRK, wanted, delta, 0, 0);
}

static uint64_t pt_call(pa_heap *heap, const pa_call *call)
{
    pt *h = (pt *)heap;
    uint64_t mask = h->pf->word == 8 ? UINT64_MAX : UINT32_MAX;
    uint64_t size = call->size & mask, arg = call->arg & mask;
    if (call->thread >= h->count_threads && !pt_thread_of(h, call->thread))
        return 0;
    h->base.thread = call->thread;
    h->threaded |= call->thread != 0;
    h->op.thread = call->thread;
    switch (call->op) {
    case PA_OP_MALLOC:
        return allocate(h, PA_OP_MALLOC, size, 0);
    case PA_OP_CALLOC:
        return allocate(h, PA_OP_CALLOC, size, 0);
    case PA_OP_REALLOC:
        return pt_realloc(h, call->pointer, size);
    case PA_OP_FREE:
        return pt_free(h, call->pointer);
    case PA_OP_MEMALIGN:
        return memalign(h, arg, size);
    case PA_OP_ALIGNED_ALLOC:
        if (h->pf->version >= 238 && (!arg || arg & (arg - 1)))
            return done(h, 0);
        return memalign(h, arg, size);
    case PA_OP_POSIX_MEMALIGN:
        if (arg % h->pf->word || arg & (arg - 1) || (!arg && h->pf->version >= 204))
            return done(h, 0);
        return memalign(h, arg, size);
    case PA_OP_VALLOC:
        return memalign(h, PAGE_BYTES, size);
    case PA_OP_PVALLOC:
        if (size > mask - PAGE_BYTES)
            return done(h, 0);
        return memalign(h, PAGE_BYTES, align_up(size, PAGE_BYTES));
    case PA_OP_MALLOC_TRIM: {
        uint64_t given = pt_trim(h, size);
        return heap->state == HEAP_DEAD ? PENDING : done(h, given);
    }
    case PA_OP_MALLOPT:
        return pt_mallopt(h, (int32_t)arg, (int32_t)size);
    case PA_OP_SBRK:
        return sbrk_by_somebody(h, size);
    case PA_OP_THREAD_EXIT:
        return thread_exit(h);
    default:
        return done(h, 0);
    }
}

static uint64_t pt_resume(pa_heap *heap)
{
    pt *h = (pt *)heap;
    if (h->op.kind == PA_OP_SBRK) {
        bool moved = heap->stop.answer == heap->stop.address;
        return done(h, moved ? h->op.pointer : (h->pf->word == 8 ? UINT64_MAX : UINT32_MAX));
    }
    if (h->op.phase == PH_MREMAP)
        return end_mremap(h);
    return run(h, pt_malloc_resume(h));
}

static uint64_t pt_usable(const pa_heap *heap, uint64_t mem)
{
    const pt *h = (const pt *)heap;
    if (!mem)
        return 0;
    const pt_mapped *m = pt_mapped_at(h, mem);
    if (m && h->pf->version >= 243) /* its size field leaves 16 bytes out at the start */
        return m->total - m->front - 16 - (h->pf->word == 8 ? 8 : 4) +
               (h->pf->align > 2 * h->pf->word ? 8 : 0);
    if (m)
        return m->total - m->front - 2 * h->pf->word;
    if (!is_heap(h, mem))
        return 0;
    return bytes_of(h, size_of(h, chunk_of(h, mem))) - h->pf->word;
}

static void pt_drop(pa_heap *heap)
{
    pt *h = (pt *)heap;
    pa_shadow_drop(&h->sh);
    free(h->arenas);
    free(h->threads);
    free(h->subheaps);
    free(h->mapped);
    free(h->mapped_index);
    heap_drop(heap);
    free(h);
}

static void *duplicate(const void *from, size_t bytes)
{
    void *to = malloc(bytes ? bytes : 1);
    if (to && bytes)
        memcpy(to, from, bytes);
    return to;
}

static pa_heap *pt_copy(const pa_heap *heap)
{
    const pt *from = (const pt *)heap;
    pt *to = duplicate(from, sizeof *from);
    if (!to)
        return NULL;
    to->arenas = duplicate(from->arenas, from->room_arenas * sizeof *from->arenas);
    to->threads = duplicate(from->threads, from->count_threads * sizeof *from->threads);
    to->subheaps = duplicate(from->subheaps, from->room_subheaps * sizeof *from->subheaps);
    to->mapped = duplicate(from->mapped, from->room_mapped * sizeof *from->mapped);
    to->mapped_index = from->mapped_index
                           ? duplicate(from->mapped_index, ((size_t)from->mapped_mask + 1) * 4)
                           : NULL;
    bool shadow = pa_shadow_copy(&to->sh, &from->sh) == PA_OK;
    bool base = heap_copy_base(&to->base, &from->base);
    if (to->arenas && to->threads && to->subheaps && to->mapped && shadow && base)
        return &to->base;
    pt_drop(&to->base);
    return NULL;
}

static const pa_allocator ptmalloc = {
    .name = "glibc",
    .call = pt_call,
    .resume = pt_resume,
    .usable_size = pt_usable,
    .statistics = pt_statistics,
    .walk = pt_walk,
    .tunable = pt_tunable,
    .check = pt_check,
    .copy = pt_copy,
    .drop = pt_drop,
};

static void init_params(pt *h)
{
    h->mp = (pt_params){
        .top_pad = 131072,
        .trim_threshold = 131072,
        .mmap_threshold = 131072,
        .mmap_threshold_max = h->pf->word == 8 ? 32u << 20 : 512u << 10,
        .n_mmaps_max = 65536,
        .arena_test = h->pf->word == 8 ? 8 : 2,
        .tcache_count = h->pf->tcache_count,
        .tcache_limit = h->pf->tcache_limit,
        .tcache_bins = TCACHE_SMALL,
    };
    h->max_fast = h->pf->has_fastbins ? h->pf->fast_default >> h->unit_shift : 0;
}

pa_heap *pt_new(const char *name, uint32_t word, uint64_t brk_start, uint32_t count_cpus)
{
    const pt_profile *pf = pt_find_profile(name, word);
    pt *h = pf ? calloc(1, sizeof *h) : NULL;
    if (!h)
        return NULL;
    h->pf = pf;
    h->unit_shift = pf->word == 8 ? 4 : 3;
    h->unit = 1u << h->unit_shift;
    h->align_log = pf->align == 16 ? 4 : 3;
    h->align_units_log = h->align_log - h->unit_shift;
    h->low = pf->word == 8 ? SHADOW_LOW_UNITS : PAGE_BYTES >> 3;
    h->count_cpus = count_cpus;
    h->free_arena = -1;
    heap_init(&h->base, &ptmalloc, brk_start);
    init_params(h);
    pt_arena *main_arena;
    if (pa_shadow_init(&h->sh, h->unit_shift, brk_start) != PA_OK || !pt_thread_of(h, 0) ||
        !pt_add_arena(h, &main_arena)) {
        pt_drop(&h->base);
        return NULL;
    }
    main_arena->bins = MAIN_HEADS;
    pt_init_bins(h, main_arena);
    return &h->base;
}
