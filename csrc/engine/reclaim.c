/* SPDX-License-Identifier: MIT
 *
 * reclaim.c -- which pages go when memory is short.
 *
 * Model of mm/vmscan.c: of Linux 2.6.18 (PA_RECLAIM_MAPPED) and of 6.12 with the classic lists.
 * Each list is scanned from its oldest end in batches of 32, harder from sweep to sweep (priority
 * 12 to 0).  A referenced page gets a second chance; an anonymous page needs a swap slot.
 */
#include "ram.h"

enum { TOP_PRIORITY = 12, FRUITLESS_SWEEPS = 16 };

typedef struct sweep {
    pa_ram *ram;
    group *g;
    uint32_t group_id;
    int priority;
    uint64_t target, freed;
} sweep;

/* ---- one page --------------------------------------------------------------------------------- */

static void take_reference(pa_mm *mm, uint64_t vpn, uint64_t *pte, void *context)
{
    uint64_t *count = context;
    *count += (*pte & PTE_ACCESSED) != 0;
    *pte &= ~(uint64_t)PTE_ACCESSED;
    mm_cool(mm, vpn);
}

/* Entries through which the page was used since it was last looked at. */
static uint64_t take_references(pa_ram *ram, uint32_t f)
{
    uint64_t count = 0;
    rmap_each(ram, f, take_reference, &count);
    return count;
}

typedef struct eviction {
    pa_ram *ram;
    uint64_t entry; /* what the mappers' entries become */
    bool shmem, anon;
} eviction;

static void evict_one(pa_mm *mm, uint64_t vpn, uint64_t *pte, void *context)
{
    const eviction *e = context;
    mm_cool(mm, vpn);
    mm_note_peak(mm);
    *pte = e->entry;
    if (!e->anon) {
        *(e->shmem ? &mm->shmem : &mm->file) -= 1;
        return;
    }
    mm->anon--;
    if (e->entry) {
        mm->swap++;
        swap_add_ref(e->ram, e->entry >> PTE_SHIFT);
    }
}

static void is_dirty(pa_mm *mm, uint64_t vpn, uint64_t *pte, void *context)
{
    (void)mm;
    (void)vpn;
    *(bool *)context |= (*pte & PTE_DIRTY) != 0;
}

/* The slot that holds, or will hold, the page; NO_SLOT: there is none. */
static uint64_t slot_for(pa_ram *ram, uint32_t f)
{
    if (ram->slot_of[f])
        return ram->slot_of[f] - 1;
    uint64_t slot = swap_take(ram, owner_group(ram->frame[f].owner));
    if (slot != NO_SLOT)
        ram->events.swapped_out++;
    return slot;
}

static void leave_cache(pa_ram *ram, uint32_t f)
{
    if (ram->slot_of[f]) {
        ram->slot_frame[ram->slot_of[f] - 1] = 0;
        ram->slot_of[f] = 0;
    }
}

static bool evict_anon(pa_ram *ram, uint32_t f)
{
    eviction e = {.ram = ram, .anon = true};
    bool dirty = ram->slot_of[f] != 0;
    rmap_each(ram, f, is_dirty, &dirty);
    if (dirty) { /* a clean one was given up by MADV_FREE */
        uint64_t slot = slot_for(ram, f);
        if (slot == NO_SLOT)
            return false;
        e.entry = slot << PTE_SHIFT | PTE_SWAP;
    }
    rmap_each(ram, f, evict_one, &e);
    ram->maps[f] = 0;
    leave_cache(ram, f);
    ram_release(ram, f);
    return true;
}

static bool evict_cached(pa_ram *ram, uint32_t f)
{
    leave_cache(ram, f);
    ram_release(ram, f);
    return true;
}

static bool evict_object(pa_ram *ram, uint32_t f)
{
    uint64_t owner = ram->frame[f].owner;
    object *o = &ram->objects[owner_id(owner)];
    eviction e = {.ram = ram, .shmem = o->shmem};
    uint64_t entry = 0;
    if (o->shmem) {
        uint64_t slot = slot_for(ram, f);
        if (slot == NO_SLOT)
            return false;
        entry = slot << PTE_SHIFT | PTE_SWAP;
        swap_add_ref(ram, slot);
    }
    rmap_each(ram, f, evict_one, &e);
    ram->events.file_written += !o->shmem && owner & OWNER_DIRTY;
    *object_entry(ram, owner_id(owner), owner_place(owner)) = entry;
    ram->maps[f] = 0;
    o->resident--;
    leave_cache(ram, f);
    ram_release(ram, f);
    return true;
}

