/* SPDX-License-Identifier: MIT
 *
 * huge.c -- 2 MB at once: an entry of the table above the leaves that maps 512 pages.
 *
 * Such an entry is modelled by a leaf that is full and has PTE_HUGE in every entry, so that whoever
 * only looks needs no second way.  Whoever changes a part of it makes it small first (huge_small).
 * An anonymous one has its leaf deposited beside it, and charged; that of a file has none, so its
 * leaf is not counted, and splitting it means to drop it (mm/huge_memory.c).
 */
#include "ram.h"

#include <string.h>

static bool is_of_file(const uint64_t *pte)
{
    return *pte & PTE_FILE;
}

static uint64_t first_of(uint64_t vpn)
{
    return vpn & ~(uint64_t)(HUGE_PAGES - 1);
}

bool huge_covers(const pa_mm *mm, const stretch *s)
{
    return huge_at(s->pte) && s->count == pt_table_leaf_size(&mm->table);
}

bool huge_small(pa_mm *mm, const stretch *s)
{
    if (!huge_at(s->pte))
        return true;
    bool stays = !is_of_file(s->pte);
    huge_split(mm, s->vpn);
    return stays;
}

/* A leaf that no table was counted for comes to be counted, or the other way round. */
static void count_leaf(pa_mm *mm, bool counted)
{
    mm->table.count_tables[0] += counted ? 1u : UINT64_MAX;
}

void huge_drop(pa_mm *mm, uint64_t vpn)
{
    uint64_t first = first_of(vpn), *leaf = pt_table_find_leaf(&mm->table, first);
    bool file = is_of_file(leaf);
    mm_cool_range(mm, first, HUGE_PAGES);
    for (uint64_t i = 0; i < HUGE_PAGES; i++)
        mm_drop_entry(mm, &leaf[i]);
    if (file)
        count_leaf(mm, true);
    pt_table_drop_leaf(&mm->table, first);
    if (!file)
        ram_uncharge_tables(mm->ram, mm->group, 1);
}

uint64_t huge_bits(pa_mm *mm, uint64_t vpn)
{
    const uint64_t *leaf = pt_table_find_leaf(&mm->table, first_of(vpn));
    uint64_t bits = 0;
    for (uint64_t i = 0; i < HUGE_PAGES; i++)
        bits |= leaf[i] & (PTE_DIRTY | PTE_ACCESSED);
    return bits;
}

void huge_split(pa_mm *mm, uint64_t vpn)
{
    uint64_t *leaf = pt_table_find_leaf(&mm->table, first_of(vpn));
    if (is_of_file(leaf)) {
        huge_drop(mm, vpn);
        return;
    }
    uint64_t dirty = *leaf & PTE_ZERO ? 0 : huge_bits(mm, vpn) & PTE_DIRTY;
    for (uint64_t i = 0; i < HUGE_PAGES; i++) {
        leaf[i] &= ~(uint64_t)PTE_HUGE;
        if (!dirty)
            continue;
        leaf[i] |= PTE_DIRTY;
        mm->ram->frame[pte_frame(leaf[i])].owner |= OWNER_DIRTY;
    }
}

void huge_break(pa_mm *mm, uint64_t vpn)
{
    uint64_t *leaf = pt_table_find_leaf(&mm->table, first_of(vpn));
    uint8_t *state = mm->ram->state;
    if (huge_at(leaf))
        huge_split(mm, vpn);
    for (uint64_t i = 0; i < HUGE_PAGES; i++) {
        uint32_t f = pte_frame(leaf[i]);
        if (!pte_is_frame(leaf[i]) || leaf[i] & PTE_FILE || !(state[f] & STATE_LARGE))
            continue;
        state[f] &= (uint8_t)~STATE_LARGE;
        if (!(state[f] & STATE_ZEROS))
            continue;
        mm_drop_entry(mm, &leaf[i]);
        leaf[i] = PTE_PRESENT | PTE_ZERO;
        mm_cool(mm, first_of(vpn) + i);
    }
}

typedef struct spot {
    pa_mm *mm;
    uint64_t vpn;
} spot;

static void find_big(pa_mm *mm, uint64_t vpn, uint64_t *pte, void *context)
{
    if (huge_at(pte))
        *(spot *)context = (spot){mm, vpn};
}

void huge_isolate(pa_ram *ram, uint32_t f)
{
    spot found;
    if (!ram->has_huge)
        return;
    do {
        found = (spot){NULL, 0};
        rmap_each(ram, f, find_big, &found);
        if (found.mm)
            huge_split(found.mm, found.vpn);
    } while (found.mm);
}

/* ---- objects ---------------------------------------------------------------------------------- */

