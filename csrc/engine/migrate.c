/* SPDX-License-Identifier: MIT
 *
 * migrate.c -- who waits for swap, and goes on on another processor.
 *
 * Model of what select_idle_sibling() of kernel/sched/fair.c of Linux 6.18 does now and then: the
 * disk's answer finds the processor busy with a tick, and who waits is woken on another one; at its
 * next wait it comes back.  With two processors a process that swapped all the time was moved so in
 * one tick of 10 to 18, without a pattern; here in one of 12.
 *
 * It matters for the slots of swap.  The pages that were just read wait in a batch (batch.c) of the
 * processor that was left, and while they are there somebody else seems to use them: a write does
 * not free their slots (do_swap_page).  So a few slots stay in use in clusters that were empty
 * otherwise, these are filled before fresh ones are begun, and the next sweep's writes are cut up.
 *
 *     left[i]: the page has been read into the frame, and is in the batch as long as its slot is the
 *              same
 *
 * Left out: that nobody reclaims a page in such a batch; pages that did not come from swap.
 */
#include "ram.h"

enum { ONE_OF = 12 };

/* Numbers side by side have nothing to do with each other any more. */
static uint64_t mixed(uint64_t n)
{
    n = (n ^ n >> 31) * UINT64_C(0x9e3779b97f4a7c15);
    n = (n ^ n >> 29) * UINT64_C(0xd1b54a32d192ed03);
    return n ^ n >> 32;
}

void migrate_wait(pa_ram *ram)
{
    migration *m = &ram->migration;
    if (!(ram->settings.rules & PA_MIGRATES))
        return;
    uint64_t tick = ram->disk.now / TICK;
    bool leaves = !m->away && tick != m->tick && mixed(tick) % ONE_OF == 0;
    m->tick = tick;
    m->moves = leaves || m->away;
    m->away = leaves;
    if (m->moves)
        m->count = 0; /* what the other processor had in its batch is drained now */
}

void migrate_leave(pa_ram *ram, uint32_t f)
{
    migration *m = &ram->migration;
    if (m->moves && m->count < LRU_BATCH)
        m->left[m->count++] = (left_page){f, ram->slot_of[f]};
}

bool migrate_has_left(const pa_ram *ram, uint32_t f)
{
    const migration *m = &ram->migration;
    uint32_t i = 0;
    while (i < m->count && (m->left[i].frame != f || m->left[i].slot != ram->slot_of[f]))
        i++;
    return i < m->count;
}
