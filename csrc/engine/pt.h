/* SPDX-License-Identifier: MIT
 *
 * pt.h -- ptmalloc: its state, its constants, and the accessors of a chunk.
 *
 * All sizes in here are in units (shadow.h): 16 bytes on x86-64, 8 on i386.  A chunk is named by its
 * unit, 0 is "none".  In the shadow a chunk looks as it does in memory, a word to a uint32:
 *
 *     unit c     | prev_size  | size << 3 | N U P |   N: not main arena   P: previous one in use
 *     unit c + 1 | fd         | bk                |   U: on the unsorted list (our own mark; real
 *     unit c + 2 | fd_nextsize| bk_nextsize       |      heaps have M here, but mmapped chunks
 *                                                        live in a table, see pt_mapped.c)
 *
 * prev_size is meaningful only while P is clear: the word is the previous chunk's user memory
 * otherwise.  fd and bk only in a free chunk; the tcache keeps its link in fd and its key in bk.
 *
 * A bin's head is a chunk of which only fd and bk exist: head(i) = arena->bins + i, so heads
 * overlap like chunks.  The main arena's heads lie in units below its heap, a thread arena's in the
 * first page of its heap.
 */
#ifndef PA_PT_H
#define PA_PT_H

#include "heap.h"
#include "shadow.h"

#include <assert.h>

enum {
    P_INUSE = 1,
    U_UNSORTED = 2,
    N_ARENA = 4,
    FLAGS = 7,
    MIN_UNITS = 2, /* MINSIZE: 32 bytes on x86-64, 16 on i386 */
    PAGE_BYTES = 4096,
    BINS = 127,
    UNSORTED = 1,
    FASTBINS = 11,
    NO_FAST = 1, /* max_fast, in units: less than any chunk */
    TCACHE_SMALL = 64,
    TCACHE_BINS = 76, /* since 2.42: with those above the small ones */
    MAIN_HEADS = 256, /* unit of the main arena's bin heads */
    CONSOLIDATE_BYTES = 65536,
    PATIENCE = 1 << 22, /* steps along a list before it is taken to be damaged and endless */
};

#define TCACHE_KEY 0xFFFFFFFEu
#define NO_ARENA 0xFFFFFFFFu /* none can be had: only mappings are left */
#define REF_PENDING 0xFFFFFFFFu /* in place of a chunk: policy must answer first */

/* ---- generations as data ---------------------------------------------------------------------- */

typedef enum pt_memalign { MEMALIGN_PLAIN, MEMALIGN_MERGE } pt_memalign;

/* When the tcache is made: never, by the first call that needs an arena, by the first small
 * allocation, by the first small free. */
typedef enum pt_tcache_birth { BIRTH_NEVER, BIRTH_CALL, BIRTH_SMALL_MALLOC, BIRTH_FREE } pt_birth;

/* How the library's last words are wrapped: not at all, or with program and address. */
typedef enum pt_words { WORDS_BARE, WORDS_DETECTED, WORDS_ERROR_IN } pt_words;

typedef struct pt_profile {
    const char *name;
    const char *changes; /* what it changes against the generation before */
    uint32_t word; /* SIZE_SZ: 8 or 4 */
    uint32_t align; /* MALLOC_ALIGNMENT, bytes */
    uint32_t large_border; /* bytes: MIN_LARGE_SIZE */
    uint32_t large_first; /* largest sz >> 6 of the finest large bins */
    uint32_t large_base; /* bin number of sz >> 6 == 0 there */
    uint32_t fast_default; /* bytes: largest chunk of a fastbin */
    uint32_t fast_setting; /* largest M_MXFAST value */
    uint32_t heap_info; /* bytes at the start of a thread heap */
    uint32_t arena_state; /* bytes of malloc_state, behind it in an arena's first heap */
    uint32_t heap_max; /* bytes, of a thread heap; 0: twice the largest mmap threshold */
    uint32_t tcache_bytes; /* request size of the tcache struct */
    uint32_t tcache_count;
    uint32_t tcache_limit; /* bytes: calls use the tcache for chunks smaller than this */
    pt_birth birth;
    pt_memalign memalign;
    pt_words words;
    uint32_t version; /* 233, 212, ... 243: for the few rules that only say "since" */
    bool has_fastbins;
    bool skip_list; /* large bins keep one list of distinct sizes */
    bool dynamic_threshold;
    bool internal_frees_cached; /* frees the library does itself may land in the tcache */
    bool calloc_uses_tcache;
    bool small_to_bin; /* a merged small chunk goes to its small bin at once */
    bool swapped_fallback; /* 2.35-2.37: two arguments of the mmap fallback are swapped */
    bool retries_alone; /* up to 2.26: a failed request goes elsewhere, even single-threaded */
    bool arena_ring; /* up to 2.14: threads share arenas, another is made when all are locked */
    bool ptrdiff_limit; /* since 2.30 */
    bool trim_quirk; /* 2.19+: malloc_trim may grow the heap by a page */
} pt_profile;

