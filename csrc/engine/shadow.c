/* SPDX-License-Identifier: MIT
 *
 * shadow.c -- reserving, opening and copying the image.
 */
#include "shadow.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { OPEN_STEP = 1 << 20 }; /* units opened at a time: 8 MiB of shadow */
enum { PAGE = 4096, PIECE_SHIFT = 21, PIECE = 1 << PIECE_SHIFT, PIECE_PAGES = PIECE / PAGE };
enum { MOST_KEPT = 1024 }; /* pages that are zeroed by hand; more are given back */
enum { LOOKED_BACK = 16 * PIECE_PAGES, MOST_AHEAD = 64 };

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

#define UNIT_BYTES 8u /* of shadow for each unit */

/* Room for every unit number: a wild link of a damaged heap then reads zeros, it does not crash. */
#define BYTES_WANTED ((uint64_t)UNIT_BYTES << 32)
#define WRITTEN_BYTES ((uint64_t)1 << (32 - SHADOW_PAGE_SHIFT))

static uint64_t units_of_memory(uint32_t unit_shift)
{
    return unit_shift == 4 ? (uint64_t)MAPPED_REF : (uint64_t)1 << 29;
}

static bool open_range(pa_shadow *s, uint64_t first, uint64_t end)
{
    char *at = (char *)s->words + first * UNIT_BYTES;
    return end * UNIT_BYTES <= s->reserved_bytes &&
           mprotect(at, (end - first) * UNIT_BYTES, PROT_READ | PROT_WRITE) == 0;
}

/* At a multiple of a piece. */
static void *reserve_aligned(uint64_t bytes, int prot)
{
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    char *at = mmap(NULL, bytes + PIECE, prot, flags, -1, 0);
    if (at == MAP_FAILED)
        return NULL;
    uint64_t front = -(uintptr_t)at & (PIECE - 1);
    if (front)
        munmap(at, front);
    munmap(at + front + bytes, PIECE - front);
    return at + front;
}

/* A host that refuses promises or limits address space gets the range without access, or a smaller
 * model, down to 256 MiB of shadow. */
static void *reserve(uint64_t *bytes)
{
    void *at = reserve_aligned(*bytes, PROT_READ | PROT_WRITE);
    for (; !at && *bytes >= (uint64_t)512 << 20; at = reserve_aligned(*bytes, PROT_NONE))
        *bytes /= 2;
    return at;
}

