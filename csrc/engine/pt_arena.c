/* SPDX-License-Identifier: MIT
 *
 * pt_arena.c -- arenas other than the main one, the heaps they live in, and threads.
 *
 * Models arena.c of glibc.  A thread heap is an area of HEAP_MAX bytes, aligned to its size, of which
 * the first `size` bytes are in use and the first `writable` readable and writable:
 *
 *     base           + heap_info        + malloc_state (first heap only)
 *     | ar_ptr prev … | bins, fastbins … | chunks ..... top | unused, no access ... | base + HEAP_MAX
 *
 *     size <= writable <= HEAP_MAX
 */
#include "pt.h"

#include <stdlib.h>
#include <string.h>

uint64_t pt_heap_max(const pt *h)
{
    return h->pf->word == 8 ? 64u << 20 : 1u << 20;
}

static uint64_t heap_info_bytes(const pt *h)
{
    return h->pf->word == 8 ? 48 : 24;
}

/* Where the top of an arena's first heap begins: behind heap_info and malloc_state. */
static uint64_t first_top(const pt *h)
{
    return h->pf->word == 8 ? 0x8d0 : 0x478;
}

static uint64_t page_up(uint64_t bytes)
{
    return (bytes + PAGE_BYTES - 1) & ~(uint64_t)(PAGE_BYTES - 1);
}

/* ---- arenas ------------------------------------------------------------------------------------- */

bool pt_add_arena(pt *h, pt_arena **out)
{
    if (h->count_arenas == h->room_arenas) {
        uint32_t room = h->room_arenas ? h->room_arenas * 2 : 4;
        pt_arena *more = realloc(h->arenas, room * sizeof *more);
        if (!more) {
            h->base.error = PA_ERR_HOST_NOMEM;
            return false;
        }
        h->arenas = more;
        h->room_arenas = room;
    }
    pt_arena *a = &h->arenas[h->count_arenas];
    *a = (pt_arena){.index = h->count_arenas++, .contiguous = true, .next_free = -1};
    *out = a;
    return true;
}

pt_subheap *pt_subheap_at(const pt *h, uint64_t address)
{
    uint64_t base = address & ~(pt_heap_max(h) - 1);
    for (uint32_t i = h->count_subheaps; i-- > 0;)
        if (h->subheaps[i].base == base)
            return &h->subheaps[i];
    return NULL;
}

/* The arena that owns a chunk, by the flag in its header (arena_for_chunk). */
pt_arena *pt_arena_of(const pt *h, pa_unit c)
{
    if (!(at(h, c)->size & N_ARENA))
        return &h->arenas[0];
    pt_subheap *s = pt_subheap_at(h, address_of(h, c));
    return &h->arenas[s ? s->arena : 0];
}

/* ---- threads ------------------------------------------------------------------------------------ */

pt_thread *pt_thread_of(pt *h, uint32_t thread)
{
    if (thread >= h->count_threads) {
        uint32_t count = thread + 16;
        pt_thread *more = realloc(h->threads, count * sizeof *more);
        if (!more) {
            h->base.error = PA_ERR_HOST_NOMEM;
            return NULL;
        }
        h->threads = more;
        memset(more + h->count_threads, 0, (count - h->count_threads) * sizeof *more);
        for (uint32_t i = h->count_threads; i < count; i++)
            more[i].arena = -1;
        h->count_threads = count;
    }
    return &h->threads[thread];
}

/* ---- heaps -------------------------------------------------------------------------------------- */

static pt_subheap *add_subheap(pt *h, uint64_t base, uint64_t size, uint32_t arena)
{
    if (h->count_subheaps == h->room_subheaps) {
        uint32_t room = h->room_subheaps ? h->room_subheaps * 2 : 8;
        pt_subheap *more = realloc(h->subheaps, room * sizeof *more);
        if (!more) {
            h->base.error = PA_ERR_HOST_NOMEM;
            return NULL;
        }
        h->subheaps = more;
        h->room_subheaps = room;
    }
    pa_status s = pa_shadow_add(&h->sh, base, pt_heap_max(h));
    if (s != PA_OK) {
        h->base.error = s;
        return NULL;
    }
    pt_subheap *heap = &h->subheaps[h->count_subheaps++];
    *heap = (pt_subheap){base, size, size, h->arenas[arena].heap_base, arena};
    return heap;
}

static void drop_subheap(pt *h, pt_subheap *heap)
{
    if (heap->base + pt_heap_max(h) == h->aligned_heap_area)
        h->aligned_heap_area = 0;
    pa_shadow_remove(&h->sh, heap->base);
    heap_log(&h->base, EFFECT_UNMAP, heap->base, pt_heap_max(h));
    *heap = h->subheaps[--h->count_subheaps];
}

