/* SPDX-License-Identifier: MIT
 *
 * test_ram.c -- faults, copy on write, swap and groups: what must hold whatever the order.
 */
#include "ram.h"

#include "check.h"

#include <string.h>

static const pa_ram_settings small = {.count_frames = 2000,
                                      .count_slots = 3000,
                                      .watermark_min = 10,
                                      .watermark_low = 20,
                                      .watermark_high = 30,
                                      .shape = PA_SHAPE_X86_64,
                                      .rules = PA_SECOND_LOOK | PA_FREES_DISCARDED,
                                      .swappiness = 60,
                                      .page_cluster = 3};

static const pa_costs disk = {.access = 10,
                              .fault = 1000,
                              .clear = 500,
                              .scan = 500,
                              .unmap = 9000,
                              .read_latency = 45000,
                              .write_latency = 60000,
                              .seek = 10000,
                              .transfer = 2400};

static pa_mm_counters counters(const pa_mm *mm)
{
    pa_mm_counters c;
    pa_mm_read(mm, &c);
    return c;
}

static void first_touch(void)
{
    pa_ram *ram = pa_ram_new(&small);
    pa_mm *mm = pa_mm_new(ram, 0);
    uint64_t done;
    CHECK(pa_mm_touch_anon(mm, 1000, 600, false, &done) == PA_OK && done == 600);
    CHECK(counters(mm).anon == 0 && counters(mm).minor_faults == 600); /* the zero page */
    CHECK(counters(mm).tables[0] == 3 && counters(mm).tables[1] == 1);
    CHECK(pa_mm_touch_anon(mm, 1000, 600, true, &done) == PA_OK);
    CHECK(counters(mm).anon == 600 && counters(mm).minor_faults == 1200);
    CHECK(pa_mm_touch_anon(mm, 1000, 600, true, &done) == PA_OK);
    CHECK(counters(mm).minor_faults == 1200);
    pa_mm_discard(mm, 1024, 512); /* exactly one leaf */
    CHECK(counters(mm).anon == 88 && counters(mm).tables[0] == 2);
    pa_mm_unmap(mm, 1000, 600, 0, 1 << 20);
    CHECK(counters(mm).anon == 0 && counters(mm).tables[0] == 0);
    CHECK(pa_ram_check(ram) == PA_OK);
    pa_ram_drop(ram);
}

static void fork_and_write(void)
{
    pa_ram *ram = pa_ram_new(&small);
    pa_mm *parent = pa_mm_new(ram, 0), *child = pa_mm_new(ram, 0);
    uint64_t done;
    pa_ram_counters r;
    CHECK(pa_mm_touch_anon(parent, 0x100, 100, true, &done) == PA_OK);
    CHECK(pa_mm_share(child, parent, 0x100, 100, false, &done) == PA_OK);
    pa_ram_read(ram, &r);
    CHECK(r.anon_mapped == 100 && counters(child).anon == 100);
    CHECK(pa_mm_touch_anon(child, 0x100, 40, true, &done) == PA_OK); /* 40 copies */
    pa_ram_read(ram, &r);
    CHECK(r.anon_mapped == 140 && pa_ram_check(ram) == PA_OK);
    CHECK(pa_mm_touch_anon(parent, 0x100, 40, true, &done) == PA_OK); /* sole again: no copy */
    pa_ram_read(ram, &r);
    CHECK(r.anon_mapped == 140);
    pa_mm_drop(parent);
    pa_ram_read(ram, &r);
    CHECK(r.anon_mapped == 100 && pa_ram_check(ram) == PA_OK);
    pa_ram_drop(ram);
}

