/* SPDX-License-Identifier: MIT
 *
 * fit.h -- the blocks of sequential fit: one free list in address order, in the shadow.
 *
 * A block in the shadow (shadow.h), a word to a uint32; boundary tags overlap as in ptmalloc:
 *
 *     unit c     | prev_size | size << 3 | P |    P: the block below is in use
 *     unit c + 1 | next      | previous  |        links, in free blocks only
 *
 * prev_size is meaningful only while P is clear.  Which units are pointers in use is a bitmap, so
 * a wild or double free is noticed always.
 *
 *     free units + units in use + fences + top == end - first      (checked by fit_check)
 *     no two free blocks are neighbours; the list ascends; top's lower neighbour is in use
 */
#ifndef PA_FIT_H
#define PA_FIT_H

#include "heap.h"
#include "shadow.h"

enum {
    P_INUSE = 1,
    MIN_UNITS = 2,
    LIST = 1, /* unit of the list's head, below every heap */
};

#define NO_FIT ((pa_unit)0)

enum { FIRST_FIT, BEST_FIT, NEXT_FIT, WORST_FIT, POLICIES };

typedef struct seqfit {
    pa_heap base; /* first: the seam casts */
    pa_shadow sh;
    pa_unit first, top, end, rover; /* units; top == 0: no memory yet                  */
    uint32_t policy, unit, word;    /* unit and word in bytes                          */
    uint64_t top_pad;               /* bytes                                           */
    uint64_t *used;                 /* bit u - first: unit u begins a block in use     */
    size_t count_words;             /* of used                                         */
    uint64_t bytes_peak;
    pa_call waiting; /* the call that asked for more break */
} seqfit;

typedef struct block {
    uint32_t prev_size, size, next, previous;
} block;

static inline block *at(const seqfit *h, pa_unit c)
{
    return (block *)(void *)(h->sh.words + 2 * (size_t)c);
}

static inline uint32_t size_of(const seqfit *h, pa_unit c)
{
    return at(h, c)->size >> 3;
}

static inline bool below_in_use(const seqfit *h, pa_unit c)
{
    return at(h, c)->size & P_INUSE;
}

static inline uint64_t mem_of(const seqfit *h, pa_unit c)
{
    return pa_shadow_address(&h->sh, c) + h->unit;
}

static inline void touch(seqfit *h, pa_unit c)
{
    if (h->base.mm)
        heap_touch(&h->base, pa_shadow_address(&h->sh, c));
}

static inline void set_size(seqfit *h, pa_unit c, uint64_t units, bool below_used)
{
    at(h, c)->size = (uint32_t)(units << 3 | below_used);
    pa_shadow_note(&h->sh, c);
    touch(h, c);
}

static inline pa_unit unit_at(const seqfit *h, uint64_t address)
{
    return (pa_unit)((address - h->sh.origin) / h->unit);
}

static inline uint64_t end_address(const seqfit *h)
{
    return h->end ? pa_shadow_address(&h->sh, h->end) : h->base.brk_start;
}

static inline bool is_used(const seqfit *h, pa_unit c)
{
    uint64_t i = c - h->first;
    return c >= h->first && i >> 6 < h->count_words && h->used[i >> 6] >> (i & 63) & 1;
}

/* ---- the blocks (fit.c) ----------------------------------------------------------------------- */

void fit_mark_used(seqfit *h, pa_unit c, bool used);
/* The bitmap reaches up to `end`; false: no memory on the host. */
bool fit_room_for_marks(seqfit *h, pa_unit end);
/* A block of nb units, or NO_FIT. */
pa_unit fit_allocate(seqfit *h, uint64_t nb);
/* Give the low nb units of the free block c. */
pa_unit fit_carve(seqfit *h, pa_unit c, uint64_t nb);
/* [c, c + units) becomes free and merges with what is free beside it. */
void fit_release(seqfit *h, pa_unit c, uint64_t units);
void fit_free(seqfit *h, pa_unit c);
/* Keep the low nb units of the block c, which is in use. */
void fit_shrink(seqfit *h, pa_unit c, uint64_t nb);

/* ---- looking at them (fit_look.c) ------------------------------------------------------------- */

void fit_statistics(const pa_heap *heap, pa_heap_statistics *out);
uint64_t fit_walk(const pa_heap *heap, pa_chunk *out, uint64_t room);
pa_status fit_check(const pa_heap *heap);

#endif
