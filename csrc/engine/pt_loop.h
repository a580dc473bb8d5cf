/* SPDX-License-Identifier: MIT
 *
 * pt_loop.h -- ptmalloc's own loop over a trace: malloc and free of one thread, without detours.
 *
 * Workload: nine calls of ten are a malloc or free of the first thread in the main arena, and most
 * of those end in its tcache.  These are done here in line; what needs more goes straight to
 * pt_int_malloc and pt_int_free; and what is not plain at all (no tcache yet, mappings, other
 * arenas, a second look at a double free) is declined and goes the long way through pt_call.
 *
 * A template: who includes it says what is known of the geometry, so that a shift by a constant can
 * be one instruction.
 *
 *     PT_LOOP             name of the function to define
 *     UNIT_SHIFT(h)       log2 of the bytes of a unit
 *     WORD(h), ALIGN(h)   bytes
 */
#include "pt.h"
#include "replay.h"

static inline uint64_t result_of(pt *h, uint64_t result)
{
    h->op.phase = PH_IDLE;
    return h->base.count_effects ? heap_finish(&h->base, result) : result;
}

static inline bool is_plain(const pt *h, const pt_tcache *tc)
{
    return tc->alive && h->threads[0].arena == 0 && !h->mp.perturb;
}

/* Units to an alignment step, as a mask. */
static inline uint64_t step_mask(const pt *h)
{
    (void)h;
    return (ALIGN(h) >> UNIT_SHIFT(h)) - 1;
}

static inline uint64_t units_for(const pt *h, uint64_t bytes)
{
    uint64_t step = ALIGN(h), n = ((bytes + WORD(h) + step - 1) & ~(step - 1)) >> UNIT_SHIFT(h);
    (void)h;
    return n < MIN_UNITS ? MIN_UNITS : n;
}

/* The small bin of a chunk size, at least TCACHE_SMALL if it has none. */
static inline uint64_t small_bin(const pt *h, uint64_t units)
{
    uint64_t index = (units - MIN_UNITS) >> (step_mask(h) != 0);
    return units << UNIT_SHIFT(h) < h->mp.tcache_limit ? index : TCACHE_SMALL;
}

static inline uint64_t pointer_to(const pt *h, pa_unit c)
{
    return h->sh.origin + ((uint64_t)(c + 1) << UNIT_SHIFT(h));
}

static uint64_t malloc_in_arena(pt *h, uint64_t bytes, uint64_t nb)
{
    h->op = (pt_op){.phase = PH_BLOCK, .kind = PA_OP_MALLOC, .bytes = bytes, .nb = nb, .inner = nb};
    pa_unit c = pt_int_malloc(h, &h->arenas[0], nb);
    if (c == REF_PENDING)
        return PENDING;
    if (!c || c >= MAPPED_REF) /* another arena may be tried; a mapping has its own pointer */
        return pt_finish_block(h, c);
    return result_of(h, mem_of(h, c));
}

static inline uint64_t quick_malloc(pa_heap *heap, uint64_t bytes)
{
    pt *h = (pt *)heap;
    pt_tcache *tc = &h->threads[0].tcache;
    if (bytes >= (uint64_t)1 << 30 || !is_plain(h, tc))
        return 0;
    uint64_t nb = units_for(h, bytes), bin = small_bin(h, nb);
    if (bin >= TCACHE_SMALL)
        return nb << UNIT_SHIFT(h) < h->mp.tcache_limit ? 0 : malloc_in_arena(h, bytes, nb);
    pa_unit c = tc->entry[bin];
    if (!c)
        return malloc_in_arena(h, bytes, nb);
    if (c >= SHADOW_HALF) /* of another arena */
        return 0;
    pt_chunk *p = at(h, c);
    tc->entry[bin] = p->fd;
    tc->count[bin]--;
    p->bk = 0;
    touch_again(h, c + 1);
    touch_tcache(h, tc);
    return h->base.count_effects ? heap_finish(heap, pointer_to(h, c)) : pointer_to(h, c);
}

static uint64_t free_in_arena(pt *h, pa_unit c)
{
    h->op.kind = PA_OP_FREE;
    return pt_int_free(h, &h->arenas[0], c, false) ? result_of(h, 0) : PENDING;
}

/* LOOP_DECLINED, 0, or PENDING. */
static inline uint64_t quick_free(pa_heap *heap, uint64_t mem)
{
    pt *h = (pt *)heap;
    pt_tcache *tc = &h->threads[0].tcache;
    if (mem - heap->brk_start >= heap->brk - heap->brk_start || mem & (ALIGN(h) - 1) ||
        !is_plain(h, tc))
        return LOOP_DECLINED;
    pa_unit c = (pa_unit)(((mem - h->sh.origin) >> UNIT_SHIFT(h)) - 1);
    if (c >= h->sh.opened)
        return LOOP_DECLINED;
    pt_chunk *p = at(h, c);
    if (p->size & N_ARENA || p->bk == TCACHE_KEY)
        return LOOP_DECLINED;
    uint64_t units = p->size >> 3, bin = small_bin(h, units);
    if (units < MIN_UNITS || units & step_mask(h))
        return LOOP_DECLINED;
    if (bin >= TCACHE_SMALL || tc->count[bin] >= h->mp.tcache_count)
        return free_in_arena(h, c);
    p->fd = tc->entry[bin];
    p->bk = TCACHE_KEY;
    tc->entry[bin] = c;
    tc->count[bin]++;
    if (!heap->mm)
        return 0;
    touch(h, c + 1);
    touch_tcache(h, tc);
    return h->base.count_effects ? heap_finish(heap, 0) : 0;
}

static inline void fetch(pa_heap *heap, uint64_t mem)
{
    const pt *h = (const pt *)heap;
    uint64_t c = ((mem - h->sh.origin) >> UNIT_SHIFT(h)) - 1;
    if (c < h->sh.opened)
        __builtin_prefetch(h->sh.words + 2 * c, 1);
}

#define LOOP PT_LOOP_ROWS
#define LOOP_MALLOC(heap, bytes) quick_malloc(heap, bytes)
#define LOOP_FREE(heap, pointer) quick_free(heap, pointer)
#define LOOP_FETCH(heap, pointer) fetch(heap, pointer)
#include "replay_loop.h"

bool PT_LOOP(pa_replay *replay, size_t end)
{
    return LOOP(replay, end);
}
