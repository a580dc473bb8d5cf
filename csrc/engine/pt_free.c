/* SPDX-License-Identifier: MIT
 *
 * pt_free.c -- giving chunks back: tcache, fastbin, merging with neighbours, trimming the top.
 *
 * Models _int_free, malloc_consolidate, systrim and malloc_trim of glibc's malloc.c, with the
 * integrity checks in the library's order.
 */
#include "pt.h"

#include <stdio.h>

/* The library aborts: its message in the words of its time; without one, a plain fault. */
bool pt_fail(pt *h, const char *text, uint64_t address)
{
    static const char *const words[] = {
        [WORDS_DETECTED] = "*** glibc detected *** %s: %s: 0x%0*llx ***",
        [WORDS_ERROR_IN] = "*** Error in `%s': %s: 0x%0*llx ***",
    };
    if (!text || h->pf->words == WORDS_BARE) {
        heap_abort(&h->base, text);
        return false;
    }
    snprintf(h->last_words, sizeof h->last_words, words[h->pf->words], h->base.program, text,
             (int)(2 * h->pf->word), (unsigned long long)address);
    heap_abort(&h->base, h->last_words);
    return false;
}

static bool fail(pt *h, const char *text, pa_unit c)
{
    return pt_fail(h, text, mem_of(h, c));
}

/* The size field as the library reads it, flag included: a fence of 2 words passes as larger. */
static uint64_t raw_bytes(const pt *h, pa_unit c)
{
    return bytes_of(h, size_of(h, c)) | (at(h, c)->size & P_INUSE);
}

/* A freed block is overwritten. */
static void perturb(pt *h, pa_unit c)
{
    if (h->mp.perturb)
        heap_touch_range(&h->base, mem_of(h, c), bytes_of(h, size_of(h, c)) - 2 * h->pf->word);
}

static bool free_fast(pt *h, pt_arena *a, pa_unit c)
{
    uint64_t size = size_of(h, c), next = raw_bytes(h, next_of(h, c));
    bool checks = h->pf->version >= 204;
    if (checks && (next <= 2 * h->pf->word || next >= a->system_mem))
        return fail(h, "free(): invalid next size (fast)", c);
    pa_unit *bin = &a->fast[fast_index(size)];
    if (checks && *bin == c)
        return fail(h, "double free or corruption (fasttop)", c);
    perturb(h, c);
    a->have_fast = true;
    a->count_fast++;
    a->bytes_fast += bytes_of(h, size);
    set_fd(h, c, *bin);
    *bin = c;
    return true;
}

static const char *free_fault(const pt *h, const pt_arena *a, pa_unit c)
{
    if (h->pf->version < 204)
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
    if (size <= 2 * h->pf->word || size >= a->system_mem)
        return "free(): invalid next size (normal)";
    return NULL;
}

/* Merge c with free neighbours and put it where it belongs; *merged gets the resulting chunk. */
static bool coalesce(pt *h, pt_arena *a, pa_unit c, bool to_bin, pa_unit *merged)
{
    uint64_t size = size_of(h, c);
    pa_unit next = next_of(h, c);
    uint64_t next_size = h->pf->version < 204 ? signed_size(h, next) : size_of(h, next);
    const char *fault = NULL;
    if (!prev_in_use(h, c)) {
        uint64_t before = at(h, c)->prev_size;
        c -= (pa_unit)before;
        size += before;
        if (h->pf->version >= 229 && size_of(h, c) != before)
            return fail(h, "corrupted size vs. prev_size while consolidating", c);
        fault = pt_unlink(h, a, c);
    }
    *merged = c;
    if (fault)
        return pt_fail(h, fault, address_of(h, c));
    if (next == a->top) {
        a->top = c;
        set_head(h, c, size + next_size, P_INUSE);
        return true;
    }
    if (!prev_in_use(h, next + (pa_unit)next_size)) {
        fault = pt_unlink(h, a, next);
        if (fault)
            return pt_fail(h, fault, address_of(h, next));
        size += next_size;
    } else {
        at(h, next)->size &= ~(uint32_t)P_INUSE;
        touch(h, next);
    }
    set_head(h, c, size, P_INUSE);
    set_foot(h, c, size);
    if (to_bin && is_small(h, size))
        pt_push_small_front(h, a, c);
    else
        pt_push_unsorted(h, a, c);
    return true;
}

