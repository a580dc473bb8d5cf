/* SPDX-License-Identifier: MIT
 *
 * slots.c -- which place in swap a page gets.
 *
 * Slots are given out in clusters, so that pages that leave together lie together.  Up to 6.12 a
 * cluster that is quite free is taken before any hole.  Since 6.18 (mm/swapfile.c) it is the other
 * way round: clusters are kept on lists by what they have had, and holes are filled before a free
 * cluster is begun.
 *
 *     cluster.used == slots of it that are taken, or not there at all
 *     home      full     none left (on no list)
 *               partial  something was freed since anybody looked for a slot in it
 *               rest     somebody has looked; what is left is not asked for until nothing else is
 *               free     nothing taken; those that never had anything are on no list, but counted
 *
 *     bit c of ram->clusters is set  <=>  cluster c is not quite free (up to 6.12)
 */
#include "ram.h"

#include <string.h>

enum { RUN_SHIFT = 9, RUN = 1 << RUN_SHIFT /* SWAPFILE_CLUSTER since 4.14: a huge page */ };

#define NO_SLOT UINT64_MAX

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static bool fills_holes(const pa_ram *ram)
{
    return ram->settings.rules & PA_FILLS_HOLES;
}

/* ---- clusters --------------------------------------------------------------------------------- */

/* The first page of swap is its header, so that a cluster of 6.18 has one slot less at first. */
static uint64_t header(const pa_ram *ram)
{
    return fills_holes(ram) ? 1 : 0;
}

/* Slots that are given out together: as a power of two, which is quicker to divide by. */
static unsigned shift_of(const pa_ram *ram)
{
    return ram->settings.rules & PA_RECLAIM_MAPPED ? SHORTEST_RUN_SHIFT : RUN_SHIFT;
}

static uint64_t run_of(const pa_ram *ram)
{
    return UINT64_C(1) << shift_of(ram);
}

uint64_t slots_cluster_of(const pa_ram *ram, uint64_t slot)
{
    return (slot + header(ram)) >> shift_of(ram);
}

static uint64_t first_of(const pa_ram *ram, uint64_t c)
{
    return c ? (c << shift_of(ram)) - header(ram) : 0;
}

static uint64_t left_in_run(const pa_ram *ram, uint64_t slot)
{
    return run_of(ram) - ((slot + header(ram)) & (run_of(ram) - 1));
}

/* Places of a cluster that are no slots. */
static uint64_t missing_of(const pa_ram *ram, uint64_t c)
{
    uint64_t end = (c + 1) * RUN, places = ram->slots.count + 1;
    return fills_holes(ram) ? (c == 0) + (end > places ? end - places : 0) : 0;
}

/* ---- lists of clusters ------------------------------------------------------------------------ */

static void leave_list(pa_ram *ram, uint32_t c)
{
    cluster *all = ram->cluster, *it = &all[c];
    cluster_list *list = &ram->cluster_lists[it->home];
    if (it->home == CLUSTER_FULL)
        return;
    *(it->before == NO_CLUSTER ? &list->first : &all[it->before].after) = it->after;
    *(it->after == NO_CLUSTER ? &list->last : &all[it->after].before) = it->before;
    it->home = CLUSTER_FULL;
}

static void join_list(pa_ram *ram, uint32_t c, cluster_home home)
{
    cluster_list *list = &ram->cluster_lists[home];
    leave_list(ram, c);
    ram->cluster[c].home = (uint8_t)home;
    ram->cluster[c].after = NO_CLUSTER;
    ram->cluster[c].before = list->last;
    *(list->last == NO_CLUSTER ? &list->first : &ram->cluster[list->last].after) = c;
    list->last = c;
}

/* Somebody has looked for a slot in it (relocate_cluster). */
static void put_aside(pa_ram *ram, uint32_t c)
{
    if (ram->cluster[c].used == RUN)
        leave_list(ram, c);
    else if (ram->cluster[c].home != CLUSTER_REST)
        join_list(ram, c, CLUSTER_REST);
}

