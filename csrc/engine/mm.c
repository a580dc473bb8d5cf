/* SPDX-License-Identifier: MIT
 *
 * mm.c -- faults, and what system calls do to a process's pages.
 *
 * Model of mm/memory.c.  Data is not simulated, only where each page is, so a copy on write is a
 * new frame and nothing more.  A function that may need a frame may reclaim, and reclaim may change
 * any entry, so an entry is read again after a frame was taken.
 *
 *     mm->anon + mm->file + mm->shmem == entries that are present and not the zero page
 *     mm->swap == entries that are swapped out
 */
#include "ram.h"

#include <stdlib.h>
#include <string.h>

static void forget_hot(pa_mm *mm, uint64_t vpn, uint64_t count)
{
    if (count >= HOT_PAGES) {
        memset(mm->hot, 0xff, sizeof mm->hot);
        return;
    }
    for (uint64_t i = 0; i < count; i++) {
        if (mm_is_hot(mm, vpn + i))
            mm->hot[(vpn + i) & (HOT_PAGES - 1)] = UINT64_MAX;
    }
}

void mm_cool_range(pa_mm *mm, uint64_t vpn, uint64_t count)
{
    mm->disturbed = true;
    forget_hot(mm, vpn, count);
}

bool mm_is_settled(pa_mm *mm, uint64_t vpn)
{
    const uint64_t settled = PTE_PRESENT | PTE_WRITE | PTE_ACCESSED | PTE_DIRTY;
    const uint64_t *pte = pt_table_find(&mm->table, vpn);
    if (!pte || (*pte & settled) != settled)
        return false;
    mm_set_hot(mm, vpn);
    return true;
}

/* ---- life ------------------------------------------------------------------------------------- */

static bool room_for_mm(pa_ram *ram, uint32_t *number)
{
    uint32_t n = 0;
    while (n < ram->count_mms && ram->mms[n])
        n++;
    if (n > MAX_IDS)
        return false;
    if (n == ram->count_mms) {
        pa_mm **more = realloc(ram->mms, (n + 1) * sizeof *more);
        if (!more)
            return false;
        ram->mms = more;
        more[n] = NULL;
        ram->count_mms++;
    }
    *number = n;
    return true;
}

pa_mm *pa_mm_new(pa_ram *ram, uint32_t group_id)
{
    uint32_t number;
    if (group_id >= ram->count_groups || !room_for_mm(ram, &number))
        return NULL;
    pa_mm *mm = calloc(1, sizeof *mm);
    if (!mm || !pt_table_init(&mm->table, (int)ram->settings.shape)) {
        free(mm);
        return NULL;
    }
    memset(mm->hot, 0xff, sizeof mm->hot);
    mm->ram = ram;
    mm->number = number;
    mm->group = group_id;
    ram->mms[number] = mm;
    return mm;
}

void mm_free(pa_mm *mm)
{
    if (mm) {
        pt_table_drop(&mm->table);
        free(mm);
    }
}

pa_mm *mm_copy(const pa_mm *mm, pa_ram *ram)
{
    pa_mm *copy = malloc(sizeof *copy);
    if (!copy)
        return NULL;
    *copy = *mm;
    copy->ram = ram;
    if (!pt_table_copy(&copy->table, &mm->table)) {
        free(copy);
        return NULL;
    }
    return copy;
}

uint32_t pa_mm_number(const pa_mm *mm)
{
    return mm->number;
}

pa_mm *pa_ram_mm(pa_ram *ram, uint32_t number)
{
    return number < ram->count_mms ? ram->mms[number] : NULL;
}

void pa_mm_drop(pa_mm *mm)
{
    if (!mm)
        return;
    pa_ram *ram = mm->ram;
    uint64_t end = pt_table_end(&mm->table);
    pa_mm_unmap(mm, 0, end, 0, end);
    object_forget_mm(ram, mm->number);
    ram->mms[mm->number] = NULL;
    mm_free(mm);
}

