/* SPDX-License-Identifier: MIT
 *
 * pt_bins.h -- the lists of free chunks: unsorted, small (FIFO), large (by size).  A template, see
 * pt_chunk.h.
 *
 * Workload: most chunks pass through the unsorted list once and are taken from there or merged
 * again, so pushing and unlinking must be cheap and sorting may cost.
 *
 *     units_in[k], count_in[k] == sums over the lists of kind k        (pt_check)
 *     binmap bit i set  <=  bin i not empty
 */
#ifndef PA_PT_BINS_H
#define PA_PT_BINS_H

#include "pt.h"

enum { IN_UNSORTED, IN_SMALL, IN_LARGE };

static inline pa_unit head_of(const pt_arena *a, uint32_t bin)
{
    return a->bins + bin;
}

static inline uint32_t kind_of(const pt *h, pa_unit c)
{
    if (at(h, c)->size & U_UNSORTED)
        return IN_UNSORTED;
    return is_small(h, size_of(h, c)) ? IN_SMALL : IN_LARGE;
}

static inline void add_to(pt_arena *a, uint32_t kind, uint64_t units)
{
    a->count_in[kind]++;
    a->units_in[kind] += units;
}

static inline void take_from(pt_arena *a, uint32_t kind, uint64_t units)
{
    a->count_in[kind]--;
    a->units_in[kind] -= units;
}

PT_PART void pt_init_bins(pt *h, pt_arena *a)
{
    /* One head more than there are bins: bin 126's skip-list field overlaps it, and is never 0. */
    for (uint32_t i = UNSORTED; i <= BINS; i++) {
        pa_unit head = head_of(a, i);
        at(h, head)->fd = at(h, head)->bk = head;
    }
}

static inline uint32_t small_index(const pt *h, uint64_t units)
{
    if (rules(h)->version < 206 && rules(h)->word == 8)
        return (uint32_t)units * 2;
    if (align_units_log(h))
        return (uint32_t)(units >> 1) + 1;
    return (uint32_t)units;
}

PT_PART uint32_t pt_bin_index(const pt *h, uint64_t units)
{
    if (is_small(h, units))
        return small_index(h, units);
    uint64_t sz = bytes_of(h, units);
    if (sz >> 6 <= rules(h)->large_first)
        return rules(h)->large_base + (uint32_t)(sz >> 6);
    if (sz >> 9 <= 20)
        return 91 + (uint32_t)(sz >> 9);
    if (sz >> 12 <= 10)
        return 110 + (uint32_t)(sz >> 12);
    if (sz >> 15 <= 4)
        return 119 + (uint32_t)(sz >> 15);
    if (sz >> 18 <= 2)
        return 124 + (uint32_t)(sz >> 18);
    return 126;
}

static inline void link_between(pt *h, pa_unit c, pa_unit bk, pa_unit fd)
{
    pt_chunk *p = at(h, c);
    at(h, fd)->bk = c;
    at(h, bk)->fd = c;
    p->fd = fd;
    p->bk = bk;
    touch_again(h, fd + 1);
    touch_again(h, bk + 1);
    touch_behind(h, c, 1);
}

static inline void close_gap(pt *h, pa_unit bk, pa_unit fd)
{
    at(h, fd)->bk = bk;
    at(h, bk)->fd = fd;
    touch_again(h, fd + 1);
    touch_again(h, bk + 1);
}

PT_PART void pt_push_unsorted(pt *h, pt_arena *a, pa_unit c)
{
    pa_unit head = head_of(a, UNSORTED);
    uint64_t units = size_of(h, c);
    link_between(h, c, head, at(h, head)->fd);
    if (!is_small(h, units))
        at(h, c)->fd_nextsize = at(h, c)->bk_nextsize = 0, touch_behind(h, c, 2);
    at(h, c)->size |= U_UNSORTED;
    add_to(a, IN_UNSORTED, units);
}

PT_PART void pt_take_unsorted(pt *h, pt_arena *a, pa_unit c)
{
    pt_chunk *p = at(h, c);
    take_from(a, IN_UNSORTED, p->size >> 3);
    p->size &= ~(uint32_t)U_UNSORTED;
    close_gap(h, p->bk, head_of(a, UNSORTED));
}

