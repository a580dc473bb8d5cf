/* SPDX-License-Identifier: MIT
 *
 * view.c -- faults on objects: mapped files and shared memory.
 *
 * Model of mm/memory.c (do_read_fault, do_cow_fault, do_shared_fault, finish_fault) and of
 * filemap_map_pages() in mm/filemap.c.
 */
#include "ram.h"

/* One access that is being served. */
typedef struct access {
    pa_mm *mm;
    const pa_view *view;
    object *o;
    uint64_t vpn, index;
    bool write, fresh; /* fresh: there was no leaf                              */
    bool again;        /* it waited without the areas' lock, and was made again */
} access;

static uint64_t *entry_at(const access *a, uint64_t vpn)
{
    return pt_table_find(&a->mm->table, vpn);
}

/* Reads of shared memory may be followed by writes without a fault; those of files are noticed. */
static uint64_t bits_for(const access *a, bool write)
{
    bool free_writes = a->view->shared && a->view->writable && a->o->shmem;
    bool passing =
        (a->view->random || a->view->sequential) && a->mm->ram->settings.rules & PA_RECENCY;
    return PTE_PRESENT | PTE_FILE | PTE_ACCESSED | (write || free_writes ? PTE_WRITE : 0) |
           (write ? PTE_DIRTY : 0) | (passing ? PTE_PASSING : 0);
}

/* Its file system is asked first whether the page may be written (page_mkwrite). */
static void make_dirty(pa_ram *ram, uint32_t f)
{
    if (!ram->objects[owner_id(ram->frame[f].owner)].shmem)
        ram_work(ram, ram->settings.costs.dirty, 1);
    object_mark_dirty(ram, f);
}

static void map_frame(const access *a, uint64_t vpn, uint32_t f, bool write)
{
    a->mm->ram->maps[f]++;
    *entry_at(a, vpn) = (uint64_t)f << PTE_SHIFT | bits_for(a, write);
    ++*mm_resident_counter(a->mm, f);
    if (write)
        make_dirty(a->mm->ram, f);
}

/* The part of [low, high) that lies in the leaf and the area of the access. */
static void clip(const access *a, uint64_t *low, uint64_t *high)
{
    uint64_t size = pt_table_leaf_size(&a->mm->table), leaf = a->vpn & ~(size - 1);
    uint64_t start = leaf > a->view->vpn ? leaf : a->view->vpn, end = a->view->vpn + a->view->count;
    end = end < leaf + size ? end : leaf + size;
    *low = *low > start ? *low : start;
    *high = *high < end ? *high : end;
}

static uint64_t index_of(const access *a, uint64_t vpn)
{
    return a->view->index + (vpn - a->view->vpn);
}

/* The entry of a page that is in the cache, else 0. */
static uint64_t cached_entry(const access *a, uint64_t index)
{
    if (index >= a->o->count_pages)
        return 0;
    const uint64_t *entry = object_entry(a->mm->ram, a->view->object, index);
    return entry && *entry & PTE_PRESENT ? *entry : 0;
}

static bool is_blank(const access *a, uint64_t entry)
{
    return entry & PTE_BLANK && !a->o->shmem;
}

/* The frame of a page that is in the cache with its data, else NO_FRAME. */
static uint32_t cached(const access *a, uint64_t index)
{
    uint64_t entry = cached_entry(a, index);
    if (!entry || is_blank(a, entry) || a->mm->ram->state[pte_frame(entry)] & STATE_READING)
        return NO_FRAME;
    return pte_frame(entry);
}

static bool holds_cached(const access *a, uint64_t low, uint64_t high)
{
    while (low < high && cached(a, index_of(a, low)) == NO_FRAME)
        low++;
    return low < high;
}

/* Since 6.18 a window that begins with the file's last folio makes no page table. */
static bool begins_with_last(const access *a, uint64_t low, uint64_t high)
{
    if (!(a->mm->ram->settings.rules & PA_LARGE_FOLIOS) || a->o->shmem)
        return false;
    for (uint64_t v = low; v < high; v++) {
        uint64_t first, index = index_of(a, v);
        if (cached(a, index) == NO_FRAME)
            continue;
        uint64_t pages = object_folio(a->mm->ram, a->view->object, index, &first);
        return first + pages >= a->o->count_pages;
    }
    return false;
}

/* Where the pages of a folio are seen: [low, high), in the object up to page `end`. */
typedef struct extent {
    uint64_t low, high, end;
} extent;

/* Where the large folio of which a page is seen at `vpn` is; false: that is not all in this area and
 * leaf, or it is no such folio (or the kernel no 6.18). */
static bool folio_extent(const access *a, uint64_t vpn, extent *at)
{
    uint64_t first, index = index_of(a, vpn), pages;
    if (!(a->mm->ram->settings.rules & PA_LARGE_FOLIOS))
        return false;
    pages = object_folio(a->mm->ram, a->view->object, index, &first);
    if (pages == 1 || index - first > vpn)
        return false;
    uint64_t low = vpn - (index - first), high = low + pages;
    *at = (extent){low, high, first + pages};
    clip(a, &low, &high);
    return low == at->low && high == at->high;
}

