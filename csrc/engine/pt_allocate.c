/* SPDX-License-Identifier: MIT
 *
 * pt_allocate.c -- malloc and calloc of ptmalloc, and what every call that allocates goes through.
 *
 * Up to four phases: find the thread's arena (PH_ARENA), make its tcache (PH_TCACHE), take the block
 * (PH_BLOCK), try another arena (PH_RETRY).  pt_run() goes on from whichever phase the answer belongs
 * to, so nothing is done twice.
 */
#include "pt_calls.h"

bool pt_wants_tcache(pt *h)
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
uint64_t pt_pointer_of(const pt *h, pa_unit c)
{
    if (!c)
        return 0;
    return c >= MAPPED_REF ? pt_mapped_mem(h, mapped_ref(h, c)) : mem_of(h, c);
}

/* calloc: beyond the top as it was before the call all is fresh from the kernel.  Linux's break hands
 * out zeros again after a trim (MORECORE_CLEARS is 2), but a thread's heap counts as dirty as far as
 * it was ever made writable, which has been noted since 2.10. */
static void note_top(pt *h, const pt_arena *a)
{
    h->op.clean_from = a->top;
    h->op.dirty_bytes = a->top ? bytes_of(h, size_of(h, a->top)) : 0;
    if (!a->top || !a->index || h->pf->version < 210)
        return;
    const pt_subheap *heap = pt_subheap_at(h, address_of(h, a->top));
    uint64_t reached = heap ? heap->base + heap->writable - address_of(h, a->top) : 0;
    if (reached > h->op.dirty_bytes)
        h->op.dirty_bytes = reached;
}

/* Clearing touches the whole chunk, or as much of it as the kernel has not just cleared. */
static void clear_block(pt *h, pa_unit c)
{
    uint64_t bytes = bytes_of(h, size_of(h, c));
    if (c == h->op.clean_from && bytes > h->op.dirty_bytes && !h->mp.perturb)
        bytes = h->op.dirty_bytes;
    if (bytes <= h->pf->word)
        return;
    pt_clear(h, mem_of(h, c), bytes - h->pf->word);
    heap_touch_range(&h->base, mem_of(h, c), bytes - h->pf->word);
}

/* Up to 2.33, when a calloc is the first call, its hook has malloc make the block and clears it. */
static void clear_all(pt *h, pa_unit c)
{
    if (c < MAPPED_REF)
        pt_clear(h, mem_of(h, c), h->op.bytes);
    heap_touch_range(&h->base, pt_pointer_of(h, c), h->op.bytes);
}

/* A damaged list gave what is no chunk: since 2.32 that is noticed, for it is hardly ever aligned. */
static bool is_wild(const pt *h, pa_unit c)
{
    return c >= MAPPED_REF &&
           (c - MAPPED_REF >= h->count_mapped || !h->mapped[c - MAPPED_REF].used);
}

static uint64_t fail_wild(pt *h)
{
    bool noticed = h->pf->version >= 232;
    pt_fail(h, noticed ? "malloc(): unaligned tcache chunk detected" : NULL, 0);
    return PENDING;
}

/* What _int_malloc() was asked for. */
static uint64_t asked_bytes(const pt *h)
{
    if (h->op.kind == PA_OP_MEMALIGN)
        return bytes_of(h, h->op.nb + MIN_UNITS) + h->op.align;
    if (h->op.kind == PA_OP_REALLOC && h->op.old && !h->op.moving)
        return bytes_of(h, h->op.nb) - (h->pf->align - 1);
    return h->op.bytes;
}

static uint64_t finish(pt *h, pa_unit c)
{
    if (is_wild(h, c))
        return fail_wild(h);
    if (h->mp.perturb && c && !h->op.cached)
        heap_touch_range(&h->base, pt_pointer_of(h, c), asked_bytes(h));
    if (h->op.kind == PA_OP_MEMALIGN)
        return pt_finish_memalign(h, c);
    if (h->op.kind == PA_OP_REALLOC && h->op.pointer)
        return pt_finish_realloc(h, c);
    if (h->op.kind == PA_OP_CALLOC && c && h->op.hooked)
        clear_all(h, c);
    else if (h->op.kind == PA_OP_CALLOC && c && c < MAPPED_REF)
        clear_block(h, c);
    return pt_done(h, pt_pointer_of(h, c));
}

/* A process of one thread does not look for an arena, but for its cache up to 2.41. */
static bool stays_in_main(pt *h)
{
    return !h->threaded && !h->pf->retries_alone &&
           (h->pf->birth != BIRTH_CALL || h->op.cache_tried || !pt_wants_tcache(h));
}

/* arena_get(): the thread's own, or one that is found for it.
 * False: one is being made, *pending is what it gave so far. */
static bool choose_arena(pt *h, pa_unit *pending)
{
    pt_thread *t = pt_self(h);
    h->op.phase = PH_ARENA;
    if (stays_in_main(h)) {
        h->op.arena = 0;
        return true;
    }
    if (t->arena < 0 && h->op.thread == 0 && !h->initialised)
        pt_attach(h, t, 0);
    if (t->arena < 0 || h->arenas[t->arena].corrupt)
        return pt_find_arena(h, false, pending);
    h->op.arena = (uint32_t)t->arena;
    return true;
}

