/* SPDX-License-Identifier: MIT
 *
 * ram.h -- physical memory of one machine: frames, who has them, and in which order they may go.
 *
 *   frame    16 bytes: two links and the owner          slot    page-sized place in swap
 *   group    a memory cgroup; its usage includes those below it
 *   object   a file in the page cache, or shared memory; its own tree says where each page is
 *
 *     owner  63     62    61         60     59  58 57   48 47      35 34               0
 *          | locked|dirty|referenced|active| kind | group  | mm or   | vpn, index of an |
 *          |       |     |          |      |      |        | object  | object, or slot  |
 *
 * Workload: pages are touched in runs, so frames are taken, charged and linked in runs.  Arrays are
 * reserved for the whole machine and cost host memory only where simulated memory is in use.
 *
 * Page tables and kernel memory are counted, not placed: they take frames away without a number.
 *
 *     frames.count_free == available + tables + kernel + reserved
 *     maps[f] == mappers of f - 1 if its kind is ANON, mappers if it is OBJECT or SLOT
 *     slot_refs[s] == entries (of page tables and objects) that say "swapped to s"
 *     slot_of[f] == s + 1  <=>  slot_frame[s] == f + 1: frame and slot hold the same page
 */
#ifndef PA_RAM_H
#define PA_RAM_H

#include "bitmap.h"
#include "device.h"
#include "mm.h"

typedef enum frame_kind { KIND_FREE = 0, KIND_ANON, KIND_OBJECT, KIND_SLOT } frame_kind;

typedef enum lru_list {
    LRU_INACTIVE_ANON = 0,
    LRU_ACTIVE_ANON,
    LRU_INACTIVE_FILE,
    LRU_ACTIVE_FILE,
    LRU_UNEVICTABLE,
    LRU_LISTS
} lru_list;

/* What is known of a frame besides its owner. */
enum frame_state {
    STATE_RECLAIM = 1,    /* goes as soon as it is written (PG_reclaim)                  */
    STATE_AHEAD = 2,      /* starts the next window (PG_readahead, which is PG_reclaim, too) */
    STATE_WORKINGSET = 4, /* has been on the active list (PG_workingset)                 */
    STATE_ZEROS = 8,      /* holds nothing but zeros: needs no place in swap to be kept  */
    STATE_FOLIO = 16,     /* came in as a part of a large folio of a file                */
    STATE_LAZY = 32,      /* may be dropped unless it is written again (not PG_swapbacked) */
    STATE_LARGE = 64,     /* a part of 2 MB that were made at once and are one still     */
    STATE_READING = 128   /* the disk has not read it yet: reclaim leaves it (PG_locked)  */
};

#define OWNER_ACTIVE (UINT64_C(1) << 60)
#define OWNER_REFERENCED (UINT64_C(1) << 61)
#define OWNER_DIRTY (UINT64_C(1) << 62)
#define OWNER_LOCKED (UINT64_C(1) << 63)

enum {
    PLACE_BITS = 35,
    ID_BITS = 13,
    GROUP_BITS = 10,
    MAX_IDS = (1 << ID_BITS) - 1,
    MAX_GROUPS = 1 << GROUP_BITS,
    RECLAIM_BATCH = 32,
    SHORTEST_RUN_SHIFT = 8,
    SHORTEST_RUN = 1 << SHORTEST_RUN_SHIFT /* of slots that are given out together */
};

#define TICK UINT64_C(4000000) /* ns: HZ is 250 */

#define NO_FRAME UINT32_MAX
#define NO_GROUP UINT32_MAX

typedef struct frame {
    uint32_t newer, older; /* neighbours in the list; NO_FRAME at its ends */
    uint64_t owner;
} frame;

typedef struct lru {
    uint32_t newest, oldest;
    uint64_t count;
} lru;

/* New pages of one list that are not counted there yet (batch.c). */
enum { LRU_BATCH = 31 };

typedef struct batch_share {
    uint32_t group;
    uint16_t list, pages;
} batch_share;

typedef struct lru_batch {
    batch_share share[LRU_BATCH];
    uint32_t count, pages;
} lru_batch;

/* Pages that were read from swap before their process went on on another processor (migrate.c). */
typedef struct left_page {
    uint32_t frame, slot; /* slot: slot_of[frame] */
} left_page;

typedef struct migration {
    left_page left[LRU_BATCH];
    uint32_t count;
    bool away, moves; /* it is elsewhere; it changes while it waits this time */
    uint64_t tick;    /* of the last wait */
} migration;

