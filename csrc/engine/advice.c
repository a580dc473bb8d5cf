/* SPDX-License-Identifier: MIT
 *
 * advice.c -- what a process tells of the pages of a range: old, worthless, or never to be used.
 *
 * Model of mm/madvise.c.  Such advice is for pages of one's own: those that others map, too, and 2 MB
 * of which others map a part, are left as they are.  Whoever advises a part of 2 MB makes single
 * pages of them.  Pages that wait in a processor's batch to come to a list are on it here.
 */
#include "ram.h"

/* ---- pages in 2 MB ---------------------------------------------------------------------------- */

static bool is_large(const pa_mm *mm, uint64_t pte)
{
    return pte_is_frame(pte) && !(pte & PTE_FILE) && mm->ram->state[pte_frame(pte)] & STATE_LARGE;
}

/* How many entries from pte on map 2 MB that are one still, in their order. */
static uint64_t large_run(const pa_mm *mm, const uint64_t *pte, uint64_t count)
{
    uint64_t n = 1;
    while (n < count && is_large(mm, pte[n]) && pte_frame(pte[n]) == pte_frame(pte[0]) + n)
        n++;
    return n;
}

/* Let what is advised of 2 MB be advised; false: they are to be left alone. */
static bool open_huge(pa_mm *mm, const stretch *s)
{
    if (*s->pte & PTE_ZERO || !huge_is_sole(mm, s->vpn))
        return false;
    if (!huge_at(s->pte) || huge_covers(mm, s))
        return true;
    if (*s->pte & PTE_FILE) {
        huge_split(mm, s->vpn);
        return false;
    }
    huge_break(mm, s->vpn);
    return true;
}

static bool is_whole(const pa_mm *mm, const stretch *s)
{
    return huge_at(s->pte) || (s->count == HUGE_PAGES && is_large(mm, *s->pte) &&
                               large_run(mm, s->pte, HUGE_PAGES) == HUGE_PAGES);
}

/* How many entries from i on are to be passed over, because they are a part of 2 MB that others map
 * a part of; where nobody does, there are single pages afterwards. */
static uint64_t passed_over(pa_mm *mm, const stretch *s, uint64_t i)
{
    if (!is_large(mm, s->pte[i]))
        return 0;
    uint64_t n = large_run(mm, &s->pte[i], s->count - i);
    if (!huge_is_sole(mm, s->vpn + i))
        return n;
    huge_break(mm, s->vpn + i);
    return 0;
}

/* Called for 2 MB at once; false: all is done, or nothing is to be. */
typedef bool (*opener)(pa_mm *mm, const stretch *s);
typedef void (*adviser)(pa_mm *mm, uint64_t vpn, uint64_t *pte);

/* Call `to` for each entry of the range that maps a page, big ones opened where need be. */
static void advise(pa_mm *mm, uint64_t vpn, uint64_t count, opener open, adviser to)
{
    stretch s;
    uint64_t end = mm_end_of(mm, vpn, count);
    mm_cool_range(mm, vpn, end - vpn);
    while (mm_next_stretch(mm, &vpn, end, &s)) {
        bool whole = is_whole(mm, &s);
        if (whole && !open(mm, &s))
            continue;
        for (uint64_t i = 0; i < s.count; i++) {
            uint64_t pass = whole ? 0 : passed_over(mm, &s, i);
            if (pass)
                i += pass - 1;
            else
                to(mm, s.vpn + i, &s.pte[i]);
        }
        mm_publish(mm);
    }
}

/* ---- MADV_FREE -------------------------------------------------------------------------------- */

/* Does the page stay as it is: another copy of it is kept, which others need? */
static bool is_kept(pa_ram *ram, uint32_t f)
{
    bool dirty = ram->frame[f].owner & OWNER_DIRTY;
    if (!dirty && !ram->slot_of[f])
        return false;
    if (ram->maps[f] || device_is_writing(&ram->disk, f))
        return true;
    swap_detach(ram, f);
    ram->frame[f].owner &= ~OWNER_DIRTY;
    return false;
}

static void lazy_free(pa_mm *mm, uint64_t vpn, uint64_t *pte)
{
    pa_ram *ram = mm->ram;
    (void)vpn;
    if (*pte & PTE_SWAP)
        mm_drop_entry(mm, pte);
    if (!pte_is_frame(*pte) || *pte & PTE_FILE || is_kept(ram, pte_frame(*pte)))
        return;
    uint32_t f = pte_frame(*pte);
    *pte &= ~(uint64_t)(PTE_DIRTY | PTE_ACCESSED);
    if (ram->state[f] & STATE_LAZY || ram->frame[f].owner & OWNER_LOCKED)
        return;
    ram_set_lazy(ram, f, true);
}

