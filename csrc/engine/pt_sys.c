/* SPDX-License-Identifier: MIT
 *
 * pt_sys.c -- when nothing that is free fits: a mapping of its own, a higher break, or a mapping in
 * its place.
 *
 * Models sysmalloc of glibc's malloc.c as steps, for each may have to wait for policy.  begin_*
 * asks; end_* goes on with the answer.
 */
#include "pt.h"

#include <stdio.h>

static pa_unit begin_break(pt *h);
static pa_unit begin_fallback(pt *h);

static pt_arena *arena(pt *h)
{
    return &h->arenas[h->sys.arena];
}

static uint64_t align_up(uint64_t bytes, uint64_t to)
{
    return (bytes + to - 1) & ~(to - 1);
}

static uint64_t page_up(uint64_t bytes)
{
    return align_up(bytes, PAGE_BYTES);
}

static pa_unit ask(pt *h, pt_sys_step step, pa_reason reason, uint64_t address, uint64_t length)
{
    h->sys.step = step;
    heap_ask(&h->base, reason, address, length, 0, 3);
    return REF_PENDING;
}

/* The model has no room for this heap: NULL, and the error is remembered. */
static pa_unit give_up(pt *h, pa_status error)
{
    h->base.error = error;
    return 0;
}

/* Up to 2.9 assertions were not compiled in. */
static bool has_assertions(const pt *h)
{
    return h->pf->version >= 210;
}

/* The whole of the words is that of 2.36; elsewhere there are line numbers in them. */
static pa_unit assertion_fails(pt *h, const char *what)
{
    const char *before = "Fatal glibc error: malloc assertion failure in sysmalloc: ";
    snprintf(h->last_words, sizeof h->last_words, "%s%s", h->pf->version == 236 ? before : "",
             what);
    heap_abort(&h->base, h->last_words);
    return REF_PENDING;
}

/* The top ends with a page, unless somebody moved the break while the arena was in pieces, or its
 * size was overwritten. */
static bool top_is_whole(pt *h, const pt_arena *a)
{
    if (!a->top || !has_assertions(h))
        return true;
    uint64_t bytes = bytes_of(h, size_of(h, a->top)), end = address_of(h, a->top) + bytes;
    if (size_of(h, a->top) >= MIN_UNITS && prev_in_use(h, a->top) && !(end & (PAGE_BYTES - 1)))
        return true;
    assertion_fails(h, "(old_top == initial_top (av) && old_size == 0) || "
                       "((unsigned long) (old_size) >= MINSIZE && prev_inuse (old_top) && "
                       "((unsigned long) old_end & (pagesize - 1)) == 0)");
    return false;
}

/* ---- a mapping of its own ----------------------------------------------------------------------- */

/* What comes when there is no mapping: nothing, if that was the last resort. */
static pa_unit without_mapping(pt *h)
{
    if (h->sys.last_resort)
        return h->sys.arena == NO_ARENA ? 0 : pt_from_top(h);
    if (!top_is_whole(h, arena(h)))
        return REF_PENDING;
    return h->sys.arena ? pt_heap_grow(h) : begin_break(h);
}

/* Map the block unless its size wraps around. */
static pa_unit begin_mmap(pt *h)
{
    h->sys.tried_mmap = true;
    h->sys.size = pt_mapped_total(h, h->sys.nb);
    if (h->sys.size <= (bytes_of(h, h->sys.nb) & size_mask(h)))
        return without_mapping(h);
    uint64_t base = heap_map(&h->base, h->sys.size);
    if (base)
        return pt_add_mapped(h, base, h->sys.size);
    return ask(h, SYS_MMAP, PA_STOP_MMAP, 0, h->sys.size);
}

static pa_unit end_mmap(pt *h)
{
    if (h->base.stop.answer)
        return pt_add_mapped(h, h->base.stop.answer, h->sys.size);
    return without_mapping(h);
}

/* A thread arena can have no further heap: whatever the size, a mapping may still be had. */
pa_unit pt_try_mapping(pt *h)
{
    if (h->sys.tried_mmap || h->pf->version < 206)
        return pt_from_top(h);
    h->sys.last_resort = true;
    return begin_mmap(h);
}

/* There is no arena at all. */
pa_unit pt_map_only(pt *h, uint64_t nb)
{
    if (h->pf->version < 220)
        return 0;
    h->sys = (pt_sys){.arena = NO_ARENA, .nb = nb, .last_resort = true};
    return begin_mmap(h);
}

/* ---- the break ---------------------------------------------------------------------------------- */