/* Slots that are given out together, and where they are kept (slots.c). */
typedef enum cluster_home {
    CLUSTER_PARTIAL = 0,
    CLUSTER_REST,
    CLUSTER_FREE,
    CLUSTER_FULL
} cluster_home;

#define NO_CLUSTER UINT32_MAX

typedef struct cluster {
    uint32_t before, after;
    uint16_t used;
    uint8_t home;
} cluster;

typedef struct cluster_list {
    uint32_t first, last;
} cluster_list;

/* What reclaim knows of a group and those below it: counters are added up every two seconds, not
 * whenever they change (rstat). */
typedef struct known {
    uint64_t pages[LRU_LISTS];
    uint64_t restored[2];
} known;

typedef struct group {
    lru lists[LRU_LISTS];
    uint64_t scan_left[LRU_LISTS]; /* 2.6: pages still to be looked at, below one batch */
    uint64_t limit, swap_limit;
    uint64_t usage, usage_peak, usage_swap, tables;
    uint64_t anon_cost, file_cost;
    uint64_t buffers, buffer_pages; /* of written pages of files, and what they take up      */
    uint64_t limit_hits, scanned, stolen, refilled;
    uint64_t faults, major_faults; /* of the processes in it                              */
    uint64_t refaults[2];  /* pages that came back: anonymous, of files                   */
    uint64_t known_again[2]; /* of those that were activated, the ones known as such       */
    uint64_t age;          /* evictions and activations so far (nonresident_age)          */
    uint64_t restored[2];  /* refaults that were activated at once: anonymous, of files   */
    uint64_t restored_seen[2]; /* known.restored at the end of the last reclaim               */
    known known;
    uint64_t high, high_hits;  /* memory.high                                            */
    uint64_t over, throttled;  /* pages taken beyond it, not yet paid for; ms of waiting */
    uint32_t parent, cursor; /* cursor: where the next reclaim of this subtree begins       */
    int prev_priority; /* 2.6: how hard the last sweep had to try */
} group;

/* Under which (mm, vpn - index) an object has been mapped: where to look for its mappers.  Or, of
 * anonymous pages that were moved while others mapped them, how far. */
typedef struct view_hint {
    uint32_t mm;
    int64_t delta;
} view_hint;

typedef struct hint_list {
    view_hint *hint;
    uint32_t count, room;
} hint_list;

/* Which pages of a file have a place on its disk (extents.c): the first `whole`, and those of `rest`. */
typedef struct extents {
    uint64_t whole;
    pa_pagetable rest; /* no levels: none */
    table_pool *pool;
} extents;

typedef struct object {
    pa_pagetable pages; /* index -> frame, or slot */
    uint64_t count_pages, resident;
    uint64_t bytes;         /* its size                                                  */
    uint64_t nodes;         /* of the kernel's tree of these pages,                      */
    uint64_t kernel_pages;  /* what they take up, charged to                             */
    uint32_t kernel_group;  /* whoever made the first                                    */
    hint_list hints;
    extents extents;
    uint8_t order; /* of the largest folio it ever had */
    bool used, shmem;
    bool promised; /* its pages count as promised one by one */
} object;

/* One open file: what was read of it last (file_ra_state). */
typedef struct stream {
    uint64_t start, size, async_size; /* the window; its last async_size pages are read ahead */
    uint64_t prev; /* where the last read() ended (prev_pos); none: UNREAD            */
    uint32_t pages;                   /* of the largest window                                */
    uint32_t misses;                  /* of mapped reads, less the hits                       */
    uint32_t order;                   /* of the folios the next window is read in             */
} stream;

#define UNREAD UINT64_MAX

/* Pages of a file, or slots, that the disk reads until `end`; UNKNOWN: it has not heard of them yet, or
 * (slots) until all that are asked for with them are there. */
typedef struct fetching {
    uint32_t object; /* SWAPPED: slots */
    uint64_t index, count, end;
} fetching;

#define SWAPPED UINT32_MAX
#define UNKNOWN UINT64_MAX

/* Who reads which object, and through which stream. */
typedef struct reader {
    uint32_t group, object, stream;
} reader;

/* An object's entry of a present page: bits 8 to 11 are the order of its folio. */
enum { ORDER_SHIFT = 8, ORDER_MASK = 15 };
/* An entry of a page of a file that was there once: its shadow instead of a frame. */
enum { PTE_SHADOW = 512 };
/* An entry in a node that somebody pays for, whether its page is there or has left a trace (nodes.c). */
enum { PTE_NODE = 16 };
/* An entry of a present page of a file that was written to: it has a buffer head (charge.c). */
enum { PTE_BUFFERS = 64 };
/* An entry of a present page of a file whose data is still to be filled in (not PG_uptodate). */
enum { PTE_BLANK = 128 };

