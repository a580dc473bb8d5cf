/* SPDX-License-Identifier: MIT
 *
 * reclaim.c -- which pages go when memory is short.
 *
 * Model of mm/vmscan.c of Linux 6.12 with the classic lists (2.6 has its own rules in
 * reclaim26.c).  Each list is scanned from its oldest end in batches of 32, a larger part of it
 * from priority to priority (12 to 0).  A referenced page gets a second chance; a page that must be
 * written is freed by a later sweep, so that one that finds everything referenced writes out far
 * more than was asked for: the bursts of a working set about as large as its limit.
 */
#include "reclaim.h"
#include "run.h"

enum { FRUITLESS_SWEEPS = 16 };

/* ---- one list --------------------------------------------------------------------------------- */

typedef enum verdict { EVICT, KEEP, ACTIVATE } verdict;

/* What to do with an inactive page (folio_check_references) that was used so often. */
static verdict judge(const pa_ram *ram, const folio *all, uint64_t references)
{
    bool seen = ram->frame[all->frame].owner & OWNER_REFERENCED;
    if (!(ram->settings.rules & PA_SECOND_LOOK))
        return references || (seen && rmap_count(ram, all->frame)) ? ACTIVATE : EVICT;
    if (!references)
        return folio_is_locked(ram, all) ? KEEP : EVICT;
    return seen || references > 1 ? ACTIVATE : KEEP;
}

/* Its write is under way, and it goes as soon as that has ended: wait for it. */
static void await_write(pa_ram *ram, const folio *all)
{
    while (folio_is_writing(ram, all) && device_wait(&ram->disk, &ram->settings.costs))
        ram_settle(ram);
}

/* A page of a file that the flusher writes goes when that has ended.  Nobody waits for it the first
 * time, and kswapd never does. */
static bool leave_writing(const sweep *s, lru_list which, const folio *all)
{
    pa_ram *ram = s->ram;
    if (!(ram->settings.rules & PA_FLUSHER) || !is_file_list(which) ||
        (ram->state[all->frame] & STATE_RECLAIM && !ram->disk.background))
        return false;
    folio_set_state(ram, all, STATE_RECLAIM);
    return true;
}

/* Nothing but dirty pages of files that nobody writes yet: whoever waits, waits for some of them. */
static void wake_flusher(sweep *s, uint64_t dirty)
{
    flusher_wake(s->ram);
    if (s->ram->disk.background)
        s->issued += dirty;
    else
        flusher_await(s->ram);
}

bool sweep_is_done(const sweep *s)
{
    /* kswapd does not wait for what it has asked to be written: that will be free soon */
    return s->freed + (s->ram->disk.background ? s->issued : 0) >= s->target;
}

static void count_freed(sweep *s, uint64_t n)
{
    pa_ram *ram = s->ram;
    s->g->stolen += n;
    ram->events.stolen += n;
    ram->events.stolen_background += ram->disk.background ? n : 0;
    s->freed += n;
}

static void count_scanned(sweep *s, uint64_t n)
{
    pa_ram *ram = s->ram;
    s->g->scanned += n;
    ram->events.scanned += n;
    ram->events.scanned_background += ram->disk.background ? n : 0;
}

static void look_at(sweep *s, uint64_t n)
{
    count_scanned(s, n);
    ram_work(s->ram, s->ram->settings.costs.scan, n);
}

static void count_activated(sweep *s, uint64_t n)
{
    s->ram->events.activated += n;
    workingset_age(s->ram, s->group_id, n);
}

/* Pages that are being written are not looked at any closer. */
static void pass_by(sweep *s, uint64_t n)
{
    count_scanned(s, n);
    count_activated(s, n);
    ram_work(s->ram, s->ram->settings.costs.scan / 8, n);
}

/* Which bits of the owners of pages that stay change, and their list with them. */
typedef struct mark {
    uint64_t set, clear;
} mark;