void pa_mm_read(const pa_mm *mm, pa_mm_counters *out)
{
    *out = (pa_mm_counters){.anon = mm->anon,
                            .file = mm->file,
                            .shmem = mm->shmem,
                            .swap = mm->swap,
                            .locked = mm->locked,
                            .resident_peak = mm->resident_peak,
                            .minor_faults = mm->minor_faults,
                            .major_faults = mm->major_faults};
    if (mm_resident(mm) > out->resident_peak)
        out->resident_peak = mm_resident(mm);
    memcpy(out->tables, mm->table.count_tables, sizeof out->tables);
}

/* ---- walking a range -------------------------------------------------------------------------- */

typedef struct stretch {
    uint64_t vpn, count; /* of one leaf, or less */
    uint64_t *pte;
} stretch;

/* The next piece of [*vpn, end) that has a leaf; false at the end. */
static bool next_stretch(pa_mm *mm, uint64_t *vpn, uint64_t end, stretch *out)
{
    uint64_t size = pt_table_leaf_size(&mm->table);
    *vpn = pt_table_next(&mm->table, *vpn, end);
    if (*vpn >= end)
        return false;
    uint64_t stop = (*vpn | (size - 1)) + 1;
    stop = stop < end ? stop : end;
    *out = (stretch){*vpn, stop - *vpn, pt_table_find(&mm->table, *vpn)};
    *vpn = stop;
    return true;
}

static uint64_t end_of(const pa_mm *mm, uint64_t vpn, uint64_t count)
{
    uint64_t end = pt_table_end(&mm->table);
    return vpn >= end || count > end - vpn ? end : vpn + count;
}

static bool is_mapped_frame(uint64_t pte)
{
    return (pte & (PTE_PRESENT | PTE_ZERO)) == PTE_PRESENT;
}

/* ---- dropping pages --------------------------------------------------------------------------- */

static uint64_t *resident_counter(pa_mm *mm, uint32_t f)
{
    uint64_t owner = mm->ram->frame[f].owner;
    if (owner_kind(owner) != KIND_OBJECT)
        return &mm->anon;
    return mm->ram->objects[owner_id(owner)].shmem ? &mm->shmem : &mm->file;
}

/* One mapper less; an anonymous frame that nobody maps is freed, unless swap still refers to it. */
static void unmap_frame(pa_mm *mm, uint32_t f, uint64_t pte)
{
    pa_ram *ram = mm->ram;
    --*resident_counter(mm, f);
    if (owner_kind(ram->frame[f].owner) == KIND_OBJECT) {
        ram->maps[f]--;
        if (pte & PTE_DIRTY)
            object_mark_dirty(ram, f);
        if (pte & PTE_ACCESSED)
            object_mark_accessed(ram, f);
        return;
    }
    if (ram->maps[f]) {
        ram->maps[f]--;
        return;
    }
    uint64_t slot = ram->slot_of[f];
    if (slot && ram->slot_refs[slot - 1]) { /* others will find it in the swap cache */
        uint64_t owner = ram->frame[f].owner;
        ram_unput(ram, f);
        ram_put(ram, f, owner_of(KIND_SLOT, owner_group(owner), 0, slot - 1));
        return;
    }
    swap_detach(ram, f);
    ram_release(ram, f);
}

static void drop_entry(pa_mm *mm, uint64_t *pte)
{
    uint64_t was = *pte;
    mm_note_peak(mm);
    *pte = 0;
    mm->locked -= (was & PTE_LOCKED) != 0;
    if (was & PTE_SWAP) {
        mm->swap--;
        swap_drop_ref(mm->ram, was >> PTE_SHIFT);
    } else if (is_mapped_frame(was)) {
        unmap_frame(mm, pte_frame(was), was);
    } else if (was & PTE_ZERO && mm->ram->settings.rules & PA_ZERO_IS_FILE) {
        mm->file--;
    }
}

