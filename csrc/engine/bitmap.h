/* SPDX-License-Identifier: MIT
 *
 * bitmap.h -- which of n numbered places (frames, swap slots) are taken.
 *
 * Workload: take the lowest free place or run of places, give runs back; a terabyte has 2^28 frames
 * of which a simulation uses a few.  So a set bit means taken: the zeroed, never touched memory of
 * a huge bitmap says "free".  Above the bits stand summary levels, one bit a word below, set when
 * that word is full; the lowest free place is one look a level, whatever the size.
 *
 *     level[k+1] bit i is set  <=>  level[k] word i is all ones
 *     count_free + number of set bits in level[0], below count == count
 */
#ifndef PA_BITMAP_H
#define PA_BITMAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { BITMAP_LEVELS = 6 };
#define BITMAP_NONE UINT64_MAX

typedef struct pa_bitmap {
    uint64_t *level[BITMAP_LEVELS];
    uint64_t words[BITMAP_LEVELS];
    uint64_t count;      /* places                              */
    uint64_t count_free; /* places not taken                    */
    uint64_t high;       /* no place at or above it was taken   */
    unsigned levels;
} pa_bitmap;

/* All places free.  False: no memory on the host. */
bool bitmap_init(pa_bitmap *map, uint64_t count);
void bitmap_drop(pa_bitmap *map);
bool bitmap_copy(pa_bitmap *to, const pa_bitmap *from);

/* Take the lowest free place and up to want - 1 free ones right after it; returns how many (0:
 * none is free), the first in *first. */
uint64_t bitmap_take(pa_bitmap *map, uint64_t want, uint64_t *first);
/* The lowest free place at or after `from`, or BITMAP_NONE. */
uint64_t bitmap_next_free(const pa_bitmap *map, uint64_t from);
/* How many of the `want` places from `first` on are free without a break. */
uint64_t bitmap_free_run(const pa_bitmap *map, uint64_t first, uint64_t want);
/* Take `count` places, all free, or give `count` places back, all taken. */
void bitmap_set(pa_bitmap *map, uint64_t first, uint64_t count);
void bitmap_clear(pa_bitmap *map, uint64_t first, uint64_t count);
bool bitmap_check(const pa_bitmap *map);

static inline bool bitmap_is_taken(const pa_bitmap *map, uint64_t i)
{
    return map->level[0][i >> 6] >> (i & 63) & 1;
}

#endif
