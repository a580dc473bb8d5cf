/* SPDX-License-Identifier: MIT
 *
 * swap.c -- the swap cache: frames that hold the same page as a slot.
 *
 * Swapping in keeps the slot as long as the page is not written, so that a page that is only read
 * costs no second write (mm/memory.c do_swap_page of Linux 6.12).
 */
#include "ram.h"

#include <string.h>

enum { MOST_BY_AREA = 5 /* SWAP_RA_ORDER_CEILING of 64 bits */ };

uint64_t swap_place(uint64_t slot)
{
    return slot;
}

uint64_t file_place(const pa_ram *ram, uint32_t id, uint64_t index)
{
    return ram->settings.count_slots + ((uint64_t)id << PLACE_BITS | index);
}

/* ---- slots ------------------------------------------------------------------------------------ */

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
        slots_free(ram, slot, 1);
}

void swap_drop_ref(pa_ram *ram, uint64_t slot)
{
    uint32_t cached = ram->slot_frame[slot];
    if (--ram->slot_refs[slot])
        return;
    if (!cached) {
        slots_free(ram, slot, 1);
    } else if (owner_kind(ram->frame[cached - 1].owner) == KIND_SLOT) {
        swap_detach(ram, cached - 1);
        ram_release(ram, cached - 1);
    }
}

/* Slots that nobody has in memory and one entry refers to: four at a time. */
static bool four_go_along(const pa_ram *ram, uint64_t first, uint64_t slot)
{
    const uint64_t ones = UINT64_MAX / UINT16_MAX;
    uint64_t refs, groups, frames[2];
    memcpy(&refs, &ram->slot_refs[slot], sizeof refs);
    memcpy(&groups, &ram->slot_group[slot], sizeof groups);
    memcpy(frames, &ram->slot_frame[slot], sizeof frames);
    return refs == ones && groups == ram->slot_group[first] * ones && !(frames[0] | frames[1]);
}

/* May the slot go with one before it, and does it go with its only reference? */
static bool goes_along(const pa_ram *ram, uint64_t first, uint64_t slot)
{
    return ram->slot_refs[slot] == 1 && !ram->slot_frame[slot] &&
           ram->slot_group[slot] == ram->slot_group[first];
}

uint64_t swap_drop_refs(pa_ram *ram, uint64_t first, uint64_t most)
{
    uint64_t count = 0;
    most = slots_in_run(ram, first, most);
    while (count + 4 <= most && four_go_along(ram, first, first + count))
        count += 4;
    while (count < most && goes_along(ram, first, first + count))
        count++;
    if (count) {
        memset(&ram->slot_refs[first], 0, count * sizeof *ram->slot_refs);
        slots_free(ram, first, count);
        return count;
    }
    swap_drop_ref(ram, first);
    return 1;
}

/* ---- reading ---------------------------------------------------------------------------------- */

/* A frame for a slot's page, in the swap cache; NO_FRAME: exhausted. */
static uint32_t load_slot(pa_ram *ram, uint32_t group_id, uint64_t slot)
{
    uint64_t f;
    ram->slot_refs[slot]++; /* reclaim must not take the slot away meanwhile */
    uint64_t got = ram_take(ram, group_id, 1, &f);
    ram->slot_refs[slot]--;
    if (!got)
        return NO_FRAME;
    bool active = ram->settings.rules & PA_NEW_ANON_ACTIVE;
    active |= workingset_refault(ram, group_id, (uint32_t)f, ram->slot_shadow[slot], false, 1);
    ram->slot_frame[slot] = (uint32_t)f + 1;
    ram->slot_of[f] = (uint32_t)slot + 1;
    ram->maps[f] = 0;
    ram->events.swapped_in += !ram_is_zero_page(ram, (uint32_t)f);
    ram_put(ram, (uint32_t)f, owner_of(KIND_SLOT, group_id, 0, slot) | (active ? OWNER_ACTIVE : 0));
    return (uint32_t)f;
}

/* The slots that are read together: neighbours on the disk become one request. */
typedef struct reading {
    pa_ram *ram;
    uint32_t group;
    uint64_t first, count; /* the request that is being put together */
    uint64_t end;          /* when the disk will have done           */
} reading;

static void end_request(reading *r)
{
    if (!r->count)
        return;
    const pa_costs *costs = &r->ram->settings.costs;
    r->end = device_fetch(&r->ram->disk, costs, swap_place(r->first), r->count);
    fetch_note(r->ram, (fetching){SWAPPED, r->first, r->count, 0});
    r->count = 0;
}

static uint32_t read_slot(reading *r, uint64_t slot)
{
    uint32_t f = load_slot(r->ram, r->group, slot);
    if (f == NO_FRAME || ram_is_zero_page(r->ram, f))
        return f;
    r->ram->state[f] |= STATE_READING;
    migrate_leave(r->ram, f);
    if (r->count && slot != r->first + r->count)
        end_request(r);
    if (!r->count) {
        r->first = slot;
        device_hold_read(&r->ram->disk);
    }
    r->count++;
    return f;
}

/* How many pages to read, from how many of the last ones were used (__swapin_nr_pages). */
static uint64_t window_for(uint64_t last, uint64_t at, uint64_t hits, uint64_t most,
                           uint64_t before)
{
    uint64_t pages = hits ? 4 : 2;
    if (!hits && at != last + 1 && at + 1 != last)
        pages = 1;
    while (hits && pages < hits + 2)
        pages *= 2;
    pages = pages < most ? pages : most;
    return pages > before / 2 ? pages : before / 2;
}