struct pa_ram {
    pa_ram_settings settings;
    pa_bitmap frames, slots;
    frame *frame;
    uint16_t *maps;
    uint32_t *slot_of, *slot_frame;
    uint16_t *slot_refs, *slot_group;
    uint8_t *state;        /* frame_state bits                                           */
    uint32_t *slot_shadow; /* when and how the page left memory (workingset.c)           */
    device disk;
    pa_bitmap clusters; /* runs of slots that are not quite free                          */
    cluster *cluster;
    cluster_list cluster_lists[CLUSTER_FULL];
    uint32_t next_fresh, count_fresh; /* clusters never used: from the one up to the other */
    uint64_t slot_next; /* in the run that is being filled                                 */
    /* Swap read around a slot (cluster).  A kernel boots with 4 hits, which the first page that anybody
     * swaps in uses up: here that was long ago. */
    uint64_t window_last, window_size, window_hits;
    lru_batch batch; /* of the processor at work                                            */
    migration migration;
    group *groups;
    table_pool tables_free;
    pa_mm **mms; /* NULL where a number is not in use */
    object *objects;
    stream *streams; /* number n is at n - 1 */
    uint32_t count_streams;
    fetching *fetches; /* under way, in the order they were asked for */
    uint32_t count_fetches, room_fetches;
    hint_list moves; /* of anonymous pages */
    uint32_t count_groups, count_mms, count_busy, count_objects;
    uint64_t tables, kernel;
    uint64_t promised, most_promised; /* pages of shared memory that are promised as they come */
    uint64_t count_anon, count_shmem, count_file, count_dirty, count_cached;
    pa_ram_counters events; /* only the fields that count events */
    uint64_t flushed; /* the two seconds in which groups' counters were added up last         */
    /* the first frame, + 1, of the folio that a read() has in hand; 0: none */
    uint32_t held;
    uint64_t rests_until; /* kswapd                                                            */
    uint32_t fruitless; /* how often kswapd found nothing, one after another */
    bool reclaiming;
    bool has_huge; /* 2 MB were mapped at once some time */
    bool has_zeros; /* a page of zeros was written some time */
    bool has_forked; /* an anonymous page had two mappers some time */
    bool one_by_one; /* runs have one page: what the tests compare longer ones with */
};

/* ---- frame records ---------------------------------------------------------------------------- */

static inline uint64_t owner_of(frame_kind kind, uint32_t group_id, uint32_t id, uint64_t place)
{
    return (uint64_t)kind << 58 | (uint64_t)group_id << 48 | (uint64_t)id << PLACE_BITS | place;
}

static inline frame_kind owner_kind(uint64_t owner)
{
    return (frame_kind)(owner >> 58 & 3);
}

static inline uint32_t owner_group(uint64_t owner)
{
    return (uint32_t)(owner >> 48 & (MAX_GROUPS - 1));
}

static inline uint32_t owner_id(uint64_t owner)
{
    return (uint32_t)(owner >> PLACE_BITS & MAX_IDS);
}

static inline uint64_t owner_place(uint64_t owner)
{
    return owner & ((UINT64_C(1) << PLACE_BITS) - 1);
}

static inline uint64_t owner_moved(uint64_t owner, uint32_t id, uint64_t place)
{
    return (owner >> (PLACE_BITS + ID_BITS)) << (PLACE_BITS + ID_BITS) | owner_of(0, 0, id, place);
}

/* The list a frame in use is kept on. */
lru_list ram_list_of(const pa_ram *ram, uint32_t f);

static inline uint32_t pte_frame(uint64_t pte)
{
    return (uint32_t)(pte >> PTE_SHIFT);
}

/* A frame is mapped: not swapped out, and not the zero page. */
static inline bool pte_is_frame(uint64_t pte)
{
    return (pte & (PTE_PRESENT | PTE_ZERO)) == PTE_PRESENT;
}

/* ---- taking and giving (charge.c) ------------------------------------------------------------- */

/* Take up to `want` frames in one run for a group, reclaiming if need be; 0: exhausted.  They are
 * charged, and on no list yet. */
