/* SPDX-License-Identifier: MIT
 *
 * touch.c -- accesses in any order: a whole list of pages in one call.
 *
 * Workload: random, skewed and strided patterns of an experiment, millions of accesses to an area
 * that is larger than memory, so that most of the time goes to faults and not to the list.
 */
#include "ram.h"

static int touch_one(pa_mm *mm, const pa_view *view, uint64_t vpn, bool write)
{
    uint64_t one;
    return view ? pa_mm_touch_object(mm, view, vpn, 1, write, &one)
                : pa_mm_touch_anon(mm, vpn, 1, write, &one);
}

int pa_mm_touch_list(pa_mm *mm, const pa_view *view, uint64_t vpn, const uint64_t *index,
                     uint64_t count, bool write, uint64_t *done)
{
    for (*done = 0; *done < count; ++*done) {
        int status = touch_one(mm, view, vpn + index[*done], write);
        if (status != PA_OK)
            return status;
    }
    return PA_OK;
}
