/* SPDX-License-Identifier: MIT
 *
 * pt_any.c -- the parts of ptmalloc for any generation and any state of the heap.
 */
#include "pt_malloc.h"
