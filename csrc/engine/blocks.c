/* SPDX-License-Identifier: MIT
 *
 * blocks.c -- making the table of blocks, and the blocks that do not fit in it.
 */
#include "blocks.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

enum { PAGE_BYTES = 4096, HUGE_BYTES = 2 << 20 };

/* One more than the highest block number; UINT32_MAX counts as none. */
static size_t count_named(const uint32_t *numbers, size_t count)
{
    uint32_t most = 0;
    for (size_t i = 0; i < count; i++) {
        uint32_t past = numbers[i] + 1;
        most = past > most ? past : most;
    }
    return most;
}

/* All of it will be used: have it now, in large pages as far as they are full. */
static void fault_in(char *at, size_t bytes)
{
    size_t whole = bytes & ~(size_t)(HUGE_BYTES - 1);
    if (whole)
        madvise(at, whole, MADV_HUGEPAGE);
    madvise(at, (bytes + PAGE_BYTES - 1) & ~(size_t)(PAGE_BYTES - 1), MADV_POPULATE_WRITE);
}

bool blocks_init(pa_blocks *blocks, const uint32_t *numbers, size_t count, uint64_t from,
                 uint32_t shift)
{
    memset(blocks, 0, sizeof *blocks);
    blocks->count = count_named(numbers, count);
    while (blocks->mask < blocks->count)
        blocks->mask = blocks->mask << 1 | 1;
    blocks->from = from;
    blocks->shift = shift;
    size_t bytes = ((size_t)blocks->mask + 1) * sizeof *blocks->at;
    void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED)
        return false;
    if (blocks->count <= count)
        fault_in(at, blocks->count * sizeof *blocks->at);
    blocks->at = at;
    blocks->mapped_bytes = bytes;
    return true;
}

void blocks_drop(pa_blocks *blocks)
{
    if (blocks->at)
        munmap(blocks->at, blocks->mapped_bytes);
    free(blocks->far);
}

/* ---- the second table ------------------------------------------------------------------------- */

static bool grow_far(pa_blocks *blocks)
{
    uint32_t room = blocks->room_far ? blocks->room_far * 2 : 64;
    pa_far_block *more = realloc(blocks->far, room * sizeof *more);
    if (!more)
        return false;
    blocks->far = more;
    blocks->room_far = room;
    return true;
}

/* A slot of the second table, as `place`; 0: no memory. */
static uint32_t take_far(pa_blocks *blocks)
{
    uint32_t slot = blocks->free_far;
    if (slot) {
        blocks->free_far = (uint32_t)blocks->far[slot ^ BLOCK_FAR].address;
        return slot;
    }
    if (blocks->count_far == blocks->room_far && !grow_far(blocks))
        return 0;
    return blocks->count_far++ | BLOCK_FAR;
}

void blocks_clear(pa_blocks *blocks, pa_block *b)
{
    if (block_is_far(b)) {
        block_in_far(blocks, b)->address = blocks->free_far;
        blocks->free_far = b->place & ~BLOCK_DEAD;
    }
    *b = (pa_block){0, 0};
}

bool blocks_put(pa_blocks *blocks, pa_block *b, uint64_t address, uint64_t size)
{
    if (block_fits(blocks, address, size)) {
        blocks_clear(blocks, b);
        uint64_t place = (address - blocks->from) >> blocks->shift;
        *b = (pa_block){(uint32_t)place, (uint32_t)size};
        return true;
    }
    uint32_t place = block_is_far(b) ? b->place & ~BLOCK_DEAD : take_far(blocks);
    if (!place)
        return false;
    *b = (pa_block){place, 0};
    *block_in_far(blocks, b) = (pa_far_block){address, size};
    return true;
}