void pa_mm_lazy_free(pa_mm *mm, uint64_t vpn, uint64_t count)
{
    advise(mm, vpn, count, open_huge, lazy_free);
}

/* ---- MADV_COLD and MADV_PAGEOUT --------------------------------------------------------------- */

/* The frame of a page that nobody else maps and that may leave memory, else NO_FRAME. */
static uint32_t own_frame(const pa_mm *mm, uint64_t pte)
{
    if (!pte_is_frame(pte))
        return NO_FRAME;
    uint32_t f = pte_frame(pte);
    bool locked = mm->ram->frame[f].owner & OWNER_LOCKED;
    return rmap_count(mm->ram, f) == 1 && !locked ? f : NO_FRAME;
}

static void forget_use(pa_ram *ram, uint32_t f, uint64_t clear)
{
    if (ram->frame[f].owner & OWNER_ACTIVE)
        ram->state[f] |= STATE_WORKINGSET;
    ram_mark(ram, f, 0, clear);
}

static void cool(pa_mm *mm, uint64_t vpn, uint64_t *pte)
{
    uint32_t f = own_frame(mm, *pte);
    (void)vpn;
    if (f == NO_FRAME)
        return;
    *pte &= ~(uint64_t)PTE_ACCESSED;
    forget_use(mm->ram, f, OWNER_ACTIVE | OWNER_REFERENCED);
}

void pa_mm_cool(pa_mm *mm, uint64_t vpn, uint64_t count)
{
    advise(mm, vpn, count, open_huge, cool);
}

void pa_mm_activate(pa_mm *mm, uint64_t vpn)
{
    const uint64_t *pte = pt_table_find(&mm->table, vpn);
    uint32_t f = pte ? own_frame(mm, *pte) : NO_FRAME;
    if (f != NO_FRAME)
        ram_mark(mm->ram, f, OWNER_ACTIVE, OWNER_REFERENCED);
}

/* 2 MB that were given up, and written since, are as any others again: true. */
static bool revive(pa_mm *mm, const stretch *s)
{
    pa_ram *ram = mm->ram;
    if (huge_at(s->pte))
        huge_split(mm, s->vpn);
    if (!(*s->pte & PTE_DIRTY))
        return false;
    for (uint64_t i = 0; i < HUGE_PAGES; i++)
        ram_set_lazy(ram, pte_frame(s->pte[i]), false);
    return true;
}

/* 2 MB of anonymous memory go as they are, or if swap has no place for them as single pages. */
static bool open_leaving(pa_mm *mm, const stretch *s)
{
    if (!open_huge(mm, s))
        return false;
    if (!is_large(mm, *s->pte))
        return true;
    if (mm->ram->state[pte_frame(*s->pte)] & STATE_LAZY)
        return !revive(mm, s);
    if (swap_room(mm->ram, mm->group) < HUGE_PAGES)
        huge_break(mm, s->vpn);
    return true;
}

static void page_out(pa_mm *mm, uint64_t vpn, uint64_t *pte)
{
    uint32_t f = own_frame(mm, *pte);
    (void)vpn;
    if (f == NO_FRAME)
        return;
    forget_use(mm->ram, f, OWNER_REFERENCED);
    evict_now(mm->ram, f);
}

void pa_mm_page_out(pa_mm *mm, uint64_t vpn, uint64_t count)
{
    advise(mm, vpn, count, open_leaving, page_out);
    device_unplug(&mm->ram->disk, &mm->ram->settings.costs);
}

/* ---- guards ----------------------------------------------------------------------------------- */

int pa_mm_guard(pa_mm *mm, uint64_t vpn, uint64_t count, uint64_t *done)
{
    uint64_t end = mm_end_of(mm, vpn, count), size = pt_table_leaf_size(&mm->table);
    pa_status status = PA_OK;
    mm_cool_range(mm, vpn, end - vpn);
    mm_zap(mm, vpn, end);
    mm->guards = true;
    for (*done = 0; vpn + *done < end;) {
        uint64_t at = vpn + *done, stop = (at | (size - 1)) + 1;
        uint64_t *leaf = mm_leaf_for(mm, at, &status);
        if (!leaf)
            return status;
        for (stop = stop < end ? stop : end; at < stop; at++, ++*done)
            leaf[at & (size - 1)] = PTE_GUARD;
    }
    return PA_OK;
}

void pa_mm_unguard(pa_mm *mm, uint64_t vpn, uint64_t count)
{
    stretch s;
    uint64_t end = mm_end_of(mm, vpn, count);
    while (mm_next_stretch(mm, &vpn, end, &s)) {
        for (uint64_t i = 0; i < s.count; i++) {
            if (s.pte[i] & PTE_GUARD)
                s.pte[i] = 0;
        }
    }
}