static inline void mark_bin(pt_arena *a, uint32_t bin)
{
    a->binmap[bin >> 5] |= 1u << (bin & 31);
}

PT_PART void pt_push_small_front(pt *h, pt_arena *a, pa_unit c)
{
    uint32_t bin = pt_bin_index(h, size_of(h, c));
    pa_unit head = head_of(a, bin);
    link_between(h, c, head, at(h, head)->fd);
    mark_bin(a, bin);
    add_to(a, kind_of(h, c), size_of(h, c));
}

/* Sizes of a large bin descend; the first of each size is on the skip list. */
static inline void insert_skip(pt *h, pa_unit head, pa_unit c)
{
    pa_unit first = at(h, head)->fd, last = at(h, head)->bk;
    uint32_t size = size_of(h, c);
    touch_behind(h, c, 2);
    if (first == head) {
        at(h, c)->fd_nextsize = at(h, c)->bk_nextsize = c;
        link_between(h, c, head, head);
        return;
    }
    if (size < size_of(h, last)) { /* the smallest of all: append */
        pa_unit prev = at(h, first)->bk_nextsize;
        at(h, c)->fd_nextsize = first;
        at(h, c)->bk_nextsize = prev;
        at(h, first)->bk_nextsize = c;
        at(h, prev)->fd_nextsize = c;
        link_between(h, c, last, head);
        return;
    }
    pa_unit fwd = first;
    for (uint32_t steps = PATIENCE; size < size_of(h, fwd) && (CALM || steps); steps--) {
        fwd = at(h, fwd)->fd_nextsize;
        h->base.count_steps++;
    }
    if (size == size_of(h, fwd)) { /* always second of its size */
        link_between(h, c, fwd, at(h, fwd)->fd);
        at(h, c)->fd_nextsize = at(h, c)->bk_nextsize = 0;
        return;
    }
    pa_unit before = at(h, fwd)->bk_nextsize;
    at(h, c)->fd_nextsize = fwd;
    at(h, c)->bk_nextsize = before;
    at(h, fwd)->bk_nextsize = c;
    at(h, before)->fd_nextsize = c;
    link_between(h, c, at(h, fwd)->bk, fwd);
}

/* Before the skip list: newest in front of its equals. */
static inline void insert_plain(pt *h, pa_unit head, pa_unit c)
{
    uint32_t size = size_of(h, c);
    pa_unit fwd = at(h, head)->fd;
    if (fwd != head) {
        if (size <= size_of(h, at(h, head)->bk))
            fwd = head;
        else
            for (uint32_t steps = PATIENCE; size < size_of(h, fwd) && steps; steps--) {
                fwd = at(h, fwd)->fd;
                h->base.count_steps++;
            }
    }
    link_between(h, c, at(h, fwd)->bk, fwd);
}

/* Put a chunk that is on no list into its bin. */
PT_PART void pt_insert(pt *h, pt_arena *a, pa_unit c)
{
    uint32_t size = size_of(h, c);
    if (is_small(h, size)) {
        pt_push_small_front(h, a, c);
        return;
    }
    uint32_t bin = pt_bin_index(h, size);
    if (rules(h)->skip_list)
        insert_skip(h, head_of(a, bin), c);
    else
        insert_plain(h, head_of(a, bin), c);
    mark_bin(a, bin);
    add_to(a, IN_LARGE, size);
}

/* Take c off the skip list; an equal follower inherits its place. */
static inline void leave_skip(pt *h, pa_unit c)
{
    pt_chunk *p = at(h, c);
    pa_unit fd = p->fd;
    touch_again(h, fd + 2);
    if (at(h, fd)->fd_nextsize) {
        at(h, p->fd_nextsize)->bk_nextsize = p->bk_nextsize;
        at(h, p->bk_nextsize)->fd_nextsize = p->fd_nextsize;
        return;
    }
    if (p->fd_nextsize == c) {
        at(h, fd)->fd_nextsize = at(h, fd)->bk_nextsize = fd;
        return;
    }
    at(h, fd)->fd_nextsize = p->fd_nextsize;
    at(h, fd)->bk_nextsize = p->bk_nextsize;
    at(h, p->fd_nextsize)->bk_nextsize = fd;
    at(h, p->bk_nextsize)->fd_nextsize = fd;
}

