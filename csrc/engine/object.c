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
    if (!pt_table_init(&o->pages, PA_SHAPE_X86_64, &ram->tables_free))
        return -1;
    o->count_pages = pages;
    o->bytes = pages << 12;
    o->extents = (extents){.whole = pages, .pool = &ram->tables_free};
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
    folio all = folio_of(ram, f);
    uint64_t owner = ram->frame[all.frame].owner;
    if (!(owner & OWNER_REFERENCED)) { /* it keeps its place in the list */
        for (uint32_t i = 0; i < all.count; i++)
            ram->frame[folio_frame(&all, i)].owner |= OWNER_REFERENCED;
    } else if (!(owner & (OWNER_ACTIVE | OWNER_LOCKED))) {
        folio_mark(ram, &all, OWNER_ACTIVE, OWNER_REFERENCED);
        workingset_age(ram, owner_group(owner), all.count);
    }
}

void object_mark_dirty(pa_ram *ram, uint32_t f)
{
    ram->state[f] &= (uint8_t)~(STATE_AHEAD | STATE_RECLAIM); /* folio_mark_dirty */
    if (!(ram->frame[f].owner & OWNER_DIRTY))
        ram_set_dirty(ram, f);
    uint64_t owner = ram->frame[f].owner, place = owner_place(owner);
    object *o = &ram->objects[owner_id(owner)];
    if (o->shmem)
        return;
    extents_add(&o->extents, place);
    uint64_t *entry = object_entry(ram, owner_id(owner), place);
    if (!(*entry & PTE_BUFFERS))
        ram_charge_buffers(ram, owner_group(owner), 1);
    *entry |= PTE_BUFFERS;
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
    uint64_t *entry = object_entry(ram, id, index);
    *entry = (uint64_t)f << PTE_SHIFT | PTE_PRESENT | (*entry & PTE_NODE);
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
    object *o = &ram->objects[id];
    uint64_t *leaf = pt_table_make_leaf(&o->pages, index);
    node_place node;
    if (!leaf || !nodes_make(ram, o, group_id, leaf, index, 0, &node))
        return NO_FRAME;
    if (!ram_take(ram, group_id, 1, &f)) {
        nodes_unmake(o, node);
        return NO_FRAME;
    }
    uint64_t *entry = &leaf[index & (pt_table_leaf_size(&o->pages) - 1)];
    bool active = o->shmem && ram->settings.rules & PA_NEW_ANON_ACTIVE;
    if (*entry & PTE_SHADOW)
        active |= workingset_refault(ram, group_id, (uint32_t)f, (uint32_t)(*entry >> PTE_SHIFT),
                                     true, 1);
    *entry = f << PTE_SHIFT | PTE_PRESENT | node.mark | (*entry & PTE_NODE);
    ram->maps[f] = 0;
    o->resident++;
    ram->promised += o->promised;
    ram_put(ram, (uint32_t)f,
            owner_of(KIND_OBJECT, group_id, id, index) | (active ? OWNER_ACTIVE : 0));
    return (uint32_t)f;
}

/* The shadow that a folio comes back to: the last one there is where its pages go. */
static uint32_t last_shadow(const uint64_t *entry, uint64_t count)
{
    while (count && !(entry[count - 1] & PTE_SHADOW))
        count--;
    return count ? (uint32_t)(entry[count - 1] >> PTE_SHIFT) : 0;
}

