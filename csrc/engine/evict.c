/* SPDX-License-Identifier: MIT
 *
 * evict.c -- taking one page away from everybody who maps it.
 *
 * Model of shrink_folio_list() in mm/vmscan.c.  A clean page is gone at once.  A dirty one gets a
 * slot, or its place in its file, and stays as an unmapped page until it is written: only then it
 * is freed, by the next sweep that comes by.  Pages that hold only zeros are noted and not written
 * (6.12).
 */
#include "ram.h"

/* A look at all entries of a page or folio.  Those of one mapping count as one reference, however
 * many pages of the folio were used through it (folio_referenced_one). */
typedef struct look {
    uint64_t place, count; /* of the page in its folio; references so far */
    const pa_mm *mm;       /* the mapping that counted last: its process, */
    uint64_t start;        /* and where the folio's first page is in it   */
} look;

static void take_reference(pa_mm *mm, uint64_t vpn, uint64_t *pte, void *context)
{
    look *l = context;
    if (*pte & PTE_PASSING)
        return;
    uint64_t start = vpn - l->place;
    if (*pte & PTE_ACCESSED && (!l->count || mm != l->mm || start != l->start)) {
        l->count++;
        l->mm = mm;
        l->start = start;
    }
    *pte &= ~(uint64_t)PTE_ACCESSED;
    mm_cool(mm, vpn);
}

uint64_t take_references(pa_ram *ram, const folio *all)
{
    look l = {0};
    for (uint32_t i = 0; i < all->count; i++) {
        l.place = i;
        rmap_each(ram, folio_frame(all, i), take_reference, &l);
    }
    return l.count;
}

/* ---- entries ---------------------------------------------------------------------------------- */

typedef struct eviction {
    pa_ram *ram;
    uint64_t entry; /* what the mappers' entries become */
    bool shmem, anon;
} eviction;

static void evict_one(pa_mm *mm, uint64_t vpn, uint64_t *pte, void *context)
{
    const eviction *e = context;
    mm_cool(mm, vpn);
    mm_note_peak(mm);
    *pte = e->entry;
    if (!e->anon) {
        *(e->shmem ? &mm->shmem : &mm->file) -= 1;
        mm_publish(mm);
        return;
    }
    mm->anon--;
    if (e->entry) {
        mm->swap++;
        swap_add_ref(e->ram, e->entry >> PTE_SHIFT);
    }
    mm_publish(mm);
}

static void is_dirty(pa_mm *mm, uint64_t vpn, uint64_t *pte, void *context)
{
    (void)mm;
    (void)vpn;
    *(bool *)context |= (*pte & PTE_DIRTY) != 0;
}

static bool find_dirty(pa_ram *ram, uint32_t f)
{
    bool dirty = ram->frame[f].owner & OWNER_DIRTY;
    rmap_each(ram, f, is_dirty, &dirty);
    return dirty;
}

/* ---- swap ------------------------------------------------------------------------------------- */

/* Give the frame a slot to be in, unless it has one; false: there is none. */
static bool join_slot(pa_ram *ram, uint32_t f)
{
    if (ram->slot_of[f])
        return true;
    uint32_t group_id = owner_group(ram->frame[f].owner);
    uint64_t slot;
    if (!swap_find(ram, group_id, 1, &slot))
        return false;
    swap_use(ram, group_id, slot, 1);
    ram->slot_of[f] = (uint32_t)slot + 1;
    ram->slot_frame[slot] = f + 1;
    return true;
}

static void leave_slot(pa_ram *ram, uint32_t f)
{
    uint64_t slot = ram->slot_of[f] - 1;
    ram->slot_shadow[slot] =
        workingset_shadow(ram, owner_group(ram->frame[f].owner), ram->state[f], 1);
    ram->slot_frame[slot] = 0;
    ram->slot_of[f] = 0;
}

/* The frame is an unmapped copy of its slot now: written first if they differ. */
static fate leave_to_swap(pa_ram *ram, uint32_t f, bool write)
{
    uint64_t slot = ram->slot_of[f] - 1;
    ram->maps[f] = 0;
    ram_renew(ram, f, owner_of(KIND_SLOT, owner_group(ram->frame[f].owner), 0, slot));
    if (write && !ram_is_zero_page(ram, f)) {
        ram->events.swapped_out++;
        ram->state[f] |= STATE_RECLAIM;
        if (device_plug(&ram->disk, &ram->settings.costs, f, swap_place(slot), 1))
            return FATE_WRITING;
    }
    leave_slot(ram, f);
    ram_release(ram, f);
    return write ? FATE_WRITTEN : FATE_FREED;
}

/* Given up by MADV_FREE: gone, unless it was written since; then it is as any other again. */
static fate evict_lazy(pa_ram *ram, uint32_t f, bool dirty)
{
    eviction e = {.ram = ram, .anon = true};
    if (dirty) {
        ram_set_lazy(ram, f, false);
        return FATE_STAYS;
    }
    rmap_each(ram, f, evict_one, &e);
    ram->maps[f] = 0;
    ram_release(ram, f);
    return FATE_FREED;
}

static fate evict_anon(pa_ram *ram, uint32_t f)
{
    eviction e = {.ram = ram, .anon = true};
    bool dirty = find_dirty(ram, f), has_slot = ram->slot_of[f] != 0;
    if (ram->state[f] & STATE_LAZY)
        return evict_lazy(ram, f, dirty);
    if (!join_slot(ram, f))
        return FATE_STAYS;
    e.entry = (uint64_t)(ram->slot_of[f] - 1) << PTE_SHIFT | PTE_SWAP;
    rmap_each(ram, f, evict_one, &e);
    return leave_to_swap(ram, f, dirty || !has_slot);
}

