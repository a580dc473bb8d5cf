/* SPDX-License-Identifier: MIT
 *
 * reclaim.h -- what the two generations of reclaim share: a sweep, and looking at one list.
 */
#ifndef PA_RECLAIM_H
#define PA_RECLAIM_H

#include "ram.h"

enum { TOP_PRIORITY = 12 };

/* One reclaim (struct scan_control): of the groups below `top`, until `target` frames are free. */
typedef struct sweep {
    pa_ram *ram;
    group *g; /* the group at hand */
    uint32_t group_id, top;
    int priority;
    uint64_t target, freed, issued; /* issued: writes that were begun */
    uint64_t anon_cost, file_cost;  /* of the top, as this priority began */
    bool may_deactivate[2], force_deactivate, skipped_deactivate;
    bool trim_cache, file_is_tiny, full_walk;
} sweep;

/* Look at `count` pages from the old end of an inactive list. */
void shrink_inactive(sweep *s, lru_list which, uint64_t count);
bool sweep_is_done(const sweep *s);
/* Linux 2.6: one group's lists at one priority (reclaim26.c). */
void shrink_zone(sweep *s);
void note_priority(pa_ram *ram, int priority);

static inline bool is_file_list(lru_list which)
{
    return which >= LRU_INACTIVE_FILE;
}

static inline bool is_active_list(lru_list which)
{
    return which == LRU_ACTIVE_ANON || which == LRU_ACTIVE_FILE;
}

#endif
