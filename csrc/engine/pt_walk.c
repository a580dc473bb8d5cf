/* SPDX-License-Identifier: MIT
 *
 * pt_walk.c -- every chunk of a heap, in address order or list by list.
 *
 * The library itself never walks its heap, so nothing in it says where chunks begin.  They follow
 * one another in stretches: the thread heaps, and those of the main arena, which are noted when a
 * top begins (pt_add_stretch).  Walking reads headers only; a damaged one ends its stretch.
 */
#include "pt.h"

#include <stdlib.h>
#include <string.h>

/* A top of the main arena begins at `start`; what was before it ends at `previous_end`. */
void pt_add_stretch(pt *h, uint64_t start, uint64_t previous_end)
{
    if (h->sys.arena)
        return;
    if (h->count_stretches == h->room_stretches) {
        uint32_t room = h->room_stretches ? h->room_stretches * 2 : 4;
        pt_stretch *more = realloc(h->stretches, room * sizeof *more);
        if (!more) {
            h->base.error = PA_ERR_HOST_NOMEM;
            return;
        }
        h->stretches = more;
        h->room_stretches = room;
    }
    if (h->count_stretches)
        h->stretches[h->count_stretches - 1].end = previous_end;
    h->stretches[h->count_stretches++] = (pt_stretch){start, 0};
}

/* ---- in address order ---------------------------------------------------------------------------- */

typedef struct walker {
    const pt *h;
    pa_chunk *out;
    uint64_t room, count;
} walker;

static void emit(walker *w, pa_chunk chunk)
{
    if (w->count < w->room)
        w->out[w->count] = chunk;
    w->count++;
}

static uint16_t free_state(const pt *h, pa_unit c)
{
    if (at(h, c)->size & U_UNSORTED)
        return PA_CHUNK_UNSORTED;
    return is_small(h, size_of(h, c)) ? PA_CHUNK_SMALL : PA_CHUNK_LARGE;
}

static uint16_t bin_of_free(const pt *h, pa_unit c)
{
    return at(h, c)->size & U_UNSORTED ? UNSORTED : (uint16_t)pt_bin_index(h, size_of(h, c));
}

static pa_chunk chunk_at(const pt *h, uint32_t arena, pa_unit c, uint16_t state)
{
    return (pa_chunk){.address = mem_of(h, c),
                      .size = bytes_of(h, size_of(h, c)),
                      .arena = arena,
                      .thread = PA_NO_THREAD,
                      .state = state,
                      .flags = at(h, c)->size & (P_INUSE | N_ARENA)};
}

/* One chunk that ends before `end`, or the damaged one that does not. */
static pa_chunk look_at(const pt *h, uint32_t arena, pa_unit c, uint64_t end)
{
    pa_chunk chunk = chunk_at(h, arena, c, PA_CHUNK_USED);
    uint64_t start = address_of(h, c);
    if (chunk.size > end - start) {
        chunk.size = end - start;
    } else if (size_of(h, c) < MIN_UNITS) {
        chunk.state = PA_CHUNK_FENCE;
    } else if (start + chunk.size < end && !prev_in_use(h, next_of(h, c))) {
        chunk.state = free_state(h, c);
        chunk.bin = bin_of_free(h, c);
    }
    return chunk;
}

/* Chunks from `start` on: to the top, to a fence of size 0, or to `end`. */
static void walk_stretch(walker *w, const pt_arena *a, uint64_t start, uint64_t end)
{
    const pt *h = w->h;
    pa_unit c = pa_shadow_unit(&h->sh, start);
    while (address_of(h, c) + h->unit < end && c != a->top) {
        pa_chunk chunk = look_at(h, a->index, c, end);
        emit(w, chunk);
        if (!chunk.size)
            return;
        c += (pa_unit)(chunk.size >> h->unit_shift);
    }
    if (c == a->top)
        emit(w, chunk_at(h, a->index, c, PA_CHUNK_TOP));
}

static void walk_main(walker *w)
{
    const pt *h = w->h;
    const pt_arena *a = &h->arenas[0];
    uint64_t top_end = a->top ? address_of(h, a->top) + bytes_of(h, size_of(h, a->top)) : 0;
    for (uint32_t i = 0; i < h->count_stretches; i++) {
        const pt_stretch *s = &h->stretches[i];
        walk_stretch(w, a, s->start, s->end ? s->end : top_end);
    }
}

static void walk_heaps(walker *w)
{
    const pt *h = w->h;
    for (uint32_t i = 0; i < h->count_subheaps; i++) {
        const pt_subheap *s = &h->subheaps[i];
        uint64_t skip = s->previous ? h->pf->heap_info : pt_first_top(h);
        walk_stretch(w, &h->arenas[s->arena], s->base + skip, s->base + s->size);
    }
}

static void walk_mapped(walker *w)
{
    const pt *h = w->h;
    for (uint32_t i = 0; i < h->count_mapped; i++)
        if (h->mapped[i].used)
            emit(w, (pa_chunk){.address = pt_mapped_mem(h, &h->mapped[i]),
                               .size = h->mapped[i].total - h->mapped[i].front,
                               .thread = PA_NO_THREAD,
                               .state = PA_CHUNK_MAPPED,
                               .flags = 2});
}

static int by_address(const void *a, const void *b)
{
    uint64_t x = ((const pa_chunk *)a)->address, y = ((const pa_chunk *)b)->address;
    return (x > y) - (x < y);
}

/* The main heap comes first, already in order, and is most of it: only the rest is sorted. */
static void sort(pa_chunk *out, uint64_t count)
{
    uint64_t ordered = count ? 1 : 0;
    while (ordered < count && out[ordered - 1].address < out[ordered].address)
        ordered++;
    qsort(out + ordered, count - ordered, sizeof *out, by_address);
    if (ordered && ordered < count && out[ordered].address < out[ordered - 1].address)
        qsort(out, count, sizeof *out, by_address);
}

