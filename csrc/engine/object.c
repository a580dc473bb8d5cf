/* SPDX-License-Identifier: MIT
 *
 * object.c -- files in the page cache, and shared memory.
 *
 * An object's tree says where each page is: in a frame, in a swap slot (shared memory only), or
 * nowhere: then a file's page is read, and a page of shared memory is new.
 */
#include "ram.h"

#include <stdlib.h>

int pa_ram_add_object(pa_ram *ram, uint64_t pages, bool shmem)
{
    uint32_t id = 0;
    while (id < ram->count_objects && ram->objects[id].used)
        id++;
    if (id > MAX_IDS)
        return -1;
    if (id == ram->count_objects) {
        object *more = realloc(ram->objects, (id + 1) * sizeof *more);
        if (!more)
            return -1;
        ram->objects = more;
        more[id] = (object){0};
    }
    object *o = &ram->objects[id];
    if (!pt_table_init(&o->pages, PA_SHAPE_X86_64))
        return -1;
    o->count_pages = pages;
    o->shmem = shmem;
    o->used = true;
    ram->count_objects += id == ram->count_objects;
    return (int)id;
}

uint64_t *object_entry(pa_ram *ram, uint32_t id, uint64_t index)
{
    return pt_table_find(&ram->objects[id].pages, index);
}

bool object_hint(object *o, uint32_t mm, int64_t delta)
{
    for (uint32_t i = o->count_hints; i--;) {
        if (o->hints[i].mm == mm && o->hints[i].delta == delta)
            return true;
    }
    if (o->count_hints == o->room_hints) {
        uint32_t room = o->room_hints ? o->room_hints * 2 : 4;
        view_hint *more = realloc(o->hints, room * sizeof *more);
        if (!more)
            return false;
        o->hints = more;
        o->room_hints = room;
    }
    o->hints[o->count_hints++] = (view_hint){mm, delta};
    return true;
}

void object_forget_mm(pa_ram *ram, uint32_t mm)
{
    for (uint32_t i = 0; i < ram->count_objects; i++) {
        object *o = &ram->objects[i];
        uint32_t kept = 0;
        for (uint32_t j = 0; j < o->count_hints; j++) {
            if (o->hints[j].mm != mm)
                o->hints[kept++] = o->hints[j];
        }
        o->count_hints = kept;
    }
}

/* ---- bringing pages in ------------------------------------------------------------------------ */

void object_mark_accessed(pa_ram *ram, uint32_t f)
{
    uint64_t owner = ram->frame[f].owner;
    if (!(owner & OWNER_REFERENCED))
        ram_mark(ram, f, OWNER_REFERENCED, 0);
    else if (!(owner & (OWNER_ACTIVE | OWNER_LOCKED)))
        ram_mark(ram, f, OWNER_ACTIVE, OWNER_REFERENCED);
}

void object_mark_dirty(pa_ram *ram, uint32_t f)
{
    uint64_t owner = ram->frame[f].owner;
    if (!(owner & OWNER_DIRTY) && !ram->objects[owner_id(owner)].shmem)
        ram_mark(ram, f, OWNER_DIRTY, 0);
}

/* A swapped page of shared memory comes back: its cached frame becomes the object's. */
static uint32_t swap_page_in(pa_ram *ram, uint32_t group_id, uint32_t id, uint64_t index,
                             uint64_t slot, bool *major)
{
    uint32_t f = swap_read(ram, group_id, slot, major);
    if (f == NO_FRAME)
        return NO_FRAME;
    uint64_t owner = ram->frame[f].owner, flags = owner & (OWNER_ACTIVE | OWNER_REFERENCED);
    *object_entry(ram, id, index) = (uint64_t)f << PTE_SHIFT | PTE_PRESENT;
    ram_unput(ram, f);
    ram_put(ram, f, owner_of(KIND_OBJECT, owner_group(owner), id, index) | flags);
    ram->objects[id].resident++;
    swap_drop_ref(ram, slot);
    swap_detach(ram, f);
    return f;
}

