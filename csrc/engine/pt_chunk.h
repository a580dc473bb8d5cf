/* SPDX-License-Identifier: MIT
 *
 * pt_chunk.h -- the accessors of a chunk, and what of them is known when a file is compiled.
 *
 * Workload: a call of malloc or free reads and writes some ten words of some five chunks.  What that
 * costs is decided by what need not be asked: the shift of a unit, the rules of a generation,
 * whether a check can fail at all.  So the parts that do the work (pt_bins.h, pt_tcache.h,
 * pt_malloc.h, pt_free.h) are templates, compiled once for everything (pt_any.c) and once more for
 * each loop over a trace (pt_loop.h), which says beforehand what it knows:
 *
 *     PT_RULES   the generation; else it is looked up in h->pf
 *     PT_CALM    that nothing is out of the ordinary.  Whoever defines it asks pt_is_calm() before
 *                each call:
 *                  - the heap is sound: only what the allocator gave was freed, and once, so that
 *                    no check of its integrity can fail;
 *                  - pages are undisturbed: what was written once is still there, so that only
 *                    memory that never held a header may have to be touched;
 *                  - it is the first thread's call, in the main arena.
 *     PT_PART    what precedes the functions of a part: nothing, or `static inline`
 *
 * Included by pt.h, in the middle.
 */
#ifndef PA_PT_CHUNK_H
#define PA_PT_CHUNK_H

#ifndef PT_PART
#define PT_PART
#endif

#ifdef PT_CALM
enum { CALM = 1 };
#else
enum { CALM = 0 };
#endif

#ifdef PT_RULES
static const pt_profile known_rules = {PT_RULES};

static inline const pt_profile *rules(const pt *h)
{
    (void)h;
    return &known_rules;
}
#else
static inline const pt_profile *rules(const pt *h)
{
    return h->pf;
}
#endif

/* ---- units ------------------------------------------------------------------------------------ */

static inline uint32_t unit_shift(const pt *h)
{
    return rules(h)->word == 8 ? 4 : 3;
}

/* log2 of the units between two chunk sizes */
static inline uint32_t align_units_log(const pt *h)
{
    return (rules(h)->align == 16 ? 4 : 3) - unit_shift(h);
}

static inline uint64_t bytes_of(const pt *h, uint64_t units)
{
    return units << unit_shift(h);
}

/* Of the main heap if all is calm, else of any segment. */
static inline uint64_t address_of(const pt *h, pa_unit c)
{
    return CALM ? h->sh.origin + bytes_of(h, c) : pa_shadow_address(&h->sh, c);
}

/* User memory begins one unit (two words) after the chunk. */
static inline uint64_t mem_of(const pt *h, pa_unit c)
{
    return address_of(h, c) + bytes_of(h, 1);
}

static inline pa_unit chunk_of(const pt *h, uint64_t mem)
{
    return pa_shadow_unit(&h->sh, mem - bytes_of(h, 1));
}

/* ---- chunks ----------------------------------------------------------------------------------- */

typedef struct pt_chunk {
    uint32_t prev_size, size, fd, bk, fd_nextsize, bk_nextsize;
} pt_chunk;

static inline pt_chunk *at(const pt *h, pa_unit c)
{
    return (pt_chunk *)(void *)(h->sh.words + 2 * (size_t)c);
}

static inline uint32_t size_of(const pt *h, pa_unit c)
{
    return at(h, c)->size >> 3;
}

/* The same where a size may be negative, which only 2.3.3 does not notice. */
static inline uint64_t signed_size(const pt *h, pa_unit c)
{
    const uint64_t range = (uint64_t)1 << 29, negative = (uint64_t)1 << 16;
    uint64_t units = size_of(h, c);
    return units < range - negative ? units : units - range;
}

static inline bool prev_in_use(const pt *h, pa_unit c)
{
    return at(h, c)->size & P_INUSE;
}

static inline pa_unit next_of(const pt *h, pa_unit c)
{
    return c + size_of(h, c);
}