static void to_swap_and_back(void)
{
    pa_ram *ram = pa_ram_new(&small);
    int group_id = pa_ram_add_group(ram, 0, 500, 600);
    pa_mm *mm = pa_mm_new(ram, (uint32_t)group_id);
    uint64_t done;
    CHECK(pa_mm_touch_anon(mm, 0, 1000, true, &done) == PA_OK);
    CHECK(counters(mm).anon + counters(mm).swap == 1000 && counters(mm).swap >= 500);
    CHECK(pa_ram_check(ram) == PA_OK);
    CHECK(pa_mm_touch_anon(mm, 0, 1000, false, &done) == PA_OK);
    CHECK(counters(mm).major_faults > 60 && pa_ram_check(ram) == PA_OK);
    CHECK(pa_mm_touch_anon(mm, 1000, 200, true, &done) == PA_EXHAUSTED); /* 500 + 600 at most */
    CHECK(done < 110 && pa_ram_check(ram) == PA_OK);
    pa_mm_drop(mm);
    pa_group_counters g;
    pa_ram_read_group(ram, (uint32_t)group_id, &g);
    CHECK(g.usage == 0 && g.usage_swap == 0 && g.usage_peak == 500);
    pa_ram_drop(ram);
}

static void files(void)
{
    pa_ram *ram = pa_ram_new(&small);
    pa_mm *mm = pa_mm_new(ram, 0);
    uint32_t file = (uint32_t)pa_ram_add_object(ram, 64, false);
    uint64_t done;
    CHECK(pa_ram_access_object(ram, 0, file, 0, 64 << 12, false, 0, &done) == PA_OK && done == 64);
    pa_view view = {.vpn = 0x1000, .count = 70, .object = file, .around = 16};
    CHECK(pa_mm_touch_object(mm, &view, 0x1000, 64, false, &done) == PA_OK);
    CHECK(counters(mm).minor_faults == 4 && counters(mm).file == 64); /* fault-around */
    CHECK(pa_mm_touch_object(mm, &view, 0x1000, 66, true, &done) == PA_ERR_INVALID && done == 64);
    CHECK(counters(mm).file == 0 && counters(mm).anon == 64); /* private copies */
    pa_ram_resize_object(ram, file, 10 << 12);
    CHECK(pa_ram_object_resident(ram, file) == 10 && pa_ram_check(ram) == PA_OK);
    pa_ram_drop(ram);
}

enum { MMS = 4, SPAN = 1500, STEPS = 4000 };

typedef struct world {
    pa_ram *ram;
    pa_mm *mm[MMS];
    uint32_t file, shmem, stream, group;
    uint64_t seed;
} world;

static void read_or_write(world *w, uint64_t first, uint64_t count, bool write)
{
    uint64_t done, at = (first << 12) + (count % 3 ? 0 : 1000);
    pa_ram_access_object(w->ram, w->group, w->file, at, (first + count) << 12, write, w->stream,
                         &done);
}

