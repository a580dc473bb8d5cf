/* SPDX-License-Identifier: MIT
 *
 * test_replay.c -- a replay gives the same result however often it is stopped on the way.
 */
#include "heap.h"

#include "check.h"

#include <string.h>

enum { ROWS = 20000, BLOCKS = 500, START = 0x10000000 };

typedef struct stream {
    uint8_t op[ROWS];
    uint32_t block[ROWS];
    uint64_t size[ROWS];
} stream;

/* Mallocs, reallocs and frees of live blocks only. */
static stream *make_stream(void)
{
    stream *s = calloc(1, sizeof *s);
    static bool live[BLOCKS];
    uint64_t seed = 7;
    for (size_t i = 0; i < ROWS; i++) {
        uint32_t block = next_random(&seed) % BLOCKS, kind = next_random(&seed) % 8;
        s->block[i] = block;
        s->size[i] = next_random(&seed) % (kind == 7 ? 60000 : 900) + 1;
        s->op[i] = live[block] ? (kind ? PA_OP_FREE : PA_OP_REALLOC) : PA_OP_MALLOC;
        live[block] = s->op[i] != PA_OP_FREE;
    }
    return s;
}

typedef struct result {
    uint64_t address[ROWS];
    uint64_t brk[ROWS];
    uint64_t stops;
    pa_replay_totals totals;
    pa_mm_counters pages;
} result;

/* With a lease nothing is asked; without, every growth is. */
static result *run_on(pa_heap *heap, const stream *s, bool leased)
{
    result *got = calloc(1, sizeof *got);
    uint64_t values[PA_SAMPLE_FIELDS * 11];
    CHECK(heap);
    if (leased)
        pa_heap_lease(heap, (uint64_t)START + (1u << 30), 0, UINT64_MAX >> 12);
    pa_columns in = {.count = ROWS, .op = s->op, .block = s->block, .size = s->size};
    pa_outputs out = {.address = got->address, .brk = got->brk};
    pa_samples samples = {.values = values, .room = 11, .every = ROWS / 10};
    pa_replay *replay = pa_replay_new(heap, &in, &out, &samples, PA_TOUCH_NONE);
    CHECK(replay);
    while (pa_replay_run(replay) == PA_PENDING) {
        CHECK(pa_replay_stop(replay)->reason == PA_STOP_BRK);
        pa_replay_answer(replay, pa_replay_stop(replay)->address);
        got->stops++;
    }
    pa_replay_read_totals(replay, &got->totals);
    CHECK(pa_heap_check(heap) == PA_OK);
    pa_replay_drop(replay);
    return got;
}

static result *run(const stream *s, const char *allocator, bool leased)
{
    pa_heap *heap = pa_heap_new(allocator, 8, START, 1);
    result *got = run_on(heap, s, leased);
    pa_heap_drop(heap);
    return got;
}

/* A heap in place of a spent one does what a new one does, whatever the spent one was. */
static void spent_heaps_leave_nothing(const stream *s, const char *allocator, const char *before)
{
    result *fresh = run(s, allocator, true);
    pa_heap *heap = pa_heap_new(before, 8, (uint64_t)START + 12345 * 16, 1);
    free(run_on(heap, s, true));
    CHECK(pa_heap_is_small(heap));
    heap = pa_heap_renew(heap, allocator, 8, START, 1);
    result *again = run_on(heap, s, true);
    CHECK(memcmp(fresh, again, sizeof *again) == 0);
    pa_heap_drop(heap);
    free(fresh);
    free(again);
}

static void stops_change_nothing(const stream *s, const char *allocator)
{
    result *free_running = run(s, allocator, true), *stopped = run(s, allocator, false);
    CHECK(free_running->stops == 0 && stopped->stops > 0);
    CHECK(memcmp(free_running->address, stopped->address, sizeof stopped->address) == 0);
    CHECK(memcmp(free_running->brk, stopped->brk, sizeof stopped->brk) == 0);
    CHECK(memcmp(&free_running->totals, &stopped->totals, sizeof stopped->totals) == 0);
    CHECK(stopped->totals.calls == ROWS && stopped->totals.samples == 10);
    free(free_running);
    free(stopped);
}