/* ---- touching --------------------------------------------------------------------------------- */

/* The real library writes to the memory of this unit. */
static inline void touch(pt *h, pa_unit c)
{
    pa_shadow_note(&h->sh, c);
    if (h->base.mm && c >= h->low)
        heap_touch(&h->base, address_of(h, c));
}

/* The same for memory that holds a header or links already: written before, so there is nothing
 * to do unless somebody else has taken pages away, cleared their bits or shared them since. */
static inline void touch_again(pt *h, pa_unit c)
{
    if (!CALM)
        pa_shadow_note(&h->sh, c);
    if (!CALM && h->base.mm && h->base.mm->disturbed)
        touch(h, c);
}

/* The same `units` behind a header that is there already: on the same page, or on a fresh one. */
static inline void touch_behind(pt *h, pa_unit header, pa_unit units)
{
    const pa_unit page = PAGE_BYTES >> unit_shift(h);
    if (!CALM || (header + units) % page < units)
        touch(h, header + units);
}

/* The thread's tcache struct is written to: counts and entries. */
static inline void touch_tcache(pt *h, const pt_tcache *tc)
{
    if (tc->home < MAPPED_REF)
        touch_again(h, tc->home + 1);
}

/* ---- writing ---------------------------------------------------------------------------------- */

static inline void set_head(pt *h, pa_unit c, uint64_t units, uint32_t flags)
{
    at(h, c)->size = (uint32_t)units << 3 | flags;
    touch(h, c);
}

/* Where a chunk begins already. */
static inline void reset_head(pt *h, pa_unit c, uint64_t units, uint32_t flags)
{
    at(h, c)->size = (uint32_t)units << 3 | flags;
    touch_again(h, c);
}

static inline void set_size(pt *h, pa_unit c, uint64_t units)
{
    set_head(h, c, units, at(h, c)->size & (P_INUSE | N_ARENA));
}

static inline void set_foot(pt *h, pa_unit c, uint64_t units)
{
    at(h, c + (pa_unit)units)->prev_size = (uint32_t)units;
    touch_again(h, c + (pa_unit)units);
}

static inline void set_in_use(pt *h, pa_unit c, uint64_t units)
{
    at(h, c + (pa_unit)units)->size |= P_INUSE;
    touch_again(h, c + (pa_unit)units);
}

/* ---- sizes ------------------------------------------------------------------------------------ */

/* request2size(): chunk units for a request; the caller has refused what is too large. */
static inline uint64_t request_units(const pt *h, uint64_t bytes)
{
    uint64_t align = rules(h)->align;
    uint64_t n = ((bytes + rules(h)->word + align - 1) & ~(align - 1)) >> unit_shift(h);
    return n < MIN_UNITS ? MIN_UNITS : n;
}

static inline bool request_fits(const pt *h, uint64_t bytes)
{
    uint64_t top = rules(h)->word == 8 ? UINT64_MAX : UINT32_MAX;
    return rules(h)->ptrdiff_limit ? bytes <= top >> 1
                                   : bytes < top - 2 * bytes_of(h, MIN_UNITS) + 1;
}

/* The largest size_t: arithmetic of the real library wraps around behind it. */
static inline uint64_t size_mask(const pt *h)
{
    return rules(h)->word == 8 ? UINT64_MAX : UINT32_MAX;
}

/* Which fastbin a chunk size belongs to. */
static inline uint32_t fast_index(uint64_t units)
{
    return (uint32_t)units - MIN_UNITS;
}

/* The largest chunk of a fastbin; in 2.3.3 arenas of threads keep what they were born with. */
static inline uint64_t fast_limit(const pt *h, const pt_arena *a)
{
    if (!CALM && rules(h)->version < 206 && a->index)
        return rules(h)->fast_default >> unit_shift(h);
    return h->max_fast;
}

static inline bool is_small(const pt *h, uint64_t units)
{
    return units < rules(h)->large_border >> unit_shift(h);
}

#endif