uint64_t ram_take(pa_ram *ram, uint32_t group_id, uint64_t want, uint64_t *first);
/* Room for a folio that is not needed at any price (__GFP_NORETRY); false: there is none. */
bool ram_make_folio_room(pa_ram *ram, uint32_t group_id, uint64_t pages);
/* Take `count` frames for a folio, charged at once; false: reclaim tried, and there is no room. */
bool ram_take_folio(pa_ram *ram, uint32_t group_id, uint64_t count, uint32_t *frames);
/* `count` frames from f on that are on nobody's list: uncharge them and give them back. */
void ram_give(pa_ram *ram, uint32_t f, uint64_t count, uint32_t group_id);
/* Take it off its list, uncharge it, give it back. */
void ram_release(pa_ram *ram, uint32_t f);
/* Whether it holds only zeros and is kept in swap without a place there (from 6.12). */
static inline bool ram_is_zero_page(const pa_ram *ram, uint32_t f)
{
    return ram->state[f] & STATE_ZEROS && ram->settings.rules & PA_ZERO_MAP;
}

/* The same for anonymous frames from f on that one entry each maps and no slot knows, up to `most`
 * in one step; returns how many went. */
uint64_t ram_release_sole(pa_ram *ram, uint32_t f, uint64_t most);
/* `count` more pages of files in a memory cgroup have buffer heads, or less. */
void ram_charge_buffers(pa_ram *ram, uint32_t group_id, int64_t count);
/* Page tables: charge `count` to a group; false: exhausted. */
bool ram_charge_tables(pa_ram *ram, uint32_t group_id, uint64_t count);
void ram_uncharge_tables(pa_ram *ram, uint32_t group_id, uint64_t count);

/* Frames that a process can still have; negative: the kernel took more than there is. */
int64_t ram_available(const pa_ram *ram);
uint64_t ram_room(const pa_ram *ram, uint32_t group_id);
bool ram_is_below(const pa_ram *ram, uint32_t group_id, uint32_t ancestor);

/* ---- memory.high (throttle.c) ----------------------------------------------------------------- */

/* How many pages the group may take at once. */
uint64_t throttle_room(const pa_ram *ram, uint32_t group_id);
/* `count` pages were charged to the group: if it is over its limit, pay. */
void throttle(pa_ram *ram, uint32_t group_id, uint64_t count);

/* ---- lists (lru.c) ---------------------------------------------------------------------------- */

/* Neighbours of one list, from `oldest` to `newest`, leave it as a chain; or become its newest. */
void lru_cut(pa_ram *ram, lru *list, uint32_t oldest, uint32_t newest, uint64_t count);
void lru_join(pa_ram *ram, lru *list, uint32_t oldest, uint32_t newest, uint64_t count);
/* How many frames from f on are neighbours in their list, each `step` further and newer, and go on
 * as its owner; `most` at most. */
uint64_t lru_chain(const pa_ram *ram, uint32_t f, int32_t step, uint64_t most);
/* Give the new page its owner and put it at the newest end of the owner's list. */
void ram_put(pa_ram *ram, uint32_t f, uint64_t owner);
/* Take it off its list; whoever does puts it somewhere else, or gives it back. */
void ram_unput(pa_ram *ram, uint32_t f);
/* Give it another owner of the same group, and the newest place in that one's list. */
void ram_renew(pa_ram *ram, uint32_t f, uint64_t owner);
/* Give it another owner of the same group; it keeps its place unless its list is another. */
void ram_rename(pa_ram *ram, uint32_t f, uint64_t owner);
/* Take `count` frames starting at `first` into use as anonymous pages vpn, vpn + 1 ... */
void ram_put_anon_run(pa_ram *ram, uint64_t first, uint64_t count, uint64_t owner);
/* Take them off the one list they are all on. */
void ram_unput_anon_run(pa_ram *ram, uint32_t first, uint64_t count);
/* Change list-deciding bits of a frame's owner, and its list with them. */
void ram_mark(pa_ram *ram, uint32_t f, uint64_t set, uint64_t clear);

/* New pages wait to be counted on their list until there are enough of them, or somebody drains. */
void batch_add(pa_ram *ram, uint32_t group_id, lru_list list, uint64_t pages);
void batch_drain(pa_ram *ram);
/* The pages of a list without those that wait. */
uint64_t batch_counted(const pa_ram *ram, uint32_t group_id, lru_list list);

/* MADV_FREE gave the page up, or it was written since: on to the newest end of the other list. */
void ram_set_lazy(pa_ram *ram, uint32_t f, bool lazy);
/* It is dirty from now on, and keeps its place in its list. */
void ram_set_dirty(pa_ram *ram, uint32_t f);
/* It is clean from now on, and keeps its place, too. */
void ram_set_clean(pa_ram *ram, uint32_t f);
/* Pages whose write has ended by now go where reclaim finds them first. */
void ram_settle(pa_ram *ram);

