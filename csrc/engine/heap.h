/* SPDX-License-Identifier: MIT
 *
 * heap.h -- the seam behind which every allocator stands.
 *
 * An allocator is a struct that begins with pa_heap and a table of functions (pa_allocator).  It
 * computes placement only.
 *
 *   Questions   What it needs of the kernel it asks with heap_ask(): the call then returns PENDING
 *               up to its caller, policy answers, and the allocator's resume() goes on.  The break
 *               moves without a question up to `lease`, and always moves down freely; mappings go
 *               without one right below the last, from `map_high` down to `map_low`.  Effects
 *               logged before a question are applied before it is put.
 *   Effects     What it does to its pages it writes down, in order: heap_touch(), heap_discard(),
 *               heap_unmap().  The log is applied when the call ends, so a page fault never stops
 *               an allocator half-way.
 *
 *     brk_start <= brk <= lease, or brk == what policy answered last
 *     map_low <= map_high <= map_told
 *     mm == NULL: touches are not modelled and only unmappings are written down
 */
#ifndef PA_HEAP_H
#define PA_HEAP_H

#include "mm.h"
#include "shadow.h"

/* One call of the malloc interface, numbered as pyalloc.Op and as the trace columns. */
typedef enum pa_op {
    PA_OP_MALLOC = 0,
    PA_OP_CALLOC,
    PA_OP_REALLOC,
    PA_OP_FREE,
    PA_OP_MEMALIGN,
    PA_OP_POSIX_MEMALIGN,
    PA_OP_ALIGNED_ALLOC,
    PA_OP_VALLOC,
    PA_OP_PVALLOC,
    PA_OP_MALLOC_TRIM,
    PA_OP_MALLOPT,
    PA_OP_SBRK,
    PA_OP_MMAP,
    PA_OP_MUNMAP,
    PA_OP_TOUCH,
    PA_OP_THREAD_EXIT,
    PA_OP_COUNT
} pa_op;

typedef struct pa_call {
    uint32_t op;
    uint32_t thread;
    uint64_t pointer; /* the block of free and realloc                      */
    uint64_t size;    /* bytes; total for calloc; the value for mallopt     */
    uint64_t arg;     /* alignment for the memalign family; mallopt's number */
    bool known;       /* pointer is a block that is allocated                */
} pa_call;

/* Neighbouring free chunks, which are one once the caches are emptied. */
typedef struct pa_run {
    uint64_t start, end; /* addresses: of the first one's header, behind the last   */
    uint32_t arena;
    bool top; /* its last chunk is the arena's top */
} pa_run;

typedef struct pa_trim {
    uint64_t start, end; /* addresses of whole pages that would go                   */
    int64_t bytes; /* by which the break would move down */
} pa_trim;

typedef struct pa_allocator {
    const char *name;
    /* Result of the call (a pointer, or a number), or PA_PENDING with heap->stop filled in. */
    uint64_t (*call)(pa_heap *heap, const pa_call *call);
    uint64_t (*resume)(pa_heap *heap);
    /* Rows of a replay, up to 'end', or up to one that stops; NULL: one at a time. */
    bool (*loop)(pa_replay *replay, size_t end);
    uint64_t (*usable_size)(const pa_heap *heap, uint64_t pointer);
    void (*statistics)(const pa_heap *heap, pa_heap_statistics *out);
    pa_status (*mallinfo)(const pa_heap *heap, uint32_t arena, pa_mallinfo *out); /* or NULL */
    uint64_t (*walk)(const pa_heap *heap, pa_chunk *out, uint64_t room);
    uint64_t (*list)(const pa_heap *heap, pa_chunk *out, uint64_t room); /* or NULL */
    pa_status (*arena)(const pa_heap *heap, uint32_t i, pa_arena *out); /* or NULL */
    pa_status (*settings)(const pa_heap *heap, pa_settings *out); /* or NULL */
    /* What malloc_trim(0) would do with a run of free memory. */
    pa_trim (*trim)(const pa_heap *heap, const pa_run *run);
    pa_status (*tunable)(pa_heap *heap, const char *name, uint64_t value);
    pa_status (*environment)(pa_heap *heap, const char *name, const char *text); /* or NULL */
    void (*rest)(const pa_heap *heap); /* no call for a while; or NULL */
    pa_status (*check)(const pa_heap *heap);
    pa_heap *(*copy)(const pa_heap *heap);
    void (*drop)(pa_heap *heap);
    const pa_shadow *(*shadow)(const pa_heap *heap);
} pa_allocator;

