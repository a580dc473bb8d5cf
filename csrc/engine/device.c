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

enum { FIRST_ROOM = 1024, MOST_MERGED = 254, MUCH = 32, MANY = 32 };
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
    free(d->page);
    free(d->request);
    *d = (device){0};
}

/* ---- rings ------------------------------------------------------------------------------------ */

static write_page *page_at(const device *d, uint64_t i)
{
    return &d->page[(d->first_page + i) & (d->room_pages - 1)];
}

static write_request *request_at(const device *d, uint64_t i)
{
    return &d->request[(d->first_request + i) & (d->room_requests - 1)];
}

static bool room_for_page(device *d)
{
    if (d->count_pages < d->room_pages)
        return true;
    uint64_t room = d->room_pages ? d->room_pages * 2 : FIRST_ROOM;
    write_page *more = malloc(room * sizeof *more);
    if (!more)
        return false;
    for (uint64_t i = 0; i < d->count_pages; i++)
        more[i] = *page_at(d, i);
    free(d->page);
    d->page = more;
    d->room_pages = room;
    d->first_page = 0;
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
    to->page = NULL;
    to->request = NULL;
    to->room_pages = to->room_requests = 0;
    memcpy(ticket, from->ticket, frames * sizeof *ticket);
    to->page = malloc((from->room_pages + 1) * sizeof *to->page);
    to->request = malloc((from->room_requests + 1) * sizeof *to->request);
    if (!to->page || !to->request)
        return false;
    if (from->room_pages)
        memcpy(to->page, from->page, from->room_pages * sizeof *to->page);
    if (from->room_requests)
        memcpy(to->request, from->request, from->room_requests * sizeof *to->request);
    to->room_pages = from->room_pages;
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
    if (!d->plugged)
        return;
    for (uint64_t i = d->count_requests; i-- && request_at(d, i)->issued == PLUGGED;)
        request_at(d, i)->issued = d->now;
    d->plugged = 0;
    begin_writes(d, costs, d->now, UINT64_MAX);
}

/* May no further request be plugged?  The first one decides (blk_add_rq_to_plug), and whoever holds
 * the plug has put a small read there. */
static bool is_plenty(const device *d)
{
    if (!d->plugged)
        return false;
    uint64_t first = d->first_plugged - d->first_request;
    return d->count_requests - first >= MANY || (!d->held && request_at(d, first)->count >= MUCH);
}

bool device_plug(device *d, const pa_costs *costs, uint32_t f, uint64_t place)
{
    if (!room_for_page(d) || !room_for_request(d))
        return false;
    if (!++d->last_ticket)
        d->last_ticket = 1;
    d->ticket[f] = d->last_ticket;
    write_request *last = d->plugged ? request_at(d, d->count_requests - 1) : NULL;
    bool joins = last && last->count < MOST_MERGED && last->place + last->count == place;
    if (!joins && is_plenty(d))
        issue(d, costs);
    if (!d->plugged)
        d->first_plugged = d->first_request + d->count_requests;
    if (!joins)
        *request_at(d, d->count_requests++) = (write_request){PLUGGED, place, 0, 0};
    request_at(d, d->count_requests - 1)->count++;
    *page_at(d, d->count_pages++) = (write_page){f, d->last_ticket};
    d->plugged++;
    return true;
}

void device_unplug(device *d, const pa_costs *costs)
{
    if (!d->held)
        issue(d, costs);
}

uint64_t device_fetch(device *d, const pa_costs *costs, uint64_t place, uint64_t count)
{
    begin_writes(d, costs, d->now, UINT64_MAX);
    return serve(d, costs, d->now, place, count) + costs->read_latency;
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

uint32_t device_take_written(device *d, const pa_costs *costs)
{
    begin_writes(d, costs, d->now, UINT64_MAX);
    while (d->begun && request_at(d, 0)->end <= d->now) {
        write_page page = *page_at(d, 0);
        d->first_page++;
        d->count_pages--;
        if (!--request_at(d, 0)->count) {
            d->first_request++;
            d->count_requests--;
            d->begun--;
        }
        if (d->ticket[page.frame] == page.ticket) {
            d->ticket[page.frame] = 0;
            return page.frame;
        }
    }
    return UINT32_MAX;
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