static pa_unit malloc_from(pt *h, uint64_t nb)
{
    if (h->op.arena == NO_ARENA)
        return pt_map_only(h, nb);
    return pt_int_malloc(h, &h->arenas[h->op.arena], nb);
}

static pa_unit take_block(pt *h)
{
    h->op.phase = PH_BLOCK;
    if (h->op.hopeless)
        return 0;
    if (h->op.kind == PA_OP_CALLOC && h->op.arena != NO_ARENA)
        note_top(h, &h->arenas[h->op.arena]);
    bool cache = h->op.kind == PA_OP_MALLOC || h->op.moving ||
                 (h->op.kind == PA_OP_CALLOC && (h->pf->calloc_uses_tcache || h->op.hooked));
    pa_unit c = cache ? pt_tcache_take(h, h->op.nb) : 0;
    h->op.cached = c != 0;
    return c ? c : malloc_from(h, h->op.inner);
}

static pa_unit make_cache(pt *h)
{
    return malloc_from(h, request_units(h, h->pf->tcache_bytes));
}

static pa_unit take_again(pt *h)
{
    h->op.phase = PH_RETRY;
    if (h->op.caching)
        return make_cache(h);
    return h->op.hopeless ? 0 : malloc_from(h, h->op.inner);
}

/* Since 2.27 only where there are threads, but for the cache up to 2.41. */
static bool retries(const pt *h)
{
    bool in_place = h->op.kind == PA_OP_REALLOC && h->op.old && !h->op.moving;
    if (h->op.arena == NO_ARENA)
        return false;
    if (h->op.caching)
        return h->threaded || h->pf->birth == BIRTH_CALL;
    return !h->op.never_retried && !in_place && (h->threaded || h->pf->retries_alone);
}

/* arena_get_retry(): a request that failed is tried once more, of the main arena if it was not the
 * main one that failed, else of any other. */
static bool retry_elsewhere(pt *h, pa_unit *c)
{
    if (!retries(h))
        return false;
    if (h->op.arena) {
        if (h->arenas[0].corrupt)
            return false;
        h->op.arena = 0;
        *c = take_again(h);
        return true;
    }
    h->op.phase = PH_RETRY_ARENA;
    h->op.arena_bytes = h->op.caching ? h->pf->tcache_bytes : h->op.bytes;
    bool main_locked = h->op.kind != PA_OP_MEMALIGN;
    if (pt_find_arena(h, main_locked, c))
        *c = take_again(h);
    return true;
}

/* The arena is chosen: make the tcache in it first, or take the block. */
static pa_unit begin_block(pt *h)
{
    if (h->op.cache_tried || !pt_wants_tcache(h))
        return take_block(h);
    h->op.phase = PH_TCACHE;
    h->op.caching = true;
    pt_self(h)->tcache.dead = h->pf->birth == BIRTH_FREE; /* it is tried once only */
    return make_cache(h);
}

/* The tcache was made, or could not be: the call begins again, without it. */
static uint64_t after_tcache(pt *h, pa_unit c)
{
    pt_tcache_install(h, c);
    h->op.caching = false;
    h->op.cache_tried = true;
    if (h->op.kind == PA_OP_FREE)
        return pt_free_chunk(h, chunk_of(h, h->op.pointer));
    if (h->op.kind == PA_OP_REALLOC && h->op.old && !h->op.moving)
        return pt_realloc_chunk(h, h->op.old);
    h->op.phase = PH_IDLE;
    h->op.arena_bytes = h->op.bytes;
    return pt_run(h, 0);
}

/* Go on with what the phase under way produced. */
uint64_t pt_run(pt *h, pa_unit c)
{
    for (;;) {
        if (c == REF_PENDING)
            return PENDING;
        switch (h->op.phase) {
        case PH_IDLE:
            c = 0;
            if (choose_arena(h, &c))
                c = begin_block(h);
            continue;
        case PH_ARENA:
            pt_attach_new_arena(h, c);
            c = begin_block(h);
            continue;
        case PH_TCACHE:
            if (!c && retry_elsewhere(h, &c))
                continue;
            return after_tcache(h, c);
        case PH_BLOCK:
            if (!c && retry_elsewhere(h, &c))
                continue;
            return finish(h, c);
        case PH_RETRY_ARENA:
            pt_attach_new_arena(h, c);
            c = take_again(h);
            continue;
        case PH_RETRY:
            return h->op.caching ? after_tcache(h, c) : finish(h, c);
        case PH_MREMAP:
            return finish(h, c);
        }
    }
}

uint64_t pt_allocate(pt *h, uint32_t kind, uint64_t bytes, uint64_t align)
{
    bool fits = request_fits(h, bytes), hooked = h->hooked;
    h->hooked = false;
    bool looks = h->pf->retries_alone || (h->pf->version >= 243 && kind == PA_OP_MALLOC);
    if (!fits && !looks)
        return pt_done(h, 0);
    h->op = (pt_op){.kind = kind,
                    .thread = h->base.thread,
                    .bytes = bytes,
                    .align = align,
                    .hopeless = !fits,
                    .hooked = hooked,
                    .nb = fits ? request_units(h, bytes) : MIN_UNITS};
    h->op.inner = h->op.nb;
    h->op.arena_bytes = pt_wants_tcache(h) ? h->pf->tcache_bytes : bytes;
    return pt_run(h, 0);
}
