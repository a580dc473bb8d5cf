/* SPDX-License-Identifier: MIT
 *
 * lru.c -- the lists that frames are kept on, newest to oldest, and what is in use by kind.
 */
#include "ram.h"

#include <string.h>

/* ---- lists ------------------------------------------------------------------------------------ */

void lru_join(pa_ram *ram, lru *list, uint32_t oldest, uint32_t newest, uint64_t count)
{
    ram->frame[newest].newer = NO_FRAME;
    ram->frame[oldest].older = list->newest;
    if (list->newest != NO_FRAME)
        ram->frame[list->newest].newer = oldest;
    else
        list->oldest = oldest;
    list->newest = newest;
    list->count += count;
}

void lru_cut(pa_ram *ram, lru *list, uint32_t oldest, uint32_t newest, uint64_t count)
{
    uint32_t newer = ram->frame[newest].newer, older = ram->frame[oldest].older;
    if (newer != NO_FRAME)
        ram->frame[newer].older = older;
    else
        list->newest = older;
    if (older != NO_FRAME)
        ram->frame[older].newer = newer;
    else
        list->oldest = newer;
    list->count -= count;
}

static void lru_add(pa_ram *ram, lru *list, uint32_t f)
{
    lru_join(ram, list, f, f, 1);
}

static void lru_remove(pa_ram *ram, lru *list, uint32_t f)
{
    lru_cut(ram, list, f, f, 1);
}

/* The loop, once for each step. */
static inline uint64_t chain(const frame *at, uint32_t f, int32_t step, uint64_t most)
{
    uint64_t n = 1, owner = at->owner;
    for (; n < most; n++, at += step) {
        f += (uint32_t)step;
        owner += (uint64_t)(int64_t)step;
        if (at->newer != f || at[step].owner != owner)
            break;
    }
    return n;
}

uint64_t lru_chain(const pa_ram *ram, uint32_t f, int32_t step, uint64_t most)
{
    const frame *at = &ram->frame[f];
    if (step > 0)
        return chain(at, f, 1, most);
    return chain(at, f, -1, most > f ? (uint64_t)f + 1 : most); /* there is none below frame 0 */
}

/* Frames side by side come to the oldest end one after the other, so that the last is the oldest. */
static void add_oldest(pa_ram *ram, lru *list, uint32_t first, uint64_t count)
{
    uint32_t newer = list->oldest, last = first + (uint32_t)count - 1;
    if (newer != NO_FRAME)
        ram->frame[newer].older = first;
    else
        list->newest = first;
    frame *at = &ram->frame[first];
    for (uint32_t i = 0; i < count; i++) {
        at[i].newer = first + i - 1;
        at[i].older = first + i + 1;
    }
    at[0].newer = newer;
    at[count - 1].older = NO_FRAME;
    list->oldest = last;
    list->count += count;
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

static void put(pa_ram *ram, uint32_t f, uint64_t owner)
{
    ram->frame[f].owner = owner;
    count_kind(ram, owner, 1);
    lru_add(ram, home_of(ram, f), f);
}

void ram_put(pa_ram *ram, uint32_t f, uint64_t owner)
{
    put(ram, f, owner);
    batch_add(ram, owner_group(owner), ram_list_of(ram, f), 1);
}

void ram_unput(pa_ram *ram, uint32_t f)
{
    lru_remove(ram, home_of(ram, f), f);
    count_kind(ram, ram->frame[f].owner, -1);
}

void ram_renew(pa_ram *ram, uint32_t f, uint64_t owner)
{
    ram_unput(ram, f);
    put(ram, f, owner);
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

void ram_set_clean(pa_ram *ram, uint32_t f)
{
    ram->frame[f].owner &= ~OWNER_DIRTY;
    ram->count_dirty -= is_file(ram, ram->frame[f].owner);
}

void ram_put_anon_run(pa_ram *ram, uint64_t first, uint64_t count, uint64_t owner)
{
    lru *list = &ram->groups[owner_group(owner)].lists[list_of(owner, false)];
    uint32_t older = list->newest, f = (uint32_t)first;
    if (older != NO_FRAME)
        ram->frame[older].newer = f;
    else
        list->oldest = f;
    frame *at = &ram->frame[f];
    for (uint32_t i = 0; i < count; i++)
        at[i] = (frame){f + i + 1, f + i - 1, owner + i};
    at[0].older = older;
    at[count - 1].newer = NO_FRAME;
    list->newest = f + (uint32_t)count - 1;
    list->count += count;
    ram->count_anon += count;
    batch_add(ram, owner_group(owner), list_of(owner, false), count);
}

void ram_unput_anon_run(pa_ram *ram, uint32_t first, uint64_t count)
{
    lru *list = home_of(ram, first);
    for (uint64_t done = 0, n; done < count; done += n) {
        uint32_t f = first + (uint32_t)done;
        n = lru_chain(ram, f, 1, count - done);
        lru_cut(ram, list, f, f + (uint32_t)n - 1, n);
    }
    ram->count_anon -= count;
}

/* ---- writes that have ended ------------------------------------------------------------------- */

/* Written frames from f on, `most` at most, that are neighbours in a list and were looked at alike;
 * returns how many. */
static uint64_t settle(pa_ram *ram, uint32_t f, uint64_t most)
{
    uint8_t *state = &ram->state[f];
    const uint8_t first = *state;
    uint64_t count = lru_chain(ram, f, 1, most);
    if (!(first & STATE_RECLAIM))
        return 1;
    if (ram->frame[f].owner & OWNER_DIRTY && is_file(ram, ram->frame[f].owner)) {
        *state &= (uint8_t)~STATE_RECLAIM; /* it was written to again and stays where it is */
        return 1;
    }
    uint64_t n = memcmp(state, state + 1, count - 1) ? 1 : count; /* nearly always all of them */
    while (n < count && state[n] == first)
        n++;
    memset(state, first & ~STATE_RECLAIM, n);
    lru_cut(ram, home_of(ram, f), f, f + (uint32_t)n - 1, n);
    for (uint64_t i = 0; i < n && ram->frame[f + i].owner & OWNER_ACTIVE; i++)
        ram->frame[f + i].owner &= ~OWNER_ACTIVE;
    add_oldest(ram, home_of(ram, f), f, n);
    return n;
}

void ram_settle(pa_ram *ram)
{
    uint32_t first, count;
    if (ram->count_fetches)
        fetch_settle(ram);
    while ((count = device_take_written(&ram->disk, &ram->settings.costs, &first))) {
        for (uint64_t done = 0; done < count;)
            done += settle(ram, first + (uint32_t)done, count - done);
    }
}