const pt_profile *pt_find_profile(const char *name, uint32_t word);
const char *pt_profile_name(uint32_t i);
const char *pt_profile_changes(uint32_t i);

/* ---- state ------------------------------------------------------------------------------------ */

typedef struct pt_arena {
    uint32_t index;
    pa_unit top, last_remainder, bins;
    pa_unit fast[FASTBINS];
    uint32_t binmap[4];
    bool have_fast, contiguous, corrupt;
    uint64_t system_mem, max_system_mem; /* bytes */
    uint64_t bytes_fast, count_fast;
    uint64_t units_in[3], count_in[3]; /* unsorted, small, large */
    uint32_t attached; /* threads */
    uint32_t next; /* ring of arenas */
    int32_t next_free;
    uint64_t heap_base; /* newest thread heap; 0 in the main arena */
} pt_arena;

typedef struct pt_tcache {
    pa_unit home; /* the chunk that holds the real struct */
    bool alive, dead;
    uint16_t count[TCACHE_BINS];
    pa_unit entry[TCACHE_BINS];
} pt_tcache;

typedef struct pt_thread {
    pt_tcache tcache;
    int32_t arena; /* index, -1: none yet */
    bool seen;
} pt_thread;

/* One thread heap (heap_info): [base, base + size) is read-write, up to HEAP_MAX reserved. */
typedef struct pt_subheap {
    uint64_t base, size, writable;
    uint64_t previous; /* base of the arena's heap before it, 0: none */
    uint32_t arena;
} pt_subheap;

typedef struct pt_mapped {
    uint64_t base, total, front; /* user memory = base + front + 2 words; size = total - front */
    bool used;
} pt_mapped;

typedef struct pt_params {
    uint64_t top_pad, trim_threshold, mmap_threshold, mmap_threshold_max;
    uint64_t n_mmaps, n_mmaps_max, max_n_mmaps, mmapped, max_mmapped;
    uint64_t mmapped_drift; /* what 2.43 counts too much when it remaps */
    uint64_t arena_test, arena_max;
    uint64_t tcache_unsorted_limit;
    uint64_t tcache_limit; /* bytes */
    uint64_t huge_page; /* bytes the break moves by; 0: pages */
    uint32_t tcache_count, tcache_bins;
    uint32_t check_action; /* up to 2.26: what is done about an error */
    bool no_dynamic;
    bool perturb; /* blocks are filled, so all their pages are touched */
} pt_params;

/* A stretch of the main arena's chunks without a gap: the break's, and more where somebody else
 * moved it, or where mappings take its place. */
typedef struct pt_stretch {
    uint64_t start, end; /* addresses; end 0: it ends with the top */
} pt_stretch;

/* The chunk in hand while the tcache is made in the middle of a search. */
typedef struct pt_held {
    pa_unit chunk; /* 0: no search waits */
    uint32_t arena;
    bool from_unsorted;
    uint32_t binned;
    uint64_t nb;
} pt_held;

/* A call under way; sys is the part of it that asks the kernel. */
typedef enum pt_phase {
    PH_IDLE,
    PH_ARENA,
    PH_TCACHE,
    PH_BLOCK,
    PH_RETRY_ARENA,
    PH_RETRY,
    PH_MREMAP,
} pt_phase;

typedef struct pt_op {
    pt_phase phase;
    uint32_t kind, thread;
    uint32_t arena;
    bool caching, cache_tried; /* the tcache itself is being made; was made, or could not be */
    bool never_retried; /* 2.3.3's valloc and pvalloc */
    bool moving; /* realloc found no room in the block's arena: malloc, copy, free */
    bool cached; /* the block came from the tcache */
    bool hooked; /* a calloc that is the first call of all */
    bool hopeless; /* too large to be asked of any arena */
    uint64_t nb, inner; /* units: of the request; of what is asked of the arena */
    uint64_t bytes, align, pointer;
    pa_unit clean_from; /* calloc: the top before the call, and its bytes that may be dirty */
    uint64_t dirty_bytes;
    uint64_t arena_bytes; /* a new arena's first heap is made large enough for this */
    pa_unit old;
} pt_op;