static pa_unit ask_heap(pt *h, pt_sys_step step, uint64_t hint, uint64_t length)
{
    h->sys.step = step;
    heap_ask(&h->base, PA_STOP_MMAP, hint, length, 0, 0);
    return REF_PENDING;
}

/* new_heap(): first where the last one left an aligned half, else twice the size, cut to fit. */
pa_unit pt_new_heap(pt *h, pt_arena *a, uint64_t size)
{
    uint64_t least = 32 << 10, most = pt_heap_max(h);
    if (size > most)
        return 0;
    if (size + h->mp.top_pad < least)
        size = least;
    else if (size + h->mp.top_pad <= most)
        size += h->mp.top_pad;
    else
        size = most;
    h->sys.arena = a->index;
    h->sys.size = page_up(size);
    if (h->aligned_heap_area) {
        uint64_t hint = h->aligned_heap_area;
        h->aligned_heap_area = 0;
        return ask_heap(h, SYS_NEW_HEAP, hint, most);
    }
    return ask_heap(h, SYS_GROW_HEAP, 0, 2 * most);
}

/* Cut the aligned HEAP_MAX out of a mapping of twice that. */
static uint64_t cut_to_fit(pt *h, uint64_t base)
{
    uint64_t most = pt_heap_max(h), aligned = (base + most - 1) & ~(most - 1),
             front = aligned - base;
    if (front)
        heap_log(&h->base, EFFECT_UNMAP, base, front);
    else
        h->aligned_heap_area = aligned + most;
    if (most - front)
        heap_log(&h->base, EFFECT_UNMAP, aligned + most, most - front);
    return aligned;
}

/* The first heap of an arena holds the arena itself. */
static pa_unit found_arena(pt *h, pt_subheap *heap)
{
    pt_arena *a = &h->arenas[heap->arena];
    a->heap_base = heap->base;
    a->bins = pa_shadow_unit(&h->sh, heap->base) + 1;
    pt_init_bins(h, a);
    a->system_mem = a->max_system_mem = heap->size;
    a->top = pa_shadow_unit(&h->sh, heap->base + first_top(h));
    set_head(h, a->top, (heap->size - first_top(h)) >> h->unit_shift, P_INUSE);
    heap_touch_range(&h->base, heap->base, first_top(h));
    return a->top;
}

static bool retire_heap_top(pt *h, pt_arena *a)
{
    uint64_t mask = ~(((uint64_t)1 << h->align_units_log) - 1);
    uint64_t keep = (h->sys.old_size - MIN_UNITS) & mask;
    pa_unit top = h->sys.old_top, fence = top + (pa_unit)keep;
    set_head(h, fence + 1, 0, P_INUSE);
    if (keep < MIN_UNITS) {
        set_head(h, top, keep + 1, P_INUSE);
        set_foot(h, top, keep + 1);
        return true;
    }
    set_head(h, fence, 1, P_INUSE);
    set_foot(h, fence, 1);
    set_head(h, top, keep, P_INUSE | N_ARENA);
    return pt_int_free(h, a, top, true);
}

static pa_unit carve(pt *h, pt_arena *a)
{
    uint64_t size = size_of(h, a->top);
    if (a->system_mem > a->max_system_mem)
        a->max_system_mem = a->system_mem;
    if (size < h->sys.nb + MIN_UNITS)
        return 0;
    pa_unit c = a->top;
    a->top = c + (pa_unit)h->sys.nb;
    set_head(h, c, h->sys.nb, P_INUSE | N_ARENA);
    set_head(h, a->top, size - h->sys.nb, P_INUSE);
    return c;
}

/* A further heap of an arena: its top is new, the old one is fenced and freed. */
static pa_unit extend_arena(pt *h, pt_subheap *heap)
{
    pt_arena *a = &h->arenas[heap->arena];
    a->heap_base = heap->base;
    a->system_mem += heap->size;
    a->top = pa_shadow_unit(&h->sh, heap->base + heap_info_bytes(h));
    heap_touch(&h->base, heap->base);
    set_head(h, a->top, (heap->size - heap_info_bytes(h)) >> h->unit_shift, P_INUSE);
    if (!retire_heap_top(h, a))
        return REF_PENDING;
    return carve(h, a);
}

