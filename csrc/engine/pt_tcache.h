/* SPDX-License-Identifier: MIT
 *
 * pt_tcache.h -- each thread's cache of freed chunks, by size, last in first out.  A template, see
 * pt_chunk.h.
 *
 * Workload: most calls of a program end here, so taking and giving are a handful of instructions.
 *
 * Two limits, which differ in some generations: what calls of the program put in and take out
 * (mp.tcache_limit) and what _int_malloc stashes when it finds several of a size (mp.tcache_bins).
 * Since 2.42 there are bins above the small ones, one a power of two, each sorted by size.
 *
 *     count[i] <= mp.tcache_count, and is the length of entry[i]'s list
 */
#ifndef PA_PT_TCACHE_H
#define PA_PT_TCACHE_H

#include "pt.h"

#include <string.h>

static inline pt_tcache *current(pt *h)
{
    return &h->threads[CALM ? 0 : h->base.thread].tcache;
}

static inline uint32_t log2_of(uint64_t n)
{
    return 63 - (uint32_t)__builtin_clzll(n);
}

/* The bin of a chunk size below the limit. */
static inline uint32_t bin_of(const pt *h, uint64_t units)
{
    uint64_t index = (units - MIN_UNITS) >> align_units_log(h);
    if (index < TCACHE_SMALL)
        return (uint32_t)index;
    uint32_t last_small = log2_of(rules(h)->tcache_limit - 1);
    uint64_t large = TCACHE_SMALL + log2_of(bytes_of(h, units)) - last_small;
    return (uint32_t)(large < TCACHE_BINS ? large : TCACHE_BINS - 1);
}

PT_PART bool pt_tcache_serves(const pt *h, uint64_t units)
{
    return bytes_of(h, units) < h->mp.tcache_limit;
}

PT_PART bool pt_tcache_unborn(const pt *h)
{
    const pt_tcache *tc = &h->threads[h->base.thread].tcache;
    return !tc->alive && !tc->dead;
}

PT_PART void pt_tcache_install(pt *h, pa_unit c)
{
    pt_tcache *tc = current(h);
    if (!c) /* no memory for it: go without */
        return;
    memset(tc, 0, sizeof *tc);
    tc->alive = true;
    tc->home = c;
    uint64_t mem = c >= MAPPED_REF ? pt_mapped_mem(h, mapped_ref(h, c)) : mem_of(h, c);
    heap_touch_range(&h->base, mem, rules(h)->tcache_bytes);
}

/* ---- putting in ---------------------------------------------------------------------------------- */

static inline void put_after(pt *h, pt_tcache *tc, uint32_t bin, pa_unit before, pa_unit c)
{
    pa_unit *link = before ? &at(h, before)->fd : &tc->entry[bin];
    at(h, c)->fd = *link;
    at(h, c)->bk = TCACHE_KEY;
    touch_behind(h, c, 1);
    *link = c;
    tc->count[bin]++;
    touch_tcache(h, tc);
}

/* The last entry that is smaller: ascending order is kept, the newest of a size comes first. */
static inline pa_unit last_smaller(const pt *h, const pt_tcache *tc, uint32_t bin, uint64_t units)
{
    pa_unit before = 0;
    uint32_t left = tc->count[bin];
    for (pa_unit e = tc->entry[bin]; left && e && size_of(h, e) < units; e = at(h, e)->fd, left--)
        before = e;
    return before;
}

/* How many more chunks of nb units may _int_malloc put here? */
PT_PART uint32_t pt_tcache_room(pt *h, uint64_t nb)
{
    pt_tcache *tc = current(h);
    uint64_t index = (nb - MIN_UNITS) >> align_units_log(h);
    bool serves = tc->alive && index < h->mp.tcache_bins;
    return serves && tc->count[index] < h->mp.tcache_count ? h->mp.tcache_count - tc->count[index]
                                                           : 0;
}

PT_PART void pt_tcache_stash(pt *h, pa_unit c, uint64_t nb)
{
    put_after(h, current(h), bin_of(h, nb), 0, c);
}

