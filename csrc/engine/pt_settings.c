/* SPDX-License-Identifier: MIT
 *
 * pt_settings.c -- what can be tuned: mallopt(), GLIBC_TUNABLES and the MALLOC_* variables.
 *
 * Models do_set_* of glibc's malloc.c, ptmalloc_init of arena.c and elf/dl-tunables.c.  A setting is
 * known by several names and read by different rules; what it does is the same:
 *
 *     mallopt           an int; most parameters are accepted whatever the value
 *     MALLOC_*          up to 2.25 atoi() into mallopt; since then as a tunable of less authority
 *     GLIBC_TUNABLES    name=value pairs, since 2.26; values out of range are ignored
 */
#include "pt.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

typedef enum value_type { SIZE_VALUE, INT_VALUE } value_type;

typedef struct setting {
    const char *name; /* behind glibc.malloc., and behind M_ in capitals */
    const char *variable; /* of the environment, or NULL */
    int32_t parameter; /* mallopt's number, 0: none */
    uint32_t tunable_since;
    value_type type;
    int64_t least, most; /* of a tunable; most < least: no limits but the type's */
} setting;

enum {
    MXFAST = 1,
    TRIM_THRESHOLD = -1,
    TOP_PAD = -2,
    MMAP_THRESHOLD = -3,
    MMAP_MAX = -4,
    CHECK_ACTION = -5,
    PERTURB = -6,
    ARENA_TEST = -7,
    ARENA_MAX = -8,
    /* settings without a number of mallopt's */
    TCACHE_MAX = 101,
    TCACHE_COUNT,
    TCACHE_UNSORTED_LIMIT,
    HUGETLB,
};

static const setting settings[] = {
    {"check", "MALLOC_CHECK_", CHECK_ACTION, 226, INT_VALUE, 0, 3},
    {"top_pad", "MALLOC_TOP_PAD_", TOP_PAD, 226, SIZE_VALUE, 1, 0},
    {"perturb", "MALLOC_PERTURB_", PERTURB, 226, INT_VALUE, 0, 255},
    {"mmap_threshold", "MALLOC_MMAP_THRESHOLD_", MMAP_THRESHOLD, 226, SIZE_VALUE, 1, 0},
    {"trim_threshold", "MALLOC_TRIM_THRESHOLD_", TRIM_THRESHOLD, 226, SIZE_VALUE, 1, 0},
    {"mmap_max", "MALLOC_MMAP_MAX_", MMAP_MAX, 226, INT_VALUE, INT32_MIN, INT32_MAX},
    {"arena_max", "MALLOC_ARENA_MAX", ARENA_MAX, 226, SIZE_VALUE, 1, INT64_MAX},
    {"arena_test", "MALLOC_ARENA_TEST", ARENA_TEST, 226, SIZE_VALUE, 1, INT64_MAX},
    {"tcache_max", NULL, TCACHE_MAX, 226, SIZE_VALUE, 1, 0},
    {"tcache_count", NULL, TCACHE_COUNT, 226, SIZE_VALUE, 1, 0},
    {"tcache_unsorted_limit", NULL, TCACHE_UNSORTED_LIMIT, 226, SIZE_VALUE, 1, 0},
    {"mxfast", NULL, MXFAST, 230, SIZE_VALUE, 1, 0},
    {"hugetlb", NULL, HUGETLB, 235, SIZE_VALUE, 1, 0},
};

#define COUNT (sizeof settings / sizeof settings[0])

static const uint64_t huge_page = 2 << 20;

/* ---- what a setting does ------------------------------------------------------------------------- */

static bool set_threshold(pt *h, uint64_t *what, uint64_t value)
{
    *what = value;
    h->mp.no_dynamic = true;
    return true;
}