static bool is_wanted(const pa_ram *ram, uint64_t slot)
{
    return bitmap_is_taken(&ram->slots, slot) && ram->slot_refs[slot] && !ram->slot_frame[slot];
}

/* Read a neighbour; false: there is no more room. */
static bool read_ahead(reading *r, uint64_t slot)
{
    uint32_t f = read_slot(r, slot);
    if (f == NO_FRAME)
        return false;
    r->ram->state[f] |= STATE_AHEAD;
    r->ram->events.swap_ahead++;
    return true;
}

/* The page that is needed: its neighbours must not push it out before it is mapped. */
static uint32_t read_needed(reading *r, uint64_t slot)
{
    uint32_t f = read_slot(r, slot);
    if (f != NO_FRAME)
        r->ram->state[f] |= STATE_READING;
    return f;
}

/* The aligned window of slots around the one that is needed; that one in its place. */
static uint32_t read_cluster(reading *r, uint64_t slot)
{
    pa_ram *ram = r->ram;
    uint64_t window = UINT64_C(1) << ram->settings.page_cluster;
    if (ram->settings.rules & PA_SWAP_AHEAD) {
        window = window_for(ram->window_last, slot, ram->window_hits, window, ram->window_size);
        if (!ram->window_hits)
            ram->window_last = slot;
        ram->window_hits = 0;
        ram->window_size = window;
    }
    uint64_t place = slot + 1, first = place & ~(window - 1); /* the header of swap is at 0 */
    uint64_t end = first + window - 1;
    first -= first > 0;
    if (window > 1)
        device_hold(&ram->disk); /* so that the requests of all its pages can be merged */
    uint32_t found = NO_FRAME;
    for (uint64_t i = first; i < end && i < ram->slots.count; i++) {
        if (i == slot)
            found = read_needed(r, slot);
        else if (is_wanted(ram, i) && !read_ahead(r, i) && i > slot)
            break;
    }
    return found;
}

/* The swapped pages around the address that is needed (swap_vma_readahead). */
static uint32_t read_area(reading *r, pa_mm *mm, uint64_t vpn, uint64_t slot)
{
    pa_ram *ram = r->ram;
    unsigned order =
        ram->settings.page_cluster < MOST_BY_AREA ? ram->settings.page_cluster : MOST_BY_AREA;
    uint64_t most = UINT64_C(1) << order, last = mm->ahead_vpn;
    uint64_t window = window_for(last, vpn, mm->ahead_hits, most, mm->ahead_size);
    uint64_t leaf = pt_table_leaf_size(&mm->table), low = vpn & ~(leaf - 1), high = low + leaf;
    mm->ahead_vpn = vpn;
    mm->ahead_size = (uint32_t)window;
    mm->ahead_hits = 0;
    uint64_t back = vpn == last + 1 ? 0 : vpn + 1 == last ? window - 1 : (window - 1) / 2;
    low = vpn > low + back ? vpn - back : low;
    high = vpn - back + window < high ? vpn - back + window : high;
    uint32_t found = NO_FRAME;
    if (window > 1)
        device_hold(&ram->disk);
    for (uint64_t v = low; v < high; v++) {
        const uint64_t *pte = pt_table_find(&mm->table, v);
        if (v == vpn)
            found = read_needed(r, slot);
        else if (pte && *pte & PTE_SWAP && is_wanted(ram, *pte >> PTE_SHIFT) &&
                 !read_ahead(r, *pte >> PTE_SHIFT) && v > vpn)
            break;
    }
    return found;
}

/* Take note of a page found in the cache: had it been read ahead?  One that is being written looks
 * as if it had (PG_reclaim is PG_readahead), and after this look it does not go when that ends. */
static void note_hit(pa_ram *ram, pa_mm *mm, uint64_t vpn, uint32_t f)
{
    uint8_t looks_ahead = STATE_AHEAD | (ram->settings.rules & PA_SWAP_AHEAD ? STATE_RECLAIM : 0);
    if (mm)
        mm->ahead_vpn = vpn;
    if (ram->state[f] & STATE_RECLAIM)
        ram_settle(ram);
    if (!(ram->state[f] & looks_ahead))
        return;
    ram->state[f] &= (uint8_t)~looks_ahead;
    ram->events.swap_ahead_hits++;
    if (mm && ram->settings.rules & PA_SWAP_BY_AREA)
        mm->ahead_hits++;
    else
        ram->window_hits++;
}

uint32_t swap_read(pa_ram *ram, uint32_t group_id, pa_mm *mm, uint64_t vpn, uint64_t slot,
                   bool *major)
{
    *major = !ram->slot_frame[slot];
    if (!*major) {
        note_hit(ram, mm, vpn, ram->slot_frame[slot] - 1);
        return ram->slot_frame[slot] - 1;
    }
    reading r = {ram, group_id, 0, 0, 0};
    migrate_wait(ram);
    bool by_area = mm && ram->settings.rules & PA_SWAP_BY_AREA;
    uint32_t f = by_area ? read_area(&r, mm, vpn, slot) : read_cluster(&r, slot);
    device_let_go(&ram->disk);
    end_request(&r);
    device_until(&ram->disk, r.end);
    fetch_end_unknown(ram);
    if (f != NO_FRAME)
        ram->state[f] &= (uint8_t)~STATE_READING;
    device_unplug(&ram->disk, &ram->settings.costs);
    return f;
}
