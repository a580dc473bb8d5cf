/* SPDX-License-Identifier: MIT
 *
 * mm.c -- one process's pages: its life, and what system calls do to them.
 *
 * Model of mm/memory.c, mprotect.c and mlock.c.  Faults are in fault.c (private memory), view.c
 * (objects) and huge.c (2 MB at once); mremap is in move.c, fork in fork.c, madvise in advice.c.
 *
 *     mm->anon + mm->file + mm->shmem == entries that are present and not the zero page
 *     mm->swap == entries that are swapped out
 */
#include "ram.h"

#include <stdlib.h>
#include <string.h>

static void forget_hot(pa_mm *mm, uint64_t vpn, uint64_t count)
{
    if (count >= (uint64_t)HOT_GROUPS * HOT_PAGES) {
        memset(mm->hot, 0, sizeof mm->hot);
        return;
    }
    for (uint64_t end = vpn + count; vpn < end; vpn = (vpn | (HOT_PAGES - 1)) + 1) {
        if (mm_hot_pages(mm, vpn))
            mm_hot_group(mm, vpn)->pages &= ~mm_hot_bits(vpn, end - vpn);
    }
}

void mm_cool_range(pa_mm *mm, uint64_t vpn, uint64_t count)
{
    mm->disturbed = true;
    forget_hot(mm, vpn, count);
}

void mm_note_work(pa_mm *mm, uint64_t since, uint64_t count)
{
    ram_work(mm->ram, mm->ram->settings.costs.access, count);
    mm->work += mm->ram->disk.cpu - since;
}

void pa_mm_write_zeros(pa_mm *mm, bool zeros)
{
    mm->zeros = zeros;
    mm->ram->has_zeros |= zeros;
    memset(mm->hot, 0, sizeof mm->hot); /* a write of the other kind means something */
}

void pa_mm_populate(pa_mm *mm, bool populates, bool tries)
{
    mm->populates = populates;
    mm->tries = tries;
}

