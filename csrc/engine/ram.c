/* SPDX-License-Identifier: MIT
 *
 * ram.c -- the machine as a whole: made, copied, configured, dropped.
 */
#include "ram.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* Zeroed memory that costs nothing until it is touched. */
static void *reserve(uint64_t count, size_t size)
{
    void *at = mmap(NULL, count * size + 1, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return at == MAP_FAILED ? NULL : at;
}

static void unreserve(void *at, uint64_t count, size_t size)
{
    if (at)
        munmap(at, count * size + 1);
}

/* Room for those of every generation, and the last one that may be begun. */
static uint64_t clusters_for(uint64_t slots)
{
    return slots / SHORTEST_RUN + 2;
}

/* It is known from the start, and may be far beyond the others that are. */
static cluster *last_cluster(const pa_ram *ram)
{
    return &ram->cluster[slots_cluster_of(ram, ram->settings.count_slots)];
}

static bool reserve_arrays(pa_ram *ram)
{
    uint64_t frames = ram->settings.count_frames, slots = ram->settings.count_slots;
    ram->frame = reserve(frames, sizeof *ram->frame);
    ram->maps = reserve(frames, sizeof *ram->maps);
    ram->slot_of = reserve(frames, sizeof *ram->slot_of);
    ram->slot_frame = reserve(slots, sizeof *ram->slot_frame);
    ram->slot_refs = reserve(slots, sizeof *ram->slot_refs);
    ram->slot_group = reserve(slots, sizeof *ram->slot_group);
    ram->slot_shadow = reserve(slots, sizeof *ram->slot_shadow);
    ram->cluster = reserve(clusters_for(slots), sizeof *ram->cluster);
    ram->state = reserve(frames, sizeof *ram->state);
    return device_init(&ram->disk, frames) && ram->slot_shadow && ram->cluster && ram->state &&
           ram->frame && ram->maps && ram->slot_of && ram->slot_frame && ram->slot_refs &&
           ram->slot_group;
}

static bool is_valid(const pa_ram_settings *s)
{
    return s->count_frames < NO_FRAME && s->count_slots < NO_FRAME && s->shape <= PA_SHAPE_X86_64 &&
           s->swappiness <= 200 && s->page_cluster <= 5 && s->watermark_min <= s->watermark_low &&
           s->watermark_low <= s->watermark_high && s->count_reserved <= s->count_frames;
}

static pa_ram *new_ram(const pa_ram_settings *settings)
{
    pa_ram *ram = calloc(1, sizeof *ram);
    if (!ram)
        return NULL;
    ram->settings = *settings;
    ram->most_promised = UINT64_MAX;
    if (reserve_arrays(ram))
        return ram;
    pa_ram_drop(ram);
    return NULL;
}

/* Give back all but the arrays. */
static void drop_contents(pa_ram *ram)
{
    for (uint32_t i = 0; i < ram->count_mms; i++)
        mm_free(ram->mms[i]);
    object_drop_all(ram);
    free(ram->moves.hint);
    free(ram->streams);
    free(ram->fetches);
    free(ram->mms);
    free(ram->groups);
    bitmap_drop(&ram->frames);
    bitmap_drop(&ram->slots);
    bitmap_drop(&ram->clusters);
}

static void drop_arrays(pa_ram *ram)
{
    uint64_t frames = ram->settings.count_frames, slots = ram->settings.count_slots;
    unreserve(ram->frame, frames, sizeof *ram->frame);
    unreserve(ram->maps, frames, sizeof *ram->maps);
    unreserve(ram->slot_of, frames, sizeof *ram->slot_of);
    unreserve(ram->slot_frame, slots, sizeof *ram->slot_frame);
    unreserve(ram->slot_refs, slots, sizeof *ram->slot_refs);
    unreserve(ram->slot_group, slots, sizeof *ram->slot_group);
    unreserve(ram->slot_shadow, slots, sizeof *ram->slot_shadow);
    unreserve(ram->cluster, clusters_for(slots), sizeof *ram->cluster);
    unreserve(ram->state, frames, sizeof *ram->state);
    device_drop(&ram->disk, frames);
}

/* What was used of the arrays is zero again. */
static void clear_arrays(pa_ram *ram)
{
    uint64_t frames = ram->frames.high, slots = ram->slots.high;
    memset(ram->frame, 0, frames * sizeof *ram->frame);
    memset(ram->maps, 0, frames * sizeof *ram->maps);
    memset(ram->slot_of, 0, frames * sizeof *ram->slot_of);
    memset(ram->state, 0, frames * sizeof *ram->state);
    memset(ram->slot_frame, 0, slots * sizeof *ram->slot_frame);
    memset(ram->slot_refs, 0, slots * sizeof *ram->slot_refs);
    memset(ram->slot_group, 0, slots * sizeof *ram->slot_group);
    memset(ram->slot_shadow, 0, slots * sizeof *ram->slot_shadow);
    memset(ram->cluster, 0, clusters_for(slots) * sizeof *ram->cluster);
    memset(last_cluster(ram), 0, sizeof *ram->cluster);
    device_reset(&ram->disk, frames);
}

/* The values of one machine with the arrays of another, and nothing yet of what else it has. */
static pa_ram in_arrays_of(const pa_ram *ram, pa_ram values)
{
    values.frame = ram->frame;
    values.maps = ram->maps;
    values.slot_of = ram->slot_of;
    values.slot_frame = ram->slot_frame;
    values.slot_refs = ram->slot_refs;
    values.slot_group = ram->slot_group;
    values.slot_shadow = ram->slot_shadow;
    values.cluster = ram->cluster;
    values.state = ram->state;
    values.disk = ram->disk;
    values.tables_free = ram->tables_free;
    values.frames = values.slots = values.clusters = (pa_bitmap){0};
    values.moves = (hint_list){0};
    values.groups = NULL;
    values.mms = NULL;
    values.objects = NULL;
    values.streams = NULL;
    values.fetches = NULL;
    values.count_mms = values.count_busy = values.count_objects = 0;
    return values;
}

/* A new machine in the arrays of one that is not needed any more. */
static pa_ram *emptied(pa_ram *ram, const pa_ram_settings *settings)
{
    clear_arrays(ram);
    drop_contents(ram);
    *ram = in_arrays_of(ram, (pa_ram){.settings = *settings, .most_promised = UINT64_MAX});
    return ram;
}

static bool fits(const pa_ram *ram, const pa_ram_settings *settings)
{
    return ram && ram->settings.count_frames == settings->count_frames &&
           ram->settings.count_slots == settings->count_slots;
}

bool pa_ram_is_small(const pa_ram *ram)
{
    enum { BYTES_FRAME = 27, BYTES_SLOT = 12, MOST = 32 << 20 };
    return ram->frames.high * BYTES_FRAME + ram->slots.high * BYTES_SLOT <= MOST;
}

pa_ram *pa_ram_renew(pa_ram *spent, const pa_ram_settings *settings)
{
    if (!is_valid(settings) || !fits(spent, settings)) {
        pa_ram_drop(spent);
        spent = NULL;
    }
    if (!is_valid(settings))
        return NULL;
    pa_ram *ram = spent ? emptied(spent, settings) : new_ram(settings);
    if (!ram)
        return NULL;
    bool fine = bitmap_init(&ram->frames, settings->count_frames) && slots_init(ram);
    ram->groups = malloc(sizeof *ram->groups);
    if (!fine || !ram->groups) {
        pa_ram_drop(ram);
        return NULL;
    }
    group_init(&ram->groups[0], NO_GROUP, UINT64_MAX, UINT64_MAX);
    ram->count_groups = 1;
    return ram;
}

pa_ram *pa_ram_new(const pa_ram_settings *settings)
{
    return pa_ram_renew(NULL, settings);
}

void pa_ram_drop(pa_ram *ram)
{
    if (!ram)
        return;
    drop_contents(ram);
    drop_arrays(ram);
    table_pool_drop(&ram->tables_free);
    free(ram);
}

static bool copy_array(void **to, const void *from, size_t bytes)
{
    *to = malloc(bytes + 1);
    if (*to && bytes)
        memcpy(*to, from, bytes);
    return *to != NULL;
}

static void copy_records(pa_ram *to, const pa_ram *from)
{
    uint64_t frames = from->frames.high, slots = from->slots.high;
    memcpy(to->frame, from->frame, frames * sizeof *to->frame);
    memcpy(to->maps, from->maps, frames * sizeof *to->maps);
    memcpy(to->slot_of, from->slot_of, frames * sizeof *to->slot_of);
    memcpy(to->slot_frame, from->slot_frame, slots * sizeof *to->slot_frame);
    memcpy(to->slot_refs, from->slot_refs, slots * sizeof *to->slot_refs);
    memcpy(to->slot_group, from->slot_group, slots * sizeof *to->slot_group);
    memcpy(to->slot_shadow, from->slot_shadow, slots * sizeof *to->slot_shadow);
    memcpy(to->cluster, from->cluster, clusters_for(slots) * sizeof *to->cluster);
    *last_cluster(to) = *last_cluster(from);
    memcpy(to->state, from->state, frames * sizeof *to->state);
}

static bool copy_mms(pa_ram *to, const pa_ram *from)
{
    to->mms = calloc(from->count_mms + 1, sizeof *to->mms);
    if (!to->mms)
        return false;
    to->count_mms = from->count_mms;
    to->count_busy = from->count_busy;
    for (uint32_t i = 0; i < from->count_mms; i++) {
        if (from->mms[i] && !(to->mms[i] = mm_copy(from->mms[i], to)))
            return false;
    }
    return true;
}

static bool copy_objects(pa_ram *to, const pa_ram *from)
{
    to->objects = calloc(from->count_objects + 1, sizeof *to->objects);
    if (!to->objects)
        return false;
    for (uint32_t i = 0; i < from->count_objects; i++) {
        const object *o = &from->objects[i];
        object *copy = &to->objects[i];
        to->count_objects = i + 1;
        if (!o->used)
            continue;
        pa_pagetable pages;
        hint_list hints;
        if (!pt_table_copy(&pages, &o->pages, &to->tables_free))
            return false;
        *copy = *o;
        copy->pages = pages;
        copy->hints = (hint_list){0};
        copy->extents = (extents){0};
        if (!rmap_copy_hints(&hints, &o->hints))
            return false;
        copy->hints = hints;
        if (!extents_copy(&copy->extents, &o->extents, &to->tables_free))
            return false;
    }
    return true;
}

static bool copy_groups(pa_ram *to, const pa_ram *from)
{
    void *groups;
    bool fine = copy_array(&groups, from->groups, from->count_groups * sizeof *from->groups);
    to->groups = groups;
    return fine;
}

static bool copy_streams(pa_ram *to, const pa_ram *from)
{
    void *streams;
    bool fine = copy_array(&streams, from->streams, from->count_streams * sizeof *from->streams);
    to->streams = streams;
    return fine;
}

static bool copy_all(pa_ram *to, const pa_ram *from)
{
    *to = in_arrays_of(to, *from);
    copy_records(to, from);
    return bitmap_copy(&to->frames, &from->frames) && bitmap_copy(&to->slots, &from->slots) &&
           bitmap_copy(&to->clusters, &from->clusters) && copy_groups(to, from) &&
           copy_streams(to, from) && device_copy(&to->disk, &from->disk, from->frames.high) &&
           rmap_copy_hints(&to->moves, &from->moves) && fetch_copy(to, from) &&
           copy_objects(to, from) && copy_mms(to, from);
}

pa_ram *pa_ram_copy(const pa_ram *ram)
{
    pa_ram *copy = new_ram(&ram->settings);
    if (copy && !copy_all(copy, ram)) {
        pa_ram_drop(copy);
        return NULL;
    }
    return copy;
}

int pa_ram_configure(pa_ram *ram, const pa_ram_settings *settings)
{
    const pa_ram_settings *now = &ram->settings;
    if (!is_valid(settings) || settings->count_frames != now->count_frames ||
        settings->count_slots != now->count_slots || settings->shape != now->shape)
        return PA_ERR_INVALID;
    ram->settings = *settings;
    return PA_OK;
}