static void drop_range(pa_mm *mm, uint64_t vpn, uint64_t end)
{
    stretch s;
    forget_hot(mm, vpn, end - vpn);
    while (next_stretch(mm, &vpn, end, &s)) {
        for (uint64_t i = 0; i < s.count; i++) {
            if (s.pte[i])
                drop_entry(mm, &s.pte[i]);
        }
    }
}

static void prune_tables(pa_mm *mm, uint64_t vpn, uint64_t end, uint64_t floor, uint64_t ceiling)
{
    uint64_t freed = pt_table_prune(&mm->table, vpn, end, floor, ceiling);
    ram_uncharge_tables(mm->ram, mm->group, freed);
}

void pa_mm_unmap(pa_mm *mm, uint64_t vpn, uint64_t count, uint64_t floor_vpn, uint64_t ceiling_vpn)
{
    uint64_t end = end_of(mm, vpn, count);
    drop_range(mm, vpn, end);
    prune_tables(mm, vpn, end, floor_vpn, ceiling_vpn);
}

void pa_mm_discard(pa_mm *mm, uint64_t vpn, uint64_t count)
{
    mm->disturbed = true;
    mm_discard(mm, vpn, count);
}

void mm_discard(pa_mm *mm, uint64_t vpn, uint64_t count)
{
    uint64_t end = end_of(mm, vpn, count), size = pt_table_leaf_size(&mm->table);
    drop_range(mm, vpn, end);
    if (!(mm->ram->settings.rules & PA_FREES_DISCARDED))
        return;
    /* only leaves, and only those that lie whole in the range */
    for (uint64_t leaf = (vpn + size - 1) & ~(size - 1); leaf + size <= end; leaf += size) {
        leaf = pt_table_next(&mm->table, leaf, end);
        if (leaf + size <= end)
            prune_tables(mm, leaf, leaf + 1, leaf, leaf + size);
    }
}

/* ---- taking frames for faults ----------------------------------------------------------------- */

static uint64_t new_anon_owner(const pa_mm *mm, uint64_t vpn)
{
    uint64_t active = mm->ram->settings.rules & PA_NEW_ANON_ACTIVE ? OWNER_ACTIVE : 0;
    return owner_of(KIND_ANON, mm->group, mm->number, vpn) | active;
}

enum { PTE_WRITTEN = PTE_PRESENT | PTE_WRITE | PTE_ACCESSED | PTE_DIRTY };

/* Written for the first time: `want` empty entries from pte on; returns how many were filled. */
static uint64_t fill_anon(pa_mm *mm, uint64_t vpn, uint64_t *pte, uint64_t want)
{
    pa_ram *ram = mm->ram;
    uint64_t first, got = ram_take(ram, mm->group, want, &first);
    if (!got)
        return 0;
    for (uint64_t i = 0; i < got; i++)
        pte[i] = (first + i) << PTE_SHIFT | PTE_WRITTEN;
    ram_put_anon_run(ram, first, got, new_anon_owner(mm, vpn));
    mm->anon += got;
    mm->minor_faults += got;
    ram->events.faults += got;
    mm_set_hot(mm, vpn + got - 1);
    return got;
}

static void count_fault(pa_mm *mm, bool major)
{
    *(major ? &mm->major_faults : &mm->minor_faults) += 1;
    mm->ram->events.faults++;
    mm->ram->events.major_faults += major;
}

/* A frame of its own instead of what the entry has (zero page, or a page shared with others). */
static pa_status copy_on_write(pa_mm *mm, uint64_t vpn, uint64_t *pte)
{
    uint64_t f, was = *pte;
    if (!ram_take(mm->ram, mm->group, 1, &f))
        return PA_EXHAUSTED;
    if (*pte != was) { /* reclaim took the page away: start again */
        ram_give(mm->ram, (uint32_t)f, mm->group);
        return PA_OK;
    }
    uint64_t locked = was & PTE_LOCKED;
    drop_entry(mm, pte);
    mm->locked += locked != 0;
    mm_cool(mm, vpn);
    *pte = f << PTE_SHIFT | PTE_WRITTEN | locked;
    mm->ram->maps[f] = 0;
    ram_put(mm->ram, (uint32_t)f, new_anon_owner(mm, vpn) | (locked ? OWNER_LOCKED : 0));
    mm->anon++;
    count_fault(mm, false);
    return PA_OK;
}

