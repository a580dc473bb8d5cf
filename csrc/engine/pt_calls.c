/* SPDX-License-Identifier: MIT
 *
 * pt_calls.c -- the public calls of ptmalloc, each as steps that may wait for policy.
 *
 * A call that allocates goes through up to four phases: find the thread's arena (PH_ARENA), make its
 * tcache (PH_TCACHE), take the block (PH_BLOCK), try another arena (PH_RETRY).  run() goes on from
 * whichever phase the answer belongs to, so nothing is done twice.
 */
#include "pt.h"
#include "replay.h"

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

/* The call ends by an error: the program dies, or gets nothing where M_CHECK_ACTION says so. */
static uint64_t aborted(pt *h)
{
    return h->base.state == HEAP_DEAD ? PENDING : done(h, 0);
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
    heap_touch_range(&h->base, pointer_of(h, c), h->op.bytes);
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
        heap_touch_range(&h->base, pointer_of(h, c), asked_bytes(h));
    if (h->op.kind == PA_OP_MEMALIGN)
        return finish_memalign(h, c);
    if (h->op.kind == PA_OP_REALLOC && h->op.pointer)
        return finish_realloc(h, c);
    if (h->op.kind == PA_OP_CALLOC && c && h->op.hooked)
        clear_all(h, c);
    else if (h->op.kind == PA_OP_CALLOC && c && c < MAPPED_REF)
        clear_block(h, c);
    return done(h, pointer_of(h, c));
}

/* A process of one thread does not look for an arena, but for its cache up to 2.41. */
static bool stays_in_main(pt *h)
{
    return !h->threaded && !h->pf->retries_alone &&
           (h->pf->birth != BIRTH_CALL || h->op.cache_tried || !wants_tcache(h));
}

/* arena_get(): the thread's own, or one that is found for it.
 * False: one is being made, *pending is what it gave so far. */
static bool choose_arena(pt *h, pa_unit *pending)
{
    pt_thread *t = self(h);
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
    if (h->op.cache_tried || !wants_tcache(h))
        return take_block(h);
    h->op.phase = PH_TCACHE;
    h->op.caching = true;
    self(h)->tcache.dead = h->pf->birth == BIRTH_FREE; /* it is tried once only */
    return make_cache(h);
}

/* The tcache was made, or could not be: the call begins again, without it. */
static uint64_t after_tcache(pt *h, pa_unit c)
{
    pt_tcache_install(h, c);
    h->op.caching = false;
    h->op.cache_tried = true;
    if (h->op.kind == PA_OP_FREE)
        return free_chunk(h, chunk_of(h, h->op.pointer));
    if (h->op.kind == PA_OP_REALLOC && h->op.old && !h->op.moving)
        return realloc_chunk(h, h->op.old);
    h->op.phase = PH_IDLE;
    h->op.arena_bytes = h->op.bytes;
    return run(h, 0);
}

/* Go on with what the phase under way produced. */
static uint64_t run(pt *h, pa_unit c)
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

/* What a loop's own _int_malloc gave, when that is not just a chunk. */
uint64_t pt_finish_block(pt *h, pa_unit c)
{
    return run(h, c);
}

