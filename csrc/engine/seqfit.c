/* SPDX-License-Identifier: MIT
 *
 * seqfit.c -- sequential fit: one free list in address order, searched from the front.
 *
 * The textbook allocator (Knuth 2.5 A; Wilson et al. 1995), in four policies that differ in one
 * function: first, best, next and worst fit.  It is here for comparison, and as the smallest
 * example of an allocator behind the seam.  Its rules, all of them:
 *
 *     request    a header word is added, the sum rounded up to units, at least MIN_UNITS
 *     search     the policy's choice among free blocks that are large enough; of equals the lowest
 *     split      the low part is given; a rest of at least MIN_UNITS stays in the list
 *     top        the block at the break is no member of the list and serves when nothing else fits;
 *                it grows by whole pages, just enough (plus top_pad), and always keeps MIN_UNITS
 *     free       merges with free neighbours, and with the top, at once
 *     next fit   the rover rests on the rest of the last split or, if there was none, on the next
 *                free block; a block that merges with the one under the rover takes the rover along
 *     realloc    shrinks in place; grows into a free upper neighbour or the top, moving the break
 *                if need be; else moves
 *     memalign   searches for size + alignment + MIN_UNITS and gives head and tail back
 */
#include "seqfit.h"
#include "fit.h"

#include <stdlib.h>
#include <string.h>

enum {
    PAGE = 4096,
    MOST_UNITS = 1 << 29, /* a size field holds less than this */
};

static const char *const names[] = {"first-fit", "best-fit", "next-fit", "worst-fit"};

/* ---- the break -------------------------------------------------------------------------------- */

/* The old top ends at a hole that is not ours: a fence spans the hole, the rest becomes free. */
static void fence_off(seqfit *h, pa_unit begin)
{
    pa_unit old = h->top, fence = h->end - 1;
    uint64_t units = fence - old;
    at(h, fence)->size = (begin - fence) << 3 | P_INUSE;
    touch(h, fence);
    h->top = begin;
    if (units < MIN_UNITS)
        set_size(h, old, units, true); /* one unit: lost */
    else
        fit_release(h, old, units);
}

/* Memory up to the break is ours; false: the model is at its limit. */
static bool take_in(seqfit *h, uint64_t from, uint64_t brk)
{
    pa_unit begin = unit_at(h, from + h->unit - 1), end = unit_at(h, brk);
    bool fits = !h->top || end - h->first < MOST_UNITS;
    h->base.error = fits ? pa_shadow_open(&h->sh, brk) : PA_ERR_LIMIT;
    if (h->base.error == PA_OK && !fit_room_for_marks(h, end))
        h->base.error = PA_ERR_HOST_NOMEM;
    if (h->base.error != PA_OK)
        return false;
    if (!h->top) {
        h->first = h->top = begin;
    } else if (begin != h->end) {
        set_size(h, begin, end - begin, true);
        fence_off(h, begin);
    }
    h->end = end;
    set_size(h, h->top, end - h->top, true);
    if (brk - h->base.brk_start > h->bytes_peak)
        h->bytes_peak = brk - h->base.brk_start;
    return true;
}

/* Where the break must be to carve nb units from the top. */
static uint64_t break_for(const seqfit *h, uint64_t nb)
{
    bool ours = h->top && h->base.brk == end_address(h);
    uint64_t have = ours ? size_of(h, h->top) : 0;
    uint64_t more = (nb + MIN_UNITS - have) * h->unit + h->top_pad;
    uint64_t brk = (h->base.brk + more + PAGE - 1) / PAGE * PAGE;
    return brk < h->base.brk ? 0 : brk;
}

/* ---- calls ------------------------------------------------------------------------------------ */

static uint64_t request_units(const seqfit *h, uint64_t bytes)
{
    uint64_t units = (bytes + h->word + h->unit - 1) / h->unit;
    return units < MIN_UNITS ? MIN_UNITS : units;
}

static bool request_fits(const seqfit *h, uint64_t bytes)
{
    return bytes <= (h->word == 8 ? (uint64_t)INT64_MAX : (uint64_t)INT32_MAX);
}

static uint64_t usable_bytes(const seqfit *h, pa_unit c)
{
    return (uint64_t)size_of(h, c) * h->unit - h->word;
}

