/* SPDX-License-Identifier: MIT
 *
 * pt_free.h -- giving chunks back: tcache, fastbin, merging with neighbours.  A template, see
 * pt_chunk.h.
 *
 * Models _int_free and malloc_consolidate of glibc's malloc.c, with the integrity checks in the
 * library's order.
 */
#ifndef PA_PT_FREE_H
#define PA_PT_FREE_H

#include "pt_bins.h"
#include "pt_tcache.h"

/* An arena with an error is not used again, from 2.21 to 2.25. */
static inline bool fail(pt *h, const char *text, pa_unit c)
{
    if (rules(h)->version >= 221 && rules(h)->version < 226)
        pt_arena_of(h, c)->corrupt = true;
    return pt_fail(h, text, mem_of(h, c));
}

/* The size field as the library reads it, flag included: a fence of 2 words passes as larger. */
static inline uint64_t raw_bytes(const pt *h, pa_unit c)
{
    return bytes_of(h, size_of(h, c)) | (at(h, c)->size & P_INUSE);
}

/* A freed block is overwritten. */
static inline void perturb(pt *h, pa_unit c)
{
    if (!CALM && h->mp.perturb)
        heap_touch_range(&h->base, mem_of(h, c), bytes_of(h, size_of(h, c)) - 2 * rules(h)->word);
}

static inline const char *fast_fault(const pt *h, const pt_arena *a, pa_unit c)
{
    if (CALM || rules(h)->version < 204)
        return NULL;
    uint64_t next = raw_bytes(h, next_of(h, c));
    if (next <= 2 * rules(h)->word || next >= a->system_mem)
        return pt_is_memory(h, address_of(h, next_of(h, c)) + rules(h)->word)
                   ? "free(): invalid next size (fast)"
                   : pt_fault;
    return a->fast[fast_index(size_of(h, c))] == c ? "double free or corruption (fasttop)" : NULL;
}

static inline void push_fast(pt *h, pt_arena *a, pa_unit c)
{
    uint64_t size = size_of(h, c);
    pa_unit *bin = &a->fast[fast_index(size)];
    a->have_fast = true;
    a->count_fast++;
    a->bytes_fast += bytes_of(h, size);
    at(h, c)->fd = *bin;
    touch_behind(h, c, 1);
    *bin = c;
}

static inline const char *free_fault(const pt *h, const pt_arena *a, pa_unit c)
{
    if (CALM || rules(h)->version < 204)
        return NULL;
    if (c == a->top)
        return "double free or corruption (top)";
    pa_unit next = next_of(h, c);
    if (a->contiguous &&
        address_of(h, next) >= address_of(h, a->top) + bytes_of(h, size_of(h, a->top)))
        return "double free or corruption (out)";
    if (!prev_in_use(h, next))
        return "double free or corruption (!prev)";
    uint64_t size = raw_bytes(h, next);
    if (size <= 2 * rules(h)->word || size >= a->system_mem)
        return "free(): invalid next size (normal)";
    return NULL;
}

/* 2.3.3 checks nothing: of a block that was freed twice, what seems to follow may be no memory. */
static inline bool is_beyond(const pt *h, pa_unit c)
{
    return rules(h)->version < 204 && !pt_is_memory(h, address_of(h, c) + rules(h)->word);
}

/* Merge c with free neighbours and put it where it belongs; *merged gets the resulting chunk. */
static inline bool coalesce(pt *h, pt_arena *a, pa_unit c, bool to_bin, const char *mismatch,
                            pa_unit *merged)
{
    const bool negative = rules(h)->version < 204; /* sizes may be, and nobody notices */
    uint64_t size = size_of(h, c);
    pa_unit next = negative ? c + (pa_unit)signed_size(h, c) : next_of(h, c);
    const char *fault = NULL;
    if (is_beyond(h, next))
        return fail(h, pt_fault, c);
    uint64_t next_size = negative ? signed_size(h, next) : size_of(h, next);
    if (!prev_in_use(h, c)) {
        uint64_t before = at(h, c)->prev_size;
        c -= (pa_unit)before;
        size += before;
        if (!CALM && rules(h)->version >= 229 && size_of(h, c) != before)
            return fail(h, mismatch, c);
        fault = pt_unlink(h, a, c);
    }
    *merged = c;
    if (fault)
        return pt_fail(h, fault, address_of(h, c));
    if (next == a->top) {
        a->top = c;
        reset_head(h, c, size + next_size, P_INUSE);
        return true;
    }
    if (is_beyond(h, next + (pa_unit)next_size))
        return fail(h, pt_fault, c);
    if (!prev_in_use(h, next + (pa_unit)next_size)) {
        fault = pt_unlink(h, a, next);
        if (fault)
            return pt_fail(h, fault, address_of(h, next));
        size += next_size;
    } else {
        at(h, next)->size &= ~(uint32_t)P_INUSE;
        touch_again(h, next);
    }
    reset_head(h, c, size, P_INUSE);
    set_foot(h, c, size);
    if (to_bin && is_small(h, size))
        pt_push_small_front(h, a, c);
    else
        pt_push_unsorted(h, a, c);
    return true;
}

