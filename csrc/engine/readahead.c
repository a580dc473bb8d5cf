/* SPDX-License-Identifier: MIT
 *
 * readahead.c -- how much of a file is read when one page of it is missing.
 *
 * Model of mm/readahead.c and of the faults of mm/filemap.c in Linux 6.12.  Each open file remembers
 * the window that was read last.  A page near the window's end is marked; whoever comes to it has
 * the next, larger window read without waiting for it.  Whoever comes to a page that is still being
 * read waits for the request it is in, not for all of its window.  Since 6.16 each window is read in
 * larger folios than the one before, and ends where one of them would.
 */
#include "ram.h"

#include <stdlib.h>

enum {
    LOTS_OF_MISSES = 100,
    OPTIMAL_PAGES = 320, /* of one request: 1280 kB   */
    MOST_FOLIOS = 256    /* of one bio: BIO_MAX_VECS */
};

uint32_t pa_ram_add_stream(pa_ram *ram, uint32_t pages)
{
    stream *more = realloc(ram->streams, (ram->count_streams + 1) * sizeof *more);
    if (!more)
        return 0;
    ram->streams = more;
    more[ram->count_streams] = (stream){.pages = pages, .prev = UNREAD};
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

/* A window that is being read: neighbours become one request. */
typedef struct reading {
    pa_ram *ram;
    const reader *r;
    uint64_t at, run; /* pages before `at` that are in no request yet      */
    uint32_t folios;  /* that these are                                    */
    uint64_t mark;    /* the folio of this page will start the next window */
    bool noted;       /* there are requests that the disk has not heard of */
} reading;

/* The disk hears of it when all of the window has its folios: until then they stay locked, however long
 * it takes to make room for the rest. */
static void end_request(reading *w)
{
    if (!w->run)
        return;
    fetch_note(w->ram, (fetching){w->r->object, w->at - w->run, w->run, 0});
    w->run = w->folios = 0;
    w->noted = true;
}

static void submit(reading *w)
{
    end_request(w);
    if (w->noted)
        fetch_submit(w->ram);
    w->noted = false;
}

/* False: a part of the folio is cached already, or there is no memory for it. */
static bool read_folio(reading *w, uint64_t index, unsigned order)
{
    uint64_t pages = UINT64_C(1) << order;
    for (uint64_t i = index; i < index + pages; i++) {
        if (is_cached(w->ram, w->r->object, i))
            return false;
    }
    uint32_t f = object_new_folio(w->ram, w->r->group, w->r->object, index, order);
    if (f == NO_FRAME)
        return false;
    bool hole = !extents_has_any(&w->ram->objects[w->r->object].extents, index, pages);
    if ((w->mark & ~(pages - 1)) == index)
        w->ram->state[f] |= STATE_AHEAD;
    if (w->at != index || hole || w->folios == MOST_FOLIOS)
        end_request(w);
    w->at = index + pages;
    if (hole)
        return true; /* zeros: there at once */
    folio all = folio_of(w->ram, f);
    folio_set_state(w->ram, &all, STATE_READING);
    w->run += pages;
    w->folios++;
    w->ram->events.file_read += pages;
    return true;
}

/* Read what is not there of `size` pages, page by page (page_cache_ra_unbounded). */
static void read_pages(reading *w, uint64_t start, uint64_t size, uint64_t async_size)
{
    uint64_t pages = w->ram->objects[w->r->object].count_pages;
    if (start >= pages)
        return;
    size = size < pages - start ? size : pages - start;
    w->mark = async_size ? start + size - async_size : UINT64_MAX;
    for (uint64_t i = start; i < start + size; i++) {
        if (is_cached(w->ram, w->r->object, i))
            submit(w);
        else if (!read_folio(w, i, 0))
            break;
    }
}

static unsigned floor_log2(uint64_t n)
{
    return 63u - (unsigned)__builtin_clzll(n);
}

/* The largest folio that may begin at a page, and fits. */
static unsigned order_at(uint64_t at, uint64_t stop, unsigned most)
{
    unsigned order = most;
    if (at & ((UINT64_C(1) << order) - 1))
        order = (unsigned)__builtin_ctzll(at);
    while (order && at + (UINT64_C(1) << order) > stop)
        order--;
    return order;
}

/* Read the window in folios of its order; after the first that cannot be had, page by page
 * (page_cache_ra_order). */
static void read_stream(pa_ram *ram, const reader *r, stream *s)
{
    uint64_t pages = ram->objects[r->object].count_pages, at = s->start, end = s->start + s->size;
    uint64_t stop = end < pages ? end : pages;
    reading w = {.ram = ram, .r = r, .at = at, .mark = end - s->async_size};
    unsigned most = ram->settings.rules & PA_LARGE_FOLIOS ? floor_log2(s->size) : 0;
    most = most < HUGE_ORDER ? most : HUGE_ORDER;
    s->order = s->order < most ? s->order : most;
    while (at < stop) {
        unsigned order = order_at(at, stop, s->order);
        /* a folio is charged before it is known whether it has a place (filemap_add_folio), and what
         * is there may go for it */
        if (!ram_make_folio_room(ram, r->group, UINT64_C(1) << order) || !read_folio(&w, at, order))
            break;
        at += UINT64_C(1) << order;
    }
    submit(&w);
    if (at < stop)
        read_pages(&w, at, end - at, s->async_size);
    submit(&w);
}

/* ---- read() ----------------------------------------------------------------------------------- */

void readahead_sync(pa_ram *ram, const reader *r, uint64_t index, uint64_t want)
{
    stream *s = &ram->streams[r->stream - 1];
    uint64_t most = most_of(s, want), from_last = index - (s->prev >> 12);
    if (!index || want > most || from_last <= 1) {
        s->start = index;
        s->size = first_size(want, most);
        s->async_size = s->size > want ? s->size - want : s->size / 2;
    } else {
        uint64_t miss = cache_prev_miss(ram, r->object, index - 1, most);
        uint64_t before = index - miss - 1;
        if (before <= want) { /* a read on its own */
            reading w = {.ram = ram, .r = r, .at = index};
            read_pages(&w, index, want, 0);
            submit(&w);
            return;
        }
        s->size = (miss == UINT64_MAX ? before * 2 : before) + want;
        s->size = s->size < most ? s->size : most;
        s->start = index;
        s->async_size = 1;
    }
    s->order = 0;
    read_stream(ram, r, s);
}

/* Each window is read in larger folios than the one before, and ends where one of them would. */
static void end_at_border(const pa_ram *ram, stream *s, uint64_t most)
{
    if (!(ram->settings.rules & PA_LARGE_FOLIOS))
        return;
    uint32_t largest = (uint32_t)__builtin_ctzll(most);
    s->order += 2;
    uint64_t border = UINT64_C(1) << (s->order < largest ? s->order : largest);
    uint64_t end = (s->start + s->size) & ~(border - 1);
    if (end > s->start)
        s->size = end - s->start;
}

void readahead_async(pa_ram *ram, const reader *r, uint64_t index, uint64_t want)
{
    stream *s = &ram->streams[r->stream - 1];
    uint64_t most = most_of(s, want);
    uint64_t first, folio_pages = object_folio(ram, r->object, index, &first);
    if (index == ((s->start + s->size - s->async_size) & ~(folio_pages - 1))) {
        s->start += s->size;
        s->size = next_size(s->size, most);
    } else {
        uint64_t start = cache_next_miss(ram, r->object, index + 1, most);
        if (!start || start - index > most)
            return;
        s->start = start;
        s->size = next_size(start - index + want, most);
    }
    end_at_border(ram, s, most);
    s->async_size = s->size;
    read_stream(ram, r, s);
}

bool readahead_is_marked(pa_ram *ram, uint32_t f)
{
    folio all = folio_of(ram, f);
    return ram->state[all.frame] & STATE_AHEAD;
}

bool readahead_was_marked(pa_ram *ram, uint32_t f)
{
    folio all = folio_of(ram, f);
    bool marked = ram->state[all.frame] & STATE_AHEAD && !folio_is_writing(ram, &all);
    if (marked)
        ram->state[all.frame] &= (uint8_t)~STATE_AHEAD;
    return marked;
}

/* ---- mapped files ----------------------------------------------------------------------------- */

static void read_around(stream *s, uint64_t index)
{
    s->start = index > s->pages / 2 ? index - s->pages / 2 : 0;
    s->size = s->pages;
    s->async_size = s->pages / 4;
}

/* Since 6.17 code is read from the fault on to the end of its area, and no further. */
static void read_code(stream *s, const pa_view *view, uint64_t index)
{
    uint64_t left = view->index + view->count - index;
    s->start = index;
    s->size = left < s->pages ? left : s->pages;
    s->async_size = 0;
}

/* Where huge pages are asked for, they are read: this one and the next (6.x). */
static void read_huge(pa_ram *ram, const reader *r, stream *s, const pa_view *view, uint64_t index)
{
    uint64_t start = s->start;
    s->start = index & ~(uint64_t)(HUGE_PAGES - 1);
    s->size = view->random ? HUGE_PAGES : 2 * HUGE_PAGES;
    s->async_size = HUGE_PAGES;
    s->order = HUGE_ORDER;
    read_stream(ram, r, s);
    s->start = start; /* the window before it is not forgotten */
}

void readahead_fault(pa_ram *ram, const reader *r, const pa_view *view, uint64_t index)
{
    stream *s = &ram->streams[r->stream - 1];
    if (view->huge) {
        read_huge(ram, r, s, view, index);
        return;
    }
    if (view->sequential) {
        readahead_sync(ram, r, index, s->pages);
        return;
    }
    if (s->misses < LOTS_OF_MISSES * 10)
        s->misses++;
    if (s->misses > LOTS_OF_MISSES)
        return;
    if (view->executable && ram->settings.rules & PA_LARGE_FOLIOS)
        read_code(s, view, index);
    else
        read_around(s, index);
    s->order = 0;
    read_stream(ram, r, s);
}

bool readahead_hit(pa_ram *ram, const reader *r, uint32_t f, uint64_t index)
{
    stream *s = &ram->streams[r->stream - 1];
    if (s->misses)
        s->misses--;
    bool marked = readahead_was_marked(ram, f);
    if (marked)
        readahead_async(ram, r, index, s->pages);
    return marked;
}

void readahead_mapped(pa_ram *ram, uint32_t stream_id, uint64_t pages)
{
    stream *s = &ram->streams[stream_id - 1];
    s->misses -= s->misses < pages ? s->misses : (uint32_t)pages;
}
