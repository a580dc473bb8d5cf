/* SPDX-License-Identifier: MIT
 *
 * device.c -- one disk: a queue of writes, and reads that overtake them.
 *
 * A request occupies the disk for a seek, if it does not begin where the last one ended, and for
 * the transfer of its pages; its latency passes on top of that and does not hold up the next one.
 */
#include "device.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum {
    FIRST_ROOM = 1024,
    MOST_MERGED = 254,
    MUCH = 32,
    MANY = 32,
    WRITES_STARVED = 2,
    FIFO_BATCH = 16
};
#define PLUGGED UINT64_MAX /* issued: not yet */

static size_t ticket_bytes(uint64_t frames)
{
    return frames * sizeof(uint32_t) + 1;
}

bool device_init(device *d, uint64_t frames)
{
    void *at = mmap(NULL, ticket_bytes(frames), PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    *d = (device){.ticket = at == MAP_FAILED ? NULL : at};
    return d->ticket != NULL;
}

void device_drop(device *d, uint64_t frames)
{
    if (d->ticket)
        munmap(d->ticket, ticket_bytes(frames));
    free(d->run);
    free(d->request);
    *d = (device){0};
}

void device_reset(device *d, uint64_t frames)
{
    uint32_t *ticket = d->ticket;
    memset(ticket, 0, frames * sizeof *ticket);
    free(d->run);
    free(d->request);
    *d = (device){.ticket = ticket};
}

/* ---- rings ------------------------------------------------------------------------------------ */

static write_run *run_at(const device *d, uint64_t i)
{
    return &d->run[(d->first_run + i) & (d->room_runs - 1)];
}

static write_request *request_at(const device *d, uint64_t i)
{
    return &d->request[(d->first_request + i) & (d->room_requests - 1)];
}

static bool room_for_run(device *d)
{
    if (d->count_runs < d->room_runs)
        return true;
    uint64_t room = d->room_runs ? d->room_runs * 2 : FIRST_ROOM;
    write_run *more = malloc(room * sizeof *more);
    if (!more)
        return false;
    for (uint64_t i = 0; i < d->count_runs; i++)
        more[i] = *run_at(d, i);
    free(d->run);
    d->run = more;
    d->room_runs = room;
    d->first_run = 0;
    return true;
}

static bool room_for_request(device *d)
{
    if (d->count_requests < d->room_requests)
        return true;
    uint64_t room = d->room_requests ? d->room_requests * 2 : FIRST_ROOM;
    write_request *more = malloc(room * sizeof *more);
    if (!more)
        return false;
    for (uint64_t i = 0; i < d->count_requests; i++)
        more[i] = *request_at(d, i);
    free(d->request);
    d->request = more;
    d->room_requests = room;
    d->first_request = 0;
    return true;
}

bool device_copy(device *to, const device *from, uint64_t frames)
{
    uint32_t *ticket = to->ticket;
    *to = *from;
    to->ticket = ticket;
    to->run = NULL;
    to->request = NULL;
    to->room_runs = to->room_requests = 0;
    memcpy(ticket, from->ticket, frames * sizeof *ticket);
    to->run = malloc((from->room_runs + 1) * sizeof *to->run);
    to->request = malloc((from->room_requests + 1) * sizeof *to->request);
    if (!to->run || !to->request)
        return false;
    if (from->room_runs)
        memcpy(to->run, from->run, from->room_runs * sizeof *to->run);
    if (from->room_requests)
        memcpy(to->request, from->request, from->room_requests * sizeof *to->request);
    to->room_runs = from->room_runs;
    to->room_requests = from->room_requests;
    return true;
}

/* ---- service ---------------------------------------------------------------------------------- */

/* The disk takes up a request at `start`; returns when its last page has passed. */
static uint64_t serve(device *d, const pa_costs *costs, uint64_t start, uint64_t place,
                      uint64_t count)
{
    uint64_t seek = place == d->head ? 0 : costs->seek;
    d->idle_at = (start > d->idle_at ? start : d->idle_at) + seek + count * costs->transfer;
    d->head = place + count;
    return d->idle_at;
}

/* Let at most `most` writes more begin, those that would have begun by `when`. */
static void begin_writes(device *d, const pa_costs *costs, uint64_t when, uint64_t most)
{
    for (; most && d->begun < d->count_requests; most--, d->begun++) {
        write_request *r = request_at(d, d->begun);
        uint64_t start = r->issued > d->idle_at ? r->issued : d->idle_at;
        if (r->issued == PLUGGED || start > when)
            return;
        r->end = serve(d, costs, start, r->place, r->count) + costs->write_latency;
    }
}

static void issue(device *d, const pa_costs *costs)
{
    d->reads = 0;
    d->read_first = false;
    if (!d->plugged)
        return;
    for (uint64_t i = d->count_requests; i-- && request_at(d, i)->issued == PLUGGED;)
        request_at(d, i)->issued = d->now;
    d->plugged = 0;
    begin_writes(d, costs, d->now, UINT64_MAX);
}

/* May no further request be plugged?  There are many, or the first one is large (blk_add_rq_to_plug);
 * a read of swap never is. */
static bool is_plenty(const device *d)
{
    if (!d->plugged)
        return false;
    uint64_t first = d->first_plugged - d->first_request;
    return d->count_requests - first + d->reads >= MANY ||
           (!d->read_first && request_at(d, first)->count >= MUCH);
}

void device_hold(device *d)
{
    d->held = true;
}

void device_hold_read(device *d)
{
    if (!d->held)
        return;
    d->read_first |= !d->plugged;
    d->reads++;
}

void device_let_go(device *d)
{
    d->held = d->read_first = false;
    d->reads = 0;
}

/* The request that pages for `place` would be added to, or NULL. */
static write_request *joinable(const device *d, uint64_t place)
{
    write_request *last = d->plugged ? request_at(d, d->count_requests - 1) : NULL;
    bool joins = last && last->count < MOST_MERGED && last->place + last->count == place;
    return joins ? last : NULL;
}

uint64_t device_room(const device *d, uint64_t place)
{
    const write_request *last = joinable(d, place);
    return MOST_MERGED - (last ? last->count : 0);
}

static uint32_t take_tickets(device *d, uint32_t count)
{
    uint32_t first = d->last_ticket < UINT32_MAX - count ? d->last_ticket + 1 : 1;
    d->last_ticket = first + count - 1;
    return first;
}

bool device_plug(device *d, const pa_costs *costs, uint32_t f, uint64_t place, uint32_t count)
{
    if (!room_for_run(d) || !room_for_request(d))
        return false;
    write_request *request = joinable(d, place);
    if (!request) {
        if (is_plenty(d))
            issue(d, costs);
        if (!d->plugged)
            d->first_plugged = d->first_request + d->count_requests;
        request = request_at(d, d->count_requests++);
        *request = (write_request){PLUGGED, place, 0, 0};
    }
    uint32_t ticket = take_tickets(d, count);
    uint32_t *tickets = &d->ticket[f];
    for (uint32_t i = 0; i < count; i++)
        tickets[i] = ticket + i;
    *run_at(d, d->count_runs++) = (write_run){f, ticket, count};
    request->count += count;
    d->count_pages += count;
    d->plugged += count;
    return true;
}

void device_unplug(device *d, const pa_costs *costs)
{
    if (!d->held)
        issue(d, costs);
}

/* Nobody hears of a write that is in service before what came after it is done, too. */
static void hold_back_writes(device *d, uint64_t end)
{
    for (uint64_t i = 0; i < d->begun; i++) {
        write_request *r = request_at(d, i);
        if (r->end > d->now && r->end < end)
            r->end = end;
    }
}

/* Reads overtake writes twice, then a batch of those has its turn (mq-deadline). */
static void overtake_writes(device *d, const pa_costs *costs)
{
    if (d->begun == d->count_requests || request_at(d, d->begun)->issued == PLUGGED)
        return;
    if (d->overtakes++ < WRITES_STARVED)
        return;
    begin_writes(d, costs, UINT64_MAX, FIFO_BATCH);
    d->overtakes = 0;
}

uint64_t device_fetch(device *d, const pa_costs *costs, uint64_t place, uint64_t count)
{
    begin_writes(d, costs, d->now, UINT64_MAX);
    if (costs->batches)
        overtake_writes(d, costs);
    uint64_t end = serve(d, costs, d->now, place, count) + costs->read_latency;
    if (costs->batches)
        hold_back_writes(d, end);
    return end;
}

void device_until(device *d, uint64_t when)
{
    if (!d->background && when > d->now)
        d->now = when;
}

void device_read(device *d, const pa_costs *costs, uint64_t place, uint64_t count)
{
    device_until(d, device_fetch(d, costs, place, count));
}

void device_answer_together(device *d, const pa_costs *costs, uint64_t each)
{
    uint64_t done = 0, first = d->count_requests;
    while (first && request_at(d, first - 1)->issued == d->now)
        first--;
    begin_writes(d, costs, UINT64_MAX, UINT64_MAX);
    for (uint64_t i = first; i < d->count_requests; i++) {
        done += request_at(d, i)->count;
        request_at(d, i)->end = d->idle_at + costs->write_latency + done * each;
    }
}

/* The first frames of the oldest run that are alike: wanted still, or not. */
static uint32_t alike(const device *d, const write_run *r, bool *wanted)
{
    const uint32_t *ticket = &d->ticket[r->frame], first = r->ticket, count = r->count;
    uint32_t misfit = 0;
    for (uint32_t i = 0; i < count; i++)
        misfit |= ticket[i] ^ (first + i);
    *wanted = *ticket == first;
    uint32_t n = misfit ? 1 : count;
    while (n < count && (ticket[n] == first + n) == *wanted)
        n++;
    return n;
}

/* The first n pages of the oldest run are done. */
static void end_pages(device *d, uint32_t n)
{
    write_run *r = run_at(d, 0);
    *r = (write_run){r->frame + n, r->ticket + n, r->count - n};
    if (!r->count) {
        d->first_run++;
        d->count_runs--;
    }
    d->count_pages -= n;
    request_at(d, 0)->count -= n;
    if (!request_at(d, 0)->count) {
        d->first_request++;
        d->count_requests--;
        d->begun--;
    }
}

uint32_t device_take_written(device *d, const pa_costs *costs, uint32_t *first)
{
    begin_writes(d, costs, d->now, UINT64_MAX);
    while (d->begun && request_at(d, 0)->end <= d->now) {
        bool wanted;
        uint32_t n = alike(d, run_at(d, 0), &wanted);
        *first = run_at(d, 0)->frame;
        end_pages(d, n);
        if (wanted) {
            device_forget(d, *first, n);
            return n;
        }
    }
    return 0;
}

bool device_wait(device *d, const pa_costs *costs)
{
    issue(d, costs); /* who goes to sleep holds nothing back */
    if (!d->begun)
        begin_writes(d, costs, UINT64_MAX, 1);
    if (!d->begun)
        return false;
    if (request_at(d, 0)->end > d->now)
        d->now = request_at(d, 0)->end;
    return true;
}
