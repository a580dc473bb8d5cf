/* SPDX-License-Identifier: MIT
 *
 * mm.h -- what a heap needs of the page layer, and no more.
 *
 * A heap's memory is private, anonymous and writable, so touching it needs no VMA look-up: the
 * page table alone decides whether an access faults.
 */
#ifndef PA_MM_H
#define PA_MM_H

#include "pyalloc/pyalloc.h"

/* Touch pages [vpn, vpn + count) of a private anonymous writable area.  Returns PA_OK, or
 * PA_EXHAUSTED when no frame could be had; *done counts the pages that were touched, so that
 * the caller goes on at vpn + *done once policy has made room. */
pa_status pa_mm_touch_anon(pa_mm *mm, uint64_t vpn, uint64_t count, bool write, uint64_t *done);

/* True if a write to this page would change nothing at all (present, dirty, referenced). */
bool pa_mm_is_hot(const pa_mm *mm, uint64_t vpn);

/* madvise(MADV_DONTNEED): drop the pages, free tables that are empty, keep the area. */
void pa_mm_discard(pa_mm *mm, uint64_t vpn, uint64_t count);

/* munmap: drop the pages and free each table that lies whole in [floor_vpn, ceiling_vpn). */
void pa_mm_unmap(pa_mm *mm, uint64_t vpn, uint64_t count, uint64_t floor_vpn, uint64_t ceiling_vpn);

#endif
