/* SPDX-License-Identifier: MIT
 *
 * test_bitmap.c -- against an array of booleans, and at a terabyte.
 */
#include "bitmap.h"

#include "check.h"

#include <string.h>

enum { PLACES = 5000, STEPS = 20000 };

static uint64_t naive_lowest(const bool *taken, uint64_t from)
{
    while (from < PLACES && taken[from])
        from++;
    return from < PLACES ? from : BITMAP_NONE;
}

static void take_some(pa_bitmap *map, bool *taken, uint64_t *seed)
{
    uint64_t first, want = next_random(seed) % 200 + 1, lowest = naive_lowest(taken, 0);
    uint64_t got = bitmap_take(map, want, &first), run = 0;
    if (lowest == BITMAP_NONE) {
        CHECK(!got);
        return;
    }
    while (run < want && lowest + run < PLACES && !taken[lowest + run])
        run++;
    CHECK(first == lowest && got == run);
    memset(taken + first, true, got);
}

static void give_some(pa_bitmap *map, bool *taken, uint64_t *seed)
{
    uint64_t first = next_random(seed) % PLACES, count = 0;
    while (count < 150 && first + count < PLACES && taken[first + count])
        count++;
    bitmap_clear(map, first, count);
    memset(taken + first, false, count);
}

static void against_booleans(void)
{
    static bool taken[PLACES];
    pa_bitmap map, copy;
    uint64_t seed = 1;
    CHECK(bitmap_init(&map, PLACES));
    for (int i = 0; i < STEPS; i++) {
        if (next_random(&seed) % 3 == 0)
            take_some(&map, taken, &seed);
        else
            give_some(&map, taken, &seed);
        uint64_t from = next_random(&seed) % PLACES;
        CHECK(bitmap_next_free(&map, from) == naive_lowest(taken, from));
    }
    CHECK(bitmap_check(&map) && bitmap_copy(&copy, &map) && bitmap_check(&copy));
    CHECK(copy.count_free == map.count_free);
    map.level[0][0] ^= 1; /* the check notices damage */
    CHECK(!bitmap_check(&map));
    bitmap_drop(&map);
    bitmap_drop(&copy);
}

static void a_terabyte(void)
{
    pa_bitmap map;
    uint64_t first;
    CHECK(bitmap_init(&map, UINT64_C(1) << 28));
    CHECK(bitmap_take(&map, 1 << 20, &first) == 1 << 20 && first == 0);
    CHECK(bitmap_next_free(&map, 0) == 1 << 20);
    bitmap_clear(&map, 77, 1);
    CHECK(bitmap_take(&map, 9, &first) == 1 && first == 77);
    bitmap_drop(&map);
}

int main(void)
{
    pa_bitmap none;
    uint64_t first;
    CHECK(bitmap_init(&none, 0) && !bitmap_take(&none, 1, &first));
    bitmap_drop(&none);
    against_booleans();
    a_terabyte();
    return 0;
}
