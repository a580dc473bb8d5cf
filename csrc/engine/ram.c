/* SPDX-License-Identifier: MIT
 *
 * ram.c -- frames: taken in runs, charged to groups, kept in lists; and the machine as a whole.
 */
#include "ram.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* ---- lists ------------------------------------------------------------------------------------ */

void lru_add(pa_ram *ram, lru *list, uint32_t f)
{
    frame *page = &ram->frame[f];
    page->newer = NO_FRAME;
    page->older = list->newest;
    if (list->newest != NO_FRAME)
        ram->frame[list->newest].newer = f;
    else
        list->oldest = f;
    list->newest = f;
    list->count++;
}

void lru_remove(pa_ram *ram, lru *list, uint32_t f)
{
    const frame *page = &ram->frame[f];
    if (page->newer != NO_FRAME)
        ram->frame[page->newer].older = page->older;
    else
        list->newest = page->older;
    if (page->older != NO_FRAME)
        ram->frame[page->older].newer = page->newer;
    else
        list->oldest = page->newer;
    list->count--;
}

static void add_oldest(pa_ram *ram, lru *list, uint32_t f)
{
    frame *page = &ram->frame[f];
    page->older = NO_FRAME;
    page->newer = list->oldest;
    if (list->oldest != NO_FRAME)
        ram->frame[list->oldest].older = f;
    else
        list->newest = f;
    list->oldest = f;
    list->count++;
}

static bool is_file(const pa_ram *ram, uint64_t owner)
{
    return owner_kind(owner) == KIND_OBJECT && !ram->objects[owner_id(owner)].shmem;
}

static lru_list list_of(uint64_t owner, bool file)
{
    if (owner & OWNER_LOCKED)
        return LRU_UNEVICTABLE;
    lru_list list = file ? LRU_INACTIVE_FILE : LRU_INACTIVE_ANON;
    return owner & OWNER_ACTIVE ? list + 1 : list;
}

/* What MADV_FREE gave up needs no swap to go: it is listed among the files (lru_lazyfree_fn). */
lru_list ram_list_of(const pa_ram *ram, uint32_t f)
{
    uint64_t owner = ram->frame[f].owner;
    return list_of(owner, ram->state[f] & STATE_LAZY || is_file(ram, owner));
}

static lru *home_of(pa_ram *ram, uint32_t f)
{
    return &ram->groups[owner_group(ram->frame[f].owner)].lists[ram_list_of(ram, f)];
}

/* ---- what is in use, by kind ------------------------------------------------------------------ */

static void count_kind(pa_ram *ram, uint64_t owner, int64_t n)
{
    uint64_t *counter = owner_kind(owner) == KIND_ANON   ? &ram->count_anon
                        : owner_kind(owner) == KIND_SLOT ? &ram->count_cached
                        : is_file(ram, owner)            ? &ram->count_file
                                                         : &ram->count_shmem;
    *counter += (uint64_t)n;
    if (owner & OWNER_DIRTY && is_file(ram, owner))
        ram->count_dirty += (uint64_t)n;
}

void ram_put(pa_ram *ram, uint32_t f, uint64_t owner)
{
    ram->frame[f].owner = owner;
    count_kind(ram, owner, 1);
    lru_add(ram, home_of(ram, f), f);
}

void ram_unput(pa_ram *ram, uint32_t f)
{
    lru_remove(ram, home_of(ram, f), f);
    count_kind(ram, ram->frame[f].owner, -1);
}

void ram_renew(pa_ram *ram, uint32_t f, uint64_t owner)
{
    ram_unput(ram, f);
    ram_put(ram, f, owner);
}

void ram_rename(pa_ram *ram, uint32_t f, uint64_t owner)
{
    lru *was = home_of(ram, f);
    count_kind(ram, ram->frame[f].owner, -1);
    ram->frame[f].owner = owner;
    count_kind(ram, owner, 1);
    if (home_of(ram, f) != was) {
        lru_remove(ram, was, f);
        lru_add(ram, home_of(ram, f), f);
    }
}

void ram_mark(pa_ram *ram, uint32_t f, uint64_t set, uint64_t clear)
{
    uint64_t owner = ram->frame[f].owner, now = (owner & ~clear) | set;
    if ((owner ^ now) & OWNER_DIRTY) {
        ram_renew(ram, f, now);
        return;
    }
    lru_remove(ram, home_of(ram, f), f);
    ram->frame[f].owner = now;
    lru_add(ram, home_of(ram, f), f);
}

