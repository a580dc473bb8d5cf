/* SPDX-License-Identifier: MIT
 *
 * pt_calls.c -- the seam of ptmalloc: which call is which, a heap's birth, copy and end.
 */
#include "pt_calls.h"
#include "replay.h"

#include <stdlib.h>
#include <string.h>

static uint64_t mallopt_call(pt *h, int32_t parameter, int32_t value)
{
    int32_t result = pt_mallopt(h, parameter, value);
    return result < 0 ? PENDING : pt_done(h, (uint64_t)result);
}

/* sbrk(): where the kernel refuses to move the break down, the library takes it for a success. */
static uint64_t sbrk_by_somebody(pt *h, uint64_t delta)
{
    uint64_t mask = size_mask(h), old = h->base.brk;
    uint64_t wanted = (old + delta) & mask;
    bool down = delta & (mask ^ mask >> 1);
    if (down ? wanted > old : wanted < old)
        return pt_done(h, mask);
    h->op = (pt_op){.kind = PA_OP_SBRK, .thread = h->base.thread, .pointer = old};
    h->damaged |= wanted < old; /* there may have been chunks */
    if (wanted >= h->base.brk_start && heap_move_break(&h->base, wanted))
        return pt_done(h, old);
    return heap_ask(&h->base, PA_STOP_BRK, wanted, delta, 0, 0);
}

/* ptmalloc_init(): the thread that first needs it gets the main arena; since 2.42 it is made before
 * main(), by the first. */
static void initialise(pt *h, const pa_call *call)
{
    bool early = h->pf->version >= 242;
    bool refused = call->op == PA_OP_POSIX_MEMALIGN &&
                   (call->arg % h->pf->word || call->arg & (call->arg - 1));
    bool trims = call->op == PA_OP_MALLOC_TRIM && h->pf->version < 208;
    if (!early && (call->op >= PA_OP_SBRK || call->op == PA_OP_FREE || refused || trims))
        return;
    h->initialised = true;
    pt_attach(h, &h->threads[early ? 0 : call->thread], 0);
}

static uint64_t pt_call(pa_heap *heap, const pa_call *call)
{
    pt *h = (pt *)heap;
    uint64_t mask = size_mask(h);
    uint64_t size = call->size & mask, arg = call->arg & mask;
    if (call->thread >= h->count_threads && !pt_thread_of(h, call->thread))
        return 0;
    h->base.thread = call->thread;
    h->threaded |= call->thread != 0;
    h->damaged |= call->pointer && !call->known;
    if (!h->initialised)
        initialise(h, call);
    h->op.thread = call->thread;
    switch (call->op) {
    case PA_OP_MALLOC:
        return pt_allocate(h, PA_OP_MALLOC, size, 0);
    case PA_OP_CALLOC:
        if (call->size > mask)
            return pt_done(h, 0);
        return pt_allocate(h, PA_OP_CALLOC, size, 0);
    case PA_OP_REALLOC:
        return pt_realloc(h, call->pointer, size);
    case PA_OP_FREE:
        return pt_free(h, call->pointer);
    case PA_OP_MEMALIGN:
        return pt_memalign_call(h, call->op, arg, size);
    case PA_OP_ALIGNED_ALLOC:
        if (h->pf->version >= 238 && (!arg || arg & (arg - 1)))
            return pt_done(h, 0);
        return pt_memalign_call(h, call->op, arg, size);
    case PA_OP_POSIX_MEMALIGN:
        if (arg % h->pf->word || arg & (arg - 1) || (!arg && h->pf->version >= 204))
            return pt_done(h, 0);
        return pt_memalign_call(h, call->op, arg, size);
    case PA_OP_VALLOC:
        return pt_page_aligned(h, call->op, size);
    case PA_OP_PVALLOC:
        return pt_pvalloc(h, size);
    case PA_OP_MALLOC_TRIM: {
        uint64_t given = pt_trim(h, size);
        return heap->state == HEAP_DEAD ? PENDING : pt_done(h, given);
    }
    case PA_OP_MALLOPT:
        return mallopt_call(h, (int32_t)arg, (int32_t)size);
    case PA_OP_SBRK:
        return sbrk_by_somebody(h, size);
    case PA_OP_THREAD_EXIT:
        return pt_thread_exit(h);
    default:
        return pt_done(h, 0);
    }
}

