/* SPDX-License-Identifier: MIT
 *
 * space.c -- the address space of a process that has a machine to itself: what its kernel answers.
 *
 * Workload: the same trace again and again under other settings, where nothing is ever refused for
 * want of memory and nobody asks for /proc/PID/maps.  What is left of the kernel is where mappings
 * go, so every question of a heap is answered here, without a stop that leaves C.
 *
 * A mapping lies at the end of the highest hole below the base that fits, as Linux places it since
 * 2.6; the break grows from below in a hole of its own.
 *
 *     holes[i].start < holes[i].end < holes[i + 1].start: holes are sorted and never touch
 *     the heap lies in [start of its hole, break), which counts as part of the hole
 */
#include "replay.h"

#include <stdlib.h>
#include <string.h>

enum { PAGE_SHIFT = 12, HUGE_BYTES = 2 << 20 };

typedef struct hole {
    uint64_t start, end;
} hole;

struct pa_space {
    hole *holes;
    size_t count, room;
    uint64_t base;
    bool aligns_huge;
    pa_space_counters counters;
};

static uint64_t page_up(uint64_t bytes)
{
    return (bytes + 4095) & ~UINT64_C(4095);
}

/* ---- holes ------------------------------------------------------------------------------------ */

/* The first hole that ends above address. */
static size_t hole_above(const pa_space *s, uint64_t address)
{
    size_t low = 0, high = s->count;
    while (low < high) {
        size_t mid = (low + high) / 2;
        if (s->holes[mid].end <= address)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

static bool insert_hole(pa_space *s, size_t i, hole h)
{
    if (s->count == s->room) {
        size_t room = s->room * 2;
        hole *more = realloc(s->holes, room * sizeof *more);
        if (!more)
            return false;
        s->holes = more;
        s->room = room;
    }
    memmove(s->holes + i + 1, s->holes + i, (s->count - i) * sizeof *s->holes);
    s->holes[i] = h;
    s->count++;
    return true;
}

static void remove_hole(pa_space *s, size_t i)
{
    s->count--;
    memmove(s->holes + i, s->holes + i + 1, (s->count - i) * sizeof *s->holes);
}

/* Is the whole range in one hole?  *i is its number. */
static bool is_hole(const pa_space *s, uint64_t address, uint64_t length, size_t *i)
{
    *i = hole_above(s, address);
    return *i < s->count && s->holes[*i].start <= address && s->holes[*i].end - address >= length &&
           s->holes[*i].end > address;
}

/* The range, all of which lies in hole i, is in use from now on. */
static bool take(pa_space *s, size_t i, uint64_t address, uint64_t length)
{
    hole *h = &s->holes[i];
    uint64_t end = address + length;
    if (h->start < address && end < h->end) {
        hole above = {end, h->end};
        h->end = address;
        return insert_hole(s, i + 1, above);
    }
    if (h->start < address)
        h->end = address;
    else if (end < h->end)
        h->start = end;
    else
        remove_hole(s, i);
    return true;
}

/* The range, all of it in use, is part of a hole again: *got is the whole of that. */
static bool give(pa_space *s, uint64_t address, uint64_t length, hole *got)
{
    uint64_t end = address + length;
    size_t i = hole_above(s, address);
    bool joins_above = i < s->count && s->holes[i].start == end;
    bool joins_below = i > 0 && s->holes[i - 1].end == address;
    if (joins_above && joins_below) {
        s->holes[i - 1].end = s->holes[i].end;
        remove_hole(s, i);
        i--;
    } else if (joins_above) {
        s->holes[i].start = address;
    } else if (joins_below) {
        s->holes[--i].end = end;
    } else if (!insert_hole(s, i, (hole){address, end})) {
        return false;
    }
    *got = s->holes[i];
    return true;
}

static uint64_t room_of(const hole *h, uint64_t brk)
{
    return h->end - (h->start <= brk && brk < h->end ? brk : h->start);
}

/* Where a new mapping goes: the highest place below the base, else the lowest hole above it; 0:
 * there is none. */
static uint64_t place_anywhere(const pa_space *s, uint64_t brk, uint64_t length, size_t *i)
{
    size_t above = hole_above(s, s->base);
    for (*i = above; (*i)-- > 0;)
        if (room_of(&s->holes[*i], brk) >= length)
            return s->holes[*i].end - length;
    for (*i = above; *i < s->count; ++*i)
        if (room_of(&s->holes[*i], brk) >= length)
            return s->holes[*i].end - length;
    return 0;
}

/* The same; what is whole huge pages long is aligned to them if it can be (thp_get_unmapped_area,
 * 6.7 and later). */
static uint64_t place(const pa_space *s, const pa_heap *heap, uint64_t length, size_t *i)
{
    uint64_t brk = page_up(heap->brk), spare = HUGE_BYTES;
    if (s->aligns_huge && length % HUGE_BYTES == 0) {
        uint64_t found = place_anywhere(s, brk, length + spare, i);
        if (found)
            return (found + spare) & ~(uint64_t)(HUGE_BYTES - 1);
    }
    return place_anywhere(s, brk, length, i);
}

/* How far the break can move up. */
static uint64_t break_limit(const pa_space *s, const pa_heap *heap)
{
    uint64_t brk = page_up(heap->brk);
    size_t i = hole_above(s, brk);
    return i < s->count && s->holes[i].start <= brk ? s->holes[i].end : brk;
}

/* ---- what the kernel does --------------------------------------------------------------------- */

static uint64_t fail(pa_heap *heap)
{
    heap->error = PA_ERR_HOST_NOMEM;
    return 0;
}

static uint64_t serve_mmap(pa_space *s, pa_heap *heap, uint64_t hint, uint64_t length)
{
    size_t i;
    uint64_t address = hint & ~UINT64_C(4095);
    length = page_up(length);
    s->counters.count_mmap++;
    if (!length)
        return 0;
    if (!hint || !is_hole(s, address, length, &i))
        address = place(s, heap, length, &i);
    if (address && !take(s, i, address, length))
        return fail(heap);
    return address;
}

static void drop_pages(pa_heap *heap, uint64_t address, uint64_t length, hole around)
{
    uint64_t brk = page_up(heap->brk);
    if (around.start < brk && brk <= address) /* the heap itself is in the hole */
        around.start = brk;
    if (heap->mm)
        pa_mm_unmap(heap->mm, address >> PAGE_SHIFT, length >> PAGE_SHIFT,
                    around.start >> PAGE_SHIFT, around.end >> PAGE_SHIFT);
}

static void serve_munmap(pa_space *s, pa_heap *heap, uint64_t address, uint64_t length)
{
    hole around;
    length = page_up(length);
    s->counters.count_munmap++;
    if (!length || is_hole(s, address, 1, &(size_t){0}))
        return;
    if (!give(s, address, length, &around)) {
        fail(heap);
        return;
    }
    drop_pages(heap, address, length, around);
}

/* Bytes before both places that are in no use: a page table may move with them (pa_mm_move). */
static uint64_t movable_head(const pa_space *s, const pa_heap *heap, uint64_t old, uint64_t address,
                             uint64_t length)
{
    size_t i;
    uint64_t span = pt_table_leaf_size(&heap->mm->table) << PAGE_SHIFT, head = old & (span - 1);
    bool fits = head && head == (address & (span - 1)) && length >= span - head &&
                is_hole(s, old - head, head, &i) && is_hole(s, address - head, head, &i);
    return fits ? head : 0;
}

/* A mapping that cannot grow where it is moves with its pages. */
static uint64_t move(pa_space *s, pa_heap *heap, const pa_stop *stop, uint64_t length)
{
    size_t i;
    hole around;
    uint64_t done = 0, old = stop->address, had = page_up(stop->old_length);
    uint64_t address = place(s, heap, length, &i);
    if (!address)
        return 0;
    if (!take(s, i, address, length) || !give(s, old, had, &around))
        return fail(heap);
    if (heap->mm &&
        pa_mm_move(heap->mm, old >> PAGE_SHIFT, address >> PAGE_SHIFT, had >> PAGE_SHIFT,
                   movable_head(s, heap, old, address, had) >> PAGE_SHIFT, &done) != PA_OK)
        return fail(heap);
    drop_pages(heap, old, had, around);
    return address;
}

static uint64_t serve_mremap(pa_space *s, pa_heap *heap, const pa_stop *stop)
{
    size_t i;
    hole around;
    uint64_t had = page_up(stop->old_length), length = page_up(stop->length),
             end = stop->address + had;
    s->counters.count_mremap++;
    if (length < had) {
        if (!give(s, stop->address + length, had - length, &around))
            return fail(heap);
        drop_pages(heap, stop->address + length, had - length, around);
    }
    if (length <= had)
        return stop->address;
    if (!is_hole(s, end, length - had, &i))
        return move(s, heap, stop, length);
    return take(s, i, end, length - had) ? stop->address : fail(heap);
}

/* The break goes where no mapping is; the break afterwards. */
static uint64_t serve_brk(const pa_space *s, pa_heap *heap, uint64_t brk)
{
    uint64_t limit = break_limit(s, heap), keep = page_up(brk), had = page_up(heap->brk);
    if (brk < heap->brk_start || keep > limit)
        return heap->brk;
    if (keep < had)
        drop_pages(heap, keep, had - keep, (hole){keep, limit});
    return brk;
}

static void renew_lease(const pa_space *s, pa_heap *heap)
{
    uint64_t limit = break_limit(s, heap);
    pa_heap_lease(heap, limit, 0, limit >> PAGE_SHIFT);
}

/* A row of the trace that is a system call of the program's own. */
static uint64_t serve_row(pa_space *s, pa_heap *heap, const pa_stop *stop)
{
    switch (stop->prot) {
    case PA_OP_SBRK:
        pa_heap_set_break(heap, serve_brk(s, heap, heap->brk + stop->length));
        return 0;
    case PA_OP_MMAP:
        return serve_mmap(s, heap, 0, stop->length);
    case PA_OP_MUNMAP:
        serve_munmap(s, heap, stop->address, stop->length);
        return 0;
    default:
        return 0;
    }
}

/* False: nothing can be answered (the library aborted, or not even this machine has a frame). */
static bool serve(pa_space *s, pa_heap *heap, const pa_stop *stop, uint64_t *answer)
{
    *answer = 0;
    switch (stop->reason) {
    case PA_STOP_BRK:
        *answer = serve_brk(s, heap, stop->address);
        return true;
    case PA_STOP_MMAP:
        *answer = serve_mmap(s, heap, stop->address, stop->length);
        return true;
    case PA_STOP_MREMAP:
        *answer = serve_mremap(s, heap, stop);
        return true;
    case PA_STOP_MUNMAP:
        serve_munmap(s, heap, stop->address, stop->length);
        return true;
    case PA_STOP_MPROTECT:
        s->counters.count_mprotect++;
        return true;
    case PA_STOP_TOUCH:
        *answer = serve_row(s, heap, stop);
        return true;
    default:
        return false;
    }
}

/* ---- public ----------------------------------------------------------------------------------- */

static bool are_holes(const uint64_t *bounds, size_t count)
{
    for (size_t i = 0; i < 2 * count; i++)
        if (bounds[i] & 4095 || (i && bounds[i] <= bounds[i - 1]))
            return false;
    return count;
}

pa_space *pa_space_new(const uint64_t *bounds, size_t count, uint64_t base, bool aligns_huge)
{
    if (!are_holes(bounds, count))
        return NULL;
    size_t room = count < 8 ? 16 : 2 * count;
    pa_space *s = calloc(1, sizeof *s);
    hole *holes = malloc(room * sizeof *holes);
    if (!s || !holes) {
        free(s);
        free(holes);
        return NULL;
    }
    for (size_t i = 0; i < count; i++)
        holes[i] = (hole){bounds[2 * i], bounds[2 * i + 1]};
    *s = (pa_space){
        .holes = holes, .count = count, .room = room, .base = base, .aligns_huge = aligns_huge};
    return s;
}

void pa_space_drop(pa_space *space)
{
    if (space)
        free(space->holes);
    free(space);
}

void pa_space_read(const pa_space *space, pa_space_counters *out)
{
    *out = space->counters;
}

int pa_space_run_to(pa_space *space, pa_replay *replay, uint64_t end)
{
    pa_heap *heap = replay->heap;
    renew_lease(space, heap);
    for (;;) {
        int status = pa_replay_run_to(replay, end);
        if (status != PA_PENDING)
            return status;
        uint64_t answer;
        if (!serve(space, heap, pa_replay_stop(replay), &answer))
            return PA_PENDING;
        renew_lease(space, heap);
        pa_replay_answer(replay, answer);
    }
}

int pa_space_run(pa_space *space, pa_replay *replay)
{
    return pa_space_run_to(space, replay, UINT64_MAX);
}
