/* SPDX-License-Identifier: MIT
 *
 * reclaim26.c -- which pages go when memory is short, in Linux 2.6.
 *
 * Model of mm/vmscan.c of 2.6.11 and 2.6.18.  What is due of each list adds up until it fills a
 * batch.  Mapped pages leave the active list only when the sweep is in distress, or nearly all
 * memory is mapped, and anonymous ones only if there is swap.
 */
#include "reclaim.h"

void note_priority(pa_ram *ram, int priority)
{
    for (uint32_t i = 0; i < ram->count_groups; i++)
        ram->groups[i].prev_priority = priority;
}

/* May a mapped or anonymous page leave the active list? */
static bool takes_mapped(const sweep *s)
{
    const pa_ram *ram = s->ram;
    uint64_t mapped = ram->count_anon + ram->count_shmem, total = ram->settings.count_frames;
    for (uint32_t i = 0; i < ram->count_mms; i++)
        mapped += ram->mms[i] ? ram->mms[i]->file : 0;
    uint64_t distress = s->g->prev_priority > 6 ? 0 : 100u >> s->g->prev_priority;
    return mapped * 100 / total / 2 + distress + ram->settings.swappiness >= 100;
}

static void shrink_active(sweep *s, lru_list which, uint64_t count)
{
    pa_ram *ram = s->ram;
    lru *list = &s->g->lists[which];
    /* without swap there is nowhere to put anonymous pages; with none left, to look at them again and
     * again as the kernel does comes to the same */
    bool mapped_too = takes_mapped(s) && (is_file_list(which) || swap_room(ram, s->group_id));
    for (; count && list->oldest != NO_FRAME; count--) {
        uint32_t f = list->oldest;
        s->g->refilled++;
        ram_work(ram, ram->settings.costs.scan, 1);
        bool mapped = rmap_count(ram, f) || which == LRU_ACTIVE_ANON;
        folio page = {NULL, f, 1};
        bool stays = mapped && (!mapped_too || take_references(ram, &page));
        ram->events.deactivated += !stays;
        ram_mark(ram, f, 0, stays ? OWNER_REFERENCED : OWNER_ACTIVE | OWNER_REFERENCED);
    }
}

/* How many pages of a list are looked at now: nothing below one batch. */
static uint64_t due(sweep *s, lru_list which)
{
    uint64_t *left = &s->g->scan_left[which];
    *left += (s->g->lists[which].count >> s->priority) + 1;
    if (*left < RECLAIM_BATCH)
        return 0;
    uint64_t now = *left;
    *left = 0;
    return now;
}

void shrink_zone(sweep *s)
{
    uint64_t scan[LRU_LISTS] = {0};
    for (unsigned i = 0; i < LRU_UNEVICTABLE; i++)
        scan[i] = due(s, i);
    for (bool more = true; more && !sweep_is_done(s);) {
        more = false;
        for (unsigned i = LRU_UNEVICTABLE; i--;) { /* active first, then inactive */
            uint64_t n = scan[i] < RECLAIM_BATCH ? scan[i] : RECLAIM_BATCH;
            scan[i] -= n;
            more |= scan[i] > 0;
            if (is_active_list(i))
                shrink_active(s, i, n);
            else
                shrink_inactive(s, i, n);
        }
    }
    device_unplug(&s->ram->disk, &s->ram->settings.costs);
}
