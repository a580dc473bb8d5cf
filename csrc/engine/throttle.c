/* SPDX-License-Identifier: MIT
 *
 * throttle.c -- memory.high: whoever takes pages beyond it reclaims, and must wait if that does not
 * help.
 *
 * Model of mem_cgroup_handle_over_high() in mm/memcontrol.c of Linux 6.12.  Pages are charged in
 * batches of 64 there, so once in 64 pages somebody who is over has to do something about it.
 */
#include "ram.h"

enum { BATCH = 64, TRIES = 16, PRECISION = 20, SCALING = 14, HZ = 1000 };

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static bool is_over(const group *g)
{
    return g->usage > g->high;
}

/* Reclaim from every level that is over (reclaim_high). */
static uint64_t reclaim_high(pa_ram *ram, uint32_t group_id, uint64_t pages)
{
    uint64_t freed = 0;
    for (uint32_t i = group_id; i != NO_GROUP; i = ram->groups[i].parent) {
        if (!is_over(&ram->groups[i]))
            continue;
        ram->groups[i].high_hits++;
        freed += reclaim(ram, i, pages);
    }
    return freed;
}

/* By how much the worst level is over, as a share of its limit, times 2^20. */
static uint64_t worst_overage(const pa_ram *ram, uint32_t group_id)
{
    uint64_t worst = 0;
    for (uint32_t i = group_id; i != NO_GROUP; i = ram->groups[i].parent) {
        const group *g = &ram->groups[i];
        uint64_t high = g->high ? g->high : 1;
        uint64_t overage = is_over(g) ? ((g->usage - g->high) << PRECISION) / high : 0;
        worst = overage > worst ? overage : worst;
    }
    return worst;
}

/* Milliseconds that a batch of pages costs: the square of the overage. */
static uint64_t penalty(const pa_ram *ram, uint32_t group_id)
{
    uint64_t overage = least(worst_overage(ram, group_id), UINT64_C(1) << 24);
    return least(overage * overage * HZ >> PRECISION >> SCALING, 2 * HZ);
}

static void handle_over_high(pa_ram *ram, uint32_t group_id)
{
    uint64_t pages = BATCH, wait;
    for (int tries = TRIES;; pages = RECLAIM_BATCH) {
        uint64_t freed = reclaim_high(ram, group_id, pages);
        wait = penalty(ram, group_id);
        if (wait <= HZ / 100)
            return;
        if (!freed && !tries--)
            break;
    }
    ram->groups[group_id].throttled += wait;
    pa_ram_pass(ram, wait * 1000000, 0);
}

uint64_t throttle_room(const pa_ram *ram, uint32_t group_id)
{
    uint64_t room = UINT64_MAX;
    for (uint32_t i = group_id; i != NO_GROUP; i = ram->groups[i].parent) {
        const group *g = &ram->groups[i];
        room = least(room, is_over(g) ? 0 : g->high - g->usage);
    }
    return room > BATCH ? room : BATCH;
}

void throttle(pa_ram *ram, uint32_t group_id, uint64_t count)
{
    bool over = false;
    for (uint32_t i = group_id; i != NO_GROUP && !over; i = ram->groups[i].parent)
        over = is_over(&ram->groups[i]);
    if (!over)
        return;
    group *g = &ram->groups[group_id];
    for (g->over += count; g->over >= BATCH; g->over -= BATCH)
        handle_over_high(ram, group_id);
}

int pa_ram_throttle_group(pa_ram *ram, uint32_t group_id, uint64_t pages)
{
    if (!group_id || group_id >= ram->count_groups)
        return PA_ERR_INVALID;
    group *g = &ram->groups[group_id];
    g->high = pages;
    for (int tries = TRIES; is_over(g) && tries;)
        tries -= !reclaim(ram, group_id, g->usage - g->high);
    return PA_OK;
}