/* May the area have the 2 MB around vpn mapped at once, and is a whole folio there for it? */
static bool fits_object(const pa_mm *mm, const pa_view *view, uint64_t vpn)
{
    uint64_t low = first_of(vpn), index = view->index + (vpn - view->vpn), first;
    return pt_table_leaf_size(&mm->table) == HUGE_PAGES && low >= view->vpn &&
           low + HUGE_PAGES <= view->vpn + view->count && !((vpn - index) & (HUGE_PAGES - 1)) &&
           object_folio(mm->ram, view->object, index, &first) == HUGE_PAGES &&
           first + HUGE_PAGES <= mm->ram->objects[view->object].count_pages;
}

bool huge_map_object(pa_mm *mm, const pa_view *view, uint64_t vpn, bool write, pa_status *status)
{
    pa_ram *ram = mm->ram;
    *status = PA_OK;
    unsigned missing = pt_table_missing(&mm->table, vpn);
    if (!missing || !fits_object(mm, view, vpn))
        return false;
    if (!ram_charge_tables(ram, mm->group, missing - 1)) {
        *status = PA_EXHAUSTED;
        return false;
    }
    uint64_t *leaf = pt_table_make_leaf(&mm->table, vpn);
    if (!leaf) {
        *status = PA_ERR_HOST_NOMEM;
        return false;
    }
    count_leaf(mm, false);
    ram->has_huge = true;
    if (!fits_object(mm, view, vpn)) { /* reclaimed meanwhile */
        count_leaf(mm, true);
        pt_table_drop_leaf(&mm->table, vpn);
        return false;
    }
    uint64_t index = view->index + (first_of(vpn) - view->vpn);
    uint64_t bits = PTE_PRESENT | PTE_FILE | PTE_HUGE | PTE_ACCESSED;
    bits |= write ? PTE_WRITE | PTE_DIRTY : 0;
    for (uint64_t i = 0; i < HUGE_PAGES; i++) {
        uint32_t f = pte_frame(*object_entry(ram, view->object, index + i));
        ram->maps[f]++;
        leaf[i] = (uint64_t)f << PTE_SHIFT | bits;
        if (write)
            object_mark_dirty(ram, f);
    }
    *mm_resident_counter(mm, pte_frame(leaf[0])) += HUGE_PAGES;
    mm_publish(mm);
    return true;
}

bool huge_is_sole(pa_mm *mm, uint64_t vpn)
{
    const uint64_t *leaf = pt_table_find_leaf(&mm->table, first_of(vpn));
    for (uint64_t i = 0; i < HUGE_PAGES; i++) {
        bool part = huge_at(leaf) ||
                    (pte_is_frame(leaf[i]) && mm->ram->state[pte_frame(leaf[i])] & STATE_LARGE);
        if (part && rmap_count(mm->ram, pte_frame(leaf[i])) > 1)
            return false;
    }
    return true;
}

/* ---- anonymous memory ------------------------------------------------------------------------- */

/* 512 new pages in an empty (or zero) leaf; false: there is no room for so many. */
static bool fill(pa_mm *mm, uint64_t first, uint64_t *leaf)
{
    pa_ram *ram = mm->ram;
    if (ram_room(ram, mm->group) < HUGE_PAGES ||
        ram_available(ram) < (int64_t)(HUGE_PAGES + ram->settings.watermark_high))
        return false;
    for (uint64_t i = 0; i < HUGE_PAGES;) {
        uint64_t f, got = ram_take(ram, mm->group, HUGE_PAGES - i, &f);
        ram_put_anon_run(ram, f, got, fault_new_owner(mm, first + i));
        for (uint64_t j = 0; j < got; j++)
            leaf[i + j] = (f + j) << PTE_SHIFT | PTE_WRITTEN | PTE_HUGE;
        memset(&ram->state[f], STATE_LARGE | STATE_ZEROS, got);
        i += got;
    }
    ram->has_zeros = true;
    mm->anon += HUGE_PAGES;
    mm_publish(mm);
    ram_work(ram, ram->settings.costs.clear, HUGE_PAGES);
    return true;
}

/* The first access to an empty 2 MB: 512 pages, or for a read the huge zero page. */
static pa_status fault_empty(pa_mm *mm, uint64_t vpn, bool write)
{
    pa_status status = PA_OK;
    uint64_t first = first_of(vpn), *leaf = mm_leaf_for(mm, first, &status);
    if (!leaf)
        return status;
    if (write && !fill(mm, first, leaf))
        return PA_OK; /* small pages then */
    for (uint64_t i = 0; !write && i < HUGE_PAGES; i++)
        leaf[i] = PTE_PRESENT | PTE_ZERO | PTE_ACCESSED | PTE_HUGE;
    mm->ram->has_huge = true;
    fault_count(mm, false);
    return PA_OK;
}

