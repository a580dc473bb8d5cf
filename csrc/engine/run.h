/* SPDX-License-Identifier: MIT
 *
 * run.h -- frames that lie side by side, and are looked at, moved and given back in one go.
 *
 * Memory is touched in runs, so pages that were made one after the other are neighbours in their
 * list, in memory, in the page table and in swap, and have the same past.  Reclaim then does to all
 * of them what it does to the first, in plain loops over arrays; a single page is a run of one.
 *
 *     frame(i) == first + i * step, and for all i < count
 *         newer of frame(i) == frame(i + 1)       owner of frame(i) == owner of the first + i * step
 *         same state, no write under way          slot of frame(i)  == slot of the first + i, or none
 *     mapped:  entry of frame(i) == *pte + i frames, and nobody else has one
 *     else:    they are copies of slots that nobody maps (KIND_SLOT)
 */
#ifndef PA_RUN_H
#define PA_RUN_H

#include "ram.h"

typedef struct run {
    uint32_t first, count; /* the first is the oldest */
    int32_t step;          /* -1 or 1; mapped runs: 1 */
    pa_mm *mm;             /* NULL: copies of slots   */
    uint64_t vpn, *pte;
} run;

/* The run of at most `most` frames that begins with f; false: f is not one of such pages. */
bool run_find(pa_ram *ram, uint32_t f, uint64_t most, run *out);
/* Were its pages used since somebody looked? */
static inline bool run_is_accessed(const run *r)
{
    return r->mm && *r->pte & PTE_ACCESSED;
}

/* They count as not used, until they are. */
void run_forget_access(run *r);
/* Change list-deciding bits of the owners, and their list with them (ram_mark). */
void run_mark(pa_ram *ram, const run *r, uint64_t set, uint64_t clear);
/* Take them away; FATE_FREED and FATE_WRITING may shorten the run to those that went. */
fate run_evict(pa_ram *ram, run *r);

#endif