/* ---- groups (group.c) ------------------------------------------------------------------------- */

void group_init(group *g, uint32_t parent, uint64_t pages, uint64_t pages_swap);

/* ---- time -------------------------------------------------------------------------------------- */

/* A processor works on something `count` times. */
static inline void ram_work(pa_ram *ram, uint64_t ns, uint64_t count)
{
    device_work(&ram->disk, ns * count);
}

/* ---- pages that are one (folio.c) ------------------------------------------------------------- */

/* The frames that are looked at, made active and reclaimed as one: a large folio of a file that is
 * still whole, or one frame. */
typedef struct folio {
    const uint64_t *entry; /* of its first page in the object; NULL: it is `frame` alone */
    uint32_t frame, count;
} folio;

folio folio_large(pa_ram *ram, uint32_t f);

static inline folio folio_of(pa_ram *ram, uint32_t f)
{
    return ram->state[f] & STATE_FOLIO ? folio_large(ram, f) : (folio){NULL, f, 1};
}

static inline uint32_t folio_frame(const folio *all, uint32_t i)
{
    return all->entry ? pte_frame(all->entry[i]) : all->frame;
}

void folio_mark(pa_ram *ram, const folio *all, uint64_t set, uint64_t clear);
void folio_set_state(pa_ram *ram, const folio *all, uint8_t bits);
bool folio_is_writing(const pa_ram *ram, const folio *all);
bool folio_is_dirty(const pa_ram *ram, const folio *all);
/* A part of it must stay, so all of it does. */
bool folio_is_locked(const pa_ram *ram, const folio *all);

/* ---- taking a page away (evict.c) ------------------------------------------------------------- */

typedef enum fate {
    FATE_STAYS, /* no slot for it                           */
    FATE_WRITING, /* it is written first, and mapped by nobody */
    FATE_WRITTEN, /* that took no time: it is free         */
    FATE_FREED
} fate;

fate evict(pa_ram *ram, const struct folio *all);

/* The same for MADV_PAGEOUT: a page of an object that must stay in memory is at least unmapped. */
void evict_now(pa_ram *ram, uint32_t f);
/* Mappings through which the page or folio was used since it was last looked at. */
uint64_t take_references(pa_ram *ram, const struct folio *all);

/* ---- pages that come back (workingset.c) ------------------------------------------------------ */

/* `count` pages of the group leave memory, or become active: the others are so much older. */
void workingset_age(pa_ram *ram, uint32_t group_id, uint64_t count);
/* What is kept in place of `count` pages that leave as one; state: their frame_state. */
uint32_t workingset_shadow(pa_ram *ram, uint32_t group_id, uint8_t state, uint64_t count);
/* `count` pages leave one after the other; their shadows go to shadow[0], shadow[step] ... */
void workingset_leave(pa_ram *ram, uint32_t group_id, uint8_t state, uint32_t *shadow, int32_t step,
                      uint32_t count);
/* `count` pages with this shadow came back as one, the first of them into frame f; true: they are
 * active at once. */
bool workingset_refault(pa_ram *ram, uint32_t group_id, uint32_t f, uint32_t shadow, bool file,
                        uint64_t count);

/* ---- what reclaim knows (stats.c) ------------------------------------------------------------- */

/* The group's counters as they were when they were last added up. */
const known *stats_of(pa_ram *ram, uint32_t group_id);

/* ---- what others use meanwhile (busy.c) -------------------------------------------------------- */

/* Other processors have come as far as the time is by now. */
void busy_go_on(pa_ram *ram);

/* ---- reclaim (reclaim.c) ---------------------------------------------------------------------- */

/* Reclaiming pages of the group cost so much (lru_note_cost). */
void lru_note_cost(pa_ram *ram, uint32_t group_id, bool file, uint64_t cost);
/* Free about `target` frames of the group and those below it (0: of all); how many were freed. */
uint64_t reclaim(pa_ram *ram, uint32_t group_id, uint64_t target);

/* ---- dirty pages of files (flusher.c) ----------------------------------------------------------- */

/* The page's mappings fault before they write again, and it is about to be written. */
void flusher_clean(pa_ram *ram, uint32_t f);
/* The dirty pages of all files are to be written. */
void flusher_wake(pa_ram *ram);
/* Wait until some of what is under way is written. */
void flusher_await(pa_ram *ram);

/* ---- slots (slots.c) -------------------------------------------------------------------------- */