static uint64_t allocate(pt *h, uint32_t kind, uint64_t bytes, uint64_t align)
{
    bool fits = request_fits(h, bytes), hooked = h->hooked;
    h->hooked = false;
    bool looks = h->pf->retries_alone || (h->pf->version >= 243 && kind == PA_OP_MALLOC);
    if (!fits && !looks)
        return done(h, 0);
    h->op = (pt_op){.kind = kind,
                    .thread = h->base.thread,
                    .bytes = bytes,
                    .align = align,
                    .hopeless = !fits,
                    .hooked = hooked,
                    .nb = fits ? request_units(h, bytes) : MIN_UNITS};
    h->op.inner = h->op.nb;
    h->op.arena_bytes = wants_tcache(h) ? h->pf->tcache_bytes : bytes;
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

/* From one chunk to another, by a difference of sizes that may be negative. */
static pa_unit steps(const pt *h, uint64_t bytes)
{
    if (h->pf->word == 4)
        return (pa_unit)((int32_t)bytes >> h->unit_shift);
    return (pa_unit)((int64_t)bytes >> h->unit_shift);
}

/* Before 2.19 a request near SIZE_MAX wraps around and gets a small chunk, in which the aligned
 * spot does not fit: the rest has a negative size.  2.3.3 goes on with that. */
static uint64_t align_wrapped(pt *h, pt_arena *a, pa_unit c, uint64_t lead)
{
    uint64_t mask = size_mask(h), nb = bytes_of(h, h->op.nb) & mask;
    uint64_t size = (bytes_of(h, size_of(h, c)) - bytes_of(h, lead)) & mask;
    uint32_t flag = at(h, c)->size & N_ARENA;
    pa_unit spot = c + (pa_unit)lead;
    h->damaged = true;
    set_head(h, spot, size >> h->unit_shift, P_INUSE | flag);
    at(h, spot + steps(h, size))->size |= P_INUSE;
    set_size(h, c, lead);
    if (!free_leader(h, a, c))
        return aborted(h);
    if (size > ((nb + bytes_of(h, MIN_UNITS)) & mask)) {
        pa_unit tail = spot + steps(h, nb);
        set_head(h, tail, (size - nb) >> h->unit_shift, P_INUSE | flag);
        set_size(h, spot, nb >> h->unit_shift);
        if (!free_leader(h, a, tail))
            return aborted(h);
    }
    return done(h, mem_of(h, spot));
}

/* The same with the checks of 2.3.4 and later: they notice. */
static uint64_t refuse_wrapped(pt *h, const pt_arena *a, pa_unit c, uint64_t size, uint64_t lead)
{
    bool fast = lead <= fast_limit(h, a);
    if (size >= lead)
        heap_abort(&h->base, ""); /* the library's own assertion */
    else
        pt_fail(h, fast ? "free(): invalid next size (fast)" : "free(): invalid next size (normal)",
                mem_of(h, c));
    return aborted(h);
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
        if (size < h->op.nb + lead)
            return h->pf->version < 204 ? align_wrapped(h, a, c, lead)
                                        : refuse_wrapped(h, a, c, size, lead);
        uint32_t flag = at(h, c)->size & N_ARENA;
        set_head(h, spot, size - lead, P_INUSE | flag);
        set_in_use(h, spot, size - lead);
        set_head(h, c, lead, (at(h, c)->size & (P_INUSE | N_ARENA)));
        if (!free_leader(h, a, c))
            return aborted(h);
        c = spot;
    }
    if (!free_tail(h, a, c))
        return aborted(h);
    return done(h, mem_of(h, c));
}

/* What memalign() does not even look for an arena for; what it does fails there, and then in another
 * if there are threads. */
static bool memalign_refuses(const pt *h, uint64_t bytes, bool wraps)
{
    bool fits = request_fits(h, bytes);
    if (h->pf->version >= 219 && h->pf->version < 230)
        return !fits || wraps;
    return h->pf->version >= 241 && h->pf->version < 243 && !fits;
}

static uint64_t memalign(pt *h, uint32_t call, uint64_t align, uint64_t bytes)
{
    uint64_t mask = size_mask(h);
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
    if (memalign_refuses(h, bytes, bytes > mask - align - least))
        return done(h, 0);
    h->op = (pt_op){.kind = PA_OP_MEMALIGN,
                    .thread = h->base.thread,
                    .bytes = bytes,
                    .align = align,
                    .never_retried = h->pf->version < 204 && call >= PA_OP_VALLOC,
                    .nb = request_units(h, bytes)};
    uint64_t inner = (bytes_of(h, h->op.nb) + align + least) & mask;
    h->op.hopeless = !request_fits(h, bytes) || !request_fits(h, inner) ||
                     (h->pf->version >= 230 && bytes > mask - align - least);
    h->op.inner = h->op.hopeless ? 0 : request_units(h, inner);
    h->op.arena_bytes = wants_tcache(h) ? h->pf->tcache_bytes : bytes + align + least;
    pa_unit cached =
        h->pf->memalign == MEMALIGN_MERGE ? pt_tcache_take_aligned(h, h->op.nb, align) : 0;
    return cached ? done(h, mem_of(h, cached)) : run(h, 0);
}

