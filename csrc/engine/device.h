/* SPDX-License-Identifier: MIT
 *
 * device.h -- the disk that swap and files are on, and simulated time.
 *
 * Time is what the machine's costs (pa_costs) say, added up: no clock of the host is read.  One disk
 * serves requests in the order they come, each a run of neighbouring pages.  Whoever reads waits.
 * Writes are collected (plugged) while reclaim sweeps a list, leave together at the end of the
 * sweep, and are under way until the simulated time passes their end; reads overtake those that
 * have not begun.
 *
 *     now <= end of every request that is not settled
 *     ticket[f] != 0  <=>  frame f has a write under way; a run of the ring holds (f, ticket[f])
 */
#ifndef PA_DEVICE_H
#define PA_DEVICE_H

#include "pyalloc/pyalloc.h"

#include <string.h>

/* Frames side by side, with tickets in a row. */
typedef struct write_run {
    uint32_t frame, ticket, count;
} write_run;

typedef struct write_request {
    uint64_t issued, place, end; /* end is known once it has begun */
    uint32_t count;
} write_request;

typedef struct device {
    uint64_t now, cpu; /* ns: time of day, and how much of it some processor worked */
    uint64_t aside;    /* what kswapd worked, on a processor of its own              */
    uint64_t idle_at, head; /* when the request in service has passed; the place after it */
    write_run *run; /* ring, oldest first; the last `plugged` pages have not been issued */
    write_request *request;
    uint32_t *ticket;
    uint64_t first_run, count_runs, room_runs;
    uint64_t count_pages; /* of all runs */
    uint64_t first_request, count_requests, room_requests;
    uint64_t begun; /* of the requests, from the oldest on */
    uint64_t plugged, first_plugged;
    uint32_t last_ticket;
    uint32_t overtakes; /* of writes that wait, by reads */
    bool background; /* works for kswapd: nobody waits */
    bool held;       /* whoever collects requests has not finished: writes stay plugged */
    bool read_first; /* the first of what is plugged is one of its reads                */
    uint32_t reads;  /* requests of its own that are plugged, too                       */
} device;

bool device_init(device *d, uint64_t frames);
void device_drop(device *d, uint64_t frames);
/* As it was made; of the tickets `frames` were used. */
void device_reset(device *d, uint64_t frames);
bool device_copy(device *to, const device *from, uint64_t frames);

/* A processor works for so long. */
static inline void device_work(device *d, uint64_t ns)
{
    if (d->background) {
        d->aside += ns;
        return;
    }
    d->now += ns;
    d->cpu += ns;
}

static inline bool device_is_writing(const device *d, uint32_t f)
{
    return d->ticket[f] != 0;
}

/* The frames' contents are no longer wanted on the disk, or the frames are given up. */
static inline void device_forget(device *d, uint32_t f, uint64_t count)
{
    memset(&d->ticket[f], 0, count * sizeof *d->ticket);
}

static inline bool device_is_busy(const device *d)
{
    return d->count_pages > 0;
}

/* Whoever collects requests begins, or has another read to make, or is done. */
void device_hold(device *d);
void device_hold_read(device *d);
void device_let_go(device *d);
/* The write of `count` frames from f on to `place` is asked for, device_room() at most; false: no
 * memory on the host. */
bool device_plug(device *d, const pa_costs *costs, uint32_t f, uint64_t place, uint32_t count);
/* How many pages from `place` on can be one request. */
uint64_t device_room(const device *d, uint64_t place);
/* What was plugged is issued, neighbours merged, unless somebody further out holds it back. */
void device_unplug(device *d, const pa_costs *costs);
/* What was just issued is answered at once, when all of it is done; then it takes so long to note it
 * of each page. */
void device_answer_together(device *d, const pa_costs *costs, uint64_t each);
/* Read `count` pages from `place` on; returns when they will be there. */
uint64_t device_fetch(device *d, const pa_costs *costs, uint64_t place, uint64_t count);
void device_until(device *d, uint64_t when);
/* The same, and wait for them. */
void device_read(device *d, const pa_costs *costs, uint64_t place, uint64_t count);
/* Frames side by side whose write has ended by now: how many (0: none), and which is the first. */
uint32_t device_take_written(device *d, const pa_costs *costs, uint32_t *first);
/* Wait until the next write ends; false: there is none. */
bool device_wait(device *d, const pa_costs *costs);

#endif