/* The mapping for a new heap was answered; a chunk, an arena's top, 0 or REF_PENDING. */
pa_unit pt_heap_mapped(pt *h, uint64_t base)
{
    uint64_t most = pt_heap_max(h);
    if (h->sys.step == SYS_NEW_HEAP && base & (most - 1)) {
        heap_log(&h->base, EFFECT_UNMAP, base, most);
        base = 0;
    }
    if (!base && h->sys.step == SYS_NEW_HEAP)
        return ask_heap(h, SYS_GROW_HEAP, 0, 2 * most);
    bool first = !h->arenas[h->sys.arena].heap_base;
    if (!base && !first && !h->sys.tried_mmap && h->mp.n_mmaps < h->mp.n_mmaps_max) {
        h->sys.tried_mmap = true;
        h->sys.size = pt_mapped_total(h, h->sys.nb);
        h->sys.step = SYS_MMAP;
        heap_ask(&h->base, PA_STOP_MMAP, 0, h->sys.size, 0, 3);
        return REF_PENDING;
    }
    if (!base)
        return 0;
    if (h->sys.step == SYS_GROW_HEAP)
        base = cut_to_fit(h, base);
    pt_subheap *heap = add_subheap(h, base, h->sys.size, h->sys.arena);
    if (!heap)
        return 0;
    heap_log(&h->base, EFFECT_PROTECT, base, heap->size);
    return first ? found_arena(h, heap) : extend_arena(h, heap);
}

/* sysmalloc() for a thread arena: grow its newest heap, or add one. */
pa_unit pt_heap_grow(pt *h)
{
    pt_arena *a = &h->arenas[h->sys.arena];
    pt_subheap *heap = pt_subheap_at(h, a->heap_base);
    uint64_t need = bytes_of(h, h->sys.nb + MIN_UNITS), old = bytes_of(h, h->sys.old_size);
    if (h->sys.nb < (uint64_t)1 << 29 && need > old) {
        uint64_t size = heap->size + page_up(need - old);
        if (size <= pt_heap_max(h)) {
            a->system_mem += size - heap->size;
            if (size > heap->writable) {
                heap_log(&h->base, EFFECT_PROTECT, heap->base + heap->writable,
                         size - heap->writable);
                heap->writable = size;
            }
            heap->size = size;
            uint64_t end = heap->base + size;
            set_head(h, a->top, (end - address_of(h, a->top)) >> h->unit_shift, P_INUSE);
            return carve(h, a);
        }
    }
    pa_unit r = pt_new_heap(h, a, need + heap_info_bytes(h));
    if (!r)
        h->sys.step = SYS_GROW_HEAP, r = pt_heap_mapped(h, 0);
    return r;
}

/* While the top is all there is in the newest heap, drop that heap. */
static bool drop_empty_heaps(pt *h, pt_arena *a, pa_unit *top)
{
    for (;;) {
        pt_subheap *heap = pt_subheap_at(h, a->heap_base);
        if (!heap->previous || address_of(h, *top) != heap->base + heap_info_bytes(h))
            return true;
        pt_subheap *before = pt_subheap_at(h, heap->previous);
        pa_unit last = pa_shadow_unit(&h->sh, before->base + before->size - h->unit);
        pa_unit fence = last - at(h, last)->prev_size;
        uint64_t units = size_of(h, fence) + 1;
        if (!prev_in_use(h, fence))
            units += at(h, fence)->prev_size;
        if (bytes_of(h, units) + (pt_heap_max(h) - before->size) <
            h->mp.top_pad + bytes_of(h, MIN_UNITS) + PAGE_BYTES)
            return true;
        a->system_mem -= heap->size;
        a->heap_base = heap->previous;
        drop_subheap(h, heap);
        if (!prev_in_use(h, fence)) {
            fence -= at(h, fence)->prev_size;
            const char *fault = pt_unlink(h, a, fence);
            if (fault) {
                heap_abort(&h->base, fault);
                return false;
            }
        }
        a->top = *top = fence;
        set_head(h, fence, units, P_INUSE);
    }
}

/* heap_trim(): drop whole heaps, then give pages of the newest back. */
bool pt_heap_trim(pt *h, pt_arena *a, pa_unit top)
{
    if (!drop_empty_heaps(h, a, &top))
        return false;
    uint64_t size = bytes_of(h, size_of(h, top));
    if (h->pf->version >= 222 && size < h->mp.trim_threshold)
        return true;
    uint64_t area = size - bytes_of(h, MIN_UNITS) - 1;
    if (area <= h->mp.top_pad)
        return true;
    uint64_t extra = (area - h->mp.top_pad) & ~(uint64_t)(PAGE_BYTES - 1);
    if (!extra)
        return true;
    pt_subheap *heap = pt_subheap_at(h, a->heap_base);
    heap->size -= extra;
    if (h->base.mm)
        heap_log(&h->base, EFFECT_DISCARD, (heap->base + heap->size) >> 12, extra >> 12);
    a->system_mem -= extra;
    set_head(h, top, (size - extra) >> h->unit_shift, P_INUSE);
    return true;
}
