/* SPDX-License-Identifier: MIT
 *
 * pt_loop_64.c -- the loop for x86-64, whose units, words and alignment never changed.
 */
#define PT_LOOP pt_run_loop_64
#define PT_LOOP_ROWS rows_64
#define UNIT_SHIFT(h) 4
#define WORD(h) ((uint64_t)8)
#define ALIGN(h) ((uint64_t)16)
#include "pt_loop.h"