static bool evict(pa_ram *ram, uint32_t f)
{
    huge_isolate(ram, f);
    switch (owner_kind(ram->frame[f].owner)) {
    case KIND_ANON:
        return evict_anon(ram, f);
    case KIND_SLOT:
        return evict_cached(ram, f);
    case KIND_OBJECT:
        return evict_object(ram, f);
    case KIND_FREE:
        break;
    }
    return false;
}

/* ---- one list --------------------------------------------------------------------------------- */

typedef enum verdict { EVICT, KEEP, ACTIVATE } verdict;

/* What to do with an inactive page (folio_check_references). */
static verdict judge(pa_ram *ram, uint32_t f)
{
    uint64_t owner = ram->frame[f].owner, references = take_references(ram, f);
    bool seen = owner & OWNER_REFERENCED;
    if (!(ram->settings.rules & PA_SECOND_LOOK))
        return references || (seen && rmap_count(ram, f)) ? ACTIVATE : EVICT;
    if (!references)
        return EVICT;
    return seen || references > 1 ? ACTIVATE : KEEP;
}

static void note_cost(sweep *s, bool file)
{
    *(file ? &s->g->file_cost : &s->g->anon_cost) += 1;
    const lru *l = s->g->lists;
    uint64_t size = 0;
    for (unsigned i = 0; i < LRU_UNEVICTABLE; i++)
        size += l[i].count;
    if (s->g->anon_cost + s->g->file_cost > size / 4) {
        s->g->anon_cost /= 2;
        s->g->file_cost /= 2;
    }
}

static void shrink_inactive(sweep *s, lru_list which, uint64_t count)
{
    pa_ram *ram = s->ram;
    lru *list = &s->g->lists[which];
    for (; count && list->oldest != NO_FRAME; count--) {
        uint32_t f = list->oldest;
        s->g->scanned++;
        ram->events.scanned++;
        verdict v = judge(ram, f);
        if (v == EVICT && evict(ram, f)) {
            s->g->stolen++;
            ram->events.stolen++;
            s->freed++;
            continue;
        }
        if (v == KEEP) {
            ram_mark(ram, f, OWNER_REFERENCED, 0);
            continue;
        }
        ram->events.activated++;
        ram_mark(ram, f, OWNER_ACTIVE, OWNER_REFERENCED);
        note_cost(s, which == LRU_INACTIVE_FILE);
    }
}

/* May a mapped or anonymous page leave the active list?  2.6: only if the sweep is in distress. */
static bool takes_mapped(const sweep *s)
{
    const pa_ram *ram = s->ram;
    uint64_t mapped = ram->count_anon + ram->count_shmem, total = ram->settings.count_frames;
    for (uint32_t i = 0; i < ram->count_mms; i++)
        mapped += ram->mms[i] ? ram->mms[i]->file : 0;
    uint64_t distress = s->g->prev_priority > 6 ? 0 : 100u >> s->g->prev_priority;
    return mapped * 100 / total / 2 + distress + ram->settings.swappiness >= 100;
}

static void shrink_active(sweep *s, lru_list which, uint64_t count)
{
    pa_ram *ram = s->ram;
    lru *list = &s->g->lists[which];
    bool old_rule = ram->settings.rules & PA_RECLAIM_MAPPED;
    bool mapped_too = !old_rule || (takes_mapped(s) && swap_room(ram, s->group_id));
    for (; count && list->oldest != NO_FRAME; count--) {
        uint32_t f = list->oldest;
        s->g->scanned++;
        bool mapped = rmap_count(ram, f) || which == LRU_ACTIVE_ANON;
        bool stays = old_rule && mapped && (!mapped_too || take_references(ram, f));
        if (!old_rule)
            take_references(ram, f);
        ram->events.deactivated += !stays;
        ram_mark(ram, f, 0, stays ? OWNER_REFERENCED : OWNER_ACTIVE | OWNER_REFERENCED);
    }
}

/* ---- how much of which list ------------------------------------------------------------------- */

static uint64_t isqrt(uint64_t n)
{
    uint64_t root = 0;
    while ((root + 1) * (root + 1) <= n)
        root++;
    return root;
}

static bool inactive_is_low(const group *g, lru_list inactive)
{
    uint64_t in = g->lists[inactive].count, active = g->lists[inactive + 1].count;
    uint64_t gigabytes = (in + active) >> 18, ratio = gigabytes ? isqrt(10 * gigabytes) : 1;
    return in * ratio < active;
}

static bool can_swap(const sweep *s)
{
    return swap_room(s->ram, s->group_id) > 0;
}

