/* SPDX-License-Identifier: MIT
 *
 * swap.c -- slots, and the swap cache: frames that hold the same page as a slot.
 *
 * Swapping in keeps the slot as long as the page is not written, so that a page that is only read
 * costs no second write (mm/memory.c do_swap_page of Linux 6.12).
 */
#include "ram.h"

uint64_t swap_room(const pa_ram *ram, uint32_t group_id)
{
    uint64_t room = ram->slots.count_free;
    for (uint32_t g = group_id; g != NO_GROUP; g = ram->groups[g].parent) {
        const group *level = &ram->groups[g];
        uint64_t left =
            level->swap_limit > level->usage_swap ? level->swap_limit - level->usage_swap : 0;
        room = left < room ? left : room;
    }
    return room;
}

bool swap_is_full(const pa_ram *ram, uint32_t group_id)
{
    bool full = ram->slots.count_free * 2 < ram->slots.count;
    for (uint32_t g = group_id; g != NO_GROUP; g = ram->groups[g].parent)
        full |= ram->groups[g].usage_swap >= ram->groups[g].swap_limit / 2;
    return full;
}

uint64_t swap_take(pa_ram *ram, uint32_t group_id)
{
    uint64_t slot;
    if (!swap_room(ram, group_id) || !bitmap_take(&ram->slots, 1, &slot))
        return NO_SLOT;
    ram->slot_group[slot] = (uint16_t)group_id;
    for (uint32_t g = group_id; g != NO_GROUP; g = ram->groups[g].parent)
        ram->groups[g].usage_swap++;
    return slot;
}

static void free_slot(pa_ram *ram, uint64_t slot)
{
    bitmap_clear(&ram->slots, slot, 1);
    for (uint32_t g = ram->slot_group[slot]; g != NO_GROUP; g = ram->groups[g].parent)
        ram->groups[g].usage_swap--;
}

void swap_add_ref(pa_ram *ram, uint64_t slot)
{
    ram->slot_refs[slot]++;
}

void swap_detach(pa_ram *ram, uint32_t f)
{
    uint64_t slot = ram->slot_of[f];
    if (!slot--)
        return;
    ram->slot_of[f] = ram->slot_frame[slot] = 0;
    if (!ram->slot_refs[slot])
        free_slot(ram, slot);
}

void swap_drop_ref(pa_ram *ram, uint64_t slot)
{
    uint32_t cached = ram->slot_frame[slot];
    if (--ram->slot_refs[slot])
        return;
    if (!cached) {
        free_slot(ram, slot);
    } else if (owner_kind(ram->frame[cached - 1].owner) == KIND_SLOT) {
        swap_detach(ram, cached - 1);
        ram_release(ram, cached - 1);
    }
}

/* Read one slot into the swap cache; NO_FRAME: exhausted. */
static uint32_t read_slot(pa_ram *ram, uint32_t group_id, uint64_t slot)
{
    uint64_t f;
    ram->slot_refs[slot]++; /* reclaim must not take the slot away meanwhile */
    uint64_t got = ram_take(ram, group_id, 1, &f);
    ram->slot_refs[slot]--;
    if (!got)
        return NO_FRAME;
    uint64_t active = ram->settings.rules & PA_NEW_ANON_ACTIVE ? OWNER_ACTIVE : 0;
    ram->slot_frame[slot] = (uint32_t)f + 1;
    ram->slot_of[f] = (uint32_t)slot + 1;
    ram->maps[f] = 0;
    ram->events.swapped_in++;
    ram_put(ram, (uint32_t)f, owner_of(KIND_SLOT, group_id, 0, slot) | active);
    return (uint32_t)f;
}

/* The slots around one that was asked for come along, as many as there is free memory for. */
static void read_around(pa_ram *ram, uint32_t group_id, uint64_t slot)
{
    uint64_t window = UINT64_C(1) << ram->settings.page_cluster, first = slot & ~(window - 1);
    for (uint64_t s = first; s < first + window && s < ram->slots.count; s++) {
        bool wanted = s != slot && bitmap_is_taken(&ram->slots, s) && ram->slot_refs[s] &&
                      !ram->slot_frame[s];
        if (wanted && read_slot(ram, group_id, s) == NO_FRAME)
            return;
    }
}

uint32_t swap_read(pa_ram *ram, uint32_t group_id, uint64_t slot, bool *major)
{
    *major = !ram->slot_frame[slot];
    if (*major) {
        uint32_t f = read_slot(ram, group_id, slot);
        if (f == NO_FRAME)
            return NO_FRAME;
        ram->maps[f]++; /* neighbours must not push it out before it is mapped */
        ram_mark(ram, f, OWNER_LOCKED, 0);
        if (ram->settings.page_cluster)
            read_around(ram, group_id, slot);
        ram_mark(ram, f, 0, OWNER_LOCKED);
        ram->maps[f]--;
    }
    return ram->slot_frame[slot] - 1;
}
