/* SPDX-License-Identifier: MIT
 *
 * extents.c -- which pages of a file have a place on its disk; the others are holes.
 *
 * A file has one for each page when it is made.  What it grows by, and what is punched out of it,
 * are holes until somebody writes there.  Nothing is read from a disk for a hole: the page is zeros
 * at once (ext4_mpage_readpages in fs/ext4/readpage.c of Linux 6.12).
 */
#include "ram.h"

bool extents_has(extents *e, uint64_t index)
{
    const uint64_t *rest = e->rest.levels ? pt_table_find(&e->rest, index) : NULL;
    return index < e->whole || (rest && *rest);
}

bool extents_has_any(extents *e, uint64_t first, uint64_t count)
{
    uint64_t i = first;
    while (i < first + count && !extents_has(e, i))
        i++;
    return i < first + count;
}

/* Without memory on the host the page stays a hole: it is read a little too early. */
static void add_rest(extents *e, uint64_t index)
{
    if (!e->rest.levels && !pt_table_init(&e->rest, PA_SHAPE_X86_64, e->pool))
        return;
    uint64_t *leaf = pt_table_make_leaf(&e->rest, index);
    if (leaf)
        leaf[index & (pt_table_leaf_size(&e->rest) - 1)] = 1;
}

void extents_add(extents *e, uint64_t index)
{
    if (index < e->whole)
        return;
    if (index > e->whole) {
        add_rest(e, index);
        return;
    }
    do
        e->whole++;
    while (extents_has(e, e->whole));
}

void extents_cut(extents *e, uint64_t first, uint64_t end)
{
    for (uint64_t i = end; i < e->whole; i++)
        add_rest(e, i);
    e->whole = first < e->whole ? first : e->whole;
    if (!e->rest.levels)
        return;
    uint64_t size = pt_table_leaf_size(&e->rest);
    for (uint64_t i = pt_table_next(&e->rest, first, end); i < end; i++) {
        if (i % size == 0)
            i = pt_table_next(&e->rest, i, end);
        uint64_t *rest = i < end ? pt_table_find(&e->rest, i) : NULL;
        if (rest)
            *rest = 0;
    }
}

bool extents_copy(extents *to, const extents *from, table_pool *pool)
{
    *to = (extents){.whole = from->whole, .pool = pool};
    return !from->rest.levels || pt_table_copy(&to->rest, &from->rest, pool);
}