/* Every page held is counted once, and every byte of a chunk. */
static void layouts_add_up(const stream *s, const char *allocator)
{
    pa_heap *heap = pa_heap_new(allocator, 8, START, 1);
    pa_columns in = {.count = ROWS, .op = s->op, .block = s->block, .size = s->size};
    pa_outputs out = {0};
    pa_samples samples = {0};
    CHECK(heap);
    pa_heap_lease(heap, (uint64_t)START + (1u << 30), 0, UINT64_MAX >> 12);
    pa_replay *replay = pa_replay_new(heap, &in, &out, &samples, PA_TOUCH_NONE);
    CHECK(replay && pa_replay_run(replay) == PA_OK);
    pa_layout layout;
    pa_heap_statistics held;
    CHECK(pa_heap_read_layout(heap, &layout) == PA_OK);
    pa_heap_read_statistics(heap, &held);
    uint64_t pages = 0, total = held.bytes_system + held.bytes_mapped;
    for (size_t i = 0; i < PA_TENTHS; i++)
        pages += layout.pages_by_tenth[i];
    CHECK(pages == layout.pages_held && pages << 12 == total);
    CHECK(layout.bytes_used + layout.bytes_free <= total);
    CHECK(layout.bytes_used + layout.bytes_free + 4096 > total);
    CHECK(layout.bytes_largest_free <= layout.bytes_free && layout.count_free);
    pa_replay_peak peak;
    pa_replay_totals totals;
    pa_replay_read_peak(replay, &peak);
    pa_replay_read_totals(replay, &totals);
    CHECK(peak.heap.bytes_system + peak.heap.bytes_mapped == totals.held_peak);
    CHECK(totals.ratio_sum >= (double)totals.allocated); /* A is never below P here */
    pa_replay_drop(replay);
    pa_heap_drop(heap);
}

/* The same rows by the allocator's own loop, and one by one as a trace with threads is done: pages
 * and all. */
static result *run_on_pages(const stream *s, const char *allocator, uint32_t word, bool one_by_one)
{
    static const uint32_t thread[ROWS];
    const pa_ram_settings settings = {.count_frames = 1 << 16, .shape = PA_SHAPE_X86_64};
    result *got = calloc(1, sizeof *got);
    pa_ram *ram = pa_ram_new(&settings);
    pa_mm *mm = pa_mm_new(ram, 0);
    pa_heap *heap = pa_heap_new(allocator, word, START, 1);
    CHECK(got && mm && heap);
    pa_heap_attach(heap, mm);
    pa_heap_lease(heap, (uint64_t)START + (1u << 30), 0, UINT64_MAX >> 12);
    pa_columns in = {.count = ROWS, .op = s->op, .block = s->block, .size = s->size};
    in.thread = one_by_one ? thread : NULL;
    pa_outputs out = {.address = got->address, .brk = got->brk};
    pa_samples none = {0};
    pa_replay *replay = pa_replay_new(heap, &in, &out, &none, PA_TOUCH_WRITE);
    CHECK(replay && pa_replay_run(replay) == PA_OK);
    pa_replay_read_totals(replay, &got->totals);
    pa_mm_read(mm, &got->pages);
    CHECK(pa_heap_check(heap) == PA_OK && pa_ram_check(ram) == PA_OK);
    pa_replay_drop(replay);
    pa_heap_drop(heap);
    pa_mm_drop(mm);
    pa_ram_drop(ram);
    return got;
}

static void paths_change_nothing(const stream *s, const char *allocator, uint32_t word)
{
    result *loop = run_on_pages(s, allocator, word, false);
    result *rows = run_on_pages(s, allocator, word, true);
    CHECK(memcmp(loop, rows, sizeof *loop) == 0);
    free(loop);
    free(rows);
}

/* requested == sum of what is live, by a second count. */
static void totals_are_sums(const stream *s)
{
    result *got = run(s, "best-fit", true);
    uint64_t size[BLOCKS] = {0}, sum = 0, peak = 0;
    for (size_t i = 0; i < ROWS; i++) {
        uint64_t now = s->op[i] == PA_OP_FREE ? 0 : s->size[i];
        sum += now - size[s->block[i]];
        size[s->block[i]] = now;
        peak = sum > peak ? sum : peak;
    }
    CHECK(got->totals.requested == sum);
    CHECK(got->totals.requested_peak == peak);
    free(got);
}

int main(void)
{
    static const char *const allocators[] = {"glibc-2.36", "first-fit", "best-fit", "next-fit",
                                             "worst-fit"};
    stream *s = make_stream();
    for (size_t i = 0; i < sizeof allocators / sizeof *allocators; i++)
        stops_change_nothing(s, allocators[i]), layouts_add_up(s, allocators[i]);
    spent_heaps_leave_nothing(s, "glibc-2.36", "glibc-2.36");
    spent_heaps_leave_nothing(s, "glibc-2.36", "first-fit");
    spent_heaps_leave_nothing(s, "best-fit", "glibc-2.12");
    for (uint32_t i = 0; pa_allocator_name(i); i++) {
        paths_change_nothing(s, pa_allocator_name(i), 8);
        paths_change_nothing(s, pa_allocator_name(i), 4);
    }
    totals_are_sums(s);
    free(s);
    return 0;
}