static uint64_t pt_resume(pa_heap *heap)
{
    pt *h = (pt *)heap;
    if (h->op.kind == PA_OP_SBRK) {
        bool moved = heap->stop.answer >= heap->stop.address;
        return pt_done(h, moved ? h->op.pointer : (h->pf->word == 8 ? UINT64_MAX : UINT32_MAX));
    }
    if (h->op.phase == PH_MREMAP)
        return pt_end_mremap(h);
    return pt_run(h, pt_malloc_resume(h));
}

uint64_t pt_usable(const pa_heap *heap, uint64_t mem)
{
    const pt *h = (const pt *)heap;
    if (!mem)
        return 0;
    const pt_mapped *m = pt_mapped_at(h, mem);
    if (m && h->pf->version >= 243) /* its size field leaves 16 bytes out at the start */
        return m->total - m->front - 16 - (h->pf->word == 8 ? 8 : 4) +
               (h->pf->align > 2 * h->pf->word ? 8 : 0);
    if (m)
        return m->total - m->front - 2 * h->pf->word;
    if (!pt_is_heap(h, mem))
        return 0;
    pa_unit c = chunk_of(h, mem);
    uint64_t units = signed_size(h, c);
    if (!prev_in_use(h, c + (pa_unit)units)) /* it is free, says the chunk behind it */
        return 0;
    return (bytes_of(h, units) - h->pf->word) & size_mask(h);
}

static const pa_shadow *pt_shadow(const pa_heap *heap)
{
    return &((const pt *)heap)->sh;
}

static void pt_drop(pa_heap *heap)
{
    pt *h = (pt *)heap;
    pa_shadow_drop(&h->sh);
    free(h->arenas);
    free(h->threads);
    free(h->subheaps);
    free(h->stretches);
    free(h->mapped);
    free(h->mapped_index);
    heap_drop(heap);
    free(h);
}

static void *duplicate(const void *from, size_t bytes)
{
    void *to = malloc(bytes ? bytes : 1);
    if (to && bytes)
        memcpy(to, from, bytes);
    return to;
}

static pa_heap *pt_copy(const pa_heap *heap)
{
    const pt *from = (const pt *)heap;
    pt *to = duplicate(from, sizeof *from);
    if (!to)
        return NULL;
    to->arenas = duplicate(from->arenas, from->room_arenas * sizeof *from->arenas);
    to->threads = duplicate(from->threads, from->count_threads * sizeof *from->threads);
    to->subheaps = duplicate(from->subheaps, from->room_subheaps * sizeof *from->subheaps);
    to->stretches = duplicate(from->stretches, from->room_stretches * sizeof *from->stretches);
    to->mapped = duplicate(from->mapped, from->room_mapped * sizeof *from->mapped);
    to->mapped_index = from->mapped_index
                           ? duplicate(from->mapped_index, ((size_t)from->mapped_mask + 1) * 4)
                           : NULL;
    bool shadow = pa_shadow_copy(&to->sh, &from->sh) == PA_OK;
    bool base = heap_copy_base(&to->base, &from->base);
    if (from->base.abort_text == from->last_words)
        to->base.abort_text = to->last_words;
    if (to->arenas && to->threads && to->subheaps && to->stretches && to->mapped && shadow && base)
        return &to->base;
    pt_drop(&to->base);
    return NULL;
}

