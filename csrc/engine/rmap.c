/* SPDX-License-Identifier: MIT
 *
 * rmap.c -- who maps a frame.
 *
 * A frame remembers one place only: the (mm, vpn) it was made for, or its object and index.  After
 * a fork the same page is nearly always at the same vpn of the relatives, so those are looked at
 * next; whatever mremap has moved since is found by a walk over every table, which is rare.
 */
#include "ram.h"

#include <stdlib.h>
#include <string.h>

/* ---- where to look ---------------------------------------------------------------------------- */

bool rmap_hint(hint_list *list, uint32_t mm, int64_t delta)
{
    for (uint32_t i = list->count; i--;) {
        if (list->hint[i].mm == mm && list->hint[i].delta == delta)
            return true;
    }
    if (list->count == list->room) {
        uint32_t room = list->room ? list->room * 2 : 4;
        view_hint *more = realloc(list->hint, room * sizeof *more);
        if (!more)
            return false;
        list->hint = more;
        list->room = room;
    }
    list->hint[list->count++] = (view_hint){mm, delta};
    return true;
}

bool rmap_copy_hints(hint_list *to, const hint_list *from)
{
    *to = (hint_list){malloc((from->count + 1) * sizeof *to->hint), from->count, from->count};
    if (to->hint && from->count)
        memcpy(to->hint, from->hint, from->count * sizeof *to->hint);
    return to->hint != NULL;
}

static void forget(hint_list *list, uint32_t mm)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < list->count; i++) {
        if (list->hint[i].mm != mm)
            list->hint[kept++] = list->hint[i];
    }
    list->count = kept;
}

void rmap_forget_mm(pa_ram *ram, uint32_t mm)
{
    for (uint32_t i = 0; i < ram->count_objects; i++)
        forget(&ram->objects[i].hints, mm);
    forget(&ram->moves, mm);
}

/* ---- looking ---------------------------------------------------------------------------------- */

typedef struct search {
    pa_ram *ram;
    uint32_t frame;
    rmap_visit visit;
    void *context;
    uint64_t found;
} search;

/* The only mapper of an anonymous page is where one looks first the next time. */
static void remember(const search *s, const pa_mm *mm, uint64_t vpn)
{
    uint64_t *owner = &s->ram->frame[s->frame].owner;
    if (owner_kind(*owner) == KIND_ANON && !s->ram->maps[s->frame])
        *owner = owner_moved(*owner, mm->number, vpn);
}

static bool try_at(search *s, pa_mm *mm, uint64_t vpn)
{
    if (!mm || vpn >= pt_table_end(&mm->table))
        return false;
    uint64_t *pte = pt_table_find(&mm->table, vpn);
    if (!pte || !pte_is_frame(*pte) || pte_frame(*pte) != s->frame)
        return false;
    s->found++;
    remember(s, mm, vpn);
    s->visit(mm, vpn, pte, s->context);
    return true;
}

static void try_hints(search *s, const hint_list *list, uint64_t place, uint64_t mappers)
{
    for (uint32_t i = 0; i < list->count && s->found < mappers; i++) {
        uint64_t vpn = place + (uint64_t)list->hint[i].delta;
        try_at(s, s->ram->mms[list->hint[i].mm], vpn);
    }
}

/* Was the place looked at already: of the page itself, or where a hint says? */
static bool is_known(const pa_ram *ram, uint32_t mm, uint64_t vpn, uint64_t place)
{
    for (uint32_t i = 0; i < ram->moves.count; i++) {
        const view_hint *h = &ram->moves.hint[i];
        if (h->mm == mm && place + (uint64_t)h->delta == vpn)
            return true;
    }
    return vpn == place;
}

/* The long way: every entry of every table but those that were looked at. */
static void try_everywhere(search *s, uint64_t place, uint64_t mappers)
{
    for (uint32_t i = 0; i < s->ram->count_mms && s->found < mappers; i++) {
        pa_mm *mm = s->ram->mms[i];
        if (!mm)
            continue;
        uint64_t end = pt_table_end(&mm->table), size = pt_table_leaf_size(&mm->table);
        for (uint64_t v = pt_table_next(&mm->table, 0, end); v < end;
             v = pt_table_next(&mm->table, (v | (size - 1)) + 1, end)) {
            for (uint64_t vpn = v & ~(size - 1), j = 0; j < size; j++) {
                if (!is_known(s->ram, i, vpn + j, place))
                    try_at(s, mm, vpn + j);
            }
        }
    }
}

static void each_anon(search *s, uint64_t owner, uint64_t mappers)
{
    uint64_t vpn = owner_place(owner);
    pa_mm **mms = s->ram->mms;
    uint32_t first = owner_id(owner);
    try_at(s, mms[first], vpn);
    for (uint32_t i = 0; i < s->ram->count_mms && s->found < mappers; i++) {
        if (i != first)
            try_at(s, mms[i], vpn);
    }
    try_hints(s, &s->ram->moves, vpn, mappers);
    if (s->found < mappers)
        try_everywhere(s, vpn, mappers);
}

static void each_object(search *s, uint64_t owner, uint64_t mappers)
{
    try_hints(s, &s->ram->objects[owner_id(owner)].hints, owner_place(owner), mappers);
}

uint64_t rmap_count(const pa_ram *ram, uint32_t f)
{
    return ram->maps[f] + (owner_kind(ram->frame[f].owner) == KIND_ANON ? 1u : 0u);
}

uint64_t rmap_each(pa_ram *ram, uint32_t f, rmap_visit visit, void *context)
{
    uint64_t owner = ram->frame[f].owner, mappers = rmap_count(ram, f);
    search s = {ram, f, visit, context, 0};
    if (!mappers)
        return 0;
    if (owner_kind(owner) == KIND_ANON)
        each_anon(&s, owner, mappers);
    else if (owner_kind(owner) == KIND_OBJECT)
        each_object(&s, owner, mappers);
    return s.found;
}