static bool set_max_fast(pt *h, uint64_t value)
{
    const pt_profile *pf = h->pf;
    if (!pf->has_fastbins)
        return true;
    if (value > pf->fast_setting)
        return false;
    uint64_t units = ((value + pf->word) & ~(uint64_t)(pf->align - 1)) >> h->unit_shift;
    if (pf->version < 204)
        units = value ? request_units(h, value) : NO_FAST;
    else if (pf->version >= 232 ? value <= pf->align - 1 - pf->word : !value)
        units = NO_FAST;
    h->max_fast = units;
    return true;
}

static bool set_mmap_threshold(pt *h, uint64_t value)
{
    bool refused = h->pf->version < 235 && value > pt_heap_max(h) / 2;
    if (refused) {
        h->mp.no_dynamic |= h->pf->version < 217; /* braces were missing */
        return false;
    }
    return set_threshold(h, &h->mp.mmap_threshold, value);
}

/* Up to 2.41 the largest request; then the smallest chunk that is too large, since 2.43 plus 1. */
static bool set_tcache_max(pt *h, uint64_t value)
{
    const uint64_t largest = h->pf->version >= 242 ? 4u << 20 : h->pf->tcache_limit;
    if (value > largest)
        return false;
    uint64_t nb = request_units(h, value), index = (nb - MIN_UNITS) >> h->align_units_log;
    if (index >= TCACHE_SMALL && h->pf->version < 242)
        return false;
    if (index < TCACHE_SMALL)
        h->mp.tcache_bins = (uint32_t)index + 1;
    h->mp.tcache_limit = bytes_of(h, nb) + (h->pf->version == 242 ? 0 : 1);
    return true;
}

static bool set_tcache_count(pt *h, uint64_t value)
{
    if (value > UINT16_MAX)
        return false;
    h->mp.tcache_count = (uint32_t)value;
    return true;
}

/* 1: the break grows and shrinks by huge pages, where the kernel's mode is "madvise", as it is by
 * default.  The library compares the mode with a text that it does not end, so what lies on its stack
 * decides; 64-bit programs are taken to know the mode, 32-bit ones not to, as is usual.
 * Larger values: pages set aside by hand, not modelled. */
static bool set_huge(pt *h, uint64_t value)
{
    if (value > 1)
        return false;
    h->mp.huge_page = value && h->pf->word == 8 ? huge_page : 0;
    return true;
}

static bool apply(pt *h, int32_t parameter, uint64_t value)
{
    switch (parameter) {
    case MXFAST:
        return set_max_fast(h, value);
    case TRIM_THRESHOLD:
        return set_threshold(h, &h->mp.trim_threshold, value);
    case TOP_PAD:
        return set_threshold(h, &h->mp.top_pad, value);
    case MMAP_THRESHOLD:
        return set_mmap_threshold(h, value);
    case MMAP_MAX: /* an int that n_mmaps, never negative, must be less than */
        return set_threshold(h, &h->mp.n_mmaps_max, (int32_t)value < 0 ? 0 : (uint32_t)value);
    case CHECK_ACTION: /* 2.26 to 2.33 lay blocks out differently then: not modelled */
        h->mp.check_action = (uint32_t)value;
        return !value || h->pf->version < 226 || h->pf->version >= 234;
    case PERTURB:
        h->mp.perturb = (uint32_t)value != 0; /* an int, of which memset() takes a byte */
        return true;
    case ARENA_TEST:
        h->mp.arena_test = value;
        return true;
    case ARENA_MAX:
        h->mp.arena_max = value;
        return true;
    case TCACHE_MAX:
        return set_tcache_max(h, value);
    case TCACHE_COUNT:
        return set_tcache_count(h, value);
    case TCACHE_UNSORTED_LIMIT:
        h->mp.tcache_unsorted_limit = value;
        return true;
    case HUGETLB:
        return set_huge(h, value);
    default:
        return true;
    }
}

/* Arenas could not be counted before each thread had its own. */
static bool is_known(const pt *h, const setting *s)
{
    if (s->parameter == ARENA_MAX || s->parameter == ARENA_TEST)
        return !h->pf->arena_ring;
    if (s->parameter > MXFAST)
        return h->pf->version >= s->tunable_since;
    return s->parameter != PERTURB || h->pf->version >= 204;
}

