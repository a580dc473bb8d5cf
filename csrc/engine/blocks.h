/* SPDX-License-Identifier: MIT
 *
 * blocks.h -- the blocks of a trace: where each is, or was last, and how large.
 *
 * Workload: every row reads one entry and writes one, mallocs in order and frees anywhere, so an
 * entry is 8 bytes: the real program's own table of pointers is as large.  Most blocks are near the
 * start of the heap and smaller than 4 GiB; one that is not has its figures in a second table.
 *
 *     near   place == (address - from) >> shift, size
 *     far    place == FAR | i; address and size are far[i]'s
 *     dead   as it was, and DEAD: not allocated any more
 *     never  place == 0
 *
 * So a fresh table is all zeros, and costs memory only where rows have been; and one comparison of a
 * place with a place says that a block is allocated, near, and below some address.  The allocator
 * says where places are counted from, and in what steps: so that a place is what it calls a chunk.
 */
#ifndef PA_BLOCKS_H
#define PA_BLOCKS_H

#include "pyalloc/pyalloc.h"

#define BLOCK_FAR ((uint32_t)1 << 31)
#define BLOCK_DEAD ((uint32_t)1 << 30)

typedef struct pa_block {
    uint32_t place, size;
} pa_block;

typedef struct pa_far_block {
    uint64_t address, size;
} pa_far_block;

typedef struct pa_blocks {
    pa_block *at;
    size_t count, mapped_bytes;
    uint32_t mask; /* number & mask is in the table, even that of no block */
    uint64_t from;
    uint32_t shift;
    pa_far_block *far;
    uint32_t count_far, room_far;
    uint32_t free_far; /* place of a slot that is free, whose address is the next one's; or 0 */
} pa_blocks;

/* All blocks that `numbers` name but UINT32_MAX. */
bool blocks_init(pa_blocks *blocks, const uint32_t *numbers, size_t count, uint64_t from,
                 uint32_t shift);
void blocks_drop(pa_blocks *blocks);

/* The block is at `address` now.  False: no memory on the host, nothing has changed. */
bool blocks_put(pa_blocks *blocks, pa_block *block, uint64_t address, uint64_t size);

/* The block is nowhere. */
void blocks_clear(pa_blocks *blocks, pa_block *block);

static inline bool block_is_far(const pa_block *b)
{
    return b->place & BLOCK_FAR;
}

static inline bool block_is_live(const pa_block *b)
{
    return b->place && !(b->place & BLOCK_DEAD);
}

static inline pa_far_block *block_in_far(const pa_blocks *blocks, const pa_block *b)
{
    return &blocks->far[b->place & ~(BLOCK_FAR | BLOCK_DEAD)];
}

static inline uint64_t block_address(const pa_blocks *blocks, const pa_block *b)
{
    if (block_is_far(b))
        return block_in_far(blocks, b)->address;
    uint64_t place = b->place & ~BLOCK_DEAD;
    return place ? blocks->from + (place << blocks->shift) : 0;
}

/* Of a live block. */
static inline uint64_t block_size(const pa_blocks *blocks, const pa_block *b)
{
    return block_is_far(b) ? block_in_far(blocks, b)->size : b->size;
}

/* Can these be told in an entry of 8 bytes? */
static inline bool block_fits(const pa_blocks *blocks, uint64_t address, uint64_t size)
{
    uint64_t beyond = address - blocks->from, place = beyond >> blocks->shift;
    return place - 1 < BLOCK_DEAD - 1 && size <= UINT32_MAX && place << blocks->shift == beyond;
}

#endif
