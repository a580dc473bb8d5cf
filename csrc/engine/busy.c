/* SPDX-License-Identifier: MIT
 *
 * busy.c -- pages that somebody uses on another processor while reclaim looks at them.
 *
 * Time passes while reclaim sweeps: a look at a page costs half a microsecond, a walk over 50 MB of
 * memory that is mapped less than a hundred.  So whoever goes over the same pages again and again
 * sets most accessed bits again between two looks at a page, and reclaim, which needs two looks to
 * take a page away, hardly ever gets one.  A walker stops at the first page that is gone: it faults
 * there, and whoever runs it lets it go on.
 */
#include "ram.h"

int pa_mm_keep_busy(pa_mm *mm, uint64_t vpn, uint64_t count, uint64_t period)
{
    pa_ram *ram = mm->ram;
    if (!period && count)
        return PA_ERR_INVALID;
    ram->count_busy += count != 0;
    ram->count_busy -= mm->busy.count != 0;
    mm->busy = (busy_range){vpn, count, period, ram->disk.now + period, false};
    return PA_OK;
}

bool pa_mm_is_stopped(const pa_mm *mm)
{
    return mm->busy.stopped;
}

/* One pass; false: a page is gone. */
static bool walk(pa_mm *mm)
{
    uint64_t vpn = mm->busy.vpn, end = vpn + mm->busy.count, next = vpn;
    stretch s;
    while (mm_next_stretch(mm, &vpn, end, &s)) {
        if (s.vpn != next)
            return false;
        if (huge_at(s.pte) && huge_covers(mm, &s)) {
            *s.pte |= PTE_ACCESSED;
        } else {
            for (uint64_t i = 0; i < s.count; i++) {
                if (!(s.pte[i] & PTE_PRESENT))
                    return false;
                s.pte[i] |= PTE_ACCESSED;
            }
        }
        next = s.vpn + s.count;
    }
    return next == end;
}

void busy_go_on(pa_ram *ram)
{
    for (uint32_t i = 0; ram->count_busy && i < ram->count_mms; i++) {
        pa_mm *mm = ram->mms[i];
        if (!mm || !mm->busy.count || mm->busy.stopped || ram->disk.now < mm->busy.due)
            continue;
        mm->busy.due = ram->disk.now + mm->busy.period;
        mm->busy.stopped = !walk(mm);
    }
}