static void random_step(world *w)
{
    pa_mm **mm = &w->mm[next_random(&w->seed) % MMS];
    uint64_t vpn = next_random(&w->seed) % SPAN, count = next_random(&w->seed) % 60 + 1, done;
    bool write = next_random(&w->seed) % 2;
    pa_view view = {.vpn = 4096 + vpn, .count = 300, .index = vpn % 200, .around = 16};
    switch (next_random(&w->seed) % 23) {
    case 0:
        pa_mm_unmap(*mm, vpn, count, vpn, vpn + count);
        break;
    case 1:
        pa_mm_discard(*mm, vpn, count * 8);
        break;
    case 2:
        pa_mm_lazy_free(*mm, vpn, count);
        break;
    case 3:
        pa_mm_protect(*mm, vpn, count, write ? PA_WRITE_PRIVATE : PA_READ_ONLY);
        break;
    case 4: /* the range moved to must be empty */
        pa_mm_unmap(*mm, 10000 + vpn, count, 0, 0);
        pa_mm_move(*mm, vpn, 10000 + vpn, count, 0, &done);
        break;
    case 5:
        pa_mm_lock(*mm, vpn, count % 8, write);
        break;
    case 6:
        if (next_random(&w->seed) % 20 == 0) {
            pa_mm_drop(*mm);
            *mm = pa_mm_new(w->ram, 0);
            pa_mm_share(*mm, w->mm[0] == *mm ? w->mm[1] : w->mm[0], 0, SPAN, false, &done);
        }
        break;
    case 7:
        view.object = write ? w->file : w->shmem;
        view.stream = write && count % 5 ? w->stream : 0;
        view.shared = count % 2;
        pa_mm_unmap(*mm, view.vpn, view.count, 0, 0);
        pa_mm_touch_object(*mm, &view, view.vpn, count, count % 3 == 0, &done);
        break;
    case 8:
        pa_ram_resize_object(w->ram, w->shmem, next_random(&w->seed) % (300 << 12));
        read_or_write(w, vpn % 200, count, write);
        read_or_write(w, vpn, count, false);
        break;
    case 9:
        pa_mm_write_zeros(*mm, write);
        pa_ram_forget_object(w->ram, w->file, vpn, count);
        break;
    case 10:
        pa_ram_pass(w->ram, count * 10000, 0);
        break;
    case 11:
        (write ? pa_mm_cool : pa_mm_page_out)(*mm, vpn, count);
        break;
    case 12:
        pa_mm_page_out(*mm, view.vpn, view.count);
        break;
    case 13:
        pa_ram_punch_object(w->ram, write ? w->file : w->shmem, vpn % 200, count);
        break;
    case 14:
        pa_mm_guard(*mm, vpn, count % 9, &done);
        break;
    case 15:
        pa_mm_unguard(*mm, vpn, count);
        break;
    case 16:
        pa_mm_collapse(*mm, vpn & ~(uint64_t)511, true, false);
        break;
    default:
        pa_mm_touch_anon(*mm, vpn, count, write, &done);
    }
}

/* In the memory of `spent`, if there is one. */
static world next_world(pa_ram *spent, uint32_t rules, bool slow)
{
    pa_ram_settings settings = small;
    settings.rules = rules;
    if (slow)
        settings.costs = disk;
    settings.count_frames = 900;
    settings.count_slots = 1200;
    world w = {.ram = pa_ram_renew(spent, &settings), .seed = rules + 1};
    for (int i = 0; i < MMS; i++)
        w.mm[i] = pa_mm_new(w.ram, 0);
    w.file = (uint32_t)pa_ram_add_object(w.ram, SPAN / 2, false);
    w.stream = pa_ram_add_stream(w.ram, rules & PA_ACCOUNTS_NODES ? 256 : 32);
    if (rules & PA_ACCOUNTS_NODES) /* who is in no group pays for none */
        w.group = (uint32_t)pa_ram_add_group(w.ram, 0, 500, 500);
    w.shmem = (uint32_t)pa_ram_add_object(w.ram, 256, true);
    pa_ram_promise_object(w.ram, w.shmem);
    return w;
}

static world new_world(uint32_t rules, bool slow)
{
    return next_world(NULL, rules, slow);
}

static bool same_counters(const world *one, const world *other)
{
    pa_ram_counters a, b;
    pa_ram_read(one->ram, &a);
    pa_ram_read(other->ram, &b);
    bool same = !memcmp(&a, &b, sizeof a) && pa_ram_time(one->ram) == pa_ram_time(other->ram) &&
                one->ram->groups[0].anon_cost == other->ram->groups[0].anon_cost &&
                one->ram->groups[0].age == other->ram->groups[0].age;
    for (int i = 0; i < MMS; i++) {
        pa_mm_counters c = counters(one->mm[i]), d = counters(other->mm[i]);
        same &= !memcmp(&c, &d, sizeof c);
    }
    return same;
}

