/* SPDX-License-Identifier: MIT
 *
 * bitmap.c -- bits with summaries.  Bits past the end of a level are set: nobody takes them.
 */
#include "bitmap.h"

#include <stdlib.h>
#include <string.h>

static uint64_t mask_of(unsigned bit, uint64_t count)
{
    return (count >= 64 ? UINT64_MAX : (UINT64_C(1) << count) - 1) << bit;
}

static bool add_level(pa_bitmap *map, uint64_t bits)
{
    uint64_t words = (bits + 63) / 64;
    uint64_t *level = calloc(words, sizeof *level);
    if (!level)
        return false;
    if (bits % 64)
        level[words - 1] = ~mask_of(0, bits % 64);
    map->level[map->levels] = level;
    map->words[map->levels++] = words;
    return true;
}

bool bitmap_init(pa_bitmap *map, uint64_t count)
{
    *map = (pa_bitmap){.count = count, .count_free = count};
    uint64_t bits = count ? count : 1;
    do {
        if (!add_level(map, bits)) {
            bitmap_drop(map);
            return false;
        }
        bits = map->words[map->levels - 1];
    } while (bits > 1);
    if (!count)
        map->level[0][0] = UINT64_MAX;
    return true;
}

void bitmap_drop(pa_bitmap *map)
{
    for (unsigned k = 0; k < map->levels; k++)
        free(map->level[k]);
    *map = (pa_bitmap){0};
}

bool bitmap_copy(pa_bitmap *to, const pa_bitmap *from)
{
    if (!bitmap_init(to, from->count))
        return false;
    uint64_t bits = from->high; /* everything above is as it was made */
    for (unsigned k = 0; k < from->levels; k++) {
        uint64_t words = (bits + 63) / 64;
        memcpy(to->level[k], from->level[k], words * sizeof(uint64_t));
        bits = words;
    }
    to->count_free = from->count_free;
    to->high = from->high;
    return true;
}

/* ---- words and their summaries ---------------------------------------------------------------- */

static void became_full(pa_bitmap *map, uint64_t word)
{
    for (unsigned k = 1; k < map->levels; k++) {
        uint64_t *above = &map->level[k][word >> 6];
        *above |= UINT64_C(1) << (word & 63);
        if (*above != UINT64_MAX)
            return;
        word >>= 6;
    }
}

static void became_free(pa_bitmap *map, uint64_t word)
{
    for (unsigned k = 1; k < map->levels; k++) {
        uint64_t *above = &map->level[k][word >> 6], had = *above;
        *above &= ~(UINT64_C(1) << (word & 63));
        if (had != UINT64_MAX)
            return;
        word >>= 6;
    }
}

static void set_in_word(pa_bitmap *map, uint64_t word, uint64_t mask)
{
    map->level[0][word] |= mask;
    if (map->level[0][word] == UINT64_MAX)
        became_full(map, word);
}

static void clear_in_word(pa_bitmap *map, uint64_t word, uint64_t mask)
{
    uint64_t had = map->level[0][word];
    map->level[0][word] = had & ~mask;
    if (had == UINT64_MAX)
        became_free(map, word);
}

static void each_word(pa_bitmap *map, uint64_t first, uint64_t count,
                      void (*change)(pa_bitmap *, uint64_t, uint64_t))
{
    if (count == 1) {
        change(map, first >> 6, UINT64_C(1) << (first & 63));
        return;
    }
    while (count) {
        unsigned bit = (unsigned)(first & 63);
        uint64_t here = count < 64 - bit ? count : 64 - bit;
        change(map, first >> 6, mask_of(bit, here));
        first += here;
        count -= here;
    }
}

void bitmap_set(pa_bitmap *map, uint64_t first, uint64_t count)
{
    each_word(map, first, count, set_in_word);
    map->count_free -= count;
    if (first + count > map->high)
        map->high = first + count;
}

void bitmap_clear(pa_bitmap *map, uint64_t first, uint64_t count)
{
    each_word(map, first, count, clear_in_word);
    map->count_free += count;
}

/* ---- looking ---------------------------------------------------------------------------------- */

/* Down from level k, word w: the lowest free place below it. */
static uint64_t descend(const pa_bitmap *map, unsigned k, uint64_t word)
{
    for (;; k--) {
        uint64_t bit = (uint64_t)__builtin_ctzll(~map->level[k][word]);
        word = word * 64 + bit;
        if (!k)
            return word;
    }
}

uint64_t bitmap_next_free(const pa_bitmap *map, uint64_t from)
{
    if (from >= map->count)
        return BITMAP_NONE;
    for (unsigned k = 0; k < map->levels; k++) {
        uint64_t word = from >> 6;
        if (word < map->words[k]) {
            uint64_t open = ~map->level[k][word] & (UINT64_MAX << (from & 63));
            if (open) {
                uint64_t place = word * 64 + (uint64_t)__builtin_ctzll(open);
                return k ? descend(map, k - 1, place) : place;
            }
        }
        from = word + 1;
    }
    return BITMAP_NONE;
}

uint64_t bitmap_free_run(const pa_bitmap *map, uint64_t first, uint64_t want)
{
    uint64_t got = 0;
    while (got < want) {
        uint64_t at = first + got, bit = at & 63;
        if (at >= map->count)
            break;
        uint64_t taken = map->level[0][at >> 6] >> bit;
        uint64_t open = taken ? (uint64_t)__builtin_ctzll(taken) : 64 - bit;
        got += open;
        if (taken)
            break;
    }
    return got < want ? got : want;
}

uint64_t bitmap_take(pa_bitmap *map, uint64_t want, uint64_t *first)
{
    if (!map->count_free || !want)
        return 0;
    *first = descend(map, map->levels - 1, 0);
    uint64_t got = bitmap_free_run(map, *first, want);
    bitmap_set(map, *first, got);
    return got;
}

bool bitmap_check(const pa_bitmap *map)
{
    uint64_t taken = 0;
    for (uint64_t i = 0; i < map->count; i++)
        taken += bitmap_is_taken(map, i);
    bool fine = taken + map->count_free == map->count;
    for (unsigned k = 1; k < map->levels; k++) {
        for (uint64_t i = 0; i < map->words[k - 1]; i++) {
            bool full = map->level[k - 1][i] == UINT64_MAX;
            fine &= (map->level[k][i >> 6] >> (i & 63) & 1) == full;
        }
    }
    return fine;
}