/* Map what is cached of one page of a window, or of all its folio, if more of the file follows;
 * the page behind it. */
static uint64_t map_cached(const access *a, uint64_t vpn, uint64_t *mapped)
{
    extent at;
    if (!folio_extent(a, vpn, &at) || (at.end >= a->o->count_pages && !a->o->shmem))
        at = (extent){vpn, vpn + 1, 0};
    for (uint64_t v = at.low; v < at.high; v++) {
        uint32_t f = cached(a, index_of(a, v));
        bool marked = f != NO_FRAME && readahead_is_marked(a->mm->ram, f);
        if (*entry_at(a, v) || f == NO_FRAME || marked)
            continue;
        map_frame(a, v, f, false);
        ++*mapped;
    }
    return at.high;
}

/* Map what the cache has of the aligned window around a read fault (3.15 and later).  The window
 * slides up to the area's start instead of losing what lies before it. */
static pa_status fault_around(const access *a)
{
    pa_status status = PA_OK;
    uint64_t window = a->view->around, low = a->vpn & ~(window - 1);
    low = low > a->view->vpn ? low : a->view->vpn;
    uint64_t high = low + window;
    clip(a, &low, &high);
    if (a->fresh && (!holds_cached(a, low, high) || begins_with_last(a, low, high)))
        return PA_OK; /* nothing to make a page table for */
    if (!mm_leaf_for(a->mm, a->vpn, &status))
        return status;
    uint64_t mapped = 0;
    for (uint64_t v = low; v < high;)
        v = map_cached(a, v, &mapped);
    mm_publish(a->mm);
    if (a->view->stream)
        readahead_mapped(a->mm->ram, a->view->stream, mapped);
    return PA_OK;
}

/* Read ahead for a fault of a page of a file; *missed: it was not in the cache.  True: that took
 * so long that the fault begins again, as it does where the data is to be filled in. */
static bool fetch(const access *a, bool *missed)
{
    pa_ram *ram = a->mm->ram;
    uint64_t entry = cached_entry(a, a->index);
    bool blank = is_blank(a, entry);
    reader r = {a->mm->group, a->view->object, a->view->stream};
    *missed = !entry;
    bool ahead = !a->view->random || (a->view->huge && *missed);
    if (!a->view->stream || !ahead || a->o->shmem)
        return blank;
    bool again = blank || *missed;
    if (*missed) {
        readahead_fault(ram, &r, a->view, a->index);
    } else {
        uint32_t f = pte_frame(entry);
        ram->held = folio_of(ram, f).frame + 1; /* room for the next window is not made of it */
        again |= readahead_hit(ram, &r, f, a->index);
        ram->held = 0;
    }
    return fetch_await(ram, a->view->object, a->index) || again;
}

/* Whether nothing is mapped where the folio of the access would be. */
static bool is_clear(const access *a, const extent *at)
{
    uint64_t v = at->low;
    while (v < at->high && !*entry_at(a, v))
        v++;
    return v == at->high;
}

/* Map the page, with the whole of its folio if that can be (6.18). */
static void finish(const access *a, uint32_t f)
{
    extent at;
    if (!folio_extent(a, a->vpn, &at) || at.end > a->o->count_pages || !is_clear(a, &at))
        at = (extent){a->vpn, a->vpn + 1, 0};
    for (uint64_t v = at.low; v < at.high; v++) {
        uint32_t page = v == a->vpn ? f : cached(a, index_of(a, v));
        if (page != NO_FRAME)
            map_frame(a, v, page, a->write);
    }
    mm_publish(a->mm);
}

/* A read of a file waits without the areas' lock; shared memory comes from swap under it. */
static void count(const access *a, bool major)
{
    if (a->o->shmem)
        fault_count(a->mm, major);
    else
        fault_count_waited(a->mm, major, a->again);
}

/* A private area's first write: its own copy at once; the object's page is only read. */
static pa_status copy(const access *a, uint32_t source, bool major)
{
    pa_mm *mm = a->mm;
    pa_ram *ram = mm->ram;
    uint64_t f;
    ram->maps[source]++; /* not reclaimed while it is copied: a mapper that is not found */
    ram_mark(ram, source, OWNER_LOCKED, 0);
    uint64_t got = ram_take(ram, mm->group, 1, &f);
    ram_mark(ram, source, 0, OWNER_LOCKED);
    ram->maps[source]--;
    if (!got)
        return PA_EXHAUSTED;
    *entry_at(a, a->vpn) = f << PTE_SHIFT | PTE_WRITTEN;
    ram->maps[f] = 0;
    ram_put(ram, (uint32_t)f, fault_new_owner(mm, a->vpn));
    mm->anon++;
    mm_publish(mm);
    count(a, major);
    return PA_OK;
}

/* A fault of a page whose entry is empty, or that has no leaf yet; past the object's end, where
 * there is a signal instead, none is made. */