/* How many pages of each list this sweep looks at (get_scan_count). */
static void split(const sweep *s, uint64_t scan[LRU_LISTS])
{
    const group *g = s->g;
    uint64_t swappiness = s->ram->settings.swappiness, total = g->anon_cost + g->file_cost;
    uint64_t anon_part = 0, file_part = 1;
    uint64_t files = g->lists[LRU_INACTIVE_FILE].count + g->lists[LRU_ACTIVE_FILE].count;
    if (can_swap(s) && (swappiness || !s->group_id)) {
        uint64_t a = g->anon_cost + total, f = g->file_cost + total, sum = a + f;
        anon_part = swappiness * (sum + 1) / (a + 1);
        file_part = (200 - swappiness) * (sum + 1) / (f + 1);
        if (!s->priority && swappiness)
            anon_part = file_part = 1;
        bool tiny = !s->group_id &&
                    (uint64_t)ram_available(s->ram) + files <= s->ram->settings.watermark_high;
        if (tiny && g->lists[LRU_INACTIVE_ANON].count >> s->priority)
            file_part = 0, anon_part = 1;
        else if (!inactive_is_low(g, LRU_INACTIVE_FILE) &&
                 g->lists[LRU_INACTIVE_FILE].count >> s->priority)
            anon_part = 0, file_part = 1;
    }
    for (unsigned i = 0; i < LRU_UNEVICTABLE; i++) {
        uint64_t part = i >= LRU_INACTIVE_FILE ? file_part : anon_part;
        scan[i] = (g->lists[i].count >> s->priority) * part / (anon_part + file_part);
    }
}

static void shrink_lists(sweep *s)
{
    uint64_t scan[LRU_LISTS] = {0};
    split(s, scan);
    while (s->freed < s->target &&
           (scan[LRU_INACTIVE_ANON] || scan[LRU_INACTIVE_FILE] || scan[LRU_ACTIVE_FILE])) {
        for (unsigned i = 0; i < LRU_UNEVICTABLE; i++) {
            uint64_t n = scan[i] < RECLAIM_BATCH ? scan[i] : RECLAIM_BATCH;
            scan[i] -= n;
            if (i == LRU_INACTIVE_ANON || i == LRU_INACTIVE_FILE)
                shrink_inactive(s, i, n);
            else if (inactive_is_low(s->g, i - 1))
                shrink_active(s, i, n);
        }
    }
    if (can_swap(s) && inactive_is_low(s->g, LRU_INACTIVE_ANON))
        shrink_active(s, LRU_ACTIVE_ANON, RECLAIM_BATCH);
}

/* 2.6 has one pair of lists: what is due adds up until it fills a batch. */
static uint64_t due(sweep *s, lru_list which)
{
    uint64_t *left = &s->g->scan_left[which];
    *left += (s->g->lists[which].count >> s->priority) + 1;
    if (*left < RECLAIM_BATCH)
        return 0;
    uint64_t now = *left;
    *left = 0;
    return now;
}

static void shrink_zone(sweep *s)
{
    uint64_t scan[LRU_LISTS] = {0};
    for (unsigned i = 0; i < LRU_UNEVICTABLE; i++)
        scan[i] = due(s, i);
    bool more = true;
    while (more && s->freed < s->target) {
        more = false;
        for (unsigned i = LRU_UNEVICTABLE; i--;) { /* active first, then inactive */
            uint64_t n = scan[i] < RECLAIM_BATCH ? scan[i] : RECLAIM_BATCH;
            scan[i] -= n;
            more |= scan[i] > 0;
            if (i == LRU_ACTIVE_ANON || i == LRU_ACTIVE_FILE)
                shrink_active(s, i, n);
            else
                shrink_inactive(s, i, n);
        }
    }
}

/* ---- sweeps ----------------------------------------------------------------------------------- */

static uint64_t sweep_all(pa_ram *ram, uint32_t top, int priority, uint64_t target)
{
    uint64_t freed = 0;
    for (uint32_t i = 0; i < ram->count_groups; i++) {
        if (!ram_is_below(ram, i, top))
            continue;
        sweep s = {ram, &ram->groups[i], i, priority, target, 0};
        if (ram->settings.rules & PA_RECLAIM_MAPPED)
            shrink_zone(&s);
        else
            shrink_lists(&s);
        freed += s.freed;
        if (freed >= target && priority < TOP_PRIORITY)
            break;
    }
    return freed;
}

static void note_priority(pa_ram *ram, int priority)
{
    for (uint32_t i = 0; i < ram->count_groups; i++)
        ram->groups[i].prev_priority = priority;
}

uint64_t reclaim(pa_ram *ram, uint32_t group_id, uint64_t target)
{
    uint64_t freed = 0;
    if (ram->reclaiming)
        return 0;
    ram->reclaiming = true;
    for (int loop = 0; loop < FRUITLESS_SWEEPS && !freed; loop++) {
        for (int priority = TOP_PRIORITY; priority >= 0 && freed < target; priority--) {
            freed += sweep_all(ram, group_id, priority, target - freed);
            note_priority(ram, priority);
        }
    }
    ram->reclaiming = false;
    return freed;
}
