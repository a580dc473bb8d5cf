/* SPDX-License-Identifier: MIT
 *
 * heap.c -- the seam's own work: effects, questions, the break, and the public entry points.
 */
#include "heap.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HUGE_BYTES = 2 << 20 };

void heap_init(pa_heap *heap, const pa_allocator *vt, uint64_t brk_start)
{
    heap->vt = vt;
    heap->map_low = heap->map_high = heap->map_told = 0;
    heap->brk_start = heap->brk = heap->brk_highest = heap->lease = brk_start;
    heap->ceiling_vpn = UINT64_MAX >> 12;
    heap->places_from = brk_start & ~(uint64_t)4095;
    heap->places_shift = 3;
    pa_heap_set_program(heap, "<unknown>");
}

void heap_drop(pa_heap *heap)
{
    free(heap->effects);
}

bool heap_copy_base(pa_heap *to, const pa_heap *from)
{
    to->effects = NULL;
    if (from->room_effects) {
        to->effects = malloc(from->room_effects * sizeof *to->effects);
        if (!to->effects)
            return false;
        memcpy(to->effects, from->effects, from->count_effects * sizeof *to->effects);
    }
    return true;
}

/* ---- effects ---------------------------------------------------------------------------------- */

static bool grow_log(pa_heap *heap)
{
    size_t room = heap->room_effects ? heap->room_effects * 2 : 64;
    pa_effect *more = realloc(heap->effects, room * sizeof *more);
    if (!more) {
        heap->error = PA_ERR_HOST_NOMEM;
        return false;
    }
    heap->effects = more;
    heap->room_effects = room;
    return true;
}

void heap_log(pa_heap *heap, uint64_t kind, uint64_t at, uint64_t count)
{
    if (heap->count_effects) { /* the same page again, or the next one */
        pa_effect *last = &heap->effects[heap->count_effects - 1];
        if (kind <= EFFECT_READ && last->kind == kind) {
            if (at >= last->at && at + count <= last->at + last->count)
                return;
            if (at == last->at + last->count) {
                last->count += count;
                return;
            }
        }
    }
    if (heap->count_effects == heap->room_effects && !grow_log(heap))
        return;
    heap->effects[heap->count_effects++] = (pa_effect){kind, at, count};
}

void heap_touch_range(pa_heap *heap, uint64_t address, uint64_t bytes)
{
    if (!heap->mm || !bytes)
        return;
    uint64_t first = address >> 12, count = ((address + bytes - 1) >> 12) - first + 1;
    if (!mm_are_hot(heap->mm, first, count))
        heap_log(heap, EFFECT_TOUCH, first, count);
}

void heap_read_range(pa_heap *heap, uint64_t address, uint64_t bytes)
{
    if (heap->mm && bytes)
        heap_log(heap, EFFECT_READ, address >> 12,
                 ((address + bytes - 1) >> 12) - (address >> 12) + 1);
}

/* Touch what is left of an effect; false when the machine ran out of frames. */
static bool apply_touch(pa_heap *heap, pa_effect *e)
{
    uint64_t done = 0;
    pa_status s =
        (pa_status)pa_mm_touch_anon(heap->mm, e->at, e->count, e->kind == EFFECT_TOUCH, &done);
    e->at += done;
    e->count -= done;
    if (s == PA_OK)
        return true;
    if (s != PA_EXHAUSTED) {
        heap->error = s;
        return true;
    }
    heap->stop =
        (pa_stop){.reason = PA_STOP_FRAMES, .address = e->at << 12, .length = e->count << 12};
    return false;
}

static bool tell(pa_heap *heap, const pa_effect *e)
{
    bool unmap = e->kind == EFFECT_UNMAP;
    heap->count_moves++;
    heap->stop = (pa_stop){.reason = unmap ? PA_STOP_MUNMAP : PA_STOP_MPROTECT,
                           .prot = unmap ? 0 : 3,
                           .address = e->at,
                           .length = e->count};
    return false;
}

