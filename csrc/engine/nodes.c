/* SPDX-License-Identifier: MIT
 *
 * nodes.c -- what the tree of an object's pages takes up itself.
 *
 * A node of the kernel's tree (lib/xarray.c) has 64 entries; it is charged as kernel memory, with a
 * pointer beside it to who pays, and stays as long as one of its pages, or a shadow of one, is in it.  A
 * folio of 64 pages or more needs none, and takes the place of those that were there.
 *
 *     object.nodes == groups of 64 entries of which one at least has PTE_NODE
 *
 * Left out: the nodes of a file whose reader is in no cgroup, and the shrinker of nodes in which there
 * is nothing but shadows.
 */
#include "ram.h"

enum { NODE_SHIFT = 6, NODE_SLOTS = 1 << NODE_SHIFT, NODE_BYTES = 576 + 8 };

/* Pages for so many nodes side by side, and the nodes above them. */
static uint64_t pages_for(uint64_t nodes)
{
    uint64_t all = nodes;
    for (uint64_t level = nodes; level > 1; all += level)
        level = (level + NODE_SLOTS - 1) >> NODE_SHIFT;
    return (all * NODE_BYTES + 4095) / 4096;
}

/* Bring the pages for `nodes` nodes up to date; false: there is no room for one more. */
static bool charge(pa_ram *ram, object *o, uint32_t group_id, uint64_t nodes)
{
    uint64_t pages = pages_for(nodes);
    if (!o->kernel_pages)
        o->kernel_group = group_id;
    int64_t more = (int64_t)(pages - o->kernel_pages);
    if (more && pa_ram_charge_kernel(ram, o->kernel_group, more) != PA_OK)
        return false;
    o->kernel_pages = pages;
    o->nodes = nodes;
    return true;
}

static void drop_one(pa_ram *ram, object *o)
{
    charge(ram, o, o->kernel_group, o->nodes - 1);
}

/* Is there a node around the page?  `leaf` is the one of the object's table. */
static bool is_there(const object *o, const uint64_t *leaf, uint64_t index)
{
    uint64_t first = index & (pt_table_leaf_size(&o->pages) - 1) & ~(uint64_t)(NODE_SLOTS - 1);
    for (unsigned i = 0; i < NODE_SLOTS; i++) {
        if (leaf[first + i] & PTE_NODE)
            return true;
    }
    return false;
}

/* A sole page 0 needs none. */
static bool is_counted(const pa_ram *ram, const object *o, uint32_t group_id, uint64_t index)
{
    return ram->settings.rules & PA_ACCOUNTS_NODES && (o->shmem || group_id) &&
           (index || o->count_pages > 1);
}

bool nodes_make(pa_ram *ram, object *o, uint32_t group_id, const uint64_t *leaf, uint64_t index,
                unsigned order, node_place *out)
{
    bool needed = order < NODE_SHIFT, counted = needed && is_counted(ram, o, group_id, index);
    *out = (node_place){.needed = needed, .mark = counted ? PTE_NODE : 0};
    out->made = counted && !is_there(o, leaf, index);
    return !out->made || charge(ram, o, group_id, o->nodes + 1);
}

void nodes_unmake(object *o, node_place node)
{
    o->nodes -= node.made;
}

void nodes_give_way(pa_ram *ram, object *o, const uint64_t *leaf, uint64_t index, uint64_t count)
{
    for (uint64_t i = index; o->nodes && i < index + count; i += NODE_SLOTS) {
        if (is_there(o, leaf, i))
            drop_one(ram, o);
    }
}

void nodes_empty(pa_ram *ram, uint32_t id, uint64_t index, uint64_t *entry)
{
    object *o = &ram->objects[id];
    uint64_t was = *entry;
    *entry = 0;
    if (was & PTE_NODE && !is_there(o, pt_table_find_leaf(&o->pages, index), index))
        drop_one(ram, o);
}

bool nodes_check(pa_ram *ram, uint32_t id)
{
    object *o = &ram->objects[id];
    uint64_t nodes = 0;
    for (uint64_t i = 0; o->used && i < o->count_pages; i += NODE_SLOTS) {
        const uint64_t *leaf = pt_table_find_leaf(&o->pages, i);
        nodes += leaf && is_there(o, leaf, i);
    }
    return nodes == o->nodes && pages_for(nodes) <= o->kernel_pages;
}
