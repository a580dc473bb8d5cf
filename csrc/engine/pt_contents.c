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
#include <sys/mman.h>

enum { DROP_BYTES = 1 << 16 }; /* of shadow: from here on the host's kernel clears it */

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

/* Whole pages are given back to the host, so that clearing costs no memory. */
static void clear_much(char *from, char *to)
{
    char *first = (char *)(((uintptr_t)from + PAGE_BYTES - 1) & ~(uintptr_t)(PAGE_BYTES - 1));
    char *last = (char *)((uintptr_t)to & ~(uintptr_t)(PAGE_BYTES - 1));
    if (madvise(first, (size_t)(last - first), MADV_DONTNEED) != 0)
        memset(first, 0, (size_t)(last - first));
    memset(from, 0, (size_t)(first - from));
    memset(last, 0, (size_t)(to - last));
}

/* memset(address, 0, bytes), inside one heap. */
void pt_clear(pt *h, uint64_t address, uint64_t bytes)
{
    char *from = (char *)word_at(h, address);
    size_t count = words_bytes(h, bytes);
    if (count < DROP_BYTES)
        memset(from, 0, count);
    else
        clear_much(from, from + count);
}

/* memcpy() to a chunk from another, or from a mapping (0). */
void pt_copy_contents(pt *h, uint64_t to, uint64_t from, uint64_t bytes)
{
    if (from)
        memmove(word_at(h, to), word_at(h, from), words_bytes(h, bytes));
    else
        pt_clear(h, to, bytes);
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