/* A write to a present page that is not writable. */
static pa_status fault_write(pa_mm *mm, uint64_t vpn, uint64_t *pte)
{
    pa_ram *ram = mm->ram;
    if (!is_mapped_frame(*pte) || *pte & PTE_FILE || ram->maps[pte_frame(*pte)])
        return copy_on_write(mm, vpn, pte);
    *pte |= PTE_WRITTEN;
    swap_detach(ram, pte_frame(*pte));
    uint64_t *owner = &ram->frame[pte_frame(*pte)].owner;
    *owner = owner_moved(*owner, mm->number, vpn); /* the one it was made for may be gone */
    count_fault(mm, false);
    return PA_OK;
}

/* The page comes back from swap. */
static pa_status fault_swap(pa_mm *mm, uint64_t vpn, uint64_t *pte, bool write)
{
    pa_ram *ram = mm->ram;
    bool major;
    uint64_t slot = *pte >> PTE_SHIFT, locked = *pte & PTE_LOCKED;
    uint32_t f = swap_read(ram, mm->group, slot, &major);
    if (f == NO_FRAME)
        return PA_EXHAUSTED;
    uint64_t owner = ram->frame[f].owner;
    if (owner_kind(owner) == KIND_SLOT) {
        ram_unput(ram, f);
        ram->maps[f] = 0;
        ram_put(ram, f,
                owner_of(KIND_ANON, owner_group(owner), mm->number, vpn) |
                    (owner & (OWNER_ACTIVE | OWNER_REFERENCED)) | (locked ? OWNER_LOCKED : 0));
    } else {
        ram->maps[f]++;
    }
    bool sole = ram->slot_refs[slot] == 1 && !ram->maps[f];
    *pte = (uint64_t)f << PTE_SHIFT | PTE_PRESENT | PTE_ACCESSED | locked |
           (write && sole ? PTE_WRITE | PTE_DIRTY : 0);
    mm->swap--;
    mm->anon++;
    swap_drop_ref(ram, slot);
    if (!ram->slot_refs[slot] && (write || swap_is_full(ram, mm->group))) {
        swap_detach(ram, f);
        *pte |= PTE_DIRTY; /* the frame is the only copy now */
    }
    count_fault(mm, major);
    return PA_OK;
}

static void map_zero(pa_mm *mm, uint64_t *pte)
{
    *pte = PTE_PRESENT | PTE_ZERO | PTE_ACCESSED;
    if (mm->ram->settings.rules & PA_ZERO_IS_FILE)
        mm->file++;
    count_fault(mm, false);
}

static uint64_t *leaf_for(pa_mm *mm, uint64_t vpn, pa_status *status)
{
    uint64_t *found = pt_table_find_leaf(&mm->table, vpn);
    if (found)
        return found;
    unsigned missing = pt_table_missing(&mm->table, vpn);
    *status = PA_EXHAUSTED;
    if (!ram_charge_tables(mm->ram, mm->group, missing))
        return NULL;
    uint64_t *leaf = pt_table_make_leaf(&mm->table, vpn);
    *status = leaf ? PA_OK : PA_ERR_HOST_NOMEM;
    return leaf;
}

/* Access a page that is there; true if the entry needed no fault. */
static inline bool access_present(pa_mm *mm, uint64_t vpn, uint64_t *pte, bool write)
{
    if (!(*pte & PTE_PRESENT) || (write && !(*pte & PTE_WRITE)))
        return false;
    *pte |= write ? PTE_ACCESSED | PTE_DIRTY : PTE_ACCESSED;
    if (write)
        mm_set_hot(mm, vpn);
    return true;
}