uint32_t object_new_folio(pa_ram *ram, uint32_t group_id, uint32_t id, uint64_t index,
                          unsigned order)
{
    uint32_t frames[HUGE_PAGES], count = 1u << order;
    object *o = &ram->objects[id];
    if (!order)
        return object_new_page(ram, group_id, id, index);
    uint64_t *leaf = pt_table_make_leaf(&o->pages, index);
    node_place node;
    if (!leaf || !nodes_make(ram, o, group_id, leaf, index, order, &node))
        return NO_FRAME;
    if (!ram_take_folio(ram, group_id, count, frames)) {
        nodes_unmake(o, node);
        return NO_FRAME;
    }
    if (!node.needed)
        nodes_give_way(ram, o, leaf, index, count);
    uint64_t *entry = &leaf[index & (pt_table_leaf_size(&o->pages) - 1)];
    uint32_t shadow = last_shadow(entry, count);
    bool active = shadow && workingset_refault(ram, group_id, frames[0], shadow, true, count);
    uint8_t state = ram->state[frames[0]] | STATE_FOLIO;
    for (uint32_t i = 0; i < count; i++) {
        uint64_t owner = owner_of(KIND_OBJECT, group_id, id, index + i);
        uint64_t kept = node.needed ? entry[i] & PTE_NODE : 0;
        entry[i] = (uint64_t)frames[i] << PTE_SHIFT | (uint64_t)order << ORDER_SHIFT | PTE_PRESENT |
                   node.mark | kept;
        ram->maps[frames[i]] = 0;
        ram->state[frames[i]] = state;
        ram_put(ram, frames[i], owner | (active ? OWNER_ACTIVE : 0));
    }
    batch_drain(ram); /* a large folio does not wait, nor does who came before it */
    o->resident += count;
    o->order = order > o->order ? (uint8_t)order : o->order;
    return frames[0];
}

uint32_t object_page(pa_ram *ram, uint32_t group_id, uint32_t id, uint64_t index, bool *major)
{
    *major = false;
    uint64_t *entry = object_entry(ram, id, index);
    if (entry && *entry & PTE_PRESENT) {
        *entry &= ~(uint64_t)(ram->objects[id].shmem ? 0 : PTE_BLANK);
        return pte_frame(*entry);
    }
    if (entry && *entry & PTE_SWAP)
        return swap_page_in(ram, group_id, id, index, *entry >> PTE_SHIFT, major);
    uint32_t f = object_new_page(ram, group_id, id, index);
    *major = f != NO_FRAME && !ram->objects[id].shmem;
    bool reads = *major && extents_has(&ram->objects[id].extents, index);
    ram->events.file_read += reads;
    if (reads)
        device_read(&ram->disk, &ram->settings.costs, file_place(ram, id, index), 1);
    return f;
}

static bool is_object(const pa_ram *ram, uint32_t id)
{
    return id < ram->count_objects && ram->objects[id].used;
}

/* Have what is read ahead at this page read, and wait for the page itself. */
static void read_ahead(pa_ram *ram, const reader *r, uint64_t index, uint64_t want)
{
    const uint64_t *entry = object_entry(ram, r->object, index);
    if (!entry || !(*entry & PTE_PRESENT)) {
        readahead_sync(ram, r, index, want);
        entry = object_entry(ram, r->object, index);
    }
    if (entry && *entry & PTE_PRESENT && readahead_was_marked(ram, pte_frame(*entry))) {
        uint64_t first;
        object_folio(ram, r->object, index, &first);
        ram->held = pte_frame(*object_entry(ram, r->object, first)) + 1;
        readahead_async(ram, r, first, index + want - first);
        ram->held = 0;
    }
    fetch_await(ram, r->object, index);
}

/* The frame of a page that is read(), with those that come along. */
static uint32_t read_page(pa_ram *ram, const reader *r, uint64_t index, uint64_t want)
{
    bool major;
    if (r->stream)
        read_ahead(ram, r, index, want);
    return object_page(ram, r->group, r->object, index, &major);
}