/* What was found and done is counted; what it cost (lru_note_cost). */
static uint64_t conclude(sweep *s, verdict v, fate what, uint64_t count, mark *m)
{
    *m = (mark){0, 0};
    if (what == FATE_FREED || what == FATE_WRITTEN) {
        count_freed(s, count);
        return what == FATE_WRITTEN ? RECLAIM_BATCH * count : 0;
    }
    if (what == FATE_WRITING) {
        s->issued += count;
        return (RECLAIM_BATCH + 1) * count;
    }
    if (v == KEEP) {
        *m = (mark){OWNER_REFERENCED, 0};
        return count;
    }
    count_activated(s, count);
    /* what was in use is quickly recovered, should it be deactivated and used again */
    bool marked = v == ACTIVATE && s->ram->settings.rules & PA_SECOND_LOOK;
    *m = (mark){OWNER_ACTIVE | (marked ? OWNER_REFERENCED : 0), marked ? 0 : OWNER_REFERENCED};
    return count;
}

/* That takes longer than to drop a page of a file, or a copy of what is in swap. */
static bool goes_to_swap(const pa_ram *ram, uint32_t f)
{
    uint64_t owner = ram->frame[f].owner;
    return owner_kind(owner) == KIND_ANON ||
           (owner_kind(owner) == KIND_OBJECT && ram->objects[owner_id(owner)].shmem);
}

static uint64_t shrink_folio(sweep *s, const folio *all)
{
    pa_ram *ram = s->ram;
    fate what = FATE_STAYS;
    mark m;
    verdict v = judge(ram, all, take_references(ram, all));
    if (v == EVICT &&
        all->frame + 1 == ram->held) { /* __remove_mapping() finds a reference too many */
        folio_mark(ram, all, 0, OWNER_REFERENCED);
        return all->count;
    }
    if (v == EVICT) {
        if (goes_to_swap(ram, all->frame))
            ram_work(ram, ram->settings.costs.unmap, all->count);
        what = evict(ram, all);
    }
    uint64_t cost = conclude(s, v, what, all->count, &m);
    if (m.set)
        folio_mark(ram, all, m.set, m.clear);
    return cost;
}

/* Pages side by side, as the first of them; a write may shorten the run.  The first page's time
 * passes before its write begins, that of the others after it. */
static uint64_t shrink_run(sweep *s, run *r)
{
    pa_ram *ram = s->ram;
    folio first = {NULL, r->first, 1};
    fate what = FATE_STAYS;
    mark m;
    verdict v = judge(ram, &first, run_is_accessed(r));
    look_at(s, 1);
    if (v == EVICT) {
        uint64_t unmap = r->mm ? ram->settings.costs.unmap : 0;
        ram_work(ram, unmap, 1);
        what = run_evict(ram, r);
        ram_work(ram, unmap, r->count - 1);
    }
    look_at(s, r->count - 1);
    uint64_t cost = conclude(s, v, what, r->count, &m);
    if (m.set) {
        run_forget_access(r);
        run_mark(ram, r, m.set, m.clear);
    }
    return cost;
}

/* One page or folio of an inactive list; false: nothing more is done with this list now. */
static bool shrink_next(sweep *s, lru_list which, const folio *all, uint64_t *cost)
{
    pa_ram *ram = s->ram;
    bool reading = ram->state[all->frame] & STATE_READING;
    if (!reading && folio_is_writing(ram, all) && leave_writing(s, which, all)) {
        pass_by(s, all->count);
        folio_mark(ram, all, OWNER_ACTIVE, 0);
        *cost += all->count;
        return true;
    }
    look_at(s, all->count);
    if (reading) {
        folio_mark(ram, all, 0, 0);
        *cost += all->count;
        return true;
    }
    if (folio_is_writing(ram, all)) {
        if (ram->disk.background)
            return false;
        await_write(ram, all);
    }
    *cost += shrink_folio(s, all);
    return true;
}

/* kswapd works on another processor than who makes pages. */
static void drain_own(pa_ram *ram)
{
    if (!ram->disk.background)
        batch_drain(ram);
}

