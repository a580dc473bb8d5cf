/* SPDX-License-Identifier: MIT
 *
 * pyalloc.h -- the engine's whole public contract, and the only source of the Python binding.
 *
 * Glossary
 *   address   simulated virtual address, bytes        vpn   virtual page number, address >> 12
 *   frame     simulated page of physical memory       slot  page-sized place in swap
 *   ram       physical memory of one machine: frames, reclaim lists, swap
 *   mm        pages of one process: page table, fault and resident counters
 *   heap      one process's allocator: ptmalloc of some generation, or another
 *   replay    a whole trace of calls being run on one heap
 *
 * Every quantity says its unit: bytes_, pages_, count_.  Functions that can fail return a
 * pa_status and leave outputs and objects unchanged on failure.  The simulated machine running
 * dry is no failure: the engine stops with a reason (pa_stop) and is resumed with the answer.
 * Nothing here keeps global state, reads a clock or calls back.
 */
#ifndef PYALLOC_H
#define PYALLOC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PA_API __attribute__((visibility("default")))

/* Only plain declarations between the markers: this text is the cdef.  */
/* cdef: begin */

/* ---- status ------------------------------------------------------------------------------- */

typedef enum pa_status {
    PA_OK = 0,
    PA_EXHAUSTED,       /* the simulated machine has no frame: ask policy, then go on   */
    PA_ERR_HOST_NOMEM,  /* the real malloc failed                                       */
    PA_ERR_INVALID,     /* argument outside its documented domain                       */
    PA_ERR_LIMIT,       /* the model itself is at its limit                             */
    PA_ERR_CORRUPT,     /* an invariant failed                                          */
    PA_ERR_BUSY         /* the object is in use by another thread                       */
} pa_status;

const char *pa_status_text(int status);

/* ---- stops -------------------------------------------------------------------------------- */

/* A heap or replay that needs a decision returns PA_PENDING and describes its question in a
 * pa_stop.  Policy answers with pa_heap_answer() and goes on with pa_heap_resume().
 * BRK, MMAP, MREMAP, MPROTECT are questions; MUNMAP, BRK_SHRUNK and DISCARD are told, their
 * answer is ignored. */
typedef enum pa_reason {
    PA_STOP_NONE = 0,
    PA_STOP_BRK,        /* move the break to address; answer: the break afterwards          */
    PA_STOP_MMAP,       /* map length bytes, prot; answer: address, or 0                    */
    PA_STOP_MREMAP,     /* address, old_length -> length, may move; answer: address, or 0   */
    PA_STOP_MUNMAP,     /* address, length                                                  */
    PA_STOP_MPROTECT,   /* address, length, prot; answer: 0, or an errno                    */
    PA_STOP_FRAMES,     /* a page fault found no frame; answer ignored, the fault is retried */
    PA_STOP_ABORT,      /* the C library aborts; text from pa_heap_abort_text()             */
    PA_STOP_TOUCH       /* a replay's own TOUCH/MMAP/MUNMAP/SBRK row: policy performs it    */
} pa_reason;

typedef struct pa_stop {
    uint32_t reason;
    uint32_t prot;       /* PROT_* bits                         */
    uint64_t address;
    uint64_t length;     /* bytes                               */
    uint64_t old_length; /* bytes                               */
    uint64_t answer;
} pa_stop;

#define PA_PENDING 3 /* no pointer and no result is 3: the call is stopped, see pa_stop */

/* ---- ram and mm (pages) --------------------------------------------------------------------- */

/* ---- heap ----------------------------------------------------------------------------------- */

typedef struct pa_mm pa_mm;
typedef struct pa_heap pa_heap;

/* Where the bytes of a heap are, and how many chunks they are in. */
typedef struct pa_heap_statistics {
    uint64_t bytes_system;      /* main heap and thread heaps, from the kernel       */
    uint64_t bytes_system_peak;
    uint64_t bytes_mapped;      /* mmapped chunks                                    */
    uint64_t count_mapped;
    uint64_t bytes_tcache, count_tcache;
    uint64_t bytes_fast, count_fast;
    uint64_t bytes_unsorted, count_unsorted;
    uint64_t bytes_small, count_small;
    uint64_t bytes_large, count_large;
    uint64_t bytes_top;
    uint64_t bytes_largest_hole; /* largest free chunk, top included                  */
    uint64_t count_arenas;
    uint64_t count_brk_calls, count_mmap_calls;
} pa_heap_statistics;