/* Several reads of one folio in a row are one look at it. */
static bool is_same_folio(pa_ram *ram, uint32_t id, uint64_t last, uint64_t index)
{
    uint64_t first, pages = object_folio(ram, id, index, &first);
    return last >= first && last < first + pages;
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

/* A hole of shared memory is read as zeros; no page comes to be. */
static bool is_shmem_hole(pa_ram *ram, uint32_t id, uint64_t index)
{
    const uint64_t *entry = object_entry(ram, id, index);
    return ram->objects[id].shmem && index < ram->objects[id].count_pages &&
           !(entry && *entry & (PTE_PRESENT | PTE_SWAP));
}

static bool is_any_cached(pa_ram *ram, uint32_t id, uint64_t first, uint64_t count)
{
    for (uint64_t i = first; i < first + count; i++) {
        const uint64_t *entry = object_entry(ram, id, i);
        if (entry && *entry & PTE_PRESENT)
            return true;
    }
    return false;
}

/* The frame of a page that is written to, with `bytes` to come: from 6.16 on in the largest folio
 * that they would fill and of which nothing is cached yet. */
static uint32_t written_page(pa_ram *ram, const reader *r, uint64_t index, uint64_t bytes)
{
    bool major, large = ram->settings.rules & PA_LARGE_FOLIOS && !ram->objects[r->object].shmem;
    fetch_await(ram, r->object, index);
    for (unsigned order = large ? order_at(index, bytes >> 12, HUGE_ORDER) : 0; order; order--) {
        if (is_any_cached(ram, r->object, index, UINT64_C(1) << order))
            continue;
        uint32_t f = object_new_folio(ram, r->group, r->object, index, order);
        if (f != NO_FRAME)
            return f;
    }
    return object_page(ram, r->group, r->object, index, &major);
}

/* The last page of what was read through a stream before; none: UNREAD. */
static uint64_t page_before(const stream *s)
{
    return s && s->prev != UNREAD ? (s->prev - 1) >> 12 : UNREAD;
}

int pa_ram_access_object(pa_ram *ram, uint32_t group_id, uint32_t id, uint64_t at, uint64_t end,
                         bool write, uint32_t stream_id, uint64_t *done)
{
    uint64_t first = at >> 12, count = at < end ? ((end - 1) >> 12) + 1 - first : 0;
    *done = 0;
    if (!is_object(ram, id) || group_id >= ram->count_groups || stream_id > ram->count_streams)
        return PA_ERR_INVALID;
    stream *s = stream_id ? &ram->streams[stream_id - 1] : NULL;
    uint64_t last = page_before(s), size = ram->objects[id].bytes;
    reader r = {group_id, id, write || ram->objects[id].shmem ? 0 : stream_id};
    for (; *done < count; ++*done) {
        uint64_t index = first + *done;
        if (!write && is_shmem_hole(ram, id, index))
            continue;
        if (index >= ram->objects[id].count_pages || object_refuses(ram, id, index))
            break;
        uint64_t bytes = end - (*done ? index << 12 : at);
        uint32_t f =
            write ? written_page(ram, &r, index, bytes) : read_page(ram, &r, index, count - *done);
        if (f == NO_FRAME)
            return PA_EXHAUSTED;
        if (!s || !is_same_folio(ram, id, last, index))
            object_mark_accessed(ram, f);
        ram_work(ram, ram->settings.costs.copy, 1);
        if (write)
            object_mark_dirty(ram, f);
        last = index;
    }
    if (s && !write && *done) /* read-ahead looks at whole reads, and at no writes */
        s->prev = end < size ? end : size;
    return PA_OK;
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
        else if (now)
            ram->state[f] |= STATE_FOLIO;
        *object_entry(ram, id, i) |= (uint64_t)now << ORDER_SHIFT;
    }
    return PA_OK;
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
        flusher_clean(ram, f);
        ram->state[f] &= (uint8_t)~STATE_AHEAD;
    }
}

/* ---- taking pages away ------------------------------------------------------------------------ */

static void unmap_one(pa_mm *mm, uint64_t vpn, uint64_t *pte, void *context)
{
    const bool *shmem = context;
    mm_note_peak(mm);
    mm->locked -= (*pte & PTE_LOCKED) != 0;
    *pte = 0;
    mm_cool(mm, vpn);
    if (*shmem)
        mm->shmem--;
    else
        mm->file--;
    mm_publish(mm);
}

static void unmap_read(pa_mm *mm, uint64_t vpn, uint64_t *pte, void *context)
{
    uint64_t was = *pte;
    bool shmem = false;
    *(uint64_t *)context |= was & PTE_DIRTY;
    unmap_one(mm, vpn, pte, &shmem);
}

/* A folio of a file that is cut at a byte inside it is split, or cannot be if it is dirty: either way
 * nobody maps any of it any more (truncate_inode_partial_folio).  Where one ends that stays whole,
 * else 0. */
