/* SPDX-License-Identifier: MIT
 *
 * pt_calls.h -- what the public calls of ptmalloc share.
 *
 * A call returns its result, or PENDING when it waits for policy or the program died in it; in the
 * first case it goes on from its phase (pt_op) once there is an answer.
 */
#ifndef PA_PT_CALLS_H
#define PA_PT_CALLS_H

#include "pt.h"

/* pt_allocate.c */
uint64_t pt_run(pt *h, pa_unit c); /* go on with what the phase under way produced */
uint64_t pt_allocate(pt *h, uint32_t kind, uint64_t bytes, uint64_t align);
uint64_t pt_pointer_of(const pt *h, pa_unit c); /* the user's, of a chunk or mapped chunk */
bool pt_wants_tcache(pt *h);

/* pt_memalign.c */
uint64_t pt_memalign_call(pt *h, uint32_t call, uint64_t align, uint64_t bytes);
uint64_t pt_page_aligned(pt *h, uint32_t call, uint64_t bytes);
uint64_t pt_pvalloc(pt *h, uint64_t bytes);
uint64_t pt_finish_memalign(pt *h, pa_unit c);

/* pt_release.c */
uint64_t pt_free(pt *h, uint64_t mem);
uint64_t pt_free_chunk(pt *h, pa_unit c);
uint64_t pt_thread_exit(pt *h);
bool pt_is_heap(const pt *h, uint64_t mem);
uint64_t pt_unknown_pointer(pt *h, uint64_t mem, const char *text);

/* pt_realloc.c */
uint64_t pt_realloc(pt *h, uint64_t mem, uint64_t bytes);
uint64_t pt_realloc_chunk(pt *h, pa_unit c);
uint64_t pt_finish_realloc(pt *h, pa_unit c);
uint64_t pt_end_mremap(pt *h);

/* pt_calls.c */
uint64_t pt_usable(const pa_heap *heap, uint64_t mem);

static inline pt_thread *pt_self(pt *h)
{
    return &h->threads[h->op.thread];
}

static inline uint64_t pt_align_up(uint64_t n, uint64_t to)
{
    return (n + to - 1) & ~(to - 1);
}

static inline uint64_t pt_done(pt *h, uint64_t result)
{
    h->op.phase = PH_IDLE;
    return h->base.count_effects ? heap_finish(&h->base, result) : result;
}

/* The call ends by an error: the program dies, or gets nothing where M_CHECK_ACTION says so. */
static inline uint64_t pt_aborted(pt *h)
{
    return h->base.state == HEAP_DEAD ? PENDING : pt_done(h, 0);
}

#endif