void ram_set_lazy(pa_ram *ram, uint32_t f, bool lazy)
{
    lru_remove(ram, home_of(ram, f), f);
    ram->frame[f].owner &= ~(OWNER_ACTIVE | OWNER_REFERENCED);
    ram->state[f] = (uint8_t)((ram->state[f] & ~STATE_LAZY) | (lazy ? STATE_LAZY : 0));
    lru_add(ram, home_of(ram, f), f);
}

void ram_set_dirty(pa_ram *ram, uint32_t f)
{
    ram->frame[f].owner |= OWNER_DIRTY;
    ram->count_dirty += is_file(ram, ram->frame[f].owner);
}

void ram_put_anon_run(pa_ram *ram, uint64_t first, uint64_t count, uint64_t owner)
{
    lru *list = &ram->groups[owner_group(owner)].lists[list_of(owner, false)];
    uint32_t older = list->newest, f = (uint32_t)first;
    if (older != NO_FRAME)
        ram->frame[older].newer = f;
    else
        list->oldest = f;
    for (uint64_t i = 0; i < count; i++, f++) {
        ram->frame[f] = (frame){f + 1, older, owner + i};
        older = f;
    }
    ram->frame[older].newer = NO_FRAME;
    list->newest = older;
    list->count += count;
    ram->count_anon += count;
}

/* ---- charging --------------------------------------------------------------------------------- */

int64_t ram_available(const pa_ram *ram)
{
    return (int64_t)(ram->frames.count_free - ram->tables - ram->kernel -
                     ram->settings.count_reserved);
}

bool ram_is_below(const pa_ram *ram, uint32_t group_id, uint32_t ancestor)
{
    while (group_id != ancestor && group_id != NO_GROUP)
        group_id = ram->groups[group_id].parent;
    return group_id == ancestor;
}

/* The ancestor (or the group itself) that is nearest to its limit. */
static uint32_t tightest(const pa_ram *ram, uint32_t group_id)
{
    uint32_t found = group_id;
    uint64_t least = UINT64_MAX;
    for (uint32_t g = group_id; g != NO_GROUP; g = ram->groups[g].parent) {
        const group *level = &ram->groups[g];
        uint64_t room = level->limit > level->usage ? level->limit - level->usage : 0;
        if (room < least) {
            least = room;
            found = g;
        }
    }
    return found;
}

uint64_t ram_room(const pa_ram *ram, uint32_t group_id)
{
    const group *g = &ram->groups[tightest(ram, group_id)];
    return g->limit > g->usage ? g->limit - g->usage : 0;
}

static void charge(pa_ram *ram, uint32_t group_id, uint64_t count)
{
    for (uint32_t g = group_id; g != NO_GROUP; g = ram->groups[g].parent) {
        group *level = &ram->groups[g];
        level->usage += count;
        if (level->usage > level->usage_peak)
            level->usage_peak = level->usage;
    }
}

static void uncharge(pa_ram *ram, uint32_t group_id, uint64_t count)
{
    for (uint32_t g = group_id; g != NO_GROUP; g = ram->groups[g].parent)
        ram->groups[g].usage -= count;
}

/* Reclaim for whoever is waiting; kswapd, if it had given up, has hope again. */
static bool reclaim_some(pa_ram *ram, uint32_t group_id, uint64_t pages)
{
    bool fine = reclaim(ram, group_id, pages > RECLAIM_BATCH ? pages : RECLAIM_BATCH) > 0;
    if (fine)
        ram->fruitless = 0;
    return fine;
}

/* The kernel runs into a limit as often before it calls the OOM killer: at first, when it has emptied
 * what processors had in stock, and 16 times again (try_charge_memcg). */
enum { FRUITLESS_HITS = 18 };

/* Room for one page at least: in the group first, then on the machine. */
static bool make_room(pa_ram *ram, uint32_t group_id)
{
    while (!ram_room(ram, group_id)) {
        uint32_t full = tightest(ram, group_id);
        ram->groups[full].limit_hits++;
        if (reclaim_some(ram, full, 1))
            continue;
        ram->groups[full].limit_hits += FRUITLESS_HITS - 1;
        return false;
    }
    while (ram_available(ram) <= (int64_t)ram->settings.watermark_min) {
        if (!reclaim_some(ram, 0, 1))
            return false;
    }
    return true;
}

