/* SPDX-License-Identifier: MIT
 *
 * run.c -- what reclaim does to frames that lie side by side.
 */
#include "run.h"

#include <string.h>

/* ---- finding ---------------------------------------------------------------------------------- */

/* The one entry that maps the frame, if it is where the frame was made for. */
static bool find_entry(pa_ram *ram, uint32_t f, run *out)
{
    uint64_t owner = ram->frame[f].owner;
    out->mm = ram->mms[owner_id(owner)];
    out->vpn = owner_place(owner);
    out->pte = out->mm ? pt_table_find(&out->mm->table, out->vpn) : NULL;
    return out->pte && (*out->pte & (PTE_PRESENT | PTE_ZERO | PTE_HUGE)) == PTE_PRESENT &&
           pte_frame(*out->pte) == f;
}

/* Is there anything about it that one must look at page by page? */
static bool is_plain(const pa_ram *ram, uint32_t f)
{
    return !ram->maps[f] && !(ram->state[f] & (STATE_LAZY | STATE_READING)) &&
           !device_is_writing(&ram->disk, f);
}

/* Each of these says how far one array goes on as it began, `most` at most: plain loops, one array
 * at a time, are quicker than one loop that looks at all of them. */

static uint64_t along_state(const uint8_t *state, int32_t step, uint64_t most)
{
    const uint8_t *low = step > 0 ? state : state - (most - 1);
    if (!memcmp(low, low + 1, most - 1)) /* nearly always, and quickly seen */
        return most;
    uint64_t n = 1;
    for (const uint8_t *at = state + step; n < most && *at == *state; at += step)
        n++;
    return n;
}

/* Values of `size` bytes that are 0. */
static uint64_t along_zeros(const void *first, size_t size, int32_t step, uint64_t most)
{
    static const char zero[sizeof(uint64_t)];
    const char *at = first, *low = step > 0 ? at : at - (most - 1) * size;
    if (!*low && !memcmp(low, low + 1, most * size - 1))
        return most;
    uint64_t n = 0;
    for (; n < most && !memcmp(at, zero, size); at += step * (ptrdiff_t)size)
        n++;
    return n;
}

static uint64_t along_numbers(const uint32_t *number, uint64_t most)
{
    uint64_t n = 1;
    while (n < most && number[n] == *number + n)
        n++;
    return n;
}

static uint64_t along_entries(const uint64_t *pte, uint64_t most)
{
    uint64_t n = 1;
    while (n < most && pte[n] == *pte + (n << PTE_SHIFT))
        n++;
    return n;
}

/* The slots of mapped pages; those of copies are in their owners. */
static uint64_t along_slots(const uint32_t *slot_of, uint64_t most)
{
    return *slot_of ? along_numbers(slot_of, most) : along_zeros(slot_of, sizeof *slot_of, 1, most);
}

static uint64_t run_length(const pa_ram *ram, const run *r, uint64_t most)
{
    if (ram->one_by_one)
        return 1;
    most = lru_chain(ram, r->first, r->step, most);
    most = along_state(&ram->state[r->first], r->step, most);
    if (device_is_busy(&ram->disk))
        most = along_zeros(&ram->disk.ticket[r->first], sizeof(uint32_t), r->step, most);
    if (!r->mm)
        return most; /* copies have no mappers */
    if (ram->has_forked)
        most = along_zeros(&ram->maps[r->first], sizeof(uint16_t), 1, most);
    return along_entries(r->pte, along_slots(&ram->slot_of[r->first], most));
}

/* As far as one leaf goes. */
static uint64_t most_mapped(const run *r, uint64_t most)
{
    uint64_t size = pt_table_leaf_size(&r->mm->table), left = size - (r->vpn & (size - 1));
    return left < most ? left : most;
}

bool run_find(pa_ram *ram, uint32_t f, uint64_t most, run *out)
{
    frame_kind kind = owner_kind(ram->frame[f].owner);
    *out = (run){.first = f, .count = 1, .step = 1};
    if (!is_plain(ram, f) || (kind != KIND_ANON && kind != KIND_SLOT))
        return false;
    if (kind == KIND_ANON) {
        if (!find_entry(ram, f, out))
            return false;
        most = most_mapped(out, most);
    } else if (ram->frame[f].newer == f - 1) {
        out->step = -1;
    }
    out->count = (uint32_t)run_length(ram, out, most);
    return true;
}

/* ---- marks ------------------------------------------------------------------------------------ */

static uint32_t last_of(const run *r)
{
    return r->first + (r->count - 1) * (uint32_t)r->step;
}

static lru *list_of(pa_ram *ram, const run *r)
{
    uint32_t group_id = owner_group(ram->frame[r->first].owner);
    return &ram->groups[group_id].lists[ram_list_of(ram, r->first)];
}

void run_forget_access(run *r)
{
    if (!r->mm)
        return;
    uint64_t *pte = r->pte;
    for (uint32_t i = 0, count = r->count; i < count; i++)
        pte[i] &= ~(uint64_t)PTE_ACCESSED;
    mm_cool_range(r->mm, r->vpn, r->count);
}

