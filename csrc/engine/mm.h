/* SPDX-License-Identifier: MIT
 *
 * mm.h -- one process's pages, and the look that spares most page-table walks.
 *
 * Nearly every access of an allocator goes to a page that it has just written.  `hot` remembers
 * such pages: hot[vpn % HOT_PAGES] == vpn says that a write to vpn would change nothing at all
 * (present, writable, dirty, accessed).  Whoever takes a page away, protects it or clears its
 * accessed bit forgets it here.
 */
#ifndef PA_MM_H
#define PA_MM_H

#include "pagetable.h"
#include "pyalloc/pyalloc.h"

enum { HOT_PAGES = 1024 };

struct pa_mm {
    uint64_t hot[HOT_PAGES];
    pa_ram *ram;
    pa_pagetable table;
    uint32_t number, group;
    bool disturbed; /* a page that was written may have to be touched again */
    uint64_t anon, file, shmem, swap, locked;
    uint64_t resident_peak; /* brought up to date before the resident pages get fewer */
    uint64_t recent_peak; /* the same since somebody asked; never above resident_peak   */
    uint64_t minor_faults, major_faults;
};

static inline bool mm_is_hot(const pa_mm *mm, uint64_t vpn)
{
    return mm->hot[vpn & (HOT_PAGES - 1)] == vpn;
}

static inline void mm_set_hot(pa_mm *mm, uint64_t vpn)
{
    mm->hot[vpn & (HOT_PAGES - 1)] = vpn;
}

/* A write to this page means something again. */
static inline void mm_cool(pa_mm *mm, uint64_t vpn)
{
    mm->disturbed = true;
    if (mm_is_hot(mm, vpn))
        mm->hot[vpn & (HOT_PAGES - 1)] = UINT64_MAX;
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

/* Would a write to vpn change nothing?  Then it is hot from now on. */
bool mm_is_settled(pa_mm *mm, uint64_t vpn);

void mm_cool_range(pa_mm *mm, uint64_t vpn, uint64_t count);

/* pa_mm_discard() of pages that their owner knows it has given up. */
void mm_discard(pa_mm *mm, uint64_t vpn, uint64_t count);

#endif
