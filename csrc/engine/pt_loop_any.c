/* SPDX-License-Identifier: MIT
 *
 * pt_loop_any.c -- the loop for any generation and word size.
 */
#define PT_LOOP pt_run_loop_any
#include "pt_loop.h"