static fate evict_cached(pa_ram *ram, uint32_t f)
{
    leave_slot(ram, f);
    ram_release(ram, f);
    return FATE_FREED;
}

/* ---- objects ---------------------------------------------------------------------------------- */

static void leave_object(pa_ram *ram, uint32_t f, uint64_t entry)
{
    uint64_t owner = ram->frame[f].owner;
    uint64_t *place = object_entry(ram, owner_id(owner), owner_place(owner));
    if (*place & PTE_BUFFERS)
        ram_charge_buffers(ram, owner_group(owner), -1);
    *place = entry | (*place & PTE_NODE);
    ram->objects[owner_id(owner)].resident--;
    ram->maps[f] = 0;
}

static fate evict_shmem(pa_ram *ram, uint32_t f)
{
    eviction e = {.ram = ram, .shmem = true};
    if (!join_slot(ram, f))
        return FATE_STAYS;
    uint64_t slot = ram->slot_of[f] - 1;
    rmap_each(ram, f, evict_one, &e);
    leave_object(ram, f, slot << PTE_SHIFT | PTE_SWAP);
    swap_add_ref(ram, slot);
    return leave_to_swap(ram, f, true);
}

/* Its place in the file is written if it is dirty. */
static bool write_dirty(pa_ram *ram, uint32_t f)
{
    uint64_t owner = ram->frame[f].owner;
    if (!(owner & OWNER_DIRTY))
        return false;
    ram->events.file_written++;
    ram_mark(ram, f, 0, OWNER_DIRTY);
    ram->state[f] |= STATE_RECLAIM;
    return device_plug(&ram->disk, &ram->settings.costs, f,
                       file_place(ram, owner_id(owner), owner_place(owner)), 1);
}

static fate evict_file(pa_ram *ram, const folio *all)
{
    eviction e = {.ram = ram};
    bool writes = false, left = folio_is_dirty(ram, all) && ram->settings.rules & PA_FLUSHER;
    for (uint32_t i = 0; i < all->count; i++) {
        uint32_t f = folio_frame(all, i);
        rmap_each(ram, f, evict_one, &e);
        ram->maps[f] = 0;
        if (left)
            ram->state[f] |= STATE_RECLAIM;
        else
            writes |= write_dirty(ram, f);
    }
    if (writes || left)
        return left ? FATE_STAYS : FATE_WRITING;
    uint64_t shadow = workingset_shadow(ram, owner_group(ram->frame[all->frame].owner),
                                        ram->state[all->frame], all->count);
    for (uint32_t i = 0; i < all->count; i++) {
        uint32_t f = folio_frame(all, i);
        leave_object(ram, f, shadow << PTE_SHIFT | PTE_SHADOW);
        ram_release(ram, f);
    }
    return FATE_FREED;
}

/* ---- at once ---------------------------------------------------------------------------------- */

/* A page of shared memory that was never written is nowhere afterwards: it is made anew. */
static void drop_clean_shmem(pa_ram *ram, uint32_t f)
{
    uint64_t owner = ram->frame[f].owner;
    ram->promised -= ram->objects[owner_id(owner)].promised;
    leave_object(ram, f, 0);
    nodes_empty(ram, owner_id(owner), owner_place(owner),
                object_entry(ram, owner_id(owner), owner_place(owner)));
    ram_release(ram, f);
}

static void evict_object_now(pa_ram *ram, uint32_t f)
{
    object *o = &ram->objects[owner_id(ram->frame[f].owner)];
    eviction e = {.ram = ram, .shmem = o->shmem};
    bool dirty = find_dirty(ram, f);
    if (!dirty && !o->shmem) {
        evict_file(ram, &(folio){.frame = f, .count = 1});
        return;
    }
    if (dirty && o->shmem && evict_shmem(ram, f) != FATE_STAYS)
        return;
    rmap_each(ram, f, evict_one, &e);
    ram->maps[f] = 0;
    if (!dirty) {
        drop_clean_shmem(ram, f);
        return;
    }
    ram_mark(ram, f, OWNER_ACTIVE | OWNER_DIRTY, 0);
    ram->state[f] |= o->shmem ? 0 : STATE_AHEAD; /* whoever maps it meets PG_reclaim */
}

fate evict(pa_ram *ram, const folio *all)
{
    uint32_t f = all->frame;
    uint64_t owner = ram->frame[f].owner;
    for (uint32_t i = 0; ram->has_huge && i < all->count; i++)
        huge_isolate(ram, folio_frame(all, i));
    switch (owner_kind(owner)) {
    case KIND_ANON:
        return evict_anon(ram, f);
    case KIND_SLOT:
        return evict_cached(ram, f);
    case KIND_OBJECT:
        return ram->objects[owner_id(owner)].shmem ? evict_shmem(ram, f) : evict_file(ram, all);
    case KIND_FREE:
        break;
    }
    return FATE_STAYS;
}

void evict_now(pa_ram *ram, uint32_t f)
{
    if (owner_kind(ram->frame[f].owner) == KIND_OBJECT) {
        huge_isolate(ram, f);
        evict_object_now(ram, f);
    } else if (evict(ram, &(folio){.frame = f, .count = 1}) == FATE_STAYS) {
        ram_mark(ram, f, OWNER_ACTIVE, 0);
    }
}