void run_mark(pa_ram *ram, const run *r, uint64_t set, uint64_t clear)
{
    lru_cut(ram, list_of(ram, r), r->first, last_of(r), r->count);
    frame *low = &ram->frame[r->step > 0 ? r->first : last_of(r)];
    for (uint32_t i = 0; i < r->count; i++)
        low[i].owner = (low[i].owner & ~clear) | set;
    lru_join(ram, list_of(ram, r), r->first, last_of(r), r->count);
}

/* ---- taking away ------------------------------------------------------------------------------ */

/* Copies of slots, which keep what they hold. */
static fate drop_copies(pa_ram *ram, const run *r)
{
    uint32_t group_id = owner_group(ram->frame[r->first].owner);
    workingset_leave(ram, group_id, ram->state[r->first],
                     &ram->slot_shadow[ram->slot_of[r->first] - 1], r->step, r->count);
    uint32_t low = r->step > 0 ? r->first : last_of(r), slot = ram->slot_of[low] - 1;
    memset(&ram->slot_frame[slot], 0, r->count * sizeof *ram->slot_frame);
    memset(&ram->slot_of[low], 0, r->count * sizeof *ram->slot_of);
    lru_cut(ram, list_of(ram, r), r->first, last_of(r), r->count);
    ram->count_cached -= r->count;
    ram_give(ram, low, r->count, group_id);
    return FATE_FREED;
}

static void join_slots(pa_ram *ram, const run *r, uint64_t slot)
{
    uint32_t *slot_of = &ram->slot_of[r->first], *slot_frame = &ram->slot_frame[slot];
    swap_use(ram, owner_group(ram->frame[r->first].owner), slot, r->count);
    for (uint32_t i = 0, count = r->count; i < count; i++)
        slot_of[i] = (uint32_t)slot + i + 1;
    for (uint32_t i = 0, count = r->count, f = r->first + 1; i < count; i++)
        slot_frame[i] = f + i;
}

static void map_out(pa_ram *ram, run *r, uint64_t slot)
{
    pa_mm *mm = r->mm;
    uint64_t *pte = r->pte;
    uint16_t *refs = &ram->slot_refs[slot];
    mm_cool_range(mm, r->vpn, r->count);
    mm_note_peak(mm);
    for (uint32_t i = 0, count = r->count; i < count; i++)
        pte[i] = (slot + i) << PTE_SHIFT | PTE_SWAP;
    for (uint32_t i = 0, count = r->count; i < count; i++)
        refs[i]++;
    mm->anon -= r->count;
    mm->swap += r->count;
    mm_publish_each(mm);
    r->mm = NULL;
}

/* Nobody's any more but the slots'; the newest of their list. */
static void become_copies(pa_ram *ram, const run *r, uint64_t slot)
{
    uint64_t owner = owner_of(KIND_SLOT, owner_group(ram->frame[r->first].owner), 0, slot);
    lru_cut(ram, list_of(ram, r), r->first, last_of(r), r->count);
    frame *first = &ram->frame[r->first];
    for (uint32_t i = 0, count = r->count; i < count; i++)
        first[i].owner = owner + i;
    lru_join(ram, list_of(ram, r), r->first, last_of(r), r->count);
    ram->count_anon -= r->count;
    ram->count_cached += r->count;
}

static bool write_out(pa_ram *ram, const run *r, uint64_t slot)
{
    ram->events.swapped_out += r->count;
    memset(&ram->state[r->first], ram->state[r->first] | STATE_RECLAIM, r->count);
    return device_plug(&ram->disk, &ram->settings.costs, r->first, swap_place(slot), r->count);
}

static void shorten(run *r, uint64_t most)
{
    r->count = most < r->count ? (uint32_t)most : r->count;
}

/* Mapped pages: each gets a slot unless it has one, and is written unless that holds the same. */
static fate swap_out(pa_ram *ram, run *r)
{
    uint64_t owner = ram->frame[r->first].owner, slot = ram->slot_of[r->first];
    bool has_slot = slot-- != 0, dirty = *r->pte & PTE_DIRTY || owner & OWNER_DIRTY;
    bool leaves = dirty || !has_slot, writes = leaves && !ram_is_zero_page(ram, r->first);
    uint64_t room = has_slot ? r->count : swap_find(ram, owner_group(owner), r->count, &slot);
    if (!room)
        return FATE_STAYS;
    shorten(r, room);
    if (writes) /* one request: what is beyond it begins later */
        shorten(r, device_room(&ram->disk, swap_place(slot)));
    if (!has_slot)
        join_slots(ram, r, slot);
    map_out(ram, r, slot);
    become_copies(ram, r, slot);
    if (writes && write_out(ram, r, slot))
        return FATE_WRITING;
    drop_copies(ram, r);
    return leaves ? FATE_WRITTEN : FATE_FREED;
}

fate run_evict(pa_ram *ram, run *r)
{
    return r->mm ? swap_out(ram, r) : drop_copies(ram, r);
}
