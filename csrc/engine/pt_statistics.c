/* SPDX-License-Identifier: MIT
 *
 * pt_statistics.c -- what a heap says of itself in numbers, and whether they add up.
 */
#include "pt.h"

#include <string.h>

static void add_tcache(const pt *h, const pt_tcache *tc, pa_heap_statistics *out)
{
    for (uint32_t i = 0; tc->alive && i < TCACHE_BINS; i++) {
        out->count_tcache += tc->count[i];
        for (pa_unit c = tc->entry[i]; c && i >= TCACHE_SMALL; c = at(h, c)->fd)
            out->bytes_tcache += bytes_of(h, size_of(h, c));
        uint64_t units = MIN_UNITS + ((uint64_t)i << h->align_units_log);
        if (i < TCACHE_SMALL)
            out->bytes_tcache += tc->count[i] * bytes_of(h, units);
    }
}

static uint64_t largest_binned(const pt *h, const pt_arena *a)
{
    uint32_t largest = 0;
    pa_unit unsorted = a->bins + UNSORTED;
    uint32_t budget = 64; /* the unsorted list may be long; its head is the newest */
    for (pa_unit c = at(h, unsorted)->fd; c != unsorted && budget; c = at(h, c)->fd, budget--)
        if (size_of(h, c) > largest)
            largest = size_of(h, c);
    for (uint32_t bin = BINS - 1; bin > UNSORTED; bin--) {
        pa_unit head = a->bins + bin, first = at(h, head)->fd;
        if (first == head)
            continue;
        if (size_of(h, first) > largest)
            largest = size_of(h, first);
        break;
    }
    return bytes_of(h, largest);
}

static void add_arena(const pt *h, const pt_arena *a, pa_heap_statistics *out)
{
    out->bytes_system += a->system_mem;
    out->bytes_system_peak += a->max_system_mem;
    out->bytes_fast += a->bytes_fast;
    out->count_fast += a->count_fast;
    out->count_unsorted += a->count_in[0];
    out->bytes_unsorted += bytes_of(h, a->units_in[0]);
    out->count_small += a->count_in[1];
    out->bytes_small += bytes_of(h, a->units_in[1]);
    out->count_large += a->count_in[2];
    out->bytes_large += bytes_of(h, a->units_in[2]);
    uint64_t top = a->top ? bytes_of(h, size_of(h, a->top)) : 0, binned = largest_binned(h, a);
    out->bytes_top += top;
    if (top > out->bytes_largest_hole)
        out->bytes_largest_hole = top;
    if (binned > out->bytes_largest_hole)
        out->bytes_largest_hole = binned;
}

/* What lies before the first chunk of the main heap. */
static uint64_t main_gap(const pt *h)
{
    uint64_t mask = h->pf->align - 1, first = h->base.brk_start + 2 * h->pf->word;
    return h->arenas[0].system_mem ? (h->pf->align - (first & mask)) & mask : 0;
}

/* Memory that the library has for itself: caches, arenas, the heads of heaps. */
static uint64_t own_bytes(const pt *h)
{
    uint64_t own = main_gap(h);
    for (uint32_t i = 0; i < h->count_subheaps; i++)
        own += h->subheaps[i].previous ? h->pf->heap_info : pt_first_top(h);
    for (uint32_t i = 0; i < h->count_threads; i++) {
        const pt_tcache *tc = &h->threads[i].tcache;
        if (tc->alive && tc->home < MAPPED_REF)
            own += bytes_of(h, size_of(h, tc->home));
        else if (tc->alive)
            own += mapped_ref(h, tc->home)->total;
    }
    return own;
}

void pt_statistics(const pa_heap *heap, pa_heap_statistics *out)
{
    const pt *h = (const pt *)heap;
    out->bytes_own = own_bytes(h);
    out->bytes_header = h->pf->word;
    out->bytes_header_mapped = 2 * (uint64_t)h->pf->word;
    for (uint32_t i = 0; i < h->count_arenas; i++)
        add_arena(h, &h->arenas[i], out);
    for (uint32_t i = 0; i < h->count_threads; i++)
        add_tcache(h, &h->threads[i].tcache, out);
    out->count_arenas = h->count_arenas;
    out->bytes_mapped = h->mp.mmapped;
    out->count_mapped = h->mp.n_mmaps;
    out->bytes_mapped_peak = h->mp.max_mmapped;
    out->count_mapped_peak = h->mp.max_n_mmaps;
    out->bytes_largest_asked = h->largest_asked;
    out->bytes_top_kept = h->top_kept;
    out->bytes_top_trimmed = h->top_trimmed;
    out->count_threshold_moves = h->count_threshold_moves;
}

