/* SPDX-License-Identifier: MIT
 *
 * ramread.c -- looking at physical memory: counters, free blocks, and whether all of it agrees.
 */
#include "ram.h"

#include <string.h>

static void read_lists(const pa_ram *ram, pa_ram_counters *out)
{
    for (uint32_t i = 0; i < ram->count_groups; i++) {
        const lru *l = ram->groups[i].lists;
        out->inactive_anon += l[LRU_INACTIVE_ANON].count;
        out->active_anon += l[LRU_ACTIVE_ANON].count;
        out->inactive_file += l[LRU_INACTIVE_FILE].count;
        out->active_file += l[LRU_ACTIVE_FILE].count;
        out->unevictable += l[LRU_UNEVICTABLE].count;
    }
}

void pa_ram_read(const pa_ram *ram, pa_ram_counters *out)
{
    *out = ram->events;
    int64_t free_frames = ram_available(ram);
    out->free = free_frames > 0 ? (uint64_t)free_frames : 0;
    out->reserved = ram->settings.count_reserved;
    out->tables = ram->tables;
    out->kernel = ram->kernel;
    out->anon_mapped = ram->count_anon;
    out->shmem = ram->count_shmem;
    out->file = ram->count_file;
    out->dirty = ram->count_dirty;
    out->swap_cached = ram->count_cached;
    out->slots = ram->settings.count_slots;
    out->slots_free = ram->slots.count_free;
    out->writing = ram->disk.count_pages;
    read_lists(ram, out);
}

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* Split [at, end) of a zone, all free, into blocks as the buddy allocator keeps them. */
static void count_blocks(uint64_t at, uint64_t end, uint64_t *blocks)
{
    while (at < end) {
        unsigned order = at ? (unsigned)__builtin_ctzll(at) : PA_BUDDY_ORDERS - 1;
        order = order < PA_BUDDY_ORDERS ? order : PA_BUDDY_ORDERS - 1;
        while (UINT64_C(1) << order > end - at)
            order--;
        blocks[order]++;
        at += UINT64_C(1) << order;
    }
}

uint64_t pa_ram_free_blocks(const pa_ram *ram, uint64_t first, uint64_t count, uint64_t skip,
                            uint64_t *blocks)
{
    uint64_t end = least(first + count, ram->frames.count), zone = first, skipped = 0;
    for (unsigned k = 0; k < PA_BUDDY_ORDERS; k++)
        blocks[k] = 0;
    while (first < end) {
        uint64_t at = bitmap_next_free(&ram->frames, first);
        if (at >= end)
            break;
        uint64_t run = bitmap_free_run(&ram->frames, at, end - at), leave = least(run, skip);
        count_blocks(at + leave - zone, at + run - zone, blocks);
        skip -= leave;
        skipped += leave;
        first = at + run;
    }
    return skipped;
}

static bool is_mapped(const pa_ram *ram, uint64_t f)
{
    return ram->maps[f] && owner_kind(ram->frame[f].owner) == KIND_OBJECT;
}

/* Most frames have no mapper but the one that `maps` does not count: four at a time tell so. */
uint64_t pa_ram_mapped(const pa_ram *ram)
{
    uint64_t mapped = 0, f = 0, four;
    for (; f + 4 <= ram->frames.high; f += 4) {
        memcpy(&four, &ram->maps[f], sizeof four);
        for (uint64_t i = f; four && i < f + 4; i++)
            mapped += is_mapped(ram, i);
    }
    for (; f < ram->frames.high; f++)
        mapped += is_mapped(ram, f);
    return mapped;
}

static void count_page(const pa_ram *ram, uint32_t f, pa_group_pages *out)
{
    uint64_t owner = ram->frame[f].owner;
    bool cached = owner_kind(owner) == KIND_OBJECT;
    bool shmem = cached && ram->objects[owner_id(owner)].shmem;
    out->anon += owner_kind(owner) == KIND_ANON;
    out->swap_cached += owner_kind(owner) == KIND_SLOT;
    out->shmem += shmem;
    out->file += cached && !shmem;
    out->mapped += cached && rmap_count(ram, f);
    out->dirty += cached && !shmem && owner & OWNER_DIRTY;
    out->writing += device_is_writing(&ram->disk, f);
}

void pa_ram_read_group_pages(const pa_ram *ram, uint32_t group_id, pa_group_pages *out)
{
    *out = (pa_group_pages){0};
    uint64_t *listed[] = {&out->inactive_anon, &out->active_anon, &out->inactive_file,
                          &out->active_file, &out->unevictable};
    for (uint32_t i = 0; i < ram->count_groups; i++) {
        for (unsigned l = 0; ram_is_below(ram, i, group_id) && l < LRU_LISTS; l++) {
            const lru *list = &ram->groups[i].lists[l];
            *listed[l] += list->count;
            for (uint32_t f = list->newest; f != NO_FRAME; f = ram->frame[f].older)
                count_page(ram, f, out);
        }
    }
}