enum pa_chunk_state {
    PA_CHUNK_USED = 0,
    PA_CHUNK_TCACHE,
    PA_CHUNK_FAST,
    PA_CHUNK_UNSORTED,
    PA_CHUNK_SMALL,
    PA_CHUNK_LARGE,
    PA_CHUNK_TOP,
    PA_CHUNK_MAPPED,
    PA_CHUNK_FENCE
};

typedef struct pa_chunk {
    uint64_t address; /* of the user's memory */
    uint64_t size;    /* bytes, with header   */
    uint32_t arena;
    uint32_t state;   /* pa_chunk_state       */
} pa_chunk;

/* allocator: "glibc-2.36", "first-fit" ...; word: 8 or 4 bytes.  NULL: no such allocator, or no
 * memory. */
pa_heap *pa_heap_new(const char *allocator, uint32_t word, uint64_t brk_start, uint32_t count_cpus);
pa_heap *pa_heap_copy(const pa_heap *heap, pa_mm *mm);
void pa_heap_drop(pa_heap *heap);
/* The i-th allocator's name, NULL past the last. */
const char *pa_allocator_name(uint32_t i);

/* A pointer (0: NULL), or PA_PENDING. */
uint64_t pa_heap_malloc(pa_heap *heap, uint64_t bytes);
uint64_t pa_heap_realloc(pa_heap *heap, uint64_t pointer, uint64_t bytes);
uint64_t pa_heap_free(pa_heap *heap, uint64_t pointer);
/* Any other call by its op: size and arg as in a trace's columns. */
uint64_t pa_heap_other(pa_heap *heap, uint32_t op, uint64_t size, uint64_t arg);
uint64_t pa_heap_resume(pa_heap *heap);
void pa_heap_answer(pa_heap *heap, uint64_t answer);
const pa_stop *pa_heap_stop(const pa_heap *heap);
const char *pa_heap_abort_text(const pa_heap *heap);
int pa_heap_error(const pa_heap *heap);

void pa_heap_set_thread(pa_heap *heap, uint32_t thread);
void pa_heap_attach(pa_heap *heap, pa_mm *mm);
/* The break may move up to `highest` without a question; its page tables are its own inside
 * [floor, ceiling). */
void pa_heap_lease(pa_heap *heap, uint64_t highest, uint64_t floor_vpn, uint64_t ceiling_vpn);
uint64_t pa_heap_break(const pa_heap *heap);
uint64_t pa_heap_break_peak(pa_heap *heap);
void pa_heap_set_break(pa_heap *heap, uint64_t brk);

uint64_t pa_heap_usable_size(const pa_heap *heap, uint64_t pointer);
void pa_heap_read_statistics(const pa_heap *heap, pa_heap_statistics *out);
/* Writes up to `room` chunks in address order; returns how many there are. */
uint64_t pa_heap_walk(const pa_heap *heap, pa_chunk *out, uint64_t room);
int pa_heap_tunable(pa_heap *heap, const char *name, uint64_t value);
int pa_heap_check(const pa_heap *heap);

/* ---- replay --------------------------------------------------------------------------------- */

/* A whole trace on one heap.  All buffers are the caller's and must outlive the replay. */
typedef struct pa_replay pa_replay;

/* The calls, one a row.  arg and thread may be NULL: all zeros.
 * A FREE of a block that is not allocated passes its last address (a double free); a REALLOC of a
 * block that is not allocated is a malloc; block UINT32_MAX is NULL. */
typedef struct pa_columns {
    size_t count;
    const uint8_t *op;
    const uint32_t *block;
    const uint64_t *size;
    const uint64_t *arg;
    const uint32_t *thread;
} pa_columns;

