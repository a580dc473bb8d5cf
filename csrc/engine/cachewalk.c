/* SPDX-License-Identifier: MIT
 *
 * cachewalk.c -- the nearest page of a file that is not cached.
 *
 * Model of page_cache_next_miss() and page_cache_prev_miss() in mm/filemap.c over the tree of
 * lib/xarray.c.  A folio of less than 64 pages has a slot for each of them in a node of 64 slots, a
 * larger one has a slot for each 64 pages in the node above.  A walk that starts inside a folio
 * starts at that folio's first slot, but counts from the page it was asked for: what it says is
 * off by the difference, until it comes to the next node and finds its slot by its count again.
 * Readahead's windows depend on it.
 */
#include "ram.h"

enum { NODE_BITS = 6, NODE_MASK = (1 << NODE_BITS) - 1, LARGE = NODE_BITS };

/* Slot `at` of all those that stand for 1 << shift pages; `count` is the page it is taken for. */
typedef struct cursor {
    pa_ram *ram;
    uint32_t id;
    uint64_t count, at;
    unsigned shift;
} cursor;

static uint64_t entry_of(const cursor *c, uint64_t index)
{
    const uint64_t *entry = object_entry(c->ram, c->id, index);
    return entry && *entry & PTE_PRESENT ? *entry : 0;
}

static unsigned order_of(uint64_t entry)
{
    return (unsigned)(entry >> ORDER_SHIFT & ORDER_MASK);
}

/* False: not even the first page is there. */
static bool start(cursor *c, pa_ram *ram, uint32_t id, uint64_t index)
{
    *c = (cursor){ram, id, index, 0, 0};
    uint64_t first, entry = entry_of(c, index);
    if (!entry)
        return false;
    object_folio(ram, id, index, &first);
    c->shift = order_of(entry) >= LARGE ? NODE_BITS : 0;
    c->at = first >> c->shift;
    return true;
}

/* Down from a node to the slot that the count says. */
static bool descend(cursor *c)
{
    while (c->shift > NODE_BITS) {
        c->shift -= NODE_BITS;
        c->at = c->at << NODE_BITS | (c->count >> c->shift & NODE_MASK);
    }
    if (c->shift && order_of(entry_of(c, c->at << NODE_BITS)) >= LARGE)
        return true;
    if (c->shift)
        c->at = c->at << NODE_BITS | (c->count & NODE_MASK);
    c->shift = 0;
    return entry_of(c, c->at) != 0;
}

static bool is_off(const cursor *c)
{
    return (c->at & NODE_MASK) != (c->count >> c->shift & NODE_MASK);
}

/* One slot on (xas_next); false: nothing is cached there. */
static bool next(cursor *c)
{
    c->count++;
    if (!c->shift && (c->at & NODE_MASK) != NODE_MASK)
        return entry_of(c, ++c->at) != 0;
    if (is_off(c)) {
        c->at++;
        for (; !(c->at & NODE_MASK) && c->at; c->shift += NODE_BITS)
            c->at >>= NODE_BITS;
    }
    return descend(c);
}

/* One slot back (xas_prev). */
static bool previous(cursor *c)
{
    c->count--;
    if (!c->shift && c->at & NODE_MASK)
        return entry_of(c, --c->at) != 0;
    if (is_off(c)) {
        for (; !(c->at & NODE_MASK); c->shift += NODE_BITS) {
            if (!c->at)
                return false; /* before the first page */
            c->at >>= NODE_BITS;
        }
        c->at--;
    }
    return descend(c);
}

uint64_t cache_next_miss(pa_ram *ram, uint32_t id, uint64_t index, uint64_t most)
{
    cursor c;
    if (!start(&c, ram, id, index))
        return index;
    for (uint64_t i = 1; i < most; i++) {
        if (!next(&c))
            return c.count;
    }
    return index + most;
}

uint64_t cache_prev_miss(pa_ram *ram, uint32_t id, uint64_t index, uint64_t most)
{
    cursor c;
    if (!start(&c, ram, id, index))
        return index;
    for (uint64_t i = 1; i < most && c.count != UINT64_MAX; i++) {
        if (!previous(&c))
            break;
    }
    return c.count;
}