/* Up to 2.18 valloc and pvalloc empty the fastbins first. */
static uint64_t page_aligned(pt *h, uint32_t call, uint64_t bytes)
{
    pt_arena *a = &h->arenas[self(h)->arena < 0 ? 0 : self(h)->arena];
    if (h->pf->version < 219 && a->have_fast && !pt_consolidate(h, a))
        return aborted(h);
    return memalign(h, call, PAGE_BYTES, bytes);
}

/* pvalloc(): 2.17 to 2.25 refuse more than the others. */
static uint64_t pvalloc(pt *h, uint64_t bytes)
{
    uint64_t mask = size_mask(h), version = h->pf->version;
    uint64_t spare = 2 * PAGE_BYTES + bytes_of(h, MIN_UNITS);
    uint64_t most = version >= 217 && version < 226 ? mask - spare : mask - PAGE_BYTES + 1;
    if (bytes > most && version >= 217)
        return done(h, 0);
    return page_aligned(h, PA_OP_PVALLOC, align_up(bytes, PAGE_BYTES) & mask);
}

/* ---- free ---------------------------------------------------------------------------------------- */

/* Is the header before this address in memory that chunks may be in?  The block itself may begin
 * where the heap now ends. */
static bool is_heap(const pt *h, uint64_t mem)
{
    if (mem > h->base.brk_start && mem <= align_up(h->base.brk, PAGE_BYTES))
        return true;
    for (uint32_t i = 0; i < h->sh.count_segments; i++)
        if (mem - h->sh.segments[i].base < h->sh.segments[i].length)
            return true;
    return false;
}

static bool is_mapped(const pt *h, uint64_t mem)
{
    for (uint32_t i = 0; i < h->count_mapped; i++) {
        const pt_mapped *m = &h->mapped[i];
        if (m->used && mem - m->base - 2 * h->pf->word < m->total - 2 * h->pf->word)
            return true;
    }
    return false;
}

/* A pointer that is no block.  Inside a block that was mapped the library reads a size of 0, which
 * it notices, as it notices that a pointer is not aligned; elsewhere there is nothing to read. */
static uint64_t unknown_pointer(pt *h, uint64_t mem, const char *text)
{
    bool aligned = !(mem & (h->pf->align - 1));
    bool readable = is_mapped(h, mem) || (!aligned && is_heap(h, mem));
    if (h->pf->version < 204 && readable && aligned && h->op.kind == PA_OP_FREE)
        return done(h, 0); /* complains on stderr and goes on */
    if (aligned && h->op.kind == PA_OP_FREE && h->pf->version >= 242)
        text = "free(): invalid size";
    pt_fail(h, h->pf->version >= 204 && readable ? text : NULL, mem);
    return aborted(h);
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
        return aborted(h);
    return done(h, 0);
}

/* Is the size field of what seems to be a chunk a link of a free chunk that it lies in? */
static bool reads_link(const pt *h, pa_unit c)
{
    pa_unit fd = at(h, c)->prev_size, bk = at(h, c)->size;
    if (!fd || !bk)
        return false;
    return (at(h, fd)->bk == c - 1 && at(h, bk)->fd == c - 1) ||
           (at(h, fd)->bk_nextsize == c - 2 && at(h, bk)->fd_nextsize == c - 2);
}

/* Freed twice, and since then part of a larger free chunk: an address is read as a size, which
 * seems to reach far out. */