void shrink_inactive(sweep *s, lru_list which, uint64_t count)
{
    pa_ram *ram = s->ram;
    lru *list = &s->g->lists[which];
    bool flusher = is_file_list(which) && ram->settings.rules & PA_FLUSHER, more = true;
    uint64_t cost = 0, seen = 0, dirty = 0;
    run r;
    drain_own(ram);
    ram_settle(ram);
    busy_go_on(ram);
    while (more && seen < count && list->oldest != NO_FRAME) {
        if (run_find(ram, list->oldest, count - seen, &r)) {
            cost += shrink_run(s, &r);
            seen += r.count;
            continue;
        }
        folio all = folio_of(ram, list->oldest);
        seen += all.count;
        if (flusher && folio_is_dirty(ram, &all) && !folio_is_writing(ram, &all))
            dirty += all.count;
        more = shrink_next(s, which, &all, &cost);
    }
    if (dirty && dirty == seen)
        wake_flusher(s, dirty);
    lru_note_cost(ram, s->group_id, is_file_list(which), cost);
}

/* Costs of long ago count less, as measured by lists as they were when counters were last added up: in
 * a cgroup that is younger than that they are forgotten at once. */
void lru_note_cost(pa_ram *ram, uint32_t group_id, bool file, uint64_t cost)
{
    for (uint32_t i = group_id; i != NO_GROUP; i = ram->groups[i].parent) {
        group *g = &ram->groups[i];
        *(file ? &g->file_cost : &g->anon_cost) += cost;
        const uint64_t *pages = g->known.pages;
        uint64_t listed = pages[LRU_INACTIVE_ANON] + pages[LRU_ACTIVE_ANON] +
                          pages[LRU_INACTIVE_FILE] + pages[LRU_ACTIVE_FILE];
        if (g->file_cost + g->anon_cost > listed / 4) {
            g->file_cost /= 2;
            g->anon_cost /= 2;
        }
    }
}