static uint8_t *reserve_written(void)
{
    uint8_t *at = mmap(NULL, WRITTEN_BYTES, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return at == MAP_FAILED ? NULL : at;
}

/* ---- clearing --------------------------------------------------------------------------------- */

static uint64_t page_of(const pa_shadow *s, const char *at)
{
    return (uint64_t)(at - (const char *)s->words) / PAGE;
}

/* The next page in [page, end) that was written to, or end. */
static uint64_t next_written(const pa_shadow *s, uint64_t page, uint64_t end)
{
    const uint8_t *found = memchr(s->written + page, 1, end - page);
    return found ? (uint64_t)(found - s->written) : end;
}

static bool few_are_written(const pa_shadow *s, uint64_t page, uint64_t end)
{
    uint64_t count = 0;
    for (page = next_written(s, page, end); page < end && count <= MOST_KEPT; count++)
        page = next_written(s, page + 1, end);
    return count <= MOST_KEPT;
}

static void clear_pages(const pa_shadow *s, uint64_t first, uint64_t end)
{
    char *words = (char *)s->words;
    bool few = few_are_written(s, first, end);
    if (!few && madvise(words + first * PAGE, (end - first) * PAGE, MADV_DONTNEED) == 0) {
        memset(s->written + first, 0, end - first);
        return;
    }
    while ((first = next_written(s, first, end)) < end) {
        memset(words + first * PAGE, 0, PAGE);
        s->written[first++] = 0;
    }
}

void pa_shadow_clear(const pa_shadow *s, char *from, uint64_t bytes)
{
    char *to = from + bytes, *words = (char *)s->words;
    uint64_t first = page_of(s, from + PAGE - 1), end = page_of(s, to);
    if (first >= end) {
        memset(from, 0, bytes);
        return;
    }
    memset(from, 0, (size_t)(words + first * PAGE - from));
    clear_pages(s, first, end);
    memset(words + end * PAGE, 0, (size_t)(to - (words + end * PAGE)));
}

void pa_shadow_note_all(const pa_shadow *s, const char *from, uint64_t bytes)
{
    if (bytes)
        memset(s->written + page_of(s, from), 1,
               page_of(s, from + bytes - 1) - page_of(s, from) + 1);
}

/* ---- reuse ------------------------------------------------------------------------------------ */

bool pa_shadow_is_small(const pa_shadow *s)
{
    uint64_t bytes = (uint64_t)(s->main_end - s->main_first) * UNIT_BYTES;
    return !s->count_segments && bytes <= PIECE - PAGE;
}

/* Zero what was written of [first, end), by whatever allocator; what is not in memory is given back.
 */
static void clear_range(const pa_shadow *s, uint64_t first, uint64_t end)
{
    unsigned char resident[PIECE_PAGES];
    char *at = (char *)s->words + (first & ~(uint64_t)(PAGE - 1));
    uint64_t pages = (end - (first & ~(uint64_t)(PAGE - 1)) + PAGE - 1) / PAGE;
    if (mincore(at, pages * PAGE, resident) != 0)
        memset(resident, 0, sizeof resident);
    for (uint64_t i = 0, run; i < pages; i += run) {
        for (run = 1; i + run < pages && resident[i + run] == resident[i]; run++)
            ;
        if (resident[i] & 1)
            memset(at + i * PAGE, 0, run * PAGE);
        else
            madvise(at + i * PAGE, run * PAGE, MADV_DONTNEED);
    }
    memset(s->written + first / PAGE, 0, pages);
}

/* A small heap's memory serves the next one: its pages are there already. */
static bool take_over(pa_shadow *s, pa_shadow *spare)
{
    if (!spare->words || spare->unit_shift != s->unit_shift || !pa_shadow_is_small(spare))
        return false;
    clear_range(spare, 0, SHADOW_LOW_UNITS * UNIT_BYTES);
    clear_range(spare, (uint64_t)spare->main_first * UNIT_BYTES,
                (uint64_t)spare->main_end * UNIT_BYTES);
    s->words = spare->words;
    s->written = spare->written;
    s->reserved_bytes = spare->reserved_bytes;
    spare->words = NULL;
    spare->written = NULL;
    return true;
}

pa_status pa_shadow_init(pa_shadow *s, uint32_t unit_shift, uint64_t brk_start, pa_shadow *spare)
{
    memset(s, 0, sizeof *s);
    s->unit_shift = unit_shift;
    s->reserved_bytes = BYTES_WANTED;
    if (!take_over(s, spare)) {
        s->words = reserve(&s->reserved_bytes);
        s->written = reserve_written();
    }
    pa_shadow_drop(spare);
    if (!s->words || !s->written) {
        pa_shadow_drop(s);
        return PA_ERR_HOST_NOMEM;
    }
    if (unit_shift == 4)
        s->origin = (brk_start & ~(uint64_t)4095) - ((uint64_t)SHADOW_LOW_UNITS << unit_shift);
    uint64_t units = s->reserved_bytes / UNIT_BYTES, most = units_of_memory(unit_shift);
    units = units < most ? units : most;
    s->main_limit = units < SHADOW_HALF ? (pa_unit)units : SHADOW_HALF;
    if (!open_range(s, 0, unit_shift == 4 ? SHADOW_LOW_UNITS : s->main_limit)) {
        pa_shadow_drop(s);
        return PA_ERR_HOST_NOMEM;
    }
    s->opened = unit_shift == 4 ? SHADOW_LOW_UNITS : s->main_limit;
    s->main_first = s->main_end = (pa_unit)((brk_start - s->origin) >> unit_shift);
    s->piece = (uint32_t)((uint64_t)s->main_first * UNIT_BYTES >> PIECE_SHIFT);
    return PA_OK;
}

void pa_shadow_drop(pa_shadow *s)
{
    if (s->words)
        munmap(s->words, s->reserved_bytes);
    if (s->written)
        munmap(s->written, WRITTEN_BYTES);
    free(s->segments);
    memset(s, 0, sizeof *s);
}

/* ---- pieces ----------------------------------------------------------------------------------- */

static char *piece_at(const pa_shadow *s, uint32_t piece)
{
    return (char *)s->words + ((uint64_t)piece << PIECE_SHIFT);
}

static uint32_t count_written(const pa_shadow *s, uint64_t first, uint64_t end)
{
    uint32_t count = 0;
    for (uint64_t page = first; page < end; page++)
        count += s->written[page];
    return count;
}

/* Are headers in so many pages of the newest pieces that large pages are no waste? */
static bool is_dense(const pa_shadow *s)
{
    uint64_t end = (uint64_t)(s->piece + 1) * PIECE_PAGES,
             first = s->main_first >> SHADOW_PAGE_SHIFT;
    if (end - first > LOOKED_BACK)
        first = end - LOOKED_BACK;
    return count_written(s, first, end) >= (end - first) / 16;
}

/* The main heap grows into its next piece. */
static void enter_piece(pa_shadow *s)
{
    bool dense = is_dense(s);
    s->piece++;
    s->huge = dense && madvise(piece_at(s, s->piece), PIECE, MADV_HUGEPAGE) == 0;
}

/* Where the heap is full of headers, have the pages that it grows by at once, not one by one. */
static void populate(const pa_shadow *s, pa_unit from, pa_unit to)
{
    uint64_t first = ((uint64_t)from * UNIT_BYTES + PAGE - 1) / PAGE;
    uint64_t end = ((uint64_t)to * UNIT_BYTES + PAGE - 1) / PAGE;
    if (s->huge || first >= end || end - first > MOST_AHEAD)
        return;
    if (count_written(s, first - MOST_AHEAD, first) >= MOST_AHEAD * 3 / 4)
        madvise((char *)s->words + first * PAGE, (end - first) * PAGE, MADV_POPULATE_WRITE);
}

void pa_shadow_rest(const pa_shadow *s)
{
    uint64_t end = ((uint64_t)s->main_end * UNIT_BYTES + PAGE - 1) & ~(uint64_t)(PAGE - 1);
    uint64_t past = (uint64_t)(s->piece + 1) << PIECE_SHIFT;
    if (s->huge && end < past)
        madvise((char *)s->words + end, past - end, MADV_DONTNEED);
}

/* ---- opening ---------------------------------------------------------------------------------- */

static bool open_further(pa_shadow *s, uint64_t units)
{
    units = (units + OPEN_STEP - 1) & ~(uint64_t)(OPEN_STEP - 1);
    units = units < s->main_limit ? units : s->main_limit;
    if (!open_range(s, s->opened, units))
        return false;
    s->opened = (pa_unit)units;
    return true;
}

static void grow_main(pa_shadow *s, pa_unit end)
{
    pa_unit from = s->main_end;
    s->main_end = end;
    while (s->piece < (uint64_t)end * UNIT_BYTES >> PIECE_SHIFT)
        enter_piece(s);
    populate(s, from, end);
}

pa_status pa_shadow_open(pa_shadow *s, uint64_t end)
{
    uint64_t units = ((end - s->origin) >> s->unit_shift) + 8;
    if (units > s->main_limit)
        return PA_ERR_LIMIT;
    if (units > s->opened && !open_further(s, units))
        return PA_ERR_HOST_NOMEM;
    if (units > s->main_end)
        grow_main(s, (pa_unit)units);
    return PA_OK;
}

static bool room_for_segment(pa_shadow *s)
{
    if (s->count_segments < s->room_segments)
        return true;
    uint32_t room = s->room_segments ? s->room_segments * 2 : 16;
    pa_segment *more = realloc(s->segments, room * sizeof *more);
    if (!more)
        return false;
    s->segments = more;
    s->room_segments = room;
    return true;
}

/* First run of `count` granules whose address is 0, or GRANULES. */
static uint32_t free_granules(const pa_shadow *s, uint32_t count)
{
    uint32_t run = 0;
    for (uint32_t i = 0; i < GRANULES; i++) {
        run = s->granule[i] ? 0 : run + 1;
        if (run == count)
            return i + 1 - count;
    }
    return GRANULES;
}

/* On i386 a unit is an address, so a segment only has to be known for copying. */
static pa_status note_segment(pa_shadow *s, uint64_t base, uint64_t length)
{
    if (!room_for_segment(s))
        return PA_ERR_HOST_NOMEM;
    s->segments[s->count_segments++] = (pa_segment){base, length, (pa_unit)(base >> 3)};
    return PA_OK;
}

pa_status pa_shadow_add(pa_shadow *s, uint64_t base, uint64_t length)
{
    if (s->unit_shift != 4)
        return note_segment(s, base, length);
    uint64_t bytes = (uint64_t)GRANULE_UNITS << s->unit_shift;
    uint64_t count = (length + bytes - 1) / bytes;
    uint32_t at = count <= GRANULES ? free_granules(s, (uint32_t)count) : GRANULES;
    if (at == GRANULES)
        return PA_ERR_LIMIT;
    if (!room_for_segment(s))
        return PA_ERR_HOST_NOMEM;
    uint64_t first = (uint64_t)SHADOW_HALF + (uint64_t)at * GRANULE_UNITS;
    if (first * UNIT_BYTES >= s->reserved_bytes)
        return PA_ERR_LIMIT;
    if (!open_range(s, first, first + ((length + 4096) >> s->unit_shift)) &&
        !open_range(s, first, first + (length >> s->unit_shift)))
        return PA_ERR_HOST_NOMEM;
    for (uint32_t i = 0; i < count; i++)
        s->granule[at + i] = base + i * bytes;
    s->segments[s->count_segments++] = (pa_segment){base, length, (pa_unit)first};
    return PA_OK;
}

void pa_shadow_remove(pa_shadow *s, uint64_t base)
{
    for (uint32_t i = 0; i < s->count_segments; i++) {
        pa_segment *g = &s->segments[i];
        if (g->base != base)
            continue;
        madvise(s->words + 2 * (size_t)g->first, (g->length >> s->unit_shift) * UNIT_BYTES,
                MADV_DONTNEED); /* written[] may say more than is true */
        uint64_t bytes = (uint64_t)GRANULE_UNITS << s->unit_shift;
        for (uint64_t k = 0; g->first >= SHADOW_HALF && k * bytes < g->length; k++)
            s->granule[((g->first - SHADOW_HALF) >> GRANULE_SHIFT) + k] = 0;
        *g = s->segments[--s->count_segments];
        return;
    }
}

pa_unit pa_shadow_find(const pa_shadow *s, uint64_t address)
{
    for (uint32_t i = 0; i < s->count_segments; i++) {
        const pa_segment *g = &s->segments[i];
        if (address - g->base < g->length)
            return g->first + (pa_unit)((address - g->base) >> s->unit_shift);
    }
    return 0;
}

/* Copy pages that hold anything; untouched shadow stays untouched. */
static void copy_words(const pa_shadow *s, uint32_t *to, const uint32_t *from, uint64_t bytes)
{
    pa_shadow_note_all(s, (const char *)to, bytes);
    for (uint64_t at = 0; at < bytes; at += 4096) {
        uint64_t left = bytes - at < 4096 ? bytes - at : 4096;
        const char *source = (const char *)from + at;
        static const char zero[64];
        bool any = false;
        for (uint64_t k = 0; k < left && !any; k += 64)
            any = memcmp(source + k, zero, left - k < 64 ? left - k : 64) != 0;
        if (any)
            memcpy((char *)to + at, source, left);
    }
}

pa_status pa_shadow_copy(pa_shadow *to, const pa_shadow *from)
{
    *to = *from;
    to->segments = NULL;
    to->room_segments = to->count_segments = 0;
    to->words = reserve(&to->reserved_bytes);
    to->written = reserve_written();
    if (!to->words || !to->written || to->reserved_bytes < from->reserved_bytes ||
        !open_range(to, 0, from->opened)) {
        pa_shadow_drop(to);
        return PA_ERR_HOST_NOMEM;
    }
    for (uint32_t i = 0; i < from->count_segments; i++) {
        const pa_segment *g = &from->segments[i];
        uint64_t units = g->length >> to->unit_shift;
        if (!room_for_segment(to) || !open_range(to, g->first, g->first + units)) {
            pa_shadow_drop(to);
            return PA_ERR_HOST_NOMEM;
        }
        to->segments[to->count_segments++] = *g;
        copy_words(to, to->words + 2 * (size_t)g->first, from->words + 2 * (size_t)g->first,
                   units * UNIT_BYTES);
    }
    copy_words(to, to->words, from->words, SHADOW_LOW_UNITS * UNIT_BYTES);
    size_t first = 2 * (size_t)from->main_first;
    copy_words(to, to->words + first, from->words + first,
               (uint64_t)(from->main_end - from->main_first) * UNIT_BYTES);
    return PA_OK;
}

/* ---- checking --------------------------------------------------------------------------------- */

bool pa_shadow_check(const pa_shadow *s)
{
    static const char zeros[PAGE];
    uint64_t end = s->main_end >> SHADOW_PAGE_SHIFT;
    for (uint64_t page = s->main_first >> SHADOW_PAGE_SHIFT; page < end; page++) {
        if (!s->written[page] && memcmp((const char *)s->words + page * PAGE, zeros, PAGE) != 0)
            return false;
    }
    return true;
}
