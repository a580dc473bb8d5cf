/* SPDX-License-Identifier: MIT
 *
 * test_blocks.c -- a table of blocks gives back what was put in, near or far, as often as it changes.
 */
#include "blocks.h"

#include "check.h"

#include <string.h>

enum { BLOCKS = 64, STEPS = 20000, FROM = 0x10000, SHIFT = 4 };

typedef struct model {
    uint64_t address, size;
    bool live;
} model;

/* Addresses that fit and that do not: below, above, between two places; sizes, too. */
static uint64_t any_address(uint64_t *seed)
{
    static const uint64_t bases[] = {FROM + 16, FROM + 24, 16, UINT64_C(1) << 46};
    return bases[next_random(seed) % 4] + 16 * (uint64_t)(next_random(seed) % 100000);
}

static uint64_t any_size(uint64_t *seed)
{
    static const uint64_t bases[] = {0, 1, UINT32_MAX, UINT64_C(1) << 40};
    return bases[next_random(seed) % 4] + next_random(seed) % 2;
}

static void step(pa_blocks *blocks, model *models, uint64_t *seed)
{
    uint32_t i = next_random(seed) % BLOCKS;
    pa_block *b = &blocks->at[i];
    switch (next_random(seed) % 4) {
    case 0:
        b->place |= block_is_live(b) ? BLOCK_DEAD : 0;
        models[i].live = false;
        break;
    case 1:
        blocks_clear(blocks, b);
        models[i] = (model){0};
        break;
    default:
        models[i] = (model){any_address(seed), any_size(seed), true};
        CHECK(blocks_put(blocks, b, models[i].address, models[i].size));
    }
}

int main(void)
{
    uint32_t numbers[] = {3, UINT32_MAX, BLOCKS - 1, 7};
    model models[BLOCKS] = {0};
    uint64_t seed = 3;
    pa_blocks blocks;
    CHECK(blocks_init(&blocks, numbers, 4, FROM, SHIFT) && blocks.count == BLOCKS);
    for (uint32_t n = 0; n < STEPS; n++) {
        step(&blocks, models, &seed);
        for (uint32_t i = 0; i < BLOCKS; i++) {
            const pa_block *b = &blocks.at[i];
            CHECK(block_address(&blocks, b) == models[i].address);
            CHECK(block_is_live(b) == models[i].live);
            CHECK(!models[i].live || block_size(&blocks, b) == models[i].size);
        }
    }
    CHECK(blocks.count_far <= BLOCKS); /* slots are used again */
    blocks_drop(&blocks);
    return 0;
}