static uint32_t new_page(pa_ram *ram, uint32_t group_id, uint32_t id, uint64_t index, bool *major)
{
    uint64_t f;
    if (!ram_take(ram, group_id, 1, &f))
        return NO_FRAME;
    object *o = &ram->objects[id];
    uint64_t *leaf = pt_table_make_leaf(&o->pages, index);
    if (!leaf) {
        ram_give(ram, (uint32_t)f, group_id);
        return NO_FRAME;
    }
    leaf[index & (pt_table_leaf_size(&o->pages) - 1)] = f << PTE_SHIFT | PTE_PRESENT;
    ram->maps[f] = 0;
    o->resident++;
    *major = !o->shmem;
    ram->events.file_read += !o->shmem;
    bool active = o->shmem && ram->settings.rules & PA_NEW_ANON_ACTIVE;
    ram_put(ram, (uint32_t)f,
            owner_of(KIND_OBJECT, group_id, id, index) | (active ? OWNER_ACTIVE : 0));
    return (uint32_t)f;
}

uint32_t object_page(pa_ram *ram, uint32_t group_id, uint32_t id, uint64_t index, bool *major)
{
    *major = false;
    const uint64_t *entry = object_entry(ram, id, index);
    if (entry && *entry & PTE_PRESENT)
        return pte_frame(*entry);
    if (entry && *entry & PTE_SWAP)
        return swap_page_in(ram, group_id, id, index, *entry >> PTE_SHIFT, major);
    return new_page(ram, group_id, id, index, major);
}

int pa_ram_access_object(pa_ram *ram, uint32_t group_id, uint32_t id, uint64_t first,
                         uint64_t count, bool write, uint64_t *done)
{
    *done = 0;
    if (id >= ram->count_objects || !ram->objects[id].used || group_id >= ram->count_groups)
        return PA_ERR_INVALID;
    for (; *done < count; ++*done) {
        bool major;
        if (first + *done >= ram->objects[id].count_pages)
            return PA_OK;
        uint32_t f = object_page(ram, group_id, id, first + *done, &major);
        if (f == NO_FRAME)
            return PA_EXHAUSTED;
        object_mark_accessed(ram, f);
        if (write)
            object_mark_dirty(ram, f);
    }
    return PA_OK;
}

/* ---- taking pages away ------------------------------------------------------------------------ */

static void unmap_one(pa_mm *mm, uint64_t vpn, uint64_t *pte, void *context)
{
    const bool *shmem = context;
    mm_note_peak(mm);
    *pte = 0;
    mm_cool(mm, vpn);
    if (*shmem)
        mm->shmem--;
    else
        mm->file--;
}

static void drop_page(pa_ram *ram, object *o, uint64_t *entry)
{
    if (*entry & PTE_PRESENT) {
        uint32_t f = pte_frame(*entry);
        rmap_each(ram, f, unmap_one, &o->shmem);
        ram->maps[f] = 0;
        swap_detach(ram, f);
        ram_release(ram, f);
        o->resident--;
    } else if (*entry & PTE_SWAP) {
        swap_drop_ref(ram, *entry >> PTE_SHIFT);
    }
    *entry = 0;
}

void pa_ram_resize_object(pa_ram *ram, uint32_t id, uint64_t pages)
{
    if (id >= ram->count_objects || !ram->objects[id].used)
        return;
    object *o = &ram->objects[id];
    uint64_t size = pt_table_leaf_size(&o->pages);
    for (uint64_t i = pt_table_next(&o->pages, pages, o->count_pages); i < o->count_pages; i++) {
        if (i % size == 0)
            i = pt_table_next(&o->pages, i, o->count_pages);
        uint64_t *entry = i < o->count_pages ? pt_table_find(&o->pages, i) : NULL;
        if (entry)
            drop_page(ram, o, entry);
    }
    o->count_pages = pages;
}

static void free_object(object *o)
{
    pt_table_drop(&o->pages);
    free(o->hints);
    *o = (object){0};
}

void pa_ram_drop_object(pa_ram *ram, uint32_t id)
{
    if (id >= ram->count_objects || !ram->objects[id].used)
        return;
    pa_ram_resize_object(ram, id, 0);
    free_object(&ram->objects[id]);
}

void object_drop_all(pa_ram *ram)
{
    for (uint32_t i = 0; i < ram->count_objects; i++)
        free_object(&ram->objects[i]);
    free(ram->objects);
}

uint64_t pa_ram_object_resident(const pa_ram *ram, uint32_t id)
{
    return id < ram->count_objects ? ram->objects[id].resident : 0;
}
