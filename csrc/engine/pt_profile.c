/* SPDX-License-Identifier: MIT
 *
 * pt_profile.c -- the generations of glibc's malloc, as data.
 *
 * To add the next one: a row for each word size, and a rule flag for each rule that is new.
 */
#include "pt.h"

#include <string.h>

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

static const char c233[] = "no tcache, static mmap threshold, unordered large bins";
static const char c212[] = "dynamic mmap threshold, sorted large bins, larger fastbins";
static const char c223[] = "an arena for each thread, malloc_trim quirk";
static const char c231[] = "tcache, i386 alignment 16, PTRDIFF_MAX limit";
static const char c235[] = "mmap fallback with swapped arguments, mxfast rounding";
static const char c236[] = "as 2.35";
static const char c241[] = "calloc uses the tcache, small frees go to small bins, memalign merges";
static const char c242[] = "internal frees skip the tcache, tcache made by small allocations";
static const char c243[] = "no fastbins, 16 chunks a tcache bin, new layout of mmapped chunks";

static const pt_profile profiles[] = {
    {.name = "glibc-2.36",
     .changes = c236,
     .version = 236,
     X86_64,
     ARENA_64,
     SINCE_2_30,
     TCACHE_64,
     .swapped_fallback = true},
    {.name = "glibc-2.36",
     .changes = c236,
     .version = 236,
     I386_ALIGN16,
     ARENA_32,
     SINCE_2_30,
     TCACHE_32,
     .swapped_fallback = true},
    {.name = "glibc-2.3.3",
     .changes = c233,
     .version = 203,
     BEFORE_2_6,
     .word = 8,
     .align = 16,
     .fast_default = 80,
     .heap_info = 32,
     .arena_state = 2240,
     RING_OF_ARENAS,
     .has_fastbins = true},
    {.name = "glibc-2.3.3",
     .changes = c233,
     .version = 203,
     BEFORE_2_6,
     .word = 4,
     .align = 8,
     .fast_default = 72,
     .heap_info = 16,
     .arena_state = 1124,
     RING_OF_ARENAS,
     .has_fastbins = true},
    {.name = "glibc-2.12",
     .changes = c212,
     .version = 212,
     X86_64,
     .heap_info = 32,
     .arena_state = 2176,
     SINCE_2_6,
     RING_OF_ARENAS,
     .words = WORDS_DETECTED},
    {.name = "glibc-2.12",
     .changes = c212,
     .version = 212,
     I386_ALIGN8,
     .arena_state = 1100,
     SINCE_2_6,
     RING_OF_ARENAS,
     .words = WORDS_DETECTED},
    {.name = "glibc-2.23",
     .changes = c223,
     .version = 223,
     X86_64,
     .heap_info = 32,
     .arena_state = 2192,
     SINCE_2_19,
     .retries_alone = true,
     .words = WORDS_ERROR_IN},
    {.name = "glibc-2.23",
     .changes = c223,
     .version = 223,
     I386_ALIGN8,
     .arena_state = 1108,
     SINCE_2_19,
     .retries_alone = true,
     .words = WORDS_ERROR_IN},
    {.name = "glibc-2.31",
     .changes = c231,
     .version = 231,
     X86_64,
     .heap_info = 32,
     .arena_state = 2200,
     SINCE_2_30,
     TCACHE_64},
    {.name = "glibc-2.31",
     .changes = c231,
     .version = 231,
     I386_ALIGN16,
     ARENA_32,
     SINCE_2_30,
     TCACHE_32},
    {.name = "glibc-2.35",
     .changes = c235,
     .version = 235,
     X86_64,
     ARENA_64,
     SINCE_2_30,
     TCACHE_64,
     .swapped_fallback = true},
    {.name = "glibc-2.35",
     .changes = c235,
     .version = 235,
     I386_ALIGN16,
     ARENA_32,
     SINCE_2_30,
     TCACHE_32,
     .swapped_fallback = true},
    {.name = "glibc-2.41",
     .changes = c241,
     .version = 241,
     X86_64,
     ARENA_64,
     SINCE_2_30,
     SINCE_2_41,
     TCACHE_64},
    {.name = "glibc-2.41",
     .changes = c241,
     .version = 241,
     I386_ALIGN16,
     ARENA_32,
     SINCE_2_30,
     SINCE_2_41,
     TCACHE_32},
    {.name = "glibc-2.42",
     .changes = c242,
     .version = 242,
     X86_64,
     ARENA_64,
     SINCE_2_42,
     .has_fastbins = true,
     .birth = BIRTH_SMALL_MALLOC,
     .tcache_count = 7,
     .tcache_bytes = 760,
     .tcache_limit = 1032},
    {.name = "glibc-2.42",
     .changes = c242,
     .version = 242,
     I386_ALIGN16,
     ARENA_32,
     SINCE_2_42,
     .has_fastbins = true,
     .birth = BIRTH_SMALL_MALLOC,
     .tcache_count = 7,
     .tcache_bytes = 456,
     .tcache_limit = 1020},
    {.name = "glibc-2.43pre",
     .changes = c243,
     .version = 243,
     X86_64,
     .heap_info = 48,
     .arena_state = 2112,
     SINCE_2_42,
     .birth = BIRTH_FREE,
     .tcache_count = 16,
     .tcache_bytes = 760,
     .tcache_limit = 1041},
    {.name = "glibc-2.43pre",
     .changes = c243,
     .version = 243,
     I386_ALIGN16,
     .arena_state = 1068,
     SINCE_2_42,
     .birth = BIRTH_FREE,
     .tcache_count = 16,
     .tcache_bytes = 456,
     .tcache_limit = 1025},
};

#define COUNT (sizeof profiles / sizeof profiles[0])

const pt_profile *pt_find_profile(const char *name, uint32_t word)
{
    for (size_t i = 0; i < COUNT; i++)
        if (profiles[i].word == word && strcmp(profiles[i].name, name) == 0)
            return &profiles[i];
    return NULL;
}

const char *pt_profile_name(uint32_t i)
{
    return 2 * i < COUNT ? profiles[2 * i].name : NULL;
}

const char *pt_profile_changes(uint32_t i)
{
    return 2 * i < COUNT ? profiles[2 * i].changes : NULL;
}
