/* SPDX-License-Identifier: MIT
 *
 * pt_trim.c -- giving memory back to the kernel: the end of the main heap, pages inside free chunks.
 *
 * Models systrim and malloc_trim of glibc's malloc.c.
 */
#include "pt.h"

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

/* The bytes too many in a top, by the library's own arithmetic, which wraps around. */
static uint64_t surplus(const pt *h, uint64_t top, uint64_t pad)
{
    uint64_t mask = size_mask(h), least = bytes_of(h, MIN_UNITS);
    uint64_t page = h->mp.huge_page ? h->mp.huge_page : PAGE_BYTES;
    if (!h->pf->trim_quirk) { /* up to 2.18; a negative result is none */
        uint64_t rest = (top - pad - least + page - 1) & mask;
        uint64_t extra = (rest / page - 1) * page & mask;
        return extra > mask >> 1 ? 0 : extra;
    }
    uint64_t area = (top - least - 1) & mask;
    return area <= pad ? 0 : ((area - pad) & mask) & ~(page - 1);
}

/* By how much systrim() would move the break down: negative is up, which is 2.19's quirk. */
static int64_t trimmable(const pt *h, uint64_t top, uint64_t end, uint64_t pad)
{
    uint64_t mask = size_mask(h), extra = surplus(h, top, pad), brk = (end - extra) & mask;
    bool wraps = brk < end && extra > (mask >> 1) + 1; /* it looks like a growth, which fails */
    return wraps || h->base.brk != end ? 0 : (int64_t)(end - brk);
}

/* The kernel takes whole pages; what comes in their place later is zero. */
static void clear_pages(pt *h, uint64_t from, uint64_t to)
{
    from = (from + PAGE_BYTES - 1) & ~(uint64_t)(PAGE_BYTES - 1);
    if (to > from)
        pt_clear(h, from, to - from);
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
    clear_pages(h, end - extra, end);
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
    clear_pages(h, t.start, t.end);
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
    if (h->pf->version < 204 && !h->initialised) {
        heap_signal(&h->base, 8); /* it divides by a page size that is not known yet */
        return PENDING;
    }
    for (uint32_t i = 0; i < (old ? 1 : h->count_arenas); i++) {
        pt_arena *a = &h->arenas[i];
        if (a->corrupt)
            continue;
        if (!pt_consolidate(h, a))
            return PENDING;
        if (!old)
            given |= discard_arena(h, a) != 0;
        if (!i)
            given |= pt_systrim(h, pad);
    }
    return given;
}