/* The break moved down: tables go that hold nothing of what is left below. */
static void shrink(pa_heap *heap, const pa_effect *e)
{
    bool all = e->at <= (heap->brk_start + 4095) >> 12;
    pa_mm_unmap(heap->mm, e->at, e->count, all ? heap->floor_vpn : e->at, heap->ceiling_vpn);
}

/* Apply one effect; false when policy must act before the next.  A told effect is then done. */
static bool apply(pa_heap *heap, pa_effect *e)
{
    if (e->kind >= EFFECT_UNMAP) {
        heap->next_effect++;
        return tell(heap, e);
    }
    heap->count_madvise_calls += e->kind == EFFECT_DISCARD;
    if (heap->mm && e->kind == EFFECT_DISCARD)
        mm_discard(heap->mm, e->at, e->count);
    else if (heap->mm && e->kind == EFFECT_SHRINK)
        shrink(heap, e);
    else if (heap->mm && !apply_touch(heap, e))
        return false;
    heap->next_effect++;
    return true;
}

/* Apply what is logged, then put the question that waits, if any. */
static uint64_t drain(pa_heap *heap)
{
    while (heap->next_effect < heap->count_effects) {
        if (!apply(heap, &heap->effects[heap->next_effect])) {
            heap->state = HEAP_DRAINING;
            return PENDING;
        }
    }
    heap->count_effects = heap->next_effect = 0;
    if (heap->question.reason != PA_STOP_NONE) {
        heap->stop = heap->question;
        heap->question.reason = PA_STOP_NONE;
        heap->state = HEAP_ASKING;
        return PENDING;
    }
    heap->state = HEAP_IDLE;
    return heap->result;
}

uint64_t heap_finish(pa_heap *heap, uint64_t result)
{
    heap->result = result;
    return drain(heap);
}

/* ---- questions -------------------------------------------------------------------------------- */

uint64_t heap_ask(pa_heap *heap, pa_reason reason, uint64_t address, uint64_t length,
                  uint64_t old_length, uint32_t prot)
{
    heap->count_moves++;
    heap->question = (pa_stop){.reason = reason,
                               .address = address,
                               .length = length,
                               .old_length = old_length,
                               .prot = prot};
    return drain(heap);
}

uint64_t heap_signal(pa_heap *heap, uint32_t number)
{
    if (!heap->abort_text)
        heap->abort_text = "";
    heap->stop = (pa_stop){.reason = PA_STOP_ABORT, .answer = number};
    heap->state = HEAP_DEAD;
    return PENDING;
}

uint64_t heap_abort(pa_heap *heap, const char *text)
{
    heap->abort_text = text ? text : "";
    return heap_signal(heap, text ? 6 : 11);
}

static void move_to(pa_heap *heap, uint64_t brk)
{
    heap->brk = brk;
    heap->moved = true;
    if (brk > heap->brk_highest)
        heap->brk_highest = brk;
}

bool heap_move_break(pa_heap *heap, uint64_t brk)
{
    if (brk > heap->brk && brk > heap->lease)
        return false;
    heap->count_brk_calls++;
    uint64_t keep = (brk + 4095) >> 12, had = (heap->brk + 4095) >> 12;
    if (keep < had && heap->mm)
        heap_log(heap, EFFECT_SHRINK, keep, had - keep);
    move_to(heap, brk);
    return true;
}

uint64_t heap_map(pa_heap *heap, uint64_t length)
{
    bool huge = heap->map_aligns_huge && !(length & (HUGE_BYTES - 1));
    /* had the break come down, policy would not know which of the two was first */
    if (huge || length < heap->map_least || length > heap->map_high - heap->map_low ||
        heap->brk_highest > heap->brk)
        return 0;
    bool above_break = heap->ceiling_vpn == heap->map_high >> 12;
    heap->map_high -= length;
    heap->moved = true;
    if (above_break)
        heap->ceiling_vpn = heap->map_high >> 12;
    heap->count_moves++;
    return heap->map_high;
}

