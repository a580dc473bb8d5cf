/* SPDX-License-Identifier: MIT
 *
 * recorder.h -- the recorder's own seams.
 *
 *     interpose.c   malloc and its family, as the program sees them: begin, real call, finish
 *     record.c      one record: order, thread, time
 *     threads.c     who is calling, without thread-local storage; the end of a thread
 *     sites.c       which code addresses are known to lie in which mapping
 *     store.c       the files: ring, texts, samples
 *     exec.c        passing the recorder on to the programs this one starts
 *
 * It is compiled for each word size; what it writes has the same layout in all.
 *
 * The recorder must not show: it allocates nothing in the heap, has no thread-local storage (that
 * would lengthen every thread's dtv, which is on the heap), keeps no file open, hides its variables
 * from the environment, and maps its own memory far from where the kernel places mappings.
 *
 * One lock is held from before the real call until its record is complete, so the order of records
 * is the order in which the library saw the calls.  While the process has one thread it is free.
 */
#ifndef PA_RECORDER_H
#define PA_RECORDER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "spool.h"

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

/* On a page that fork() empties: a child finds ready == 0, and begins a file of its own. */
typedef struct pa_control {
    uint32_t ready; /* REC_UNKNOWN, REC_ON or REC_OFF */
    uint32_t lock;  /* LOCK_FREE ... LOCK_EXITING, a futex */
    uint64_t owner; /* thread pointer of the thread that holds the lock */
    uint64_t exiting_tid;
} pa_control;

enum { REC_UNKNOWN = 0, REC_ON, REC_OFF };

typedef struct pa_call {
    pa_record *record; /* NULL: not recorded */
    uint64_t index;
    bool locked;
} pa_call;

extern pa_control *rec_control;

static inline bool rec_on(void)
{
    return likely(__atomic_load_n(&rec_control->ready, __ATOMIC_RELAXED) == REC_ON);
}

/* record.c */
bool rec_start(void); /* when rec_on() says no: begin, unless there is a reason not to */
pa_call rec_begin(uint8_t op, uint64_t size, uint64_t arg, const void *site);
void rec_finish(const pa_call *call, uint64_t ret);
void rec_final(uint32_t flag);
void rec_reopen(void);
uint64_t rec_count(void);
void rec_note_exit(void);

/* threads.c */
uint64_t thread_pointer(void);
uint32_t threads_number(uint64_t self);
void threads_start(uint64_t self);
void threads_forked(uint64_t self);
void threads_forget(uint64_t self);
bool lock_take(uint64_t self); /* false: this thread holds it already */
void lock_give(void);
bool lock_keep_until_death(uint64_t self);

/* sites.c */
void sites_load(const char *tag);
void sites_learn(uint64_t site);
extern uint64_t sites_seen[];
#define SITES_SEEN 4096
static inline size_t sites_slot(uint64_t site)
{
    return (site ^ (site >> 12)) & (SITES_SEEN - 1);
}

/* store.c */
#define STORE_TEXT 4096
typedef void (*store_reader)(const char *piece, size_t size);
extern pa_raw_header *store_header;
bool store_settings(char **environment);
bool store_open(void);
pa_record *store_ring(void);
bool store_flush(const pa_record *ring, uint64_t first, uint64_t next); /* false: no room */
void store_text(const char *tag, const char *path, store_reader also);
void store_bytes(const char *tag, const void *bytes, size_t size);
void store_tunables(char **environment);
void store_sample(pa_record *record);
void store_own_pages(pa_raw_header *header);
bool store_follows_children(void);
bool store_is_there(void);
bool store_is_own_code(const void *function);
const char *store_name(void);
const char *store_library(void);
const char *store_directory(void);

static inline uint64_t store_clock(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* exec.c */
void exec_resolve(void);
void exec_hide(char **environment);

/* interpose.c */
bool interpose_enter(void); /* false: pass the call on unrecorded */
const char *interpose_foreign(void); /* the file of the malloc we call; NULL: it is glibc's own */
const char *interpose_passed_by(void); /* the file of the malloc the program calls; NULL: ours */

#endif