/* The number of the slots given out together that one is among. */
uint64_t slots_cluster_of(const pa_ram *ram, uint64_t slot);
bool slots_init(pa_ram *ram);
bool slots_check(const pa_ram *ram);
/* `count` slots of one cluster and one group are free again. */
void slots_free(pa_ram *ram, uint64_t first, uint64_t count);
/* Of `most` slots from the first on, how many are in its cluster. */
uint64_t slots_in_run(const pa_ram *ram, uint64_t first, uint64_t most);
/* How many slots in a row, `want` at most, the group would get next, and which is the first. */
uint64_t swap_find(const pa_ram *ram, uint32_t group_id, uint64_t want, uint64_t *first);
/* They are the group's from now on, with no reference yet. */
void swap_use(pa_ram *ram, uint32_t group_id, uint64_t first, uint64_t count);

/* ---- swap (swap.c) ---------------------------------------------------------------------------- */

uint64_t swap_room(const pa_ram *ram, uint32_t group_id);
void swap_add_ref(pa_ram *ram, uint64_t slot);
/* Drop one reference; the slot is freed with the last, its cached frame too if nobody maps it. */
void swap_drop_ref(pa_ram *ram, uint64_t slot);
/* The same for up to `most` slots in a row, as many as go in one step; returns how many did. */
uint64_t swap_drop_refs(pa_ram *ram, uint64_t first, uint64_t most);
/* Frame and slot no longer hold the same page; a slot without references is freed. */
void swap_detach(pa_ram *ram, uint32_t f);
/* The frame that holds the slot's page, read in with its neighbours if need be; NO_FRAME: no
 * frame could be had.  *major says that it was read.  mm, vpn: whose page it is; mm is NULL for
 * shared memory. */
uint32_t swap_read(pa_ram *ram, uint32_t group_id, pa_mm *mm, uint64_t vpn, uint64_t slot,
                   bool *major);
/* Where a slot, or a page of a file, is on the disk. */
uint64_t swap_place(uint64_t slot);
uint64_t file_place(const pa_ram *ram, uint32_t id, uint64_t index);
/* More than half of what the group may have is used: slots of pages swapped in are not kept. */
bool swap_is_full(const pa_ram *ram, uint32_t group_id);

/* ---- other processors (migrate.c) ------------------------------------------------------------- */

/* Somebody is about to read from swap, and to wait for it; a page that is read then; is it still in
 * the batch of a processor that was left? */
void migrate_wait(pa_ram *ram);
void migrate_leave(pa_ram *ram, uint32_t f);
bool migrate_has_left(const pa_ram *ram, uint32_t f);

/* ---- who maps a frame (rmap.c) ---------------------------------------------------------------- */

typedef void (*rmap_visit)(pa_mm *mm, uint64_t vpn, uint64_t *pte, void *context);
/* Calls visit for each page-table entry that maps the frame; returns how many there are. */
uint64_t rmap_each(pa_ram *ram, uint32_t f, rmap_visit visit, void *context);
uint64_t rmap_count(const pa_ram *ram, uint32_t f);
/* Pages are to be found in mm at their place + delta; false: no memory on the host. */
bool rmap_hint(hint_list *list, uint32_t mm, int64_t delta);
bool rmap_copy_hints(hint_list *to, const hint_list *from);
void rmap_forget_mm(pa_ram *ram, uint32_t mm);

/* ---- objects (object.c) ----------------------------------------------------------------------- */

/* The frame of page `index`, brought in if need be; NO_FRAME: exhausted.  *major: it was read. */
uint32_t object_page(pa_ram *ram, uint32_t group_id, uint32_t id, uint64_t index, bool *major);
/* A page that was nowhere, put into the cache; of a file its data is still to be read. */
uint32_t object_new_page(pa_ram *ram, uint32_t group_id, uint32_t id, uint64_t index);
/* The same, of a whole folio of 1 << order pages of a file; the frame of its first page. */
uint32_t object_new_folio(pa_ram *ram, uint32_t group_id, uint32_t id, uint64_t index,
                          unsigned order);
/* The entry of a page, or NULL. */
/* Whether a page that is not there yet must not be made: no more may be promised. */
bool object_refuses(pa_ram *ram, uint32_t id, uint64_t index);
uint64_t *object_entry(pa_ram *ram, uint32_t id, uint64_t index);
/* How many pages the folio of page `index` has, and which is its first: 1 unless it was made
 * larger and is still whole. */
uint64_t object_folio(pa_ram *ram, uint32_t id, uint64_t index, uint64_t *first);
/* A page was looked at (read(), or a mapper that is gone now): so was its folio. */
void object_mark_accessed(pa_ram *ram, uint32_t f);
void object_mark_dirty(pa_ram *ram, uint32_t f);
void object_drop_all(pa_ram *ram);

