/* SPDX-License-Identifier: MIT
 *
 * pt_contents.c -- what the library itself does to the memory between headers.
 *
 * A pointer that is freed twice is judged by what lies where its header was: an old header, unless
 * calloc has cleared it, realloc has copied something over it, or the kernel has given fresh pages
 * since.  So these three are done to the shadow, too.  What programs write is not known, and
 * mappings have no shadow: they count as zeros.
 */
#include "pt.h"

#include <string.h>

static uint32_t *word_at(const pt *h, uint64_t address)
{
    pa_unit unit = pa_shadow_unit(&h->sh, address);
    uint64_t rest = (address - address_of(h, unit)) / h->pf->word;
    return h->sh.words + 2 * (size_t)unit + rest;
}

static size_t words_bytes(const pt *h, uint64_t bytes)
{
    return (size_t)(bytes / h->pf->word) * sizeof(uint32_t);
}

/* memset(address, 0, bytes), inside one heap. */
void pt_clear(pt *h, uint64_t address, uint64_t bytes)
{
    pa_shadow_clear(&h->sh, (char *)word_at(h, address), words_bytes(h, bytes));
}

/* memcpy() to a chunk from another, or from a mapping (0). */
void pt_copy_contents(pt *h, uint64_t to, uint64_t from, uint64_t bytes)
{
    if (!from) {
        pt_clear(h, to, bytes);
        return;
    }
    memmove(word_at(h, to), word_at(h, from), words_bytes(h, bytes));
    pa_shadow_note_all(&h->sh, (const char *)word_at(h, to), words_bytes(h, bytes));
}

/* May this address be read?  Main heap, thread heaps as far as they are writable, mapped tops. */
bool pt_is_memory(const pt *h, uint64_t address)
{
    uint64_t end = (h->base.brk + PAGE_BYTES - 1) & ~(uint64_t)(PAGE_BYTES - 1);
    if (address >= (h->base.brk_start & ~(uint64_t)(PAGE_BYTES - 1)) && address < end)
        return true;
    const pt_subheap *heap = pt_subheap_at(h, address);
    if (heap)
        return address < heap->base + heap->writable;
    for (uint32_t i = 0; i < h->sh.count_segments; i++)
        if (address - h->sh.segments[i].base < h->sh.segments[i].length)
            return true;
    return false;
}