/* Room for a folio that is not needed at any price (__GFP_NORETRY). */
static bool make_folio_room(pa_ram *ram, uint32_t group_id, uint64_t pages)
{
    for (int tries = 2; ram_room(ram, group_id) < pages; tries--) {
        uint32_t full = tightest(ram, group_id);
        ram->groups[full].limit_hits++;
        if (!tries || !reclaim_some(ram, full, pages))
            return false;
    }
    int64_t free_frames = (int64_t)(ram->settings.watermark_min + pages);
    return ram_available(ram) > free_frames ||
           (reclaim_some(ram, 0, pages) && ram_available(ram) > free_frames);
}

void ram_settle(pa_ram *ram)
{
    uint32_t f;
    if (ram->count_fetches)
        fetch_settle(ram);
    while ((f = device_take_written(&ram->disk, &ram->settings.costs)) != NO_FRAME) {
        if (!(ram->state[f] & STATE_RECLAIM))
            continue;
        ram->state[f] &= (uint8_t)~STATE_RECLAIM;
        lru_remove(ram, home_of(ram, f), f);
        ram->frame[f].owner &= ~OWNER_ACTIVE;
        add_oldest(ram, home_of(ram, f), f);
    }
}

/* kswapd: below the low mark it works in the background until the high mark is reached.  After
 * sixteen tries without success it gives up (MAX_RECLAIM_RETRIES). */
static void balance(pa_ram *ram)
{
    if (ram_available(ram) >= (int64_t)ram->settings.watermark_low || ram->fruitless >= 16)
        return;
    ram->disk.background = true;
    while (ram_available(ram) < (int64_t)ram->settings.watermark_high) {
        if (!reclaim(ram, 0, RECLAIM_BATCH)) {
            ram->fruitless += !device_is_busy(&ram->disk);
            break;
        }
        ram->fruitless = 0;
    }
    ram->disk.background = false;
}

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

uint64_t ram_take(pa_ram *ram, uint32_t group_id, uint64_t want, uint64_t *first)
{
    if (!make_room(ram, group_id))
        return 0;
    uint64_t machine = (uint64_t)(ram_available(ram) - (int64_t)ram->settings.watermark_min);
    want = least(want, least(machine, ram_room(ram, group_id)));
    uint64_t got = bitmap_take(&ram->frames, least(want, throttle_room(ram, group_id)), first);
    charge(ram, group_id, got);
    if (ram->reclaiming)
        return got;
    balance(ram);
    throttle(ram, group_id, got);
    return got;
}

bool ram_take_folio(pa_ram *ram, uint32_t group_id, uint64_t count, uint32_t *frames)
{
    uint64_t taken = 0, first, got = make_folio_room(ram, group_id, count);
    for (; got && taken < count; taken += got) {
        got = ram_take(ram, group_id, count - taken, &first);
        for (uint64_t i = 0; i < got; i++)
            frames[taken + i] = (uint32_t)(first + i);
    }
    for (uint64_t i = 0; taken < count && i < taken; i++)
        ram_give(ram, frames[i], group_id);
    return taken == count;
}

void ram_give(pa_ram *ram, uint32_t f, uint32_t group_id)
{
    ram->frame[f].owner = 0;
    ram->state[f] = 0;
    device_forget(&ram->disk, f);
    bitmap_clear(&ram->frames, f, 1);
    uncharge(ram, group_id, 1);
}

void ram_release(pa_ram *ram, uint32_t f)
{
    ram_unput(ram, f);
    ram_give(ram, f, owner_group(ram->frame[f].owner));
}

bool ram_charge_tables(pa_ram *ram, uint32_t group_id, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        if (!make_room(ram, group_id)) {
            ram_uncharge_tables(ram, group_id, i);
            return false;
        }
        ram->tables++;
        ram->groups[group_id].tables++;
        charge(ram, group_id, 1);
    }
    return true;
}

void ram_uncharge_tables(pa_ram *ram, uint32_t group_id, uint64_t count)
{
    ram->tables -= count;
    ram->groups[group_id].tables -= count;
    uncharge(ram, group_id, count);
}

