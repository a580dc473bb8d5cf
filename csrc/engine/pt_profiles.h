/* SPDX-License-Identifier: MIT
 *
 * pt_profiles.h -- what generations have in common, and rows of which a loop is made (pt_loop_*.c).
 */
#ifndef PA_PT_PROFILES_H
#define PA_PT_PROFILES_H

/* What is common to a word size; see the table of constants in any malloc.c. */
#define X86_64                                                                                     \
    .word = 8, .align = 16, .large_border = 1024, .large_first = 48, .large_base = 48,             \
    .fast_default = 128, .fast_setting = 160
#define I386_ALIGN8                                                                                \
    .word = 4, .align = 8, .large_border = 512, .large_first = 38, .large_base = 56,               \
    .fast_default = 64, .fast_setting = 80, .heap_info = 16
#define I386_ALIGN16                                                                               \
    .word = 4, .align = 16, .large_border = 1008, .large_first = 45, .large_base = 49,             \
    .fast_default = 64, .fast_setting = 80, .heap_info = 24
#define BEFORE_2_6                                                                                 \
    .large_border = 512, .large_first = 32, .large_base = 56, .fast_setting = 80,                  \
    .heap_max = 1 << 20

#define SINCE_2_6 .has_fastbins = true, .skip_list = true, .dynamic_threshold = true
#define SINCE_2_19 SINCE_2_6, .trim_quirk = true
#define SINCE_2_26 SINCE_2_19, .birth = BIRTH_CALL, .tcache_count = 7, .internal_frees_cached = true
#define SINCE_2_30 SINCE_2_26, .ptrdiff_limit = true
#define SINCE_2_41 .memalign = MEMALIGN_MERGE, .calloc_uses_tcache = true, .small_to_bin = true
#define SINCE_2_42                                                                                 \
    SINCE_2_41, .trim_quirk = true, .ptrdiff_limit = true, .skip_list = true,                      \
        .dynamic_threshold = true
#define RING_OF_ARENAS .retries_alone = true, .arena_ring = true

/* The size of what the library keeps in the heap itself. */
#define TCACHE_64 .tcache_bytes = 640, .tcache_limit = 1041
#define TCACHE_32 .tcache_bytes = 384, .tcache_limit = 1025
#define ARENA_64 .heap_info = 48, .arena_state = 2200
#define ARENA_32 .arena_state = 1116

/* ---- rows ------------------------------------------------------------------------------------- */

#define GLIBC_2_36_X86_64                                                                          \
    .version = 236, X86_64, ARENA_64, SINCE_2_30, TCACHE_64, .swapped_fallback = true

#endif