typedef enum pt_sys_step {
    SYS_NONE,
    SYS_MMAP,
    SYS_BRK,
    SYS_BRK_CORRECTION,
    SYS_FALLBACK,
    SYS_HEAP_HINTED, /* a new thread heap where the last one left room for it */
    SYS_HEAP_DOUBLE, /* twice its size, to be cut to fit */
    SYS_HEAP_SINGLE, /* its size, in the hope that it is aligned */
    SYS_HEAP_PROTECT, /* its first pages made writable */
    SYS_TOP_PROTECT, /* more pages of a heap made writable */
} pt_sys_step;

typedef struct pt_sys {
    pt_sys_step step;
    uint32_t arena;
    bool tried_mmap;
    bool last_resort; /* nothing is left to try after the mapping */
    uint64_t nb; /* units */
    uint64_t size; /* bytes asked for */
    uint64_t old_size; /* units of the old top */
    uint64_t brk, correction;
    pa_unit old_top;
    uint64_t heap_base, heap_size; /* of the thread heap being made or grown */
    bool minimal; /* the first heap of an arena is tried without the request */
} pt_sys;

typedef struct pt {
    pa_heap base; /* first: the seam casts */
    pa_shadow sh;
    const pt_profile *pf;
    uint32_t unit_shift, unit; /* bytes of a unit: 1 << unit_shift */
    uint32_t align_log; /* log2(align) */
    uint32_t align_units_log; /* log2(align / unit) */
    pa_unit low; /* units below this are no memory */
    uint64_t max_fast; /* units; 0: not initialised (up to 2.26) */
    pt_params mp;
    pt_arena *arenas;
    uint32_t count_arenas, room_arenas;
    int32_t free_arena;
    uint32_t next_to_use;
    pt_thread *threads;
    uint32_t count_threads;
    pt_subheap *subheaps;
    uint32_t count_subheaps, room_subheaps;
    uint64_t aligned_heap_area;
    pt_stretch *stretches;
    uint32_t count_stretches, room_stretches;
    uint64_t arena_limit; /* 0: not decided yet */
    pt_mapped *mapped;
    uint32_t count_mapped, room_mapped, free_mapped;
    uint32_t *mapped_index; /* open addressing by user address; slot + 1 */
    uint32_t mapped_mask;
    uint32_t count_cpus;
    bool threaded;
    bool main_ready; /* the main arena is initialised */
    bool hooked; /* up to 2.33: the first malloc, calloc or realloc is still to come */
    bool initialised; /* by a call that does so, whose thread has the main arena */
    bool damaged; /* chunks may not be what they seem: a check of integrity may fail */
    pt_op op;
    pt_sys sys;
    pt_held held;
    uint64_t largest_asked, top_kept, top_trimmed, count_threshold_moves; /* bytes; statistics */
    uint32_t tuned; /* a bit for each setting that a tunable has set */
    char last_words[256];
} pt;

#include "pt_chunk.h"

/* ---- the parts -------------------------------------------------------------------------------- */

/* pt_bins.h */
PT_PART void pt_init_bins(pt *h, pt_arena *a);
PT_PART uint32_t pt_bin_index(const pt *h, uint64_t units);
PT_PART void pt_push_unsorted(pt *h, pt_arena *a, pa_unit c);
PT_PART void pt_push_small_front(pt *h, pt_arena *a, pa_unit c);
PT_PART void pt_insert(pt *h, pt_arena *a, pa_unit c);
PT_PART const char *pt_unlink(pt *h, pt_arena *a, pa_unit c);
PT_PART void pt_take_unsorted(pt *h, pt_arena *a, pa_unit c);
PT_PART pa_unit pt_best_in_own_bin(pt *h, const pt_arena *a, uint64_t nb);
PT_PART pa_unit pt_scan_bins(pt *h, pt_arena *a, uint32_t above);

/* pt_malloc.h: a chunk, 0 (no memory), or REF_PENDING */
PT_PART pa_unit pt_int_malloc(pt *h, pt_arena *a, uint64_t nb);
PT_PART pa_unit pt_malloc_resume(pt *h);

/* pt_tcache.h: of the thread that calls */
PT_PART bool pt_tcache_serves(const pt *h, uint64_t units);
PT_PART bool pt_tcache_unborn(const pt *h);
PT_PART void pt_tcache_install(pt *h, pa_unit c);
PT_PART uint32_t pt_tcache_room(pt *h, uint64_t nb);
PT_PART void pt_tcache_stash(pt *h, pa_unit c, uint64_t nb);
PT_PART pa_unit pt_tcache_unstash(pt *h, uint64_t nb);
PT_PART pa_unit pt_tcache_take(pt *h, uint64_t nb);
PT_PART pa_unit pt_tcache_take_aligned(pt *h, uint64_t nb, uint64_t align);
PT_PART const char *pt_tcache_give(pt *h, pa_unit c, bool *taken);