/* The same frames on the same lists in the same order, with the same owners. */
static bool same_lists(const pa_ram *one, const pa_ram *other)
{
    for (unsigned l = 0; l < LRU_LISTS; l++) {
        uint32_t f = one->groups[0].lists[l].oldest, g = other->groups[0].lists[l].oldest;
        for (; f == g && f != NO_FRAME; f = one->frame[f].newer, g = other->frame[g].newer) {
            if (one->frame[f].owner != other->frame[g].owner ||
                one->slot_of[f] != other->slot_of[g] || one->state[f] != other->state[g])
                return false;
        }
        if (f != g)
            return false;
    }
    return true;
}

/* A long area is written from one end to the other, so that all that reclaim meets are runs. */
static void write_along(world *w)
{
    uint64_t vpn = 20000 + next_random(&w->seed) % 300, count = next_random(&w->seed) % 700 + 1;
    uint64_t done;
    pa_mm *mm = w->mm[next_random(&w->seed) % MMS];
    pa_mm_touch_anon(mm, vpn, count, true, &done);
    if (next_random(&w->seed) % 5 == 0)
        pa_mm_unmap(mm, vpn, count / 2, vpn, vpn + count / 2);
}

/* What is done to runs is what would be done to their pages one by one. */
static void runs_are_nothing_new(uint32_t rules, bool slow)
{
    world w = new_world(rules, slow), single = new_world(rules, slow);
    single.ram->one_by_one = true;
    for (int i = 0; i < STEPS / 4; i++) {
        (i % 3 ? random_step : write_along)(&w);
        (i % 3 ? random_step : write_along)(&single);
        CHECK(same_counters(&w, &single));
        if (i % 50 == 0)
            CHECK(same_lists(w.ram, single.ram) && pa_ram_check(w.ram) == PA_OK);
    }
    pa_ram_drop(w.ram);
    pa_ram_drop(single.ram);
}

/* New pages are not counted on their list until there are enough of them, or somebody drains. */
static void waiting_for_their_list(void)
{
    pa_ram *ram = pa_ram_new(&small);
    pa_mm *mm = pa_mm_new(ram, 0);
    uint64_t done;
    CHECK(pa_mm_touch_anon(mm, 1000, LRU_BATCH - 1, true, &done) == PA_OK);
    CHECK(batch_counted(ram, 0, LRU_INACTIVE_ANON) == 0);
    CHECK(pa_mm_touch_anon(mm, 2000, 1, true, &done) == PA_OK);
    CHECK(batch_counted(ram, 0, LRU_INACTIVE_ANON) == LRU_BATCH);
    CHECK(pa_mm_touch_anon(mm, 3000, 3 * LRU_BATCH + 5, true, &done) == PA_OK);
    CHECK(batch_counted(ram, 0, LRU_INACTIVE_ANON) == 4 * LRU_BATCH);
    CHECK(batch_counted(ram, 0, LRU_INACTIVE_FILE) == 0);
    pa_ram_flush_stats(ram);
    CHECK(ram->groups[0].known.pages[LRU_INACTIVE_ANON] == 4 * LRU_BATCH);
    batch_drain(ram);
    CHECK(batch_counted(ram, 0, LRU_INACTIVE_ANON) == 4 * LRU_BATCH + 5);
    CHECK(pa_ram_check(ram) == PA_OK);
    pa_ram_drop(ram);
}

/* What a machine did is not to be seen in the next one that has its memory. */
static void renewed_is_new(uint32_t rules, bool slow)
{
    world w = new_world(PA_SECOND_LOOK | PA_FREES_DISCARDED, true), fresh = new_world(rules, slow);
    for (int i = 0; i < STEPS / 10; i++)
        (i % 3 ? random_step : write_along)(&w);
    w = next_world(w.ram, rules, slow);
    for (int i = 0; i < STEPS / 10; i++) {
        (i % 3 ? random_step : write_along)(&w);
        (i % 3 ? random_step : write_along)(&fresh);
        CHECK(same_counters(&w, &fresh));
    }
    CHECK(same_lists(w.ram, fresh.ram) && pa_ram_check(w.ram) == PA_OK);
    pa_ram_drop(w.ram);
    pa_ram_drop(fresh.ram);
}

