/* SPDX-License-Identifier: MIT
 *
 * rseq.c -- the page that the kernel uses whenever it lets a process go on.
 *
 * Model of kernel/rseq.c of Linux 6.18 (restartable sequences, since 4.18; glibc registers an area of
 * each thread since 2.35).  A thread that gave its processor away is told so before it returns to
 * its program: the kernel reads in which sequence it was, and then writes where it runs now.  So that
 * page is used after each wait for the disk, and after a stay in the kernel that is so long that
 * others, who take the disk's answers, have run meanwhile.
 *
 * It matters more than one page should.  Swapped out in a long sweep, it comes back as a page that is
 * read and keeps its slot; the next time it goes it is written there, by a request of its own.  With
 * that small one in front no request is issued before the sweep has ended (device.c), and the sweep
 * writes out a thousand pages instead of some hundreds.
 *
 * Left out: the signal if the area is gone or cannot be written (it is used no more); being preempted
 * in the program.
 */
#include "ram.h"

enum { MOST_TRIES = 4 }; /* its own faults may have to wait, too */

/* How long nobody has worked: it grows whenever somebody sleeps. */
static uint64_t idle_time(const pa_ram *ram)
{
    return ram->disk.now - ram->disk.cpu;
}

void pa_mm_set_rseq(pa_mm *mm, uint64_t vpn, bool registered)
{
    mm->has_rseq = registered;
    mm->rseq_vpn = vpn;
    mm->idle_seen = idle_time(mm->ram);
}

void pa_mm_inherit_rseq(pa_mm *child, const pa_mm *parent)
{
    pa_mm_set_rseq(child, parent->rseq_vpn, parent->has_rseq);
}

void rseq_forget(pa_mm *mm, uint64_t vpn, uint64_t end)
{
    mm->has_rseq &= mm->rseq_vpn < vpn || mm->rseq_vpn >= end;
}

/* Since it was last in its program, or entered the kernel. */
static bool was_away(pa_mm *mm, uint64_t entered)
{
    uint64_t idle = idle_time(mm->ram);
    bool away = idle != mm->idle_seen || mm->ram->disk.now - entered >= TICK;
    mm->idle_seen = idle;
    return away;
}

void rseq_return(pa_mm *mm, uint64_t entered)
{
    if (mm->populates || mm->returns) /* is still in the kernel */
        return;
    bool zeros = mm->zeros; /* what the program writes, not what the kernel does */
    mm->returns = true;
    mm->zeros = false;
    for (int tries = MOST_TRIES; tries && was_away(mm, entered); tries--) {
        uint64_t read = 0, written = 0;
        entered = mm->ram->disk.now;
        if (fault_touch(mm, mm->rseq_vpn, 1, false, &read) == PA_OK)
            fault_touch(mm, mm->rseq_vpn, 1, true, &written);
    }
    mm->returns = false;
    mm->zeros = zeros;
}

void pa_mm_return(pa_mm *mm)
{
    mm_return(mm, mm->ram->disk.now);
}