static pa_unit block_of(const seqfit *h, uint64_t pointer)
{
    if (!h->top || pointer % h->unit || pointer < h->base.brk_start + h->unit ||
        pointer >= end_address(h))
        return NO_FIT;
    pa_unit c = unit_at(h, pointer - h->unit);
    return is_used(h, c) ? c : NO_FIT;
}

static uint64_t run(seqfit *h, const pa_call *call);

/* The call needs nb units of top: grow and run it again, or ask. */
static uint64_t grow_and_run(seqfit *h, const pa_call *call, uint64_t nb)
{
    uint64_t old = h->base.brk, brk = break_for(h, nb);
    if (!brk)
        return heap_finish(&h->base, 0);
    if (heap_move_break(&h->base, brk))
        return take_in(h, old, brk) ? run(h, call) : heap_finish(&h->base, 0);
    h->waiting = *call;
    return heap_ask(&h->base, PA_STOP_BRK, brk, brk - old, 0, 0);
}

static uint64_t call_malloc(seqfit *h, const pa_call *call)
{
    uint64_t nb = request_units(h, call->size);
    pa_unit c = fit_allocate(h, nb);
    if (c == NO_FIT)
        return grow_and_run(h, call, nb);
    if (call->op == PA_OP_CALLOC)
        heap_touch_range(&h->base, mem_of(h, c), call->size);
    return heap_finish(&h->base, mem_of(h, c));
}

static uint64_t alignment_of(const pa_call *call)
{
    return call->op == PA_OP_VALLOC || call->op == PA_OP_PVALLOC ? PAGE : call->arg;
}

/* The first unit in c from which on memory is aligned and the head is a block or nothing. */
static pa_unit aligned_in(const seqfit *h, pa_unit c, uint64_t alignment)
{
    uint64_t mem = (mem_of(h, c) + alignment - 1) / alignment * alignment;
    pa_unit lead = (pa_unit)((mem - mem_of(h, c)) / h->unit);
    if (lead && lead < MIN_UNITS)
        lead += (pa_unit)(alignment / h->unit);
    return c + lead;
}

static uint64_t call_memalign(seqfit *h, const pa_call *call)
{
    uint64_t alignment = alignment_of(call), bytes = call->size;
    if (call->op == PA_OP_PVALLOC)
        bytes = (bytes + PAGE - 1) / PAGE * PAGE;
    if (alignment & (alignment - 1) || !request_fits(h, alignment))
        return heap_finish(&h->base, 0);
    uint64_t nb = request_units(h, bytes);
    uint64_t room = alignment <= h->unit ? nb : nb + alignment / h->unit + MIN_UNITS;
    pa_unit c = fit_allocate(h, room);
    if (c == NO_FIT)
        return grow_and_run(h, call, room);
    if (alignment > h->unit) {
        pa_unit to = aligned_in(h, c, alignment);
        if (to != c) {
            uint64_t lead = to - c, size = size_of(h, c);
            fit_mark_used(h, c, false);
            set_size(h, to, size - lead, true);
            fit_mark_used(h, to, true);
            set_size(h, c, lead, below_in_use(h, c));
            fit_release(h, c, lead);
        }
        fit_shrink(h, to, nb);
        c = to;
    }
    return heap_finish(&h->base, mem_of(h, c));
}

/* Grow c in place to nb units if its upper neighbour is free and large enough. */
static bool grow_in_place(seqfit *h, pa_unit c, uint64_t nb)
{
    uint64_t size = size_of(h, c), more = nb - size;
    pa_unit above = c + (pa_unit)size;
    if (above == h->top) {
        uint64_t top = size_of(h, above);
        if (top < more + MIN_UNITS)
            return false;
        h->top = c + (pa_unit)nb;
        set_size(h, h->top, top - more, true);
        set_size(h, c, nb, below_in_use(h, c));
        return true;
    }
    uint64_t free_units = size_of(h, above);
    if (is_used(h, above) || below_in_use(h, above + (pa_unit)free_units) || free_units < more)
        return false;
    fit_mark_used(h, fit_carve(h, above, more), false);
    set_size(h, c, size + size_of(h, above), below_in_use(h, c));
    return true;
}