static void anything_goes(uint32_t rules, bool slow)
{
    world w = new_world(rules, slow);
    for (int i = 0; i < STEPS; i++) {
        random_step(&w);
        if (i % 20 == 0)
            CHECK(pa_ram_check(w.ram) == PA_OK);
    }
    pa_ram *copy = pa_ram_copy(w.ram);
    CHECK(copy && pa_ram_check(copy) == PA_OK);
    for (int i = 0; i < MMS; i++)
        pa_mm_drop(w.mm[i]);
    CHECK(pa_ram_check(w.ram) == PA_OK && pa_ram_check(copy) == PA_OK);
    pa_ram_counters c;
    pa_ram_read(w.ram, &c);
    CHECK(c.anon_mapped == 0 && c.tables == 0);
    pa_ram_drop(copy);
    pa_ram_drop(w.ram);
}

static void free_blocks(void)
{
    pa_ram *ram = pa_ram_new(&small);
    uint64_t blocks[PA_BUDDY_ORDERS], count = 0;
    CHECK(pa_ram_free_blocks(ram, 0, 13, 0, blocks) == 0);
    CHECK(blocks[3] == 1 && blocks[2] == 1 && blocks[0] == 1 && blocks[1] == 0);
    CHECK(pa_ram_free_blocks(ram, 0, small.count_frames, 5, blocks) == 5);
    for (unsigned k = 0; k < PA_BUDDY_ORDERS; k++)
        count += blocks[k] << k;
    CHECK(count == small.count_frames - 5);
    pa_ram_drop(ram);
}

static void promised_page_by_page(void)
{
    pa_ram *ram = pa_ram_new(&small);
    uint32_t id = (uint32_t)pa_ram_add_object(ram, 16, true);
    uint64_t done;
    pa_ram_promise_object(ram, id);
    pa_ram_limit_promised(ram, 3);
    CHECK(pa_ram_access_object(ram, 0, id, 0, 16 << 12, true, 0, &done) == PA_OK && done == 3);
    CHECK(pa_ram_access_object(ram, 0, id, 0, 16 << 12, true, 0, &done) == PA_OK && done == 3);
    pa_ram_resize_object(ram, id, 1 << 12);
    CHECK(pa_ram_promised(ram) == 1 && pa_ram_check(ram) == PA_OK);
    pa_ram_drop_object(ram, id);
    CHECK(pa_ram_promised(ram) == 0);
    pa_ram_drop(ram);
}

static void held_back(void)
{
    pa_ram *ram = pa_ram_new(&small);
    uint32_t group = (uint32_t)pa_ram_add_group(ram, 0, UINT64_MAX, 0);
    CHECK(pa_ram_throttle_group(ram, group, 100) == PA_OK);
    pa_mm *mm = pa_mm_new(ram, group);
    uint64_t done, before = pa_ram_time(ram);
    pa_group_counters c;
    CHECK(pa_mm_touch_anon(mm, 4096, 90, true, &done) == PA_OK);
    pa_ram_read_group(ram, group, &c);
    CHECK(c.high_hits == 0 && pa_ram_time(ram) == before);
    CHECK(pa_mm_touch_anon(mm, 4186, 138, true, &done) == PA_OK && done == 138);
    pa_ram_read_group(ram, group, &c);
    CHECK(c.high == 100 && c.high_hits > 0 && c.throttled_ms > 10);
    CHECK(pa_ram_time(ram) == before + c.throttled_ms * 1000000);
    pa_mm_drop(mm);
    pa_ram_drop(ram);
}

