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

#define PA_PENDING 1 /* returned in place of a pointer: the call is stopped, see pa_stop */

/* ---- ram and mm (pages) --------------------------------------------------------------------- */

/* ---- heap ----------------------------------------------------------------------------------- */

/* ---- replay --------------------------------------------------------------------------------- */

/* cdef: end */

#endif
