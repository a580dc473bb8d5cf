/* SPDX-License-Identifier: MIT
 *
 * fetch.c -- pages that the disk is reading: in their place already, and not to be reclaimed.
 *
 * They are locked in the kernel (PG_locked), and reclaim puts back what it cannot lock.  So a window
 * that is read ahead into a full group does not push itself out, but the active pages.
 */
#include "ram.h"

#include <stdlib.h>
#include <string.h>

enum { FIRST_ROOM = 16 };

/* The frame of one of them; NO_FRAME: it is gone again. */
static uint32_t frame_of(pa_ram *ram, const fetching *what, uint64_t i)
{
    if (what->object == SWAPPED)
        return ram->slot_frame[what->index + i] - 1; /* 0 is none */
    if (!ram->objects[what->object].used)
        return NO_FRAME;
    const uint64_t *entry = object_entry(ram, what->object, what->index + i);
    return entry && *entry & PTE_PRESENT ? pte_frame(*entry) : NO_FRAME;
}

static void end_fetch(pa_ram *ram, const fetching *what)
{
    for (uint64_t i = 0; i < what->count; i++) {
        uint32_t f = frame_of(ram, what, i);
        if (f != NO_FRAME)
            ram->state[f] &= (uint8_t)~STATE_READING;
    }
}

static bool make_room(pa_ram *ram)
{
    if (ram->count_fetches < ram->room_fetches)
        return true;
    uint32_t room = ram->room_fetches ? ram->room_fetches * 2 : FIRST_ROOM;
    fetching *more = realloc(ram->fetches, room * sizeof *more);
    if (!more)
        return false;
    ram->fetches = more;
    ram->room_fetches = room;
    return true;
}

/* Nobody hears of a read before what came after it is done, too. */
static void hold_back(pa_ram *ram, uint64_t end)
{
    for (uint32_t i = 0; i < ram->count_fetches; i++) {
        fetching *before = &ram->fetches[i];
        if (before->end > ram->disk.now && before->end < end)
            before->end = end;
    }
}

void fetch_note(pa_ram *ram, fetching what)
{
    what.end = UNKNOWN;
    if (make_room(ram))
        ram->fetches[ram->count_fetches++] = what;
    else
        end_fetch(ram, &what); /* no memory on the host: they can be reclaimed a little early */
}

void fetch_submit(pa_ram *ram)
{
    for (uint32_t i = 0; i < ram->count_fetches; i++) {
        fetching *what = &ram->fetches[i];
        if (what->end != UNKNOWN || what->object == SWAPPED)
            continue;
        uint64_t place = file_place(ram, what->object, what->index);
        what->end = device_fetch(&ram->disk, &ram->settings.costs, place, what->count);
        if (ram->settings.costs.batches)
            hold_back(ram, what->end);
    }
}

void fetch_settle(pa_ram *ram)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < ram->count_fetches; i++) {
        if (ram->fetches[i].end <= ram->disk.now)
            end_fetch(ram, &ram->fetches[i]);
        else
            ram->fetches[kept++] = ram->fetches[i];
    }
    ram->count_fetches = kept;
}

void fetch_end_unknown(pa_ram *ram)
{
    for (uint32_t i = 0; i < ram->count_fetches; i++) {
        if (ram->fetches[i].end == UNKNOWN)
            ram->fetches[i].end = 0;
    }
    fetch_settle(ram);
}

bool fetch_wait(pa_ram *ram)
{
    if (!ram->count_fetches || ram->fetches[0].end == UNKNOWN)
        return false;
    device_until(&ram->disk, ram->fetches[0].end);
    fetch_settle(ram);
    return true;
}

bool fetch_await(pa_ram *ram, uint32_t id, uint64_t index)
{
    for (uint32_t i = 0; i < ram->count_fetches; i++) {
        const fetching *what = &ram->fetches[i];
        if (what->object == id && index - what->index < what->count && what->end > ram->disk.now) {
            device_until(&ram->disk, what->end);
            fetch_settle(ram);
            return true;
        }
    }
    return false;
}

bool fetch_copy(pa_ram *to, const pa_ram *from)
{
    to->fetches = malloc((from->count_fetches + 1) * sizeof *to->fetches);
    if (!to->fetches)
        return false;
    if (from->count_fetches)
        memcpy(to->fetches, from->fetches, from->count_fetches * sizeof *to->fetches);
    to->count_fetches = from->count_fetches;
    to->room_fetches = from->count_fetches + 1;
    return true;
}