/* Can the library look at what a link of a damaged list points to? */
static inline bool is_link(const pt *h, const pt_arena *a, pa_unit c)
{
    return c && (c - a->bins <= BINS || pt_is_memory(h, address_of(h, c)));
}

/* What is wrong with c's links, if anything: 2.3.3 finds out only by following them. */
static inline const char *link_fault(const pt *h, const pt_arena *a, pa_unit c, pa_unit fd,
                                     pa_unit bk)
{
    if (at(h, fd)->bk == c && at(h, bk)->fd == c)
        return NULL;
    if (!is_link(h, a, fd) || !is_link(h, a, bk))
        return pt_fault;
    return rules(h)->version >= 204 ? "corrupted double-linked list" : NULL;
}

/* Take a chunk off whatever list it is on; the library's message if the list is broken, pt_fault if
 * it faults over it. */
PT_PART const char *pt_unlink(pt *h, pt_arena *a, pa_unit c)
{
    pt_chunk *p = at(h, c);
    uint64_t units = p->size >> 3;
    pa_unit fd = p->fd, bk = p->bk;
    if (!CALM && at(h, c + (pa_unit)units)->prev_size != units && rules(h)->version >= 226)
        return "corrupted size vs. prev_size";
    const char *fault = CALM ? NULL : link_fault(h, a, c, fd, bk);
    if (fault)
        return fault;
    uint32_t kind = kind_of(h, c);
    take_from(a, kind, units);
    p->size &= ~(uint32_t)U_UNSORTED;
    close_gap(h, bk, fd);
    if (kind == IN_LARGE && rules(h)->skip_list && p->fd_nextsize)
        leave_skip(h, c);
    return NULL;
}

static inline pa_unit best_skip(pt *h, pa_unit head, uint64_t nb)
{
    pa_unit c = at(h, at(h, head)->fd)->bk_nextsize;
    for (uint32_t steps = PATIENCE; size_of(h, c) < nb && (CALM || steps); steps--) {
        c = at(h, c)->bk_nextsize;
        h->base.count_steps++;
    }
    pa_unit second = at(h, c)->fd;
    bool equal = c != at(h, head)->bk && size_of(h, second) == size_of(h, c);
    return equal ? second : c;
}

/* Smallest chunk of nb's own large bin that is large enough, 0 if there is none. */
PT_PART pa_unit pt_best_in_own_bin(pt *h, const pt_arena *a, uint64_t nb)
{
    pa_unit head = head_of(a, pt_bin_index(h, nb)), first = at(h, head)->fd;
    if (rules(h)->skip_list) {
        if (first == head || size_of(h, first) < nb)
            return 0;
        return best_skip(h, head, nb);
    }
    uint64_t steps = PATIENCE;
    for (pa_unit c = at(h, head)->bk; c != head && steps; c = at(h, c)->bk, steps--) {
        h->base.count_steps++;
        if (size_of(h, c) >= nb)
            return c;
    }
    return 0;
}

/* Last chunk of the lowest bin above `above` that holds any, 0 if none does. */
PT_PART pa_unit pt_scan_bins(pt *h, pt_arena *a, uint32_t above)
{
    for (uint32_t bin = above + 1; bin < BINS;) {
        uint32_t word = a->binmap[bin >> 5] >> (bin & 31);
        if (!word) {
            bin = (bin | 31) + 1;
            continue;
        }
        bin += (uint32_t)__builtin_ctz(word);
        if (bin >= BINS)
            break;
        pa_unit last = at(h, head_of(a, bin))->bk;
        if (last != head_of(a, bin))
            return last;
        a->binmap[bin >> 5] &= ~(1u << (bin & 31));
        bin++;
    }
    return 0;
}

#endif
