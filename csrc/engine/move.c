/* SPDX-License-Identifier: MIT
 *
 * move.c -- mremap: pages change their place.
 *
 * Model of move_page_tables() in mm/mremap.c.  The range is walked in extents that end where a table
 * ends, of the old place or of the new.  What has no table at the old place is passed over; what has
 * one gets one at the new place, whether any entry of the extent is in use or not.
 */
#include "ram.h"

typedef struct extent {
    pa_mm *mm;
    uint64_t from, to, count;
} extent;

/* The frame's record follows the entry, so that reclaim finds it at its new place. */
static void follow(pa_mm *mm, uint64_t pte, uint64_t new_vpn)
{
    pa_ram *ram = mm->ram;
    if (!pte_is_frame(pte))
        return;
    uint32_t f = pte_frame(pte);
    uint64_t owner = ram->frame[f].owner;
    if (owner_kind(owner) == KIND_OBJECT) {
        rmap_hint(&ram->objects[owner_id(owner)].hints, mm->number,
                  (int64_t)new_vpn - (int64_t)owner_place(owner));
    } else if (owner_id(owner) == mm->number && !ram->maps[f]) {
        ram->frame[f].owner = owner_moved(owner, mm->number, new_vpn);
    } else if (owner_kind(owner) == KIND_ANON && new_vpn != owner_place(owner)) {
        rmap_hint(&ram->moves, mm->number, (int64_t)new_vpn - (int64_t)owner_place(owner));
    }
}

static void follow_all(pa_mm *mm, uint64_t vpn, uint64_t count)
{
    stretch s;
    for (uint64_t at = vpn; mm_next_stretch(mm, &at, vpn + count, &s);) {
        for (uint64_t i = 0; i < s.count; i++)
            follow(mm, s.pte[i], s.vpn + i);
    }
}

/* How far it is to the end of a table of this level, at the old place or at the new. */
static uint64_t reach(const extent *e, unsigned level, uint64_t count)
{
    uint64_t span = pt_table_span(&e->mm->table, level);
    uint64_t old_left = span - (e->from & (span - 1)), new_left = span - (e->to & (span - 1));
    count = count < old_left ? count : old_left;
    return count < new_left ? count : new_left;
}

/* The extent is a whole table of `level`, which changes its place in the table above; false: it does
 * not (move_normal_pmd, move_normal_pud; 5.0 and 5.11). */
static bool move_table(const extent *e, unsigned level)
{
    pa_pagetable *pt = &e->mm->table;
    if (!(e->mm->ram->settings.rules & PA_MOVES_TABLES) || e->count != pt_table_span(pt, level) ||
        pt_table_missing(pt, e->to) <= level)
        return false;
    pt_table_move(pt, e->from, e->to, level);
    follow_all(e->mm, e->to, e->count);
    return true;
}

/* Entries one by one, into a leaf that is there already or is made now. */
static pa_status move_entries(const extent *e)
{
    pa_mm *mm = e->mm;
    pa_status status = PA_OK;
    uint64_t *to = mm_leaf_for(mm, e->to, &status);
    uint64_t *from = pt_table_find(&mm->table, e->from); /* reclaim may have dropped the leaf */
    if (!to || !from)
        return status;
    to += e->to & (pt_table_leaf_size(&mm->table) - 1);
    for (uint64_t i = 0; i < e->count; i++) {
        if (!from[i])
            continue;
        to[i] = from[i];
        from[i] = 0;
        follow(mm, to[i], e->to + i);
    }
    return PA_OK;
}

static bool is_used(const uint64_t *pte, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        if (pte[i])
            return true;
    }
    return false;
}

static pa_status move_leaf(extent *e)
{
    pa_mm *mm = e->mm;
    pa_status status = mm_make_upper(mm, e->to, 1);
    uint64_t *pte = pt_table_find(&mm->table, e->from);
    if (status != PA_OK || !pte || move_table(e, 0))
        return status;
    stretch s = {e->from, e->count, pte};
    if (!huge_small(mm, &s))
        return PA_OK;
    if (mm->ram->settings.rules & PA_MOVES_USED && !is_used(pte, e->count))
        return PA_OK;
    return move_entries(e);
}

/* One extent of at most `left` pages; e->count says how long it was. */
static pa_status move_extent(extent *e, uint64_t left)
{
    pa_pagetable *pt = &e->mm->table;
    unsigned missing = pt_table_missing(pt, e->from);
    if (pt->levels == TABLE_LEVELS) {
        e->count = reach(e, 1, left);
        if (missing >= 2)
            return PA_OK;
        pa_status status = mm_make_upper(e->mm, e->to, 2);
        if (status != PA_OK || move_table(e, 1))
            return status;
        missing = pt_table_missing(pt, e->from);
    }
    e->count = reach(e, 0, left);
    return missing ? PA_OK : move_leaf(e);
}

int pa_mm_move(pa_mm *mm, uint64_t vpn, uint64_t new_vpn, uint64_t count, uint64_t head,
               uint64_t *done)
{
    extent e = {mm, vpn - head, new_vpn - head, 0};
    uint64_t end = mm_end_of(mm, vpn, count);
    mm_cool_range(mm, vpn, count);
    rseq_forget(mm, vpn, end);
    while (e.from < end) {
        pa_status status = move_extent(&e, end - e.from);
        if (status != PA_OK) {
            *done = e.from > vpn ? e.from - vpn : 0;
            return status;
        }
        e.from += e.count;
        e.to += e.count;
    }
    *done = count;
    return PA_OK;
}
