/* SPDX-License-Identifier: MIT
 *
 * pt_mapped.c -- mmapped chunks: one mapping each, found by the user's address.
 *
 *     base          base + front                     base + total
 *     | front bytes | prev_size | size | user memory ...... |
 *
 *     mapped == sum of total over the chunks in use; n_mmaps == how many there are
 */
#include "pt.h"

#include <stdlib.h>
#include <string.h>

static uint64_t page_up(uint64_t bytes)
{
    return (bytes + PAGE_BYTES - 1) & ~(uint64_t)(PAGE_BYTES - 1);
}

static uint64_t first_front(const pt *h)
{
    return h->pf->align > 2 * h->pf->word ? h->pf->align - 2 * h->pf->word : 0;
}

/* Bytes to map for a chunk of nb units; smaller than the chunk if that overflows. */
uint64_t pt_mapped_total(const pt *h, uint64_t nb)
{
    uint64_t bytes = bytes_of(h, nb), extra;
    if (h->pf->version >= 243)
        extra = 16;
    else if (h->pf->version < 206 || first_front(h))
        extra = h->pf->word + h->pf->align - 1;
    else
        extra = h->pf->word;
    uint64_t total = page_up(bytes + extra);
    return h->pf->word == 8 ? total : total & UINT32_MAX;
}

uint64_t pt_mapped_mem(const pt *h, const pt_mapped *m)
{
    return m->base + m->front + 2 * h->pf->word;
}

static uint32_t hash_of(const pt *h, uint64_t mem)
{
    return (uint32_t)((mem >> 3) * 0x9E3779B97F4A7C15u >> 32) & h->mapped_mask;
}

static void index_insert(pt *h, uint32_t slot)
{
    uint32_t i = hash_of(h, pt_mapped_mem(h, &h->mapped[slot]));
    while (h->mapped_index[i])
        i = (i + 1) & h->mapped_mask;
    h->mapped_index[i] = slot + 1;
}

/* Grow the table and its index together; the index is at most half full. */
static bool grow(pt *h)
{
    uint32_t room = h->room_mapped ? h->room_mapped * 2 : 64;
    pt_mapped *more = realloc(h->mapped, room * sizeof *more);
    if (more)
        h->mapped = more;
    uint32_t *index = calloc((size_t)room * 2, sizeof *index);
    if (!more || !index) {
        free(index);
        h->base.error = PA_ERR_HOST_NOMEM;
        return false;
    }
    memset(more + h->room_mapped, 0, (room - h->room_mapped) * sizeof *more);
    free(h->mapped_index);
    h->mapped_index = index;
    h->mapped_mask = room * 2 - 1;
    h->room_mapped = room;
    for (uint32_t i = 0; i < h->count_mapped; i++)
        if (h->mapped[i].used)
            index_insert(h, i);
    return true;
}

static uint32_t index_find(const pt *h, uint64_t mem)
{
    if (!h->mapped_index)
        return UINT32_MAX;
    for (uint32_t i = hash_of(h, mem); h->mapped_index[i]; i = (i + 1) & h->mapped_mask)
        if (pt_mapped_mem(h, &h->mapped[h->mapped_index[i] - 1]) == mem)
            return i;
    return UINT32_MAX;
}

/* Deleting from open addressing: pull later entries of the same run back. */
static void index_remove(pt *h, uint64_t mem)
{
    uint32_t hole = index_find(h, mem);
    assert(hole != UINT32_MAX && "a chunk in use is in the index");
    for (uint32_t i = (hole + 1) & h->mapped_mask; h->mapped_index[i];
         i = (i + 1) & h->mapped_mask) {
        uint32_t home = hash_of(h, pt_mapped_mem(h, &h->mapped[h->mapped_index[i] - 1]));
        if (((i - home) & h->mapped_mask) >= ((i - hole) & h->mapped_mask)) {
            h->mapped_index[hole] = h->mapped_index[i];
            hole = i;
        }
    }
    h->mapped_index[hole] = 0;
}

pt_mapped *pt_mapped_at(const pt *h, uint64_t mem)
{
    uint32_t i = index_find(h, mem);
    return i == UINT32_MAX ? NULL : &h->mapped[h->mapped_index[i] - 1];
}

static uint32_t free_slot(pt *h)
{
    if (h->free_mapped) {
        uint32_t slot = h->free_mapped - 1;
        h->free_mapped = (uint32_t)h->mapped[slot].base;
        return slot;
    }
    if (h->count_mapped == h->room_mapped && !grow(h))
        return UINT32_MAX;
    return h->count_mapped++;
}

/* The library's own count, what it counts too much included. */
static void note_peak(pt *h)
{
    uint64_t counted = h->mp.mmapped + h->mp.mmapped_drift;
    if (counted > h->mp.max_mmapped)
        h->mp.max_mmapped = counted;
}

static void count_in(pt *h, uint64_t total)
{
    h->mp.n_mmaps++;
    h->mp.mmapped += total;
    if (h->mp.n_mmaps > h->mp.max_n_mmaps)
        h->mp.max_n_mmaps = h->mp.n_mmaps;
    note_peak(h);
}

/* Take in a new mapping; its header touches one page. */
pa_unit pt_add_mapped(pt *h, uint64_t base, uint64_t total)
{
    uint32_t slot = free_slot(h);
    if (slot == UINT32_MAX)
        return 0;
    h->mapped[slot] = (pt_mapped){base, total, first_front(h), true};
    index_insert(h, slot);
    count_in(h, total);
    h->base.count_mmap_calls++;
    heap_touch(&h->base, base);
    return MAPPED_REF + slot;
}

/* The mapping has moved, grown, or its user memory begins elsewhere (memalign). */
void pt_move_mapped(pt *h, pt_mapped *m, uint64_t base, uint64_t total, uint64_t front)
{
    index_remove(h, pt_mapped_mem(h, m));
    h->mp.mmapped += total - m->total;
    note_peak(h);
    *m = (pt_mapped){base, total, front, true};
    index_insert(h, (uint32_t)(m - h->mapped));
    heap_touch(&h->base, base + front);
}

static uint64_t size_field(const pt *h, const pt_mapped *m)
{
    uint64_t size = m->total - m->front;
    return h->pf->version >= 243 ? size - 16 + first_front(h) : size;
}

/* munmap_chunk(), with the threshold that follows the largest block freed. */
void pt_free_mapped(pt *h, pt_mapped *m)
{
    uint64_t size = size_field(h, m);
    pt_params *mp = &h->mp;
    if (h->pf->dynamic_threshold && !mp->no_dynamic && (size | 2) > mp->mmap_threshold &&
        (size | 2) <= mp->mmap_threshold_max) {
        mp->mmap_threshold = size;
        mp->trim_threshold = 2 * size;
        h->count_threshold_moves++;
    }
    mp->n_mmaps--;
    mp->mmapped -= m->total;
    heap_log(&h->base, EFFECT_UNMAP, m->base, m->total);
    index_remove(h, pt_mapped_mem(h, m));
    m->used = false;
    m->base = h->free_mapped;
    h->free_mapped = (uint32_t)(m - h->mapped) + 1;
}