/* Is c among the entries?  Asked only when its key says that it may be; since 2.42 of every bin. */
static inline bool holds(const pt *h, const pt_tcache *tc, pa_unit c, uint32_t bin)
{
    bool all = rules(h)->version >= 242;
    for (uint32_t b = all ? 0 : bin; b < (all ? TCACHE_BINS : bin + 1); b++) {
        pa_unit e = tc->entry[b];
        for (uint32_t i = 0; e && i <= h->mp.tcache_count; i++, e = at(h, e)->fd)
            if (e == c)
                return true;
    }
    return false;
}

/* A chunk the program frees: taken or not, or the library's complaint. */
PT_PART const char *pt_tcache_give(pt *h, pa_unit c, bool *taken)
{
    pt_tcache *tc = current(h);
    uint64_t units = size_of(h, c);
    *taken = false;
    if (!tc->alive || units < MIN_UNITS || !pt_tcache_serves(h, units))
        return NULL;
    uint32_t bin = bin_of(h, units);
    if (rules(h)->version >= 229 && at(h, c)->bk == TCACHE_KEY && holds(h, tc, c, bin))
        return "free(): double free detected in tcache 2";
    if (tc->count[bin] >= h->mp.tcache_count)
        return NULL;
    put_after(h, tc, bin, bin < TCACHE_SMALL ? 0 : last_smaller(h, tc, bin, units), c);
    *taken = true;
    return NULL;
}

/* ---- taking out ---------------------------------------------------------------------------------- */

static inline pa_unit take_after(pt *h, pt_tcache *tc, uint32_t bin, pa_unit before)
{
    pa_unit *link = before ? &at(h, before)->fd : &tc->entry[bin], c = *link;
    if (before)
        touch_again(h, before + 1);
    *link = at(h, c)->fd;
    tc->count[bin]--;
    at(h, c)->bk = 0;
    touch_again(h, c + 1);
    touch_tcache(h, tc);
    return c;
}

/* 2.42 gives the smallest that is large enough, later ones only an exact fit. */
static inline pa_unit take_large(pt *h, pt_tcache *tc, uint32_t bin, uint64_t nb)
{
    pa_unit before = last_smaller(h, tc, bin, nb);
    pa_unit c = before ? at(h, before)->fd : tc->entry[bin];
    if (!c || (rules(h)->version >= 243 && size_of(h, c) != nb))
        return 0;
    return take_after(h, tc, bin, before);
}

/* A chunk for the program's request, or 0. */
PT_PART pa_unit pt_tcache_take(pt *h, uint64_t nb)
{
    pt_tcache *tc = current(h);
    if (!tc->alive || !pt_tcache_serves(h, nb))
        return 0;
    uint32_t bin = bin_of(h, nb);
    if (bin >= TCACHE_SMALL)
        return take_large(h, tc, bin, nb);
    return tc->entry[bin] ? take_after(h, tc, bin, 0) : 0;
}

/* The last chunk of nb units that _int_malloc stashed. */
PT_PART pa_unit pt_tcache_unstash(pt *h, uint64_t nb)
{
    return take_after(h, current(h), bin_of(h, nb), 0);
}

/* The newest chunk of nb units that happens to be aligned, out of the middle of its list. */
PT_PART pa_unit pt_tcache_take_aligned(pt *h, uint64_t nb, uint64_t align)
{
    pt_tcache *tc = current(h);
    if (!tc->alive || !pt_tcache_serves(h, nb))
        return 0;
    uint32_t bin = bin_of(h, nb);
    pa_unit before = bin < TCACHE_SMALL ? 0 : last_smaller(h, tc, bin, nb);
    pa_unit c = before ? at(h, before)->fd : tc->entry[bin];
    uint32_t left = tc->count[bin];
    for (; left && c && size_of(h, c) == nb && mem_of(h, c) & (align - 1); c = at(h, c)->fd, left--)
        before = c;
    return left && c && size_of(h, c) == nb ? take_after(h, tc, bin, before) : 0;
}

#endif
