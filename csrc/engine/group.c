/* SPDX-License-Identifier: MIT
 *
 * group.c -- memory cgroups: their limits, and what they hold.
 */
#include "ram.h"

#include <stdlib.h>

void group_init(group *g, uint32_t parent, uint64_t pages, uint64_t pages_swap)
{
    *g = (group){.parent = parent,
                 .limit = pages,
                 .swap_limit = pages_swap,
                 .high = UINT64_MAX,
                 .prev_priority = 12};
    for (unsigned i = 0; i < LRU_LISTS; i++)
        g->lists[i] = (lru){NO_FRAME, NO_FRAME, 0};
}

int pa_ram_add_group(pa_ram *ram, uint32_t parent, uint64_t pages, uint64_t pages_swap)
{
    if (ram->count_groups == MAX_GROUPS || parent >= ram->count_groups)
        return -1;
    group *more = realloc(ram->groups, (ram->count_groups + 1) * sizeof *more);
    if (!more)
        return -1;
    ram->groups = more;
    group_init(&more[ram->count_groups], parent, pages, pages_swap);
    return (int)ram->count_groups++;
}

int pa_ram_limit_group(pa_ram *ram, uint32_t group_id, uint64_t pages, uint64_t pages_swap)
{
    if (group_id >= ram->count_groups)
        return PA_ERR_INVALID;
    group *g = &ram->groups[group_id];
    g->limit = pages;
    g->swap_limit = pages_swap;
    while (g->usage > g->limit) {
        if (!reclaim(ram, group_id, g->usage - g->limit))
            return PA_EXHAUSTED;
    }
    return PA_OK;
}

static void add_up(const group *g, pa_group_counters *out)
{
    const lru *l = g->lists;
    out->anon += l[LRU_INACTIVE_ANON].count + l[LRU_ACTIVE_ANON].count;
    out->file += l[LRU_INACTIVE_FILE].count + l[LRU_ACTIVE_FILE].count;
    out->tables += g->tables;
    out->scanned += g->scanned;
    out->stolen += g->stolen;
    out->refilled += g->refilled;
    out->faults += g->faults;
    out->major_faults += g->major_faults;
    for (unsigned file = 0; file < 2; file++) {
        out->refaults[file] += g->refaults[file];
        out->activated[file] += g->restored[file];
        out->restored[file] += g->known_again[file];
    }
}

uint64_t pa_ram_limit_hits(const pa_ram *ram, uint32_t group_id)
{
    return group_id < ram->count_groups ? ram->groups[group_id].limit_hits : 0;
}

void pa_ram_read_group(const pa_ram *ram, uint32_t group_id, pa_group_counters *out)
{
    *out = (pa_group_counters){0};
    if (group_id >= ram->count_groups)
        return;
    const group *g = &ram->groups[group_id];
    *out = (pa_group_counters){.limit = g->limit,
                               .swap_limit = g->swap_limit,
                               .usage = g->usage,
                               .usage_peak = g->usage_peak,
                               .usage_swap = g->usage_swap,
                               .high = g->high,
                               .high_hits = g->high_hits,
                               .throttled_ms = g->throttled,
                               .limit_hits = g->limit_hits};
    for (uint32_t i = 0; i < ram->count_groups; i++) {
        if (ram_is_below(ram, i, group_id))
            add_up(&ram->groups[i], out);
    }
}
