/* SPDX-License-Identifier: MIT
 *
 * pagetable.c -- the radix tree: i386 two levels of 1024, PAE three, x86-64 four of 512.
 */
#include "pagetable.h"

#include "pyalloc/pyalloc.h"

#include <stdlib.h>
#include <string.h>

static const uint8_t shapes[][TABLE_LEVELS] = {
    [PA_SHAPE_I386] = {10, 10},
    [PA_SHAPE_PAE] = {9, 9, 2},
    [PA_SHAPE_X86_64] = {9, 9, 9, 9},
};

static uint64_t entries(const pa_pagetable *pt, unsigned level)
{
    return UINT64_C(1) << pt->bits[level];
}

/* Pages that one entry of a table of this level maps: 1 at the leaves. */
static unsigned shift_of(const pa_pagetable *pt, unsigned level)
{
    unsigned shift = 0;
    for (unsigned k = 0; k < level; k++)
        shift += pt->bits[k];
    return shift;
}

static uint64_t index_of(const pa_pagetable *pt, unsigned level, uint64_t vpn)
{
    return vpn >> shift_of(pt, level) & (entries(pt, level) - 1);
}

static void forget_cached(pa_pagetable *pt)
{
    memset(pt->cached_number, 0xff, sizeof pt->cached_number); /* no leaf has this number */
}

/* ---- tables ----------------------------------------------------------------------------------- */

enum { POOLED_BYTES = 4096, MOST_POOLED = 2048 };

/* A table of zeros for that level; NULL: no memory on the host. */
static void *take_table(const pa_pagetable *pt, unsigned level)
{
    uint64_t n = entries(pt, level);
    table_pool *pool = pt->pool;
    if (n * 8 != POOLED_BYTES || !pool->count)
        return calloc(n, 8);
    void *table = pool->first;
    pool->first = *(void **)table;
    pool->count--;
    return memset(table, 0, POOLED_BYTES);
}

static void give_table(pa_pagetable *pt, unsigned level, void *table)
{
    table_pool *pool = pt->pool;
    if (entries(pt, level) * 8 != POOLED_BYTES || pool->count == MOST_POOLED) {
        free(table);
        return;
    }
    *(void **)table = pool->first;
    pool->first = table;
    pool->count++;
}

void table_pool_drop(table_pool *pool)
{
    while (pool->count--) {
        void *table = pool->first;
        pool->first = *(void **)table;
        free(table);
    }
    *pool = (table_pool){0};
}

bool pt_table_init(pa_pagetable *pt, int shape, table_pool *pool)
{
    *pt = (pa_pagetable){.pool = pool};
    if (shape < 0 || (size_t)shape >= sizeof shapes / sizeof *shapes)
        return false;
    memcpy(pt->bits, shapes[shape], TABLE_LEVELS);
    while (pt->levels < TABLE_LEVELS && pt->bits[pt->levels])
        pt->levels++;
    forget_cached(pt);
    pt->root = take_table(pt, pt->levels - 1u);
    return pt->root != NULL;
}

static void drop_table(pa_pagetable *pt, void *table, unsigned level)
{
    if (!table)
        return;
    for (uint64_t i = 0; level && i < entries(pt, level); i++)
        drop_table(pt, ((void **)table)[i], level - 1);
    give_table(pt, level, table);
}

void pt_table_drop(pa_pagetable *pt)
{
    if (pt->levels)
        drop_table(pt, pt->root, pt->levels - 1u);
    *pt = (pa_pagetable){0};
}

static void *copy_table(const pa_pagetable *pt, const void *table, unsigned level)
{
    uint64_t n = entries(pt, level);
    void **copy = take_table(pt, level);
    if (!copy)
        return NULL;
    if (!level)
        return memcpy(copy, table, n * 8);
    for (uint64_t i = 0; i < n; i++) {
        void *child = ((void *const *)table)[i];
        copy[i] = child ? copy_table(pt, child, level - 1) : NULL;
    }
    return copy;
}

bool pt_table_copy(pa_pagetable *to, const pa_pagetable *from, table_pool *pool)
{
    *to = *from;
    to->pool = pool;
    forget_cached(to);
    to->root = copy_table(to, from->root, from->levels - 1u);
    return to->root != NULL;
}

uint64_t pt_table_leaf_size(const pa_pagetable *pt)
{
    return entries(pt, 0);
}

uint64_t pt_table_end(const pa_pagetable *pt)
{
    return UINT64_C(1) << shift_of(pt, pt->levels);
}

uint64_t pt_table_total(const pa_pagetable *pt)
{
    uint64_t total = 0;
    for (unsigned k = 0; k < TABLE_LEVELS; k++)
        total += pt->count_tables[k];
    return total;
}

/* ---- finding and making ----------------------------------------------------------------------- */