enum { EFFECT_TOUCH = 1, EFFECT_READ, EFFECT_DISCARD, EFFECT_SHRINK, EFFECT_UNMAP, EFFECT_PROTECT };

typedef struct pa_effect {
    uint64_t kind;
    uint64_t at; /* first page; an address for UNMAP and PROTECT */
    uint64_t count; /* pages; bytes for UNMAP and PROTECT           */
} pa_effect;

typedef enum pa_heap_state { HEAP_IDLE = 0, HEAP_ASKING, HEAP_DRAINING, HEAP_DEAD } pa_heap_state;

struct pa_heap {
    const pa_allocator *vt;
    pa_mm *mm;
    pa_heap_state state;
    uint32_t thread;
    uint64_t brk_start, brk, brk_highest, lease;
    uint64_t map_low, map_high, map_told; /* map_told: map_high as policy knows it              */
    uint64_t map_least; /* bytes; smaller mappings may have a place elsewhere               */
    bool map_aligns_huge; /* whole 2 MB go elsewhere                                          */
    uint64_t places_from; /* for the table of a replay's blocks: see blocks.h */
    uint32_t places_shift;
    bool moved; /* the break, or a mapping was made, and nobody has asked since */
    uint64_t floor_vpn, ceiling_vpn; /* neighbours of the break's area, for its page tables */
    uint64_t count_brk_calls, count_mmap_calls, count_madvise_calls;
    uint64_t count_arena_calls, count_steps; /* past the tcache; chunks looked at then */
    uint64_t count_moves; /* of what it has from the kernel, but for those two */
    pa_stop stop;
    pa_stop question; /* waits until the effects before it are applied; reason 0: none does */
    char program[64]; /* what the library calls the program in its last words */
    uint64_t result; /* of the call whose effects are being applied */
    const char *abort_text;
    pa_effect *effects;
    size_t count_effects, room_effects, next_effect;
    pa_status error; /* PA_ERR_LIMIT or PA_ERR_HOST_NOMEM: the model gave up */
};

#define PENDING ((uint64_t)PA_PENDING)

void heap_init(pa_heap *heap, const pa_allocator *vt, uint64_t brk_start);
void heap_drop(pa_heap *heap);
bool heap_copy_base(pa_heap *to, const pa_heap *from);

/* Write one effect down. */
void heap_log(pa_heap *heap, uint64_t kind, uint64_t at, uint64_t count);

/* Finish a call: apply its effects; returns result, or PENDING if policy must act first. */
uint64_t heap_finish(pa_heap *heap, uint64_t result);

/* A mapping of `length` bytes that needs no question: its address, or 0. */
uint64_t heap_map(pa_heap *heap, uint64_t length);

/* Ask policy; always returns PENDING, to be returned by every caller up to the seam. */
uint64_t heap_ask(pa_heap *heap, pa_reason reason, uint64_t address, uint64_t length,
                  uint64_t old_length, uint32_t prot);

/* The C library aborts (text) or faults (NULL); always returns PENDING. */
uint64_t heap_abort(pa_heap *heap, const char *text);

/* A signal ends the program; always returns PENDING. */
uint64_t heap_signal(pa_heap *heap, uint32_t number);

/* The break moves down, or up inside the lease: true.  False: it must be asked for. */
bool heap_move_break(pa_heap *heap, uint64_t brk);

/* The page of `address` is written to. */
static inline void heap_touch(pa_heap *heap, uint64_t address)
{
    uint64_t vpn = address >> 12;
    if (heap->mm && !mm_is_hot(heap->mm, vpn) && !mm_is_settled(heap->mm, vpn))
        heap_log(heap, EFFECT_TOUCH, vpn, 1);
}

void heap_touch_range(pa_heap *heap, uint64_t address, uint64_t bytes);
void heap_read_range(pa_heap *heap, uint64_t address, uint64_t bytes);

#endif
