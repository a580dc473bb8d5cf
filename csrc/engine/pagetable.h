/* SPDX-License-Identifier: MIT
 *
 * pagetable.h -- a radix tree shaped like the hardware's, that counts its own pages.
 *
 * An entry (PTE) is 64 bits on every architecture, so that one engine serves all:
 *
 *     63                      12 11    8  6 5 4 3 2 1 0
 *     | frame or swap slot      |  ...  |L|F|S|Z|D|A|W|P|     0: nothing was ever here
 *
 *     P present   W writable   A accessed   D dirty   Z the zero page   S swapped out: the number is
 *     a slot   F the frame belongs to an object (page cache)   L locked by mlock   H (bit 8) the leaf
 *     stands for one entry of the table above it, which maps 2 MB at once (huge.c)   C (bit 9) a
 *     fork shared the frame, and no write has found out since whether it still does   G (bit 10) a
 *     guard: no page ever comes here
 *
 *     count_tables[0] == leaf tables, [1] == tables of leaves (PMD) ...; the root is not counted
 */
#ifndef PA_PAGETABLE_H
#define PA_PAGETABLE_H

#include <stdbool.h>
#include <stdint.h>

enum {
    PTE_PRESENT = 1,
    PTE_WRITE = 2,
    PTE_ACCESSED = 4,
    PTE_DIRTY = 8,
    PTE_ZERO = 16,
    PTE_SWAP = 32,
    PTE_FILE = 64,
    PTE_LOCKED = 128,
    PTE_HUGE = 256,
    PTE_FORKED = 512,
    PTE_GUARD = 1024,
    PTE_PASSING = 2048, /* through an area whose use tells nothing of the next (vma_has_recency) */
    PTE_SHIFT = 12,
    TABLE_LEVELS = 4,
    CACHED_LEAVES = 32 /* found without a walk: 64 MB of a heap on x86-64 */
};

/* Tables that nobody uses at present: a host's page that is there already costs nothing. */
typedef struct table_pool {
    void *first; /* each begins with the address of the next */
    uint32_t count;
} table_pool;

void table_pool_drop(table_pool *pool);

typedef struct pa_pagetable {
    void *root;
    table_pool *pool; /* where its tables come from and go to */
    uint8_t bits[TABLE_LEVELS]; /* of each level, leaves first */
    uint8_t levels;
    uint64_t cached_number[CACHED_LEAVES]; /* vpn >> bits[0] of the leaf beside it */
    uint64_t *cached_leaf[CACHED_LEAVES];
    uint64_t count_tables[TABLE_LEVELS];
} pa_pagetable;

/* shape: enum pa_shape.  False: unknown shape, or no memory on the host. */
bool pt_table_init(pa_pagetable *pt, int shape, table_pool *pool);
void pt_table_drop(pa_pagetable *pt);
bool pt_table_copy(pa_pagetable *to, const pa_pagetable *from, table_pool *pool);

/* Entries in one leaf, and the vpn past the last that the shape can hold. */
uint64_t pt_table_leaf_size(const pa_pagetable *pt);
uint64_t pt_table_end(const pa_pagetable *pt);

uint64_t *pt_table_walk(pa_pagetable *pt, uint64_t vpn);

/* The leaf that holds vpn's entry, or NULL if there is none. */
static inline uint64_t *pt_table_find_leaf(pa_pagetable *pt, uint64_t vpn)
{
    uint64_t number = vpn >> pt->bits[0];
    uint64_t slot = number & (CACHED_LEAVES - 1);
    return pt->cached_number[slot] == number ? pt->cached_leaf[slot] : pt_table_walk(pt, vpn);
}

/* How many tables pt_table_make_leaf() would add. */
unsigned pt_table_missing(const pa_pagetable *pt, uint64_t vpn);
/* The leaf, made if need be; NULL: no memory on the host. */
uint64_t *pt_table_make_leaf(pa_pagetable *pt, uint64_t vpn);
/* The first vpn in [vpn, end) whose leaf exists, or end. */
uint64_t pt_table_next(const pa_pagetable *pt, uint64_t vpn, uint64_t end);
/* Free each table that has a page in [first, end) and lies whole in [floor, ceiling); returns how
 * many.  Their entries must be empty. */
uint64_t pt_table_prune(pa_pagetable *pt, uint64_t first, uint64_t end, uint64_t floor,
                        uint64_t ceiling);
uint64_t pt_table_total(const pa_pagetable *pt);
/* Free vpn's leaf, whatever is in it. */
void pt_table_drop_leaf(pa_pagetable *pt, uint64_t vpn);
/* Hang the table of `level` that holds `from` where `to` has none; the tables above that place must
 * exist. */
void pt_table_move(pa_pagetable *pt, uint64_t from, uint64_t to, unsigned level);
/* The tables above vpn's leaf, down to the one of level `lowest`; false: no memory on the host. */
bool pt_table_make_upper(pa_pagetable *pt, uint64_t vpn, unsigned lowest);
/* Pages that one table of this level maps. */
uint64_t pt_table_span(const pa_pagetable *pt, unsigned level);

static inline uint64_t *pt_table_find(pa_pagetable *pt, uint64_t vpn)
{
    uint64_t *leaf = pt_table_find_leaf(pt, vpn);
    return leaf ? &leaf[vpn & ((UINT64_C(1) << pt->bits[0]) - 1)] : (uint64_t *)0;
}

#endif