static inline bool merge_fast_chunk(pt *h, pt_arena *a, pa_unit c)
{
    pa_unit merged = 0;
    return coalesce(h, a, c, false, "corrupted size vs. prev_size in fastbins", &merged);
}

/* Up to 2.26 a fastbin limit of 0 means "never initialised": the arena forgets all it has. */
static inline void initialise_again(pt *h, pt_arena *a)
{
    h->damaged = true;
    if (!a->index)
        h->max_fast = rules(h)->fast_default >> unit_shift(h);
    pt_init_bins(h, a);
    for (uint32_t i = 0; i < 3; i++)
        a->units_in[i] = a->count_in[i] = 0;
    a->top = 0;
}

/* malloc_consolidate(): empty the fastbins, merging each chunk. */
PT_PART bool pt_consolidate(pt *h, pt_arena *a)
{
    if (!CALM && !h->main_ready && !a->index) {
        pt_init_main(h);
        return true;
    }
    if (!h->max_fast && rules(h)->version < 227) {
        initialise_again(h, a);
        return true;
    }
    if (fast_limit(h, a) == NO_FAST && rules(h)->version < 204)
        return pt_fail(h, NULL, 0); /* the loop over the fastbins misses its end */
    a->have_fast = false;
    uint64_t steps = a->count_fast + PATIENCE;
    for (uint32_t i = 0; i < FASTBINS; i++) {
        pa_unit c = a->fast[i];
        a->fast[i] = 0;
        while (c) {
            pa_unit next = at(h, c)->fd;
            if (!CALM && !steps--)
                return pt_fail(h, NULL, 0);
            if (!CALM && rules(h)->version >= 227 && fast_index(size_of(h, c)) != i)
                return fail(h, "malloc_consolidate(): invalid chunk size", c);
            a->count_fast--;
            h->base.count_steps++;
            a->bytes_fast -= bytes_of(h, size_of(h, c));
            if (!merge_fast_chunk(h, a, c))
                return false;
            c = next;
        }
    }
    return true;
}

static inline bool after_large_merge(pt *h, pt_arena *a, pa_unit merged)
{
    if (bytes_of(h, size_of(h, merged)) < CONSOLIDATE_BYTES)
        return true;
    if (a->have_fast && !pt_consolidate(h, a))
        return false;
    if (!CALM && a->index)
        return pt_heap_trim(h, a, a->top);
    if (a->top && pt_worth_trimming(h, bytes_of(h, size_of(h, a->top))))
        pt_systrim(h, h->mp.top_pad);
    return true;
}

/* The part of a free behind the caches (_int_free_merge_chunk). */
PT_PART bool pt_merge_free(pt *h, pt_arena *a, pa_unit c)
{
    const char *fault = free_fault(h, a, c);
    if (fault)
        return fail(h, fault, c);
    perturb(h, c);
    pa_unit merged = 0;
    if (!coalesce(h, a, c, rules(h)->small_to_bin,
                  "corrupted size vs. prev_size while consolidating", &merged))
        return false;
    return after_large_merge(h, a, merged);
}

/* What a free says to a size that no chunk has.  Up to 2.41 a size of 0 makes the chunk seem to
 * reach beyond the end of memory; since 2.42 only the lower bound is looked at. */
static inline const char *size_fault(const pt *h, pa_unit c)
{
    uint64_t size = size_of(h, c);
    bool ragged = size & ((1u << align_units_log(h)) - 1) && rules(h)->version < 242;
    if (CALM || rules(h)->version < 204 || (size >= MIN_UNITS && !ragged))
        return NULL;
    return size || rules(h)->version >= 242 ? "free(): invalid size" : "free(): invalid pointer";
}

/* _int_free(): internal frees are those the library does itself. */
PT_PART bool pt_int_free(pt *h, pt_arena *a, pa_unit c, bool internal)
{
    if (!internal || rules(h)->internal_frees_cached) {
        bool taken = false;
        const char *fault = size_fault(h, c);
        if (!fault)
            fault = pt_tcache_give(h, c, &taken);
        if (fault)
            return fail(h, fault, c);
        if (taken)
            return true;
    }
    h->base.count_arena_calls++;
    uint64_t size = size_of(h, c);
    if (!size && rules(h)->version < 204) /* complains on stderr and goes on */
        return true;
    if (size < MIN_UNITS) /* a damaged heap; before the checks it would be damaged more */
        return pt_fail(h, NULL, 0);
    if (size > fast_limit(h, a))
        return pt_merge_free(h, a, c);
    const char *fault = fast_fault(h, a, c);
    if (fault)
        return fail(h, fault, c);
    perturb(h, c);
    push_fast(h, a, c);
    return true;
}

#endif
