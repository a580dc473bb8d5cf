/* SPDX-License-Identifier: MIT
 *
 * charge.c -- frames are taken in runs and charged to groups; reclaim makes room for them.
 */
#include "ram.h"

#include <string.h>

int64_t ram_available(const pa_ram *ram)
{
    return (int64_t)(ram->frames.count_free - ram->tables - ram->kernel -
                     ram->settings.count_reserved);
}

bool ram_is_below(const pa_ram *ram, uint32_t group_id, uint32_t ancestor)
{
    while (group_id != ancestor && group_id != NO_GROUP)
        group_id = ram->groups[group_id].parent;
    return group_id == ancestor;
}

/* The ancestor (or the group itself) that is nearest to its limit. */
static uint32_t tightest(const pa_ram *ram, uint32_t group_id)
{
    uint32_t found = group_id;
    uint64_t least = UINT64_MAX;
    for (uint32_t g = group_id; g != NO_GROUP; g = ram->groups[g].parent) {
        const group *level = &ram->groups[g];
        uint64_t room = level->limit > level->usage ? level->limit - level->usage : 0;
        if (room < least) {
            least = room;
            found = g;
        }
    }
    return found;
}

uint64_t ram_room(const pa_ram *ram, uint32_t group_id)
{
    const group *g = &ram->groups[tightest(ram, group_id)];
    return g->limit > g->usage ? g->limit - g->usage : 0;
}

static void charge(pa_ram *ram, uint32_t group_id, uint64_t count)
{
    for (uint32_t g = group_id; g != NO_GROUP; g = ram->groups[g].parent) {
        group *level = &ram->groups[g];
        level->usage += count;
        if (level->usage > level->usage_peak)
            level->usage_peak = level->usage;
    }
}

static void uncharge(pa_ram *ram, uint32_t group_id, uint64_t count)
{
    for (uint32_t g = group_id; g != NO_GROUP; g = ram->groups[g].parent)
        ram->groups[g].usage -= count;
}

/* Reclaim for whoever is waiting; kswapd, if it had given up, has hope again. */
static bool reclaim_some(pa_ram *ram, uint32_t group_id, uint64_t pages)
{
    bool fine = reclaim(ram, group_id, pages > RECLAIM_BATCH ? pages : RECLAIM_BATCH) > 0;
    if (fine)
        ram->fruitless = 0;
    return fine;
}

/* The kernel runs into a limit as often before it calls the OOM killer: at first, when it has emptied
 * what processors had in stock, and 16 times again (try_charge_memcg). */
enum { FRUITLESS_HITS = 18 };

/* Room for one page at least: in the group first, then on the machine. */
static bool make_room(pa_ram *ram, uint32_t group_id)
{
    while (!ram_room(ram, group_id)) {
        uint32_t full = tightest(ram, group_id);
        ram->groups[full].limit_hits++;
        if (reclaim_some(ram, full, 1))
            continue;
        ram->groups[full].limit_hits += FRUITLESS_HITS - 1;
        return false;
    }
    while (ram_available(ram) <= (int64_t)ram->settings.watermark_min) {
        if (!reclaim_some(ram, 0, 1))
            return false;
    }
    return true;
}

bool ram_make_folio_room(pa_ram *ram, uint32_t group_id, uint64_t pages)
{
    for (int tries = 2; ram_room(ram, group_id) < pages; tries--) {
        uint32_t full = tightest(ram, group_id);
        ram->groups[full].limit_hits++;
        if (!tries || !reclaim_some(ram, full, pages))
            return false;
    }
    int64_t free_frames = (int64_t)(ram->settings.watermark_min + pages);
    return ram_available(ram) > free_frames ||
           (reclaim_some(ram, 0, pages) && ram_available(ram) > free_frames);
}

/* That of 2.6 found nothing while the disk writes: it sleeps for a tenth of a second
 * (blk_congestion_wait). */
static void rest(pa_ram *ram)
{
    bool takes_time = ram->settings.costs.transfer > 0;
    if (ram->settings.rules & PA_RECLAIM_MAPPED && takes_time && device_is_busy(&ram->disk))
        ram->rests_until = ram->disk.now + 100000000;
}

/* kswapd: below the low mark it works in the background until the high mark is reached, and is not
 * back before that much time has passed.  After sixteen tries without success it gives up
 * (MAX_RECLAIM_RETRIES). */
static void balance(pa_ram *ram)
{
    if (ram_available(ram) >= (int64_t)ram->settings.watermark_low || ram->fruitless >= 16 ||
        ram->disk.now < ram->rests_until)
        return;
    ram->disk.background = true;
    ram->disk.aside = 0;
    while (ram_available(ram) < (int64_t)ram->settings.watermark_high) {
        if (!reclaim(ram, 0, RECLAIM_BATCH)) {
            ram->fruitless += !device_is_busy(&ram->disk);
            rest(ram);
            break;
        }
        ram->fruitless = 0;
    }
    ram->disk.background = false;
    uint64_t back = ram->disk.now + ram->disk.aside;
    if (!(ram->settings.rules & PA_RECLAIM_MAPPED) && ram->rests_until < back)
        ram->rests_until = back;
}

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

