/* SPDX-License-Identifier: MIT
 *
 * percpu.c -- what others see of a process's counters.
 *
 * Model of lib/percpu_counter.c as rss_stat uses it since 6.2: a processor keeps what it counts to
 * itself until that is a batch, more or less than before, and then passes on all of it.  The OOM
 * killer does not ask the processors, so what it sees may lag by almost a batch for each counter.
 * A process is taken to stay on one processor, and whoever reclaims its pages to be on the same.
 *
 *     |mm->anon - mm->seen.anon| < batch, and so for file, shmem and swap
 */
#include "ram.h"

static int64_t batch_of(const pa_mm *mm)
{
    uint32_t batch = mm->ram->settings.counter_batch;
    return batch ? batch : 1;
}

/* One sum was added. */
static void pass_on(uint64_t now, uint64_t *seen, int64_t batch)
{
    int64_t kept = (int64_t)(now - *seen);
    if (kept >= batch || -kept >= batch)
        *seen = now;
}

/* Ones were added; each batch is passed on as soon as it is full. */
static void pass_batches(uint64_t now, uint64_t *seen, int64_t batch)
{
    int64_t kept = (int64_t)(now - *seen);
    if (kept >= batch || -kept >= batch) /* seldom, and a division takes long */
        *seen += (uint64_t)(kept - kept % batch);
}

void mm_publish(pa_mm *mm)
{
    int64_t batch = batch_of(mm);
    pass_on(mm->anon, &mm->seen.anon, batch);
    pass_on(mm->file, &mm->seen.file, batch);
    pass_on(mm->shmem, &mm->seen.shmem, batch);
    pass_on(mm->swap, &mm->seen.swap, batch);
}

void mm_publish_each(pa_mm *mm)
{
    int64_t batch = batch_of(mm);
    pass_batches(mm->anon, &mm->seen.anon, batch);
    pass_batches(mm->file, &mm->seen.file, batch);
    pass_batches(mm->shmem, &mm->seen.shmem, batch);
    pass_batches(mm->swap, &mm->seen.swap, batch);
}