/* Carve the block from the top that is now large enough, or fail. */
pa_unit pt_from_top(pt *h)
{
    pt_arena *a = arena(h);
    if (a->system_mem > a->max_system_mem)
        a->max_system_mem = a->system_mem;
    uint64_t nb = h->sys.nb, size = a->top ? size_of(h, a->top) : 0;
    if (size < nb + MIN_UNITS)
        return 0;
    pa_unit c = a->top;
    a->top = c + (pa_unit)nb;
    set_head(h, c, nb, P_INUSE | (a->index ? N_ARENA : 0));
    set_head(h, a->top, size - nb, P_INUSE);
    return c;
}

/* Two fences end the old top; what is before them is freed. */
static bool retire_top(pt *h, pa_unit top, uint64_t old_size)
{
    uint64_t fence = (uint64_t)2 * h->pf->word >> h->unit_shift;
    uint64_t keep = (old_size - 2 * fence) & ~(((uint64_t)1 << h->align_units_log) - 1);
    uint32_t flag = h->sys.arena ? N_ARENA : 0;
    set_head(h, top, keep, P_INUSE | flag);
    set_head(h, top + (pa_unit)keep, fence, P_INUSE);
    set_head(h, top + (pa_unit)(keep + fence), fence, P_INUSE);
    return keep < MIN_UNITS || pt_int_free(h, arena(h), top, true);
}

static pa_unit new_top(pt *h, uint64_t from, uint64_t to)
{
    pt_arena *a = arena(h);
    pa_status s = h->sys.step == SYS_FALLBACK ? PA_OK : pa_shadow_open(&h->sh, to);
    if (s != PA_OK)
        return give_up(h, s);
    if ((to - from) >> h->unit_shift >= (uint64_t)1 << 29)
        return give_up(h, PA_ERR_LIMIT);
    pa_unit old = a->top;
    uint64_t old_bytes = bytes_of(h, h->sys.old_size);
    pt_add_stretch(h, from, old ? address_of(h, old) + old_bytes : from);
    a->top = pa_shadow_unit(&h->sh, from);
    set_head(h, a->top, (to - from) >> h->unit_shift, P_INUSE);
    if (h->sys.old_size && !retire_top(h, old, h->sys.old_size))
        return REF_PENDING;
    return pt_from_top(h);
}

/* Memory behind somebody else's odd break, for an arena that is in pieces already, is aligned as any
 * other; but where two words are the alignment the library insists on finding it so. */
static bool takes_odd_break(const pt *h)
{
    return h->pf->align != 2 * h->pf->word || !has_assertions(h);
}

/* The break moved by `size`; the pieces do not join: ask for what alignment still needs. */
static pa_unit begin_correction(pt *h, uint64_t brk, uint64_t old_end)
{
    pt_arena *a = arena(h);
    uint64_t mask = h->pf->align - 1, misaligned = (brk + 2 * h->pf->word) & mask;
    uint64_t skip = misaligned ? h->pf->align - misaligned : 0;
    h->sys.brk = brk + skip;
    if (!a->contiguous) {
        if (skip && !takes_odd_break(h))
            return assertion_fails(h, "((unsigned long) chunk2mem (brk) & MALLOC_ALIGN_MASK) == 0");
        h->sys.correction = 0;
        return new_top(h, h->sys.brk, h->base.brk);
    }
    if (h->sys.old_size)
        a->system_mem += brk - old_end;
    uint64_t correction = skip + bytes_of(h, h->sys.old_size), end = brk + h->sys.size + correction;
    correction += page_up(end) - end;
    h->sys.correction = correction;
    h->sys.step = SYS_BRK_CORRECTION;
    if (heap_move_break(&h->base, h->base.brk + correction)) {
        a->system_mem += correction;
        return new_top(h, h->sys.brk, h->base.brk);
    }
    return ask(h, SYS_BRK_CORRECTION, PA_STOP_BRK, h->base.brk + correction, correction);
}

/* Without its correction the top is what the first call brought. */
static pa_unit end_correction(pt *h)
{
    bool moved = h->base.stop.answer == h->base.stop.address;
    if (moved)
        arena(h)->system_mem += h->sys.correction;
    return new_top(h, h->sys.brk, h->base.brk);
}

static pa_unit grow_top(pt *h, uint64_t old_end)
{
    pt_arena *a = arena(h);
    pa_status s = pa_shadow_open(&h->sh, h->base.brk);
    uint64_t units = h->sys.old_size + (h->sys.size >> h->unit_shift);
    if (s != PA_OK || units >= (uint64_t)1 << 29)
        return give_up(h, s == PA_OK ? PA_ERR_LIMIT : s);
    (void)old_end;
    set_head(h, a->top, units, P_INUSE);
    return pt_from_top(h);
}