/* ---- places on a file's disk (extents.c) ------------------------------------------------------ */

bool extents_has(extents *e, uint64_t index);
bool extents_has_any(extents *e, uint64_t first, uint64_t count);
void extents_add(extents *e, uint64_t index);
/* [first, end) become holes. */
void extents_cut(extents *e, uint64_t first, uint64_t end);
bool extents_copy(extents *to, const extents *from, table_pool *pool);

/* ---- what is cached next to a page (cachewalk.c) ---------------------------------------------- */

/* The first page from `index` on, or back from it, that the kernel takes for one that is not cached;
 * it looks at `most`.  Back from page 0 is UINT64_MAX. */
uint64_t cache_next_miss(pa_ram *ram, uint32_t id, uint64_t index, uint64_t most);
uint64_t cache_prev_miss(pa_ram *ram, uint32_t id, uint64_t index, uint64_t most);

/* ---- what an object's tree takes up (nodes.c) ------------------------------------------------- */

/* Where a new folio goes: to a node or not, what its entries are marked with, was the node made? */
typedef struct node_place {
    uint64_t mark;
    bool needed, made;
} node_place;

/* Have the node that a folio needs; false: there is no room for it. */
bool nodes_make(pa_ram *ram, object *o, uint32_t group_id, const uint64_t *leaf, uint64_t index,
                unsigned order, node_place *out);
/* No folio came; what was charged stays: the group is full, and must look it. */
void nodes_unmake(object *o, node_place node);
/* Nodes give way to a large folio. */
void nodes_give_way(pa_ram *ram, object *o, const uint64_t *leaf, uint64_t index, uint64_t count);
/* Empty the entry; the node it is in goes if it is the last there. */
void nodes_empty(pa_ram *ram, uint32_t id, uint64_t index, uint64_t *entry);
bool nodes_check(pa_ram *ram, uint32_t id);

/* ---- pages under read (fetch.c) --------------------------------------------------------------- */

/* The disk will read them; until it has, they have STATE_READING, which whoever asks for them has set. */
void fetch_note(pa_ram *ram, fetching what);
/* The disk hears of the parts of files that were noted: when they end is known. */
void fetch_submit(pa_ram *ram);
/* What the disk has read by now is like any other page. */
void fetch_settle(pa_ram *ram);
/* Those that had to wait for one another are all there. */
void fetch_end_unknown(pa_ram *ram);
/* Wait for the oldest; false: there is none. */
bool fetch_wait(pa_ram *ram);
/* Wait until the page of an object is read; false: it is. */
bool fetch_await(pa_ram *ram, uint32_t id, uint64_t index);
bool fetch_copy(pa_ram *to, const pa_ram *from);

/* ---- reading files (readahead.c) -------------------------------------------------------------- */

/* Page `index` is not cached and `want` pages from it on are asked for; or it was marked. */
void readahead_sync(pa_ram *ram, const reader *r, uint64_t index, uint64_t want);
void readahead_async(pa_ram *ram, const reader *r, uint64_t index, uint64_t want);
/* Does the folio of this page start the next window? */
bool readahead_is_marked(pa_ram *ram, uint32_t f);
/* The same; the mark is gone then. */
bool readahead_was_marked(pa_ram *ram, uint32_t f);
/* A fault of a mapped page that is not cached, or is (true: the next window began there); or pages
 * mapped around a fault. */
void readahead_fault(pa_ram *ram, const reader *r, const pa_view *view, uint64_t index);
bool readahead_hit(pa_ram *ram, const reader *r, uint32_t f, uint64_t index);
void readahead_mapped(pa_ram *ram, uint32_t stream_id, uint64_t pages);

/* ---- one mm (mm.c) ---------------------------------------------------------------------------- */

pa_mm *mm_copy(const pa_mm *mm, pa_ram *ram);
void mm_free(pa_mm *mm);

/* A piece of a range that lies in one leaf. */
typedef struct stretch {
    uint64_t vpn, count;
    uint64_t *pte;
} stretch;