static uint64_t free_inside(pt *h, pa_unit c)
{
    const pt_arena *a = &h->arenas[0];
    bool ragged = h->pf->word == 4 && h->pf->align == 16 && h->pf->version < 242;
    bool far = a->contiguous && h->pf->version >= 204;
    pt_fail(h,
            ragged ? "free(): invalid size"
            : far  ? "double free or corruption (out)"
                   : NULL,
            mem_of(h, c));
    return aborted(h);
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
    h->op.kind = PA_OP_FREE;
    if (!is_heap(h, mem) || mem & (h->pf->align - 1))
        return unknown_pointer(h, mem, "free(): invalid pointer");
    pa_unit c = chunk_of(h, mem);
    if (h->damaged && reads_link(h, c))
        return free_inside(h, c);
    if (pt_tcache_unborn(h) && birth_by_free(h, c)) {
        h->op = (pt_op){.kind = PA_OP_FREE,
                        .thread = h->base.thread,
                        .pointer = mem,
                        .arena_bytes = h->pf->tcache_bytes};
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
        return aborted(h);
    return done(h, mem_of(h, c));
}

/* The block cannot grow in its arena or mapping: malloc, then copy and free. */
static uint64_t malloc_instead(pt *h)
{
    h->op.moving = true;
    h->op.cache_tried = false;
    h->op.phase = PH_IDLE;
    h->op.inner = h->op.nb;
    h->op.arena_bytes = h->op.bytes;
    return run(h, 0);
}

/* memcpy() into c: each page of the old block is read, each of the new one written. */
static void copy_block(pt *h, uint64_t from, pa_unit c, uint64_t bytes)
{
    uint64_t to = pointer_of(h, c);
    heap_read_range(&h->base, from, bytes);
    heap_touch_range(&h->base, to, bytes);
    if (c < MAPPED_REF)
        pt_copy_contents(h, to, h->op.old ? from : 0, bytes);
}

/* The block that a growing realloc got: join it, or copy into it and free the old one. */
static uint64_t finish_realloc(pt *h, pa_unit c)
{
    pa_unit old = h->op.old;
    bool elsewhere = h->pf->version >= 206 && (h->threaded || h->pf->retries_alone);
    if (!c && old && !h->op.moving && elsewhere)
        return malloc_instead(h);
    if (!c)
        return done(h, 0);
    if (!old) { /* the old block was a mapping */
        pt_mapped *m = pt_mapped_at(h, h->op.pointer);
        copy_block(h, h->op.pointer, c, pt_usable(&h->base, h->op.pointer));
        pt_free_mapped(h, m);
        return done(h, pointer_of(h, c));
    }
    pt_arena *a = pt_arena_of(h, old);
    uint64_t size = size_of(h, old);
    if (c == next_of(h, old) && !h->op.moving)
        return shrink_to(h, a, old, size + size_of(h, c), h->op.nb);
    copy_block(h, mem_of(h, old), c, bytes_of(h, size) - h->pf->word);
    if (!pt_int_free(h, a, old, true))
        return aborted(h);
    return done(h, pointer_of(h, c));
}

/* The checks of 2.4 and later on a block to be resized, and on its neighbour. */
static const char *resize_fault(const pt *h, const pt_arena *a, pa_unit c)
{
    uint64_t size = bytes_of(h, size_of(h, c)), flag = at(h, c)->size & P_INUSE;
    if (h->pf->version < 204)
        return NULL;
    if (!size)
        return "realloc(): invalid pointer";
    if (size + flag <= 2 * h->pf->word || size >= a->system_mem)
        return "realloc(): invalid old size";
    pa_unit next = next_of(h, c);
    size = bytes_of(h, size_of(h, next)), flag = at(h, next)->size & P_INUSE;
    if (size + flag <= 2 * h->pf->word || size >= a->system_mem)
        return pt_is_memory(h, address_of(h, next) + h->pf->word) ? "realloc(): invalid next size"
                                                                  : pt_fault;
    return NULL;
}

static uint64_t realloc_chunk(pt *h, pa_unit c)
{
    if (h->op.hopeless)
        return done(h, 0);
    pt_arena *a = pt_arena_of(h, c);
    const char *fault = resize_fault(h, a, c);
    if (fault) {
        pt_fail(h, fault, mem_of(h, c));
        return aborted(h);
    }
    if (h->pf->arena_ring) /* remembered for the next allocation */
        pt_attach(h, self(h), (int32_t)a->index);
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
        fault = pt_unlink(h, a, next);
        if (fault) {
            pt_fail(h, fault, address_of(h, next));
            return aborted(h);
        }
        return shrink_to(h, a, c, size + more, nb);
    }
    h->op.old = c;
    h->op.arena = a->index;
    uint64_t bytes = bytes_of(h, nb) - (h->pf->align - 1);
    h->op.inner = request_units(h, bytes);
    h->op.phase = PH_BLOCK;
    return run(h, request_fits(h, bytes) ? pt_int_malloc(h, a, h->op.inner) : 0);
}

static uint64_t without_mremap(pt *h, const pt_mapped *m);