static uint64_t unmap_cut(pa_ram *ram, uint32_t id, uint64_t byte)
{
    uint64_t first, pages = object_folio(ram, id, byte >> 12, &first), dirty = 0;
    if (pages == 1 || ram->objects[id].shmem || byte == first << 12)
        return 0;
    for (uint64_t i = first; i < first + pages; i++) {
        uint64_t written = 0;
        uint32_t f = pte_frame(*object_entry(ram, id, i));
        huge_isolate(ram, f);
        rmap_each(ram, f, unmap_read, &written);
        ram->maps[f] = 0;
        if (written)
            object_mark_dirty(ram, f);
        dirty |= ram->frame[f].owner & OWNER_DIRTY;
    }
    return dirty ? first + pages : 0;
}

static void drop_page(pa_ram *ram, uint32_t id, uint64_t *entry, uint64_t index)
{
    object *o = &ram->objects[id];
    if (o->promised && *entry & (PTE_PRESENT | PTE_SWAP))
        ram->promised--;
    if (*entry & PTE_PRESENT) {
        uint32_t f = pte_frame(*entry);
        if (*entry & PTE_BUFFERS)
            ram_charge_buffers(ram, owner_group(ram->frame[f].owner), -1);
        huge_isolate(ram, f);
        rmap_each(ram, f, unmap_one, &o->shmem);
        ram->maps[f] = 0;
        swap_detach(ram, f);
        ram_release(ram, f);
        o->resident--;
    } else if (*entry & PTE_SWAP) {
        swap_drop_ref(ram, *entry >> PTE_SHIFT);
    }
    nodes_empty(ram, id, index, entry);
}

static void drop_pages(pa_ram *ram, uint32_t id, uint64_t first, uint64_t end)
{
    object *o = &ram->objects[id];
    uint64_t size = pt_table_leaf_size(&o->pages);
    for (uint64_t i = pt_table_next(&o->pages, first, end); i < end; i++) {
        if (i % size == 0)
            i = pt_table_next(&o->pages, i, end);
        uint64_t *entry = i < end ? pt_table_find(&o->pages, i) : NULL;
        if (entry)
            drop_page(ram, id, entry, i);
    }
}

void pa_ram_resize_object(pa_ram *ram, uint32_t id, uint64_t bytes)
{
    if (!is_object(ram, id))
        return;
    object *o = &ram->objects[id];
    uint64_t pages = (bytes >> 12) + (bytes & 4095 ? 1 : 0), kept = 0;
    if (bytes >> 12 < o->count_pages)
        kept = unmap_cut(ram, id, bytes);
    if (pages < o->count_pages) {
        drop_pages(ram, id, kept > pages ? kept : pages, pt_table_end(&o->pages));
        extents_cut(&o->extents, pages, o->count_pages);
    }
    o->count_pages = pages;
    o->bytes = bytes;
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
        drop_page(ram, id, entry, i);
    }
}

void pa_ram_punch_object(pa_ram *ram, uint32_t id, uint64_t first, uint64_t count)
{
    if (!is_object(ram, id))
        return;
    object *o = &ram->objects[id];
    uint64_t left = first < o->count_pages ? o->count_pages - first : 0;
    if (!left)
        return;
    uint64_t end = first + (count < left ? count : left), stop = end, last;
    uint64_t kept = unmap_cut(ram, id, first << 12);
    object_folio(ram, id, end, &last);
    if (end < o->count_pages && unmap_cut(ram, id, end << 12))
        stop = last;
    drop_pages(ram, id, kept > first ? kept : first, stop);
    extents_cut(&o->extents, first, end);
}

void pa_ram_zero_edge(pa_ram *ram, uint32_t id, uint64_t byte)
{
    uint64_t index = byte >> 12;
    if (!is_object(ram, id) || ram->objects[id].shmem || index >= ram->objects[id].count_pages)
        return;
    const uint64_t *entry = object_entry(ram, id, index);
    bool was = entry && *entry & PTE_PRESENT, has = extents_has(&ram->objects[id].extents, index);
    uint32_t f = was ? pte_frame(*entry) : object_new_page(ram, 0, id, index);
    if (f == NO_FRAME)
        return;
    if (!was)
        *object_entry(ram, id, index) |= PTE_BLANK;
    if (!was && has) {
        ram->events.file_read++;
        device_read(&ram->disk, &ram->settings.costs, file_place(ram, id, index), 1);
    }
    object_mark_accessed(ram, f);
    if (has)
        object_mark_dirty(ram, f);
}

static void free_object(object *o)
{
    pt_table_drop(&o->extents.rest);
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
