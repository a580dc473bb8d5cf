/* SPDX-License-Identifier: MIT
 *
 * workingset.c -- pages that come back soon after they left.
 *
 * Model of mm/workingset.c of Linux 6.12.  Each group counts evictions and activations; a page that
 * leaves takes the count along as its shadow.  If it comes back before as many pages went by as
 * are active, it would have stayed had the active list been shorter: it is active at once.
 *
 *     shadow  31           30         29           0
 *             | workingset | zeros    | age + 1    |     0: no shadow
 */
#include "ram.h"

enum { AGE_BITS = 30 };
#define AGE_MASK ((UINT32_C(1) << AGE_BITS) - 1)
#define SHADOW_WORKINGSET (UINT32_C(1) << 31)
#define SHADOW_ZEROS (UINT32_C(1) << AGE_BITS)

void workingset_age(pa_ram *ram, uint32_t group_id, uint64_t count)
{
    for (uint32_t g = group_id; g != NO_GROUP; g = ram->groups[g].parent)
        ram->groups[g].age += count;
}

static uint32_t flags_of(uint8_t state)
{
    return (state & STATE_WORKINGSET ? SHADOW_WORKINGSET : 0) |
           (state & STATE_ZEROS ? SHADOW_ZEROS : 0);
}

uint32_t workingset_shadow(pa_ram *ram, uint32_t group_id, uint8_t state, uint64_t count)
{
    uint32_t age = (uint32_t)(ram->groups[group_id].age % AGE_MASK);
    workingset_age(ram, group_id, count);
    return (age + 1) | flags_of(state);
}

void workingset_leave(pa_ram *ram, uint32_t group_id, uint8_t state, uint32_t *shadow, int32_t step,
                      uint32_t count)
{
    uint32_t age = (uint32_t)(ram->groups[group_id].age % AGE_MASK), flags = flags_of(state);
    uint32_t *low = step > 0 ? shadow : shadow - (count - 1);
    uint32_t first = step > 0 ? age + 1 : age + count;
    for (uint32_t i = 0; i < count; i++)
        low[i] = (first + i * (uint32_t)step) | flags;
    for (uint32_t i = AGE_MASK - age; i < count; i++) /* the age begins at 0 again */
        shadow[(int32_t)i * step] = (1 + i - (AGE_MASK - age)) | flags;
    workingset_age(ram, group_id, count);
}

/* How many pages may have gone by in the meantime. */
static uint64_t reach(pa_ram *ram, uint32_t group_id, bool file)
{
    const uint64_t *listed = stats_of(ram, group_id)->pages;
    uint64_t pages = listed[LRU_ACTIVE_FILE];
    if (!file)
        pages += listed[LRU_INACTIVE_FILE];
    if (swap_room(ram, group_id))
        pages += listed[LRU_ACTIVE_ANON] + (file ? listed[LRU_INACTIVE_ANON] : 0);
    return pages;
}

bool workingset_refault(pa_ram *ram, uint32_t group_id, uint32_t f, uint32_t shadow, bool file,
                        uint64_t count)
{
    group *g = &ram->groups[group_id];
    if (shadow & SHADOW_ZEROS)
        ram->state[f] |= STATE_ZEROS;
    if (!(ram->settings.rules & PA_WORKINGSET) || !(shadow & AGE_MASK))
        return false;
    *(file ? &ram->events.refault_file : &ram->events.refault_anon) += count;
    g->refaults[file] += count;
    uint64_t distance = (g->age % AGE_MASK + AGE_MASK - ((shadow & AGE_MASK) - 1)) % AGE_MASK;
    if (distance > reach(ram, group_id, file))
        return false;
    *(file ? &ram->events.restored_file : &ram->events.restored_anon) += count;
    workingset_age(ram, group_id, count);
    g->restored[file] += count;
    if (shadow & SHADOW_WORKINGSET) {
        g->known_again[file] += count;
        ram->state[f] |= STATE_WORKINGSET;
        lru_note_cost(ram, group_id, file, RECLAIM_BATCH * count);
    }
    return true;
}