/* A mapping is remapped whatever the sizes. */
static uint64_t realloc_mapped(pt *h, pt_mapped *m)
{
    uint64_t extra = h->pf->version >= 243 ? 2 * h->pf->word : h->pf->word;
    uint64_t total = align_up(bytes_of(h, h->op.nb) + m->front + extra, PAGE_BYTES) & size_mask(h);
    if (total == m->total)
        return done(h, h->op.pointer);
    h->op.inner = total;
    if (!total) /* wrapped around: the kernel refuses it */
        return without_mremap(h, m);
    h->op.phase = PH_MREMAP;
    return heap_ask(&h->base, PA_STOP_MREMAP, m->base, total, m->total, 0);
}

static uint64_t end_mremap(pt *h)
{
    pt_mapped *m = pt_mapped_at(h, h->op.pointer);
    uint64_t base = h->base.stop.answer;
    if (!base)
        return without_mremap(h, m);
    h->mp.mmapped_drift += h->pf->version >= 243 ? 2 * h->pf->word : 0;
    pt_move_mapped(h, m, base, h->op.inner, m->front);
    return done(h, pt_mapped_mem(h, m));
}

/* A mapping that cannot be remapped stays if it is large enough, else its contents move. */
static uint64_t without_mremap(pt *h, const pt_mapped *m)
{
    uint64_t kept = m->total - m->front - h->pf->word;
    bool keeps = h->pf->version >= 243 ? h->op.bytes <= pt_usable(&h->base, h->op.pointer)
                                       : kept >= bytes_of(h, h->op.nb);
    if (keeps)
        return done(h, h->op.pointer);
    return malloc_instead(h);
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
    h->hooked = false;
    if (!bytes)
        return pt_free(h, mem);
    pt_mapped *m = pt_mapped_at(h, mem);
    h->op.kind = PA_OP_REALLOC;
    if (!m && (!is_heap(h, mem) || mem & (h->pf->align - 1)))
        return unknown_pointer(h, mem, "realloc(): invalid pointer");
    if (keeps_block(h, m != NULL, bytes, pt_usable(&h->base, mem)))
        return done(h, mem);
    bool fits = request_fits(h, bytes);
    bool born = m || h->pf->birth != BIRTH_CALL || !pt_tcache_unborn(h);
    if (!fits && born)
        return done(h, 0);
    h->op = (pt_op){.kind = PA_OP_REALLOC,
                    .thread = h->base.thread,
                    .pointer = mem,
                    .bytes = bytes,
                    .hopeless = !fits,
                    .nb = fits ? request_units(h, bytes) : MIN_UNITS};
    if (m)
        return realloc_mapped(h, m);
    h->op.old = chunk_of(h, mem);
    h->op.arena_bytes = h->pf->tcache_bytes;
    return born ? realloc_chunk(h, h->op.old) : run(h, 0);
}

/* ---- threads end --------------------------------------------------------------------------------- */

