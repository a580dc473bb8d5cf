/* SPDX-License-Identifier: MIT
 *
 * flusher.c -- the kernel's thread that writes what files have in memory only.
 *
 * Model of wakeup_flusher_threads() in fs/fs-writeback.c, and of what shrink_folio_list() in
 * mm/vmscan.c leaves to it, of Linux 6.18.  Reclaim does not write the
 * dirty pages of files: it asks for all of them to be written, in their order in the files, and
 * goes on with what has become clean.  A page is clean, and its mappings are to fault before they
 * write again (folio_mkclean), from when its write is asked for.
 */
#include "ram.h"

enum {
    MOST_WAIT = 100000000, /* ns: a tenth of a second (reclaim_throttle)         */
    NOTE_PAGE = 250        /* ns: to note that a page is written, on another processor */
};

static void write_protect(pa_mm *mm, uint64_t vpn, uint64_t *pte, void *context)
{
    (void)context;
    *pte &= ~(uint64_t)(PTE_WRITE | PTE_DIRTY);
    mm_cool(mm, vpn);
}

void flusher_clean(pa_ram *ram, uint32_t f)
{
    rmap_each(ram, f, write_protect, NULL);
    ram_set_clean(ram, f);
    ram->events.file_written++;
}

/* A page whose last write is under way keeps its place in the queue and is written again later. */
static void write_page(pa_ram *ram, uint32_t f)
{
    uint64_t owner = ram->frame[f].owner;
    if (!(owner & OWNER_DIRTY) || device_is_writing(&ram->disk, f))
        return;
    if (ram->has_huge)
        huge_isolate(ram, f);
    flusher_clean(ram, f);
    device_plug(&ram->disk, &ram->settings.costs, f,
                file_place(ram, owner_id(owner), owner_place(owner)), 1);
}

void flusher_wake(pa_ram *ram)
{
    for (uint32_t id = 0; ram->count_dirty && id < ram->count_objects; id++) {
        const object *o = &ram->objects[id];
        uint64_t left = o->used && !o->shmem ? o->resident : 0;
        for (uint64_t i = 0; left && ram->count_dirty && i < o->count_pages; i++) {
            const uint64_t *entry = object_entry(ram, id, i);
            if (!entry || !(*entry & PTE_PRESENT))
                continue;
            left--;
            write_page(ram, pte_frame(*entry));
        }
    }
    device_unplug(&ram->disk, &ram->settings.costs);
    if (ram->settings.costs.batches)
        device_answer_together(&ram->disk, &ram->settings.costs, NOTE_PAGE);
}

/* Somebody who found nothing but dirty pages waits until a batch of pages is written, or for a
 * while. */
void flusher_await(pa_ram *ram)
{
    device *d = &ram->disk;
    uint64_t end = d->now + MOST_WAIT;
    uint64_t enough = d->count_pages > RECLAIM_BATCH ? d->count_pages - RECLAIM_BATCH : 0;
    while (d->count_pages > enough && d->now < end && device_wait(d, &ram->settings.costs))
        ram_settle(ram);
}