/* One value a row each; NULL: not wanted. */
typedef struct pa_outputs {
    uint64_t *address; /* what an allocating call returned, 0 for all others            */
    uint64_t *usable;  /* malloc_usable_size() of it, bytes                             */
    uint64_t *brk;     /* the break after the call                                      */
} pa_outputs;

/* What a sample holds, one row of the sample buffer each. */
typedef enum pa_sample_field {
    PA_SAMPLE_CALLS = 0, /* calls done                                                  */
    PA_SAMPLE_ALLOCATED, /* bytes requested so far, freed or not                        */
    PA_SAMPLE_REQUESTED, /* bytes requested and not given back                          */
    PA_SAMPLE_BLOCKS,    /* blocks not given back                                       */
    PA_SAMPLE_HEAP,      /* bytes of the main heap and thread heaps                     */
    PA_SAMPLE_MAPPED,    /* bytes of mmapped chunks                                     */
    PA_SAMPLE_RSS,       /* bytes resident in the whole process                         */
    PA_SAMPLE_SWAP,      /* bytes swapped out                                           */
    PA_SAMPLE_MINOR,     /* minor faults so far                                         */
    PA_SAMPLE_MAJOR,     /* major faults so far                                         */
    PA_SAMPLE_TCACHE,    /* free bytes by where they are kept                           */
    PA_SAMPLE_FAST,
    PA_SAMPLE_UNSORTED,
    PA_SAMPLE_SMALL,
    PA_SAMPLE_LARGE,
    PA_SAMPLE_TOP,
    PA_SAMPLE_HOLE,      /* bytes of the largest free chunk                             */
    PA_SAMPLE_FIELDS
} pa_sample_field;

/* values[field * room + i] is a field of sample i; one sample every `every` calls and one at the
 * end.  every == 0: none. */
typedef struct pa_samples {
    uint64_t *values;
    size_t room;
    size_t every;
} pa_samples;

typedef enum pa_touch {
    PA_TOUCH_NONE = 0, /* the program's own accesses are not modelled       */
    PA_TOUCH_WRITE,    /* each block is written whole when it is allocated  */
    PA_TOUCH_RECORDED  /* TOUCH rows say what is accessed                   */
} pa_touch;

typedef struct pa_replay_totals {
    uint64_t calls;             /* rows done                                              */
    uint64_t samples;           /* samples written                                        */
    uint64_t blocks;            /* blocks allocated and not given back                    */
    uint64_t blocks_peak;
    uint64_t failed;            /* requests that returned NULL                            */
    uint64_t allocated;         /* bytes requested so far, freed or not                   */
    uint64_t requested;         /* bytes requested and not given back: P                  */
    uint64_t held;              /* bytes the allocator has from the kernel: A             */
    uint64_t requested_peak, requested_peak_row;
    uint64_t held_at_requested_peak;
    uint64_t held_peak, held_peak_row;
    uint64_t requested_at_held_peak;
} pa_replay_totals;

/* NULL: the host has no memory for the block table. */
pa_replay *pa_replay_new(pa_heap *heap, const pa_columns *in, const pa_outputs *out,
                         const pa_samples *samples, int touch);
void pa_replay_drop(pa_replay *replay);

/* Run to the end of the trace (PA_OK), or to a question (PA_PENDING: see pa_replay_stop), or until
 * the model gives up (an error).  Called again it goes on where it stopped.  After PA_STOP_ABORT
 * there is nothing to go on with. */
int pa_replay_run(pa_replay *replay);

/* The question.  Reason PA_STOP_TOUCH: an SBRK, MMAP or MUNMAP row; `prot` is its op, address
 * that of its block, length its size; the answer is the address of an MMAP, ignored otherwise. */
const pa_stop *pa_replay_stop(const pa_replay *replay);
void pa_replay_answer(pa_replay *replay, uint64_t answer);
void pa_replay_read_totals(const pa_replay *replay, pa_replay_totals *out);

/* Last address and requested size of each block; size UINT64_MAX: not allocated. */
void pa_replay_read_blocks(const pa_replay *replay, uint64_t *address, uint64_t *size);
size_t pa_replay_count_blocks(const pa_replay *replay);

/* cdef: end */

#endif