bool mm_is_settled(pa_mm *mm, uint64_t vpn)
{
    const uint64_t settled = PTE_PRESENT | PTE_WRITE | PTE_ACCESSED | PTE_DIRTY;
    const uint64_t *pte = pt_table_find(&mm->table, vpn);
    if (!pte || (*pte & settled) != settled)
        return false;
    mm_set_hot(mm, vpn, 1);
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

enum { FIRST_HITS = 4 }; /* of swap read ahead in an area: its first window is whole */

pa_mm *pa_mm_new(pa_ram *ram, uint32_t group_id)
{
    uint32_t number;
    if (group_id >= ram->count_groups || !room_for_mm(ram, &number))
        return NULL;
    pa_mm *mm = calloc(1, sizeof *mm);
    if (!mm || !pt_table_init(&mm->table, (int)ram->settings.shape, &ram->tables_free)) {
        free(mm);
        return NULL;
    }
    mm->ram = ram;
    mm->number = number;
    mm->group = group_id;
    mm->ahead_hits = FIRST_HITS;
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
    if (!pt_table_copy(&copy->table, &mm->table, &ram->tables_free)) {
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
    rmap_forget_mm(ram, mm->number);
    ram->mms[mm->number] = NULL;
    ram->count_busy -= mm->busy.count != 0;
    mm_free(mm);
}

void pa_mm_read(const pa_mm *mm, pa_mm_counters *out)
{
    *out = (pa_mm_counters){0};
    if (!mm) /* its process has ended */
        return;
    *out = (pa_mm_counters){.anon = mm->anon,
                            .file = mm->file,
                            .shmem = mm->shmem,
                            .swap = mm->swap,
                            .locked = mm->locked,
                            .resident_peak = mm->resident_peak,
                            .minor_faults = mm->minor_faults,
                            .major_faults = mm->major_faults,
                            .work = mm->work,
                            .seen_anon = mm->seen.anon,
                            .seen_file = mm->seen.file,
                            .seen_shmem = mm->seen.shmem,
                            .seen_swap = mm->seen.swap};
    if (mm_resident(mm) > out->resident_peak)
        out->resident_peak = mm_resident(mm);
    memcpy(out->tables, mm->table.count_tables, sizeof out->tables);
}

/* ---- walking a range -------------------------------------------------------------------------- */

bool mm_next_stretch(pa_mm *mm, uint64_t *vpn, uint64_t end, stretch *out)
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

uint64_t mm_end_of(const pa_mm *mm, uint64_t vpn, uint64_t count)
{
    uint64_t end = pt_table_end(&mm->table);
    return vpn >= end || count > end - vpn ? end : vpn + count;
}

/* ---- dropping pages --------------------------------------------------------------------------- */

uint64_t *mm_resident_counter(pa_mm *mm, uint32_t f)
{
    uint64_t owner = mm->ram->frame[f].owner;
    if (owner_kind(owner) != KIND_OBJECT)
        return &mm->anon;
    return mm->ram->objects[owner_id(owner)].shmem ? &mm->shmem : &mm->file;
}

/* Pages of a folio that are unmapped one after the other are one look at it: note the last one. */
static bool ends_batch(pa_ram *ram, uint32_t f)
{
    folio all = folio_of(ram, f);
    uint64_t place = owner_place(ram->frame[f].owner);
    bool is_last = all.count == 1 || !((place + 1) & (all.count - 1));
    return is_last || !ram->maps[folio_frame(&all, (uint32_t)(place + 1) & (all.count - 1))];
}

/* One mapper less; an anonymous frame that nobody maps is freed, unless swap still refers to it. */
static void unmap_frame(pa_mm *mm, uint32_t f, uint64_t pte)
{
    pa_ram *ram = mm->ram;
    --*mm_resident_counter(mm, f);
    if (owner_kind(ram->frame[f].owner) == KIND_OBJECT) {
        ram->maps[f]--;
        if (pte & PTE_DIRTY)
            object_mark_dirty(ram, f);
        if (pte & PTE_ACCESSED && !(pte & PTE_PASSING) && ends_batch(ram, f))
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
        ram_rename(ram, f, owner_of(KIND_SLOT, owner_group(owner), 0, slot - 1));
        return;
    }
    swap_detach(ram, f);
    ram_release(ram, f);
}

void mm_drop_entry(pa_mm *mm, uint64_t *pte)
{
    uint64_t was = *pte;
    mm_note_peak(mm);
    *pte = 0;
    mm->locked -= (was & PTE_LOCKED) != 0;
    if (was & PTE_SWAP) {
        mm->swap--;
        swap_drop_ref(mm->ram, was >> PTE_SHIFT);
    } else if (pte_is_frame(was)) {
        unmap_frame(mm, pte_frame(was), was);
    } else if (was & PTE_ZERO && mm->ram->settings.rules & PA_ZERO_IS_FILE) {
        mm->file--;
    }
}

/* How many entries from pte on go on as the first one: the same bits, and the next place. */
static uint64_t in_a_row(const uint64_t *pte, uint64_t most)
{
    const uint64_t step = UINT64_C(1) << PTE_SHIFT;
    uint64_t n = 1, next = *pte + step;
    for (; n + 4 <= most; n += 4, next += 4 * step) {
        if ((pte[n] ^ next) | (pte[n + 1] ^ (next + step)) | (pte[n + 2] ^ (next + 2 * step)) |
            (pte[n + 3] ^ (next + 3 * step)))
            break;
    }
    for (; n < most && pte[n] == next; n++)
        next += step;
    return n;
}

/* Drop entries that lie in a row, as many as go in one step; returns how many did. */
static uint64_t drop_some(pa_mm *mm, uint64_t *pte, uint64_t count)
{
    uint64_t was = *pte, gone = 0;
    if (was & PTE_SWAP && count > 1)
        gone = swap_drop_refs(mm->ram, was >> PTE_SHIFT, count);
    else if (pte_is_frame(was) && count > 1)
        gone = ram_release_sole(mm->ram, pte_frame(was), count);
    if (!gone) {
        mm_drop_entry(mm, pte);
        return 1;
    }
    mm_note_peak(mm);
    *(was & PTE_SWAP ? &mm->swap : &mm->anon) -= gone;
    memset(pte, 0, gone * sizeof *pte);
    return gone;
}

/* Drop up to `most` entries, the first of which is not empty; returns how many. */
static uint64_t drop_entries(pa_mm *mm, uint64_t *pte, uint64_t most)
{
    bool alone = *pte & PTE_LOCKED || mm->ram->one_by_one;
    uint64_t count = alone ? 1 : in_a_row(pte, most);
    for (uint64_t done = 0; done < count;)
        done += drop_some(mm, pte + done, count - done);
    return count;
}

/* Empty a range; guards stay where `but` says so. */
static void drop_range(pa_mm *mm, uint64_t vpn, uint64_t end, uint64_t but)
{
    stretch s;
    forget_hot(mm, vpn, end - vpn);
    while (mm_next_stretch(mm, &vpn, end, &s)) {
        if (huge_at(s.pte) && huge_covers(mm, &s)) {
            huge_drop(mm, s.vpn);
            continue;
        }
        if (!huge_small(mm, &s))
            continue;
        for (uint64_t i = 0; i < s.count;)
            i += s.pte[i] && !(s.pte[i] & but) ? drop_entries(mm, &s.pte[i], s.count - i) : 1;
        mm_publish(mm);
    }
}

uint64_t *mm_leaf_for(pa_mm *mm, uint64_t vpn, pa_status *status)
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

pa_status mm_make_upper(pa_mm *mm, uint64_t vpn, unsigned lowest)
{
    unsigned missing = pt_table_missing(&mm->table, vpn);
    if (missing <= lowest)
        return PA_OK;
    if (!ram_charge_tables(mm->ram, mm->group, missing - lowest))
        return PA_EXHAUSTED;
    return pt_table_make_upper(&mm->table, vpn, lowest) ? PA_OK : PA_ERR_HOST_NOMEM;
}

static void prune_tables(pa_mm *mm, uint64_t vpn, uint64_t end, uint64_t floor, uint64_t ceiling)
{
    uint64_t freed = pt_table_prune(&mm->table, vpn, end, floor, ceiling);
    ram_uncharge_tables(mm->ram, mm->group, freed);
}

void pa_mm_unmap(pa_mm *mm, uint64_t vpn, uint64_t count, uint64_t floor_vpn, uint64_t ceiling_vpn)
{
    uint64_t end = mm_end_of(mm, vpn, count);
    batch_drain(mm->ram);
    rseq_forget(mm, vpn, end);
    drop_range(mm, vpn, end, 0);
    prune_tables(mm, vpn, end, floor_vpn, ceiling_vpn);
}

void pa_mm_munmap(pa_mm *mm, uint64_t start, uint64_t end, uint64_t floor, uint64_t ceiling)
{
    pa_mm_unmap(mm, start >> 12, (end - start) >> 12, floor >> 12, ceiling >> 12);
}

void pa_mm_zap(pa_mm *mm, uint64_t vpn, uint64_t count)
{
    mm->disturbed = true;
    mm_zap(mm, vpn, mm_end_of(mm, vpn, count));
}

void pa_mm_discard(pa_mm *mm, uint64_t vpn, uint64_t count)
{
    mm->disturbed = true;
    mm_discard(mm, vpn, count);
}

static bool is_empty(pa_mm *mm, uint64_t leaf)
{
    const uint64_t *pte = pt_table_find_leaf(&mm->table, leaf);
    for (uint64_t i = pt_table_leaf_size(&mm->table); i--;) {
        if (pte[i])
            return false;
    }
    return true;
}

void mm_zap(pa_mm *mm, uint64_t vpn, uint64_t end)
{
    drop_range(mm, vpn, end, PTE_GUARD);
}

void mm_discard(pa_mm *mm, uint64_t vpn, uint64_t count)
{
    uint64_t end = mm_end_of(mm, vpn, count), size = pt_table_leaf_size(&mm->table);
    batch_drain(mm->ram);
    mm_zap(mm, vpn, end);
    if (!(mm->ram->settings.rules & PA_FREES_DISCARDED))
        return;
    /* only leaves, and only those that lie whole in the range and hold no guard */
    for (uint64_t leaf = (vpn + size - 1) & ~(size - 1); leaf + size <= end; leaf += size) {
        leaf = pt_table_next(&mm->table, leaf, end);
        if (leaf + size <= end && (!mm->guards || is_empty(mm, leaf)))
            prune_tables(mm, leaf, leaf + 1, leaf, leaf + size);
    }
}

/* ---- system calls on ranges ------------------------------------------------------------------- */

/* May mprotect make the page writable at once?  Since 5.19 if it is anonymous and known to be this
 * process's alone; of a shared area if nobody keeps count of its writes, or if this one was counted. */
static bool may_write(const pa_mm *mm, uint64_t pte, pa_protection how)
{
    if (!pte_is_frame(pte))
        return false;
    switch (how) {
    case PA_WRITE_PRIVATE:
        return mm->ram->settings.rules & PA_EXCLUSIVE && !(pte & (PTE_FILE | PTE_FORKED));
    case PA_WRITE_COUNTED:
        return pte & PTE_DIRTY;
    case PA_WRITE_SHARED:
        return true;
    case PA_READ_ONLY:
        break;
    }
    return false;
}

void pa_mm_protect(pa_mm *mm, uint64_t vpn, uint64_t count, pa_protection how)
{
    stretch s;
    uint64_t end = mm_end_of(mm, vpn, count);
    mm_cool_range(mm, vpn, end - vpn);
    if (how == PA_READ_ONLY)
        rseq_forget(mm, vpn, end);
    while (mm_next_stretch(mm, &vpn, end, &s)) {
        if (!huge_covers(mm, &s) && !huge_small(mm, &s))
            continue;
        for (uint64_t i = 0; i < s.count; i++) {
            if (!(s.pte[i] & PTE_PRESENT))
                continue;
            s.pte[i] &= ~(uint64_t)PTE_WRITE;
            if (may_write(mm, s.pte[i], how))
                s.pte[i] |= PTE_WRITE;
        }
    }
}

void pa_mm_lock(pa_mm *mm, uint64_t vpn, uint64_t count, bool lock)
{
    stretch s;
    uint64_t end = mm_end_of(mm, vpn, count);
    while (mm_next_stretch(mm, &vpn, end, &s)) {
        if (!huge_covers(mm, &s) && !huge_small(mm, &s))
            continue;
        for (uint64_t i = 0; i < s.count; i++) {
            uint64_t *pte = &s.pte[i];
            if (!(*pte & PTE_PRESENT) || ((*pte & PTE_LOCKED) != 0) == lock)
                continue;
            *pte ^= PTE_LOCKED;
            mm->locked += lock ? 1u : UINT64_MAX;
            if (pte_is_frame(*pte))
                ram_mark(mm->ram, pte_frame(*pte), lock ? OWNER_LOCKED : 0,
                         lock ? 0 : OWNER_LOCKED);
        }
    }
}

/* ---- looking ---------------------------------------------------------------------------------- */

static void count_entry(const pa_mm *mm, uint64_t pte, pa_range_counters *out)
{
    if (pte & PTE_SWAP) {
        out->swap++;
        out->share_swap += ((uint64_t)4096 << 12) / mm->ram->slot_refs[pte >> PTE_SHIFT];
    }
    out->zero += (pte & PTE_ZERO) != 0;
    out->huge_zero += (pte & PTE_ZERO) && (pte & PTE_HUGE);
    out->guards += (pte & PTE_GUARD) != 0;
    out->locked += (pte & PTE_LOCKED) != 0;
    if (!pte_is_frame(pte))
        return;
    uint32_t f = pte_frame(pte);
    uint64_t owner = mm->ram->frame[f].owner, huge = huge_at(&pte);
    uint64_t mappers = rmap_count(mm->ram, f), share = ((uint64_t)4096 << 12) / mappers;
    if (owner_kind(owner) != KIND_OBJECT) {
        out->anon++;
        out->huge_anon += huge;
        out->share_anon += share;
    } else if (mm->ram->objects[owner_id(owner)].shmem) {
        out->shmem++;
        out->huge_shmem += huge;
        out->share_shmem += share;
    } else {
        out->file++;
        out->huge_file += huge;
    }
    bool dirty = (pte & PTE_DIRTY) != 0 || owner & OWNER_DIRTY;
    out->lazy += !dirty && mm->ram->state[f] & STATE_LAZY;
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
    uint64_t end = mm_end_of(mm, vpn, count);
    *out = (pa_range_counters){0};
    while (mm_next_stretch(mm, &vpn, end, &s)) {
        uint64_t whole = huge_at(s.pte) ? huge_bits(mm, s.vpn) : 0;
        for (uint64_t i = 0; i < s.count; i++) {
            if (s.pte[i])
                count_entry(mm, s.pte[i] | whole, out);
        }
    }
}

uint64_t pa_mm_object_swap(pa_mm *mm, const pa_view *view)
{
    object *o = &mm->ram->objects[view->object];
    uint64_t swapped = 0, end = view->index + view->count, size = pt_table_leaf_size(&o->pages);
    end = end < o->count_pages ? end : o->count_pages;
    bool all = view->shared || !view->writable;
    for (uint64_t i = view->index; i < end; i++) {
        if (i % size == 0 && (i = pt_table_next(&o->pages, i, end)) >= end)
            break;
        const uint64_t *entry = object_entry(mm->ram, view->object, i);
        if (!entry || !(*entry & PTE_SWAP))
            continue;
        const uint64_t *pte = pt_table_find(&mm->table, view->vpn + (i - view->index));
        swapped += all || !pte || !*pte;
    }
    return swapped;
}

void pa_mm_read_resident(pa_mm *mm, uint64_t vpn, uint64_t count, uint8_t *resident)
{
    stretch s;
    uint64_t first = vpn, end = mm_end_of(mm, vpn, count);
    memset(resident, 0, count);
    while (mm_next_stretch(mm, &vpn, end, &s))
        for (uint64_t i = 0; i < s.count; i++)
            resident[s.vpn + i - first] = pte_is_frame(s.pte[i]);
}
