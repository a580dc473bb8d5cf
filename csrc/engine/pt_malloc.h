/* SPDX-License-Identifier: MIT
 *
 * pt_malloc.h -- finding a chunk: fastbin, small bin, unsorted list, large bins, top, the kernel.
 * A template, see pt_chunk.h.
 *
 * Models _int_malloc of glibc's malloc.c.  Everything that needs the kernel is the last step, so
 * only pt_sysmalloc can stop.
 */
#ifndef PA_PT_MALLOC_H
#define PA_PT_MALLOC_H

#include "pt_bins.h"
#include "pt_free.h"
#include "pt_tcache.h"

enum { MAX_BINNED = 10000 };

static inline uint32_t arena_flag(const pt_arena *a)
{
    return !CALM && a->index ? N_ARENA : 0;
}

/* Take c out of circulation: the chunk after it learns that it is in use. */
static inline void claim(pt *h, pt_arena *a, pa_unit c)
{
    set_in_use(h, c, size_of(h, c));
    at(h, c)->size |= arena_flag(a);
}

static inline pa_unit pop_fast(pt *h, pt_arena *a, uint32_t index)
{
    pa_unit c = a->fast[index];
    if (c) {
        a->fast[index] = at(h, c)->fd;
        a->count_fast--;
        a->bytes_fast -= bytes_of(h, size_of(h, c));
    }
    return c;
}

static inline pa_unit from_fastbin(pt *h, pt_arena *a, uint64_t nb)
{
    uint32_t index = fast_index(nb);
    pa_unit c = pop_fast(h, a, index);
    if (!c)
        return 0;
    for (uint32_t room = pt_tcache_room(h, nb); room && a->fast[index]; room--)
        pt_tcache_stash(h, pop_fast(h, a, index), nb);
    return c;
}

static inline pa_unit pop_small(pt *h, pt_arena *a, pa_unit head)
{
    pa_unit c = at(h, head)->bk;
    if (c == head)
        return 0;
    pa_unit bk = at(h, c)->bk;
    a->count_in[1]--;
    a->units_in[1] -= size_of(h, c);
    at(h, head)->bk = bk;
    at(h, bk)->fd = head;
    touch_again(h, bk + 1);
    claim(h, a, c);
    return c;
}

/* c goes to the program, more of its size to the tcache. */
static inline pa_unit stash_small(pt *h, pt_arena *a, uint64_t nb, pa_unit c)
{
    pa_unit head = a->bins + pt_bin_index(h, nb);
    for (uint32_t room = pt_tcache_room(h, nb); room && at(h, head)->bk != head; room--)
        pt_tcache_stash(h, pop_small(h, a, head), nb);
    return c;
}

static inline pa_unit make_tcache(pt *h, pt_arena *a, pt_held held);

/* Does this find make the tcache?  In 2.43 an exact fit of the arena does. */
static inline bool makes_tcache(const pt *h)
{
    return rules(h)->birth == BIRTH_FREE && pt_tcache_unborn(h);
}

static inline pa_unit from_small_bin(pt *h, pt_arena *a, uint64_t nb)
{
    pa_unit c = pop_small(h, a, a->bins + pt_bin_index(h, nb));
    if (!c)
        return 0;
    if (makes_tcache(h) && (nb - MIN_UNITS) >> align_units_log(h) < h->mp.tcache_bins)
        return make_tcache(h, a, (pt_held){.chunk = c, .arena = a->index, .nb = nb});
    return stash_small(h, a, nb, c);
}

/* Give the low part of c, which is on no list; the rest goes to the unsorted list. */
static inline void split(pt *h, pt_arena *a, pa_unit c, uint64_t nb, bool remember)
{
    uint64_t rest = size_of(h, c) - nb;
    if (rest < MIN_UNITS) {
        claim(h, a, c);
        return;
    }
    pa_unit r = c + (pa_unit)nb;
    reset_head(h, c, nb, P_INUSE | arena_flag(a));
    set_head(h, r, rest, P_INUSE);
    set_foot(h, r, rest);
    pt_push_unsorted(h, a, r);
    if (remember)
        a->last_remainder = r;
}

static inline const char *unsorted_fault(const pt *h, const pt_arena *a, pa_unit c)
{
    if (CALM || rules(h)->version < 229)
        return NULL;
    uint64_t size = size_of(h, c);
    pa_unit next = next_of(h, c);
    if (size < MIN_UNITS - 1 || bytes_of(h, size) > a->system_mem)
        return "malloc(): invalid size (unsorted)";
    uint64_t after = bytes_of(h, size_of(h, next));
    if (after < 2 * rules(h)->word || after > a->system_mem)
        return "malloc(): invalid next size (unsorted)";
    if (at(h, next)->prev_size != size)
        return "malloc(): mismatching next->prev_size (unsorted)";
    if (at(h, at(h, c)->bk)->fd != c)
        return "malloc(): unsorted double linked list corrupted";
    if (prev_in_use(h, next))
        return "malloc(): invalid next->prev_inuse (unsorted)";
    return NULL;
}

/* Sort the unsorted list, oldest first, until something fits: a chunk, REF_PENDING or 0.
 * cached: chunks that fit are in the tcache already; binned: chunks sorted so far. */
