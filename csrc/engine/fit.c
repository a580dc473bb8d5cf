/* SPDX-License-Identifier: MIT
 *
 * fit.c -- the blocks of sequential fit: marks, the list, the search, allocating and freeing.
 */
#include "fit.h"

#include <stdlib.h>
#include <string.h>

/* ---- tags and links --------------------------------------------------------------------------- */

/* Say at the upper neighbour of c, which has `units`, whether c is in use. */
static void tag_above(seqfit *h, pa_unit c, uint64_t units, bool in_use)
{
    block *above = at(h, c + (pa_unit)units);
    if (in_use) {
        above->size |= P_INUSE;
    } else {
        above->size &= ~(uint32_t)P_INUSE;
        above->prev_size = (uint32_t)units;
    }
    touch(h, c + (pa_unit)units);
}

static void link_pair(seqfit *h, pa_unit low, pa_unit high)
{
    at(h, low)->next = high;
    at(h, high)->previous = low;
    if (low != LIST)
        touch(h, low + 1);
    if (high != LIST)
        touch(h, high + 1);
}

/* ---- which pointers are in use ---------------------------------------------------------------- */

void fit_mark_used(seqfit *h, pa_unit c, bool used)
{
    uint64_t i = c - h->first, bit = (uint64_t)1 << (i & 63);
    h->used[i >> 6] = used ? h->used[i >> 6] | bit : h->used[i >> 6] & ~bit;
}

bool fit_room_for_marks(seqfit *h, pa_unit end)
{
    size_t need = ((size_t)(end - h->first) >> 6) + 1;
    if (need <= h->count_words)
        return true;
    need = need * 2 + 64;
    uint64_t *more = realloc(h->used, need * sizeof *more);
    if (!more)
        return false;
    memset(more + h->count_words, 0, (need - h->count_words) * sizeof *more);
    h->used = more;
    h->count_words = need;
    return true;
}

/* ---- the list --------------------------------------------------------------------------------- */

/* The first member above c: the first free block that the walk upwards meets. */
static pa_unit member_above(const seqfit *h, pa_unit c)
{
    for (c += size_of(h, c); c < h->top; c += size_of(h, c)) {
        pa_unit above = c + size_of(h, c);
        if (!below_in_use(h, above))
            return c;
    }
    return LIST;
}

static void insert(seqfit *h, pa_unit c)
{
    pa_unit high = member_above(h, c), low = at(h, high)->previous;
    link_pair(h, low, c);
    link_pair(h, c, high);
}

/* Take c out; the rover goes on to its successor. */
static void take_out(seqfit *h, pa_unit c)
{
    pa_unit next = at(h, c)->next;
    if (h->rover == c)
        h->rover = next;
    link_pair(h, at(h, c)->previous, next);
}

/* `to` stands in the list where `from` stood. */
static void take_place(seqfit *h, pa_unit from, pa_unit to)
{
    pa_unit low = at(h, from)->previous, high = at(h, from)->next;
    if (h->rover == from)
        h->rover = to;
    link_pair(h, low, to);
    link_pair(h, to, high);
}

/* ---- search ----------------------------------------------------------------------------------- */

static pa_unit first_from(const seqfit *h, pa_unit c, pa_unit stop, uint64_t nb)
{
    while (c != stop && size_of(h, c) < nb)
        c = at(h, c)->next;
    return c == stop ? NO_FIT : c;
}

static pa_unit find_next(const seqfit *h, uint64_t nb)
{
    pa_unit c = first_from(h, h->rover, LIST, nb);
    return c == NO_FIT ? first_from(h, at(h, LIST)->next, h->rover, nb) : c;
}

static pa_unit find_best(const seqfit *h, uint64_t nb)
{
    pa_unit best = NO_FIT;
    uint64_t smallest = UINT64_MAX;
    for (pa_unit c = at(h, LIST)->next; c != LIST && smallest != nb; c = at(h, c)->next) {
        uint64_t size = size_of(h, c);
        if (size >= nb && size < smallest) {
            smallest = size;
            best = c;
        }
    }
    return best;
}