int pa_ram_charge_kernel(pa_ram *ram, uint32_t group_id, int64_t pages)
{
    if (group_id >= ram->count_groups || (pages < 0 && (uint64_t)-pages > ram->kernel))
        return PA_ERR_INVALID;
    if (pages < 0) {
        ram->kernel -= (uint64_t)-pages;
        uncharge(ram, group_id, (uint64_t)-pages);
        return PA_OK;
    }
    for (int64_t i = 0; i < pages; i++) {
        if (!make_room(ram, group_id)) {
            pa_ram_charge_kernel(ram, group_id, -i);
            return PA_EXHAUSTED;
        }
        ram->kernel++;
        charge(ram, group_id, 1);
    }
    return PA_OK;
}

/* ---- groups ----------------------------------------------------------------------------------- */

static void init_group(group *g, uint32_t parent, uint64_t pages, uint64_t pages_swap)
{
    *g = (group){.parent = parent,
                 .limit = pages,
                 .swap_limit = pages_swap,
                 .high = UINT64_MAX,
                 .prev_priority = 12};
    for (unsigned i = 0; i < LRU_LISTS; i++)
        g->lists[i] = (lru){NO_FRAME, NO_FRAME, 0};
}

int pa_ram_add_group(pa_ram *ram, uint32_t parent, uint64_t pages, uint64_t pages_swap)
{
    if (ram->count_groups == MAX_GROUPS || parent >= ram->count_groups)
        return -1;
    group *more = realloc(ram->groups, (ram->count_groups + 1) * sizeof *more);
    if (!more)
        return -1;
    ram->groups = more;
    init_group(&more[ram->count_groups], parent, pages, pages_swap);
    return (int)ram->count_groups++;
}

int pa_ram_limit_group(pa_ram *ram, uint32_t group_id, uint64_t pages, uint64_t pages_swap)
{
    if (group_id >= ram->count_groups)
        return PA_ERR_INVALID;
    group *g = &ram->groups[group_id];
    g->limit = pages;
    g->swap_limit = pages_swap;
    while (g->usage > g->limit) {
        if (!reclaim(ram, group_id, g->usage - g->limit))
            return PA_EXHAUSTED;
    }
    return PA_OK;
}

static void add_up(const group *g, pa_group_counters *out)
{
    const lru *l = g->lists;
    out->anon += l[LRU_INACTIVE_ANON].count + l[LRU_ACTIVE_ANON].count;
    out->file += l[LRU_INACTIVE_FILE].count + l[LRU_ACTIVE_FILE].count;
    out->tables += g->tables;
    out->scanned += g->scanned;
    out->stolen += g->stolen;
    out->refilled += g->refilled;
    out->faults += g->faults;
    out->major_faults += g->major_faults;
    for (unsigned file = 0; file < 2; file++) {
        out->refaults[file] += g->refaults[file];
        out->activated[file] += g->restored[file];
        out->restored[file] += g->known_again[file];
    }
}

void pa_ram_read_group(const pa_ram *ram, uint32_t group_id, pa_group_counters *out)
{
    *out = (pa_group_counters){0};
    if (group_id >= ram->count_groups)
        return;
    const group *g = &ram->groups[group_id];
    *out = (pa_group_counters){.limit = g->limit,
                               .swap_limit = g->swap_limit,
                               .usage = g->usage,
                               .usage_peak = g->usage_peak,
                               .usage_swap = g->usage_swap,
                               .high = g->high,
                               .high_hits = g->high_hits,
                               .throttled_ms = g->throttled,
                               .limit_hits = g->limit_hits};
    for (uint32_t i = 0; i < ram->count_groups; i++) {
        if (ram_is_below(ram, i, group_id))
            add_up(&ram->groups[i], out);
    }
}

/* ---- the machine ------------------------------------------------------------------------------ */