static void make_list(pa_ram *ram)
{
    uint64_t count = slots_cluster_of(ram, ram->slots.count + RUN - 1);
    for (unsigned home = 0; home < CLUSTER_FULL; home++)
        ram->cluster_lists[home] = (cluster_list){NO_CLUSTER, NO_CLUSTER};
    ram->count_fresh = (uint32_t)count;
    ram->next_fresh = 1;
    for (uint64_t c = 0; c < count; c += count > 1 ? count - 1 : 1) {
        uint64_t missing = missing_of(ram, c);
        ram->cluster[c].home = CLUSTER_FULL;
        ram->cluster[c].used = (uint16_t)missing;
        if (missing && missing < RUN)
            join_list(ram, (uint32_t)c, CLUSTER_PARTIAL);
        if (c && missing)
            ram->count_fresh--;
    }
}

bool slots_init(pa_ram *ram)
{
    uint64_t count = ram->settings.count_slots;
    if (!bitmap_init(&ram->slots, count) || !bitmap_init(&ram->clusters, count >> shift_of(ram)))
        return false;
    ram->slot_next = fills_holes(ram) ? NO_SLOT : 0;
    if (fills_holes(ram))
        make_list(ram);
    return true;
}

/* ---- the next one ----------------------------------------------------------------------------- */

/* In the cluster at hand, or NO_SLOT. */
static uint64_t next_at_hand(const pa_ram *ram)
{
    uint64_t next = ram->slot_next, c = slots_cluster_of(ram, next);
    if (next == NO_SLOT || ram->cluster[c].used == RUN)
        return NO_SLOT;
    uint64_t from = ram->cluster[c].used ? next : first_of(ram, c);
    uint64_t slot = bitmap_next_free(&ram->slots, from);
    return slot != BITMAP_NONE && slots_cluster_of(ram, slot) == c ? slot : NO_SLOT;
}

/* Is it in the cluster at hand, further on? */
static bool is_at_hand(const pa_ram *ram, uint64_t slot)
{
    uint64_t next = ram->slot_next;
    return next != NO_SLOT && slot >= next &&
           slots_cluster_of(ram, next) == slots_cluster_of(ram, slot);
}

/* A cluster beside the one at hand. */
static uint32_t other_cluster(const pa_ram *ram)
{
    uint32_t at_hand =
        ram->slot_next == NO_SLOT ? NO_CLUSTER : (uint32_t)slots_cluster_of(ram, ram->slot_next);
    uint32_t c = ram->cluster_lists[CLUSTER_PARTIAL].first;
    if (c != NO_CLUSTER && c == at_hand) /* it has just been looked at */
        c = ram->cluster[c].after;
    if (c != NO_CLUSTER)
        return c;
    if (ram->next_fresh < ram->count_fresh)
        return ram->next_fresh;
    c = ram->cluster_lists[CLUSTER_FREE].first;
    return c != NO_CLUSTER ? c : ram->cluster_lists[CLUSTER_REST].first;
}

static uint64_t next_hole(const pa_ram *ram)
{
    uint64_t slot = next_at_hand(ram);
    if (slot != NO_SLOT)
        return slot;
    uint32_t c = other_cluster(ram);
    return bitmap_next_free(&ram->slots, c == NO_CLUSTER ? 0 : first_of(ram, c));
}

/* The next free slot of the run at hand, else of a free run, else the lowest there is. */
static uint64_t next_in_run(const pa_ram *ram)
{
    uint64_t next = ram->slot_next, c = slots_cluster_of(ram, next);
    uint64_t slot = bitmap_next_free(&ram->slots, next);
    if (next != first_of(ram, c) && slot != BITMAP_NONE && slots_cluster_of(ram, slot) == c)
        return slot;
    uint64_t free_run = bitmap_next_free(&ram->clusters, 0);
    return free_run != BITMAP_NONE ? first_of(ram, free_run) : bitmap_next_free(&ram->slots, 0);
}

uint64_t swap_find(const pa_ram *ram, uint32_t group_id, uint64_t want, uint64_t *first)
{
    want = least(want, swap_room(ram, group_id));
    if (!want)
        return 0;
    *first = fills_holes(ram) ? next_hole(ram) : next_in_run(ram);
    return bitmap_free_run(&ram->slots, *first, least(want, left_in_run(ram, *first)));
}

/* ---- taking and giving ------------------------------------------------------------------------ */