static uint64_t call_realloc(seqfit *h, const pa_call *call)
{
    pa_unit c = block_of(h, call->pointer);
    if (c == NO_FIT)
        return heap_abort(&h->base, "realloc(): invalid pointer");
    if (!call->size) {
        fit_free(h, c);
        return heap_finish(&h->base, 0);
    }
    uint64_t nb = request_units(h, call->size);
    if (nb <= size_of(h, c)) {
        fit_shrink(h, c, nb);
        return heap_finish(&h->base, call->pointer);
    }
    if (grow_in_place(h, c, nb))
        return heap_finish(&h->base, call->pointer);
    if (c + size_of(h, c) == h->top)
        return grow_and_run(h, call, nb - size_of(h, c));
    pa_unit to = fit_allocate(h, nb);
    if (to == NO_FIT)
        return grow_and_run(h, call, nb);
    heap_touch_range(&h->base, mem_of(h, to), usable_bytes(h, c));
    fit_free(h, c);
    return heap_finish(&h->base, mem_of(h, to));
}

static uint64_t call_free(seqfit *h, const pa_call *call)
{
    if (!call->pointer)
        return heap_finish(&h->base, 0);
    pa_unit c = block_of(h, call->pointer);
    if (c == NO_FIT)
        return heap_abort(&h->base, "free(): invalid pointer");
    fit_free(h, c);
    return heap_finish(&h->base, 0);
}

/* Whole pages of a top of `have` bytes beyond `pad`. */
static uint64_t trimmable(const seqfit *h, uint64_t have, uint64_t pad)
{
    uint64_t keep = pad + MIN_UNITS * (uint64_t)h->unit;
    if (keep < pad || have < keep + PAGE || h->base.brk != end_address(h))
        return 0;
    return (have - keep) / PAGE * PAGE;
}

/* Give whole pages of the top back, all but `pad` bytes and the top's minimum. */
static uint64_t call_trim(seqfit *h, uint64_t pad)
{
    uint64_t have = h->top ? (uint64_t)size_of(h, h->top) * h->unit : 0;
    uint64_t extra = trimmable(h, have, pad);
    if (!extra)
        return heap_finish(&h->base, 0);
    uint64_t brk = h->base.brk - extra;
    heap_move_break(&h->base, brk);
    h->end = unit_at(h, brk);
    set_size(h, h->top, h->end - h->top, true);
    return heap_finish(&h->base, 1);
}

static pa_trim seqfit_trim(const pa_heap *heap, const pa_run *run)
{
    const seqfit *h = (const seqfit *)(const void *)heap;
    uint64_t bytes = run->top ? trimmable(h, run->end - run->start, 0) : 0, mask = PAGE - 1;
    return (pa_trim){.start = (run->end - bytes + mask) & ~mask,
                     .end = (run->end + mask) & ~mask,
                     .bytes = (int64_t)bytes};
}

static uint64_t run(seqfit *h, const pa_call *call)
{
    if (call->op <= PA_OP_PVALLOC && call->op != PA_OP_FREE && !request_fits(h, call->size))
        return heap_finish(&h->base, 0);
    switch (call->op) {
    case PA_OP_MALLOC:
    case PA_OP_CALLOC:
        return call_malloc(h, call);
    case PA_OP_REALLOC:
        return call->pointer ? call_realloc(h, call) : call_malloc(h, call);
    case PA_OP_FREE:
        return call_free(h, call);
    case PA_OP_MALLOC_TRIM:
        return call_trim(h, call->size);
    case PA_OP_MEMALIGN:
    case PA_OP_POSIX_MEMALIGN:
    case PA_OP_ALIGNED_ALLOC:
    case PA_OP_VALLOC:
    case PA_OP_PVALLOC:
        return call_memalign(h, call);
    default:
        return heap_finish(&h->base, 0);
    }
}

static uint64_t seqfit_call(pa_heap *heap, const pa_call *call)
{
    return run((seqfit *)(void *)heap, call);
}

/* The break was asked for; go on if it moved as far as needed. */
static uint64_t seqfit_resume(pa_heap *heap)
{
    seqfit *h = (seqfit *)(void *)heap;
    if (heap->stop.answer < heap->stop.address)
        return heap_finish(heap, 0);
    uint64_t old = heap->stop.address - heap->stop.length;
    return take_in(h, old, heap->brk) ? run(h, &h->waiting) : heap_finish(heap, 0);
}

