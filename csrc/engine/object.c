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

void pa_ram_promise_object(pa_ram *ram, uint32_t id)
{
    if (id < ram->count_objects && ram->objects[id].shmem)
        ram->objects[id].promised = true;
}

void pa_ram_limit_promised(pa_ram *ram, uint64_t most)
{
    ram->most_promised = most;
}

uint64_t pa_ram_promised(const pa_ram *ram)
{
    return ram->promised;
}

bool object_refuses(pa_ram *ram, uint32_t id, uint64_t index)
{
    if (!ram->objects[id].promised || ram->promised < ram->most_promised)
        return false;
    const uint64_t *entry = object_entry(ram, id, index);
    return !entry || !(*entry & (PTE_PRESENT | PTE_SWAP));
}

static unsigned entry_order(uint64_t entry)
{
    return entry & PTE_PRESENT ? (unsigned)(entry >> ORDER_SHIFT & ORDER_MASK) : 0;
}

uint64_t object_folio(pa_ram *ram, uint32_t id, uint64_t index, uint64_t *first)
{
    const uint64_t *entry = object_entry(ram, id, index);
    unsigned order = entry ? entry_order(*entry) : 0;
    uint64_t pages = UINT64_C(1) << order;
    *first = index & ~(pages - 1);
    for (uint64_t i = *first; i < *first + pages && pages > 1; i++) {
        entry = object_entry(ram, id, i);
        if (!entry || entry_order(*entry) != order) { /* a part of it is gone */
            *first = index;
            return 1;
        }
    }
    return pages;
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
    if (!(ram->frame[f].owner & OWNER_DIRTY))
        ram_set_dirty(ram, f);
}

/* A swapped page of shared memory comes back: its cached frame becomes the object's. */
static uint32_t swap_page_in(pa_ram *ram, uint32_t group_id, uint32_t id, uint64_t index,
                             uint64_t slot, bool *major)
{
    uint32_t f = swap_read(ram, group_id, NULL, 0, slot, major);
    if (f == NO_FRAME)
        return NO_FRAME;
    uint64_t owner = ram->frame[f].owner;
    uint64_t flags = (owner & (OWNER_ACTIVE | OWNER_REFERENCED)) | OWNER_DIRTY;
    *object_entry(ram, id, index) = (uint64_t)f << PTE_SHIFT | PTE_PRESENT;
    ram_rename(ram, f, owner_of(KIND_OBJECT, owner_group(owner), id, index) | flags);
    ram->objects[id].resident++;
    swap_drop_ref(ram, slot);
    if (!device_is_writing(&ram->disk, f))
        swap_detach(ram, f);
    return f;
}

uint32_t object_new_page(pa_ram *ram, uint32_t group_id, uint32_t id, uint64_t index)
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
    uint64_t *entry = &leaf[index & (pt_table_leaf_size(&o->pages) - 1)];
    bool active = o->shmem && ram->settings.rules & PA_NEW_ANON_ACTIVE;
    if (*entry & PTE_SHADOW)
        active |=
            workingset_refault(ram, group_id, (uint32_t)f, (uint32_t)(*entry >> PTE_SHIFT), true);
    *entry = f << PTE_SHIFT | PTE_PRESENT;
    ram->maps[f] = 0;
    o->resident++;
    ram->promised += o->promised;
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
    uint32_t f = object_new_page(ram, group_id, id, index);
    *major = f != NO_FRAME && !ram->objects[id].shmem;
    ram->events.file_read += *major;
    if (*major)
        device_read(&ram->disk, &ram->settings.costs, file_place(ram, id, index), 1);
    return f;
}

static bool is_object(const pa_ram *ram, uint32_t id)
{
    return id < ram->count_objects && ram->objects[id].used;
}

/* The frame of a page that is read(), with those that come along. */
static uint32_t read_page(pa_ram *ram, const reader *r, uint64_t index, uint64_t want)
{
    bool major;
    const uint64_t *entry = object_entry(ram, r->object, index);
    if (!r->stream)
        return object_page(ram, r->group, r->object, index, &major);
    if (!entry || !(*entry & PTE_PRESENT))
        readahead_sync(ram, r, index, want);
    uint32_t f = object_page(ram, r->group, r->object, index, &major);
    if (f == NO_FRAME || !readahead_was_marked(ram, f))
        return f;
    readahead_async(ram, r, index, want);
    return object_page(ram, r->group, r->object, index, &major);
}

