/* SPDX-License-Identifier: MIT
 *
 * pt_loop_236.c -- the loop for glibc 2.36 on x86-64.
 */
#include "pt_profiles.h"

#define PT_LOOP pt_run_loop_236
#define PT_RULES GLIBC_2_36_X86_64
#include "pt_loop.h"