/* int_mallinfo(): chunks in a tcache count as in use. */
static void add_mallinfo(const pt *h, const pt_arena *a, pa_mallinfo *m)
{
    uint64_t top = a->top ? bytes_of(h, size_of(h, a->top)) : 0, available = top + a->bytes_fast;
    m->ordblks++;
    for (uint32_t kind = 0; kind < 3; kind++) {
        available += bytes_of(h, a->units_in[kind]);
        m->ordblks += a->count_in[kind];
    }
    m->arena += a->system_mem;
    m->smblks += a->count_fast;
    m->fsmblks += a->bytes_fast;
    m->fordblks += available;
    m->uordblks += a->system_mem - available;
    if (a->index)
        return;
    m->hblks = h->mp.n_mmaps;
    m->hblkhd = h->mp.mmapped + h->mp.mmapped_drift;
    m->keepcost = top;
}

/* mallinfo2(), up to 2.15 of the main arena only; or one arena in the order of the library's ring. */
pa_status pt_mallinfo(const pa_heap *heap, uint32_t arena, pa_mallinfo *out)
{
    const pt *h = (const pt *)heap;
    bool all = arena == PA_ALL_ARENAS;
    if (!all && arena >= h->count_arenas)
        return PA_ERR_INVALID;
    uint32_t a = 0;
    for (uint32_t i = 0; i < h->count_arenas; i++, a = h->arenas[a].next)
        if (i == arena || (all && (!i || h->pf->version >= 216)))
            add_mallinfo(h, &h->arenas[a], out);
    return PA_OK;
}

/* ---- arenas -------------------------------------------------------------------------------------- */

static void add_heaps(const pt *h, const pt_arena *a, pa_arena *out)
{
    for (uint32_t i = 0; i < h->count_subheaps; i++) {
        const pt_subheap *s = &h->subheaps[i];
        if (s->arena != a->index)
            continue;
        out->count_heaps++;
        out->bytes_heaps += s->size;
        out->bytes_writable += s->writable;
        if (s->base == a->heap_base) {
            out->bytes_newest = s->size;
            out->bytes_newest_writable = s->writable;
        }
    }
}

/* The i-th arena of the library's ring: the main one, then the newest first. */
pa_status pt_read_arena(const pa_heap *heap, uint32_t i, pa_arena *out)
{
    const pt *h = (const pt *)heap;
    if (i >= h->count_arenas)
        return PA_ERR_INVALID;
    const pt_arena *a = &h->arenas[0];
    while (i--)
        a = &h->arenas[a->next];
    *out = (pa_arena){.index = a->index,
                      .count_threads = a->attached,
                      .is_contiguous = a->contiguous,
                      .bytes_system = a->system_mem,
                      .bytes_system_peak = a->max_system_mem,
                      .top = a->top ? mem_of(h, a->top) : 0,
                      .bytes_top = a->top ? bytes_of(h, size_of(h, a->top)) : 0};
    add_heaps(h, a, out);
    return PA_OK;
}

/* ---- invariants ---------------------------------------------------------------------------------- */

static bool list_is_sound(const pt *h, const pt_arena *a, uint32_t bin, uint64_t *units,
                          uint64_t *count)
{
    pa_unit head = a->bins + bin, before = head;
    for (pa_unit c = at(h, head)->fd; c != head; before = c, c = at(h, c)->fd) {
        uint32_t size = size_of(h, c), kind = bin == UNSORTED ? 0 : is_small(h, size) ? 1 : 2;
        bool marked = at(h, c)->size & U_UNSORTED;
        if (at(h, c)->bk != before || marked != (bin == UNSORTED) || size < MIN_UNITS)
            return false;
        if (bin != UNSORTED && pt_bin_index(h, size) != bin)
            return false;
        if (prev_in_use(h, c + size) || at(h, c + size)->prev_size != size)
            return false;
        if (h->pf->skip_list && kind == 2 && before != head && size > size_of(h, before))
            return false;
        units[kind] += size;
        count[kind]++;
    }
    bool mapped = a->binmap[bin >> 5] >> (bin & 31) & 1;
    return before == head || bin == UNSORTED || mapped;
}

static bool arena_is_sound(const pt *h, const pt_arena *a)
{
    uint64_t units[3] = {0}, count[3] = {0};
    if (!a->system_mem)
        return true;
    for (uint32_t bin = UNSORTED; bin < BINS; bin++)
        if (!list_is_sound(h, a, bin, units, count))
            return false;
    return memcmp(units, a->units_in, sizeof units) == 0 &&
           memcmp(count, a->count_in, sizeof count) == 0;
}

/* O(heap): lists are linked both ways, sizes agree with feet and flags, totals with lists; nothing is
 * in the shadow where nothing was written. */
pa_status pt_check(const pa_heap *heap)
{
    const pt *h = (const pt *)heap;
    uint64_t mapped = 0;
    for (uint32_t i = 0; i < h->count_arenas; i++)
        if (!arena_is_sound(h, &h->arenas[i]))
            return PA_ERR_CORRUPT;
    for (uint32_t i = 0; i < h->count_mapped; i++)
        mapped += h->mapped[i].used ? h->mapped[i].total : 0;
    return mapped == h->mp.mmapped && pa_shadow_check(&h->sh) ? PA_OK : PA_ERR_CORRUPT;
}
