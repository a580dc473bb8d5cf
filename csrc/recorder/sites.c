/* SPDX-License-Identifier: MIT
 *
 * sites.c -- which code addresses lie in mappings that are already in the recording.
 *
 * A call site outside all of them means that code was loaded since: then the map of the process is
 * taken down again.  Nearly every call hits `sites_seen`, a table without chains.
 */
#include "recorder.h"

#define RANGES 2048
#define ANYWHERE_SHIFT 16 /* code in no mapping we can read is remembered by 64 KiB */

uint64_t sites_seen[SITES_SEEN];

static struct {
    struct {
        uint64_t low, high;
    } range[RANGES];
    size_t count;
    /* the line being read, over the borders of pieces */
    uint64_t number[2];
    unsigned field;
} sites;

static bool is_known(uint64_t site)
{
    for (size_t i = 0; i < sites.count; i++) {
        if (site >= sites.range[i].low && site < sites.range[i].high) {
            return true;
        }
    }
    return false;
}

static void add_range(uint64_t low, uint64_t high)
{
    if (low < high && !is_known(low) && sites.count < RANGES) {
        sites.range[sites.count].low = low;
        sites.range[sites.count++].high = high;
    }
}

static unsigned digit(char c)
{
    return (unsigned)(c <= '9' ? c - '0' : c - 'a' + 10);
}

/* One character of "LOW-HIGH rwxp ...": fields 0 and 1 are numbers, 2 to 5 the permissions. */
static void eat(char c)
{
    if (c == '\n') {
        sites.number[0] = sites.number[1] = 0;
        sites.field = 0;
    } else if (sites.field < 2) {
        if (c == '-' || c == ' ') {
            sites.field++;
        } else {
            sites.number[sites.field] = sites.number[sites.field] << 4 | digit(c);
        }
    } else if (sites.field++ == 4 && c == 'x') {
        add_range(sites.number[0], sites.number[1]);
    }
}

static void read_maps(const char *piece, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        eat(piece[i]);
    }
}

void sites_load(const char *tag)
{
    sites.field = 0;
    sites.number[0] = sites.number[1] = 0;
    store_text(tag, "/proc/self/maps", read_maps);
}

void sites_learn(uint64_t site)
{
    sites_seen[sites_slot(site)] = site;
    if (!is_known(site) && sites.count < RANGES) {
        sites_load("MODS");
        uint64_t low = site >> ANYWHERE_SHIFT << ANYWHERE_SHIFT;
        if (!is_known(site)) {
            add_range(low, low + (1u << ANYWHERE_SHIFT));
        }
    }
}