/* ---- public entry points ---------------------------------------------------------------------- */

static uint64_t simple(pa_heap *heap, uint32_t op, uint64_t pointer, uint64_t size, uint64_t arg)
{
    pa_call call = {.op = op, .thread = heap->thread, .pointer = pointer, .size = size, .arg = arg};
    if (heap->state != HEAP_IDLE)
        return PENDING;
    return heap->vt->call(heap, &call);
}

uint64_t pa_heap_malloc(pa_heap *heap, uint64_t bytes)
{
    return simple(heap, PA_OP_MALLOC, 0, bytes, 0);
}

uint64_t pa_heap_free(pa_heap *heap, uint64_t pointer)
{
    return simple(heap, PA_OP_FREE, pointer, 0, 0);
}

uint64_t pa_heap_realloc(pa_heap *heap, uint64_t pointer, uint64_t bytes)
{
    return simple(heap, PA_OP_REALLOC, pointer, bytes, 0);
}

/* True if the block is written as far as it has to be. */
static bool write_block(pa_heap *heap, uint64_t address, uint64_t bytes, uint64_t *written)
{
    if (!address || !bytes || !heap->mm)
        return true;
    uint64_t first = address >> 12, count = ((address + bytes - 1) >> 12) - first + 1;
    return pa_mm_touch_anon(heap->mm, first, count, true, written) == PA_OK;
}

uint64_t pa_heap_malloc_list(pa_heap *heap, const uint64_t *bytes, uint64_t count, bool write,
                             uint64_t *addresses, uint64_t *written)
{
    for (uint64_t i = 0; i < count; i++) {
        *written = 0;
        addresses[i] = pa_heap_malloc(heap, bytes[i]);
        if (heap->state != HEAP_IDLE ||
            (write && !write_block(heap, addresses[i], bytes[i], written)))
            return i;
    }
    return count;
}

uint64_t pa_heap_free_list(pa_heap *heap, const uint64_t *pointers, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        pa_heap_free(heap, pointers[i]);
        if (heap->state != HEAP_IDLE)
            return i;
    }
    return count;
}

uint64_t pa_heap_other(pa_heap *heap, uint32_t op, uint64_t size, uint64_t arg)
{
    return simple(heap, op, 0, size, arg);
}

uint64_t pa_heap_resume(pa_heap *heap)
{
    if (heap->state == HEAP_DRAINING)
        return drain(heap);
    if (heap->state != HEAP_ASKING)
        return PENDING;
    heap->state = HEAP_IDLE;
    if (heap->stop.reason == PA_STOP_BRK) {
        heap->count_brk_calls++;
        move_to(heap, heap->stop.answer);
    }
    return heap->vt->resume(heap);
}

void pa_heap_answer(pa_heap *heap, uint64_t answer)
{
    heap->stop.answer = answer;
}

bool pa_heap_is_stopped(const pa_heap *heap)
{
    return heap->state != HEAP_IDLE;
}

const pa_stop *pa_heap_stop(const pa_heap *heap)
{
    return &heap->stop;
}

void pa_heap_set_program(pa_heap *heap, const char *name)
{
    snprintf(heap->program, sizeof heap->program, "%s", name);
}

const char *pa_heap_abort_text(const pa_heap *heap)
{
    return heap->abort_text ? heap->abort_text : "";
}

int pa_heap_error(const pa_heap *heap)
{
    return (int)heap->error;
}

void pa_heap_set_thread(pa_heap *heap, uint32_t thread)
{
    heap->thread = thread;
}

void pa_heap_attach(pa_heap *heap, pa_mm *mm)
{
    heap->mm = mm;
}