uint64_t ram_take(pa_ram *ram, uint32_t group_id, uint64_t want, uint64_t *first)
{
    if (!make_room(ram, group_id))
        return 0;
    uint64_t machine = (uint64_t)(ram_available(ram) - (int64_t)ram->settings.watermark_min);
    want = least(want, least(machine, ram_room(ram, group_id)));
    uint64_t got = bitmap_take(&ram->frames, least(want, throttle_room(ram, group_id)), first);
    charge(ram, group_id, got);
    if (ram->reclaiming)
        return got;
    balance(ram);
    throttle(ram, group_id, got);
    return got;
}

bool ram_take_folio(pa_ram *ram, uint32_t group_id, uint64_t count, uint32_t *frames)
{
    uint64_t taken = 0, first, got = ram_make_folio_room(ram, group_id, count);
    for (; got && taken < count; taken += got) {
        got = ram_take(ram, group_id, count - taken, &first);
        for (uint64_t i = 0; i < got; i++)
            frames[taken + i] = (uint32_t)(first + i);
    }
    for (uint64_t i = 0; taken < count && i < taken; i++)
        ram_give(ram, frames[i], 1, group_id);
    return taken == count;
}

void ram_give(pa_ram *ram, uint32_t f, uint64_t count, uint32_t group_id)
{
    frame *first = &ram->frame[f];
    for (uint64_t i = 0; i < count; i++)
        first[i].owner = 0;
    memset(&ram->state[f], 0, count * sizeof *ram->state);
    device_forget(&ram->disk, f, count);
    bitmap_clear(&ram->frames, f, count);
    uncharge(ram, group_id, count);
}

void ram_release(pa_ram *ram, uint32_t f)
{
    ram_unput(ram, f);
    ram_give(ram, f, 1, owner_group(ram->frame[f].owner));
}

uint64_t ram_release_sole(pa_ram *ram, uint32_t f, uint64_t most)
{
    uint64_t owner = ram->frame[f].owner, n = 0;
    while (n < most && ram->frame[f + n].owner == owner + n && !ram->maps[f + n] &&
           !ram->slot_of[f + n] && ram->state[f + n] == ram->state[f])
        n++;
    if (!n || owner_kind(owner) != KIND_ANON)
        return 0;
    ram_unput_anon_run(ram, f, n);
    ram_give(ram, f, n, owner_group(owner));
    return n;
}

bool ram_charge_tables(pa_ram *ram, uint32_t group_id, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        if (!make_room(ram, group_id)) {
            ram_uncharge_tables(ram, group_id, i);
            return false;
        }
        ram->tables++;
        ram->groups[group_id].tables++;
        charge(ram, group_id, 1);
    }
    return true;
}

void ram_uncharge_tables(pa_ram *ram, uint32_t group_id, uint64_t count)
{
    ram->tables -= count;
    ram->groups[group_id].tables -= count;
    uncharge(ram, group_id, count);
}

int pa_ram_charge_kernel(pa_ram *ram, uint32_t group_id, int64_t pages)
{
    if (group_id >= ram->count_groups || (pages < 0 && (uint64_t)-pages > ram->kernel))
        return PA_ERR_INVALID;
    if (pages < 0) {
        ram->kernel -= (uint64_t)-pages;
        uncharge(ram, group_id, (uint64_t)-pages);
        return PA_OK;
    }
    for (int64_t i = 0; i < pages; i++) {
        if (!make_room(ram, group_id)) {
            pa_ram_charge_kernel(ram, group_id, -i);
            return PA_EXHAUSTED;
        }
        ram->kernel++;
        charge(ram, group_id, 1);
    }
    return PA_OK;
}

/* ---- what the kernel keeps beside pages ------------------------------------------------------- */

/* A page of a file that was written to has a buffer head of 104 bytes as long as it is cached, and its
 * memory cgroup pays for it (alloc_page_buffers).  That is taken without a look at the limit: whoever
 * takes the next page pays for both.  Left out: those of pages that are in no cgroup. */
void ram_charge_buffers(pa_ram *ram, uint32_t group_id, int64_t count)
{
    enum { IN_A_PAGE = 4096 / 104 };
    group *g = &ram->groups[group_id];
    if (!group_id || !(ram->settings.rules & PA_ACCOUNTS_NODES))
        return;
    g->buffers += (uint64_t)count;
    uint64_t pages = (g->buffers + IN_A_PAGE - 1) / IN_A_PAGE, before = g->buffer_pages;
    g->buffer_pages = pages;
    ram->kernel += pages - before;
    if (pages > before)
        charge(ram, group_id, pages - before);
    else
        uncharge(ram, group_id, before - pages);
}
