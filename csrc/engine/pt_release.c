/* SPDX-License-Identifier: MIT
 *
 * pt_release.c -- free, and the end of a thread, which frees what its tcache holds.
 */
#include "pt_calls.h"

/* Is the header before this address in memory that chunks may be in?  The block itself may begin
 * where the heap now ends. */
bool pt_is_heap(const pt *h, uint64_t mem)
{
    if (mem > h->base.brk_start && mem <= pt_align_up(h->base.brk, PAGE_BYTES))
        return true;
    for (uint32_t i = 0; i < h->sh.count_segments; i++)
        if (mem - h->sh.segments[i].base < h->sh.segments[i].length)
            return true;
    return false;
}

static bool is_mapped(const pt *h, uint64_t mem)
{
    for (uint32_t i = 0; i < h->count_mapped; i++) {
        const pt_mapped *m = &h->mapped[i];
        if (m->used && mem - m->base - 2 * h->pf->word < m->total - 2 * h->pf->word)
            return true;
    }
    return false;
}

/* A pointer that is no block.  Inside a block that was mapped the library reads a size of 0, which
 * it notices, as it notices that a pointer is not aligned; elsewhere there is nothing to read. */
uint64_t pt_unknown_pointer(pt *h, uint64_t mem, const char *text)
{
    bool aligned = !(mem & (h->pf->align - 1));
    bool readable = is_mapped(h, mem) || (!aligned && pt_is_heap(h, mem));
    if (h->pf->version < 204 && readable && aligned && h->op.kind == PA_OP_FREE)
        return pt_done(h, 0); /* complains on stderr and goes on */
    if (aligned && h->op.kind == PA_OP_FREE && h->pf->version >= 242)
        text = "free(): invalid size";
    pt_fail(h, h->pf->version >= 204 && readable ? text : NULL, mem);
    return pt_aborted(h);
}

static bool birth_by_free(pt *h, pa_unit c)
{
    if (h->pf->birth == BIRTH_CALL)
        return true;
    return h->pf->birth == BIRTH_FREE && pt_tcache_serves(h, size_of(h, c));
}

uint64_t pt_free_chunk(pt *h, pa_unit c)
{
    if (!pt_int_free(h, pt_arena_of(h, c), c, false))
        return pt_aborted(h);
    return pt_done(h, 0);
}

/* May what stands where a link would be followed? */
static bool is_link(const pt *h, pa_unit c)
{
    return c && (c - h->arenas[0].bins <= BINS || pt_is_memory(h, address_of(h, c)));
}

/* Is the size field of what seems to be a chunk a link of a free chunk that it lies in? */
static bool reads_link(const pt *h, pa_unit c)
{
    pa_unit fd = at(h, c)->prev_size, bk = at(h, c)->size;
    if (!is_link(h, fd) || !is_link(h, bk))
        return false;
    return (at(h, fd)->bk == c - 1 && at(h, bk)->fd == c - 1) ||
           (at(h, fd)->bk_nextsize == c - 2 && at(h, bk)->fd_nextsize == c - 2);
}

/* Freed twice, and since then part of a larger free chunk: an address is read as a size, which
 * seems to reach far out. */
static uint64_t free_inside(pt *h, pa_unit c)
{
    const pt_arena *a = &h->arenas[0];
    bool ragged = h->pf->word == 4 && h->pf->align == 16 && h->pf->version < 242;
    bool far = a->contiguous && h->pf->version >= 204;
    pt_fail(h,
            ragged ? "free(): invalid size"
            : far  ? "double free or corruption (out)"
                   : NULL,
            mem_of(h, c));
    return pt_aborted(h);
}

uint64_t pt_free(pt *h, uint64_t mem)
{
    if (!mem)
        return 0;
    pt_mapped *m = pt_mapped_at(h, mem);
    if (m) {
        pt_free_mapped(h, m);
        return pt_done(h, 0);
    }
    h->op.kind = PA_OP_FREE;
    if (!pt_is_heap(h, mem) || mem & (h->pf->align - 1))
        return pt_unknown_pointer(h, mem, "free(): invalid pointer");
    pa_unit c = chunk_of(h, mem);
    if (h->damaged && reads_link(h, c))
        return free_inside(h, c);
    if (pt_tcache_unborn(h) && birth_by_free(h, c)) {
        h->op = (pt_op){.kind = PA_OP_FREE,
                        .thread = h->base.thread,
                        .pointer = mem,
                        .arena_bytes = h->pf->tcache_bytes};
        return pt_run(h, 0);
    }
    return pt_free_chunk(h, c);
}

/* ---- threads end --------------------------------------------------------------------------------- */

/* tcache_thread_shutdown() and arena detachment. */
uint64_t pt_thread_exit(pt *h)
{
    pt_thread *t = pt_self(h);
    pt_tcache tc = t->tcache;
    t->tcache = (pt_tcache){.dead = true};
    for (uint32_t i = 0; tc.alive && i < TCACHE_BINS; i++) {
        for (pa_unit c = tc.entry[i], next; c && tc.count[i]; c = next) {
            next = at(h, c)->fd;
            tc.count[i]--;
            at(h, c)->bk = 0;
            if (!pt_int_free(h, pt_arena_of(h, c), c, false))
                return pt_aborted(h);
        }
    }
    if (tc.alive && tc.home >= MAPPED_REF)
        pt_free_mapped(h, mapped_ref(h, tc.home));
    else if (tc.alive && !pt_int_free(h, pt_arena_of(h, tc.home), tc.home, false))
        return pt_aborted(h);
    if (t->arena >= 0) {
        pt_arena *a = &h->arenas[t->arena];
        if (a->attached && --a->attached == 0) {
            a->next_free = h->free_arena;
            h->free_arena = (int32_t)a->index;
        }
    }
    *t = (pt_thread){.arena = -1};
    return pt_done(h, 0);
}
