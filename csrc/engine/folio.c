/* SPDX-License-Identifier: MIT
 *
 * folio.c -- pages of a file that were read together, and go together.
 *
 * Since 6.16 ext4 reads ahead in large folios.  The lists of reclaim hold folios there, so a look at
 * one page is a look at all of them, and what is reclaimed is up to 2 MB at once.  Here the frames
 * of a folio keep their own places in a list, next to each other, and whatever is done to one of
 * them is done to all.  A folio of which a part was dropped is single pages from then on.
 */
#include "ram.h"

folio folio_large(pa_ram *ram, uint32_t f)
{
    uint64_t owner = ram->frame[f].owner, first;
    uint64_t pages = object_folio(ram, owner_id(owner), owner_place(owner), &first);
    const uint64_t *entry = pages > 1 ? object_entry(ram, owner_id(owner), first) : NULL;
    return (folio){entry, entry ? pte_frame(*entry) : f, (uint32_t)pages};
}

void folio_mark(pa_ram *ram, const folio *all, uint64_t set, uint64_t clear)
{
    for (uint32_t i = 0; i < all->count; i++)
        ram_mark(ram, folio_frame(all, i), set, clear);
}

void folio_set_state(pa_ram *ram, const folio *all, uint8_t bits)
{
    for (uint32_t i = 0; i < all->count; i++)
        ram->state[folio_frame(all, i)] |= bits;
}

bool folio_is_locked(const pa_ram *ram, const folio *all)
{
    for (uint32_t i = 0; i < all->count; i++) {
        if (ram->frame[folio_frame(all, i)].owner & OWNER_LOCKED)
            return true;
    }
    return false;
}

bool folio_is_writing(const pa_ram *ram, const folio *all)
{
    for (uint32_t i = 0; i < all->count; i++) {
        if (device_is_writing(&ram->disk, folio_frame(all, i)))
            return true;
    }
    return false;
}

bool folio_is_dirty(const pa_ram *ram, const folio *all)
{
    for (uint32_t i = 0; i < all->count; i++) {
        if (ram->frame[folio_frame(all, i)].owner & OWNER_DIRTY)
            return true;
    }
    return false;
}