static inline pa_unit unsorted_pass(pt *h, pt_arena *a, uint64_t nb, uint32_t binned, bool cached)
{
    pa_unit head = a->bins + UNSORTED;
    uint64_t steps = a->count_in[0] + PATIENCE;
    for (pa_unit c; (c = at(h, head)->bk) != head;) {
        if (!CALM && (!steps-- || c < h->low)) {
            heap_abort(&h->base, NULL);
            return REF_PENDING;
        }
        const char *fault = unsorted_fault(h, a, c);
        if (fault) {
            heap_abort(&h->base, fault);
            return REF_PENDING;
        }
        h->base.count_steps++;
        uint64_t size = size_of(h, c);
        if (is_small(h, nb) && at(h, c)->bk == head && c == a->last_remainder &&
            size > nb + MIN_UNITS) {
            pt_take_unsorted(h, a, c);
            split(h, a, c, nb, true);
            return c;
        }
        pt_take_unsorted(h, a, c);
        if (size == nb) {
            claim(h, a, c);
            if (makes_tcache(h))
                return make_tcache(h, a, (pt_held){c, a->index, true, binned, nb});
            if (!pt_tcache_room(h, nb))
                return c;
            pt_tcache_stash(h, c, nb);
            cached = true;
            continue;
        }
        pt_insert(h, a, c);
        binned++;
        if (cached && h->mp.tcache_unsorted_limit && binned > h->mp.tcache_unsorted_limit)
            break;
        if (binned >= MAX_BINNED && rules(h)->version >= 205)
            break;
    }
    return cached ? pt_tcache_unstash(h, nb) : 0;
}

static inline pa_unit take_binned(pt *h, pt_arena *a, pa_unit c, uint64_t nb, bool remember)
{
    const char *fault = pt_unlink(h, a, c);
    if (fault) {
        pt_fail(h, fault, address_of(h, c));
        return REF_PENDING;
    }
    split(h, a, c, nb, remember);
    return c;
}

/* Somebody moved the break below where the top would begin. */
static inline bool top_is_lost(const pt *h, const pt_arena *a, uint64_t nb)
{
    uint64_t mapped_end = (h->base.brk + PAGE_BYTES - 1) & ~(uint64_t)(PAGE_BYTES - 1);
    uint64_t header = address_of(h, a->top + (pa_unit)nb) + rules(h)->word;
    return a->contiguous && !a->index && header >= mapped_end;
}

static inline pa_unit carve_top(pt *h, pt_arena *a, uint64_t nb)
{
    pa_unit c = a->top;
    uint64_t rest = size_of(h, c) - nb;
    if (!CALM && top_is_lost(h, a, nb)) {
        heap_abort(&h->base, NULL);
        return REF_PENDING;
    }
    a->top = c + (pa_unit)nb;
    reset_head(h, c, nb, P_INUSE | arena_flag(a));
    set_head(h, a->top, rest, P_INUSE);
    return c;
}

static inline pa_unit search(pt *h, pt_arena *a, uint64_t nb, uint32_t binned, bool cached)
{
    bool small = is_small(h, nb);
    for (;; binned = 0, cached = false) {
        pa_unit c = unsorted_pass(h, a, nb, binned, cached);
        if (c)
            return c;
        if (!small && (c = pt_best_in_own_bin(h, a, nb)))
            return take_binned(h, a, c, nb, false);
        if ((c = pt_scan_bins(h, a, pt_bin_index(h, nb))))
            return take_binned(h, a, c, nb, small);
        if (a->top && size_of(h, a->top) >= nb + MIN_UNITS) {
            if (!CALM && rules(h)->version >= 229 &&
                bytes_of(h, size_of(h, a->top)) > a->system_mem) {
                heap_abort(&h->base, "malloc(): corrupted top size");
                return REF_PENDING;
            }
            return carve_top(h, a, nb);
        }
        if (!a->have_fast || (rules(h)->version < 205 && !small))
            return pt_sysmalloc(h, a, nb);
        if (!pt_consolidate(h, a))
            return REF_PENDING;
    }
}

/* The tcache was made or could not be: go on with the chunk in hand. */
static inline pa_unit go_on(pt *h, pa_unit made)
{
    if (made == REF_PENDING)
        return REF_PENDING;
    pt_held held = h->held;
    pt_arena *a = &h->arenas[held.arena];
    h->held.chunk = 0;
    pt_tcache_install(h, made);
    if (!held.from_unsorted)
        return stash_small(h, a, held.nb, held.chunk);
    if (!pt_tcache_room(h, held.nb))
        return held.chunk;
    pt_tcache_stash(h, held.chunk, held.nb);
    return search(h, a, held.nb, held.binned, true);
}

/* Make the tcache in the middle of a search; while that runs, and if it fails, there is none. */
static inline pa_unit make_tcache(pt *h, pt_arena *a, pt_held held)
{
    h->held = held;
    h->threads[h->base.thread].tcache.dead = true;
    if (!h->mp.tcache_count)
        return go_on(h, 0);
    uint64_t chunk = bytes_of(h, request_units(h, rules(h)->tcache_bytes));
    return go_on(h, pt_int_malloc(h, a, request_units(h, chunk)));
}

/* The kernel's answer has come: a chunk, 0 or REF_PENDING for whoever asked. */
PT_PART pa_unit pt_malloc_resume(pt *h)
{
    pa_unit c = pt_sys_resume(h);
    return h->held.chunk ? go_on(h, c) : c;
}

PT_PART pa_unit pt_int_malloc(pt *h, pt_arena *a, uint64_t nb)
{
    pa_unit c;
    h->base.count_arena_calls++;
    if (nb <= fast_limit(h, a) && (c = from_fastbin(h, a, nb)))
        return c;
    if (is_small(h, nb)) {
        if ((c = from_small_bin(h, a, nb)))
            return c;
    } else if (a->have_fast && !pt_consolidate(h, a)) {
        return REF_PENDING;
    }
    return search(h, a, nb, 0, false);
}

#endif
