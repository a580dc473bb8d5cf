/* SPDX-License-Identifier: MIT
 *
 * shadow.h -- the compressed image of a heap's memory.
 *
 * Each machine word of simulated heap memory is one uint32 here, so chunk headers overlap as they
 * do in real memory.  A unit is two words: 16 bytes on x86-64, 8 on i386.  Units are numbered:
 *
 *     0 .. half-1        the main heap, upwards from `origin` (on i386: the whole address space)
 *     half .. UNITS_END  other segments (thread heaps, mapped tops), in granules of 2^22 units
 *     MAPPED_REF ..      no memory at all: numbers of mmapped chunks, kept in a table elsewhere
 *
 * The whole range is reserved and opened as segments grow, so only pages that hold headers ever cost
 * memory.  Where headers are dense, as they are unless blocks are huge, the main heap grows into
 * pages of 2 MB: a heap far beyond the caches then costs a half of the time.  Whether they are dense
 * is seen in the piece of 2 MB before.
 *
 * A heap that shrinks and grows again finds zeros, and that is done to a few headers in many pages:
 * so it is known which pages were written to, and no page is given back only to be asked for again.
 *
 *     main heap:   address == origin + (unit << unit_shift)
 *     segments:    address == granule[(unit - half) >> 22] + ((unit & 0x3fffff) << unit_shift)
 *     written[p] == 0  =>  page p of the shadow is all zeros (of ptmalloc; else: without headers)
 */
#ifndef PA_SHADOW_H
#define PA_SHADOW_H

#include "pyalloc/pyalloc.h"

typedef uint32_t pa_unit;

enum {
    GRANULE_SHIFT = 22,
    GRANULES = 256,
    SHADOW_LOW_UNITS = 4096, /* units below the main heap, for list heads */
    SHADOW_PAGE_SHIFT = 9,   /* of units: a page of shadow */
};

#define SHADOW_HALF ((pa_unit)1 << 31)
#define MAPPED_REF ((pa_unit)0xC0000000u)
#define GRANULE_UNITS ((pa_unit)1 << GRANULE_SHIFT)

typedef struct pa_segment {
    uint64_t base;   /* address of its first byte           */
    uint64_t length; /* bytes of address space it may cover */
    pa_unit first;
} pa_segment;

typedef struct pa_shadow {
    uint32_t *words;         /* two for each unit                       */
    uint8_t *written;        /* one for each page of words              */
    uint64_t origin;        /* address of unit 0 of the main heap      */
    uint32_t unit_shift;    /* 4 or 3                                  */
    pa_unit opened;        /* main units below this may be touched    */
    pa_unit main_limit;    /* main units that were reserved           */
    pa_unit main_first;    /* the main heap's units in use lie in     */
    pa_unit main_end;      /* [main_first, main_end)                  */
    uint32_t piece;        /* of 2 MB, the newest of the main heap     */
    bool huge;             /* and whether it is one page              */
    uint64_t reserved_bytes;
    uint64_t granule[GRANULES];
    uint32_t count_granules;
    pa_segment *segments;
    uint32_t count_segments, room_segments;
} pa_shadow;

/* `spare`, if any, is a shadow that nobody needs any more: its memory is used if it will do, and
 * dropped if not. */
pa_status pa_shadow_init(pa_shadow *s, uint32_t unit_shift, uint64_t brk_start, pa_shadow *spare);
void pa_shadow_drop(pa_shadow *s);
/* Is it so small that clearing it is cheaper than getting new memory? */
bool pa_shadow_is_small(const pa_shadow *s);
pa_status pa_shadow_copy(pa_shadow *to, const pa_shadow *from);

/* Make the main heap usable below `end` (an address). */
pa_status pa_shadow_open(pa_shadow *s, uint64_t end);

/* The heap rests: give back what the newest piece has beyond the heap's end. */
void pa_shadow_rest(const pa_shadow *s);

/* Take in a segment outside the main heap; nothing to do where units are addresses (i386). */
pa_status pa_shadow_add(pa_shadow *s, uint64_t base, uint64_t length);
void pa_shadow_remove(pa_shadow *s, uint64_t base);

/* The unit of an address outside the main heap, or 0. */
pa_unit pa_shadow_find(const pa_shadow *s, uint64_t address);

/* A word of this unit is about to be written, or has been. */
static inline void pa_shadow_note(const pa_shadow *s, pa_unit u)
{
    s->written[u >> SHADOW_PAGE_SHIFT] = 1;
}

/* Zero `bytes` of shadow from `from` on; and note that all of them may be written. */
void pa_shadow_clear(const pa_shadow *s, char *from, uint64_t bytes);
void pa_shadow_note_all(const pa_shadow *s, const char *from, uint64_t bytes);

/* Is all of the main heap zero that was not written to? */
bool pa_shadow_check(const pa_shadow *s);

static inline uint64_t pa_shadow_address(const pa_shadow *s, pa_unit u)
{
    if (u < SHADOW_HALF)
        return s->origin + ((uint64_t)u << s->unit_shift);
    return s->granule[(u - SHADOW_HALF) >> GRANULE_SHIFT] +
           ((uint64_t)(u & (GRANULE_UNITS - 1)) << s->unit_shift);
}

static inline pa_unit pa_shadow_unit(const pa_shadow *s, uint64_t address)
{
    uint64_t at = (address - s->origin) >> s->unit_shift;
    if (address >= s->origin && at < s->opened)
        return (pa_unit)at;
    return pa_shadow_find(s, address);
}

#endif
