/* SPDX-License-Identifier: MIT
 *
 * layout.c -- a heap as a whole: its holes, how full its pages are, what a trim would give back.
 *
 * Workload: once at the end of a replay, and whenever somebody asks.  One pass over the chunks in
 * address order, so that a page is counted when the last chunk that lies in it is behind us, and
 * free neighbours are one run when the next chunk in use comes.
 *
 *     sum of pages_by_tenth == pages_held;  bytes_used + bytes_free <= what the heap holds
 */
#include "heap.h"

#include <stdlib.h>
#include <string.h>

enum { PAGE_SHIFT = 12, PAGE_SIZE = 1 << PAGE_SHIFT };

typedef struct survey {
    const pa_heap *heap;
    pa_layout *out;
    uint64_t vpn, bytes; /* the page at hand, and how much of it is in use */
    pa_run run;
    uint64_t span, span_end; /* chunks without a gap between them */
    uint64_t counted; /* first page that pages_backed knows nothing of */
} survey;

static bool is_used(const pa_chunk *c)
{
    return c->state < PA_CHUNK_TCACHE || c->state > PA_CHUNK_TOP;
}

/* ---- pages ------------------------------------------------------------------------------------ */

static void count_pages(survey *s, uint64_t bytes, uint64_t count)
{
    uint64_t tenth = (bytes * (PA_TENTHS - 1) + PAGE_SIZE - 1) / PAGE_SIZE;
    s->out->pages_by_tenth[tenth] += count;
}

static void leave_page(survey *s)
{
    if (s->bytes)
        count_pages(s, s->bytes, 1);
    s->bytes = 0;
}

static void use(survey *s, uint64_t start, uint64_t end)
{
    while (start < end) {
        uint64_t vpn = start >> PAGE_SHIFT, whole = (end - start) >> PAGE_SHIFT;
        if (vpn != s->vpn)
            leave_page(s);
        s->vpn = vpn;
        if (!(start & (PAGE_SIZE - 1)) && whole) {
            count_pages(s, PAGE_SIZE, whole);
            start += whole << PAGE_SHIFT;
            continue;
        }
        uint64_t rest = ((vpn + 1) << PAGE_SHIFT) - start, part = end - start;
        part = part < rest ? part : rest;
        s->bytes += part;
        start += part;
    }
}

/* ---- holes ------------------------------------------------------------------------------------ */

static void count_hole(pa_layout *out, uint64_t bytes)
{
    out->bytes_free += bytes;
    out->count_free++;
    out->squares_free += (double)bytes * (double)bytes;
    if (bytes > out->bytes_largest_free)
        out->bytes_largest_free = bytes;
}

static uint64_t resident_pages(const pa_heap *heap, uint64_t start, uint64_t end)
{
    pa_range_counters c = {0};
    if (heap->mm && start < end)
        pa_mm_read_range(heap->mm, start >> PAGE_SHIFT, (end - start) >> PAGE_SHIFT, &c);
    return c.anon;
}

static void end_run(survey *s)
{
    if (s->run.start != s->run.end && s->heap->vt->trim) {
        pa_trim t = s->heap->vt->trim(s->heap, &s->run);
        s->out->bytes_trimmed += t.bytes;
        s->out->pages_trimmed += resident_pages(s->heap, t.start, t.end);
    }
    s->run = (pa_run){0};
}

/* Only the program's thread empties its tcache, no trim does. */
static void join_run(survey *s, uint64_t start, uint64_t end, const pa_chunk *c)
{
    if (c->state == PA_CHUNK_TCACHE || start != s->run.end || c->arena != s->run.arena)
        end_run(s);
    if (c->state == PA_CHUNK_TCACHE)
        return;
    if (s->run.start == s->run.end)
        s->run = (pa_run){.start = start, .arena = c->arena};
    s->run.end = end;
    s->run.top = c->state == PA_CHUNK_TOP;
}

/* ---- what costs memory ------------------------------------------------------------------------ */

static void end_span(survey *s)
{
    uint64_t first = s->span >> PAGE_SHIFT, end = (s->span_end + PAGE_SIZE - 1) >> PAGE_SHIFT;
    pa_range_counters c = {0};
    first = first > s->counted ? first : s->counted;
    if (s->heap->mm && first < end)
        pa_mm_read_range(s->heap->mm, first, end - first, &c);
    s->out->pages_backed += c.anon + c.swap;
    s->counted = end;
}

static void join_span(survey *s, uint64_t start, uint64_t end)
{
    if (start != s->span_end) {
        end_span(s);
        s->span = start;
    }
    s->span_end = end;
}

/* ---- all of it -------------------------------------------------------------------------------- */

/* A chunk begins with all of its header; of a mapped one all of it is its own. */
static void add(survey *s, const pa_chunk *c, uint64_t header)
{
    uint64_t start = c->address - header, end = start + c->size;
    join_span(s, start, end);
    if (is_used(c)) {
        end_run(s);
        use(s, start, end);
        s->out->bytes_used += c->size;
        s->out->count_used++;
    } else {
        join_run(s, start, end, c);
        count_hole(s->out, c->size);
    }
}

static pa_chunk *list_chunks(const pa_heap *heap, uint64_t *count)
{
    *count = pa_heap_walk(heap, NULL, 0);
    pa_chunk *chunks = malloc((*count + 1) * sizeof *chunks);
    if (chunks)
        *count = pa_heap_walk(heap, chunks, *count);
    return chunks;
}

int pa_heap_read_layout(const pa_heap *heap, pa_layout *out)
{
    uint64_t count;
    pa_heap_statistics held;
    survey s = {.heap = heap, .out = out};
    pa_chunk *chunks = list_chunks(heap, &count);
    if (!chunks)
        return PA_ERR_HOST_NOMEM;
    memset(out, 0, sizeof *out);
    pa_heap_read_statistics(heap, &held);
    for (uint64_t i = 0; i < count; i++)
        add(&s, &chunks[i], held.bytes_header_mapped);
    end_run(&s);
    end_span(&s);
    leave_page(&s);
    free(chunks);
    out->pages_held = (held.bytes_system + held.bytes_mapped + PAGE_SIZE - 1) >> PAGE_SHIFT;
    uint64_t used = 0;
    for (size_t i = 1; i < PA_TENTHS; i++)
        used += out->pages_by_tenth[i];
    out->pages_by_tenth[0] = out->pages_held > used ? out->pages_held - used : 0;
    return PA_OK;
}
