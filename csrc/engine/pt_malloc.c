/* SPDX-License-Identifier: MIT
 *
 * pt_malloc.c -- finding a chunk: fastbin, small bin, unsorted list, large bins, top, the kernel.
 *
 * Models _int_malloc of glibc's malloc.c.  Everything that needs the kernel is the last step, so
 * only pt_sysmalloc can stop.
 */
#include "pt.h"

enum { MAX_BINNED = 10000 };

/* Take c out of circulation: the chunk after it learns that it is in use. */
static inline void claim(pt *h, pt_arena *a, pa_unit c)
{
    set_in_use(h, c, size_of(h, c));
    if (a->index)
        at(h, c)->size |= N_ARENA;
}

static inline uint32_t arena_flag(const pt_arena *a)
{
    return a->index ? N_ARENA : 0;
}

bool pt_tcache_put(pt *h, pt_thread *t, pa_unit c, uint32_t index)
{
    pt_tcache *tc = &t->tcache;
    if (!tc->alive || index >= h->mp.tcache_bins || tc->count[index] >= h->mp.tcache_count)
        return false;
    at(h, c)->fd = tc->entry[index];
    at(h, c)->bk = TCACHE_KEY;
    touch(h, c + 1);
    tc->entry[index] = c;
    tc->count[index]++;
    touch_tcache(h, tc);
    return true;
}

static pt_thread *current(pt *h)
{
    return &h->threads[h->base.thread];
}

/* Only a bin that is reached by requests can be stashed into. */
static bool can_stash(pt *h, uint64_t nb)
{
    pt_tcache *tc = &current(h)->tcache;
    uint32_t index = tcache_index(h, nb);
    return tc->alive && index < h->mp.tcache_bins && tc->count[index] < h->mp.tcache_count;
}

static pa_unit pop_fast(pt *h, pt_arena *a, uint32_t index)
{
    pa_unit c = a->fast[index];
    if (c) {
        a->fast[index] = at(h, c)->fd;
        a->count_fast--;
        a->bytes_fast -= bytes_of(h, size_of(h, c));
    }
    return c;
}

static pa_unit from_fastbin(pt *h, pt_arena *a, uint64_t nb)
{
    uint32_t index = fast_index(nb);
    pa_unit c = pop_fast(h, a, index);
    if (!c)
        return 0;
    while (a->fast[index] && can_stash(h, nb))
        pt_tcache_put(h, current(h), pop_fast(h, a, index), tcache_index(h, nb));
    return c;
}

static pa_unit pop_small(pt *h, pt_arena *a, pa_unit head)
{
    pa_unit c = at(h, head)->bk;
    if (c == head)
        return 0;
    pa_unit bk = at(h, c)->bk;
    a->count_in[1]--;
    a->units_in[1] -= size_of(h, c);
    set_bk(h, head, bk);
    set_fd(h, bk, head);
    claim(h, a, c);
    return c;
}

static pa_unit from_small_bin(pt *h, pt_arena *a, uint64_t nb)
{
    pa_unit head = a->bins + pt_bin_index(h, nb);
    pa_unit c = pop_small(h, a, head);
    if (!c)
        return 0;
    while (at(h, head)->bk != head && can_stash(h, nb))
        pt_tcache_put(h, current(h), pop_small(h, a, head), tcache_index(h, nb));
    return c;
}

/* Give the low part of c, which is on no list; the rest goes to the unsorted list. */
static void split(pt *h, pt_arena *a, pa_unit c, uint64_t nb, bool remember)
{
    uint64_t rest = size_of(h, c) - nb;
    if (rest < MIN_UNITS) {
        claim(h, a, c);
        return;
    }
    pa_unit r = c + (pa_unit)nb;
    set_head(h, c, nb, P_INUSE | arena_flag(a));
    set_head(h, r, rest, P_INUSE);
    set_foot(h, r, rest);
    pt_push_unsorted(h, a, r);
    if (remember)
        a->last_remainder = r;
}

static const char *unsorted_fault(const pt *h, const pt_arena *a, pa_unit c)
{
    if (h->pf->version < 229)
        return NULL;
    uint64_t size = size_of(h, c);
    pa_unit next = next_of(h, c);
    if (size < MIN_UNITS - 1 || bytes_of(h, size) > a->system_mem)
        return "malloc(): invalid size (unsorted)";
    uint64_t after = bytes_of(h, size_of(h, next));
    if (after < 2 * h->pf->word || after > a->system_mem)
        return "malloc(): invalid next size (unsorted)";
    if (at(h, next)->prev_size != size)
        return "malloc(): mismatching next->prev_size (unsorted)";
    if (at(h, at(h, c)->bk)->fd != c)
        return "malloc(): unsorted double linked list corrupted";
    if (prev_in_use(h, next))
        return "malloc(): invalid next->prev_inuse (unsorted)";
    return NULL;
}