/* The next piece of [*vpn, end) that has a leaf; false at the end. */
bool mm_next_stretch(pa_mm *mm, uint64_t *vpn, uint64_t end, stretch *out);
uint64_t mm_end_of(const pa_mm *mm, uint64_t vpn, uint64_t count);
/* The leaf of vpn, made and charged if need be; NULL: see *status. */
uint64_t *mm_leaf_for(pa_mm *mm, uint64_t vpn, pa_status *status);
/* The tables that vpn needs down to the one of level `lowest`, made and charged if need be. */
pa_status mm_make_upper(pa_mm *mm, uint64_t vpn, unsigned lowest);
void mm_drop_entry(pa_mm *mm, uint64_t *pte);
/* Drop all pages of [vpn, end); tables and guards stay. */
void mm_zap(pa_mm *mm, uint64_t vpn, uint64_t end);
/* The counters were changed, each by one sum, or by one page after the other (percpu.c). */
void mm_publish(pa_mm *mm);
void mm_publish_each(pa_mm *mm);
/* Which of the mm's counters of resident pages the frame belongs to. */
uint64_t *mm_resident_counter(pa_mm *mm, uint32_t f);

/* ---- private faults (fault.c) ----------------------------------------------------------------- */

enum { PTE_WRITTEN = PTE_PRESENT | PTE_WRITE | PTE_ACCESSED | PTE_DIRTY };

void fault_count(pa_mm *mm, bool major);
/* The same of one that lets go of the areas while it waits for the disk, and is made again then:
 * populating makes it as a new one, which finds the page (no FAULT_FLAG_TRIED); for advice one that
 * is made `again` is major, whatever it waited for. */
void fault_count_waited(pa_mm *mm, bool major, bool again);
/* The owner of a new anonymous page. */
uint64_t fault_new_owner(const pa_mm *mm, uint64_t vpn);
/* One fault of a private page, or one run of first writes; *n pages are done. */
pa_status fault_anon(pa_mm *mm, uint64_t vpn, uint64_t *pte, uint64_t count, bool write,
                     uint64_t *n);

/* Accesses to pages of private memory, *done of `count`. */
pa_status fault_touch(pa_mm *mm, uint64_t vpn, uint64_t count, bool write, uint64_t *done);

/* Access a page that is there; true if the entry needed no fault. */
static inline bool fault_is_spared(pa_mm *mm, uint64_t vpn, uint64_t *pte, bool write)
{
    if (!(*pte & PTE_PRESENT) || (write && !(*pte & PTE_WRITE)))
        return false;
    *pte |= write ? PTE_ACCESSED | PTE_DIRTY : PTE_ACCESSED;
    if (write)
        mm_set_hot(mm, vpn, 1);
    return true;
}

/* ---- going on (rseq.c) ------------------------------------------------------------------------ */

/* A fault that began at `entered` is over: the kernel may use a page of the process. */
void rseq_return(pa_mm *mm, uint64_t entered);
/* Pages of [vpn, end) are gone, or cannot be written. */
void rseq_forget(pa_mm *mm, uint64_t vpn, uint64_t end);

static inline void mm_return(pa_mm *mm, uint64_t entered)
{
    if (mm->has_rseq)
        rseq_return(mm, entered);
}

/* ---- 2 MB at once (huge.c) -------------------------------------------------------------------- */

enum { HUGE_ORDER = 9, HUGE_PAGES = 1 << HUGE_ORDER };

static inline bool huge_at(const uint64_t *pte)
{
    return *pte & PTE_HUGE;
}

/* The stretch is the whole of a leaf that stands for one big entry. */
bool huge_covers(const pa_mm *mm, const stretch *s);
/* Make small entries of it if it is not that already; false: nothing is left of it. */
bool huge_small(pa_mm *mm, const stretch *s);
/* Small entries instead of the big one at vpn.  A file's are dropped, and their leaf. */
void huge_split(pa_mm *mm, uint64_t vpn);
void huge_drop(pa_mm *mm, uint64_t vpn);
/* The 2 MB around vpn that were made at once are single pages from now on, and those of them that
 * hold only zeros become the zero page (split_folio). */
void huge_break(pa_mm *mm, uint64_t vpn);
/* The dirty and accessed bits of the one entry that the leaf of vpn stands for. */
uint64_t huge_bits(pa_mm *mm, uint64_t vpn);
/* Does nobody else map any page of them? */
bool huge_is_sole(pa_mm *mm, uint64_t vpn);
/* Before a mapped frame is taken away alone: nobody maps it through a big entry any more. */
void huge_isolate(pa_ram *ram, uint32_t f);
/* Map 2 MB of an object at once; false: it does not fit, or *status says why not. */
bool huge_map_object(pa_mm *mm, const pa_view *view, uint64_t vpn, bool write, pa_status *status);
/* A write to a big entry that is not writable; it may be small afterwards. */
pa_status huge_fault_write(pa_mm *mm, uint64_t vpn, uint64_t *pte);

#endif
