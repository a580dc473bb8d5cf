/* SPDX-License-Identifier: MIT
 *
 * spool.h -- what the recorder writes: the layout of a raw recording.
 *
 * One process image makes up to three files in the spool directory.  NAME.ring is a header of
 * PA_RING_HEADER bytes and PA_RING_RECORDS records, written through a shared mapping, so that what
 * was recorded survives any death of the process.  When it is full it is appended to NAME.raw, which
 * is records and nothing else.  NAME.aux holds texts (maps, limits, command line), each piece behind
 * a pa_blob; pieces of one text share a serial.
 *
 *     records 0 .. flushed-1 are in NAME.raw, first .. next-1 at the front of NAME.ring
 *     first <= flushed <= next         (first < flushed after a full disk only)
 *
 * pyalloc/trace/spool.py reads both; change the two together, and PA_RAW_VERSION with them.
 */
#ifndef PA_SPOOL_H
#define PA_SPOOL_H

#include <stdint.h>

#define PA_RAW_MAGIC "PYALLOC\001"
#define PA_RAW_VERSION 3
#define PA_RING_HEADER 4096
#define PA_RING_RECORDS 16384

/* Numbers as enum pa_op in engine/heap.h; from 128 on, things that are not calls. */
enum {
    REC_MALLOC = 0,
    REC_CALLOC,
    REC_REALLOC,
    REC_FREE,
    REC_MEMALIGN,
    REC_POSIX_MEMALIGN,
    REC_ALIGNED_ALLOC,
    REC_VALLOC,
    REC_PVALLOC,
    REC_MALLOC_TRIM,
    REC_MALLOPT,
    REC_SBRK,
    REC_THREAD_EXIT = 15,
    REC_SAMPLE = 128 /* ret: resident pages, site: pages, size: minor faults, arg: major faults */
};

enum { REC_EMPTY = 0, REC_BEGUN = 1, REC_DONE = 2 };

/* One call. */
typedef struct pa_record {
    uint64_t time;   /* ns since the start of the recording */
    uint64_t site;   /* return address of the call */
    uint64_t size;   /* bytes asked for, in total; all ones when n * size overflows */
    uint64_t arg;    /* pointer given to realloc or free; alignment; parameter of mallopt */
    uint64_t ret;    /* pointer or result that came back */
    uint32_t thread; /* 0 is the main thread */
    uint8_t op;
    uint8_t state;
    uint16_t spare;
} pa_record;

enum {
    PA_RAW_FINISHED = 1,  /* the process ended by exit() or _exit() */
    PA_RAW_EXECED = 2,  /* it became another program */
    PA_RAW_FORKED = 4,  /* it began as a copy of `parent` after `inherited` records */
    PA_RAW_TRUNCATED = 8,  /* recording stopped early: `error` says why */
    PA_RAW_DISTURBED = 16, /* the ring is where the kernel put it: mappings may have moved */
    PA_RAW_FOREIGN = 32,  /* malloc is not glibc's; the text MLIB names its file */
    PA_RAW_PASSED_BY = 64 /* the program has a malloc of its own, which may never call ours */
};

typedef struct pa_raw_header {
    char magic[8];
    uint32_t version;
    uint32_t record_size;
    uint32_t pid;
    uint32_t parent_pid;
    uint32_t flags;
    uint32_t error;      /* errno that stopped the recording */
    uint32_t cpus;       /* processors this process may run on */
    uint32_t page_size;
    uint64_t start_ns;   /* CLOCK_MONOTONIC of time 0 */
    uint64_t brk_start;
    uint64_t first;      /* number of the record at the front of the ring */
    uint64_t flushed;    /* records in NAME.raw */
    uint64_t next;       /* records begun */
    uint64_t inherited;  /* records of `parent` that are also this process's past */
    uint64_t own_pages;  /* the recorder's resident pages at the end */
    uint64_t own_anon;   /* those of them that are of no file */
    char parent[64]; /* NAME of the parent's recording */
    char glibc[16];
    uint64_t word;       /* bytes of a pointer; nothing here depends on it */
} pa_raw_header;

typedef struct pa_blob {
    char tag[4];
    uint32_t serial;
    uint64_t row; /* records begun before it */
    uint64_t size;
} pa_blob;

#endif
