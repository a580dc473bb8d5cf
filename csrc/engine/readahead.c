/* SPDX-License-Identifier: MIT
 *
 * readahead.c -- how much of a file is read when one page of it is missing.
 *
 * Model of mm/readahead.c and of the faults of mm/filemap.c in Linux 6.12.  Each open file remembers
 * the window that was read last.  A page near the window's end is marked; whoever comes to it has
 * the next, larger window read without waiting for it.  Pages are single here, where the kernel
 * reads large folios; since 6.16 windows end at the borders that those would have.
 */
#include "ram.h"

#include <stdlib.h>

enum { LOTS_OF_MISSES = 100, OPTIMAL_PAGES = 320 /* of one request: 1280 kB */ };

uint32_t pa_ram_add_stream(pa_ram *ram, uint32_t pages)
{
    stream *more = realloc(ram->streams, (ram->count_streams + 1) * sizeof *more);
    if (!more)
        return 0;
    ram->streams = more;
    more[ram->count_streams] = (stream){.pages = pages};
    return ++ram->count_streams;
}

/* ---- windows ---------------------------------------------------------------------------------- */

static uint64_t first_size(uint64_t want, uint64_t most)
{
    uint64_t size = 1;
    while (size < want)
        size *= 2;
    return size <= most / 32 ? size * 4 : size <= most / 4 ? size * 2 : most;
}

static uint64_t next_size(uint64_t now, uint64_t most)
{
    return now < most / 16 ? now * 4 : now <= most / 2 ? now * 2 : most;
}

static uint64_t most_of(const stream *s, uint64_t want)
{
    uint64_t optimal = want < OPTIMAL_PAGES ? want : OPTIMAL_PAGES;
    return want > s->pages && optimal > s->pages ? optimal : s->pages;
}

static bool is_cached(pa_ram *ram, uint32_t id, uint64_t index)
{
    const uint64_t *entry = object_entry(ram, id, index);
    return entry && *entry & PTE_PRESENT;
}

/* Read what is not there of `size` pages, and mark the one that starts the next window; returns
 * when the disk will have done with it. */
static uint64_t read_window(pa_ram *ram, const reader *r, uint64_t start, uint64_t size,
                            uint64_t async_size)
{
    uint64_t end = ram->disk.now, pages = ram->objects[r->object].count_pages, run = 0;
    const pa_costs *costs = &ram->settings.costs;
    uint64_t stop = start + size < pages ? start + size : pages, mark = start + size - async_size;
    for (uint64_t i = start; i <= stop; i++) {
        bool fresh = i < stop && !is_cached(ram, r->object, i);
        uint32_t f = fresh ? object_new_page(ram, r->group, r->object, i) : NO_FRAME;
        if (f == NO_FRAME) {
            if (run)
                end = device_fetch(&ram->disk, costs, file_place(ram, r->object, i - run), run);
            run = 0;
            if (fresh)
                break; /* no memory for more */
            continue;
        }
        run++;
        ram->events.file_read++;
        if (i == mark && async_size)
            ram->state[f] |= STATE_AHEAD;
    }
    return end;
}

static void read_stream(pa_ram *ram, const reader *r, stream *s)
{
    s->ready_at = read_window(ram, r, s->start, s->size, s->async_size);
}

/* ---- read() ----------------------------------------------------------------------------------- */

/* How many pages right before `index` are cached, at most `most`. */
static uint64_t history(pa_ram *ram, uint32_t id, uint64_t index, uint64_t most)
{
    uint64_t n = 0;
    while (n < most && n < index && is_cached(ram, id, index - 1 - n))
        n++;
    return n;
}

void readahead_sync(pa_ram *ram, const reader *r, uint64_t index, uint64_t want)
{
    stream *s = &ram->streams[r->stream - 1];
    uint64_t most = most_of(s, want), from_last = index - s->last;
    if (!index || want > most || from_last <= 1) {
        s->start = index;
        s->size = first_size(want, most);
        s->async_size = s->size > want ? s->size - want : s->size / 2;
    } else {
        uint64_t before = history(ram, r->object, index, most);
        if (before <= want) { /* a read on its own */
            device_until(&ram->disk, read_window(ram, r, index, want, 0));
            return;
        }
        s->size = (before == index ? before * 2 : before) + want;
        s->size = s->size < most ? s->size : most;
        s->start = index;
        s->async_size = 1;
    }
    s->order = 0;
    read_stream(ram, r, s);
    device_until(&ram->disk, s->ready_at);
}

/* The first page from `index` on that is not cached, looking at `most` of them; 0: none. */
static uint64_t next_miss(pa_ram *ram, uint32_t id, uint64_t index, uint64_t most)
{
    for (uint64_t i = index; i < index + most; i++) {
        if (!is_cached(ram, id, i))
            return i;
    }
    return 0;
}

/* Each window is read in larger folios than the one before, and ends where one of them would. */
static void end_at_border(const pa_ram *ram, stream *s, uint64_t most)
{
    if (!(ram->settings.rules & PA_LARGE_FOLIOS))
        return;
    uint32_t largest = (uint32_t)__builtin_ctzll(most);
    s->order = s->order + 2 < HUGE_ORDER ? s->order + 2 : HUGE_ORDER;
    uint64_t border = UINT64_C(1) << (s->order < largest ? s->order : largest);
    uint64_t end = (s->start + s->size) & ~(border - 1);
    if (end > s->start)
        s->size = end - s->start;
}

void readahead_async(pa_ram *ram, const reader *r, uint64_t index, uint64_t want)
{
    stream *s = &ram->streams[r->stream - 1];
    uint64_t most = most_of(s, want);
    device_until(&ram->disk, s->ready_at); /* the reader has come up with the disk */
    if (index == s->start + s->size - s->async_size) {
        s->start += s->size;
        s->size = next_size(s->size, most);
    } else {
        uint64_t start = next_miss(ram, r->object, index + 1, most);
        if (!start || start - index > most)
            return;
        s->start = start;
        s->size = next_size(start - index + want, most);
    }
    end_at_border(ram, s, most);
    s->async_size = s->size;
    read_stream(ram, r, s);
}

bool readahead_was_marked(pa_ram *ram, uint32_t f)
{
    bool marked = ram->state[f] & STATE_AHEAD && !device_is_writing(&ram->disk, f);
    if (marked)
        ram->state[f] &= (uint8_t)~STATE_AHEAD;
    return marked;
}

/* ---- mapped files ----------------------------------------------------------------------------- */

void readahead_fault(pa_ram *ram, const reader *r, const pa_view *view, uint64_t index)
{
    stream *s = &ram->streams[r->stream - 1];
    if (view->sequential) {
        readahead_sync(ram, r, index, s->pages);
        return;
    }
    if (s->misses < LOTS_OF_MISSES * 10)
        s->misses++;
    if (s->misses > LOTS_OF_MISSES)
        return;
    s->start = index > s->pages / 2 ? index - s->pages / 2 : 0;
    s->size = s->pages;
    s->async_size = s->pages / 4;
    s->order = 0;
    read_stream(ram, r, s);
    device_until(&ram->disk, s->ready_at);
}

void readahead_hit(pa_ram *ram, const reader *r, uint32_t f, uint64_t index)
{
    stream *s = &ram->streams[r->stream - 1];
    if (s->misses)
        s->misses--;
    if (readahead_was_marked(ram, f))
        readahead_async(ram, r, index, s->pages);
}

void readahead_mapped(pa_ram *ram, uint32_t stream_id, uint64_t pages)
{
    stream *s = &ram->streams[stream_id - 1];
    s->misses -= s->misses < pages ? s->misses : (uint32_t)pages;
}
