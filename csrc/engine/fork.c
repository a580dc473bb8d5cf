/* SPDX-License-Identifier: MIT
 *
 * fork.c -- a child's first page tables.
 *
 * Model of copy_page_range() in mm/memory.c.  The child gets each table that the parent has in the
 * range, whether any entry of it is in use or not.
 */
#include "ram.h"

static void share_entry(pa_mm *child, uint64_t vpn, uint64_t *from, uint64_t *to, bool shared)
{
    pa_ram *ram = child->ram;
    if (!shared)
        *from &= ~(uint64_t)PTE_WRITE;
    if (pte_is_frame(*from) && !(*from & PTE_FILE))
        *from |= PTE_FORKED;
    *to = *from & ~(uint64_t)PTE_LOCKED;
    if (*from & PTE_PRESENT) /* old, and if it is shared, clean */
        *to &= ~(uint64_t)(shared ? PTE_ACCESSED | PTE_DIRTY : PTE_ACCESSED);
    if (*from & PTE_GUARD)
        return;
    if (*from & PTE_SWAP) {
        swap_add_ref(ram, *from >> PTE_SHIFT);
        child->swap++;
    } else if (pte_is_frame(*from)) {
        uint32_t f = pte_frame(*from);
        uint64_t owner = ram->frame[f].owner;
        ram->maps[f]++;
        ++*mm_resident_counter(child, f);
        if (owner_kind(owner) == KIND_OBJECT)
            rmap_hint(&ram->objects[owner_id(owner)].hints, child->number,
                      (int64_t)vpn - (int64_t)owner_place(owner));
        else if (vpn != owner_place(owner))
            rmap_hint(&ram->moves, child->number, (int64_t)vpn - (int64_t)owner_place(owner));
    } else if (ram->settings.rules & PA_ZERO_IS_FILE) {
        child->file++;
    }
}

/* The entries of one leaf, which the child may have in part already. */
static pa_status share_leaf(pa_mm *child, pa_mm *parent, stretch *s, bool shared)
{
    pa_status status = PA_OK;
    if (huge_at(s->pte) &&
        (s->pte[0] & PTE_FILE || (!huge_covers(parent, s) && !huge_small(parent, s))))
        return mm_make_upper(child, s->vpn, 1); /* a file's 2 MB are faulted in again */
    uint64_t *leaf = mm_leaf_for(child, s->vpn, &status);
    s->pte = pt_table_find(&parent->table, s->vpn); /* reclaim may have dropped it */
    if (!leaf || !s->pte)
        return status;
    leaf += s->vpn & (pt_table_leaf_size(&parent->table) - 1);
    for (uint64_t i = 0; i < s->count; i++) {
        if (s->pte[i] && !leaf[i])
            share_entry(child, s->vpn + i, &s->pte[i], &leaf[i], shared);
    }
    mm_publish(child);
    return PA_OK;
}

int pa_mm_share(pa_mm *child, pa_mm *parent, uint64_t vpn, uint64_t count, bool shared,
                uint64_t *done)
{
    uint64_t end = mm_end_of(parent, vpn, count);
    child->guards |= parent->guards;
    child->ram->has_forked = true;
    mm_cool_range(parent, vpn, count);
    for (uint64_t at = vpn; at < end;) {
        unsigned missing = pt_table_missing(&parent->table, at);
        uint64_t stop = (at | (pt_table_span(&parent->table, missing ? missing - 1 : 0) - 1)) + 1;
        stop = stop < end ? stop : end;
        stretch s = {at, stop - at, pt_table_find(&parent->table, at)};
        pa_status status =
            missing ? mm_make_upper(child, at, missing) : share_leaf(child, parent, &s, shared);
        if (status != PA_OK) {
            *done = at - vpn;
            return status;
        }
        at = stop;
    }
    *done = count;
    return PA_OK;
}
