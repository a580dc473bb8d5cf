/* SPDX-License-Identifier: MIT
 *
 * pt_loop_any.c -- the loop for any profile.
 */
#define PT_LOOP pt_run_loop_any
#define PT_LOOP_ROWS rows_any
#define UNIT_SHIFT(h) ((h)->unit_shift)
#define WORD(h) ((uint64_t)(h)->pf->word)
#define ALIGN(h) ((uint64_t)(h)->pf->align)
#include "pt_loop.h"