static pa_status fault_entry(access *a, bool major)
{
    pa_mm *mm = a->mm;
    bool missed, more, around = !a->write && a->view->around > 1;
    pa_status status = PA_OK;
    if (mm->ram->count_fetches)
        fetch_settle(mm->ram);
    if (around) {
        status = fault_around(a);
        const uint64_t *entry = entry_at(a, a->vpn);
        if (status != PA_OK)
            return status;
        if (entry && *entry) {
            count(a, major);
            return PA_OK;
        }
    }
    if (a->index >= a->o->count_pages || object_refuses(mm->ram, a->view->object, a->index))
        return PA_ERR_INVALID;
    if (!mm_leaf_for(mm, a->vpn, &status))
        return status;
    a->again = fetch(a, &missed);
    major |= missed && !a->o->shmem;
    uint32_t f = object_page(mm->ram, mm->group, a->view->object, a->index, &more);
    if (f == NO_FRAME)
        return PA_EXHAUSTED;
    if (a->write && !a->view->shared)
        return copy(a, f, major || more);
    if (a->again && around)
        status = fault_around(a);
    if (!*entry_at(a, a->vpn))
        finish(a, f);
    count(a, major || more);
    return status;
}

/* Try 2 MB at once where there is no leaf; *served says that it worked. */
static pa_status fault_big(access *a, bool *major, bool *served)
{
    pa_mm *mm = a->mm;
    pa_status status = PA_OK;
    *served = false;
    *major = false;
    if (a->index >= a->o->count_pages || (a->write && !a->view->shared) ||
        object_refuses(mm->ram, a->view->object, a->index))
        return PA_OK;
    a->again = fetch_await(mm->ram, a->view->object, a->index);
    if (object_page(mm->ram, mm->group, a->view->object, a->index, major) == NO_FRAME)
        return PA_EXHAUSTED;
    *served = huge_map_object(mm, a->view, a->vpn, a->write, &status);
    if (*served)
        count(a, *major);
    return status;
}

static pa_status fault_object(pa_mm *mm, const pa_view *view, uint64_t vpn, bool write)
{
    object *o = &mm->ram->objects[view->object];
    access a = {.mm = mm, .view = view, .o = o, .vpn = vpn, .write = write};
    a.index = index_of(&a, vpn);
    a.fresh = pt_table_missing(&mm->table, vpn) > 0;
    bool major = false, served;
    if (!rmap_hint(&o->hints, mm->number, (int64_t)vpn - (int64_t)a.index))
        return PA_ERR_HOST_NOMEM;
    pa_status status = mm_make_upper(mm, vpn, 1);
    if (status != PA_OK)
        return status;
    if (a.fresh && o->order == HUGE_ORDER) {
        status = fault_big(&a, &major, &served);
        if (status != PA_OK || served)
            return status;
    }
    return fault_entry(&a, major);
}

/* A write to a present page of a shared area: it is writable from now on. */
static void make_shared_writable(pa_mm *mm, uint64_t *pte)
{
    *pte |= PTE_WRITTEN;
    make_dirty(mm->ram, pte_frame(*pte));
    fault_count(mm, false);
}

static pa_status fault_view(pa_mm *mm, const pa_view *view, uint64_t vpn, uint64_t *pte, bool write)
{
    uint64_t n;
    if (pte && huge_at(pte)) { /* the fault goes on without it */
        bool file = *pte & PTE_FILE;
        if (!file)
            return huge_fault_write(mm, vpn, pte);
        huge_split(mm, vpn);
        pte = NULL;
    }
    if (!pte || !*pte)
        return fault_object(mm, view, vpn, write);
    if (view->shared && *pte & PTE_PRESENT) {
        make_shared_writable(mm, pte);
        return PA_OK;
    }
    return fault_anon(mm, vpn, pte, 1, write, &n);
}

static bool is_sane(const pa_mm *mm, const pa_view *view, uint64_t vpn, uint64_t count)
{
    uint64_t end = pt_table_end(&mm->table);
    return vpn >= view->vpn && vpn < end && count <= end - vpn &&
           view->object < mm->ram->count_objects && mm->ram->objects[view->object].used;
}

static pa_status touch(pa_mm *mm, const pa_view *view, uint64_t vpn, uint64_t count, bool write,
                       uint64_t *done)
{
    while (*done < count) {
        uint64_t at = vpn + *done, *pte = pt_table_find(&mm->table, at);
        if (pte && fault_is_spared(mm, at, pte, write)) {
            ++*done;
            continue;
        }
        uint64_t entered = mm->ram->disk.now;
        pa_status status = fault_view(mm, view, at, pte, write);
        if (status != PA_OK)
            return status;
        mm_return(mm, entered);
    }
    return PA_OK;
}

int pa_mm_touch_object(pa_mm *mm, const pa_view *view, uint64_t vpn, uint64_t count, bool write,
                       uint64_t *done)
{
    *done = 0;
    if (!is_sane(mm, view, vpn, count))
        return PA_ERR_INVALID;
    uint64_t since = mm->ram->disk.cpu;
    pa_status status = touch(mm, view, vpn, count, write, done);
    mm_note_work(mm, since, *done);
    return status;
}
