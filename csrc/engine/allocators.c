/* SPDX-License-Identifier: MIT
 *
 * allocators.c -- every allocator by its name: the only place that knows them all.
 */
#include "pt.h"

pa_heap *pa_heap_new(const char *allocator, uint32_t word, uint64_t brk_start, uint32_t count_cpus)
{
    return pt_new(allocator, word, brk_start, count_cpus ? count_cpus : 1);
}

const char *pa_allocator_name(uint32_t i)
{
    return pt_profile_name(i);
}