static pa_chunk *find(const walker *w, uint64_t mem)
{
    uint64_t low = 0, high = w->count;
    while (low < high) {
        uint64_t mid = (low + high) / 2;
        if (w->out[mid].address < mem)
            low = mid + 1;
        else
            high = mid;
    }
    return low < w->count && w->out[low].address == mem ? &w->out[low] : NULL;
}

/* ---- list by list -------------------------------------------------------------------------------- */

typedef struct list {
    uint32_t arena, thread;
    uint16_t state, bin;
    uint64_t most; /* members, so that a damaged list that runs in a ring ends */
} list;

static void emit_member(walker *w, const list *l, pa_unit c)
{
    pa_chunk chunk = chunk_at(w->h, l->arena, c, l->state);
    chunk.thread = l->thread;
    chunk.bin = l->bin;
    emit(w, chunk);
}

/* From c on, to `end`. */
static void walk_list(walker *w, list l, pa_unit c, pa_unit end)
{
    uint64_t left = l.most < PATIENCE ? l.most : PATIENCE;
    for (; c != end && left; c = at(w->h, c)->fd, left--)
        emit_member(w, &l, c);
}

static void list_fast(walker *w, const pt_arena *a)
{
    for (uint16_t i = 0; i < FASTBINS; i++)
        walk_list(w, (list){a->index, PA_NO_THREAD, PA_CHUNK_FAST, i, a->count_fast}, a->fast[i],
                  0);
}

static void list_bins(walker *w, const pt_arena *a)
{
    const pt *h = w->h;
    uint32_t first_large = pt_bin_index(h, h->pf->large_border >> h->unit_shift);
    for (uint16_t i = UNSORTED; i < BINS; i++) {
        uint32_t kind = i == UNSORTED ? 0 : i < first_large ? 1 : 2;
        uint16_t state = (uint16_t)(PA_CHUNK_UNSORTED + kind);
        pa_unit head = a->bins + i;
        walk_list(w, (list){a->index, PA_NO_THREAD, state, i, a->count_in[kind]}, at(h, head)->fd,
                  head);
    }
}

static void list_tcache(walker *w, uint32_t thread)
{
    const pt *h = w->h;
    const pt_tcache *tc = &h->threads[thread].tcache;
    for (uint16_t i = 0; tc->alive && i < TCACHE_BINS; i++) {
        list l = {0, thread, PA_CHUNK_TCACHE, i, tc->count[i]};
        pa_unit c = tc->entry[i];
        for (uint64_t left = l.most; c && left; c = at(h, c)->fd, left--) {
            l.arena = pt_arena_of(h, c)->index;
            emit_member(w, &l, c);
        }
    }
}

static void list_all(walker *w)
{
    const pt *h = w->h;
    const pt_arena *a = &h->arenas[0];
    for (uint32_t i = 0; i < h->count_arenas; i++, a = &h->arenas[a->next]) {
        list_fast(w, a);
        list_bins(w, a);
    }
    for (uint32_t i = 0; i < h->count_threads; i++)
        list_tcache(w, i);
}

uint64_t pt_list(const pa_heap *heap, pa_chunk *out, uint64_t room)
{
    walker w = {(const pt *)heap, out, room, 0};
    list_all(&w);
    return w.count;
}

/* ---- both ---------------------------------------------------------------------------------------- */

/* What a header does not say: which chunks caches hold, and which are the caches. */
static void mark(walker *w, uint64_t mem, uint16_t state, uint32_t thread, uint16_t bin)
{
    pa_chunk *chunk = find(w, mem);
    if (!chunk)
        return;
    chunk->state = state;
    chunk->thread = thread;
    chunk->bin = bin;
}

static void mark_fast(walker *w, const pt_arena *a)
{
    uint64_t left = a->count_fast < PATIENCE ? a->count_fast : PATIENCE;
    for (uint16_t i = 0; i < FASTBINS; i++)
        for (pa_unit c = a->fast[i]; c && left; c = at(w->h, c)->fd, left--)
            mark(w, mem_of(w->h, c), PA_CHUNK_FAST, PA_NO_THREAD, i);
}

static void mark_tcache(walker *w, uint32_t thread)
{
    const pt *h = w->h;
    const pt_tcache *tc = &h->threads[thread].tcache;
    if (!tc->alive)
        return;
    bool mapped = tc->home >= MAPPED_REF;
    mark(w, mapped ? pt_mapped_mem(h, mapped_ref(h, tc->home)) : mem_of(h, tc->home), PA_CHUNK_OWN,
         thread, 0);
    for (uint16_t i = 0; i < TCACHE_BINS; i++) {
        uint32_t left = tc->count[i];
        for (pa_unit c = tc->entry[i]; c && left; c = at(h, c)->fd, left--)
            mark(w, mem_of(h, c), PA_CHUNK_TCACHE, thread, i);
    }
}

uint64_t pt_walk(const pa_heap *heap, pa_chunk *out, uint64_t room)
{
    const pt *h = (const pt *)heap;
    walker w = {h, out, room, 0};
    walk_main(&w);
    walk_heaps(&w);
    walk_mapped(&w);
    if (w.count > room)
        return w.count;
    sort(out, w.count);
    for (uint32_t i = 0; i < h->count_arenas; i++)
        mark_fast(&w, &h->arenas[i]);
    for (uint32_t i = 0; i < h->count_threads; i++)
        mark_tcache(&w, i);
    return w.count;
}
