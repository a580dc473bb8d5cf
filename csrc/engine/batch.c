/* SPDX-License-Identifier: MIT
 *
 * batch.c -- new pages that are not on a list yet.
 *
 * Model of the lru_add batch of mm/swap.c of Linux 6.12: a processor puts new pages on their lists
 * 31 at a time, and sooner if it begins to shrink a list, writes to a page that it has just read from
 * swap, or unmaps memory.  Until then reclaim does not count them: a list on which there is nothing
 * else is empty, so that nobody shrinks it and nobody puts them there.
 *
 * Here a page is on its list at once, as the newest, and the batch holds how many of each list's
 * newest pages do not count:
 *
 *     batch.pages == sum of batch.share[i].pages, i < batch.count, < LRU_BATCH
 *
 * Left out: the batches of other processors, but for what migrate.c says; a page that is used a second
 * time, or is given back, while it waits.
 */
#include "ram.h"

void batch_add(pa_ram *ram, uint32_t group_id, lru_list list, uint64_t pages)
{
    lru_batch *b = &ram->batch;
    if (ram->settings.rules & PA_RECLAIM_MAPPED)
        return;
    if (b->pages + pages >= LRU_BATCH) { /* of those that are many the last ones wait */
        pages = (b->pages + pages) % LRU_BATCH;
        batch_drain(ram);
    }
    if (!pages)
        return;
    batch_share *last = b->count ? &b->share[b->count - 1] : NULL;
    if (!last || last->group != group_id || last->list != list) {
        last = &b->share[b->count++];
        *last = (batch_share){group_id, (uint16_t)list, 0};
    }
    last->pages += (uint16_t)pages;
    b->pages += (uint32_t)pages;
}

void batch_drain(pa_ram *ram)
{
    ram->batch.count = ram->batch.pages = 0;
}

uint64_t batch_counted(const pa_ram *ram, uint32_t group_id, lru_list list)
{
    uint64_t pages = ram->groups[group_id].lists[list].count, waiting = 0;
    for (uint32_t i = 0; pages && i < ram->batch.count; i++) {
        const batch_share *s = &ram->batch.share[i];
        waiting += s->group == group_id && s->list == list ? s->pages : 0;
    }
    return pages > waiting ? pages - waiting : 0;
}
