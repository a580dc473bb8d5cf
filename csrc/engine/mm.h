/* SPDX-License-Identifier: MIT
 *
 * mm.h -- one process's pages, and the look that spares most page-table walks.
 *
 * Nearly every access of an allocator goes to a page that was written before.  `hot` remembers such
 * pages, 64 to a group: a bit says that a write to its page would change nothing at all (present,
 * writable, dirty, accessed).  Whoever takes a page away, protects it or clears its accessed bit
 * forgets it here.
 *
 *     hot[g % HOT_GROUPS].group == g, and bit i of its pages is set  =>  page 64 g + i is hot
 */
#ifndef PA_MM_H
#define PA_MM_H

#include "pagetable.h"
#include "pyalloc/pyalloc.h"

enum { HOT_GROUPS = 1024, HOT_SHIFT = 6, HOT_PAGES = 1 << HOT_SHIFT };

typedef struct hot_group {
    uint64_t group, pages;
} hot_group;

/* The counters as they were when a processor last passed on what it had counted (percpu.c). */
typedef struct mm_seen {
    uint64_t anon, file, shmem, swap;
} mm_seen;

/* Pages that are used all the time, each once a period, until one of them is gone (busy.c). */
typedef struct busy_range {
    uint64_t vpn, count;
    uint64_t period, due; /* ns; when the next pass has been made */
    bool stopped;
} busy_range;

struct pa_mm {
    hot_group hot[HOT_GROUPS];
    pa_ram *ram;
    pa_pagetable table;
    uint32_t number, group;
    bool zeros;     /* it writes nothing else at present */
    bool populates; /* its faults are those of mmap, mlock and the like at present */
    bool tries;     /* they are those of advice, which makes a fault that waited once more */
    bool guards;    /* some entry is, or was, a guard */
    bool disturbed; /* a page that was written may have to be touched again */
    bool has_rseq;  /* rseq_vpn is a page that the kernel uses (rseq.c) */
    bool returns;   /* it is using that page */
    uint64_t rseq_vpn, idle_seen;
    uint64_t anon, file, shmem, swap, locked;
    mm_seen seen;
    busy_range busy;
    uint64_t resident_peak; /* brought up to date before the resident pages get fewer */
    uint64_t recent_peak; /* the same since somebody asked; never above resident_peak   */
    uint64_t minor_faults, major_faults;
    uint64_t work; /* ns that a processor worked for it */
    uint64_t ahead_vpn; /* the last page that was read from swap, */
    uint32_t ahead_size, ahead_hits; /* with how many, and how many of those were used */
};

/* Where the group of a page is remembered, if it is. */
static inline hot_group *mm_hot_group(pa_mm *mm, uint64_t vpn)
{
    return &mm->hot[(vpn >> HOT_SHIFT) % HOT_GROUPS];
}

/* The hot pages of vpn's group. */
static inline uint64_t mm_hot_pages(const pa_mm *mm, uint64_t vpn)
{
    const hot_group *g = &mm->hot[(vpn >> HOT_SHIFT) % HOT_GROUPS];
    return g->group == vpn >> HOT_SHIFT ? g->pages : 0;
}

/* Bits of the pages [vpn, vpn + count) that are in vpn's group. */
static inline uint64_t mm_hot_bits(uint64_t vpn, uint64_t count)
{
    uint64_t from = UINT64_MAX << vpn % HOT_PAGES, past = vpn % HOT_PAGES + count;
    return past < HOT_PAGES ? from & ~(UINT64_MAX << past) : from;
}

static inline bool mm_is_hot(const pa_mm *mm, uint64_t vpn)
{
    return mm_hot_pages(mm, vpn) >> vpn % HOT_PAGES & 1;
}

/* Of [vpn, vpn + count), count > 0, each one. */
static inline bool mm_are_hot(const pa_mm *mm, uint64_t vpn, uint64_t count)
{
    for (uint64_t end = vpn + count; vpn < end; vpn = (vpn | (HOT_PAGES - 1)) + 1) {
        if (mm_hot_bits(vpn, end - vpn) & ~mm_hot_pages(mm, vpn))
            return false;
    }
    return true;
}

static inline void mm_set_hot(pa_mm *mm, uint64_t vpn, uint64_t count)
{
    for (uint64_t end = vpn + count; vpn < end; vpn = (vpn | (HOT_PAGES - 1)) + 1) {
        hot_group *g = mm_hot_group(mm, vpn);
        if (g->group != vpn >> HOT_SHIFT)
            *g = (hot_group){vpn >> HOT_SHIFT, 0};
        g->pages |= mm_hot_bits(vpn, end - vpn);
    }
}

/* A write to this page means something again. */
static inline void mm_cool(pa_mm *mm, uint64_t vpn)
{
    mm->disturbed = true;
    if (mm_is_hot(mm, vpn))
        mm_hot_group(mm, vpn)->pages &= ~((uint64_t)1 << vpn % HOT_PAGES);
}

static inline uint64_t mm_resident(const pa_mm *mm)
{
    return mm->anon + mm->file + mm->shmem;
}

static inline void mm_note_peak(pa_mm *mm)
{
    uint64_t resident = mm_resident(mm);
    if (resident <= mm->recent_peak)
        return;
    mm->recent_peak = resident;
    if (resident > mm->resident_peak)
        mm->resident_peak = resident;
}

/* The most pages that were resident since this was last asked. */
static inline uint64_t mm_take_recent_peak(pa_mm *mm)
{
    mm_note_peak(mm);
    uint64_t peak = mm->recent_peak;
    mm->recent_peak = mm_resident(mm);
    return peak;
}

/* `count` accesses are done; a processor has worked for them since its time was `since`. */
void mm_note_work(pa_mm *mm, uint64_t since, uint64_t count);

/* Would a write to vpn change nothing?  Then it is hot from now on. */
bool mm_is_settled(pa_mm *mm, uint64_t vpn);

void mm_cool_range(pa_mm *mm, uint64_t vpn, uint64_t count);

/* pa_mm_discard() of pages that their owner knows it has given up. */
void mm_discard(pa_mm *mm, uint64_t vpn, uint64_t count);

#endif