/* pt_free.h: false when the library aborts */
PT_PART bool pt_int_free(pt *h, pt_arena *a, pa_unit c, bool internal);
PT_PART bool pt_merge_free(pt *h, pt_arena *a, pa_unit c);
PT_PART bool pt_consolidate(pt *h, pt_arena *a);

/* pt_contents.c */
void pt_clear(pt *h, uint64_t address, uint64_t bytes);
void pt_copy_contents(pt *h, uint64_t to, uint64_t from, uint64_t bytes);
bool pt_is_memory(const pt *h, uint64_t address);

/* pt_trim.c */
bool pt_worth_trimming(pt *h, uint64_t top);
bool pt_systrim(pt *h, uint64_t pad);
uint64_t pt_trim(pt *h, uint64_t pad);
pa_trim pt_trim_run(const pa_heap *heap, const pa_run *run);

/* pt_fail.c: always false */
extern const char pt_fault[]; /* in place of a message: a plain fault */
bool pt_fail(pt *h, const char *text, uint64_t address);

/* pt_sys.c */
pa_unit pt_sysmalloc(pt *h, pt_arena *a, uint64_t nb);
pa_unit pt_map_only(pt *h, uint64_t nb);
pa_unit pt_try_mapping(pt *h);
pa_unit pt_from_top(pt *h);
pa_unit pt_sys_resume(pt *h);

/* pt_mapped.c */
pt_mapped *pt_mapped_at(const pt *h, uint64_t mem);
uint64_t pt_mapped_total(const pt *h, uint64_t nb);
pa_unit pt_add_mapped(pt *h, uint64_t base, uint64_t total);
void pt_move_mapped(pt *h, pt_mapped *m, uint64_t base, uint64_t total, uint64_t front);
uint64_t pt_mapped_mem(const pt *h, const pt_mapped *m);
void pt_free_mapped(pt *h, pt_mapped *m);
static inline pt_mapped *mapped_ref(const pt *h, pa_unit ref)
{
    return &h->mapped[ref - MAPPED_REF];
}

/* pt_arena.c */
pt_thread *pt_thread_of(pt *h, uint32_t thread);
bool pt_add_arena(pt *h, pt_arena **out);
void pt_attach(pt *h, pt_thread *t, int32_t arena);
bool pt_find_arena(pt *h, bool main_busy, pa_unit *pending);
void pt_attach_new_arena(pt *h, pa_unit top);
pt_subheap *pt_subheap_at(const pt *h, uint64_t address);
pt_arena *pt_arena_of(const pt *h, pa_unit c);
pa_unit pt_heap_grow(pt *h);
pa_unit pt_heap_answered(pt *h, uint64_t answer);
bool pt_heap_trim(pt *h, pt_arena *a, pa_unit top);
uint64_t pt_heap_max(const pt *h);
uint64_t pt_first_top(const pt *h);

/* pt_settings.c */
int32_t pt_mallopt(pt *h, int32_t parameter, int32_t value);
pa_status pt_read_settings(const pa_heap *heap, pa_settings *out);
pa_status pt_tunable(pa_heap *heap, const char *name, uint64_t value);
pa_status pt_environment(pa_heap *heap, const char *name, const char *text);

/* pt_statistics.c */
void pt_statistics(const pa_heap *heap, pa_heap_statistics *out);
pa_status pt_mallinfo(const pa_heap *heap, uint32_t arena, pa_mallinfo *out);
pa_status pt_read_arena(const pa_heap *heap, uint32_t i, pa_arena *out);
pa_status pt_check(const pa_heap *heap);

/* pt_walk.c */
void pt_add_stretch(pt *h, uint64_t start, uint64_t previous_end);
uint64_t pt_walk(const pa_heap *heap, pa_chunk *out, uint64_t room);
uint64_t pt_list(const pa_heap *heap, pa_chunk *out, uint64_t room);

/* pt_loop_*.c */
bool pt_run_loop_236(pa_replay *replay, size_t end);
bool pt_run_loop_any(pa_replay *replay, size_t end);

/* pt_calls.c */
void pt_init_main(pt *h);
bool pt_is_calm(const pt *h);
pa_heap *pt_new(const char *name, uint32_t word, uint64_t brk_start, uint32_t count_cpus,
                pa_shadow *spare);

#endif
