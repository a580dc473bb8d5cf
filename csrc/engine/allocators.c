/* SPDX-License-Identifier: MIT
 *
 * allocators.c -- every allocator by its name: the only place that knows them all.
 */
#include "pt.h"
#include "seqfit.h"

pa_heap *pa_heap_new(const char *allocator, uint32_t word, uint64_t brk_start, uint32_t count_cpus)
{
    return pa_heap_renew(NULL, allocator, word, brk_start, count_cpus);
}

pa_heap *pa_heap_renew(pa_heap *spent, const char *allocator, uint32_t word, uint64_t brk_start,
                       uint32_t count_cpus)
{
    pa_shadow spare = {0};
    if (spent) {
        pa_shadow *its = (pa_shadow *)(uintptr_t)spent->vt->shadow(spent);
        spare = *its;
        *its = (pa_shadow){0};
        pa_heap_drop(spent);
    }
    pa_heap *heap = pt_new(allocator, word, brk_start, count_cpus ? count_cpus : 1, &spare);
    if (!heap)
        heap = seqfit_new(allocator, word, brk_start, &spare);
    pa_shadow_drop(&spare);
    return heap;
}

bool pa_heap_is_small(const pa_heap *heap)
{
    return pa_shadow_is_small(heap->vt->shadow(heap));
}

static uint32_t count_generations(void)
{
    uint32_t generations = 0;
    while (pt_profile_name(generations))
        generations++;
    return generations;
}

const char *pa_allocator_name(uint32_t i)
{
    uint32_t generations = count_generations();
    return i < generations ? pt_profile_name(i) : seqfit_name(i - generations);
}

const char *pa_allocator_changes(uint32_t i)
{
    uint32_t generations = count_generations();
    return i < generations ? pt_profile_changes(i) : seqfit_rule(i - generations);
}