/* ---- mallopt -------------------------------------------------------------------------------------- */

/* mallopt(): its result, or -1 when the library died on the way. */
int32_t pt_mallopt(pt *h, int32_t parameter, int32_t value)
{
    uint64_t wide = (uint64_t)(int64_t)value & size_mask(h);
    if (h->pf->version < 243 && !pt_consolidate(h, &h->arenas[0]))
        return -1;
    bool counts_arenas = parameter == ARENA_MAX || parameter == ARENA_TEST;
    bool too_old = parameter == PERTURB && h->pf->version < 204;
    if (parameter > MXFAST || too_old || (parameter == CHECK_ACTION && h->pf->version >= 226) ||
        (counts_arenas && (h->pf->arena_ring || value <= 0)))
        return 1;
    return apply(h, parameter, wide);
}

/* ---- by name ------------------------------------------------------------------------------------- */

static const setting *find(const char *name)
{
    static const char prefix[] = "glibc.malloc.";
    if (strncmp(name, prefix, sizeof prefix - 1) == 0)
        name += sizeof prefix - 1;
    for (size_t i = 0; i < COUNT; i++) {
        const setting *s = &settings[i];
        bool constant = name[0] == 'M' && name[1] == '_' && strcasecmp(name + 2, s->name) == 0;
        if (constant || strcmp(name, s->name) == 0 ||
            (s->variable && strcmp(name, s->variable) == 0))
            return s;
    }
    return NULL;
}

pa_status pt_tunable(pa_heap *heap, const char *name, uint64_t value)
{
    pt *h = (pt *)heap;
    const setting *s = find(name);
    if (!s || !is_known(h, s))
        return PA_ERR_INVALID;
    if (!h->main_ready)
        pt_init_main(h);
    return apply(h, s->parameter, value) ? PA_OK : PA_ERR_INVALID;
}

/* ---- by environment ------------------------------------------------------------------------------ */

static uint32_t digit(char c)
{
    if (c >= '0' && c <= '9')
        return (uint32_t)(c - '0');
    c = (char)(c | 0x20);
    return c >= 'a' && c <= 'f' ? (uint32_t)(c - 'a') + 10 : 16;
}

/* The loader's own number: blanks, a sign, 0x or 0 in front; too large is the largest. */
static uint64_t number(const char *text, const char **end)
{
    while (*text == ' ' || *text == '\t')
        text++;
    bool negative = *text == '-';
    text += negative || *text == '+';
    uint32_t base = 10;
    if (text[0] == '0')
        base = (text[1] | 0x20) == 'x' ? 16 : 8;
    *end = text;
    if (digit(*text) > 9)
        return 0;
    uint64_t n = 0;
    for (text += base == 16 ? 2 : 0; digit(*text) < base; text++) {
        if (n >= (UINT64_MAX - digit(*text)) / base) {
            *end = text;
            return UINT64_MAX;
        }
        n = n * base + digit(*text);
    }
    *end = text;
    return negative ? 0 - n : n;
}

/* Is the value within the tunable's limits?  Since 2.39 it is first cut to its type. */
static bool fits(const pt *h, const setting *s, uint64_t *value)
{
    if (h->pf->version >= 239)
        *value = s->type == INT_VALUE ? (uint64_t)(int64_t)(int32_t)*value : *value & size_mask(h);
    int64_t least = s->parameter == MMAP_MAX && h->pf->version >= 235 ? 0 : s->least;
    if (s->type == INT_VALUE)
        return (int64_t)*value >= least && (int64_t)*value <= s->most;
    return *value <= size_mask(h) && (s->most < s->least || *value >= (uint64_t)s->least);
}

/* Does the loader take this text for a tunable's value?  What is made of it comes later. */
static bool read_value(const pt *h, const setting *s, const char *text, size_t length,
                       uint64_t *value)
{
    const char *end;
    *value = number(text, &end);
    if (h->pf->version >= 239 && end != text + length) /* the whole text must be a number */
        return false;
    return is_known(h, s) && h->pf->version >= s->tunable_since && fits(h, s, value);
}

