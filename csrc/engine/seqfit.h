/* SPDX-License-Identifier: MIT
 *
 * seqfit.h -- sequential fit in four policies: first-fit, best-fit, next-fit, worst-fit.
 */
#ifndef PA_SEQFIT_H
#define PA_SEQFIT_H

#include "heap.h"

/* The i-th policy's name, NULL past the last. */
const char *seqfit_name(uint32_t i);
/* What it does, in words. */
const char *seqfit_rule(uint32_t i);

/* word: 8 or 4 bytes.  NULL: no such policy, or no memory. */
pa_heap *seqfit_new(const char *name, uint32_t word, uint64_t brk_start, pa_shadow *spare);

#endif