pa_status huge_fault_write(pa_mm *mm, uint64_t vpn, uint64_t *pte)
{
    uint64_t first = first_of(vpn), *leaf = pte - (vpn - first);
    if (*pte & PTE_ZERO && fill(mm, first, leaf)) {
        fault_count(mm, false);
    } else if (*pte & PTE_ZERO) {
        for (uint64_t i = 0; i < HUGE_PAGES; i++)
            leaf[i] = 0;
    } else if (!is_of_file(pte) && huge_is_sole(mm, vpn)) {
        for (uint64_t i = 0; i < HUGE_PAGES; i++)
            leaf[i] = (leaf[i] & ~(uint64_t)PTE_FORKED) | PTE_WRITE;
        *pte |= PTE_WRITTEN;
        fault_count(mm, false);
    } else {
        huge_split(mm, vpn);
    }
    return PA_OK;
}

/* Frames for 2 MB; false: there are not so many, and none are taken. */
static bool take_huge(pa_mm *mm, uint64_t frames[HUGE_PAGES])
{
    uint64_t n = 0, first;
    while (n < HUGE_PAGES) {
        uint64_t got = ram_take(mm->ram, mm->group, HUGE_PAGES - n, &first);
        for (uint64_t i = 0; i < got; i++)
            frames[n++] = first + i;
        if (got)
            continue;
        while (n)
            ram_give(mm->ram, (uint32_t)frames[--n], 1, mm->group);
        return false;
    }
    return true;
}

static bool can_collapse(const pa_mm *mm, const uint64_t *leaf)
{
    bool any = mm->ram->settings.rules & PA_LARGE_FOLIOS; /* 6.12 wants a page that is writable */
    for (uint64_t i = 0; i < HUGE_PAGES; i++) {
        if (leaf[i] & PTE_GUARD)
            return false;
        any |= (leaf[i] & PTE_WRITE) != 0;
    }
    return any;
}

/* The page's data move to frame f, a part of the new 2 MB. */
static void replace(pa_mm *mm, uint64_t vpn, uint64_t *pte, uint32_t f, uint64_t bits)
{
    pa_ram *ram = mm->ram;
    bool data =
        *pte & PTE_SWAP || (pte_is_frame(*pte) && !(ram->state[pte_frame(*pte)] & STATE_ZEROS));
    uint64_t locked = bits & PTE_LOCKED ? OWNER_LOCKED : 0;
    if (*pte)
        mm_drop_entry(mm, pte);
    *pte = (uint64_t)f << PTE_SHIFT | bits;
    ram->maps[f] = 0;
    ram->state[f] = STATE_LARGE | (data ? 0 : STATE_ZEROS);
    ram_put(ram, f, fault_new_owner(mm, vpn) | locked);
}

int pa_mm_collapse(pa_mm *mm, uint64_t vpn, bool writable, bool locked)
{
    pa_ram *ram = mm->ram;
    uint64_t frames[HUGE_PAGES], *leaf = pt_table_find_leaf(&mm->table, vpn);
    if (!leaf)
        return pt_table_missing(&mm->table, vpn) > 1 ? PA_ERR_LIMIT : PA_ERR_INVALID;
    if (huge_at(leaf))
        return PA_OK;
    if (!can_collapse(mm, leaf))
        return PA_ERR_INVALID;
    if (!take_huge(mm, frames))
        return PA_EXHAUSTED;
    mm_cool_range(mm, vpn, HUGE_PAGES);
    uint64_t bits = PTE_PRESENT | PTE_DIRTY | PTE_HUGE;
    bits |= (writable ? PTE_WRITE : 0) | (locked ? PTE_LOCKED : 0);
    for (uint64_t i = 0; i < HUGE_PAGES; i++)
        replace(mm, vpn + i, &leaf[i], (uint32_t)frames[i], bits);
    mm->anon += HUGE_PAGES;
    mm_publish(mm);
    mm->locked += locked ? HUGE_PAGES : 0;
    ram_work(ram, ram->settings.costs.copy, HUGE_PAGES);
    ram->has_huge = ram->has_zeros = true;
    return PA_OK;
}

int pa_mm_touch_huge(pa_mm *mm, uint64_t low, uint64_t high, uint64_t vpn, uint64_t count,
                     bool write, uint64_t *done)
{
    *done = 0;
    if (pt_table_leaf_size(&mm->table) != HUGE_PAGES)
        return pa_mm_touch_anon(mm, vpn, count, write, done);
    while (*done < count) {
        uint64_t at = vpn + *done, first = first_of(at), part;
        uint64_t stop = first + HUGE_PAGES < vpn + count ? first + HUGE_PAGES : vpn + count;
        bool whole = first >= low && first + HUGE_PAGES <= high;
        if (whole && pt_table_missing(&mm->table, at)) {
            pa_status status = fault_empty(mm, at, write);
            if (status != PA_OK)
                return status;
        }
        int status = pa_mm_touch_anon(mm, at, stop - at, write, &part);
        *done += part;
        if (status != PA_OK)
            return status;
    }
    return PA_OK;
}