/* Since 2.39 one malformed pair spoils the whole string. */
static bool is_well_formed(const char *text)
{
    bool in_value = false;
    for (; *text; text++) {
        if (*text == '=' && in_value)
            return false;
        if (*text == '=')
            in_value = true;
        else if (*text == ':')
            in_value = false;
    }
    return in_value;
}

/* GLIBC_TUNABLES: pairs between colons; of a name given twice the last that is a value counts, even
 * if malloc then refuses it. */
static bool set_tunables(pt *h, const char *text)
{
    uint64_t values[COUNT], value;
    uint32_t given = 0;
    if (h->pf->version < 226 || (h->pf->version >= 239 && !is_well_formed(text)))
        return false;
    while (*text) {
        size_t name = strcspn(text, "=:"), rest = 0;
        if (text[name] == '=') {
            const char *told = text + name + 1;
            size_t length = strcspn(told, ":");
            char key[64] = "";
            if (name < sizeof key)
                memcpy(key, text, name);
            const setting *s = strncmp(key, "glibc.malloc.", 13) == 0 ? find(key) : NULL;
            if (s && read_value(h, s, told, length, &value)) {
                values[s - settings] = value;
                given |= 1u << (s - settings);
            }
            rest = 1 + length;
        }
        text += name + rest;
        text += *text == ':';
    }
    bool any = false;
    for (size_t i = 0; i < COUNT; i++)
        if (given & 1u << i)
            any |= apply(h, settings[i].parameter, values[i]);
    h->tuned |= given;
    return any;
}

/* A MALLOC_* variable: since 2.26 only where GLIBC_TUNABLES says nothing. */
static bool set_variable(pt *h, const setting *s, const char *text)
{
    if (!s->variable || !is_known(h, s))
        return false;
    if (h->pf->version < 226)
        return s->parameter == CHECK_ACTION ||
               pt_mallopt(h, s->parameter, (int32_t)strtol(text, NULL, 10)) > 0;
    if (h->tuned & 1u << (s - settings))
        return false;
    uint64_t value;
    return read_value(h, s, text, strlen(text), &value) && apply(h, s->parameter, value);
}

/* A variable of the environment as the library reads it at its start; PA_ERR_INVALID: it is ignored. */
pa_status pt_environment(pa_heap *heap, const char *name, const char *text)
{
    pt *h = (pt *)heap;
    if (strcmp(name, "GLIBC_TUNABLES") == 0)
        return set_tunables(h, text) ? PA_OK : PA_ERR_INVALID;
    for (size_t i = 0; i < COUNT; i++)
        if (settings[i].variable && strcmp(name, settings[i].variable) == 0)
            return set_variable(h, &settings[i], text) ? PA_OK : PA_ERR_INVALID;
    return PA_ERR_INVALID;
}

/* ---- looking --------------------------------------------------------------------------------------- */

pa_status pt_read_settings(const pa_heap *heap, pa_settings *out)
{
    const pt *h = (const pt *)heap;
    const pt_params *mp = &h->mp;
    bool cached = h->pf->birth != BIRTH_NEVER, fast = h->max_fast >= MIN_UNITS;
    *out = (pa_settings){.version = h->pf->version,
                         .word = h->pf->word,
                         .align = h->pf->align,
                         .count_tcache = cached ? mp->tcache_count : 0,
                         .tcache_limit = cached ? mp->tcache_limit : 0,
                         .fast_limit = fast ? bytes_of(h, h->max_fast) : 0,
                         .mmap_threshold = mp->mmap_threshold,
                         .trim_threshold = mp->trim_threshold,
                         .top_pad = mp->top_pad,
                         .count_mmaps_max = mp->n_mmaps_max,
                         .is_dynamic = h->pf->dynamic_threshold && !mp->no_dynamic,
                         .huge_page = (uint32_t)mp->huge_page};
    return PA_OK;
}
