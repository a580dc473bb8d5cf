/* SPDX-License-Identifier: MIT
 *
 * pt_realloc.c -- realloc: in place, into the next chunk or by mremap, else malloc, copy and free.
 */
#include "pt_calls.h"

/* Cut what is more than nb off c, which is in use. */
static uint64_t shrink_to(pt *h, pt_arena *a, pa_unit c, uint64_t size, uint64_t nb)
{
    uint32_t flags = at(h, c)->size & (P_INUSE | N_ARENA);
    if (size - nb < MIN_UNITS) {
        set_head(h, c, size, flags);
        set_in_use(h, c, size);
        return pt_done(h, mem_of(h, c));
    }
    pa_unit rest = c + (pa_unit)nb;
    set_head(h, c, nb, flags);
    set_head(h, rest, size - nb, P_INUSE | (flags & N_ARENA));
    set_in_use(h, rest, size - nb);
    if (!pt_int_free(h, a, rest, true))
        return pt_aborted(h);
    return pt_done(h, mem_of(h, c));
}

/* The block cannot grow in its arena or mapping: malloc, then copy and free. */
static uint64_t malloc_instead(pt *h)
{
    h->op.moving = true;
    h->op.cache_tried = false;
    h->op.phase = PH_IDLE;
    h->op.inner = h->op.nb;
    h->op.arena_bytes = h->op.bytes;
    return pt_run(h, 0);
}

/* memcpy() into c: each page of the old block is read, each of the new one written. */
static void copy_block(pt *h, uint64_t from, pa_unit c, uint64_t bytes)
{
    uint64_t to = pt_pointer_of(h, c);
    heap_read_range(&h->base, from, bytes);
    heap_touch_range(&h->base, to, bytes);
    if (c < MAPPED_REF)
        pt_copy_contents(h, to, h->op.old ? from : 0, bytes);
}

/* A damaged size may reach beyond what there is to read, or to write. */
static bool can_copy(const pt *h, uint64_t from, pa_unit c, uint64_t bytes)
{
    uint64_t to = pt_pointer_of(h, c);
    bool fits =
        c >= MAPPED_REF ? bytes <= pt_usable(&h->base, to) : pt_is_memory(h, to + bytes - 1);
    return fits && bytes <= size_mask(h) >> 1 && pt_is_memory(h, from + bytes - 1);
}

/* The block that a growing realloc got: join it, or copy into it and free the old one. */
uint64_t pt_finish_realloc(pt *h, pa_unit c)
{
    pa_unit old = h->op.old;
    bool elsewhere = h->pf->version >= 206 && (h->threaded || h->pf->retries_alone);
    if (!c && old && !h->op.moving && elsewhere)
        return malloc_instead(h);
    if (!c)
        return pt_done(h, 0);
    if (!old) { /* the old block was a mapping */
        pt_mapped *m = pt_mapped_at(h, h->op.pointer);
        copy_block(h, h->op.pointer, c, pt_usable(&h->base, h->op.pointer));
        pt_free_mapped(h, m);
        return pt_done(h, pt_pointer_of(h, c));
    }
    pt_arena *a = pt_arena_of(h, old);
    uint64_t size = size_of(h, old);
    if (c == next_of(h, old) && !h->op.moving)
        return shrink_to(h, a, old, size + size_of(h, c), h->op.nb);
    uint64_t bytes = bytes_of(h, size) - h->pf->word;
    if (h->damaged && !can_copy(h, mem_of(h, old), c, bytes)) {
        pt_fail(h, NULL, 0);
        return pt_aborted(h);
    }
    copy_block(h, mem_of(h, old), c, bytes);
    if (!pt_int_free(h, a, old, true))
        return pt_aborted(h);
    return pt_done(h, pt_pointer_of(h, c));
}

/* The checks of 2.4 and later on a block to be resized, and on its neighbour. */
static const char *resize_fault(const pt *h, const pt_arena *a, pa_unit c)
{
    uint64_t size = bytes_of(h, size_of(h, c)), flag = at(h, c)->size & P_INUSE;
    if (h->pf->version < 204)
        return NULL;
    if (!size)
        return "realloc(): invalid pointer";
    if (size + flag <= 2 * h->pf->word || size >= a->system_mem)
        return "realloc(): invalid old size";
    pa_unit next = next_of(h, c);
    size = bytes_of(h, size_of(h, next)), flag = at(h, next)->size & P_INUSE;
    if (size + flag <= 2 * h->pf->word || size >= a->system_mem)
        return pt_is_memory(h, address_of(h, next) + h->pf->word) ? "realloc(): invalid next size"
                                                                  : pt_fault;
    return NULL;
}