static void shrink_active(sweep *s, lru_list which, uint64_t count)
{
    pa_ram *ram = s->ram;
    lru *list = &s->g->lists[which];
    drain_own(ram);
    busy_go_on(ram);
    for (uint64_t seen = 0; seen < count && list->oldest != NO_FRAME;) {
        folio all = folio_of(ram, list->oldest);
        seen += all.count;
        s->g->refilled += all.count;
        ram_work(ram, ram->settings.costs.scan, all.count);
        take_references(ram, &all);
        ram->events.deactivated += all.count;
        folio_set_state(ram, &all, STATE_WORKINGSET);
        folio_mark(ram, &all, 0, OWNER_ACTIVE);
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

static bool is_low(uint64_t inactive, uint64_t active)
{
    uint64_t gigabytes = (inactive + active) >> 18;
    return inactive * (gigabytes ? isqrt(10 * gigabytes) : 1) < active;
}

static bool inactive_is_low(const known *k, lru_list inactive)
{
    return is_low(k->pages[inactive], k->pages[inactive + 1]);
}

/* Is it worth looking at anonymous pages?  Without a free slot none is looked at, not even one that
 * has a slot already (can_reclaim_anon_pages). */
static bool can_swap(const sweep *s)
{
    return swap_room(s->ram, s->group_id);
}

/* What the whole subtree looks like, before a priority begins (prepare_scan_control). */
static void prepare(sweep *s)
{
    pa_ram *ram = s->ram;
    const group *top = &ram->groups[s->top];
    const known *k = stats_of(ram, s->top);
    s->anon_cost = top->anon_cost;
    s->file_cost = top->file_cost;
    for (unsigned file = 0; file < 2; file++)
        s->may_deactivate[file] = s->force_deactivate ||
                                  k->restored[file] != top->restored_seen[file] ||
                                  inactive_is_low(k, 2 * file);
    s->trim_cache = k->pages[LRU_INACTIVE_FILE] >> s->priority && !s->may_deactivate[1];
    uint64_t files = ram->count_file;
    int64_t left = ram_available(ram) + (int64_t)files;
    s->file_is_tiny = !s->top && left <= (int64_t)ram->settings.watermark_high &&
                      !s->may_deactivate[0] && k->pages[LRU_INACTIVE_ANON] >> s->priority;
}

/* The shares of anonymous and file pages, by what getting them back costs. */
static void share_by_cost(const sweep *s, uint64_t share[2])
{
    uint64_t swappiness = s->ram->settings.swappiness, total = s->anon_cost + s->file_cost;
    uint64_t anon = total + s->anon_cost, file = total + s->file_cost, both = anon + file;
    share[0] = swappiness * (both + 1) / (anon + 1);
    share[1] = (200 - swappiness) * (both + 1) / (file + 1);
}

/* How many pages of each list this sweep looks at (get_scan_count). */
static void split(const sweep *s, uint64_t scan[LRU_LISTS])
{
    uint64_t share[2] = {0, 1}, swappiness = s->ram->settings.swappiness;
    bool equal = false;
    if (!can_swap(s) || (s->top && !swappiness))
        ; /* files only */
    else if (!s->priority && swappiness)
        equal = true;
    else if (s->file_is_tiny)
        share[0] = 1, share[1] = 0;
    else if (!s->trim_cache)
        share_by_cost(s, share);
    for (unsigned i = 0; i < LRU_UNEVICTABLE; i++) {
        uint64_t n = batch_counted(s->ram, s->group_id, i) >> s->priority;
        scan[i] = equal || !n ? n : n * share[is_file_list(i)] / (share[0] + share[1]);
    }
}

static void shrink_list(sweep *s, lru_list which, uint64_t count)
{
    if (!is_active_list(which))
        shrink_inactive(s, which, count);
    else if (s->may_deactivate[is_file_list(which)])
        shrink_active(s, which, count);
    else
        s->skipped_deactivate = true;
}

/* Enough is free: the smaller of the two kinds is let alone, and of the larger one as much is
 * still scanned as in proportion.  False: that is nothing. */
static bool go_on_in_proportion(uint64_t scan[LRU_LISTS], const uint64_t first[LRU_LISTS])
{
    uint64_t anon = scan[LRU_INACTIVE_ANON] + scan[LRU_ACTIVE_ANON];
    uint64_t file = scan[LRU_INACTIVE_FILE] + scan[LRU_ACTIVE_FILE];
    if (!anon || !file)
        return false;
    unsigned less = file > anon ? LRU_INACTIVE_ANON : LRU_INACTIVE_FILE;
    unsigned more = file > anon ? LRU_INACTIVE_FILE : LRU_INACTIVE_ANON;
    uint64_t percent = (file > anon ? anon : file) * 100 / (first[less] + first[less + 1] + 1);
    scan[less] = scan[less + 1] = 0;
    for (unsigned i = more; i < more + 2; i++) {
        uint64_t done = first[i] - scan[i], want = first[i] * (100 - percent) / 100;
        scan[i] = want > done ? want - done : 0;
    }
    return true;
}

/* One group at one priority (shrink_lruvec). */
static void shrink_lists(sweep *s)
{
    uint64_t scan[LRU_LISTS] = {0}, first[LRU_LISTS];
    uint64_t before = s->freed, target = s->target;
    bool whole = !s->top && !s->ram->disk.background && s->priority == TOP_PRIORITY;
    split(s, scan);
    for (unsigned i = 0; i < LRU_LISTS; i++)
        first[i] = scan[i];
    while (scan[LRU_INACTIVE_ANON] || scan[LRU_ACTIVE_FILE] || scan[LRU_INACTIVE_FILE]) {
        for (unsigned i = 0; i < LRU_UNEVICTABLE; i++) {
            uint64_t n = scan[i] < RECLAIM_BATCH ? scan[i] : RECLAIM_BATCH;
            scan[i] -= n;
            if (n)
                shrink_list(s, i, n);
        }
        if (s->ram->disk.background && sweep_is_done(s))
            break;
        if (s->freed - before >= target && !whole && !go_on_in_proportion(scan, first))
            break;
    }
    device_unplug(&s->ram->disk, &s->ram->settings.costs);
    if (can_swap(s) && inactive_is_low(stats_of(s->ram, s->group_id), LRU_INACTIVE_ANON))
        shrink_active(s, LRU_ACTIVE_ANON, RECLAIM_BATCH);
}

/* ---- sweeps ----------------------------------------------------------------------------------- */

/* The first group from i on that is the top or below it. */
static uint32_t next_below(const pa_ram *ram, uint32_t i, uint32_t top)
{
    while (i < ram->count_groups && !ram_is_below(ram, i, top))
        i++;
    return i;
}

/* The groups below the top, from where the last walk stopped; if that was at the end, from the first
 * (mem_cgroup_iter). */
static void sweep_groups(sweep *s)
{
    pa_ram *ram = s->ram;
    bool whole = ram->disk.background || s->full_walk;
    uint32_t *cursor = &ram->groups[s->top].cursor;
    uint32_t i = next_below(ram, whole ? s->top : *cursor, s->top);
    if (i == ram->count_groups)
        i = s->top;
    for (; i < ram->count_groups; i = next_below(ram, i + 1, s->top)) {
        s->g = &ram->groups[i];
        s->group_id = i;
        if (ram->settings.rules & PA_RECLAIM_MAPPED)
            shrink_zone(s);
        else
            shrink_lists(s);
        if (!whole && s->freed >= s->target) {
            *cursor = i + 1;
            return;
        }
    }
    if (!whole)
        *cursor = 0;
}

/* 2.6 lets the disk catch up for a tenth of a second when a sweep gets hard (blk_congestion_wait). */
static void wait_for_congestion(pa_ram *ram)
{
    uint64_t end = ram->disk.now + 100000000;
    while (device_is_busy(&ram->disk) && ram->disk.now < end &&
           device_wait(&ram->disk, &ram->settings.costs))
        ram_settle(ram);
}

static void sweep_priorities(sweep *s)
{
    pa_ram *ram = s->ram;
    bool old = ram->settings.rules & PA_RECLAIM_MAPPED;
    for (s->priority = TOP_PRIORITY; s->priority >= 0 && !sweep_is_done(s); s->priority--) {
        prepare(s);
        sweep_groups(s);
        note_priority(ram, s->priority);
        if (old && s->priority < TOP_PRIORITY - 2 && !ram->disk.background)
            wait_for_congestion(ram);
    }
}

/* One try (do_try_to_free_pages). */
static uint64_t try_to_free(pa_ram *ram, uint32_t top, uint64_t target)
{
    sweep s = {.ram = ram, .top = top, .target = target};
    sweep_priorities(&s);
    for (unsigned file = 0; file < 2; file++)
        ram->groups[top].restored_seen[file] = ram->groups[top].known.restored[file];
    /* kswapd and 2.6 do not begin anew as long as something is on its way to the disk */
    bool once = ram->disk.background || ram->settings.rules & PA_RECLAIM_MAPPED;
    if (!s.freed && !(once && s.issued)) {
        s.full_walk = true;
        sweep_priorities(&s);
    }
    if (!s.freed && !(once && s.issued) && s.skipped_deactivate) {
        s.force_deactivate = true;
        sweep_priorities(&s);
    }
    return s.freed;
}

uint64_t reclaim(pa_ram *ram, uint32_t group_id, uint64_t target)
{
    uint64_t freed = 0;
    if (ram->reclaiming)
        return 0;
    ram->reclaiming = true;
    int tries = ram->disk.background ? 1 : FRUITLESS_SWEEPS;
    while (!freed && tries) {
        freed = try_to_free(ram, group_id, target);
        bool waited = !freed && !ram->disk.background && device_is_busy(&ram->disk) &&
                      device_wait(&ram->disk, &ram->settings.costs);
        waited |= !freed && !ram->disk.background && fetch_wait(ram);
        tries -= !waited;
        ram_settle(ram);
    }
    ram->reclaiming = false;
    return freed;
}
