/* SPDX-License-Identifier: MIT
 *
 * pt_profile.c -- the generations of glibc's malloc, as data.
 *
 * To add the next one: a row for each word size, and a rule flag for each rule that is new.
 */
#include "pt.h"
#include "pt_profiles.h"

#include <string.h>

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
    {.name = "glibc-2.36", .changes = c236, GLIBC_2_36_X86_64},
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