static uint64_t empty_run(const uint64_t *pte, uint64_t count)
{
    uint64_t n = 0;
    while (n < count && !pte[n])
        n++;
    return n;
}

/* One fault, or one run of first writes; *n pages are done. */
static pa_status fault_anon(pa_mm *mm, uint64_t vpn, uint64_t *pte, uint64_t count, bool write,
                            uint64_t *n)
{
    *n = 0;
    if (!*pte && write) {
        *n = fill_anon(mm, vpn, pte, empty_run(pte, count));
        return *n ? PA_OK : PA_EXHAUSTED;
    }
    if (!*pte)
        map_zero(mm, pte);
    else if (*pte & PTE_SWAP)
        return fault_swap(mm, vpn, pte, write);
    else
        return fault_write(mm, vpn, pte);
    return PA_OK;
}

int pa_mm_touch_anon(pa_mm *mm, uint64_t vpn, uint64_t count, bool write, uint64_t *done)
{
    uint64_t size = pt_table_leaf_size(&mm->table);
    *done = 0;
    if (vpn >= pt_table_end(&mm->table) || count > pt_table_end(&mm->table) - vpn)
        return PA_ERR_INVALID;
    while (*done < count) {
        pa_status status = PA_OK;
        uint64_t at = vpn + *done, offset = at & (size - 1);
        uint64_t *leaf = leaf_for(mm, at, &status);
        if (!leaf)
            return status;
        uint64_t n = size - offset < count - *done ? size - offset : count - *done;
        for (uint64_t i = 0; i < n;) {
            uint64_t here = 0;
            uint64_t *pte = &leaf[offset + i];
            if (access_present(mm, at + i, pte, write))
                here = 1;
            else if ((status = fault_anon(mm, at + i, pte, n - i, write, &here)) != PA_OK)
                return status;
            i += here;
            *done += here;
        }
    }
    return PA_OK;
}

/* ---- faults on objects ------------------------------------------------------------------------ */

static void map_object_frame(pa_mm *mm, uint64_t *pte, uint32_t f, uint64_t bits)
{
    mm->ram->maps[f]++;
    *pte = (uint64_t)f << PTE_SHIFT | PTE_PRESENT | PTE_FILE | bits;
    ++*resident_counter(mm, f);
}

/* Map the pages around a read fault that are in the cache already (mm/filemap.c, 3.15 and later):
 * an aligned window, clipped to the area, the leaf and the object. */
static void fault_around(pa_mm *mm, const pa_view *view, uint64_t vpn, uint64_t *leaf)
{
    uint64_t size = pt_table_leaf_size(&mm->table), window = view->around;
    const object *o = &mm->ram->objects[view->object];
    uint64_t low = vpn & ~(window - 1);
    low = low > view->vpn ? low : view->vpn;
    uint64_t high = low + window, end = view->vpn + view->count;
    uint64_t leaf_end = (vpn | (size - 1)) + 1;
    high = high < end ? high : end;
    high = high < leaf_end ? high : leaf_end;
    low = low >= leaf_end - size ? low : leaf_end - size;
    for (uint64_t v = low; v < high; v++) {
        uint64_t *pte = &leaf[v & (size - 1)], index = view->index + (v - view->vpn);
        if (*pte || index >= o->count_pages)
            continue;
        const uint64_t *entry = object_entry(mm->ram, view->object, index);
        if (entry && *entry & PTE_PRESENT)
            map_object_frame(mm, pte, pte_frame(*entry), 0);
    }
}