void pa_heap_lease(pa_heap *heap, uint64_t highest, uint64_t floor_vpn, uint64_t ceiling_vpn)
{
    heap->lease = highest;
    heap->floor_vpn = floor_vpn;
    heap->ceiling_vpn = ceiling_vpn;
}

void pa_heap_lease_below(pa_heap *heap, uint64_t low, uint64_t high, uint64_t least,
                         bool aligns_huge)
{
    heap->map_low = low;
    heap->map_high = heap->map_told = high;
    heap->map_least = least;
    heap->map_aligns_huge = aligns_huge;
}

const uint64_t *pa_heap_lowest(const pa_heap *heap)
{
    return &heap->map_high;
}

uint64_t pa_heap_mapped_to(pa_heap *heap)
{
    return heap->map_told = heap->map_high;
}

uint64_t pa_heap_break(const pa_heap *heap)
{
    return heap->brk;
}

/* The highest break since the last call of this function. */
uint64_t pa_heap_break_peak(pa_heap *heap)
{
    uint64_t highest = heap->brk_highest;
    heap->brk_highest = heap->brk;
    heap->moved = false;
    return highest;
}

const bool *pa_heap_moved(const pa_heap *heap)
{
    return &heap->moved;
}

/* Somebody else moved the break, and knows that it did. */
void pa_heap_set_break(pa_heap *heap, uint64_t brk)
{
    heap->brk = heap->brk_highest = brk;
    heap->moved = false;
}

uint64_t pa_heap_usable_size(const pa_heap *heap, uint64_t pointer)
{
    return heap->vt->usable_size(heap, pointer);
}

void pa_heap_read_statistics(const pa_heap *heap, pa_heap_statistics *out)
{
    memset(out, 0, sizeof *out);
    out->count_brk_calls = heap->count_brk_calls;
    out->count_mmap_calls = heap->count_mmap_calls;
    out->count_madvise_calls = heap->count_madvise_calls;
    out->count_arena_calls = heap->count_arena_calls;
    out->count_steps = heap->count_steps;
    heap->vt->statistics(heap, out);
}

int pa_heap_mallinfo(const pa_heap *heap, uint32_t arena, pa_mallinfo *out)
{
    memset(out, 0, sizeof *out);
    return heap->vt->mallinfo ? (int)heap->vt->mallinfo(heap, arena, out) : PA_ERR_INVALID;
}

uint64_t pa_heap_walk(const pa_heap *heap, pa_chunk *out, uint64_t room)
{
    return heap->vt->walk(heap, out, room);
}

uint64_t pa_heap_list(const pa_heap *heap, pa_chunk *out, uint64_t room)
{
    return heap->vt->list ? heap->vt->list(heap, out, room) : 0;
}

int pa_heap_read_arena(const pa_heap *heap, uint32_t i, pa_arena *out)
{
    memset(out, 0, sizeof *out);
    return heap->vt->arena ? (int)heap->vt->arena(heap, i, out) : PA_ERR_INVALID;
}

int pa_heap_read_settings(const pa_heap *heap, pa_settings *out)
{
    memset(out, 0, sizeof *out);
    return heap->vt->settings ? (int)heap->vt->settings(heap, out) : PA_ERR_INVALID;
}

int pa_heap_tunable(pa_heap *heap, const char *name, uint64_t value)
{
    return (int)heap->vt->tunable(heap, name, value);
}

int pa_heap_environment(pa_heap *heap, const char *name, const char *text)
{
    if (!heap->vt->environment)
        return PA_ERR_INVALID;
    return (int)heap->vt->environment(heap, name, text);
}

int pa_heap_check(const pa_heap *heap)
{
    return (int)heap->vt->check(heap);
}

pa_heap *pa_heap_copy(const pa_heap *heap, pa_mm *mm)
{
    pa_heap *copy = heap->vt->copy(heap);
    if (copy)
        copy->mm = mm;
    return copy;
}

void pa_heap_drop(pa_heap *heap)
{
    if (heap)
        heap->vt->drop(heap);
}