typedef enum pass_end { PASS_DONE, PASS_TAKEN, PASS_ABORTED } pass_end;

/* Sort the unsorted list, oldest first, until something fits. */
static pass_end unsorted_pass(pt *h, pt_arena *a, uint64_t nb, pa_unit *out)
{
    pa_unit head = a->bins + UNSORTED;
    uint32_t index = tcache_index(h, nb), binned = 0;
    uint64_t stashed = 0;
    bool cached = false;
    for (pa_unit c; (c = at(h, head)->bk) != head;) {
        const char *fault = unsorted_fault(h, a, c);
        if (fault) {
            heap_abort(&h->base, fault);
            return PASS_ABORTED;
        }
        uint64_t size = size_of(h, c);
        if (is_small(h, nb) && at(h, c)->bk == head && c == a->last_remainder &&
            size > nb + MIN_UNITS) {
            pt_take_unsorted(h, a, c);
            split(h, a, c, nb, true);
            *out = c;
            return PASS_TAKEN;
        }
        pt_take_unsorted(h, a, c);
        if (size == nb) {
            claim(h, a, c);
            if (can_stash(h, nb)) {
                pt_tcache_put(h, current(h), c, index);
                cached = true;
                continue;
            }
            *out = c;
            return PASS_TAKEN;
        }
        pt_insert(h, a, c);
        stashed++;
        if (cached && h->mp.tcache_unsorted_limit && stashed > h->mp.tcache_unsorted_limit)
            break;
        if (++binned >= MAX_BINNED && h->pf->version >= 205)
            break;
    }
    if (!cached)
        return PASS_DONE;
    pt_tcache *tc = &current(h)->tcache;
    *out = tc->entry[index];
    tc->entry[index] = at(h, *out)->fd;
    tc->count[index]--;
    at(h, *out)->bk = 0;
    touch_tcache(h, tc);
    touch(h, *out + 1);
    return PASS_TAKEN;
}

static pa_unit take_binned(pt *h, pt_arena *a, pa_unit c, uint64_t nb, bool remember)
{
    const char *fault = pt_unlink(h, a, c);
    if (fault) {
        heap_abort(&h->base, fault);
        return REF_PENDING;
    }
    split(h, a, c, nb, remember);
    return c;
}

static pa_unit carve_top(pt *h, pt_arena *a, uint64_t nb)
{
    pa_unit c = a->top;
    uint64_t rest = size_of(h, c) - nb;
    uint64_t mapped_end = (h->base.brk + PAGE_BYTES - 1) & ~(uint64_t)(PAGE_BYTES - 1);
    if (a->contiguous && !a->index && address_of(h, c + (pa_unit)nb) + h->pf->word >= mapped_end) {
        heap_abort(&h->base, NULL); /* somebody moved the break below the top */
        return REF_PENDING;
    }
    a->top = c + (pa_unit)nb;
    set_head(h, c, nb, P_INUSE | arena_flag(a));
    set_head(h, a->top, rest, P_INUSE);
    return c;
}

static pa_unit search(pt *h, pt_arena *a, uint64_t nb)
{
    bool small = is_small(h, nb);
    for (;;) {
        pa_unit c = 0;
        pass_end end = unsorted_pass(h, a, nb, &c);
        if (end != PASS_DONE)
            return end == PASS_TAKEN ? c : REF_PENDING;
        if (!small && (c = pt_best_in_own_bin(h, a, nb)))
            return take_binned(h, a, c, nb, false);
        if ((c = pt_scan_bins(h, a, pt_bin_index(h, nb))))
            return take_binned(h, a, c, nb, small);
        if (a->top && size_of(h, a->top) >= nb + MIN_UNITS) {
            if (h->pf->version >= 229 && bytes_of(h, size_of(h, a->top)) > a->system_mem) {
                heap_abort(&h->base, "malloc(): corrupted top size");
                return REF_PENDING;
            }
            return carve_top(h, a, nb);
        }
        if (!a->have_fast || (h->pf->version < 205 && !small))
            return 0;
        if (!pt_consolidate(h, a))
            return REF_PENDING;
    }
}

pa_unit pt_int_malloc(pt *h, pt_arena *a, uint64_t nb)
{
    pa_unit c;
    if (nb <= h->max_fast && (c = from_fastbin(h, a, nb)))
        return c;
    if (is_small(h, nb)) {
        if ((c = from_small_bin(h, a, nb)))
            return c;
    } else if (a->have_fast && !pt_consolidate(h, a)) {
        return REF_PENDING;
    }
    c = search(h, a, nb);
    return c ? c : pt_sysmalloc(h, a, nb);
}
