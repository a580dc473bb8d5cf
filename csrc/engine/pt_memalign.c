/* SPDX-License-Identifier: MIT
 *
 * pt_memalign.c -- memalign, its kin and valloc: a larger block, of which both ends go back.
 */
#include "pt_calls.h"

/* A mapped block keeps its mapping; only its header moves up. */
static uint64_t align_mapped(pt *h, pt_mapped *m)
{
    uint64_t mem = pt_mapped_mem(h, m), spot = pt_align_up(mem, h->op.align);
    if (spot != mem && spot - mem < bytes_of(h, MIN_UNITS) && h->pf->version < 243)
        spot += h->op.align;
    if (spot != mem)
        pt_move_mapped(h, m, m->base, m->total, m->front + spot - mem);
    return pt_done(h, pt_mapped_mem(h, m));
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
        return pt_aborted(h);
    if (size > ((nb + bytes_of(h, MIN_UNITS)) & mask)) {
        pa_unit tail = spot + steps(h, nb);
        set_head(h, tail, (size - nb) >> h->unit_shift, P_INUSE | flag);
        set_size(h, spot, nb >> h->unit_shift);
        if (!free_leader(h, a, tail))
            return pt_aborted(h);
    }
    return pt_done(h, mem_of(h, spot));
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
    return pt_aborted(h);
}

uint64_t pt_finish_memalign(pt *h, pa_unit c)
{
    if (!c)
        return pt_done(h, 0);
    if (c >= MAPPED_REF)
        return align_mapped(h, mapped_ref(h, c));
    pt_arena *a = &h->arenas[h->op.arena];
    uint64_t mem = mem_of(h, c);
    if (mem & (h->op.align - 1)) {
        pa_unit spot = c + (pa_unit)((pt_align_up(mem, h->op.align) - mem) >> h->unit_shift);
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
            return pt_aborted(h);
        c = spot;
    }
    if (!free_tail(h, a, c))
        return pt_aborted(h);
    return pt_done(h, mem_of(h, c));
}

/* What pt_memalign_call() does not even look for an arena for; what it does fails there, and then in another
 * if there are threads. */
static bool memalign_refuses(const pt *h, uint64_t bytes, bool wraps)
{
    bool fits = request_fits(h, bytes);
    if (h->pf->version >= 219 && h->pf->version < 230)
        return !fits || wraps;
    return h->pf->version >= 241 && h->pf->version < 243 && !fits;
}

uint64_t pt_memalign_call(pt *h, uint32_t call, uint64_t align, uint64_t bytes)
{
    uint64_t mask = size_mask(h);
    if (align <= h->pf->align)
        return pt_allocate(h, PA_OP_MALLOC, bytes, 0);
    if (align > mask / 2 + 1)
        return pt_done(h, 0);
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
        return pt_done(h, 0);
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
    h->op.arena_bytes = pt_wants_tcache(h) ? h->pf->tcache_bytes : bytes + align + least;
    pa_unit cached =
        h->pf->memalign == MEMALIGN_MERGE ? pt_tcache_take_aligned(h, h->op.nb, align) : 0;
    return cached ? pt_done(h, mem_of(h, cached)) : pt_run(h, 0);
}

/* Up to 2.18 valloc and pvalloc empty the fastbins first. */
uint64_t pt_page_aligned(pt *h, uint32_t call, uint64_t bytes)
{
    pt_arena *a = &h->arenas[pt_self(h)->arena < 0 ? 0 : pt_self(h)->arena];
    if (h->pf->version < 219 && a->have_fast && !pt_consolidate(h, a))
        return pt_aborted(h);
    return pt_memalign_call(h, call, PAGE_BYTES, bytes);
}

/* pt_pvalloc(): 2.17 to 2.25 refuse more than the others. */
uint64_t pt_pvalloc(pt *h, uint64_t bytes)
{
    uint64_t mask = size_mask(h), version = h->pf->version;
    uint64_t spare = 2 * PAGE_BYTES + bytes_of(h, MIN_UNITS);
    uint64_t most = version >= 217 && version < 226 ? mask - spare : mask - PAGE_BYTES + 1;
    if (bytes > most && version >= 217)
        return pt_done(h, 0);
    return pt_page_aligned(h, PA_OP_PVALLOC, pt_align_up(bytes, PAGE_BYTES) & mask);
}
