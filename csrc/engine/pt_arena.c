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
    if (h->pf->heap_max)
        return h->pf->heap_max;
    return h->pf->word == 8 ? 64u << 20 : 1u << 20;
}

/* Where the first chunk of an arena begins: behind heap_info and malloc_state, aligned. */
uint64_t pt_first_top(const pt *h)
{
    uint64_t offset = h->pf->heap_info + h->pf->arena_state, mask = h->pf->align - 1;
    uint64_t misaligned = (offset + 2 * h->pf->word) & mask;
    return misaligned ? offset + h->pf->align - misaligned : offset;
}

/* What heaps grow and shrink by: since 2.43 huge pages, where those are asked for and fit. */
static uint64_t heap_page(const pt *h)
{
    bool huge = h->pf->version >= 243 && h->mp.huge_page && h->mp.huge_page <= pt_heap_max(h);
    return huge ? h->mp.huge_page : PAGE_BYTES;
}

static uint64_t page_up(const pt *h, uint64_t bytes)
{
    uint64_t page = heap_page(h);
    return (bytes + page - 1) & ~(page - 1);
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
    *a = (pt_arena){.index = h->count_arenas++, .next_free = -1};
    a->contiguous = !a->index;
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

enum { MOST_THREADS = 1 << 22 }; /* Linux counts processes and threads up to there */

pt_thread *pt_thread_of(pt *h, uint32_t thread)
{
    if (thread >= MOST_THREADS) {
        h->base.error = PA_ERR_LIMIT;
        return NULL;
    }
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

/* Attach a thread to another arena.  The one it leaves is not free: its thread did not end. */
void pt_attach(pt *h, pt_thread *t, int32_t arena)
{
    if (t->arena >= 0 && h->arenas[t->arena].attached)
        h->arenas[t->arena].attached--;
    t->arena = arena;
    h->arenas[arena].attached++;
}

/* ---- choosing an arena --------------------------------------------------------------------------- */

static pa_unit new_heap(pt *h, uint64_t size);

static uint64_t arena_overhead(const pt *h)
{
    return h->pf->heap_info + h->pf->arena_state + h->pf->align;
}

/* _int_new_arena(): its first heap has room for the request, if a heap can be that large. */
static pa_unit begin_new_arena(pt *h)
{
    pt_arena *a;
    if (!pt_add_arena(h, &a))
        return 0;
    h->op.arena = a->index;
    h->sys = (pt_sys){.arena = a->index};
    pa_unit r = new_heap(h, h->op.arena_bytes + arena_overhead(h));
    if (r)
        return r;
    h->sys.minimal = true;
    return new_heap(h, arena_overhead(h));
}

/* A new arena's heap was mapped (its top) or refused (0). */
void pt_attach_new_arena(pt *h, pa_unit top)
{
    uint32_t index = h->count_arenas - 1;
    h->op.arena = NO_ARENA;
    if (!top) {
        h->count_arenas--;
        return;
    }
    h->arenas[index].next = h->arenas[0].next; /* linked right after the main one */
    h->arenas[0].next = index;
    pt_attach(h, &h->threads[h->op.thread], (int32_t)index);
    h->op.arena = index;
}

/* arena_get2() up to 2.14: the next that is not locked, beginning behind the thread's own. */
static bool find_in_ring(pt *h, bool main_busy, pa_unit *pending)
{
    pt_thread *t = &h->threads[h->op.thread];
    uint32_t from = t->arena < 0 ? 0 : (uint32_t)t->arena;
    uint32_t a = t->arena < 0 ? 0 : h->arenas[from].next;
    for (bool first = true; first || a != from; first = false, a = h->arenas[a].next) {
        if (a || !main_busy) {
            pt_attach(h, t, (int32_t)a);
            h->op.arena = a;
            return true;
        }
    }
    *pending = begin_new_arena(h);
    return false;
}

static uint64_t arena_limit(pt *h)
{
    if (!h->arena_limit && h->mp.arena_max)
        h->arena_limit = h->mp.arena_max;
    else if (!h->arena_limit && h->count_arenas > h->mp.arena_test)
        h->arena_limit = (uint64_t)h->count_cpus * (h->pf->word == 8 ? 8 : 2);
    return h->arena_limit ? h->arena_limit : UINT64_MAX;
}

/* reused_arena(): the next that has no error, -1: there is none. */
static int32_t next_in_turn(pt *h)
{
    uint32_t found = h->next_to_use;
    for (uint32_t i = 0; i < h->count_arenas; i++, found = h->arenas[found].next) {
        if (h->arenas[found].corrupt)
            continue;
        h->next_to_use = h->arenas[found].next;
        return (int32_t)found;
    }
    return -1;
}

/* arena_get2(): one that ended threads left, a new one, or the next in turn.  True when op.arena is
 * set; false when one is being made: *pending is its top, 0 or REF_PENDING. */
bool pt_find_arena(pt *h, bool main_busy, pa_unit *pending)
{
    if (h->pf->arena_ring)
        return find_in_ring(h, main_busy, pending);
    pt_thread *t = &h->threads[h->op.thread];
    int32_t found = h->free_arena;
    if (found >= 0) {
        h->free_arena = h->arenas[found].next_free;
        h->arenas[found].next_free = -1;
    } else if (h->count_arenas < arena_limit(h)) {
        *pending = begin_new_arena(h);
        return false;
    } else {
        found = next_in_turn(h);
        if (found < 0) {
            h->op.arena = NO_ARENA;
            *pending = 0;
            return true;
        }
    }
    pt_attach(h, t, found);
    h->op.arena = (uint32_t)found;
    return true;
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

static pa_unit ask(pt *h, pt_sys_step step, pa_reason reason, uint64_t at, uint64_t length)
{
    h->sys.step = step;
    heap_ask(&h->base, reason, at, length, 0, reason == PA_STOP_MPROTECT ? 3 : 0);
    return REF_PENDING;
}

/* new_heap(): first where the last one left an aligned half, else twice the size, cut to fit.
 * 0: the size is too large for a heap. */
static pa_unit new_heap(pt *h, uint64_t size)
{
    uint64_t least = 32 << 10, most = pt_heap_max(h), mask = size_mask(h);
    size &= mask;
    uint64_t padded = (size + h->mp.top_pad) & mask;
    if (padded >= least && padded > most && size > most)
        return 0;
    size = padded < least ? least : padded < most ? padded : most;
    h->sys.heap_size = page_up(h, size);
    uint64_t hint = h->aligned_heap_area;
    h->aligned_heap_area = 0;
    if (hint)
        return ask(h, SYS_HEAP_HINTED, PA_STOP_MMAP, hint, most);
    return ask(h, SYS_HEAP_DOUBLE, PA_STOP_MMAP, 0, 2 * most);
}

/* Cut the aligned HEAP_MAX out of a mapping of twice that. */
static uint64_t cut_to_fit(pt *h, uint64_t base)
{
    uint64_t most = pt_heap_max(h), aligned = (base + most - 1) & ~(most - 1),
             front = aligned - base;
    if (front)
        heap_log(&h->base, EFFECT_UNMAP, base, front);
    else if (h->pf->version >= 206)
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
    uint64_t offset = pt_first_top(h);
    a->top = pa_shadow_unit(&h->sh, heap->base + offset);
    set_head(h, a->top, (heap->size - offset) >> h->unit_shift, P_INUSE);
    heap_touch_range(&h->base, heap->base, offset);
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

/* A further heap of an arena: its top is new, the old one is fenced and freed. */
static pa_unit extend_arena(pt *h, pt_subheap *heap)
{
    pt_arena *a = &h->arenas[heap->arena];
    a->heap_base = heap->base;
    a->system_mem += heap->size;
    h->base.count_moves++;
    a->top = pa_shadow_unit(&h->sh, heap->base + h->pf->heap_info);
    heap_touch(&h->base, heap->base);
    set_head(h, a->top, (heap->size - h->pf->heap_info) >> h->unit_shift, P_INUSE);
    if (!retire_heap_top(h, a))
        return REF_PENDING;
    return pt_from_top(h);
}

/* No new heap is to be had: try again with less, or do without. */
static pa_unit without_heap(pt *h)
{
    bool first = !h->arenas[h->sys.arena].heap_base;
    if (first && !h->sys.minimal) {
        h->sys.minimal = true;
        return new_heap(h, arena_overhead(h));
    }
    return first ? 0 : pt_try_mapping(h);
}

static pa_unit begin_new_heap(pt *h)
{
    uint64_t need = bytes_of(h, h->sys.nb + MIN_UNITS) + h->pf->heap_info;
    pa_unit r = new_heap(h, need);
    return r ? r : without_heap(h);
}

/* The area for a heap was answered: make its first pages writable. */
static pa_unit end_area(pt *h, uint64_t base)
{
    uint64_t most = pt_heap_max(h);
    if (base && h->sys.step == SYS_HEAP_DOUBLE)
        base = cut_to_fit(h, base);
    if (base & (most - 1)) {
        heap_log(&h->base, EFFECT_UNMAP, base, most);
        base = 0;
    }
    if (!base && h->sys.step == SYS_HEAP_HINTED)
        return ask(h, SYS_HEAP_DOUBLE, PA_STOP_MMAP, 0, 2 * most);
    if (!base && h->sys.step == SYS_HEAP_DOUBLE)
        return ask(h, SYS_HEAP_SINGLE, PA_STOP_MMAP, 0, most);
    if (!base)
        return without_heap(h);
    h->sys.heap_base = base;
    return ask(h, SYS_HEAP_PROTECT, PA_STOP_MPROTECT, base, h->sys.heap_size);
}

static pa_unit end_new_heap(pt *h)
{
    bool first = !h->arenas[h->sys.arena].heap_base;
    pt_subheap *heap = add_subheap(h, h->sys.heap_base, h->sys.heap_size, h->sys.arena);
    if (!heap)
        return 0;
    return first ? found_arena(h, heap) : extend_arena(h, heap);
}

/* The newest heap is now heap_size bytes: so is its top. */
static pa_unit end_growth(pt *h)
{
    pt_arena *a = &h->arenas[h->sys.arena];
    pt_subheap *heap = pt_subheap_at(h, a->heap_base);
    a->system_mem += h->sys.heap_size - heap->size;
    h->base.count_moves++;
    heap->size = h->sys.heap_size;
    if (heap->size > heap->writable)
        heap->writable = heap->size;
    uint64_t end = heap->base + heap->size;
    set_head(h, a->top, (end - address_of(h, a->top)) >> h->unit_shift, P_INUSE);
    return pt_from_top(h);
}

/* Policy answered a question about a heap: a chunk, an arena's top, 0 or REF_PENDING. */
pa_unit pt_heap_answered(pt *h, uint64_t answer)
{
    switch (h->sys.step) {
    case SYS_TOP_PROTECT:
        return answer ? begin_new_heap(h) : end_growth(h);
    case SYS_HEAP_PROTECT:
        if (!answer)
            return end_new_heap(h);
        heap_log(&h->base, EFFECT_UNMAP, h->sys.heap_base, pt_heap_max(h));
        return without_heap(h);
    default:
        return end_area(h, answer);
    }
}

/* 2.3.3: a request near SIZE_MAX wraps around to a negative growth, which works where it happens to
 * end on a page.  The top goes with it, and the next access faults. */
static bool shrinks_instead(const pt_subheap *heap, uint64_t by)
{
    return by < heap->size && (heap->size - by) % PAGE_BYTES == 0;
}

/* sysmalloc() for a thread arena: grow its newest heap, or add one. */
pa_unit pt_heap_grow(pt *h)
{
    pt_arena *a = &h->arenas[h->sys.arena];
    pt_subheap *heap = pt_subheap_at(h, a->heap_base);
    uint64_t mask = size_mask(h);
    uint64_t need = (bytes_of(h, h->sys.nb + MIN_UNITS - h->sys.old_size)) & mask;
    uint64_t size = heap->size + page_up(h, need);
    if (h->pf->version < 204 && need > mask >> 1 && shrinks_instead(heap, mask + 1 - need)) {
        heap_abort(&h->base, NULL);
        return REF_PENDING;
    }
    if (!need || need > mask >> 1 || size > pt_heap_max(h))
        return begin_new_heap(h);
    h->sys.heap_size = size;
    if (size <= heap->writable)
        return end_growth(h);
    return ask(h, SYS_TOP_PROTECT, PA_STOP_MPROTECT, heap->base + heap->writable,
               size - heap->writable);
}

/* While the top is all there is in the newest heap, drop that heap. */
static bool drop_empty_heaps(pt *h, pt_arena *a, pa_unit *top)
{
    for (;;) {
        pt_subheap *heap = pt_subheap_at(h, a->heap_base);
        if (!heap->previous || address_of(h, *top) != heap->base + h->pf->heap_info)
            return true;
        pt_subheap *before = pt_subheap_at(h, heap->previous);
        uint64_t end = before->base + before->size,
                 behind = end - bytes_of(h, MIN_UNITS) + 2 * h->pf->word;
        behind -= behind & (h->pf->align - 1);
        pa_unit last = pa_shadow_unit(&h->sh, behind);
        pa_unit fence = last - at(h, last)->prev_size;
        uint64_t units = size_of(h, fence) + ((end - behind) >> h->unit_shift);
        if (!prev_in_use(h, fence))
            units += at(h, fence)->prev_size;
        uint64_t room = bytes_of(h, units) + (pt_heap_max(h) - before->size);
        if (room < ((h->mp.top_pad + bytes_of(h, MIN_UNITS) + heap_page(h)) & size_mask(h)))
            return true;
        a->system_mem -= heap->size;
        h->base.count_moves++;
        a->heap_base = heap->previous;
        drop_subheap(h, heap);
        if (!prev_in_use(h, fence)) {
            fence -= at(h, fence)->prev_size;
            const char *fault = pt_unlink(h, a, fence);
            if (fault)
                return pt_fail(h, fault, address_of(h, fence));
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
    if (h->pf->version >= 222 && !pt_worth_trimming(h, size))
        return true;
    if (size <= bytes_of(h, MIN_UNITS))
        return true;
    uint64_t area = size - bytes_of(h, MIN_UNITS) - 1;
    if (area <= h->mp.top_pad)
        return true;
    uint64_t extra = (area - h->mp.top_pad) & ~(heap_page(h) - 1);
    if (!extra)
        return true;
    pt_subheap *heap = pt_subheap_at(h, a->heap_base);
    heap->size -= extra;
    if (h->pf->version < 206)
        heap->writable = heap->size;
    pt_clear(h, heap->base + heap->size, extra);
    if (h->base.mm)
        heap_log(&h->base, EFFECT_DISCARD, (heap->base + heap->size) >> 12, extra >> 12);
    a->system_mem -= extra;
    h->base.count_moves++;
    set_head(h, top, (size - extra) >> h->unit_shift, P_INUSE);
    return true;
}