/* tcache_thread_shutdown() and arena detachment. */
static uint64_t thread_exit(pt *h)
{
    pt_thread *t = self(h);
    pt_tcache tc = t->tcache;
    t->tcache = (pt_tcache){.dead = true};
    for (uint32_t i = 0; tc.alive && i < TCACHE_BINS; i++) {
        for (pa_unit c = tc.entry[i], next; c && tc.count[i]; c = next) {
            next = at(h, c)->fd;
            tc.count[i]--;
            at(h, c)->bk = 0;
            if (!pt_int_free(h, pt_arena_of(h, c), c, false))
                return aborted(h);
        }
    }
    if (tc.alive && tc.home >= MAPPED_REF)
        pt_free_mapped(h, mapped_ref(h, tc.home));
    else if (tc.alive && !pt_int_free(h, pt_arena_of(h, tc.home), tc.home, false))
        return aborted(h);
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

static uint64_t mallopt_call(pt *h, int32_t parameter, int32_t value)
{
    int32_t result = pt_mallopt(h, parameter, value);
    return result < 0 ? PENDING : done(h, (uint64_t)result);
}

/* sbrk(): where the kernel refuses to move the break down, the library takes it for a success. */
static uint64_t sbrk_by_somebody(pt *h, uint64_t delta)
{
    uint64_t mask = size_mask(h), old = h->base.brk;
    uint64_t wanted = (old + delta) & mask;
    bool down = delta & (mask ^ mask >> 1);
    if (down ? wanted > old : wanted < old)
        return done(h, mask);
    h->op = (pt_op){.kind = PA_OP_SBRK, .thread = h->base.thread, .pointer = old};
    h->damaged |= wanted < old; /* there may have been chunks */
    if (wanted >= h->base.brk_start && heap_move_break(&h->base, wanted))
        return done(h, old);
    return heap_ask(&h->base, PA_STOP_BRK, wanted, delta, 0, 0);
}

/* ptmalloc_init(): the thread that first needs it gets the main arena; since 2.42 it is made before
 * main(), by the first. */
static void initialise(pt *h, const pa_call *call)
{
    bool early = h->pf->version >= 242;
    bool refused = call->op == PA_OP_POSIX_MEMALIGN &&
                   (call->arg % h->pf->word || call->arg & (call->arg - 1));
    bool trims = call->op == PA_OP_MALLOC_TRIM && h->pf->version < 208;
    if (!early && (call->op >= PA_OP_SBRK || call->op == PA_OP_FREE || refused || trims))
        return;
    h->initialised = true;
    pt_attach(h, &h->threads[early ? 0 : call->thread], 0);
}

static uint64_t pt_call(pa_heap *heap, const pa_call *call)
{
    pt *h = (pt *)heap;
    uint64_t mask = size_mask(h);
    uint64_t size = call->size & mask, arg = call->arg & mask;
    if (call->thread >= h->count_threads && !pt_thread_of(h, call->thread))
        return 0;
    h->base.thread = call->thread;
    h->threaded |= call->thread != 0;
    h->damaged |= call->pointer && !call->known;
    if (!h->initialised)
        initialise(h, call);
    h->op.thread = call->thread;
    switch (call->op) {
    case PA_OP_MALLOC:
        return allocate(h, PA_OP_MALLOC, size, 0);
    case PA_OP_CALLOC:
        if (call->size > mask)
            return done(h, 0);
        return allocate(h, PA_OP_CALLOC, size, 0);
    case PA_OP_REALLOC:
        return pt_realloc(h, call->pointer, size);
    case PA_OP_FREE:
        return pt_free(h, call->pointer);
    case PA_OP_MEMALIGN:
        return memalign(h, call->op, arg, size);
    case PA_OP_ALIGNED_ALLOC:
        if (h->pf->version >= 238 && (!arg || arg & (arg - 1)))
            return done(h, 0);
        return memalign(h, call->op, arg, size);
    case PA_OP_POSIX_MEMALIGN:
        if (arg % h->pf->word || arg & (arg - 1) || (!arg && h->pf->version >= 204))
            return done(h, 0);
        return memalign(h, call->op, arg, size);
    case PA_OP_VALLOC:
        return page_aligned(h, call->op, size);
    case PA_OP_PVALLOC:
        return pvalloc(h, size);
    case PA_OP_MALLOC_TRIM: {
        uint64_t given = pt_trim(h, size);
        return heap->state == HEAP_DEAD ? PENDING : done(h, given);
    }
    case PA_OP_MALLOPT:
        return mallopt_call(h, (int32_t)arg, (int32_t)size);
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
        bool moved = heap->stop.answer >= heap->stop.address;
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
    pa_unit c = chunk_of(h, mem);
    uint64_t units = signed_size(h, c);
    if (!prev_in_use(h, c + (pa_unit)units)) /* it is free, says the chunk behind it */
        return 0;
    return (bytes_of(h, units) - h->pf->word) & size_mask(h);
}

static const pa_shadow *pt_shadow(const pa_heap *heap)
{
    return &((const pt *)heap)->sh;
}

static void pt_drop(pa_heap *heap)
{
    pt *h = (pt *)heap;
    pa_shadow_drop(&h->sh);
    free(h->arenas);
    free(h->threads);
    free(h->subheaps);
    free(h->stretches);
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
    to->stretches = duplicate(from->stretches, from->room_stretches * sizeof *from->stretches);
    to->mapped = duplicate(from->mapped, from->room_mapped * sizeof *from->mapped);
    to->mapped_index = from->mapped_index
                           ? duplicate(from->mapped_index, ((size_t)from->mapped_mask + 1) * 4)
                           : NULL;
    bool shadow = pa_shadow_copy(&to->sh, &from->sh) == PA_OK;
    bool base = heap_copy_base(&to->base, &from->base);
    if (from->base.abort_text == from->last_words)
        to->base.abort_text = to->last_words;
    if (to->arenas && to->threads && to->subheaps && to->stretches && to->mapped && shadow && base)
        return &to->base;
    pt_drop(&to->base);
    return NULL;
}

/* Nothing is out of the ordinary: see pt_chunk.h. */
bool pt_is_calm(const pt *h)
{
    const pt_arena *a = &h->arenas[0];
    const pt_thread *t = &h->threads[0];
    const pa_mm *mm = h->base.mm;
    bool cache = t->tcache.alive || h->pf->birth == BIRTH_NEVER;
    uint64_t top_end = a->top ? address_of(h, a->top) + bytes_of(h, size_of(h, a->top)) : 0;
    bool plain = !h->threaded && !h->hooked && !h->sh.count_segments &&
                 (h->max_fast || h->pf->version >= 227);
    bool whole = !h->damaged && (!a->contiguous || top_end <= align_up(h->base.brk, PAGE_BYTES));
    return plain && whole && cache && t->arena == 0 && !(mm && mm->disturbed) && !h->mp.perturb &&
           h->base.state == HEAP_IDLE && h->base.error == PA_OK;
}

static bool run_loop(pa_replay *replay, size_t end)
{
    const pt *h = (const pt *)replay->heap;
    bool known = h->pf->version == 236 && h->pf->word == 8;
    return known ? pt_run_loop_236(replay, end) : pt_run_loop_any(replay, end);
}

static void pt_rest(const pa_heap *heap)
{
    pa_shadow_rest(&((const pt *)heap)->sh);
}

static const pa_allocator ptmalloc = {
    .name = "glibc",
    .call = pt_call,
    .resume = pt_resume,
    .loop = run_loop,
    .usable_size = pt_usable,
    .statistics = pt_statistics,
    .mallinfo = pt_mallinfo,
    .walk = pt_walk,
    .list = pt_list,
    .arena = pt_read_arena,
    .settings = pt_read_settings,
    .trim = pt_trim_run,
    .tunable = pt_tunable,
    .environment = pt_environment,
    .rest = pt_rest,
    .check = pt_check,
    .copy = pt_copy,
    .drop = pt_drop,
    .shadow = pt_shadow,
};

/* The main arena is initialised: up to 2.26 by the first call that searches it, until when there
 * are no fastbins anywhere. */
void pt_init_main(pt *h)
{
    h->main_ready = true;
    if (h->pf->has_fastbins)
        h->max_fast = h->pf->fast_default >> h->unit_shift;
}

static void init_params(pt *h)
{
    h->mp = (pt_params){
        .top_pad = 131072,
        .trim_threshold = 131072,
        .check_action = 3,
        .mmap_threshold = 131072,
        .mmap_threshold_max = h->pf->word == 8 ? 32u << 20 : 512u << 10,
        .n_mmaps_max = 65536,
        .arena_test = h->pf->word == 8 ? 8 : 2,
        .tcache_count = h->pf->tcache_count,
        .tcache_limit = h->pf->tcache_limit,
        .tcache_bins = TCACHE_SMALL,
    };
}

pa_heap *pt_new(const char *name, uint32_t word, uint64_t brk_start, uint32_t count_cpus,
                pa_shadow *spare)
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
    h->hooked = pf->version < 234;
    h->free_arena = -1;
    heap_init(&h->base, &ptmalloc, brk_start);
    init_params(h);
    pt_arena *main_arena;
    if (pa_shadow_init(&h->sh, h->unit_shift, brk_start, spare) != PA_OK || !pt_thread_of(h, 0) ||
        !pt_add_arena(h, &main_arena)) {
        pt_drop(&h->base);
        return NULL;
    }
    h->base.places_from = h->sh.origin + h->unit;
    h->base.places_shift = h->unit_shift;
    main_arena->bins = MAIN_HEADS;
    pt_init_bins(h, main_arena);
    if (pf->version >= 227)
        pt_init_main(h);
    return &h->base;
}