uint64_t pt_realloc_chunk(pt *h, pa_unit c)
{
    if (h->op.hopeless)
        return pt_done(h, 0);
    pt_arena *a = pt_arena_of(h, c);
    const char *fault = resize_fault(h, a, c);
    if (fault) {
        pt_fail(h, fault, mem_of(h, c));
        return pt_aborted(h);
    }
    if (h->pf->arena_ring) /* remembered for the next allocation */
        pt_attach(h, pt_self(h), (int32_t)a->index);
    uint64_t size = size_of(h, c), nb = h->op.nb;
    pa_unit next = next_of(h, c);
    if (size >= nb)
        return shrink_to(h, a, c, size, nb);
    uint64_t more = size_of(h, next);
    if (next == a->top) {
        if (size + more >= nb + MIN_UNITS) {
            set_head(h, c, nb, at(h, c)->size & (P_INUSE | N_ARENA));
            a->top = c + (pa_unit)nb;
            set_head(h, a->top, size + more - nb, P_INUSE);
            return pt_done(h, mem_of(h, c));
        }
    } else if (!prev_in_use(h, next + (pa_unit)more) && size + more >= nb) {
        fault = pt_unlink(h, a, next);
        if (fault) {
            pt_fail(h, fault, address_of(h, next));
            return pt_aborted(h);
        }
        return shrink_to(h, a, c, size + more, nb);
    }
    h->op.old = c;
    h->op.arena = a->index;
    uint64_t bytes = bytes_of(h, nb) - (h->pf->align - 1);
    h->op.inner = request_units(h, bytes);
    h->op.phase = PH_BLOCK;
    return pt_run(h, request_fits(h, bytes) ? pt_int_malloc(h, a, h->op.inner) : 0);
}

static uint64_t without_mremap(pt *h, const pt_mapped *m);

/* A mapping is remapped whatever the sizes. */
static uint64_t realloc_mapped(pt *h, pt_mapped *m)
{
    uint64_t extra = h->pf->version >= 243 ? 2 * h->pf->word : h->pf->word;
    uint64_t total =
        pt_align_up(bytes_of(h, h->op.nb) + m->front + extra, PAGE_BYTES) & size_mask(h);
    if (total == m->total)
        return pt_done(h, h->op.pointer);
    h->op.inner = total;
    if (!total) /* wrapped around: the kernel refuses it */
        return without_mremap(h, m);
    h->op.phase = PH_MREMAP;
    return heap_ask(&h->base, PA_STOP_MREMAP, m->base, total, m->total, 0);
}

uint64_t pt_end_mremap(pt *h)
{
    pt_mapped *m = pt_mapped_at(h, h->op.pointer);
    uint64_t base = h->base.stop.answer;
    if (!base)
        return without_mremap(h, m);
    h->mp.mmapped_drift += h->pf->version >= 243 ? 2 * h->pf->word : 0;
    pt_move_mapped(h, m, base, h->op.inner, m->front);
    return pt_done(h, pt_mapped_mem(h, m));
}

/* A mapping that cannot be remapped stays if it is large enough, else its contents move. */
static uint64_t without_mremap(pt *h, const pt_mapped *m)
{
    uint64_t kept = m->total - m->front - h->pf->word;
    bool keeps = h->pf->version >= 243 ? h->op.bytes <= pt_usable(&h->base, h->op.pointer)
                                       : kept >= bytes_of(h, h->op.nb);
    if (keeps)
        return pt_done(h, h->op.pointer);
    return malloc_instead(h);
}

/* Since 2.38 a request that all but fills its block leaves it as it is. */
static bool keeps_block(const pt *h, bool mapped, uint64_t bytes, uint64_t usable)
{
    if (h->pf->version < 238 || bytes > usable)
        return false;
    uint64_t slack = usable - bytes;
    return slack < 2 * h->pf->word || (mapped && slack <= PAGE_BYTES && h->pf->version < 243);
}

uint64_t pt_realloc(pt *h, uint64_t mem, uint64_t bytes)
{
    if (!mem)
        return pt_allocate(h, PA_OP_MALLOC, bytes, 0);
    h->hooked = false;
    if (!bytes)
        return pt_free(h, mem);
    pt_mapped *m = pt_mapped_at(h, mem);
    h->op.kind = PA_OP_REALLOC;
    if (!m && (!pt_is_heap(h, mem) || mem & (h->pf->align - 1)))
        return pt_unknown_pointer(h, mem, "realloc(): invalid pointer");
    if (keeps_block(h, m != NULL, bytes, pt_usable(&h->base, mem)))
        return pt_done(h, mem);
    bool fits = request_fits(h, bytes);
    bool born = m || h->pf->birth != BIRTH_CALL || !pt_tcache_unborn(h);
    if (!fits && born)
        return pt_done(h, 0);
    h->op = (pt_op){.kind = PA_OP_REALLOC,
                    .thread = h->base.thread,
                    .pointer = mem,
                    .bytes = bytes,
                    .hopeless = !fits,
                    .nb = fits ? request_units(h, bytes) : MIN_UNITS};
    if (m)
        return realloc_mapped(h, m);
    h->op.old = chunk_of(h, mem);
    h->op.arena_bytes = h->pf->tcache_bytes;
    return born ? pt_realloc_chunk(h, h->op.old) : pt_run(h, 0);
}