static pa_unit end_break(pt *h)
{
    pt_arena *a = arena(h);
    uint64_t old_end = a->top ? address_of(h, a->top) + bytes_of(h, h->sys.old_size) : 0;
    uint64_t brk = h->base.brk - h->sys.size;
    a->system_mem += h->sys.size;
    if (a->top && h->sys.old_size && brk == old_end)
        return grow_top(h, old_end);
    if (a->contiguous && h->sys.old_size && brk < old_end) {
        if (h->pf->version < 204)
            return pt_from_top(h);
        heap_abort(&h->base, "break adjusted to free malloc space");
        return REF_PENDING;
    }
    return begin_correction(h, brk, old_end);
}

static pa_unit begin_break(pt *h)
{
    pt_arena *a = arena(h);
    uint64_t mask = size_mask(h);
    uint64_t size = (bytes_of(h, h->sys.nb) + h->mp.top_pad + bytes_of(h, MIN_UNITS)) & mask;
    if (a->contiguous)
        size = (size - bytes_of(h, h->sys.old_size)) & mask;
    size = page_up(size) & mask;
    if (h->mp.huge_page && size && size <= mask >> 1)
        size = align_up(h->base.brk + size, h->mp.huge_page) - h->base.brk;
    h->sys.size = size;
    uint64_t wanted = h->base.brk + size;
    bool sane = size && size <= mask >> 1 && wanted > h->base.brk && wanted <= mask;
    if (!sane)
        return begin_fallback(h);
    if (heap_move_break(&h->base, wanted))
        return end_break(h);
    return ask(h, SYS_BRK, PA_STOP_BRK, wanted, size);
}

/* ---- a mapping in place of the break --------------------------------------------------------------- */

/* 2.35 to 2.37 pass the minimum where the page size belongs, and the other way round; since 2.43
 * the old top is not counted in. */
static uint64_t fallback_size(const pt *h, bool contiguous)
{
    const uint64_t mib = 1 << 20;
    uint64_t size = h->sys.size;
    if (h->pf->version >= 243)
        size = page_up(bytes_of(h, h->sys.nb + MIN_UNITS) + h->mp.top_pad);
    else if (contiguous)
        size = h->pf->swapped_fallback
                   ? (size + bytes_of(h, h->sys.old_size) + mib - 1) & ~(mib - 1)
                   : page_up(size + bytes_of(h, h->sys.old_size));
    size &= size_mask(h); /* sums wrap at the word before they are compared */
    uint64_t least = h->pf->swapped_fallback ? PAGE_BYTES : mib;
    return size < least ? least : size;
}

static pa_unit begin_fallback(pt *h)
{
    uint64_t size = fallback_size(h, arena(h)->contiguous);
    if (size <= bytes_of(h, h->sys.nb))
        return 0;
    h->sys.size = size;
    return ask(h, SYS_FALLBACK, PA_STOP_MMAP, 0, size);
}

static pa_unit end_fallback(pt *h)
{
    pt_arena *a = arena(h);
    uint64_t base = h->base.stop.answer;
    if (!base)
        return 0;
    pa_status s = pa_shadow_add(&h->sh, base, h->sys.size);
    if (s != PA_OK)
        return give_up(h, s);
    a->contiguous = false;
    a->system_mem += h->sys.size;
    uint64_t misaligned = (base + 2 * h->pf->word) & (h->pf->align - 1);
    return new_top(h, base + (misaligned ? h->pf->align - misaligned : 0), base + h->sys.size);
}

/* ---- the whole ----------------------------------------------------------------------------------- */

pa_unit pt_sysmalloc(pt *h, pt_arena *a, uint64_t nb)
{
    if (!h->main_ready && !a->index)
        pt_init_main(h);
    h->sys = (pt_sys){.arena = a->index, .nb = nb, .old_size = a->top ? size_of(h, a->top) : 0};
    h->sys.old_top = a->top;
    if (bytes_of(h, nb) > h->largest_asked)
        h->largest_asked = bytes_of(h, nb);
    if (bytes_of(h, nb) >= h->mp.mmap_threshold && h->mp.n_mmaps < h->mp.n_mmaps_max)
        return begin_mmap(h);
    if (!top_is_whole(h, a))
        return REF_PENDING;
    return a->index ? pt_heap_grow(h) : begin_break(h);
}

pa_unit pt_sys_resume(pt *h)
{
    switch (h->sys.step) {
    case SYS_MMAP:
        return end_mmap(h);
    case SYS_BRK:
        if (h->base.stop.answer == h->base.stop.address)
            return end_break(h);
        return begin_fallback(h);
    case SYS_BRK_CORRECTION:
        return end_correction(h);
    case SYS_FALLBACK:
        return end_fallback(h);
    case SYS_HEAP_HINTED:
    case SYS_HEAP_DOUBLE:
    case SYS_HEAP_SINGLE:
    case SYS_HEAP_PROTECT:
    case SYS_TOP_PROTECT:
        return pt_heap_answered(h, h->base.stop.answer);
    case SYS_NONE:
        break;
    }
    return 0;
}