/* Nothing is out of the ordinary: see pt_chunk.h. */
bool pt_is_calm(const pt *h)
{
    const pt_arena *a = &h->arenas[0];
    const pt_thread *t = &h->threads[0];
    const pa_mm *mm = h->base.mm;
    bool cache = t->tcache.alive || h->pf->birth == BIRTH_NEVER;
    uint64_t top_end = a->top ? address_of(h, a->top) + bytes_of(h, size_of(h, a->top)) : 0;
    bool plain = !h->threaded && !h->hooked && !h->sh.count_segments &&
                 (h->max_fast || h->pf->version >= 227);
    bool whole = !h->damaged && (!a->contiguous || top_end <= pt_align_up(h->base.brk, PAGE_BYTES));
    return plain && whole && cache && t->arena == 0 && !(mm && mm->disturbed) && !h->mp.perturb &&
           h->base.state == HEAP_IDLE && h->base.error == PA_OK;
}

static bool run_loop(pa_replay *replay, size_t end)
{
    const pt *h = (const pt *)replay->heap;
    bool known = h->pf->version == 236 && h->pf->word == 8;
    return known ? pt_run_loop_236(replay, end) : pt_run_loop_any(replay, end);
}

static void pt_rest(const pa_heap *heap)
{
    pa_shadow_rest(&((const pt *)heap)->sh);
}

static const pa_allocator ptmalloc = {
    .name = "glibc",
    .call = pt_call,
    .resume = pt_resume,
    .loop = run_loop,
    .usable_size = pt_usable,
    .statistics = pt_statistics,
    .mallinfo = pt_mallinfo,
    .walk = pt_walk,
    .list = pt_list,
    .arena = pt_read_arena,
    .settings = pt_read_settings,
    .trim = pt_trim_run,
    .tunable = pt_tunable,
    .environment = pt_environment,
    .rest = pt_rest,
    .check = pt_check,
    .copy = pt_copy,
    .drop = pt_drop,
    .shadow = pt_shadow,
};

/* The main arena is initialised: up to 2.26 by the first call that searches it, until when there
 * are no fastbins anywhere. */
void pt_init_main(pt *h)
{
    h->main_ready = true;
    if (h->pf->has_fastbins)
        h->max_fast = h->pf->fast_default >> h->unit_shift;
}

static void init_params(pt *h)
{
    h->mp = (pt_params){
        .top_pad = 131072,
        .trim_threshold = 131072,
        .check_action = 3,
        .mmap_threshold = 131072,
        .mmap_threshold_max = h->pf->word == 8 ? 32u << 20 : 512u << 10,
        .n_mmaps_max = 65536,
        .arena_test = h->pf->word == 8 ? 8 : 2,
        .tcache_count = h->pf->tcache_count,
        .tcache_limit = h->pf->tcache_limit,
        .tcache_bins = TCACHE_SMALL,
    };
}

pa_heap *pt_new(const char *name, uint32_t word, uint64_t brk_start, uint32_t count_cpus,
                pa_shadow *spare)
{
    const pt_profile *pf = pt_find_profile(name, word);
    pt *h = pf ? calloc(1, sizeof *h) : NULL;
    if (!h)
        return NULL;
    h->pf = pf;
    h->unit_shift = pf->word == 8 ? 4 : 3;
    h->unit = 1u << h->unit_shift;
    h->align_log = pf->align == 16 ? 4 : 3;
    h->align_units_log = h->align_log - h->unit_shift;
    h->low = pf->word == 8 ? SHADOW_LOW_UNITS : PAGE_BYTES >> 3;
    h->count_cpus = count_cpus;
    h->hooked = pf->version < 234;
    h->free_arena = -1;
    heap_init(&h->base, &ptmalloc, brk_start);
    init_params(h);
    pt_arena *main_arena;
    if (pa_shadow_init(&h->sh, h->unit_shift, brk_start, spare) != PA_OK || !pt_thread_of(h, 0) ||
        !pt_add_arena(h, &main_arena)) {
        pt_drop(&h->base);
        return NULL;
    }
    h->base.places_from = h->sh.origin + h->unit;
    h->base.places_shift = h->unit_shift;
    main_arena->bins = MAIN_HEADS;
    pt_init_bins(h, main_arena);
    if (pf->version >= 227)
        pt_init_main(h);
    return &h->base;
}