/* A private area's first write: its own copy at once; the object's page is only read. */
static pa_status fault_private_write(pa_mm *mm, uint64_t vpn, uint64_t *pte, uint32_t source,
                                     bool major)
{
    uint64_t f;
    mm->ram->maps[source]++; /* not reclaimed while it is copied: a mapper that is not found */
    ram_mark(mm->ram, source, OWNER_LOCKED, 0);
    uint64_t got = ram_take(mm->ram, mm->group, 1, &f);
    ram_mark(mm->ram, source, 0, OWNER_LOCKED);
    mm->ram->maps[source]--;
    if (!got)
        return PA_EXHAUSTED;
    *pte = f << PTE_SHIFT | PTE_WRITTEN;
    mm->ram->maps[f] = 0;
    ram_put(mm->ram, (uint32_t)f, new_anon_owner(mm, vpn));
    mm->anon++;
    count_fault(mm, major);
    return PA_OK;
}

static pa_status fault_object(pa_mm *mm, const pa_view *view, uint64_t vpn, uint64_t *leaf,
                              bool write)
{
    pa_ram *ram = mm->ram;
    object *o = &ram->objects[view->object];
    uint64_t index = view->index + (vpn - view->vpn);
    uint64_t *pte = &leaf[vpn & (pt_table_leaf_size(&mm->table) - 1)];
    bool major;
    if (index >= o->count_pages) {
        if (!write && view->around > 1)
            fault_around(mm, view, vpn, leaf);
        return PA_ERR_INVALID;
    }
    if (!object_hint(o, mm->number, (int64_t)vpn - (int64_t)index))
        return PA_ERR_HOST_NOMEM;
    uint32_t f = object_page(ram, mm->group, view->object, index, &major);
    if (f == NO_FRAME)
        return PA_EXHAUSTED;
    if (write && !view->shared)
        return fault_private_write(mm, vpn, pte, f, major);
    map_object_frame(mm, pte, f, PTE_ACCESSED | (write ? PTE_WRITE | PTE_DIRTY : 0));
    if (!write && view->around > 1 && !o->shmem)
        fault_around(mm, view, vpn, leaf);
    count_fault(mm, major);
    return PA_OK;
}

/* A write to a present page of a shared area: it is writable from now on. */
static void make_shared_writable(pa_mm *mm, uint64_t *pte)
{
    *pte |= PTE_WRITTEN;
    object_mark_dirty(mm->ram, pte_frame(*pte));
    count_fault(mm, false);
}

static pa_status fault_view(pa_mm *mm, const pa_view *view, uint64_t vpn, uint64_t *leaf,
                            bool write)
{
    uint64_t *pte = &leaf[vpn & (pt_table_leaf_size(&mm->table) - 1)], n;
    if (!*pte)
        return fault_object(mm, view, vpn, leaf, write);
    if (view->shared && *pte & PTE_PRESENT) {
        make_shared_writable(mm, pte);
        return PA_OK;
    }
    return fault_anon(mm, vpn, pte, 1, write, &n);
}

int pa_mm_touch_object(pa_mm *mm, const pa_view *view, uint64_t vpn, uint64_t count, bool write,
                       uint64_t *done)
{
    const pa_ram *ram = mm->ram;
    uint64_t end = pt_table_end(&mm->table), size = pt_table_leaf_size(&mm->table);
    *done = 0;
    if (vpn < view->vpn || vpn >= end || count > end - vpn || view->object >= ram->count_objects ||
        !ram->objects[view->object].used)
        return PA_ERR_INVALID;
    while (*done < count) {
        pa_status status = PA_OK;
        uint64_t at = vpn + *done, *leaf = leaf_for(mm, at, &status);
        if (!leaf)
            return status;
        if (!access_present(mm, at, &leaf[at & (size - 1)], write)) {
            status = fault_view(mm, view, at, leaf, write);
            if (status != PA_OK)
                return status;
            continue;
        }
        ++*done;
    }
    return PA_OK;
}

/* ---- system calls on ranges ------------------------------------------------------------------- */