/* Zeroed memory that costs nothing until it is touched. */
static void *reserve(uint64_t count, size_t size)
{
    void *at = mmap(NULL, count * size + 1, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return at == MAP_FAILED ? NULL : at;
}

static void unreserve(void *at, uint64_t count, size_t size)
{
    if (at)
        munmap(at, count * size + 1);
}

static bool reserve_arrays(pa_ram *ram)
{
    uint64_t frames = ram->settings.count_frames, slots = ram->settings.count_slots;
    ram->frame = reserve(frames, sizeof *ram->frame);
    ram->maps = reserve(frames, sizeof *ram->maps);
    ram->slot_of = reserve(frames, sizeof *ram->slot_of);
    ram->slot_frame = reserve(slots, sizeof *ram->slot_frame);
    ram->slot_refs = reserve(slots, sizeof *ram->slot_refs);
    ram->slot_group = reserve(slots, sizeof *ram->slot_group);
    ram->slot_shadow = reserve(slots, sizeof *ram->slot_shadow);
    ram->cluster_used = reserve(slots / SHORTEST_RUN + 1, sizeof *ram->cluster_used);
    ram->state = reserve(frames, sizeof *ram->state);
    return device_init(&ram->disk, frames) && ram->slot_shadow && ram->cluster_used && ram->state &&
           ram->frame && ram->maps && ram->slot_of && ram->slot_frame && ram->slot_refs &&
           ram->slot_group;
}

static bool is_valid(const pa_ram_settings *s)
{
    return s->count_frames < NO_FRAME && s->count_slots < NO_FRAME && s->shape <= PA_SHAPE_X86_64 &&
           s->swappiness <= 200 && s->page_cluster <= 5 && s->watermark_min <= s->watermark_low &&
           s->watermark_low <= s->watermark_high && s->count_reserved <= s->count_frames;
}

static pa_ram *new_ram(const pa_ram_settings *settings)
{
    pa_ram *ram = calloc(1, sizeof *ram);
    if (!ram)
        return NULL;
    ram->settings = *settings;
    ram->most_promised = UINT64_MAX;
    if (reserve_arrays(ram))
        return ram;
    pa_ram_drop(ram);
    return NULL;
}

pa_ram *pa_ram_new(const pa_ram_settings *settings)
{
    if (!is_valid(settings))
        return NULL;
    pa_ram *ram = new_ram(settings);
    if (!ram)
        return NULL;
    bool fine = bitmap_init(&ram->frames, settings->count_frames) &&
                bitmap_init(&ram->slots, settings->count_slots) &&
                bitmap_init(&ram->clusters, settings->count_slots / swap_run(ram));
    ram->groups = malloc(sizeof *ram->groups);
    if (!fine || !ram->groups) {
        pa_ram_drop(ram);
        return NULL;
    }
    init_group(&ram->groups[0], NO_GROUP, UINT64_MAX, UINT64_MAX);
    ram->count_groups = 1;
    return ram;
}

void pa_ram_drop(pa_ram *ram)
{
    if (!ram)
        return;
    for (uint32_t i = 0; i < ram->count_mms; i++)
        mm_free(ram->mms[i]);
    object_drop_all(ram);
    free(ram->moves.hint);
    free(ram->streams);
    free(ram->fetches);
    free(ram->mms);
    free(ram->groups);
    bitmap_drop(&ram->frames);
    bitmap_drop(&ram->slots);
    uint64_t frames = ram->settings.count_frames, slots = ram->settings.count_slots;
    unreserve(ram->frame, frames, sizeof *ram->frame);
    unreserve(ram->maps, frames, sizeof *ram->maps);
    unreserve(ram->slot_of, frames, sizeof *ram->slot_of);
    unreserve(ram->slot_frame, slots, sizeof *ram->slot_frame);
    unreserve(ram->slot_refs, slots, sizeof *ram->slot_refs);
    unreserve(ram->slot_group, slots, sizeof *ram->slot_group);
    unreserve(ram->slot_shadow, slots, sizeof *ram->slot_shadow);
    unreserve(ram->cluster_used, slots / SHORTEST_RUN + 1, sizeof *ram->cluster_used);
    unreserve(ram->state, frames, sizeof *ram->state);
    device_drop(&ram->disk, frames);
    bitmap_drop(&ram->clusters);
    free(ram);
}

static bool copy_array(void **to, const void *from, size_t bytes)
{
    *to = malloc(bytes + 1);
    if (*to && bytes)
        memcpy(*to, from, bytes);
    return *to != NULL;
}

static void copy_records(pa_ram *to, const pa_ram *from)
{
    uint64_t frames = from->frames.high, slots = from->slots.high;
    memcpy(to->frame, from->frame, frames * sizeof *to->frame);
    memcpy(to->maps, from->maps, frames * sizeof *to->maps);
    memcpy(to->slot_of, from->slot_of, frames * sizeof *to->slot_of);
    memcpy(to->slot_frame, from->slot_frame, slots * sizeof *to->slot_frame);
    memcpy(to->slot_refs, from->slot_refs, slots * sizeof *to->slot_refs);
    memcpy(to->slot_group, from->slot_group, slots * sizeof *to->slot_group);
    memcpy(to->slot_shadow, from->slot_shadow, slots * sizeof *to->slot_shadow);
    memcpy(to->cluster_used, from->cluster_used,
           (slots / SHORTEST_RUN + 1) * sizeof *to->cluster_used);
    memcpy(to->state, from->state, frames * sizeof *to->state);
}

static bool copy_mms(pa_ram *to, const pa_ram *from)
{
    to->mms = calloc(from->count_mms + 1, sizeof *to->mms);
    if (!to->mms)
        return false;
    to->count_mms = from->count_mms;
    for (uint32_t i = 0; i < from->count_mms; i++) {
        if (from->mms[i] && !(to->mms[i] = mm_copy(from->mms[i], to)))
            return false;
    }
    return true;
}

static bool copy_objects(pa_ram *to, const pa_ram *from)
{
    to->objects = calloc(from->count_objects + 1, sizeof *to->objects);
    if (!to->objects)
        return false;
    for (uint32_t i = 0; i < from->count_objects; i++) {
        const object *o = &from->objects[i];
        object *copy = &to->objects[i];
        to->count_objects = i + 1;
        if (!o->used)
            continue;
        pa_pagetable pages;
        hint_list hints;
        if (!pt_table_copy(&pages, &o->pages))
            return false;
        *copy = *o;
        copy->pages = pages;
        copy->hints = (hint_list){0};
        if (!rmap_copy_hints(&hints, &o->hints))
            return false;
        copy->hints = hints;
    }
    return true;
}

static bool copy_all(pa_ram *to, const pa_ram *from)
{
    void *groups;
    if (!bitmap_copy(&to->frames, &from->frames) || !bitmap_copy(&to->slots, &from->slots) ||
        !bitmap_copy(&to->clusters, &from->clusters))
        return false;
    if (!copy_array(&groups, from->groups, from->count_groups * sizeof *from->groups))
        return false;
    void *streams;
    if (!copy_array(&streams, from->streams, from->count_streams * sizeof *from->streams)) {
        free(groups);
        return false;
    }
    to->streams = streams;
    to->count_streams = from->count_streams;
    to->groups = groups;
    to->count_groups = from->count_groups;
    to->tables = from->tables;
    to->kernel = from->kernel;
    to->promised = from->promised;
    to->most_promised = from->most_promised;
    to->count_anon = from->count_anon;
    to->count_shmem = from->count_shmem;
    to->count_file = from->count_file;
    to->count_dirty = from->count_dirty;
    to->count_cached = from->count_cached;
    to->events = from->events;
    to->has_huge = from->has_huge;
    to->has_zeros = from->has_zeros;
    to->fruitless = from->fruitless;
    to->slot_next = from->slot_next;
    to->window_last = from->window_last;
    to->window_size = from->window_size;
    to->window_hits = from->window_hits;
    if (!device_copy(&to->disk, &from->disk, from->frames.high))
        return false;
    copy_records(to, from);
    return rmap_copy_hints(&to->moves, &from->moves) && copy_objects(to, from) &&
           fetch_copy(to, from) && copy_mms(to, from);
}

pa_ram *pa_ram_copy(const pa_ram *ram)
{
    pa_ram *copy = new_ram(&ram->settings);
    if (copy && !copy_all(copy, ram)) {
        pa_ram_drop(copy);
        return NULL;
    }
    return copy;
}

void pa_ram_read_settings(const pa_ram *ram, pa_ram_settings *out)
{
    *out = ram->settings;
}

int pa_ram_configure(pa_ram *ram, const pa_ram_settings *settings)
{
    const pa_ram_settings *now = &ram->settings;
    if (!is_valid(settings) || settings->count_frames != now->count_frames ||
        settings->count_slots != now->count_slots || settings->shape != now->shape)
        return PA_ERR_INVALID;
    ram->settings = *settings;
    return PA_OK;
}