/* n more slots, or less, of one run are taken, `slot` among them. */
static void count_used(pa_ram *ram, uint64_t slot, int64_t n)
{
    uint64_t run = slots_cluster_of(ram, slot);
    uint16_t *used = &ram->cluster[run].used;
    bool whole = run < ram->clusters.count; /* the last few slots are none */
    if (n > 0 && !*used && whole)
        bitmap_set(&ram->clusters, run, 1);
    *used = (uint16_t)(*used + n);
    if (!*used && whole)
        bitmap_clear(&ram->clusters, run, 1);
}

static void fill_hole(pa_ram *ram, uint64_t first, uint64_t count)
{
    uint32_t c = (uint32_t)slots_cluster_of(ram, first);
    if (!is_at_hand(ram, first)) {
        if (ram->slot_next != NO_SLOT) /* in vain */
            put_aside(ram, (uint32_t)slots_cluster_of(ram, ram->slot_next));
        if (c == ram->next_fresh && c < ram->count_fresh) {
            ram->next_fresh++;
            ram->cluster[c].home = CLUSTER_FULL;
        }
        leave_list(ram, c);
    }
    ram->cluster[c].used = (uint16_t)(ram->cluster[c].used + count);
    put_aside(ram, c);
    bool more = ram->cluster[c].used < RUN && slots_cluster_of(ram, first + count) == c;
    ram->slot_next = more ? first + count : NO_SLOT;
}

void swap_use(pa_ram *ram, uint32_t group_id, uint64_t first, uint64_t count)
{
    bitmap_set(&ram->slots, first, count);
    if (fills_holes(ram)) {
        fill_hole(ram, first, count);
    } else {
        count_used(ram, first, (int64_t)count);
        ram->slot_next = first + count;
    }
    uint16_t *slot_group = &ram->slot_group[first];
    for (uint64_t i = 0; i < count; i++)
        slot_group[i] = (uint16_t)group_id;
    memset(&ram->slot_shadow[first], 0, count * sizeof *ram->slot_shadow);
    for (uint32_t g = group_id; g != NO_GROUP; g = ram->groups[g].parent)
        ram->groups[g].usage_swap += count;
}

static void make_hole(pa_ram *ram, uint64_t first, uint64_t count)
{
    uint32_t c = (uint32_t)slots_cluster_of(ram, first);
    cluster *it = &ram->cluster[c];
    it->used = (uint16_t)(it->used - count);
    cluster_home home = it->used ? CLUSTER_PARTIAL : CLUSTER_FREE;
    if (it->home != home)
        join_list(ram, c, home);
}

void slots_free(pa_ram *ram, uint64_t first, uint64_t count)
{
    bitmap_clear(&ram->slots, first, count);
    if (fills_holes(ram))
        make_hole(ram, first, count);
    else
        count_used(ram, first, -(int64_t)count);
    for (uint32_t g = ram->slot_group[first]; g != NO_GROUP; g = ram->groups[g].parent)
        ram->groups[g].usage_swap -= count;
}

uint64_t slots_in_run(const pa_ram *ram, uint64_t first, uint64_t most)
{
    return least(most, left_in_run(ram, first));
}

/* ---- checking --------------------------------------------------------------------------------- */

static uint64_t count_taken(const pa_ram *ram, uint64_t c)
{
    uint64_t used = 0, first = first_of(ram, c);
    for (uint64_t s = first; s < ram->slots.count && slots_cluster_of(ram, s) == c; s++)
        used += bitmap_is_taken(&ram->slots, s);
    return used;
}

static bool is_at_home(const pa_ram *ram, uint64_t c)
{
    const cluster *it = &ram->cluster[c];
    bool fresh = c >= ram->next_fresh && c < ram->count_fresh;
    return fresh                      ? !it->used
           : it->used == RUN          ? it->home == CLUSTER_FULL
           : it->home == CLUSTER_FREE ? !it->used
                                      : it->home != CLUSTER_FULL;
}

bool slots_check(const pa_ram *ram)
{
    uint64_t end = ram->slots.high ? slots_cluster_of(ram, ram->slots.high - 1) + 1 : 0;
    for (uint64_t c = 0; c < end; c++) {
        uint64_t used = count_taken(ram, c), missing = missing_of(ram, c);
        bool whole = (c + 1) * run_of(ram) <= ram->slots.count;
        if (used + missing != ram->cluster[c].used || (fills_holes(ram) && !is_at_home(ram, c)))
            return false;
        if (!fills_holes(ram) && whole && bitmap_is_taken(&ram->clusters, c) != (used > 0))
            return false;
    }
    return true;
}