static pa_unit find_worst(const seqfit *h, uint64_t nb)
{
    pa_unit worst = NO_FIT;
    uint64_t largest = nb - 1;
    for (pa_unit c = at(h, LIST)->next; c != LIST; c = at(h, c)->next) {
        if (size_of(h, c) > largest) {
            largest = size_of(h, c);
            worst = c;
        }
    }
    return worst;
}

static pa_unit find(const seqfit *h, uint64_t nb)
{
    switch (h->policy) {
    case BEST_FIT:
        return find_best(h, nb);
    case NEXT_FIT:
        return find_next(h, nb);
    case WORST_FIT:
        return find_worst(h, nb);
    default:
        return first_from(h, at(h, LIST)->next, LIST, nb);
    }
}

/* ---- allocating ------------------------------------------------------------------------------- */

static pa_unit carve_top(seqfit *h, uint64_t nb)
{
    pa_unit c = h->top;
    uint64_t rest = size_of(h, c) - nb;
    h->top = c + (pa_unit)nb;
    set_size(h, c, nb, true);
    set_size(h, h->top, rest, true);
    fit_mark_used(h, c, true);
    return c;
}

pa_unit fit_carve(seqfit *h, pa_unit c, uint64_t nb)
{
    uint64_t size = size_of(h, c);
    if (size - nb < MIN_UNITS) {
        take_out(h, c);
        tag_above(h, c, size, true);
    } else {
        pa_unit rest = c + (pa_unit)nb;
        set_size(h, c, nb, true);
        take_place(h, c, rest);
        set_size(h, rest, size - nb, true);
        tag_above(h, rest, size - nb, false);
        if (h->policy == NEXT_FIT)
            h->rover = rest;
    }
    fit_mark_used(h, c, true);
    return c;
}

pa_unit fit_allocate(seqfit *h, uint64_t nb)
{
    pa_unit c = find(h, nb);
    if (c == NO_FIT)
        return h->top && size_of(h, h->top) >= nb + MIN_UNITS ? carve_top(h, nb) : NO_FIT;
    if (h->policy == NEXT_FIT)
        h->rover = c; /* take_out() moves it on */
    return fit_carve(h, c, nb);
}

/* ---- freeing ---------------------------------------------------------------------------------- */

void fit_release(seqfit *h, pa_unit c, uint64_t units)
{
    bool listed = false;
    if (!below_in_use(h, c)) {
        uint64_t below = at(h, c)->prev_size;
        c -= (pa_unit)below;
        units += below;
        listed = true;
    }
    pa_unit above = c + (pa_unit)units;
    if (above == h->top) {
        if (listed)
            take_out(h, c);
        set_size(h, c, units + size_of(h, above), true);
        h->top = c;
        return;
    }
    uint64_t size = size_of(h, above);
    bool above_free = !is_used(h, above) && !below_in_use(h, above + (pa_unit)size);
    if (above_free && listed) {
        pa_unit rover = h->rover;
        take_out(h, above);
        if (rover == above)
            h->rover = c;
    } else if (above_free) {
        take_place(h, above, c);
        listed = true;
    }
    units += above_free ? size : 0;
    set_size(h, c, units, true);
    if (!listed)
        insert(h, c);
    tag_above(h, c, units, false);
}

void fit_free(seqfit *h, pa_unit c)
{
    fit_mark_used(h, c, false);
    fit_release(h, c, size_of(h, c));
}

void fit_shrink(seqfit *h, pa_unit c, uint64_t nb)
{
    uint64_t rest = size_of(h, c) - nb;
    if (rest < MIN_UNITS)
        return;
    set_size(h, c, nb, below_in_use(h, c));
    set_size(h, c + (pa_unit)nb, rest, true);
    fit_release(h, c + (pa_unit)nb, rest);
}