static uint64_t seqfit_usable_size(const pa_heap *heap, uint64_t pointer)
{
    const seqfit *h = (const seqfit *)(const void *)heap;
    pa_unit c = block_of(h, pointer);
    return c == NO_FIT ? 0 : usable_bytes(h, c);
}

/* ---- life ------------------------------------------------------------------------------------- */

static pa_status seqfit_tunable(pa_heap *heap, const char *name, uint64_t value)
{
    if (strcmp(name, "top_pad") != 0 || value > (uint64_t)1 << 40)
        return PA_ERR_INVALID;
    ((seqfit *)(void *)heap)->top_pad = value;
    return PA_OK;
}

static const pa_shadow *seqfit_shadow(const pa_heap *heap)
{
    return &((const seqfit *)(const void *)heap)->sh;
}

static void seqfit_drop(pa_heap *heap)
{
    seqfit *h = (seqfit *)(void *)heap;
    pa_shadow_drop(&h->sh);
    heap_drop(heap);
    free(h->used);
    free(h);
}

static bool copy_parts(seqfit *to, const seqfit *from)
{
    to->used = malloc((from->count_words + 1) * sizeof *to->used);
    memset(&to->sh, 0, sizeof to->sh);
    if (!heap_copy_base(&to->base, &from->base) || !to->used)
        return false;
    if (from->count_words)
        memcpy(to->used, from->used, from->count_words * sizeof *to->used);
    return pa_shadow_copy(&to->sh, &from->sh) == PA_OK;
}

static pa_heap *seqfit_copy(const pa_heap *heap)
{
    seqfit *copy = malloc(sizeof *copy);
    if (!copy)
        return NULL;
    memcpy(copy, heap, sizeof *copy);
    if (copy_parts(copy, (const seqfit *)(const void *)heap))
        return &copy->base;
    seqfit_drop(&copy->base);
    return NULL;
}

static void seqfit_rest(const pa_heap *heap)
{
    pa_shadow_rest(&((const seqfit *)heap)->sh);
}

static const pa_allocator allocators[POLICIES] = {
#define ALLOCATOR(i)                                                                               \
    [i] = {.call = seqfit_call,                                                                    \
           .resume = seqfit_resume,                                                                \
           .usable_size = seqfit_usable_size,                                                      \
           .statistics = fit_statistics,                                                           \
           .walk = fit_walk,                                                                       \
           .trim = seqfit_trim,                                                                    \
           .tunable = seqfit_tunable,                                                              \
           .rest = seqfit_rest,                                                                    \
           .check = fit_check,                                                                     \
           .copy = seqfit_copy,                                                                    \
           .drop = seqfit_drop,                                                                    \
           .shadow = seqfit_shadow}
    ALLOCATOR(FIRST_FIT), ALLOCATOR(BEST_FIT), ALLOCATOR(NEXT_FIT), ALLOCATOR(WORST_FIT)
#undef ALLOCATOR
};

const char *seqfit_name(uint32_t i)
{
    return i < POLICIES ? names[i] : NULL;
}

const char *seqfit_rule(uint32_t i)
{
    static const char *const rules[POLICIES] = {
        [FIRST_FIT] = "sequential fit: the first hole by address that is large enough",
        [BEST_FIT] = "sequential fit: the smallest hole that is large enough",
        [NEXT_FIT] = "sequential fit: the first hole from where the last search ended",
        [WORST_FIT] = "sequential fit: the largest hole",
    };
    return i < POLICIES ? rules[i] : NULL;
}

static uint32_t policy_named(const char *name)
{
    uint32_t i = 0;
    while (i < POLICIES && strcmp(names[i], name) != 0)
        i++;
    return i;
}

pa_heap *seqfit_new(const char *name, uint32_t word, uint64_t brk_start, pa_shadow *spare)
{
    uint32_t policy = policy_named(name);
    seqfit *h = policy < POLICIES ? calloc(1, sizeof *h) : NULL;
    if (!h)
        return NULL;
    if (pa_shadow_init(&h->sh, word == 8 ? 4 : 3, brk_start, spare) != PA_OK) {
        free(h);
        return NULL;
    }
    heap_init(&h->base, &allocators[policy], brk_start);
    h->policy = policy;
    h->word = word;
    h->unit = 2 * word;
    h->rover = LIST;
    at(h, LIST)->next = at(h, LIST)->previous = LIST;
    return &h->base;
}