int pa_ram_access_object(pa_ram *ram, uint32_t group_id, uint32_t id, uint64_t first,
                         uint64_t count, bool write, uint32_t stream_id, uint64_t *done)
{
    *done = 0;
    if (!is_object(ram, id) || group_id >= ram->count_groups || stream_id > ram->count_streams)
        return PA_ERR_INVALID;
    stream *s = stream_id ? &ram->streams[stream_id - 1] : NULL;
    reader r = {group_id, id, write || ram->objects[id].shmem ? 0 : stream_id};
    for (; *done < count; ++*done) {
        uint64_t index = first + *done;
        if (index >= ram->objects[id].count_pages || object_refuses(ram, id, index))
            return PA_OK;
        uint32_t f = read_page(ram, &r, index, count - *done);
        if (f == NO_FRAME)
            return PA_EXHAUSTED;
        if (!s || s->last != index || !index)
            object_mark_accessed(ram, f);
        ram_work(ram, ram->settings.costs.copy, 1);
        if (write)
            object_mark_dirty(ram, f);
        if (s)
            s->last = index;
    }
    return PA_OK;
}

/* The order of the folio that begins at `index`, with `left` pages to come: as far as it is aligned
 * (__filemap_get_folio). */
static unsigned order_at(uint64_t index, uint64_t left, unsigned most)
{
    unsigned order = 0;
    while (order < most && !(index >> order & 1) && left >> (order + 1))
        order++;
    return order;
}

int pa_ram_load_object(pa_ram *ram, uint32_t group_id, uint32_t id, uint64_t first, uint64_t count,
                       uint32_t order, uint64_t *done)
{
    *done = 0;
    if (!is_object(ram, id) || group_id >= ram->count_groups || order > HUGE_ORDER)
        return PA_ERR_INVALID;
    object *o = &ram->objects[id];
    uint64_t end = first + count < o->count_pages ? first + count : o->count_pages,
             folio_end = first;
    unsigned now = 0;
    for (uint64_t i = first; i < end; i++, ++*done) {
        const uint64_t *entry = object_entry(ram, id, i);
        if (i == folio_end) {
            now = order_at(i, end - i, order);
            folio_end = i + (UINT64_C(1) << now);
            o->order = now > o->order ? (uint8_t)now : o->order;
        }
        if (entry && *entry & PTE_PRESENT)
            continue;
        uint32_t f = object_new_page(ram, group_id, id, i);
        if (f == NO_FRAME)
            return PA_EXHAUSTED;
        if (o->shmem)
            object_mark_dirty(ram, f); /* it is nowhere else */
        *object_entry(ram, id, i) |= (uint64_t)now << ORDER_SHIFT;
    }
    return PA_OK;
}

static void write_protect(pa_mm *mm, uint64_t vpn, uint64_t *pte, void *context)
{
    (void)context;
    *pte &= ~(uint64_t)(PTE_WRITE | PTE_DIRTY);
    mm_cool(mm, vpn);
}

void pa_ram_clean_object(pa_ram *ram, uint32_t id, uint64_t first, uint64_t count)
{
    if (!is_object(ram, id) || ram->objects[id].shmem)
        return;
    uint64_t end =
        first + count < ram->objects[id].count_pages ? first + count : ram->objects[id].count_pages;
    for (uint64_t i = first; i < end; i++) {
        const uint64_t *entry = object_entry(ram, id, i);
        if (!entry || !(*entry & PTE_PRESENT))
            continue;
        uint32_t f = pte_frame(*entry);
        if (!(ram->frame[f].owner & OWNER_DIRTY))
            continue;
        rmap_each(ram, f, write_protect, NULL);
        ram_mark(ram, f, 0, OWNER_DIRTY);
        ram->events.file_written++;
    }
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
    if (o->promised && *entry & (PTE_PRESENT | PTE_SWAP))
        ram->promised--;
    if (*entry & PTE_PRESENT) {
        uint32_t f = pte_frame(*entry);
        huge_isolate(ram, f);
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
    if (!is_object(ram, id))
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

void pa_ram_forget_object(pa_ram *ram, uint32_t id, uint64_t first, uint64_t count)
{
    if (!is_object(ram, id) || ram->objects[id].shmem)
        return;
    object *o = &ram->objects[id];
    uint64_t end = first + count < o->count_pages ? first + count : o->count_pages;
    for (uint64_t i = first; i < end; i++) {
        uint64_t *entry = object_entry(ram, id, i);
        if (!entry || !(*entry & PTE_PRESENT) || ram->maps[pte_frame(*entry)] ||
            ram->frame[pte_frame(*entry)].owner & OWNER_DIRTY)
            continue;
        drop_page(ram, o, entry);
    }
}

static void free_object(object *o)
{
    pt_table_drop(&o->pages);
    free(o->hints.hint);
    *o = (object){0};
}

void pa_ram_drop_object(pa_ram *ram, uint32_t id)
{
    if (!is_object(ram, id))
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