static bool merge_fast_chunk(pt *h, pt_arena *a, pa_unit c)
{
    pa_unit merged;
    at(h, c)->size &= ~(uint32_t)N_ARENA;
    return coalesce(h, a, c, false, &merged);
}

/* Up to 2.26 a fastbin limit of 0 means "never initialised": the arena forgets all it has. */
static void initialise_again(pt *h, pt_arena *a)
{
    h->max_fast = h->pf->fast_default >> h->unit_shift;
    pt_init_bins(h, a);
    for (uint32_t i = 0; i < 3; i++)
        a->units_in[i] = a->count_in[i] = 0;
    a->top = 0;
}

/* malloc_consolidate(): empty the fastbins, merging each chunk. */
bool pt_consolidate(pt *h, pt_arena *a)
{
    if (!h->max_fast && h->pf->version < 227) {
        initialise_again(h, a);
        return true;
    }
    if (h->max_fast == NO_FAST && h->pf->version < 204)
        return pt_fail(h, NULL, 0); /* the loop over the fastbins misses its end */
    a->have_fast = false;
    uint64_t steps = a->count_fast + PATIENCE;
    for (uint32_t i = 0; i < FASTBINS; i++) {
        pa_unit c = a->fast[i];
        a->fast[i] = 0;
        while (c) {
            pa_unit next = at(h, c)->fd;
            if (!steps--)
                return pt_fail(h, NULL, 0);
            if (h->pf->version >= 227 && fast_index(size_of(h, c)) != i)
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

/* Is a top of so many bytes large enough to give pages back? */
bool pt_worth_trimming(pt *h, uint64_t top)
{
    if (top < h->mp.trim_threshold) {
        h->top_kept = top > h->top_kept ? top : h->top_kept;
        return false;
    }
    h->top_trimmed = top < h->top_trimmed || !h->top_trimmed ? top : h->top_trimmed;
    return true;
}

static bool after_large_merge(pt *h, pt_arena *a, pa_unit merged)
{
    if (bytes_of(h, size_of(h, merged)) < CONSOLIDATE_BYTES)
        return true;
    if (a->have_fast && !pt_consolidate(h, a))
        return false;
    if (a->index)
        return pt_heap_trim(h, a, a->top);
    if (a->top && pt_worth_trimming(h, bytes_of(h, size_of(h, a->top))))
        pt_systrim(h, h->mp.top_pad);
    return true;
}

/* The part of a free behind the caches (_int_free_merge_chunk). */
bool pt_merge_free(pt *h, pt_arena *a, pa_unit c)
{
    const char *fault = free_fault(h, a, c);
    if (fault)
        return fail(h, fault, c);
    perturb(h, c);
    pa_unit merged;
    at(h, c)->size &= ~(uint32_t)N_ARENA;
    if (!coalesce(h, a, c, h->pf->small_to_bin, &merged))
        return false;
    return after_large_merge(h, a, merged);
}

/* What a free says to a size that no chunk has.  Up to 2.41 a size of 0 makes the chunk seem to
 * reach beyond the end of memory; since 2.42 only the lower bound is looked at. */
static const char *size_fault(const pt *h, pa_unit c)
{
    uint64_t size = size_of(h, c);
    bool ragged = size & ((1u << h->align_units_log) - 1) && h->pf->version < 242;
    if (h->pf->version < 204 || (size >= MIN_UNITS && !ragged))
        return NULL;
    return size || h->pf->version >= 242 ? "free(): invalid size" : "free(): invalid pointer";
}

/* _int_free(): internal frees are those the library does itself. */
bool pt_int_free(pt *h, pt_arena *a, pa_unit c, bool internal)
{
    if (!internal || h->pf->internal_frees_cached) {
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
    if (!size && h->pf->version < 204) /* complains on stderr and goes on */
        return true;
    if (size < MIN_UNITS) /* a damaged heap; before the checks it would be damaged more */
        return pt_fail(h, NULL, 0);
    if (size <= h->max_fast)
        return free_fast(h, a, c);
    return pt_merge_free(h, a, c);
}

/* By how much systrim() would move the break down: negative is up, which is 2.19's quirk. */
static int64_t trimmable(const pt *h, uint64_t top, uint64_t end, uint64_t pad)
{
    uint64_t mask = size_mask(h), min = bytes_of(h, MIN_UNITS);
    if (!h->pf->trim_quirk && top <= min)
        return 0;
    uint64_t area = (top - min - 1) & mask;
    if (area <= pad || h->base.brk != end)
        return 0;
    uint64_t page = h->mp.huge_page ? h->mp.huge_page : PAGE_BYTES;
    uint64_t extra = ((area - pad) & mask) & ~(page - 1);
    return (int64_t)(end - ((end - extra) & mask));
}

/* systrim(): give whole pages at the end of the main heap back; true if any were. */
bool pt_systrim(pt *h, uint64_t pad)
{
    pt_arena *a = &h->arenas[0];
    if (!a->top)
        return false;
    uint64_t top = bytes_of(h, size_of(h, a->top)), end = address_of(h, a->top) + top;
    uint64_t extra = (uint64_t)trimmable(h, top, end, pad);
    if (!extra || !heap_move_break(&h->base, end - extra))
        return false;
    a->system_mem -= extra;
    set_head(h, a->top, (top - extra) >> h->unit_shift, P_INUSE);
    return true;
}

/* Pages that lie whole inside a free chunk behind its header. */
static pa_trim discardable(const pt *h, uint64_t start, uint64_t end)
{
    const uint64_t mask = PAGE_BYTES - 1;
    pa_trim t = {.start = (start + 6 * h->pf->word + mask) & ~mask, .end = end & ~mask};
    return t.start < t.end ? t : (pa_trim){0};
}

static uint64_t discard_chunk(pt *h, pa_unit c)
{
    pa_trim t = discardable(h, address_of(h, c), address_of(h, next_of(h, c)));
    if (h->base.mm && t.start < t.end)
        heap_log(&h->base, EFFECT_DISCARD, t.start >> 12, (t.end - t.start) >> 12);
    return t.end - t.start;
}

/* What malloc_trim(0) does with a run of free chunks, once they are one. */
pa_trim pt_trim_run(const pa_heap *heap, const pa_run *run)
{
    const pt *h = (const pt *)heap;
    if (!run->top)
        return h->pf->version < 208 ? (pa_trim){0} : discardable(h, run->start, run->end);
    int64_t bytes = run->arena ? 0 : trimmable(h, run->end - run->start, run->end, 0);
    const uint64_t mask = PAGE_BYTES - 1, keep = run->end - (uint64_t)bytes;
    uint64_t start = (keep + mask) & ~mask, end = (run->end + mask) & ~mask;
    return (pa_trim){.start = start, .end = start < end ? end : start, .bytes = bytes};
}

static uint64_t discard_arena(pt *h, pt_arena *a)
{
    uint64_t given = 0;
    uint32_t from = pt_bin_index(h, PAGE_BYTES >> h->unit_shift);
    for (uint32_t bin = UNSORTED; bin < BINS; bin++) {
        if (bin != UNSORTED && bin < from)
            continue;
        pa_unit head = a->bins + bin;
        uint64_t steps = a->count_in[0] + a->count_in[2] + PATIENCE;
        for (pa_unit c = at(h, head)->bk; c != head && steps; c = at(h, c)->bk, steps--)
            given += discard_chunk(h, c);
    }
    return given;
}

/* malloc_trim(): 1 if any memory went back, PENDING on abort. */
uint64_t pt_trim(pt *h, uint64_t pad)
{
    bool old = h->pf->version < 208;
    uint64_t given = 0;
    for (uint32_t i = 0; i < (old ? 1 : h->count_arenas); i++) {
        pt_arena *a = &h->arenas[i];
        if (!pt_consolidate(h, a))
            return PENDING;
        if (!old)
            given |= discard_arena(h, a) != 0;
        if (!i)
            given |= pt_systrim(h, pad);
    }
    return given;
}
