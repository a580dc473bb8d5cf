/* SPDX-License-Identifier: MIT
 *
 * rmap.c -- who maps a frame.
 *
 * A frame remembers one place only: the (mm, vpn) it was made for, or its object and index.  After
 * a fork the same page is nearly always at the same vpn of the relatives, so those are looked at
 * next; whatever mremap has moved since is found by a walk over every table, which is rare.
 */
#include "ram.h"

typedef struct search {
    pa_ram *ram;
    uint32_t frame;
    rmap_visit visit;
    void *context;
    uint64_t found;
} search;

static bool try_at(search *s, pa_mm *mm, uint64_t vpn)
{
    if (!mm || vpn >= pt_table_end(&mm->table))
        return false;
    uint64_t *pte = pt_table_find(&mm->table, vpn);
    if (!pte || !(*pte & PTE_PRESENT) || *pte & PTE_ZERO || pte_frame(*pte) != s->frame)
        return false;
    s->found++;
    s->visit(mm, vpn, pte, s->context);
    return true;
}

/* The long way: every entry of every table but those at `known`. */
static void try_everywhere(search *s, uint64_t known, uint64_t mappers)
{
    for (uint32_t i = 0; i < s->ram->count_mms && s->found < mappers; i++) {
        pa_mm *mm = s->ram->mms[i];
        if (!mm)
            continue;
        uint64_t end = pt_table_end(&mm->table), size = pt_table_leaf_size(&mm->table);
        for (uint64_t v = pt_table_next(&mm->table, 0, end); v < end;
             v = pt_table_next(&mm->table, (v | (size - 1)) + 1, end)) {
            for (uint64_t vpn = v & ~(size - 1), j = 0; j < size; j++) {
                if (vpn + j != known)
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
    if (s->found < mappers)
        try_everywhere(s, vpn, mappers);
}

static void each_object(search *s, uint64_t owner, uint64_t mappers)
{
    const object *o = &s->ram->objects[owner_id(owner)];
    for (uint32_t i = 0; i < o->count_hints && s->found < mappers; i++) {
        uint64_t vpn = owner_place(owner) + (uint64_t)o->hints[i].delta;
        try_at(s, s->ram->mms[o->hints[i].mm], vpn);
    }
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
