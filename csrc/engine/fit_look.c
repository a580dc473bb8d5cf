/* SPDX-License-Identifier: MIT
 *
 * fit_look.c -- looking at the blocks of sequential fit: sums, a walk, and the invariants.
 */
#include "fit.h"

void fit_statistics(const pa_heap *heap, pa_heap_statistics *out)
{
    const seqfit *h = (const seqfit *)(const void *)heap;
    out->bytes_header = h->word;
    out->bytes_header_mapped = 2 * (uint64_t)h->word;
    if (!h->top)
        return;
    out->bytes_own = pa_shadow_address(&h->sh, h->first) - heap->brk_start;
    out->bytes_top = out->bytes_largest_hole = (uint64_t)size_of(h, h->top) * h->unit;
    for (pa_unit c = at(h, LIST)->next; c != LIST; c = at(h, c)->next) {
        uint64_t bytes = (uint64_t)size_of(h, c) * h->unit;
        out->bytes_large += bytes;
        out->count_large++;
        if (bytes > out->bytes_largest_hole)
            out->bytes_largest_hole = bytes;
    }
    out->bytes_system = end_address(h) - heap->brk_start;
    out->bytes_system_peak = h->bytes_peak;
    out->count_arenas = 1;
}

static uint32_t state_of(const seqfit *h, pa_unit c)
{
    if (c == h->top)
        return PA_CHUNK_TOP;
    if (is_used(h, c))
        return PA_CHUNK_USED;
    return below_in_use(h, c + size_of(h, c)) ? PA_CHUNK_FENCE : PA_CHUNK_LARGE;
}

uint64_t fit_walk(const pa_heap *heap, pa_chunk *out, uint64_t room)
{
    const seqfit *h = (const seqfit *)(const void *)heap;
    uint64_t count = 0;
    for (pa_unit c = h->first; c < h->end; c += size_of(h, c), count++) {
        if (count < room)
            out[count] = (pa_chunk){.address = mem_of(h, c),
                                    .size = (uint64_t)size_of(h, c) * h->unit,
                                    .thread = PA_NO_THREAD,
                                    .state = (uint16_t)state_of(h, c)};
    }
    return count;
}

/* The list holds exactly the free blocks, in address order, and tags agree with blocks. */
pa_status fit_check(const pa_heap *heap)
{
    const seqfit *h = (const seqfit *)(const void *)heap;
    pa_unit member = at(h, LIST)->next, previous = LIST;
    bool below_used = true, rover_seen = h->rover == LIST;
    for (pa_unit c = h->first; h->top && c < h->end; c += size_of(h, c)) {
        if (!size_of(h, c) || below_in_use(h, c) != below_used)
            return PA_ERR_CORRUPT;
        bool is_free = state_of(h, c) == PA_CHUNK_LARGE;
        if (is_free && (c != member || at(h, c)->previous != previous || !below_used ||
                        at(h, c + size_of(h, c))->prev_size != size_of(h, c)))
            return PA_ERR_CORRUPT;
        if (is_free) {
            rover_seen |= h->rover == c;
            previous = c;
            member = at(h, c)->next;
        }
        below_used = !is_free;
        if (c == h->top && c + size_of(h, c) != h->end)
            return PA_ERR_CORRUPT;
    }
    return member == LIST && rover_seen ? PA_OK : PA_ERR_CORRUPT;
}