static void guards(void)
{
    pa_ram *ram = pa_ram_new(&small);
    pa_mm *mm = pa_mm_new(ram, 0), *child = pa_mm_new(ram, 0);
    uint64_t done;
    CHECK(pa_mm_touch_anon(mm, 512, 512, true, &done) == PA_OK);
    CHECK(pa_mm_guard(mm, 600, 10, &done) == PA_OK && done == 10 && counters(mm).anon == 502);
    CHECK(pa_mm_touch_anon(mm, 512, 512, true, &done) == PA_GUARDED && done == 88);
    pa_mm_discard(mm, 0, 2048); /* guards stay, and so does their table */
    CHECK(counters(mm).tables[0] == 1 && counters(mm).anon == 0);
    CHECK(pa_mm_share(child, mm, 512, 512, false, &done) == PA_OK);
    CHECK(pa_mm_touch_anon(child, 609, 1, false, &done) == PA_GUARDED);
    pa_mm_unguard(mm, 512, 95);
    CHECK(pa_mm_touch_anon(mm, 512, 512, true, &done) == PA_GUARDED && done == 95);
    pa_mm_unmap(mm, 512, 512, 512, 1024);
    CHECK(pa_mm_touch_anon(mm, 512, 512, true, &done) == PA_OK && pa_ram_check(ram) == PA_OK);
    pa_ram_drop(ram);
}

/* 2 MB of which one page was written: whoever advises a part gives the others back. */
static void part_of_huge(void)
{
    pa_ram *ram = pa_ram_new(&small);
    pa_mm *mm = pa_mm_new(ram, 0);
    uint64_t done;
    pa_range_counters in;
    CHECK(pa_mm_touch_huge(mm, 512, 1024, 700, 1, true, &done) == PA_OK);
    CHECK(counters(mm).anon == 512);
    pa_mm_lazy_free(mm, 512, 512);
    pa_mm_read_range(mm, 512, 512, &in);
    CHECK(in.lazy == 512 && in.huge_anon == 512);
    pa_mm_cool(mm, 512, 1);
    pa_mm_read_range(mm, 512, 512, &in);
    CHECK(in.anon == 1 && in.zero == 511 && in.huge_anon == 0 && pa_ram_check(ram) == PA_OK);
    pa_ram_drop(ram);
}

int main(void)
{
    waiting_for_their_list();
    guards();
    part_of_huge();
    held_back();
    free_blocks();
    promised_page_by_page();
    first_touch();
    fork_and_write();
    to_swap_and_back();
    files();
    for (int slow = 0; slow < 2; slow++) {
        uint32_t modern = PA_SECOND_LOOK | PA_FREES_DISCARDED | PA_WORKINGSET | PA_SWAP_AHEAD;
        anything_goes(PA_SECOND_LOOK | PA_FREES_DISCARDED, slow);
        anything_goes(modern | PA_ZERO_MAP | PA_FILLS_HOLES | PA_EXCLUSIVE, slow);
        anything_goes(modern, slow);
        anything_goes(modern | PA_LARGE_FOLIOS, slow);
        anything_goes(modern | PA_LARGE_FOLIOS | PA_FLUSHER | PA_RECENCY, slow);
        anything_goes(modern | PA_LARGE_FOLIOS | PA_FLUSHER | PA_ACCOUNTS_NODES, slow);
        runs_are_nothing_new(modern | PA_LARGE_FOLIOS | PA_ACCOUNTS_NODES, slow);
        runs_are_nothing_new(modern | PA_ZERO_MAP | PA_FLUSHER | PA_RECENCY, slow);
        anything_goes(PA_NEW_ANON_ACTIVE | PA_RECLAIM_MAPPED, slow);
        runs_are_nothing_new(modern | PA_ZERO_MAP | PA_FILLS_HOLES | PA_EXCLUSIVE, slow);
        runs_are_nothing_new(PA_NEW_ANON_ACTIVE | PA_RECLAIM_MAPPED, slow);
        renewed_is_new(modern | PA_ZERO_MAP | PA_SWAP_BY_AREA | PA_EXCLUSIVE, slow);
        anything_goes(PA_NEW_ANON_ACTIVE | PA_RECLAIM_MAPPED | PA_ZERO_IS_FILE, slow);
    }
    return 0;
}