uint64_t pa_ram_time(const pa_ram *ram)
{
    return ram->disk.now;
}

uint64_t pa_ram_work(const pa_ram *ram)
{
    return ram->disk.cpu;
}

void pa_ram_pass(pa_ram *ram, uint64_t ns, uint64_t work)
{
    ram->disk.now += ns;
    ram->disk.cpu += work;
    ram_settle(ram);
}

void pa_ram_system_call(pa_ram *ram)
{
    uint64_t ns = ram->settings.costs.system_call;
    pa_ram_pass(ram, ns, ns);
}

static bool check_list(const pa_ram *ram, const lru *list, uint32_t group_id, unsigned which)
{
    uint64_t n = 0;
    uint32_t newer = NO_FRAME;
    for (uint32_t f = list->newest; f != NO_FRAME; f = ram->frame[f].older) {
        uint64_t owner = ram->frame[f].owner;
        if (ram->frame[f].newer != newer || !bitmap_is_taken(&ram->frames, f) ||
            owner_group(owner) != group_id || ram_list_of(ram, f) != (lru_list)which)
            return false;
        newer = f;
        n++;
    }
    return n == list->count && list->oldest == newer;
}

static bool check_lists(const pa_ram *ram, uint64_t *listed)
{
    for (uint32_t g = 0; g < ram->count_groups; g++) {
        for (unsigned i = 0; i < LRU_LISTS; i++) {
            if (!check_list(ram, &ram->groups[g].lists[i], g, i))
                return false;
            *listed += ram->groups[g].lists[i].count;
        }
    }
    return true;
}

/* Every entry of every page table, against the frames' counters. */
static bool check_tables(pa_ram *ram)
{
    uint64_t anon = 0, tables = 0, mappers = 0, listed = 0;
    for (uint32_t i = 0; i < ram->count_mms; i++) {
        pa_mm *mm = ram->mms[i];
        if (!mm)
            continue;
        pa_range_counters in;
        pa_mm_read_range(mm, 0, pt_table_end(&mm->table), &in);
        if (in.anon != mm->anon || in.swap != mm->swap || in.shmem != mm->shmem)
            return false;
        mappers += in.anon;
        tables += pt_table_total(&mm->table);
    }
    for (uint64_t f = 0; f < ram->frames.high; f++) {
        uint64_t owner = ram->frame[f].owner;
        listed += bitmap_is_taken(&ram->frames, f);
        anon += owner_kind(owner) == KIND_ANON ? 1u + ram->maps[f] : 0;
        uint64_t slot = ram->slot_of[f];
        if (slot && (owner_kind(owner) == KIND_FREE || ram->slot_frame[slot - 1] != f + 1))
            return false;
    }
    return anon == mappers && tables == ram->tables &&
           listed + ram->frames.count_free == ram->frames.count;
}

/* Slots taken, run by run; and writes under way are of frames in use. */
static bool check_swap(const pa_ram *ram)
{
    if (!slots_check(ram))
        return false;
    for (uint64_t f = 0; f < ram->frames.high; f++) {
        if (!bitmap_is_taken(&ram->frames, f) &&
            (device_is_writing(&ram->disk, (uint32_t)f) || ram->state[f]))
            return false;
    }
    return true;
}

/* Pages of shared memory that are promised one by one: all that are somewhere. */
static bool check_promised(pa_ram *ram)
{
    uint64_t held = 0;
    for (uint32_t id = 0; id < ram->count_objects; id++) {
        const object *o = &ram->objects[id];
        for (uint64_t i = 0; o->promised && i < o->count_pages; i++) {
            const uint64_t *entry = object_entry(ram, id, i);
            held += entry && *entry & (PTE_PRESENT | PTE_SWAP);
        }
    }
    return held == ram->promised;
}

static bool check_nodes(pa_ram *ram)
{
    for (uint32_t id = 0; id < ram->count_objects; id++) {
        if (!nodes_check(ram, id))
            return false;
    }
    return true;
}

int pa_ram_check(pa_ram *ram)
{
    uint64_t listed = 0;
    bool fine = check_lists(ram, &listed) && check_swap(ram) && check_tables(ram) &&
                check_promised(ram) && check_nodes(ram) &&
                listed + ram->frames.count_free == ram->frames.count &&
                ram->groups[0].usage == listed + ram->tables + ram->kernel &&
                ram->count_anon + ram->count_file + ram->count_shmem + ram->count_cached == listed;
    return fine ? PA_OK : PA_ERR_CORRUPT;
}