void pa_mm_lazy_free(pa_mm *mm, uint64_t vpn, uint64_t count)
{
    stretch s;
    uint64_t end = end_of(mm, vpn, count);
    mm_cool_range(mm, vpn, end - vpn);
    while (next_stretch(mm, &vpn, end, &s)) {
        for (uint64_t i = 0; i < s.count; i++) {
            uint64_t *pte = &s.pte[i];
            if (*pte & PTE_SWAP)
                drop_entry(mm, pte);
            if (!is_mapped_frame(*pte) || *pte & PTE_FILE || mm->ram->maps[pte_frame(*pte)])
                continue;
            swap_detach(mm->ram, pte_frame(*pte));
            *pte &= ~(uint64_t)(PTE_DIRTY | PTE_ACCESSED);
            ram_mark(mm->ram, pte_frame(*pte), 0, OWNER_ACTIVE | OWNER_REFERENCED);
        }
    }
}

/* An anonymous frame with one mapper is private again: mprotect may make it writable at once. */
static bool may_write(const pa_mm *mm, uint64_t pte)
{
    return is_mapped_frame(pte) && !(pte & PTE_FILE) && pte & PTE_DIRTY &&
           !mm->ram->maps[pte_frame(pte)];
}

void pa_mm_protect(pa_mm *mm, uint64_t vpn, uint64_t count, bool writable)
{
    stretch s;
    uint64_t end = end_of(mm, vpn, count);
    mm_cool_range(mm, vpn, end - vpn);
    while (next_stretch(mm, &vpn, end, &s)) {
        for (uint64_t i = 0; i < s.count; i++) {
            if (!(s.pte[i] & PTE_PRESENT))
                continue;
            if (writable && may_write(mm, s.pte[i]))
                s.pte[i] |= PTE_WRITE;
            else if (!writable)
                s.pte[i] &= ~(uint64_t)PTE_WRITE;
        }
    }
}

void pa_mm_lock(pa_mm *mm, uint64_t vpn, uint64_t count, bool lock)
{
    stretch s;
    uint64_t end = end_of(mm, vpn, count);
    while (next_stretch(mm, &vpn, end, &s)) {
        for (uint64_t i = 0; i < s.count; i++) {
            uint64_t *pte = &s.pte[i];
            if (!(*pte & PTE_PRESENT) || ((*pte & PTE_LOCKED) != 0) == lock)
                continue;
            *pte ^= PTE_LOCKED;
            mm->locked += lock ? 1u : UINT64_MAX;
            if (is_mapped_frame(*pte))
                ram_mark(mm->ram, pte_frame(*pte), lock ? OWNER_LOCKED : 0,
                         lock ? 0 : OWNER_LOCKED);
        }
    }
}

/* The frame's record follows the entry, so that reclaim finds it at its new place. */
static void follow(pa_mm *mm, uint64_t pte, uint64_t new_vpn)
{
    pa_ram *ram = mm->ram;
    if (!is_mapped_frame(pte))
        return;
    uint32_t f = pte_frame(pte);
    uint64_t owner = ram->frame[f].owner;
    if (owner_kind(owner) == KIND_OBJECT) {
        object_hint(&ram->objects[owner_id(owner)], mm->number,
                    (int64_t)new_vpn - (int64_t)owner_place(owner));
    } else if (owner_id(owner) == mm->number) {
        ram->frame[f].owner = owner_moved(owner, mm->number, new_vpn);
    }
}

int pa_mm_move(pa_mm *mm, uint64_t vpn, uint64_t new_vpn, uint64_t count, uint64_t *done)
{
    uint64_t size = pt_table_leaf_size(&mm->table), end = end_of(mm, vpn, count);
    stretch s;
    mm_cool_range(mm, vpn, count);
    *done = 0;
    for (uint64_t at = vpn; next_stretch(mm, &at, end, &s);) {
        for (uint64_t i = 0; i < s.count; i++) {
            if (!s.pte[i])
                continue;
            pa_status status = PA_OK;
            uint64_t to = new_vpn + (s.vpn + i - vpn), *leaf = leaf_for(mm, to, &status);
            *done = s.vpn + i - vpn;
            if (!leaf)
                return status;
            if (!s.pte[i]) /* swapped or dropped meanwhile */
                continue;
            leaf[to & (size - 1)] = s.pte[i];
            s.pte[i] = 0;
            follow(mm, leaf[to & (size - 1)], to);
        }
    }
    *done = count;
    return PA_OK;
}

