/* SPDX-License-Identifier: MIT
 *
 * pt_walk.c -- reading a heap: statistics, every chunk, every invariant.
 */
#include "pt.h"

#include <stdlib.h>
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

void pt_statistics(const pa_heap *heap, pa_heap_statistics *out)
{
    const pt *h = (const pt *)heap;
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

/* ---- every chunk --------------------------------------------------------------------------------- */

typedef struct walker {
    const pt *h;
    pa_chunk *out;
    uint64_t room, count;
} walker;

static void emit(walker *w, uint64_t address, uint64_t size, uint32_t arena, uint32_t state)
{
    if (w->count < w->room)
        w->out[w->count] = (pa_chunk){address, size, arena, state};
    w->count++;
}

static int by_address(const void *a, const void *b)
{
    uint64_t x = ((const pa_chunk *)a)->address, y = ((const pa_chunk *)b)->address;
    return (x > y) - (x < y);
}

/* Mark a chunk that a cache holds: its header says that it is in use. */
static void mark(walker *w, uint64_t mem, uint32_t state)
{
    uint64_t low = 0, high = w->count < w->room ? w->count : w->room;
    while (low < high) {
        uint64_t mid = (low + high) / 2;
        if (w->out[mid].address < mem)
            low = mid + 1;
        else
            high = mid;
    }
    if (low < w->room && low < w->count && w->out[low].address == mem)
        w->out[low].state = state;
}

static uint32_t free_state(const pt *h, pa_unit c)
{
    if (at(h, c)->size & U_UNSORTED)
        return PA_CHUNK_UNSORTED;
    return is_small(h, size_of(h, c)) ? PA_CHUNK_SMALL : PA_CHUNK_LARGE;
}

/* Chunks from c to the end of their segment: the top, or a fence of size 0. */
static void walk_run(walker *w, const pt_arena *a, pa_unit c, uint64_t end)
{
    const pt *h = w->h;
    while (address_of(h, c) + h->unit < end) {
        uint64_t size = size_of(h, c);
        if (c == a->top) {
            emit(w, mem_of(h, c), bytes_of(h, size), a->index, PA_CHUNK_TOP);
            return;
        }
        if (size < MIN_UNITS) {
            emit(w, mem_of(h, c), bytes_of(h, size), a->index, PA_CHUNK_FENCE);
            if (!size)
                return;
            c += (pa_unit)size;
            continue;
        }
        bool used = prev_in_use(h, c + (pa_unit)size);
        emit(w, mem_of(h, c), bytes_of(h, size), a->index, used ? PA_CHUNK_USED : free_state(h, c));
        c += (pa_unit)size;
    }
}

static void walk_main(walker *w)
{
    const pt *h = w->h;
    const pt_arena *a = &h->arenas[0];
    if (!a->system_mem)
        return;
    uint64_t mask = h->pf->align - 1, first = h->base.brk_start;
    first += (h->pf->align - ((first + 2 * h->pf->word) & mask)) & mask;
    if (first < h->base.brk)
        walk_run(w, a, pa_shadow_unit(&h->sh, first), h->base.brk);
}

uint64_t pt_walk(const pa_heap *heap, pa_chunk *out, uint64_t room)
{
    const pt *h = (const pt *)heap;
    walker w = {h, out, room, 0};
    walk_main(&w);
    for (uint32_t i = 0; i < h->count_subheaps; i++) {
        const pt_subheap *s = &h->subheaps[i];
        uint64_t skip = s->previous ? h->pf->heap_info : pt_first_top(h);
        walk_run(&w, &h->arenas[s->arena], pa_shadow_unit(&h->sh, s->base + skip),
                 s->base + s->size);
    }
    for (uint32_t i = 0; i < h->count_mapped; i++)
        if (h->mapped[i].used)
            emit(&w, pt_mapped_mem(h, &h->mapped[i]), h->mapped[i].total - h->mapped[i].front, 0,
                 PA_CHUNK_MAPPED);
    if (w.count > room)
        return w.count;
    qsort(out, w.count, sizeof *out, by_address);
    for (uint32_t i = 0; i < h->count_threads; i++)
        for (uint32_t b = 0; h->threads[i].tcache.alive && b < TCACHE_BINS; b++)
            for (pa_unit c = h->threads[i].tcache.entry[b]; c; c = at(h, c)->fd)
                mark(&w, mem_of(h, c), PA_CHUNK_TCACHE);
    for (uint32_t i = 0; i < h->count_arenas; i++)
        for (uint32_t b = 0; b < FASTBINS; b++)
            for (pa_unit c = h->arenas[i].fast[b]; c; c = at(h, c)->fd)
                mark(&w, mem_of(h, c), PA_CHUNK_FAST);
    return w.count;
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

/* O(chunks): lists are linked both ways, sizes agree with feet and flags, totals with lists. */
pa_status pt_check(const pa_heap *heap)
{
    const pt *h = (const pt *)heap;
    uint64_t mapped = 0;
    for (uint32_t i = 0; i < h->count_arenas; i++)
        if (!arena_is_sound(h, &h->arenas[i]))
            return PA_ERR_CORRUPT;
    for (uint32_t i = 0; i < h->count_mapped; i++)
        mapped += h->mapped[i].used ? h->mapped[i].total : 0;
    return mapped == h->mp.mmapped ? PA_OK : PA_ERR_CORRUPT;
}
