/* SPDX-License-Identifier: MIT
 *
 * stats.c -- what reclaim knows of a group's lists.
 *
 * Model of the flushing of mm/memcontrol.c: each processor counts for itself, and the counters of a
 * group and of all below it are added up every two seconds, or when somebody reads memory.stat.
 * Reclaim takes what was added up last (mem_cgroup_flush_stats_ratelimited(), since 6.12), so
 * that within two seconds it may see an active list that is long gone, or none where all is active.
 */
#include "ram.h"

#define PERIOD UINT64_C(2000000000) /* ns */

static void add(const pa_ram *ram, known *sum, uint32_t group_id)
{
    const group *g = &ram->groups[group_id];
    for (unsigned l = 0; l < LRU_LISTS; l++)
        sum->pages[l] += batch_counted(ram, group_id, l);
    for (unsigned file = 0; file < 2; file++)
        sum->restored[file] += g->restored[file];
}

void pa_ram_flush_stats(pa_ram *ram)
{
    for (uint32_t i = 0; i < ram->count_groups; i++)
        ram->groups[i].known = (known){0};
    for (uint32_t i = 0; i < ram->count_groups; i++) {
        for (uint32_t g = i; g != NO_GROUP; g = ram->groups[g].parent)
            add(ram, &ram->groups[g].known, i);
    }
}

const known *stats_of(pa_ram *ram, uint32_t group_id)
{
    if (ram->disk.now - ram->flushed * PERIOD >= PERIOD) { /* quicker than to divide each time */
        pa_ram_flush_stats(ram);
        ram->flushed = ram->disk.now / PERIOD;
    }
    return &ram->groups[group_id].known;
}