/* ---- fork ------------------------------------------------------------------------------------- */

static void share_entry(pa_mm *child, uint64_t vpn, uint64_t *from, uint64_t *to, bool shared)
{
    pa_ram *ram = child->ram;
    if (!shared)
        *from &= ~(uint64_t)PTE_WRITE;
    *to = *from & ~(uint64_t)PTE_LOCKED;
    if (*from & PTE_SWAP) {
        swap_add_ref(ram, *from >> PTE_SHIFT);
        child->swap++;
    } else if (is_mapped_frame(*from)) {
        uint32_t f = pte_frame(*from);
        uint64_t owner = ram->frame[f].owner;
        ram->maps[f]++;
        ++*resident_counter(child, f);
        if (owner_kind(owner) == KIND_OBJECT)
            object_hint(&ram->objects[owner_id(owner)], child->number,
                        (int64_t)vpn - (int64_t)owner_place(owner));
    } else if (ram->settings.rules & PA_ZERO_IS_FILE) {
        child->file++;
    }
}

int pa_mm_share(pa_mm *child, pa_mm *parent, uint64_t vpn, uint64_t count, bool shared,
                uint64_t *done)
{
    uint64_t size = pt_table_leaf_size(&parent->table), end = end_of(parent, vpn, count);
    stretch s;
    mm_cool_range(parent, vpn, count);
    *done = 0;
    for (uint64_t at = vpn; next_stretch(parent, &at, end, &s);) {
        for (uint64_t i = 0; i < s.count; i++) {
            if (!s.pte[i])
                continue;
            pa_status status = PA_OK;
            uint64_t v = s.vpn + i, *leaf = leaf_for(child, v, &status);
            *done = v - vpn;
            if (!leaf)
                return status;
            if (s.pte[i] && !leaf[v & (size - 1)])
                share_entry(child, v, &s.pte[i], &leaf[v & (size - 1)], shared);
        }
    }
    *done = count;
    return PA_OK;
}

/* ---- looking ---------------------------------------------------------------------------------- */

static void count_entry(const pa_mm *mm, uint64_t pte, pa_range_counters *out)
{
    if (pte & PTE_SWAP)
        out->swap++;
    out->zero += (pte & PTE_ZERO) != 0;
    out->locked += (pte & PTE_LOCKED) != 0;
    if (!is_mapped_frame(pte))
        return;
    uint32_t f = pte_frame(pte);
    uint64_t owner = mm->ram->frame[f].owner;
    if (owner_kind(owner) != KIND_OBJECT)
        out->anon++;
    else
        *(mm->ram->objects[owner_id(owner)].shmem ? &out->shmem : &out->file) += 1;
    bool dirty = (pte & PTE_DIRTY) != 0 || owner & OWNER_DIRTY;
    uint64_t mappers = rmap_count(mm->ram, f), share = ((uint64_t)4096 << 12) / mappers;
    out->dirty += dirty;
    out->referenced += (pte & PTE_ACCESSED) != 0;
    out->shared += mappers > 1;
    out->shared_dirty += dirty && mappers > 1;
    out->share += share;
    out->share_dirty += dirty ? share : 0;
}

void pa_mm_read_range(pa_mm *mm, uint64_t vpn, uint64_t count, pa_range_counters *out)
{
    stretch s;
    uint64_t end = end_of(mm, vpn, count);
    *out = (pa_range_counters){0};
    while (next_stretch(mm, &vpn, end, &s)) {
        for (uint64_t i = 0; i < s.count; i++) {
            if (s.pte[i])
                count_entry(mm, s.pte[i], out);
        }
    }
}