static uint64_t *cache_leaf(pa_pagetable *pt, uint64_t vpn, uint64_t *leaf)
{
    uint64_t number = vpn >> pt->bits[0];
    pt->cached_leaf[number & (CACHED_LEAVES - 1)] = leaf;
    pt->cached_number[number & (CACHED_LEAVES - 1)] = number;
    return leaf;
}

uint64_t *pt_table_walk(pa_pagetable *pt, uint64_t vpn)
{
    void *table = pt->root;
    for (unsigned level = pt->levels - 1u; level; level--) {
        table = ((void **)table)[index_of(pt, level, vpn)];
        if (!table)
            return NULL;
    }
    return cache_leaf(pt, vpn, table);
}

unsigned pt_table_missing(const pa_pagetable *pt, uint64_t vpn)
{
    const void *table = pt->root;
    for (unsigned level = pt->levels - 1u; level; level--) {
        table = ((void *const *)table)[index_of(pt, level, vpn)];
        if (!table)
            return level;
    }
    return 0;
}

/* The table of `lowest` level that vpn belongs to, made if need be; NULL: no memory. */
static void *make_down_to(pa_pagetable *pt, uint64_t vpn, unsigned lowest)
{
    void *table = pt->root;
    for (unsigned level = pt->levels - 1u; level > lowest; level--) {
        void **slot = &((void **)table)[index_of(pt, level, vpn)];
        if (!*slot) {
            *slot = take_table(pt, level - 1);
            if (!*slot)
                return NULL;
            pt->count_tables[level - 1]++;
        }
        table = *slot;
    }
    return table;
}

uint64_t *pt_table_make_leaf(pa_pagetable *pt, uint64_t vpn)
{
    uint64_t *leaf = make_down_to(pt, vpn, 0);
    return leaf ? cache_leaf(pt, vpn, leaf) : NULL;
}

bool pt_table_make_upper(pa_pagetable *pt, uint64_t vpn, unsigned lowest)
{
    return make_down_to(pt, vpn, lowest) != NULL;
}

uint64_t pt_table_span(const pa_pagetable *pt, unsigned level)
{
    return UINT64_C(1) << shift_of(pt, level + 1);
}

/* Where the table above says where vpn's table of `child` level is; NULL: there is no table. */
static void **slot_of(pa_pagetable *pt, uint64_t vpn, unsigned child)
{
    void *table = pt->root;
    for (unsigned level = pt->levels - 1u; level > child + 1 && table; level--)
        table = ((void **)table)[index_of(pt, level, vpn)];
    return table ? &((void **)table)[index_of(pt, child + 1, vpn)] : NULL;
}

void pt_table_drop_leaf(pa_pagetable *pt, uint64_t vpn)
{
    void **slot = slot_of(pt, vpn, 0);
    forget_cached(pt);
    if (!slot || !*slot)
        return;
    give_table(pt, 0, *slot);
    *slot = NULL;
    pt->count_tables[0]--;
}

void pt_table_move(pa_pagetable *pt, uint64_t from, uint64_t to, unsigned level)
{
    void **source = slot_of(pt, from, level), **target = slot_of(pt, to, level);
    forget_cached(pt);
    *target = *source;
    *source = NULL;
}

uint64_t pt_table_next(const pa_pagetable *pt, uint64_t vpn, uint64_t end)
{
    while (vpn < end) {
        const void *table = pt->root;
        unsigned level = pt->levels - 1u;
        for (; level; level--) {
            table = ((void *const *)table)[index_of(pt, level, vpn)];
            if (!table)
                break;
        }
        if (!level)
            return vpn;
        uint64_t span = UINT64_C(1) << shift_of(pt, level);
        vpn = (vpn | (span - 1)) + 1;
    }
    return end;
}

/* ---- freeing ---------------------------------------------------------------------------------- */

typedef struct range {
    uint64_t first, end, floor, ceiling;
} range;

/* Free the children of `table` (a table of `level` whose first page is base) that lie in range. */
static uint64_t prune(pa_pagetable *pt, void **table, unsigned level, uint64_t base, const range *r)
{
    uint64_t freed = 0, span = UINT64_C(1) << shift_of(pt, level);
    uint64_t i = r->first > base ? (r->first - base) / span : 0;
    for (; i < entries(pt, level) && base + i * span < r->end; i++) {
        uint64_t start = base + i * span;
        if (!table[i])
            continue;
        if (level > 1)
            freed += prune(pt, table[i], level - 1, start, r);
        if (start < r->floor || start + span > r->ceiling)
            continue;
        give_table(pt, level - 1, table[i]);
        table[i] = NULL;
        pt->count_tables[level - 1]--;
        freed++;
    }
    return freed;
}

uint64_t pt_table_prune(pa_pagetable *pt, uint64_t first, uint64_t end, uint64_t floor,
                        uint64_t ceiling)
{
    range r = {first, end, floor, ceiling};
    forget_cached(pt);
    return first < end ? prune(pt, pt->root, pt->levels - 1u, 0, &r) : 0;
}
